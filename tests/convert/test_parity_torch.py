"""Live ncps.torch modules, converted: outputs, states and gradients of random configurations.

ncps.torch runs in float64. It squeezes time spans and so breaks for batches: its cell is driven
step by step here, with the time spans of a step as [B, 1].
"""

import re

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import available_backends, dispatch, wirings
from mlx_ncps.convert import from_torch

from tests.support.cases import assert_all_close, assert_close, tolerance

torch = pytest.importorskip("torch")
ncps_torch = pytest.importorskip("ncps.torch")
ncps_wirings = pytest.importorskip("ncps.wirings")

FORWARD, GRADIENT = tolerance("float32", "forward"), tolerance("float32", "gradient")
backends = pytest.mark.parametrize("backend", available_backends())


def random_wiring(rng):
    units = int(rng.integers(8, 24))
    kind = rng.integers(4)
    if kind == 0:
        return ncps_wirings.AutoNCP(
            units, int(rng.integers(1, units - 4)), 0.5, int(rng.integers(99))
        )
    if kind == 1:
        return ncps_wirings.NCP(6, 5, 3, 4, 3, 6, 2, seed=int(rng.integers(99)))
    if kind == 2:
        return ncps_wirings.Random(units, int(rng.integers(1, units)), 0.6, int(rng.integers(99)))
    return ncps_wirings.FullyConnected(units, int(rng.integers(1, units)), 7, bool(rng.integers(2)))


def random_cfc(rng):
    inputs = int(rng.integers(1, 9))
    options = {"mode": str(rng.choice(["default", "pure", "no_gate"]))}
    if rng.integers(3) == 0:
        while (wiring := random_wiring(rng)).num_layers == 1:
            pass  # ncps gives all neurons of these, we the first output_dim, as documented
        return ncps_torch.CfC(inputs, wiring, **options)
    options["activation"] = str(rng.choice(["lecun_tanh", "tanh", "relu", "gelu", "silu"]))
    options["backbone_layers"] = int(rng.integers(0, 4))
    options["backbone_units"] = int(rng.integers(1, 40))
    options["proj_size"] = [None, 3][int(rng.integers(2))]
    return ncps_torch.CfC(inputs, int(rng.integers(1, 40)), **options)


def random_ltc(rng):
    inputs = int(rng.integers(1, 9))
    units = random_wiring(rng) if rng.integers(3) else int(rng.integers(1, 20))
    return ncps_torch.LTC(
        inputs,
        units,
        input_mapping=str(rng.choice(["affine", "linear", "none"])),
        output_mapping=str(rng.choice(["affine", "linear", "none"])),
        ode_unfolds=int(rng.integers(1, 8)),
        epsilon=float(rng.choice([1e-8, 1e-3])),
        implicit_param_constraints=bool(rng.integers(2)),
    )


def torch_module(kind, seed):
    """A float64 module whose parameters are float32 numbers, none of them at its first value."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    module = random_cfc(rng) if kind == "cfc" else random_ltc(rng)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.rand(parameter.shape)
    return module.double(), rng


def run_torch(module, inputs, state, ts):
    outputs = []
    for t in range(inputs.shape[1]):
        span = 1.0 if ts is None else ts[:, t : t + 1]
        output, state = module.rnn_cell(inputs[:, t], state, span)
        outputs.append(module.fc(output) if hasattr(module, "fc") else output)
    return torch.stack(outputs, dim=1), state


def torch_name(name, theirs):
    """Our name of a parameter in ncps.torch's numbers of the backbone."""
    numbers = sorted({int(n) for n in re.findall(r"backbone\.(\d+)", " ".join(theirs))})
    return re.sub(r"backbone\.(\d+)", lambda match: f"backbone.{numbers[int(match[1])]}", name)


def leaves_of(module, rng, timed):
    batch, steps = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    inputs = module.rnn_cell.input_size if hasattr(module.rnn_cell, "input_size") else None
    inputs = module.input_size if inputs is None else inputs
    leaves = {
        "inputs": rng.normal(size=(batch, steps, inputs)),
        "state": rng.normal(0, 0.5, (batch, module.state_size)),
    }
    if timed:
        leaves["ts"] = rng.uniform(0.1, 2.0, (batch, steps))
    return {name: array.astype(np.float32) for name, array in leaves.items()}


@backends
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["cfc", "ltc"])
def test_layer_equals_the_torch_module(kind, seed, timed, backend):
    module, rng = torch_module(kind, seed)
    layer = from_torch(module)
    leaves = leaves_of(module, rng, timed)

    theirs = {n: torch.from_numpy(a).double().requires_grad_() for n, a in leaves.items()}
    outputs, state = run_torch(module, theirs["inputs"], theirs["state"], theirs.get("ts"))
    d_outputs, d_state = rng.normal(size=outputs.shape), rng.normal(size=state.shape)
    loss = (outputs * torch.from_numpy(d_outputs)).sum() + (state * torch.from_numpy(d_state)).sum()
    loss.backward()
    want = {name: leaf.grad.numpy() for name, leaf in theirs.items()}
    want |= {n: p.grad.numpy() for n, p in module.named_parameters() if p.requires_grad}

    ours = {name: mx.array(array) for name, array in leaves.items()}
    d_outputs, d_state = mx.array(d_outputs, mx.float32), mx.array(d_state, mx.float32)

    def our_loss(parameters, ours):
        layer.update(parameters)
        outputs, state = layer(ours["inputs"], ours["state"], ours.get("ts"))
        return mx.sum(outputs * d_outputs) + mx.sum(state * d_state)

    with dispatch.use_backend(backend):
        got_outputs, got_state = layer(ours["inputs"], ours["state"], ours.get("ts"))
        grads = mx.grad(our_loss, argnums=(0, 1))(layer.trainable_parameters(), ours)
    assert dispatch.last_backend() == backend
    assert_close("outputs", got_outputs, outputs.detach().numpy(), FORWARD)
    assert_close("state", got_state, state.detach().numpy(), FORWARD)
    got = grads[1] | {torch_name(n, want): g for n, g in tree_flatten(grads[0])}
    assert_all_close(got, want, GRADIENT)


