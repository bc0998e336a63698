"""mlx_ncps: liquid neural networks (LTC, CfC) and neural circuit policies for MLX; the public
names.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import _mlx  # noqa: F401  before all that imports MLX

# isort: split
from . import cells, config, layers, ops, rnn, wirings
from .backends.cpu_settings import (
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
from .pretrained import from_pretrained, save_pretrained
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
from .shown import summary

if TYPE_CHECKING:
    from . import convert, export  # imported when they are used first

# which have classes of their own
config._LATER.append(lambda: import_module("mlx_ncps.convert"))
config._LATER.append(lambda: import_module("mlx_ncps.ports"))

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
    "from_pretrained",
    "get_instruction_set",
    "get_num_threads",
    "instruction_sets",
    "last_backend",
    "layers",
    "ops",
    "register",
    "rnn",
    "save_pretrained",
    "set_instruction_set",
    "set_num_threads",
    "summary",
    "use_backend",
    "wirings",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Submodules that few need, imported when they are used first."""
        if name == "convert":
            return import_module("mlx_ncps.convert")  # which sets the attribute
        if name == "export":
            return import_module("mlx_ncps.export")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return __all__
