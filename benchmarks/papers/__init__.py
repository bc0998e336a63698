"""Experiments of the papers and comparisons of models: one module for each table and picture.

python -m benchmarks.papers.xor          event-based XOR (Hasani et al. 2022)
python -m benchmarks.papers.original     that paper's own code beside ours
python -m benchmarks.papers.cheetah      half-cheetah, next-step prediction (Hasani et al. 2021)
python -m benchmarks.papers.digits       handwritten digits, pixels dropped
python -m benchmarks.papers.vowels       Japanese vowels, frames dropped
python -m benchmarks.papers.robustness   noise, dropped frames, neurons and synapses
python -m benchmarks.papers.page         tables and pictures of all in docs/experiments.md
"""
