"""`python -m benchmarks`: fused kernels against MLX operations, ncps.torch, JAX, ordinary RNNs.

docs/benchmarks.md says what is measured and how. Shapes, arrays and tolerances are those of
tests/support/cases.py.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
