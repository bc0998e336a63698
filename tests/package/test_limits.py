"""What a number may ask for: every constructor and configuration refuses huge ones at once, and
readers read nothing but files.
"""

import os

import mlx_ncps
import numpy as np
import pytest
from mlx_ncps import config, limits, wirings
from mlx_ncps.convert import from_keras, from_torch

HUGE = (2**31, 10**12, 2**63, 10**30)
huge = pytest.mark.parametrize("size", HUGE)
NCP_SIZES = (5, 5, 2, 2, 2, 3, 2)


def wiring_calls(size):
    yield lambda: wirings.Wiring(size)
    for kind in (wirings.Wiring, wirings.FullyConnected, wirings.Random):
        yield lambda kind=kind: kind(size)
        yield lambda kind=kind: kind(4, size)
        yield lambda kind=kind: kind(4, 2, input_dim=size)
        yield lambda kind=kind: kind(4, 2).build(size)
    yield lambda: wirings.Random(size, sparsity_level=0.999999)
    yield lambda: wirings.AutoNCP(size, 3)
    yield lambda: wirings.AutoNCP(9, size)
    yield lambda: wirings.AutoNCP(9, 3, input_dim=size)
    for n in range(len(NCP_SIZES)):
        sizes = (*NCP_SIZES[:n], size, *NCP_SIZES[n + 1 :])
        yield lambda sizes=sizes: wirings.NCP(*sizes)
    yield lambda: wirings.NCP(*NCP_SIZES, input_dim=size)


@huge
def test_wirings_refuse_huge_numbers(size):
    for call in wiring_calls(size):
        with pytest.raises(ValueError, match=r"^\["):
            call()


def layer_calls(size):
    for kind in (mlx_ncps.CfC, mlx_ncps.LTC, mlx_ncps.CfCRNN, mlx_ncps.LTCRNN):
        yield lambda kind=kind: kind(3, size)
        yield lambda kind=kind: kind(size, 8)
        yield lambda kind=kind: kind(3, 8, proj_size=size)
        yield lambda kind=kind: kind(size, 8, mixed_memory=True)
    cells = (mlx_ncps.LTCCell, lambda units, **options: mlx_ncps.CfCCell(3, units, **options))
    for kind in cells:
        yield lambda kind=kind: kind(8, backbone_units=size)
        yield lambda kind=kind: kind(8, backbone_units=[4, size])
        yield lambda kind=kind: kind(8, backbone_layers=size)
    for kind in (mlx_ncps.LTC, mlx_ncps.LTCRNN):
        yield lambda kind=kind: kind(3, 8, ode_unfolds=size)
    for kind in (mlx_ncps.CfCRNN, mlx_ncps.LTCRNN):
        yield lambda kind=kind: kind(3, 8, size)
    yield lambda: mlx_ncps.CfC(2**20, 2**20, backbone_layers=0)
    yield lambda: mlx_ncps.CfCCell(3, size)
    yield lambda: mlx_ncps.LTCCell(size)
    yield lambda: mlx_ncps.LSTMCell(3, size)
    yield lambda: mlx_ncps.LSTMCell(size, 3)
    yield lambda: mlx_ncps.NCPDense(size)
    yield lambda: mlx_ncps.NCPDense(3).build(size)


@huge
def test_layers_refuse_huge_numbers(size):
    for call in layer_calls(size):
        with pytest.raises(ValueError, match=r"^\[.*(at most|must be)"):
            call()


@huge
def test_configurations_refuse_huge_numbers(size):
    for layer in (mlx_ncps.CfC(3, 8), mlx_ncps.LTC(3, 8), mlx_ncps.CfCRNN(3, 8, 2)):
        known = config.to_config(layer)
        names = ("input_size", "units", "hidden_size", "num_layers", "ode_unfolds", "built_for")
        for name in {*names} & {*known["config"], "built_for"}:
            changed = known | {"config": known["config"] | {name: size}}
            with pytest.raises(ValueError, match=r"^\["):
                config.from_config(changed)


def deep_config(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def shared_config():
    """As many lists as 2^60, which share their items."""
    value = [1.0]
    for _ in range(60):
        value = [value, value]
    return value


def own_config():
    """A list that holds itself."""
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [deep_config(500), shared_config(), own_config()])
def test_configurations_are_not_nested_without_bound(value):
    for kind in ("CfC", "LTC", "Wiring", "AutoNCP"):
        arguments = {"input_size": 3, "units": 4, "adjacency_matrix": value}
        with pytest.raises(ValueError, match="nested at most 64 deep"):
            config.from_config({"class": kind, "config": arguments})


def test_the_limits_admit_what_they_say():
    wiring = wirings.Wiring(8, 2, limits.MAX_WIRED_INPUTS)
    assert wiring.input_dim == 2**17
    assert mlx_ncps.CfC(limits.MAX_SIZE, 4).sensory_size == 2**20
    assert mlx_ncps.LTCCell(4, ode_unfolds=limits.MAX_UNFOLDS).ode_unfolds == 10_000
    edge = wirings.NCP(*NCP_SIZES[:5], 10_000, 2)
    edge.build(3)
    with pytest.raises(ValueError, match="recurrent_command_synapses must be at most 10000"):
        wirings.NCP(*NCP_SIZES[:5], 10_001, 2)


# --- what is no file ---------------------------------------------------------------------------

READERS = {
    ".safetensors": lambda path: mlx_ncps.CfC(3, 4).load_weights(path),
    ".npz": lambda path: mlx_ncps.CfC(3, 4).load_weights(path),
    ".npz of torch": from_torch,
    ".pt": from_torch,
    ".pth": from_torch,
    ".keras": from_keras,
    ".h5": from_keras,
    ".hdf5": from_keras,
}


@pytest.mark.parametrize("reader", READERS)
def test_pipes_devices_and_folders_are_refused(reader, tmp_path):
    suffix = reader.split()[0]
    makers = {
        "a pipe": os.mkfifo,
        "a folder": os.mkdir,
        "a device": lambda path: os.symlink("/dev/zero", path),
    }
    for what, make in makers.items():
        path = tmp_path / (what + suffix)
        make(path)
        with pytest.raises(ValueError, match=f"must be a file, got {what}"):
            READERS[reader](path)
    with pytest.raises(FileNotFoundError, match="must exist, got no such file"):
        READERS[reader](tmp_path / f"nothing{suffix}")


def pickled(code):
    return b"\x80\x02" + code + b"."


HOSTILE_PICKLES = {
    "bytearray": (pickled(b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R"), "tensors alone"),
    "function": (pickled(b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R"), "tensors alone"),
    "size": (pickled(b"ctorch\nFloatStorage\nJ\xff\xff\xff\x7f\x86"), "must tell sizes within"),
    "cut": (b"\x80\x02ctorch", "a file that torch.save wrote"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", HOSTILE_PICKLES)
def test_a_pickle_asks_for_nothing_but_tensors(name, zipped, tmp_path):
    import zipfile

    code, message = HOSTILE_PICKLES[name]
    path = tmp_path / "model.pt"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", code)
            archive.writestr("model/data/0", np.zeros(4, np.float32).tobytes())
    else:
        path.write_bytes(pickled(b"K\x01") * 3 + code)
    with pytest.raises(ValueError, match=rf"\[from_torch\] model\.pt: .*{message}"):
        from_torch(path)
