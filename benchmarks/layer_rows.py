"""The layers and features that `features` and `streaming` measure, alone and in every pair."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_ncps import (
    LTC,
    LTCRNN,
    CfC,
    CfCRNN,
    CTGRUCell,
    CTRNNCell,
    ELTCCell,
    LiquidRNN,
    LSTMCell,
    LTCCell,
    NeuralODECell,
    ODELSTMCell,
    ODERNNCell,
)
from mlx_ncps.wirings import AutoNCP, FullyConnected

I, H, K, O = 16, 64, 64, 8
FEATURES = I // 2  # of a mask over features: the layer reads them and the mask
SEED = 7


class OwnCell(nn.Module):
    """A cell as a user writes it."""

    state_size = output_size = H

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(I + H, H)

    def __call__(self, inputs, state, ts):
        """(output, new state), both [B, H]."""
        pull = mx.tanh(self.map(mx.concatenate([inputs, state], axis=-1)))
        state = state + (1 - mx.exp(-ts * mx.ones((1,), inputs.dtype))) * (pull - state)
        return state, state


@dataclass(frozen=True)
class Kind:
    """A cell in a layer.

    plain: the layer of the same sizes whose time is the measure.  limit: the most that a row may
    take of its time.
    """

    name: str
    make: Callable[..., Any]  # (**options of the layer)
    plain: Callable[..., Any]
    limit: float = 3.0
    training: bool = False  # measured in training, where it has dropout
    stacked: Callable[..., Any] | None = None


def _cfc(**fixed):
    return lambda **options: CfC(I, H, **{"backbone_units": K} | fixed | options)


def _cfc_stack(**options):
    return CfCRNN(I, H, 2, backbone_units=K, **options)


def _ltc(**fixed):
    return lambda **options: LTC(I, H, **fixed, **options)


def _ltc_cell(**options):
    return LTC(LTCCell(FullyConnected(H), I, backbone_units=I), **options)


def _liquid(cell):
    return lambda **options: LiquidRNN(cell(), **options)


_TWO = {"backbone_layers": 2}
_DROP = _TWO | {"backbone_dropout": 0.1}
_NO_BACKBONE = {"backbone_units": None, "backbone_layers": 0}
# Few conductances, so that an explicit solver is stable with the 6 unfolds of the others.
_STABLE = {
    "implicit_param_constraints": False,
    "initialization_ranges": {"w": (0.001, 0.01), "sensory_w": (0.001, 0.01)},
}
_LITERATURE = {
    "CT-RNN": lambda: CTRNNCell(I, H),
    "CT-GRU": lambda: CTGRUCell(I, H),
    "neural ODE": lambda: NeuralODECell(I, H),
    "ODE-LSTM": lambda: ODELSTMCell(I, H),
    "ODE-RNN": lambda: ODERNNCell(I, H),
    "ELTC": lambda: ELTCCell(AutoNCP(H, O), I),
    "LSTM": lambda: LSTMCell(I, H),
    "own cell": OwnCell,
}
KINDS = (
    Kind("CfC", _cfc(), _cfc(), stacked=_cfc_stack),
    Kind("CfC dropout torch", _cfc(**_DROP), _cfc(**_TWO), training=True),
    Kind(
        "CfC dropout keras",
        _cfc(**_DROP, variant="keras"),
        _cfc(**_TWO, variant="keras"),
        training=True,
    ),
    Kind("CfC no_gate", _cfc(mode="no_gate"), _cfc()),
    Kind("CfC pure", _cfc(mode="pure"), _cfc()),
    Kind("CfC wired", lambda **o: CfC(I, AutoNCP(H, O), **o), _cfc(**_NO_BACKBONE)),
    Kind(
        "CfC wired dropout",
        lambda **o: CfC(I, AutoNCP(H, O), **{"backbone_units": K} | _DROP | o),
        _cfc(**_TWO),
        training=True,
    ),
    Kind("LTC", _ltc(), _ltc(), stacked=lambda **o: LTCRNN(I, H, 2, **o)),
    Kind("LTC wired", lambda **o: LTC(I, AutoNCP(H, O), **o), _ltc()),
    Kind("LTC explicit", _ltc(ode_solver="explicit", **_STABLE), _ltc()),
    Kind("LTC Runge-Kutta", _ltc(ode_solver="runge_kutta", **_STABLE), _ltc()),
    Kind("LTC backbone", _ltc_cell, _ltc()),
    *(Kind(name, _liquid(cell), _cfc(), limit=5.0) for name, cell in _LITERATURE.items()),
)


@dataclass(frozen=True)
class Feature:
    """What is asked of a layer beside its cell.

    arguments: (B, T, random generator) -> those of a call.  only: makes sense for a sequence.
    """

    name: str
    options: dict = field(default_factory=dict)
    arguments: Callable[..., dict] = lambda B, T, rng: {}
    dtype: str = "float32"
    width: int = I
    stacked: bool = False


def _spans(B, T, rng):
    return {"timespans": mx.array(rng.uniform(0.1, 1.0, (B, T)).astype(np.float32))}


def _mask(B, T, rng):
    lengths = rng.integers(T // 2, T + 1, (B, 1))
    return {"mask": mx.array(np.arange(T) < lengths)}


def _feature_mask(B, T, rng):
    return {"mask": mx.array(rng.random((B, T, FEATURES)) < 0.7)}


def _resets(B, T, rng):
    return {"resets": mx.array(rng.random((B, T)) < 0.05)}


_ALL = (
    Feature("timespans", arguments=_spans),
    Feature("mask", arguments=_mask),
    Feature("feature mask", arguments=_feature_mask, width=FEATURES),
    Feature("resets", arguments=_resets),
    Feature("mixed memory", {"mixed_memory": True}),
    Feature("bidirectional", {"bidirectional": True}),
    Feature("go backwards", {"go_backwards": True}),
    Feature("stateful", {"stateful": True}),
    Feature("last output", {"return_sequences": False}),
    Feature("projection", {"proj_size": O}),
    Feature("float16", dtype="float16"),
    Feature("stacked", stacked=True),
)
_KNOWN = inspect.signature(CfC.__call__).parameters
FEATURES_OF_LAYERS = tuple(f for f in _ALL if f.name != "resets" or "resets" in _KNOWN)
WIDE = ("CfC", "LTC")  # whose features are also measured in pairs


@dataclass(frozen=True)
class LayerCase:
    """A cell with features, and sizes: B sequences of T steps."""

    kind: Kind
    features: tuple[Feature, ...] = ()
    batch: int = 32
    steps: int = 64

    @property
    def name(self) -> str:
        """Like "CfC + mask + stateful"."""
        return " + ".join([self.kind.name, *(feature.name for feature in self.features)])

    @property
    def dtype(self) -> str:
        """Of inputs and weights."""
        return next((f.dtype for f in self.features if f.dtype != "float32"), "float32")

    @property
    def reads_masks_twice(self) -> bool:
        """Both features are masks, which a call has one of."""
        return sum("mask" in f.name.split() for f in self.features) > 1

    def make(self, plain: bool = False, **more) -> Any:
        """The layer with `more` options, always with the same weights; plain: the one that it is
        measured by.
        """
        mx.random.seed(SEED)
        options: dict = {"return_sequences": True, "return_state": False, **more}
        make = self.kind.plain if plain else self.kind.make
        for feature in () if plain else self.features:
            options |= feature.options
            if feature.stacked:
                make = self.kind.stacked
        layer = make(**options).train(self.kind.training)
        if not layer.get("layers"):  # a stack knows its sizes
            layer.build((self.batch, self.steps, I))
        # Pulled back to 0: without a leak a sequence of 64 steps would multiply every rounding by
        # hundreds, and there would be nothing to compare.
        for cell in layer.modules():
            if isinstance(cell, NeuralODECell):
                cell.recurrent_map.weight = 0.2 * cell.recurrent_map.weight - 0.5 * mx.eye(H)
            elif isinstance(cell, ODERNNCell):
                cell.field[-1].weight = 0.5 * cell.field[-1].weight
        if not plain:
            layer.set_dtype(getattr(mx, self.dtype))
        mx.eval(layer.parameters())
        return layer

    def call(self, plain: bool = False) -> tuple[mx.array, dict]:
        """(inputs [B, T, I], arguments) of a call."""
        rng = np.random.default_rng(SEED)
        features = () if plain else self.features
        width = min((f.width for f in features), default=I)
        dtype = "float32" if plain else self.dtype
        inputs = rng.standard_normal((self.batch, self.steps, width))
        arguments: dict = {}
        for feature in features:
            arguments |= feature.arguments(self.batch, self.steps, rng)
        x = mx.array(inputs.astype(np.float32)).astype(getattr(mx, dtype))
        mx.eval(x, arguments)
        return x, arguments

    def run(self, plain: bool = False) -> tuple[Any, mx.array, dict]:
        """(layer, inputs, arguments)."""
        return self.make(plain), *self.call(plain)


def cases(batch: int | None = None, steps: int | None = None) -> list[LayerCase]:
    """Every cell, every cell with a feature, and every two features of the `WIDE` cells."""
    found = []
    for kind in KINDS:
        sizes = {"batch": 16, "steps": 32} if "LTC" in kind.name else {}
        sizes |= {k: v for k, v in (("batch", batch), ("steps", steps)) if v}
        allowed = [f for f in FEATURES_OF_LAYERS if kind.stacked or not f.stacked]
        pairs = combinations(allowed, 2) if kind.name in WIDE else ()
        for features in ((), *((f,) for f in allowed), *pairs):
            case = LayerCase(kind, tuple(features), **sizes)
            if not case.reads_masks_twice:
                found.append(case)
    return found
