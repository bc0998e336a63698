"""Hostile arguments for every public callable of mlx_ncps; `tools/fuzz_arguments.py` runs it."""
