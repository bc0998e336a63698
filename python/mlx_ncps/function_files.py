"""Writing functions of layers to files that MLX imports without this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten

from .checks import flag, is_array, path_to_write, refused
from .dispatch import use_backend

if TYPE_CHECKING:
    import os


def export_function(
    file: str | os.PathLike[str],
    function: Callable[..., Any],
    *args: Any,
    shapeless: bool = False,
    **kwargs: Any,
) -> None:
    """As `mx.export_function`, in MLX's own operations, which any process that has MLX can import.

    Args:
        file: path of the file to write.
        function: of arrays, positional or by keyword; it returns arrays. The layers that it calls
            become constants, as they are now: call their `eval()` before.
        *args: arrays of the shapes to export for.
        **kwargs: the same, by keyword.
        shapeless: as MLX has it; a sequence keeps its number of steps.

    `mx.import_function(file)` gives the function back. The fused kernels are not in the file: it
    computes as the backend "reference" does. For several shapes use `mx.exporter` within
    `use_backend("reference")`.
    Raises ValueError for other arguments, and when the function captures an array that is a strided
    view, which MLX would write wrong.

    Example:
        >>> layer = CfC(3, 4)
        >>> layer.eval()
        CfC(...)
        >>> export_function("cfc.mlxfn", lambda x: layer(x)[0], mx.zeros((2, 5, 3)))
        >>> mx.import_function("cfc.mlxfn")(mx.ones((2, 5, 3)))[0].shape
        (2, 5, 4)
    """
    op = "export_function"
    file, shapeless = path_to_write(op, "file", file), flag(op, "shapeless", shapeless)
    if not callable(function):
        raise refused(op, "function", "a function of arrays", function)
    for name, given in (*enumerate(args), *kwargs.items()):
        leaves = [leaf for _, leaf in tree_flatten(given)]
        if not leaves or not all(map(is_array, leaves)):
            raise refused(op, f"argument {name}", "arrays", given)
    constants = []

    def look(part: dict) -> None:
        if part["type"] == "constants":
            constants.extend(array for _, array in part["constants"])

    with use_backend("reference"):
        mx.export_function(look, function, *args, shapeless=shapeless, **kwargs)
        for array in constants:
            if not _is_plain(array):
                raise ValueError(
                    "[export_function] captured arrays must be row-contiguous, got a strided view "
                    f"of shape {array.shape}: replace it by mx.contiguous(array) first."
                )
        mx.export_function(str(file), function, *args, shapeless=shapeless, **kwargs)


def _is_plain(array: mx.array) -> bool:
    if array.dtype == mx.bfloat16:  # no buffer of it
        array = array.view(mx.uint16)
        mx.eval(array)
    buffer: Any = array
    return memoryview(buffer).c_contiguous
