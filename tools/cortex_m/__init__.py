"""Exported C headers on a microcontroller's processor, under QEMU."""
