"""mlx_ncps: liquid neural networks (LTC, CfC) and neural circuit policies for MLX; the public
names.
"""

from . import ops
from .backends.cpu import (
    get_instruction_set,
    get_num_threads,
    instruction_sets,
    set_instruction_set,
    set_num_threads,
)
from .dispatch import available_backends, describe, last_backend, use_backend

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "available_backends",
    "describe",
    "get_instruction_set",
    "get_num_threads",
    "instruction_sets",
    "last_backend",
    "ops",
    "set_instruction_set",
    "set_num_threads",
    "use_backend",
]
