"""The two synapse matrices as a frozen MLX module, each with a NumPy copy; base of Wiring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..checks import host_numbers, is_array, refused
from ..fixed import FixedArrays, FrozenKeys
from ..weights import WeightFiles

MATRICES = ("adjacency_matrix", "sensory_adjacency_matrix")

MatrixLike = mx.array | np.ndarray | Sequence[Sequence[int]]


class SynapseMatrices(FixedArrays, WeightFiles, nn.Module):
    """Holds ``adjacency_matrix`` and ``sensory_adjacency_matrix``; a subclass sets ``units``.

    Each is kept twice: as the ``mx.array`` that MLX saves and loads, and as a NumPy copy that can
    be read where an ``mx.array`` has no values: inside ``mx.compile``.
    """

    units: int
    input_dim: int | None

    def __init__(self) -> None:
        super().__init__()
        self._no_grad = FrozenKeys(MATRICES)
        self.input_dim = None

    @property
    def adjacency_matrix(self) -> mx.array:
        """Synapses between neurons, ``mx.array`` int32 ``[H, H]``; takes NumPy arrays and lists."""
        return self["adjacency_matrix"]

    @adjacency_matrix.setter
    def adjacency_matrix(self, matrix: MatrixLike) -> None:
        self._edit("adjacency_matrix", matrix)

    @property
    def sensory_adjacency_matrix(self) -> mx.array | None:
        """Synapses from the inputs, ``mx.array`` int32 ``[I, H]``; None before ``build``."""
        return self.get("sensory_adjacency_matrix")

    @sensory_adjacency_matrix.setter
    def sensory_adjacency_matrix(self, matrix: MatrixLike) -> None:
        self._edit("sensory_adjacency_matrix", matrix)

    @property
    def adjacency(self) -> np.ndarray:
        """``adjacency_matrix`` as a read-only NumPy int32 array ``[H, H]``."""
        return self._known("adjacency_matrix")

    @property
    def sensory_adjacency(self) -> np.ndarray | None:
        """``sensory_adjacency_matrix`` as a read-only NumPy int32 array ``[I, H]``, or None."""
        return self._host("sensory_adjacency_matrix")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in MATRICES:
            object.__setattr__(self, name, value)  # the property's setter; MLX's would pass it by
        else:
            super().__setattr__(name, value)

    def _edit(self, name: str, matrix: MatrixLike) -> None:
        self[name] = matrix
        self._tell_owner(edited=True)

    def __setitem__(self, name: str, value: Any) -> None:
        # load_weights() and update() of a model write here: the place to keep the two copies equal
        if self._stays(name):
            return
        if name in MATRICES:
            host = self._remember(name, value)
            self.__dict__.pop("_before_layer", None)
            traced = host is None
            value = value.astype(mx.int32) if traced else mx.array(np.ascontiguousarray(host))
        super().__setitem__(name, value)

    def _host(self, name: str) -> np.ndarray | None:
        return self._known(name) if name in self else None

    def _known(self, name: str) -> np.ndarray:
        """A matrix that there is, in NumPy, as the owner's masks have it now."""
        self._tell_owner()
        return self._read(name)

    def _tell_owner(self, edited: bool = False) -> None:
        """Lets the cell whose wiring this is carry edits from its masks to here, and back."""
        owner = self.__dict__.get("_owner")
        if owner is not None:
            owner.sync(edited)

    def _read(self, name: str) -> np.ndarray:
        """A matrix in NumPy as it is now: it may have been edited in place."""
        self._remember(name, self[name])
        return self.__dict__["_host_" + name]

    def _follow(self, name: str, host: np.ndarray) -> None:
        """Takes over synapses that the cell's masks have."""
        known = self._remember(name, host)
        super().__setitem__(name, mx.array(np.ascontiguousarray(known)))

    def _forget_inputs(self) -> None:
        self.input_dim = None
        self.pop("sensory_adjacency_matrix", None)
        self.__dict__.pop("_host_sensory_adjacency_matrix", None)

    def _remember(self, name: str, value: Any) -> np.ndarray | None:
        """Checks a value, keeps its NumPy copy and returns that; None for a tracer (no values)."""
        host = self._checked(name, value)
        known = self.__dict__.get("_host_" + name)
        if host is None:
            return None
        if known is not None and np.array_equal(host, known):
            return known
        host = host.astype(np.int32)
        host.setflags(write=False)
        self.__dict__["_host_" + name] = host
        if name == "sensory_adjacency_matrix":
            self.input_dim = host.shape[0]
        return host

    def _checked(self, name: str, value: Any) -> np.ndarray | None:
        """The values in NumPy, shape and polarities checked; None for a tracer."""
        host = _values(self._op, name, value)
        if (
            host is not None and host.dtype.kind == "f"
        ):  # an average of equal matrices is off by ulps
            host = np.where(np.abs(host - np.rint(host)) <= 1e-3, np.rint(host), host)
        shape = np.shape(value) if host is None else host.shape
        rows = self.units if name == "adjacency_matrix" else self.input_dim
        if (
            len(shape) != 2
            or shape[1] != self.units
            or shape[0] != (rows or shape[0])
            or not shape[0]
        ):
            axes = "[units, units]" if name == "adjacency_matrix" else "[input_dim, units]"
            wanted = f"({rows or 'any'}, {self.units})"
            raise ValueError(f"[{self._op}] {name} must be {axes} = {wanted}, got {shape}.")
        if host is not None and (wrong := host[(host != 0) & (np.abs(host) != 1)]).size:
            raise ValueError(
                f"[{self._op}] {name} must hold -1, 0 and +1 alone, got {wrong[0]}. (A tree_map "
                "over parameters() maps frozen ones too: take trainable_parameters().)"
            )
        return host

    def __reduce__(self) -> tuple:
        return _restored, (type(self), dict(self.__dict__), dict(self))

    @property
    def _op(self) -> str:
        return type(self).__name__


def _restored(cls: type[SynapseMatrices], attributes: dict, items: dict) -> SynapseMatrices:
    wiring = cls.__new__(cls)
    wiring.__dict__.update(attributes)
    dict.update(wiring, items)
    return wiring


def _values(op: str, name: str, matrix: Any) -> np.ndarray | None:
    """NumPy values of a matrix, or None for a tracer of mx.compile or mx.vmap, which has none."""
    if not isinstance(matrix, mx.array):
        return host_numbers(op, name, matrix)
    if not is_array(matrix):
        raise refused(op, name, "an array of -1, 0, +1", matrix)
    if mx.issubdtype(matrix.dtype, mx.floating):
        matrix = matrix.astype(mx.float32)  # NumPy has no bfloat16
    try:
        return np.array(matrix)
    except ValueError as error:
        if not str(error).startswith("[eval]"):
            raise
        return None
