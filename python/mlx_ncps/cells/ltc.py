"""The liquid time-constant cell (MATHS 3, Hasani et al. 2021), parameters as in ncps.torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx
import numpy as np

from ..dispatch import FusedCall, LTCFacts
from ..ops import LSTMParams, LTCParams, SynapseLists, ltc_mixed_sequence, shapeless, uniform
from ..ops.checks import LTC_OPTIONS, check_array, check_ltc_options, check_ltc_params
from ..ops.ltc import prepare_ltc
from ..step_plan import LTCStage, Readout, StepPlan
from ..wirings import Wiring
from .backbone import backbone_options
from .base import SignatureOfInit
from .host_masks import HostMasks
from .ltc_arguments import as_wiring, clip_ranges, erev_of, init_ranges, mapping_kind
from .mask_blocks import whole_masks
from .stability import SolverCell

_VECTORS = ("gleak", "vleak", "cm")
_ARRAYS = (  # every array of a cell
    *(f for f in LTCParams._fields if "mask" not in f),
    *("sparsity_mask", "sensory_sparsity_mask", "output_w", "output_b"),
)


class LTCCell(SolverCell):
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
        ode_solver: "semi_implicit", "explicit" or "runge_kutta" (`ops.ltc_sequence`). The latter
            two may diverge; the first call that may warns, with a number of unfolds that is stable
            for any inputs, which `stable_unfolds` gives too.
        initialization_ranges: {"gleak": (low, high), ...} in place of the uniform ranges of ncps,
            for any of gleak, vleak, cm, w, sigma, mu, sensory_w, sensory_sigma, sensory_mu.
        activation, backbone_units, backbone_layers: dense layers ahead of the sensory synapses, as
            in `CfCCell`, which make a `BackboneLTCCell`; none unless units or layers are given.

    Parameters: gleak, vleak, cm [H]; w, sigma, mu, erev [H, H], indexed [source, target];
    sensory_{w,sigma,mu,erev} [I, H]; input_w, input_b [I]; output_w, output_b [O]. `sparsity_mask`
    [H, H] and `sensory_sparsity_mask` [I, H] are saved and never trained.

    Example:
        >>> cell = LTCCell(AutoNCP(28, 4), 20)
        >>> output, state = cell(mx.ones((8, 20)), mx.zeros((8, 28)), 0.5)
        >>> output.shape, state.shape
        ((8, 4), (8, 28))
    """

    op = "ltc"
    input_mapping: str
    output_mapping: str
    output_w: mx.array
    output_b: mx.array
    _init_ranges: Mapping[str, tuple[float, float]]
    fixed_keys = ("sparsity_mask", "sensory_sparsity_mask")
    _checked_options = LTC_OPTIONS | {"input_mapping": mapping_kind, "output_mapping": mapping_kind}
    _fixed_options = frozenset(("input_mapping", "output_mapping"))

    _with_backbone: ClassVar[type]  # what the options of a backbone make; that class sets it
    __signature__ = SignatureOfInit()

    if not TYPE_CHECKING:

        def __new__(cls, *args, backbone_units=None, backbone_layers=None, **options):
            """Options of a backbone make a BackboneLTCCell."""
            layers = isinstance(backbone_layers, (int, np.integer)) and backbone_layers != 0
            if cls is LTCCell and (backbone_units is not None or layers):
                cls = LTCCell._with_backbone
            return super().__new__(cls)

    def __init__(
        self,
        wiring: Wiring | int,
        in_features: int | None = None,
        input_mapping: str | None = "affine",
        output_mapping: str | None = "affine",
        ode_unfolds: int = 6,
        epsilon: float = 1e-8,
        implicit_param_constraints: bool = False,
        ode_solver: str = "semi_implicit",
        *,
        initialization_ranges: Mapping[str, tuple[float, float]] | None = None,
        activation: str = "lecun_tanh",
        backbone_units: int | Sequence[int] | None = None,
        backbone_layers: int | None = None,
    ):
        super().__init__()
        self.input_mapping = input_mapping  # pyright: ignore[reportAttributeAccessIssue]  checked as it is set
        self.output_mapping = output_mapping  # pyright: ignore[reportAttributeAccessIssue]  checked as it is set
        self.ode_unfolds = ode_unfolds
        self.epsilon = epsilon
        self.implicit_param_constraints = implicit_param_constraints
        self.ode_solver = ode_solver
        ranges = init_ranges(initialization_ranges, self.implicit_param_constraints)
        self.__dict__["_init_ranges"] = ranges  # a module takes a dict for its parameters
        self._host_masks = HostMasks(self.op)
        self.backbone_options = backbone_options(
            activation, None, backbone_units, backbone_layers, None, 0, self.op
        )
        self._set_wiring(as_wiring(wiring), in_features)

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

    def __setitem__(self, key: str, value: Any) -> None:
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
    def synapses(self) -> SynapseLists | None:
        """The `ops.SynapseLists` of the masks, None when no element of them is 0."""
        return self._synced_masks().lists

    def _synced_masks(self) -> HostMasks:
        self._sync_wiring()
        for name in self.fixed_keys:
            if name in self:
                self._host_masks.sync(name, self[name])
        return self._host_masks

    def synapse_weights(self, sensory: bool = False) -> mx.array:
        """|w| [H, H], or |sensory_w| [I, H]; with `implicit_param_constraints` after softplus."""
        weight = self["sensory_w" if sensory else "w"]
        return mx.logaddexp(weight, 0) if self.implicit_param_constraints else mx.abs(weight)

    def _likely_polarities(self, matrix: str, shape: tuple) -> np.ndarray:
        """The signs of the reversal potentials."""
        try:
            return np.where(np.array(self[erev_of(matrix)] < 0), -1, 1)
        except ValueError:  # a tracer
            return super()._likely_polarities(matrix, shape)

    def _polarities_set(
        self, matrix: str, values: np.ndarray, where: np.ndarray, only_unset: bool = False
    ) -> None:
        """A new polarity is the reversal potential that the synapse starts from."""
        erev = self[erev_of(matrix)]
        chosen = mx.array(where)
        if only_unset:
            chosen = chosen & (erev == 0)
        self[erev_of(matrix)] = mx.where(chosen, mx.array(values).astype(erev.dtype), erev)

    def params(self) -> LTCParams:
        """The parameters as the op reads them."""
        known = self._sync_wiring()
        fields: dict[str, Any] = {name: self.get(name) for name in LTCParams._fields}
        fields["mask"], fields["sensory_mask"] = (self[name] for name in self.fixed_keys)
        masks = {name: self[name] for name in self.fixed_keys}
        fields["w"] = self._host_masks.guard(masks, self["w"])
        if not known:
            fields["w"] = self._tie.guard(self, fields["w"])
        return LTCParams(**fields)

    def sequence(self, inputs: mx.array, state: mx.array, ts: Any, **anew: Any) -> mx.array:
        """Run over a sequence: inputs [B, T, I], state [B, H], ts None, a number or [B, T] ->
        states [B, T, H].  anew: resets and reset_state of `ops.ltc_sequence`.
        """
        params, options = self.params(), self._options()
        lists = self._host_masks.lists  # which `params` brought up to date
        call = prepare_ltc(inputs, state, ts, params, options, lists, self.training, **anew)
        states = call.run()
        self._stability.check(self, ts)
        return states

    def mixed_sequence(
        self, inputs: mx.array, state: tuple, ts: Any, memory: LSTMParams, **anew: Any
    ) -> tuple[mx.array, mx.array]:
        """`sequence` behind the LSTM of `memory`: state (h, c) -> (h, c), [B, T, H] each."""
        params, keywords = self.params(), self._options()
        keywords |= {"synapses": self._host_masks.lists, "training": self.training} | anew
        states = ltc_mixed_sequence(inputs, state, ts, memory, params, **keywords)
        self._stability.check(self, ts)
        return states

    def _options(self) -> dict:
        """Checked again, as something may have gone round the check of the assignment."""
        return check_ltc_options(**{name: getattr(self, name) for name in LTC_OPTIONS})

    def _step_plan(self, mixed: bool) -> StepPlan | None:
        """As `LiquidCell` has it."""
        return self._own_plan() if type(self) is LTCCell else None

    def _own_plan(self) -> StepPlan | None:
        if not self.built or not self._sync_wiring():
            return None
        options = self.epsilon, self.implicit_param_constraints, self.ode_solver
        sizes = self["wiring"].input_dim, self.state_size
        stages = (LTCStage(*sizes, self.ode_unfolds, *options),)
        arrays = [self[name] for name in _ARRAYS if name in self]
        readout = Readout(0, self.output_size, self.get("output_w"), self.get("output_b"))
        return StepPlan(stages, arrays, readout, lambda: [self._checked_params()])

    def _checked_params(self) -> tuple[LTCParams, SynapseLists | None, float]:
        self._options()
        params = self.params()
        check_ltc_params(params, self["wiring"].input_dim, self.state_size)
        self._check_output_mapping(self.output_size)
        return params, self._host_masks.lists, self._stability.longest_stable(self)

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

    def readout(self, states: mx.array) -> mx.array:
        """Outputs [..., O] of states [..., H]: the motor neurons, mapped, in the dtype of the
        states.
        """
        outputs = self.output_size
        output = shapeless.columns(states, 0, outputs)
        self._check_output_mapping(outputs)
        if "output_w" in self:
            output = output * self.output_w
        if "output_b" in self:
            output = output + self.output_b
        return output.astype(states.dtype)

    def _check_output_mapping(self, outputs: int) -> None:
        for name in ("output_w", "output_b"):
            if name in self:
                check_array(self.op, name, self[name], "[O]", (outputs,))

    def apply_weight_constraints(
        self, ranges: Mapping[str, tuple[float | None, float | None]] | None = None
    ) -> None:
        """Clip w, sensory_w, cm and gleak at 0, or the parameters named in `ranges` into their
        (low, high).

        Does nothing with `implicit_param_constraints`, whose softplus keeps them positive. Raises
        ValueError for a name that is no parameter.
        """
        ranges = clip_ranges(ranges, [name for name in LTCParams._fields if name in self])
        if not self.implicit_param_constraints:
            for name, (low, high) in ranges.items():
                self[name] = mx.clip(self[name], low, high)

    apply_constraints = apply_weight_constraints
