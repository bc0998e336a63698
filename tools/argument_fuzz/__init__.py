"""Hostile arguments for every public callable of mlx_ncps."""
