"""What users put in place of a linear map, and every such map of one layer of each kind; for the
tests of replaced parts.
"""

import copy

import mlx.core as mx
import mlx.nn as nn
from mlx_ncps import LTC, LTCRNN, MMRNN, CfC, CfCCell, CfCRNN, LiquidRNN, LTCCell, cells
from mlx_ncps.layers.linear import is_plain
from mlx_ncps.wirings import NCP, AutoNCP, Random

I = 5
BOTH = {"bidirectional": True}
OWN = NCP(3, 2, 2, 2, 1, 2, 2)
LAYERS = {
    "cfc": lambda: CfC(I, 6, backbone_units=[7, 8]),
    "cfc_plain": lambda: CfC(I, 6, 3, backbone_layers=0),
    "cfc_pure": lambda: CfC(I, 6, mode="pure", backbone_units=7),
    "cfc_no_gate": lambda: CfC(I, 6, mode="no_gate", backbone_units=7),
    "cfc_keras": lambda: CfC(I, 6, variant="keras", backbone_units=7),
    "cfc_paper": lambda: CfC(I, 6, variant="paper", backbone_layers=0),
    "cfc_mask": lambda: CfC(CfCCell(I, 6, sparsity_mask=mask()), return_sequences=True),
    "cfc_wired": lambda: CfC(I, OWN),
    "cfc_wired_keras": lambda: CfC(I, OWN, variant="keras", mode="no_gate"),
    "cfc_wired_backbone": lambda: CfC(I, AutoNCP(8, 2), backbone_units=4),
    "cfc_random": lambda: CfC(I, Random(6, 2, 0.5), mode="pure"),
    "cfc_both": lambda: CfC(I, 6, 3, backbone_units=7, **BOTH),
    "cfc_mixed": lambda: CfC(I, 6, 3, backbone_units=7, mixed_memory=True),
    "cfc_wired_mixed": lambda: CfC(I, OWN, mixed_memory=True),
    "cfc_stack": lambda: CfCRNN(I, 6, 2, backbone_units=7),
    "ltc": lambda: LTC(I, 6, proj_size=3, ode_unfolds=2),
    "ltc_mixed": lambda: LTC(I, AutoNCP(8, 2), mixed_memory=True, ode_unfolds=2),
    "ltc_backbone": lambda: LTC(LTCCell(6, I, backbone_units=[7, 4]), return_sequences=True),
    "ltc_stack": lambda: LTCRNN(I, 6, 2, proj_size=3, mixed_memory=True, ode_unfolds=2),
    "mmrnn": lambda: MMRNN(CfCCell(I, 6), return_sequences=True),
    **{
        name: lambda name=name: LiquidRNN(getattr(cells, name)(I, 6), return_sequences=True)
        for name in ("CTRNNCell", "CTGRUCell", "NeuralODECell", "ODERNNCell", "ODELSTMCell")
    },
}


def mask():
    return mx.random.bernoulli(0.6, (128, 6)).astype(mx.float32)


class Adapter(nn.Linear):
    """A linear map with a low-rank part, a subclass."""

    def __init__(self, linear, rank=2):
        outputs, inputs = linear.weight.shape
        super().__init__(inputs, outputs, bias="bias" in linear)
        self.update(linear.parameters())
        self.down = 0.3 * mx.random.normal((inputs, rank))
        self.up = 0.3 * mx.random.normal((rank, outputs))

    def __call__(self, x):
        return super().__call__(x) + x @ self.down @ self.up

    def merged(self, weight):
        return weight + (self.down @ self.up).T


class LoRALinear(nn.Module):
    """The same as a module that holds the map, as adapters of language models do."""

    def __init__(self, linear, rank=2, scale=2.0):
        super().__init__()
        self.linear = linear
        self.dropout = nn.Dropout(0.0)
        self.scale = scale
        outputs, inputs = linear.weight.shape
        self.lora_a = 0.3 * mx.random.normal((inputs, rank))
        self.lora_b = 0.3 * mx.random.normal((rank, outputs))

    def __call__(self, x):
        y = self.linear(x)
        return y + (self.scale * (self.dropout(x) @ self.lora_a @ self.lora_b)).astype(x.dtype)

    def merged(self, weight):
        return weight + self.scale * (self.lora_a @ self.lora_b).T


def linear_parts(layer) -> list[str]:
    """The names of all linear maps of a layer."""
    return sorted(name for name, module in layer.named_modules() if is_plain(module))


ALL = [(name, part) for name, make in LAYERS.items() for part in linear_parts(make())]


def at(layer, path):
    """The part of this name."""
    for key in path.split("."):
        layer = layer[int(key)] if isinstance(layer, list) else getattr(layer, key)
    return layer


def put(layer, path, part):
    """Set the part of this name."""
    *owner, key = path.split(".")
    holder = at(layer, ".".join(owner)) if owner else layer
    if isinstance(holder, list):
        holder[int(key)] = part
    else:
        setattr(holder, key, part)


def replaced(name, path, kind):
    """(layer with another module in place of a part, the same layer without it)."""
    plain = LAYERS[name]()
    layer = copy.deepcopy(plain)
    put(layer, path, kind(at(layer, path)))
    mx.eval(layer.parameters(), plain.parameters())
    return layer, plain
