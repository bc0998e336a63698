"""Breaks the kernels one token at a time and counts how many breaks the tests see.

`python -m tools.mutation --help`; docs/mutation.md tells how it works and what came out.
"""
