"""Models and checkpoints of ncps.torch as layers of this package; PyTorch is imported for a `.pt`
file alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from .cells import LTCCell, WiredCfCCell
from .rnn import LTC, CfC
from .wirings import NCP, AutoNCP, FullyConnected, Random, Wiring

_BACKBONE = re.compile(r"(.*\bbackbone\.)(\d+)(\..+)")
_ACTIVATIONS = {
    "LeCun": "lecun_tanh",
    "SiLU": "silu",
    "ReLU": "relu",
    "Tanh": "tanh",
    "GELU": "gelu",
}


def from_torch(source, layer=None, *, wiring=None, prefix="", **options):
    """The `CfC` or `LTC` that equals a layer of ncps.torch.

    Args:
        source: an `ncps.torch.CfC` or `ncps.torch.LTC`; or its state dict, of tensors or arrays; or
            the path of one, `.pt`, `.pth`, `.safetensors` or `.npz`.
        layer: load into this layer or cell and return it; it must be built. None: make a new layer.
        wiring: of the new layer. None: that of the module, or for the state dict of an LTC the one
            that its masks and reversal potentials tell; for the state dict of a wired CfC it must
            be given.
        prefix: what stands before the layer's names in the state dict of a larger model, with the
            dot: "policy.rnn.".
        options: of the new layer, over what the source tells. A state dict doesn't tell `mode`
            ("default" is taken, or "pure" where w_tau is found), `activation`, `batch_first`,
            `ode_unfolds`, `epsilon` and `implicit_param_constraints`.

    Raises ValueError when a name is missing or unknown, a shape is another than the layer's, or the
    masks of a wired CfC are not those of the wiring; the layer is then left as it was.
    NotImplementedError for mixed memory.
    """
    module = source if hasattr(source, "state_dict") else None
    arrays = _without_prefix(_read(source), prefix)
    if any(name.startswith("lstm.") for name in arrays):
        raise NotImplementedError("[from_torch] mixed_memory must be False for now, got lstm.*.")
    if layer is None:
        facts = _module_facts(module, wiring) if module else _array_facts(arrays, wiring)
        kind, sizes, told = facts
        layer = kind(*sizes, **{**told, **options})
    elif wiring is not None or options:
        given = sorted(options) + ["wiring"] * (wiring is not None)
        raise ValueError(f"[from_torch] layer has its own options, got {', '.join(given)} too.")
    _load(layer, arrays)
    return layer


# --- reading -----------------------------------------------------------------------------------


def _read(source) -> dict[str, np.ndarray]:
    """The state dict of any source, in NumPy float32."""
    if hasattr(source, "state_dict"):
        source = source.state_dict()
    elif isinstance(source, (str, Path)):
        source = _read_file(Path(source))
    if not isinstance(source, Mapping):
        raise ValueError(
            "[from_torch] source must be a module, a state dict or a path, "
            f"got {type(source).__name__}."
        )
    return {name: _to_numpy(name, value) for name, value in source.items()}


def _read_file(path: Path):
    if path.suffix in (".safetensors", ".npz"):
        return mx.load(str(path))
    if path.suffix in (".pt", ".pth"):
        import torch

        return torch.load(path, map_location="cpu", weights_only=True)
    raise ValueError(
        f"[from_torch] source must end in .pt, .pth, .safetensors or .npz, got {path.name!r}."
    )


def _to_numpy(name: str, value) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu().float().numpy()
    elif isinstance(value, mx.array):
        value = value.astype(mx.float32)
    elif not isinstance(value, np.ndarray):
        raise ValueError(
            f"[from_torch] {name} must be a tensor or an array, got {type(value).__name__}."
        )
    return np.array(value, np.float32)


def _without_prefix(arrays: dict, prefix: str) -> dict:
    size = len(prefix)
    chosen = {name[size:]: value for name, value in arrays.items() if name.startswith(prefix)}
    if not chosen:
        raise ValueError(f"[from_torch] prefix must start some name, got {prefix!r}.")
    return chosen


# --- what to make: (class, (inputs, units or wiring), options) ---------------------------------


def _module_facts(module, wiring):
    """The facts that a module of ncps.torch tells."""
    cell = getattr(module, "rnn_cell", None)
    kind = {"CfCCell": _cfc_facts, "WiredCfCCell": _wired_facts, "LTCCell": _ltc_facts}.get(
        type(cell).__name__
    )
    if kind is None:
        raise ValueError(
            f"[from_torch] source must be an ncps.torch CfC or LTC, got {type(module).__name__}."
        )
    told = {"return_sequences": module.return_sequences, "batch_first": module.batch_first}
    layer, sizes, of_cell = kind(cell, wiring)
    if layer is CfC:
        told["proj_size"] = module.proj_size
    return layer, sizes, told | of_cell


def _cfc_facts(cell, wiring):
    _check_no_wiring(wiring)
    backbone = [] if cell.backbone is None else list(cell.backbone)
    sizes = [part.out_features for part in backbone if hasattr(part, "out_features")]
    told = {"mode": cell.mode, "backbone_units": sizes}
    told["backbone_dropout"] = max((part.p for part in backbone if hasattr(part, "p")), default=0.0)
    if backbone:
        told["activation"] = _ACTIVATIONS[type(backbone[1]).__name__]
    return CfC, (cell.input_size, cell.hidden_size), told


def _wired_facts(cell, wiring):
    wiring = _our_wiring(cell._wiring) if wiring is None else wiring
    return CfC, (cell._wiring.input_dim, wiring), {"mode": cell._layers[0].mode}


def _ltc_facts(cell, wiring):
    wiring = _our_wiring(cell._wiring) if wiring is None else wiring
    told = {
        "input_mapping": _mapping(cell._input_mapping),
        "output_mapping": _mapping(cell._output_mapping),
        "ode_unfolds": cell._ode_unfolds,
        "epsilon": cell._epsilon,
        "implicit_param_constraints": cell._implicit_param_constraints,
    }
    return LTC, (cell._wiring.input_dim, wiring), told


def _mapping(name):
    """For ncps every mapping but these two is the identity."""
    return name if name in ("affine", "linear") else None


def _array_facts(arrays, wiring):
    """The facts that the names and shapes of a state dict tell."""
    told = {"proj_size": arrays["fc.weight"].shape[0]} if "fc.weight" in arrays else {}
    if "rnn_cell.gleak" in arrays:
        inputs = arrays["rnn_cell.sensory_w"].shape[0]
        wiring = _wiring_of_masks(arrays) if wiring is None else wiring
        for side in ("input", "output"):
            told[f"{side}_mapping"] = (
                "affine"
                if f"rnn_cell.{side}_b" in arrays
                else "linear"
                if f"rnn_cell.{side}_w" in arrays
                else None
            )
        return LTC, (inputs, wiring), told
    first = "rnn_cell.layer_0." if "rnn_cell.layer_0.ff1.weight" in arrays else "rnn_cell."
    if f"{first}ff1.weight" not in arrays:
        raise ValueError(
            "[from_torch] source must have rnn_cell.gleak (LTC) or rnn_cell.ff1.weight (CfC), "
            f"got {', '.join(sorted(arrays)[:4])}, ... (a larger model's needs prefix=)."
        )
    units, columns = arrays[f"{first}ff1.weight"].shape
    told["mode"] = "pure" if f"{first}w_tau" in arrays else "default"
    if first == "rnn_cell.layer_0.":
        if wiring is None:
            raise ValueError("[from_torch] wiring must be given for a wired CfC, got None.")
        return CfC, (columns - units, wiring), told
    _check_no_wiring(wiring)
    backbone = _backbone_names(arrays)
    told["backbone_units"] = [arrays[name].shape[0] for name in backbone]
    columns = arrays[backbone[0]].shape[1] if backbone else columns
    return CfC, (columns - units, units), told


def _check_no_wiring(wiring) -> None:
    if wiring is not None:
        raise ValueError("[from_torch] wiring must be None for a CfC without one, got a wiring.")


def _backbone_names(arrays) -> list[str]:
    numbers = (_BACKBONE.fullmatch(name) for name in arrays if name.endswith(".weight"))
    return [match[0] for match in sorted(filter(None, numbers), key=lambda m: int(m[2]))]


# --- wirings -----------------------------------------------------------------------------------


def _our_wiring(theirs) -> Wiring:
    """The wiring of ncps in our class of the same name, with its matrices as they are."""
    t = theirs
    make = {
        "FullyConnected": lambda: FullyConnected(
            t.units, t.output_dim, t._erev_init_seed, t.self_connections
        ),
        "Random": lambda: Random(t.units, t.output_dim, t.sparsity_level, t._random_seed),
        "AutoNCP": lambda: AutoNCP(t.units, t._output_size, t._sparsity_level, t._seed),
        "NCP": lambda: NCP(
            t._num_inter_neurons,
            t._num_command_neurons,
            t._num_motor_neurons,
            t._sensory_fanout,
            t._inter_fanout,
            t._recurrent_command_synapses,
            t._motor_fanin,
        ),
    }.get(type(t).__name__)
    if make is None and t.num_layers > 1:
        raise ValueError(
            f"[from_torch] wiring must be given for the wiring class {type(t).__name__}, got None."
        )
    ours = make() if make else Wiring(t.units, t.output_dim)
    ours.build(t.input_dim)
    return _with_matrices(ours, t.adjacency_matrix, t.sensory_adjacency_matrix)


def _wiring_of_masks(arrays) -> Wiring:
    """A wiring without layers from an LTC's masks and the signs of its reversal potentials."""
    units = arrays["rnn_cell.gleak"].shape[0]
    motor = arrays.get("rnn_cell.output_w")
    wiring = Wiring(units, units if motor is None else motor.shape[0])
    wiring.build(arrays["rnn_cell.sensory_w"].shape[0])
    return wiring


