"""Hostile arguments for every public callable of mlx_ncps, for `tools.fuzz_arguments`."""
