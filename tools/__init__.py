"""Programs for the developers of mlx_ncps: `python -m tools.<name>` in the root folder."""
