"""Experiments of the papers, run again with this package: one module for each table.

python -m benchmarks.papers.xor        event-based XOR (Hasani et al. 2022)
python -m benchmarks.papers.cheetah    half-cheetah, next-step prediction (Hasani et al. 2021)
"""
