"""Models and checkpoints of other frameworks as layers of this package, and back; none of these
frameworks is needed to import it.
"""

from ._export import save_torch, to_torch
from ._keras import from_keras
from ._mlx_port import from_mlx_port
from ._torch import from_torch
from .memory import KerasMemoryCell

__all__ = ["KerasMemoryCell", "from_keras", "from_mlx_port", "from_torch", "save_torch", "to_torch"]


def __dir__() -> list[str]:
    """The public names."""
    return __all__
