"""The layers and helpers of the tests of steps and short sequences computed at once."""

import contextlib

import mlx.core as mx
import pytest
from mlx.utils import tree_map
from mlx_ncps import CfC, dispatch
from mlx_ncps.rnn import LTC
from mlx_ncps.wirings import NCP, AutoNCP, Random

from tests.support.rnn_layers import LAYERS, I

MORE = {
    "cfc_no_gate": lambda **o: CfC(I, 6, mode="no_gate", backbone_units=[7, 9], **o),
    "cfc_keras": lambda **o: CfC(I, 6, backbone_units=9, variant="keras", **o),
    "cfc_paper": lambda **o: CfC(I, 20, backbone_layers=0, variant="paper", **o),
    "cfc_wired_backbone": lambda **o: CfC(I, AutoNCP(10, 2), backbone_units=7, **o),
    "cfc_ncp": lambda **o: CfC(I, NCP(7, 5, 3, 3, 2, 3, 2), mode="no_gate", **o),
    "ltc_plain": lambda **o: LTC(I, 20, input_mapping=None, output_mapping=None, **o),
    "ltc_linear": lambda **o: LTC(I, Random(9, 4, 0.5), output_mapping="linear", **o),
    "ltc_euler": lambda **o: LTC(I, 20, ode_solver="explicit", ode_unfolds=90, **o),
    "ltc_runge_kutta": lambda **o: LTC(
        I, AutoNCP(20, 5), ode_solver="runge_kutta", ode_unfolds=60, **o
    ),
    "ltc_explicit": lambda **o: LTC(I, AutoNCP(40, 5), implicit_param_constraints=False, **o),
}
ALL = {name: lambda f=f, **o: f(**o) for name, f in (LAYERS | MORE).items()}
all_layers = pytest.mark.parametrize("name", ALL)
few_layers = pytest.mark.parametrize("name", ["cfc", "cfc_wired", "ltc_wired"])


def built(name, **options):
    layer = ALL[name](**options)
    randomise(layer)
    return layer


def randomise(layer):
    """Every parameter off its starting value, so that none can be left out unseen."""
    leaves = tree_map(
        lambda p: p + mx.random.uniform(0.05, 0.2, p.shape), layer.trainable_parameters()
    )
    layer.update(leaves)
    mx.eval(layer.parameters())


def at_once(native, *arrays):
    return all(native.has_values(a) or native.lies_plain(a) for a in arrays)


@contextlib.contextmanager
def in_a_graph():
    """Nothing is computed at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "runs_steps_on_cpu", lambda: False)
        yield


def evaluated(*arrays):
    mx.eval(arrays)
    return arrays if len(arrays) > 1 else arrays[0]
