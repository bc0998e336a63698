"""The layers that leave for other runtimes: every kind with every option, small, and the steps that
they are compared over.
"""

from itertools import product

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_ncps import LTC, LTCRNN, CfC, CfCCell, CfCRNN, LiquidRNN, LTCCell, WiredCfCCell
from mlx_ncps.convert import KerasMemoryCell
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random

from tests.support.cases import ACTIVATIONS, MODES, SOLVERS, VARIANTS
from tests.support.step_layers import randomise

I = 4
B, T = 3, 12
UNFOLDS = {"semi_implicit": 6} | dict.fromkeys(SOLVERS, 17)  # enough for the longest step
BACKBONES = {"none": [], "one": [9], "two": [7, 5]}
WIRINGS = {
    "auto": lambda: AutoNCP(10, 2),
    "ncp": lambda: NCP(7, 5, 3, 3, 2, 3, 2),
    "random": lambda: Random(8, 3, 0.4),
    "full": lambda: FullyConnected(6, 2),
}


def quantized():
    layer = CfC(32, 32, 3, backbone_units=32)
    nn.quantize(layer, group_size=32)
    return layer


def masked():
    mask = mx.random.bernoulli(0.6, (I + 6, 6)).astype(mx.float32)
    return CfC(CfCCell(I, 6, backbone_layers=0, sparsity_mask=mask), return_sequences=True)


def pruned(layer):
    wiring = layer.rnn_cell.wiring
    wiring.prune(np.eye(wiring.input_dim, wiring.units, dtype=bool), sensory=True)
    return layer


def silent():
    """An LTC without any synapse."""
    layer = LTC(I, FullyConnected(3, 2))
    wiring = layer.rnn_cell.wiring
    wiring.prune(np.ones((I, 3), bool), sensory=True)
    wiring.prune(np.ones((3, 3), bool))
    return layer


def half(layer):
    layer.set_dtype(mx.bfloat16)
    return layer


def keras_memory(make):
    return LiquidRNN(KerasMemoryCell(make(), I))