@pytest.mark.parametrize("options", [{}, {"batch_first": False}, {"return_sequences": False}])
@pytest.mark.parametrize("kind", [ncps_torch.CfC, ncps_torch.LTC])
@pytest.mark.parametrize("batched", [True, False])
def test_calls_without_timespans_equal_the_torch_layer(kind, options, batched):
    """All that ncps.torch's own layers can do, their defaults included."""
    torch.manual_seed(3)
    module = kind(4, ncps_wirings.AutoNCP(12, 3), **options)
    layer = from_torch(module)
    x = np.random.default_rng(0).normal(size=(2, 5, 4) if batched else (5, 4)).astype(np.float32)
    want = module(torch.from_numpy(x))
    for name, ours, theirs in zip(("output", "state"), layer(mx.array(x)), want, strict=True):
        assert_close(name, ours, theirs.detach().numpy(), FORWARD)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("AutoNCP", (20, 4, 0.6, 5)),
        ("NCP", (6, 5, 3, 4, 3, 6, 2)),
        ("Random", (9, 2, 0.4, 5)),
        ("FullyConnected", (7, 2, 5, False)),
    ],
)
def test_wirings_keep_their_class_and_their_synapses(name, arguments):
    theirs = getattr(ncps_wirings, name)(*arguments)
    cell = from_torch(ncps_torch.LTC(4, theirs)).rnn_cell
    assert type(cell.wiring) is getattr(wirings, name)
    assert_close("adjacency", cell.wiring.adjacency, theirs.adjacency_matrix, 0.0)
    assert_close("sensory", cell.wiring.sensory_adjacency, theirs.sensory_adjacency_matrix, 0.0)
    assert cell.synapse_count == int(theirs.synapse_count)
    assert cell.sensory_synapse_count == int(theirs.sensory_synapse_count)
    layers = [theirs.get_neurons_of_layer(n) for n in range(theirs.num_layers)]
    assert [cell.wiring.get_neurons_of_layer(n) for n in range(cell.wiring.num_layers)] == layers


def test_a_wiring_that_ncps_drew_twice_is_taken_as_it_is():
    theirs = ncps_wirings.AutoNCP(40, 5, 0.7)
    ncps_torch.LTC(4, theirs)
    module = ncps_torch.LTC(4, theirs)
    assert theirs.synapse_count > 114  # what it draws once
    assert from_torch(module).rnn_cell.synapse_count == theirs.synapse_count


def test_wirings_of_users():
    class Ring(ncps_wirings.Wiring):
        def __init__(self, units):
            super().__init__(units)
            self.set_output_dim(2)
            for n in range(units):
                self.add_synapse(n, (n + 1) % units, -1)

        def build(self, input_dim):
            super().build(input_dim)
            self.add_sensory_synapse(0, 0, 1)

    class Layers(Ring):
        num_layers = 2

    cell = from_torch(ncps_torch.LTC(3, Ring(5))).rnn_cell
    assert (cell.synapse_count, cell.sensory_synapse_count, cell.output_size) == (5, 1, 2)
    with pytest.raises(ValueError, match="wiring must be given for the wiring class Layers"):
        from_torch(ncps_torch.LTC(3, Layers(5)))
    assert from_torch(ncps_torch.LTC(3, Layers(5)), wiring=wirings.Random(5, 2)).state_size == 5


def test_dropout_is_taken_over_and_numbers_the_backbone():
    module = ncps_torch.CfC(3, 5, backbone_layers=2, backbone_units=6, backbone_dropout=0.5)
    layer = from_torch(module)
    assert layer.rnn_cell.backbone_options.dropout == 0.5
    layer.eval()
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    assert "rnn_cell.backbone.3.weight" not in module.state_dict()  # the dropout shifts no map yet
    want, _ = module.eval()(torch.from_numpy(x))
    assert_close("output", layer(mx.array(x))[0], want.detach().numpy(), FORWARD)
    three = ncps_torch.CfC(3, 5, backbone_layers=3, backbone_units=6, backbone_dropout=0.5).eval()
    assert "rnn_cell.backbone.5.weight" in three.state_dict()  # and here the third
    want, _ = three(torch.from_numpy(x))
    layer = from_torch(three.state_dict())
    assert_close("output", layer(mx.array(x))[0], want.detach().numpy(), FORWARD)


def test_other_modules_are_refused():
    with pytest.raises(ValueError, match=r"source must be an ncps.torch CfC or LTC, got Linear"):
        from_torch(torch.nn.Linear(2, 2))
