"""Models and checkpoints of other frameworks as layers of this package, and back; none of these
frameworks is needed to import it.
"""

from ._export import save_torch, to_torch
from ._torch import from_torch

__all__ = ["from_torch", "save_torch", "to_torch"]
