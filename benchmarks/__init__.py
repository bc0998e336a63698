"""`python -m benchmarks`: fused kernels against MLX operations, ncps.torch, JAX, ordinary RNNs.

docs/benchmarks.md says what is measured and how. Shapes, arrays and tolerances are those of
tests/cases.py, which is put on the path here.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = str(ROOT / "tests")

if TESTS not in sys.path:
    sys.path.append(TESTS)