def _with_matrices(wiring: Wiring, adjacency, sensory_adjacency) -> Wiring:
    wiring.adjacency_matrix = adjacency
    wiring.sensory_adjacency_matrix = sensory_adjacency
    return wiring


def _follow_masks(cell: LTCCell) -> None:
    """Give the wiring the synapses of the cell's masks; new ones take the sign of erev."""
    matrices = []
    for side, old in (("", cell.wiring.adjacency), ("sensory_", cell.wiring.sensory_adjacency)):
        exists = np.array(cell[f"{side}sparsity_mask"] != 0)
        sign = np.where(np.array(cell[f"{side}erev"] < 0), -1, 1)
        matrices.append(np.where(exists, np.where(old != 0, old, sign), 0).astype(np.int32))
    _with_matrices(cell.wiring, *matrices)


# --- loading -----------------------------------------------------------------------------------


def _load(layer, arrays: dict[str, np.ndarray]) -> None:
    """Check every name and shape, then set the layer's parameters."""
    cell = getattr(layer, "rnn_cell", layer)
    if not getattr(cell, "built", False):
        raise ValueError(
            "[from_torch] layer must be a layer or cell that is built, "
            f"got {type(layer).__name__}: call build(input_size) of the cell first."
        )
    ours = {
        name: array
        for name, array in tree_flatten(layer.parameters())
        if "wiring" not in name.split(".")
    }
    theirs = {name: _their_name(name, arrays) for name in ours}
    _check_names(set(theirs.values()), set(arrays))
    for name, array in ours.items():
        given = arrays[theirs[name]]
        if given.shape != array.shape:
            raise ValueError(
                f"[from_torch] {theirs[name]} must be {array.shape}, got {given.shape}."
            )
    if isinstance(cell, WiredCfCCell):
        _check_masks(ours, theirs, arrays)
    values = [(n, mx.array(arrays[theirs[n]]).astype(a.dtype)) for n, a in ours.items()]
    layer.update(tree_unflatten(values))
    if isinstance(cell, LTCCell):
        _follow_masks(cell)


def _their_name(name: str, arrays) -> str:
    """Torch numbers the backbone's linear maps, activations and dropouts together, we the maps."""
    match = _BACKBONE.fullmatch(name)
    if not match:
        return name
    numbers = sorted(
        {int(m[2]) for m in map(_BACKBONE.fullmatch, arrays) if m and m[1] == match[1]}
    )
    n = int(match[2])
    return f"{match[1]}{numbers[n] if n < len(numbers) else 2 * n}{match[3]}"


def _check_names(wanted: set, given: set) -> None:
    if missing := sorted(wanted - given):
        raise ValueError(f"[from_torch] source must have {', '.join(missing)}, got none of them.")
    if extra := sorted(given - wanted):
        raise ValueError(f"[from_torch] the layer must have {', '.join(extra)}, got none of them.")


def _check_masks(ours, theirs, arrays) -> None:
    for name, array in ours.items():
        mask = arrays[theirs[name]]
        if name.endswith("sparsity_mask") and not np.array_equal(np.array(array), mask):
            raise ValueError(
                f"[from_torch] {theirs[name]} must be the mask of the layer's wiring "
                f"({int(np.array(array).sum())} synapses), got another ({int(mask.sum())})."
            )
