"""Trained layers as files for other runtimes: C99, MLX without this package, ONNX, Core ML."""

from ..function_files import export_function
from .c_file import to_c
from .coreml_file import to_coreml
from .mlx_file import export_sequence, export_step
from .onnx_file import to_onnx

__all__ = ["export_function", "export_sequence", "export_step", "to_c", "to_coreml", "to_onnx"]


def __dir__() -> list[str]:
    """The public names."""
    return __all__
