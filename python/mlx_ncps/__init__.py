"""mlx_ncps: liquid neural networks (LTC, CfC) and neural circuit policies for MLX; the public
names.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import _mlx  # noqa: F401  before all that imports MLX

# isort: split
from . import cells, config, layers, ops, rnn, wirings
from .backends.cpu import (
    get_instruction_set,
    get_num_threads,
    instruction_sets,
    set_instruction_set,
    set_num_threads,
)
from .cells import (
    CfCCell,
    CTGRUCell,
    CTRNNCell,
    ELTCCell,
    LiquidCell,
    LSTMCell,
    LTCCell,
    NCPRNNCell,
    NeuralODECell,
    ODELSTMCell,
    ODERNNCell,
    WiredCfCCell,
)
from .config import register
from .dispatch import available_backends, describe, last_backend, use_backend
from .function_files import export_function
from .layers import NCPDense, NCPLayer
from .rnn import (
    LTC,
    LTCRNN,
    MMRNN,
    CfC,
    CfCRNN,
    LiquidRNN,
    StreamingSession,
    carry_forward,
    checkpoint,
    chunked_value_and_grad,
)

if TYPE_CHECKING:
    from . import convert, export  # imported when they are used first

config._LATER.append(lambda: import_module("mlx_ncps.convert"))  # which has a cell of its own

__version__ = "0.1.0"

__all__ = [
    "LTC",
    "LTCRNN",
    "MMRNN",
    "CTGRUCell",
    "CTRNNCell",
    "CfC",
    "CfCCell",
    "CfCRNN",
    "ELTCCell",
    "LSTMCell",
    "LTCCell",
    "LiquidCell",
    "LiquidRNN",
    "NCPDense",
    "NCPLayer",
    "NCPRNNCell",
    "NeuralODECell",
    "ODELSTMCell",
    "ODERNNCell",
    "StreamingSession",
    "WiredCfCCell",
    "__version__",
    "available_backends",
    "carry_forward",
    "cells",
    "checkpoint",
    "chunked_value_and_grad",
    "config",
    "convert",
    "describe",
    "export",
    "export_function",
    "get_instruction_set",
    "get_num_threads",
    "instruction_sets",
    "last_backend",
    "layers",
    "ops",
    "register",
    "rnn",
    "set_instruction_set",
    "set_num_threads",
    "use_backend",
    "wirings",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Submodules that few need, imported when they are used first."""
        if name in ("convert", "export"):
            return import_module(f"mlx_ncps.{name}")  # which sets the attribute
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return __all__
