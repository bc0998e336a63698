"""The liquid time-constant cell (MATHS 3, Hasani et al. 2021), parameters as in ncps.torch;
`rnn.LTC` runs it over sequences.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from ..checks import brief, choice, real, refused
from ..dispatch import FusedCall, LTCFacts
from ..ops import LTCParams, ltc_mixed_sequence, ltc_sequence, shapeless, uniform
from ..ops.checks import LTC_OPTIONS, check_array, check_ltc_options
from ..ops.stepping import Readout, pack_ltc
from ..wirings import FullyConnected, Wiring
from .base import NCPRNNCell
from .cfc import backbone_options
from .host_masks import HostMasks
from .mask_blocks import whole_masks
from .stability import StabilityWarning

_INIT_RANGES = {
    "gleak": (0.001, 1.0),
    "vleak": (-0.2, 0.2),
    "cm": (0.4, 0.6),
    "w": (0.001, 1.0),
    "sigma": (3.0, 8.0),
    "mu": (0.3, 0.8),
    "sensory_w": (0.001, 1.0),
    "sensory_sigma": (3.0, 8.0),
    "sensory_mu": (0.3, 0.8),
}
_VECTORS = ("gleak", "vleak", "cm")
_MAPPINGS = ("affine", "linear", "identity")
_ARRAYS = (  # every array of a cell
    *(f for f in LTCParams._fields if "mask" not in f),
    *("sparsity_mask", "sensory_sparsity_mask", "output_w", "output_b"),
)
_POSITIVE = ("w", "sensory_w", "cm", "gleak")


def _mapping(op: str, name: str, mapping) -> str:
    wanted = f"one of {', '.join(_MAPPINGS)} or None"
    return choice(op, name, "identity" if mapping is None else mapping, _MAPPINGS, wanted)


class LTCCell(NCPRNNCell):
    """Liquid time-constant cell: `cell(inputs [B, I], state [B, H], ts=1.0) -> (output, state)`.

    The output is [B, O], the new state [B, H].

    Args:
        wiring: a `Wiring`, of which the cell keeps its own copy, or a number of fully connected
            neurons.
        in_features: number of inputs I. None: that of the wiring, or of the first call.
        input_mapping: "affine" (x input_w + input_b), "linear" (x input_w), None or "identity".
        output_mapping: the same for the outputs, the first O = `output_dim` neurons.
        ode_unfolds: solver steps per time step.
        epsilon: added to the sum of conductances.
        implicit_param_constraints: w, sensory_w, cm and gleak pass through softplus; if False, call
            `apply_weight_constraints()` after each step of the optimiser to keep them positive.
        ode_solver: "semi_implicit" (fused), "explicit" or "runge_kutta" (`ops.ltc_sequence`).
            These two may diverge; the first call that may warns, with a number of unfolds that is
            stable for any inputs.
        initialization_ranges: {"gleak": (low, high), ...} in place of the uniform ranges of ncps,
            for any of gleak, vleak, cm, w, sigma, mu, sensory_w, sensory_sigma, sensory_mu.
        activation, backbone_units, backbone_layers: dense layers ahead of the sensory synapses, as
            in `CfCCell`, which make a `BackboneLTCCell`; none unless units or layers are given.

    Parameters: gleak, vleak, cm [H]; w, sigma, mu, erev [H, H], indexed [source, target];
    sensory_{w,sigma,mu,erev} [I, H]; input_w, input_b [I]; output_w, output_b [O]. `sparsity_mask`
    [H, H] and `sensory_sparsity_mask` [I, H] are saved and never trained.
    """

    op = "ltc"
    fixed_keys = ("sparsity_mask", "sensory_sparsity_mask")
    checked_options = LTC_OPTIONS | {"input_mapping": _mapping, "output_mapping": _mapping}
    fixed_options = frozenset(("input_mapping", "output_mapping"))

    def __new__(cls, *args, backbone_units=None, backbone_layers=None, **options):
        """Options of a backbone make a BackboneLTCCell."""
        layers = isinstance(backbone_layers, (int, np.integer)) and backbone_layers != 0
        if cls is LTCCell and (backbone_units is not None or layers):
            from .ltc_backbone import BackboneLTCCell

            cls = BackboneLTCCell
        return super().__new__(cls)

    def __init__(
        self,
        wiring,
        in_features=None,
        input_mapping="affine",
        output_mapping="affine",
        ode_unfolds=6,
        epsilon=1e-8,
        implicit_param_constraints=False,
        ode_solver="semi_implicit",
        *,
        initialization_ranges=None,
        activation="lecun_tanh",
        backbone_units=None,
        backbone_layers=None,
    ):
        super().__init__()
        self.input_mapping = input_mapping
        self.output_mapping = output_mapping
        self.ode_unfolds = ode_unfolds
        self.epsilon = epsilon
        self.implicit_param_constraints = implicit_param_constraints
        self.ode_solver = ode_solver
        ranges = _ranges(initialization_ranges, self.implicit_param_constraints)
        self.__dict__["_init_ranges"] = ranges  # a module takes a dict for its parameters
        self._host_masks = HostMasks(self.op)
        self._stability = StabilityWarning()
        self.backbone_options = backbone_options(
            activation, None, backbone_units, backbone_layers, None, 0, self.op
        )
        self._set_wiring(_as_wiring(wiring), in_features)

    def _create(self, width: int) -> None:
        wiring = self["wiring"]
        wiring.build(width)
        hidden = self.state_size
        for name, (low, high) in self._init_ranges.items():
            rows = () if name in _VECTORS else (width,) if "sensory" in name else (hidden,)
            self[name] = uniform(low, high, (*rows, hidden))
        adjacency, sensory = wiring.adjacency, wiring.sensory_adjacency
        self.erev = mx.array(adjacency.astype(np.float32))
        self.sensory_erev = mx.array(sensory.astype(np.float32))
        self.sparsity_mask = mx.array(np.abs(adjacency).astype(np.float32))
        self.sensory_sparsity_mask = mx.array(np.abs(sensory).astype(np.float32))
        self._create_mapping("input", self.input_mapping, width)
        self._create_mapping("output", self.output_mapping, self.output_size)
        self._tie_wiring(whole_masks(width, hidden))

    def _create_mapping(self, side: str, mapping: str, size: int) -> None:
        if mapping != "identity":
            self[f"{side}_w"] = mx.ones((size,))
        if mapping == "affine":
            self[f"{side}_b"] = mx.zeros((size,))

    def __setitem__(self, key, value):
        """Every way to set an array ends here; a new mask is read at once, so the synapse lists are
        never stale.
        """
        if self._stays(key):
            return
        if key in self.fixed_keys and "_host_masks" in self.__dict__:  # unpickling sets it last
            rows = self.state_size if key == "sparsity_mask" else self["wiring"].input_dim
            self._host_masks.set(key, value, (rows, self.state_size))
        super().__setitem__(key, value)

    @property
    def layer_sizes(self) -> list[int]:
        """Neurons of each layer of the wiring."""
        layers = range(self["wiring"].num_layers)
        return [len(self["wiring"].get_neurons_of_layer(n)) for n in layers]

    @property
    def synapse_count(self) -> int:
        """Synapses between neurons: the elements of `sparsity_mask` that are not 0."""
        return self._synced_masks().count("sparsity_mask")

    @property
    def sensory_synapse_count(self) -> int:
        """Synapses from inputs to neurons: those in `sensory_sparsity_mask`."""
        return self._synced_masks().count("sensory_sparsity_mask")

    @property
    def synapses(self):
        """The `ops.SynapseLists` of the masks, None when no element of them is 0."""
        return self._synced_masks().lists

    def _synced_masks(self) -> HostMasks:
        self.sync_wiring()
        for name in self.fixed_keys:
            if name in self:
                self._host_masks.sync(name, self[name])
        return self._host_masks

    def synapse_weights(self, sensory: bool = False) -> mx.array:
        """|w| [H, H], or |sensory_w| [I, H]; with `implicit_param_constraints` after softplus."""
        weight = self["sensory_w" if sensory else "w"]
        return mx.logaddexp(weight, 0) if self.implicit_param_constraints else mx.abs(weight)

    def likely_polarities(self, matrix: str, shape: tuple):
        """The signs of the reversal potentials."""
        try:
            return np.where(np.array(self[_erev(matrix)] < 0), -1, 1)
        except ValueError:  # a tracer
            return super().likely_polarities(matrix, shape)

    def polarities_set(self, matrix: str, values, where, only_unset: bool = False) -> None:
        """A new polarity is the reversal potential that the synapse starts from."""
        erev = self[_erev(matrix)]
        where = mx.array(where)
        if only_unset:
            where = where & (erev == 0)
        self[_erev(matrix)] = mx.where(where, mx.array(values).astype(erev.dtype), erev)

    def params(self) -> LTCParams:
        """The parameters as the op reads them."""
        known = self.sync_wiring()
        fields = {name: self.get(name) for name in LTCParams._fields}
        fields["mask"], fields["sensory_mask"] = (self[name] for name in self.fixed_keys)
        for name, mask in (("w", "sparsity_mask"), ("sensory_w", "sensory_sparsity_mask")):
            fields[name] = self._host_masks.guard(mask, self[mask], self[name])
        if not known:
            fields["w"] = self._tie.guard(self, fields["w"])
        return LTCParams(**fields)

    def sequence(self, inputs, state, ts):
        """Run over a sequence: inputs [B, T, I], state [B, H], ts None, a number or [B, T] ->
        states [B, T, H].
        """
        params = self.params()
        states = ltc_sequence(inputs, state, ts, params, **self._keywords())  # checks ts
        self._stability.check(self, params, ts)
        return states

    def mixed_sequence(self, inputs, state, ts, memory):
        """`sequence` behind the LSTM of `memory`: state (h, c) -> (h, c), [B, T, H] each."""
        params = self.params()
        states = ltc_mixed_sequence(inputs, state, ts, memory, params, **self._keywords())
        self._stability.check(self, params, ts)
        return states

    def _keywords(self) -> dict:
        return self._options() | {"synapses": self.synapses, "training": self.training}

    def _options(self) -> dict:
        return {name: getattr(self, name) for name in LTC_OPTIONS}

    def steps_at_once(self, mixed: bool) -> bool:
        """As `LiquidCell` has it."""
        plain = type(self) is LTCCell and self.built and self.ode_solver == "semi_implicit"
        return plain and self.sync_wiring()

    def step_arrays(self) -> list:
        """Every array that a step depends on."""
        return [self[name] for name in _ARRAYS if name in self]

    def step_options(self) -> tuple:
        """Every option that a step depends on."""
        return (self.ode_unfolds, self.epsilon, self.implicit_param_constraints)

    def pack_step(self, memory, arrays):
        """As `LiquidCell` has it."""
        self._check_output_mapping()
        options = check_ltc_options(**self._options())
        del options["ode_solver"]  # semi_implicit: `steps_at_once`
        readout = Readout(0, self.output_size, self.get("output_w"), self.get("output_b"))
        return pack_ltc(
            self.params(),
            self.wiring.input_dim,
            self.state_size,
            memory,
            arrays,
            readout,
            **options,
            synapses=self.synapses,
        )

    def calls(self) -> list[FusedCall]:
        """The one fused call of `sequence`, with the facts of this cell."""
        facts = LTCFacts(
            inputs=self["wiring"].input_dim,
            units=self.state_size,
            ode_unfolds=self.ode_unfolds,
            ode_solver=self.ode_solver,
            synapses=self.synapses,
            training=self.training,
        )
        return [("ltc_sequence", facts)]

    def readout(self, states):
        """Outputs [..., O] of states [..., H]: the motor neurons, mapped, in the dtype of the
        states.
        """
        output = shapeless.columns(states, 0, self.output_size)
        self._check_output_mapping()
        if "output_w" in self:
            output = output * self.output_w
        if "output_b" in self:
            output = output + self.output_b
        return output.astype(states.dtype)

    def _check_output_mapping(self) -> None:
        for name in ("output_w", "output_b"):
            if name in self:
                check_array(self.op, name, self[name], "[O]", (self.output_size,))

    def apply_weight_constraints(self, ranges=None) -> None:
        """Clip w, sensory_w, cm and gleak at 0, or the parameters named in `ranges` into their
        (low, high).

        Does nothing with `implicit_param_constraints`, whose softplus keeps them positive. Raises
        ValueError for a name that is no parameter.
        """
        ranges = dict.fromkeys(_POSITIVE, (0.0, None)) if ranges is None else ranges
        if not isinstance(ranges, Mapping):
            raise refused(self.op, "ranges", "a dict of names and (low, high)", ranges)
        for name, pair in ranges.items():
            if not isinstance(name, str) or name not in LTCParams._fields or name not in self:
                raise ValueError(
                    f"[ltc] ranges must name parameters of the cell such as 'w', got {brief(name)}."
                )
            _checked_range(f"ranges[{name!r}]", pair, (None,))
        if self.implicit_param_constraints:
            return
        for name, (low, high) in ranges.items():
            self[name] = mx.clip(self[name], low, high)

    apply_constraints = apply_weight_constraints


def _erev(matrix: str) -> str:
    """The reversal potentials that belong to a matrix of the wiring."""
    return matrix.replace("adjacency_matrix", "erev")


def _checked_range(name: str, pair, open_ends=()) -> None:
    """`pair` is (low, high), finite numbers, or None where `open_ends` has it."""
    fits = isinstance(pair, (tuple, list)) and len(pair) == 2
    try:
        ends = [
            real("ltc", name, end, "(low, high)")
            for end in (pair if fits else ())
            if end is not None or None not in open_ends
        ]
    except ValueError:
        fits = False
    if not fits or not ends or ends != sorted(ends):
        raise refused("ltc", name, "(low, high)", pair)


def _ranges(given, implicit: bool) -> dict[str, tuple[float, float]]:
    """The ranges of the first values, ncps' own but for those `given`."""
    if given is not None and not isinstance(given, Mapping):
        raise refused("ltc", "initialization_ranges", "a dict of names and (low, high)", given)
    given = dict(given or {})
    for name, pair in given.items():
        if not isinstance(name, str) or name not in _INIT_RANGES:
            wanted = ", ".join(_INIT_RANGES)
            raise ValueError(f"[ltc] initialization_ranges must name {wanted}, got {name!r}.")
        _checked_range(f"initialization_ranges[{name!r}]", pair)
        if name in _POSITIVE and pair[0] < 0 and not implicit:
            raise ValueError(
                f"[ltc] initialization_ranges[{name!r}] must be >= 0 unless "
                f"implicit_param_constraints are on, got {pair!r}."
            )
    return _INIT_RANGES | given


def _as_wiring(wiring) -> Wiring:
    """`wiring`, or a number of fully connected neurons."""
    if isinstance(wiring, Wiring):
        return wiring
    if not isinstance(wiring, (int, np.integer)) or isinstance(wiring, bool) or wiring < 1:
        raise refused("ltc", "wiring", "a Wiring or an integer >= 1", wiring)
    return FullyConnected(int(wiring))
