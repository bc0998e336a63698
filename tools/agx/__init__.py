"""Machine code of Apple's GPUs, on Linux: Mesa's compiler for an M1's and an M2's GPU judges every
kernel variant that the launch plans choose. `tools/agx/run`; docs/agx.md tells what it shows.
"""
