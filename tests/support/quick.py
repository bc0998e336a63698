"""Whether this run trains networks in seconds: not in MLX operations, nor in the simulator."""

import sys

from mlx_ncps import _loader

QUICK = _loader.native is not None and "tests.support.as_mac" not in sys.modules
