"""Kernels that the simulator's own tests run, whole and with bugs planted in them."""