CFC = {
    f"cfc_{mode}_{variant}_{name}": lambda m=mode, v=variant, k=sizes, **o: CfC(
        I, 6, mode=m, variant=v, backbone_units=k, backbone_layers=len(k), **o
    )
    for mode, variant, (name, sizes) in product(MODES, VARIANTS, BACKBONES.items())
}
ACTIVATED = {
    f"cfc_{name}": lambda a=name: CfC(I, 6, activation=a, backbone_units=9) for name in ACTIVATIONS
}
WIRED = {
    f"wired_{mode}_{variant}_{name}": lambda m=mode, v=variant, w=make, **o: CfC(
        I, w(), mode=m, variant=v, **o
    )
    for mode, variant, (name, make) in product(MODES, VARIANTS, WIRINGS.items())
}
LTCS = {
    f"ltc_{solver}_{mapping}_{name}": lambda s=solver, m=mapping, w=make, **o: LTC(
        I, w(), ode_solver=s, ode_unfolds=UNFOLDS[s], input_mapping=m, output_mapping=m, **o
    )
    for solver, mapping, (name, make) in product(
        UNFOLDS, ("affine", "linear", "identity"), WIRINGS.items()
    )
}
OPTIONS = {
    "mixed": {"mixed_memory": True},
    "proj": {"proj_size": 3},
    "mixed_proj": {"mixed_memory": True, "proj_size": 3},
    "last": {"return_sequences": False},
}
BASES = {
    "cfc": lambda **o: CfC(I, 6, backbone_units=9, **o),
    "wired": lambda **o: CfC(I, AutoNCP(10, 2), **o),
    "ltc": lambda **o: LTC(I, AutoNCP(10, 2), ode_unfolds=3, **o),
}
OPTIONAL = {
    f"{name}_{option}": lambda f=make, o=options: f(**o)
    for (name, make), (option, options) in product(BASES.items(), OPTIONS.items())
}
OTHER = {
    "wired_own": lambda: CfC(WiredCfCCell(I, AutoNCP(10, 2), fully_recurrent=False)),
    "wired_backbone": lambda: CfC(I, AutoNCP(10, 2), backbone_units=[5, 4]),
    "wired_pruned": lambda: pruned(CfC(I, AutoNCP(10, 2))),
    "wired_backbone_pruned": lambda: pruned(CfC(I, AutoNCP(10, 2), backbone_units=5)),
    "cfc_masked": masked,
    "cfc_quantized": quantized,
    "cfc_bfloat16": lambda: half(CfC(I, 6, backbone_units=9)),
    "cfc_wide": lambda: CfC(I, 40, backbone_units=64),
    "ltc_raw": lambda: LTC(I, AutoNCP(10, 2), implicit_param_constraints=False),
    "ltc_wide": lambda: LTC(I, 24),
    "ltc_one_unfold": lambda: LTC(I, 5, ode_unfolds=1, epsilon=1e-3),
    "ltc_backbone": lambda: LTC(LTCCell(AutoNCP(10, 2), I, backbone_units=[7, 5])),
    "ltc_backbone_mixed": lambda: LTC(LTCCell(6, I, backbone_units=5), mixed_memory=True),
    "ltc_pruned": lambda: pruned(LTC(I, AutoNCP(10, 2))),
    "ltc_silent": silent,
    "ltc_bfloat16": lambda: half(LTC(I, AutoNCP(10, 2))),
    "cfc_stack": lambda: CfCRNN(I, 6, 2, backbone_units=7),
    "cfc_stack_mixed": lambda: CfCRNN(I, AutoNCP(8, 2), 3, mixed_memory=True),
    "ltc_stack": lambda: LTCRNN(I, AutoNCP(8, 2), 2, proj_size=3, ode_unfolds=2),
    "cell_cfc": lambda: CfCCell(I, 6, backbone_units=9),
    "cell_wired": lambda: WiredCfCCell(I, AutoNCP(10, 2)),
    "cell_ltc": lambda: LTCCell(AutoNCP(10, 2), I),
    "liquid_cfc": lambda: LiquidRNN(CfCCell(I, 6, backbone_units=9)),
    "keras_memory_cfc": lambda: keras_memory(lambda: CfCCell(6, 6, backbone_units=9)),
    "keras_memory_ltc": lambda: keras_memory(lambda: LTCCell(AutoNCP(10, 2), 10)),
    "keras_memory_wired": lambda: keras_memory(lambda: WiredCfCCell(10, AutoNCP(10, 2))),
}
LAYERS = CFC | ACTIVATED | WIRED | LTCS | OPTIONAL | OTHER


def built(name):
    """A layer of LAYERS in eval mode, every weight off its first value."""
    mx.random.seed(7)
    layer = LAYERS[name]()
    if "quantized" not in name:
        randomise(layer)
    layer.eval()
    return layer


def leaves(tree):
    return [array for _, array in tree_flatten(tree)]


def step_of(layer):
    """The function (x [B, I], state, ts [B]) -> (output, state) of a layer or a cell."""
    return layer.step if hasattr(layer, "step") else layer


def first_state(layer, batch=B):
    """A random state of the form that the layer's step takes."""
    if hasattr(layer, "layers"):
        return tuple(first_state(part, batch) for part in layer.layers)
    sizes = layer._state_sizes if hasattr(layer, "_state_sizes") else layer.state_size
    if isinstance(sizes, dict):
        return tuple(mx.random.normal((batch, size)) for size in sizes.values())
    return mx.random.normal((batch, sizes))


def trial(layer, batch=B, steps=T, seed=3):
    """(x [B, T, I], ts [B, T] with a 0 and a 2.5 in it, state) to run a layer over."""
    mx.random.seed(seed)
    x = mx.random.normal((batch, steps, width(layer)))
    ts = mx.random.uniform(0.1, 2.0, (batch, steps))
    ts[:, 1], ts[:, 2] = 0.0, 2.5
    state = first_state(layer, batch)
    mx.eval(x, ts, state)
    return x, ts, state


def width(layer):
    first = layer.layers[0] if hasattr(layer, "layers") else layer
    return first.sensory_size


def run(layer, x, ts, state):
    """The steps one by one -> (outputs [B, T, O], [states [B, T, H], ...])."""
    outputs, states, step = [], [], step_of(layer)
    for t in range(x.shape[1]):
        output, state = step(x[:, t], state, ts[:, t])
        outputs.append(output)
        states.append(leaves(state))
    stacked = [mx.stack(list(part), axis=1) for part in zip(*states, strict=True)]
    return mx.stack(outputs, axis=1), stacked
