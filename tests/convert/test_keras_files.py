"""Files of Keras without Keras: the layouts of Keras 3 and tf.keras written by hand, and hostile
ones; needs h5py.
"""

import io
import json
import zipfile

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import CfC
from mlx_ncps.convert import from_keras

from tests.support.cases import assert_all_close, assert_close
from tests.support.keras_cases import CASES, SAME, check, options, weights

h5py = pytest.importorskip("h5py")
all_cases = pytest.mark.parametrize("name", sorted(CASES))


def places(name):
    """Where Keras 3 stores the arrays of a case, below the layer: {place: array}."""
    found, cells = {}, []
    for path, array in weights(CASES[name]).items():
        *owners, leaf = path.split("/")
        place = "cell"
        if "mixed" in name and not leaf.endswith("_kernel") and owners[-1] != owners[0]:
            place = "cell/rnn_cell"
        if leaf in ("bias", "kernel") and owners[-1] not in ("time_a", "time_b"):
            part = f"backbone_fn/layers/dense_{owners[-1][-1]}" if "backbone" in owners[-1] else ""
            place = f"{place}/{part}" if part else "cell"
        elif "wired" in name or name == "cfc_dense_wiring":
            owner = [o for o in owners if o.startswith("cf_c_cell")]
            if owner:
                cells += owner if owner[0] not in cells else []
                n = cells.index(owner[0])
                place += "/_cfc_layers/cf_c_cell" + (f"_{n}" if n else "")
        if owners[-1] in ("time_a", "time_b"):
            place += f"/{owners[-1]}"
        count = sum(p.rpartition("/vars/")[0] == place for p in found)
        found[f"{place}/vars/{count}"] = array
    return found


def write_keras3(file, name, layer="rnn", extra=()):
    with h5py.File(file, "w") as opened:
        group = opened.create_group(f"layers/{layer}")
        group.create_group("vars").attrs["name"] = layer
        for place, array in places(name).items():
            group[place] = array
        opened["layers/dense/vars/0"] = np.zeros((4, 2))
        group["cell/seed_generator/vars/0"] = np.zeros(2)
        for more in extra:
            more(opened, group)


def write_legacy(file, name, root=""):
    with h5py.File(file, "w") as opened:
        top = opened.require_group(root) if root else opened
        top.attrs["layer_names"] = [b"rnn", b"dense"]
        group = top.create_group("rnn")
        arrays = {f"{path}:0": array for path, array in weights(CASES[name]).items()}
        group.attrs["weight_names"] = [path.encode() for path in arrays]
        for path, array in arrays.items():
            group[path] = array
        dense = top.create_group("dense")
        dense.attrs["weight_names"] = ["dense/kernel:0"]
        dense["dense/kernel:0"] = np.zeros((4, 2))


def convert(path, name):
    return from_keras(path, return_sequences=True, return_state=True, **options(CASES[name]))


@all_cases
def test_keras_3_files_give_the_outputs(name, tmp_path):
    path = tmp_path / "model.weights.h5"
    write_keras3(path, name)
    check(CASES[name], convert(path, name))


@all_cases
@pytest.mark.parametrize("root", ["", "model_weights"])
def test_tf_keras_files_give_the_outputs(name, root, tmp_path):
    path = tmp_path / "model.h5"
    write_legacy(path, name, root)
    check(CASES[name], convert(str(path), name))


def keras_archive(path, name, config, layer="rnn", compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    write_keras3(buffer, name, layer)
    model = {"config": {"layers": [{"class_name": "Dense", "config": {"name": "dense"}}, config]}}
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("config.json", json.dumps(model))
        archive.writestr("model.weights.h5", buffer.getvalue())


def ltc_config(units=8, **more):
    wiring = units
    if not isinstance(units, dict):
        wiring = {"class_name": "AutoNCP", "config": {"units": units, "output_size": 2}}
    arguments = CASES["ltc_wired"]["config"]["arguments"]
    config = {"name": "rnn", "units": wiring, "return_state": True, "return_sequences": True}
    return {"class_name": "LTC", "config": config | arguments | more}


def test_a_keras_archive_tells_wiring_and_options(tmp_path):
    path = tmp_path / "model.keras"
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        keras_archive(path, "ltc_wired", ltc_config(), compression=compression)
        layer = from_keras(path)
        check(CASES["ltc_wired"], layer)
        assert layer.rnn_cell.ode_unfolds == 4
        assert type(layer.rnn_cell.wiring).__name__ == "AutoNCP"
    activation = {"class_name": "function", "config": ">gelu"}
    config = {"name": "rnn", "activation": activation, "backbone_dropout": 0.2, "units": 3}
    config |= {"return_state": True, "return_sequences": True}
    keras_archive(path, "cfc_two_layers", {"class_name": "CfC", "config": config})
    layer = from_keras(path)
    check(CASES["cfc_two_layers"], layer)
    assert layer.rnn_cell.backbone_options.dropout == 0.2


def test_a_wiring_that_the_weights_do_not_have_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    for wrong in (ltc_config(10**9), ltc_config(9)):
        keras_archive(path, "ltc_wired", wrong)
        with pytest.raises(ValueError, match="'AutoNCP' doesn't tell one of 8 neurons"):
            from_keras(path)
    for units in ({"class_name": "open", "config": {"units": 8}}, {"class_name": "AutoNCP"}):
        keras_archive(
            path, "ltc_wired", ltc_config(units=8) | {"config": {"name": "rnn", "units": units}}
        )
        with pytest.raises(ValueError, match="wiring= must be given"):
            from_keras(path)


# --- layers in wrappers and in models inside a model ---------------------------------------------


def write_halves(file, name):
    """A Bidirectional of a case, whose backward half has other values, and an LSTM of Keras."""
    with h5py.File(file, "w") as opened:
        both = opened.create_group("layers/bidirectional")
        both.create_group("vars").attrs["name"] = "both"
        for side in ("forward", "backward"):
            half = both.create_group(f"{side}_layer")
            half.create_group("vars").attrs["name"] = f"{side}_rnn"
            for place, array in places(name).items():
                half[place] = array if side == "forward" else backward_values(array)
        for n, shape in enumerate(((2, 12), (3, 12), (12,))):
            opened[f"layers/lstm/cell/vars/{n}"] = np.zeros(shape)


def backward_values(array):
    return np.where(array == 0, 0, array * 0.5).astype(np.float32)


def halves(name):
    """Both directions of `write_halves`, each from its arrays."""
    case = CASES[name]
    arrays = list(weights(case).values())
    told = {"return_sequences": True, **options(case)}
    return [
        from_keras(arrays, **told),
        from_keras([backward_values(a) for a in arrays], go_backwards=True, **told),
    ]


def check_halves(layer, name, merge=np.add):
    x = mx.array(CASES[name]["inputs"])
    layer.eval()
    forward, backward = (half.eval()(x) for half in halves(name))
    wanted = merge(np.array(forward), np.array(backward)[:, ::-1])
    assert layer.bidirectional
    assert_close(name, layer(x), wanted, SAME)


@all_cases
def test_a_bidirectional_layer_of_a_file_gives_both_outputs(name, tmp_path):
    path = tmp_path / "model.weights.h5"
    write_halves(path, name)
    told = {"return_sequences": True, **options(CASES[name])}
    check_halves(from_keras(path, merge_mode="sum", **told), name)
    check_halves(from_keras(path, merge_mode="mul", **told), name, np.multiply)
    layer = from_keras(path, merge_mode="sum", **told)
    layer.redraw(mx.random.key(3))
    check_halves(from_keras(path, layer), name)
    half = from_keras(path, name="both/forward_rnn", return_state=True, **told)
    check(CASES[name], half)
    with pytest.raises(ValueError, match="layer must be of one direction, as the source is"):
        from_keras(path, layer, name="forward_rnn")
    with pytest.raises(ValueError, match="layer must be bidirectional, as the source is"):
        from_keras(path, half)


@all_cases
def test_a_bidirectional_layer_of_tf_keras_gives_both_outputs(name, tmp_path):
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as opened:
        opened.attrs["layer_names"] = [b"both"]
        group, names = opened.create_group("both"), []
        for side in ("forward", "backward"):
            for place, array in weights(CASES[name]).items():
                names.append(f"both/{side}_rnn/{place}:0")
                group[names[-1]] = array if side == "forward" else backward_values(array)
        group.attrs["weight_names"] = [n.encode() for n in names]
    told = {"return_sequences": True, **options(CASES[name])}
    check_halves(from_keras(path, merge_mode="sum", **told), name)


class Group:
    """A stand-in for a Keras object with parts."""

    def __init__(self, name, **parts):
        self.name = name
        vars(self).update(parts)

    def get_weights(self):
        return getattr(self, "arrays", [])


class LTCCell(Group):
    """A stand-in for the cell of ncps.keras, found by its name."""

    _input_mapping, _output_mapping, _ode_unfolds, _epsilon = None, "linear", 4, 1e-8
    wiring = None


def live_half(name, change=lambda a: a, **more):
    arrays = [change(array) for array in weights(CASES["ltc_wired"]).values()]
    return Group(name, cell=LTCCell("cell"), arrays=arrays, return_sequences=True, **more)


def test_live_models_are_searched_as_files_are():
    pair = {"forward_layer": live_half("forward_rnn", go_backwards=False)}
    pair["backward_layer"] = live_half("backward_rnn", backward_values, go_backwards=True)
    both = Group("both", merge_mode="sum", **pair)
    inner = Group("encoder", layers=[live_half("rnn")])
    timed = Group("timed", layer=live_half("rnn"))
    model = Group("model", layers=[inner, timed, both])
    inner.owner = inner._layers = [model, inner]  # a ring
    check_halves(from_keras(Group("model", layers=[both])), "ltc_wired")
    check_halves(from_keras(model, name="both"), "ltc_wired")
    names = r"\['both', 'encoder/rnn', 'timed/rnn'\]"
    with pytest.raises(ValueError, match=f"name= must tell .*{names}, got None"):
        from_keras(model)
    with pytest.raises(ValueError, match=r"name= must tell .*, got 'rnn'"):
        from_keras(model, name="rnn")
    for name in ("encoder/rnn", "timed/rnn", "forward_rnn"):
        assert from_keras(model, name=name).return_sequences
    with pytest.raises(ValueError, match="must be or have a CfC or LTC of ncps, got a Group"):
        from_keras(Group("model", layers=[Group("dense")]))


def test_a_wiring_of_a_file_is_for_the_inputs_of_its_weights(tmp_path):
    path = tmp_path / "model.keras"
    for inputs in (10**9, 10**12, -1, 2):
        config = {"units": 8, "output_size": 2, "input_dim": inputs}
        wiring = {"class_name": "AutoNCP", "config": config}
        keras_archive(path, "ltc_wired", ltc_config(wiring))
        with pytest.raises(ValueError, match="wiring= must be given: the file's is for"):
            from_keras(path)


# --- hostile files -----------------------------------------------------------------------------


def parameters(layer):
    return {name: np.array(array) for name, array in tree_flatten(layer.parameters())}


def refused(path, message):
    layer = CfC(3, 4, backbone_units=5, variant="keras")
    before = parameters(layer)
    with pytest.raises(ValueError, match=r"\[from_keras\] .*" + message):
        from_keras(path, layer)
    assert_all_close(parameters(layer), before, 0.0)


def replacing(place, make):
    def change(file, group):
        del group[place]
        make(file, group)

    return change


BIAS = "cell/vars/1"


def compressed(file, group):
    group.create_dataset(BIAS, (2**30,), "f4", compression="gzip")


HOSTILE = {
    "compressed petabytes": (compressed, "must be stored in one piece"),
    "never written": (
        lambda f, g: g.create_dataset(BIAS, (2**40,), "f4"),
        "must have 4398046511104 bytes for its shape .*, got 0",
    ),
    "in another file": (
        lambda f, g: g.create_dataset(BIAS, (4,), "f4", external=[("other.bin", 0, 16)]),
        "must be stored in one piece",
    ),
    "a link out": (
        lambda f, g: g.__setitem__(BIAS, h5py.ExternalLink("other.h5", "/x")),
        "must be in the file, got no such weight",
    ),
    "a soft link": (
        lambda f, g: g.__setitem__(BIAS, h5py.SoftLink("/layers/rnn/cell/vars/3")),
        "must be in the file, got no such weight",
    ),
    "strings": (lambda f, g: g.create_dataset(BIAS, data=b"abc"), "must be an array of numbers"),
    "objects": (
        lambda f, g: g.create_dataset(BIAS, (4,), h5py.ref_dtype),
        "must be an array of numbers",
    ),
    "a group": (lambda f, g: g.create_group(BIAS), "must be an array of numbers"),
    "another shape": (lambda f, g: g.__setitem__(BIAS, np.zeros(5)), r"must be \(4,\), got \(5,\)"),
    "a scalar": (lambda f, g: g.__setitem__(BIAS, 3.0), r"got \(\)"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_datasets_are_refused(name, tmp_path):
    make, message = HOSTILE[name]
    path = tmp_path / "model.weights.h5"
    write_keras3(path, "cfc", extra=[replacing(BIAS, make)])
    refused(path, message)


def test_a_ring_of_groups_is_refused(tmp_path):
    def ring(file, group):
        file["layers/loop/again"] = file["layers"]

    path = tmp_path / "model.weights.h5"
    write_keras3(path, "cfc", extra=[ring])
    refused(path, "at most 10000 groups")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], r"h5py can read \(KeyError"),
        ([("config.json", "{")], "config.json must be JSON"),
        ([("config.json", "[" * 100_000)], "config.json must be JSON"),
        ([("config.json", "{}"), ("model.weights.h5", "nothing")], "h5py can read"),
        ([("config.json", "{}"), ("model.weights.h5", bytes(2**27))], "at most 100 times as many"),
    ],
)
def test_hostile_archives_are_refused(members, message, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members:
            archive.writestr(name, text)
    refused(path, message)


def test_several_layers_want_a_name(tmp_path):
    path = tmp_path / "model.weights.h5"
    write_keras3(path, "cfc", extra=[lambda f, g: f.copy(g, "layers/other")])
    with h5py.File(path, "a") as file:
        file["layers/other/vars"].attrs["name"] = "other"
    refused(path, r"name= must tell .*\['other', 'rnn'\]")
    check(CASES["cfc"], from_keras(path, name="other", return_sequences=True, return_state=True))
    with pytest.raises(ValueError, match=r"name must be one of \['other', 'rnn'\], got 'x'"):
        from_keras(path, name="x")


def test_corrupt_files_raise_or_load(tmp_path):
    path, rng = tmp_path / "model.weights.h5", np.random.default_rng(1)
    write_keras3(path, "cfc")
    data, refusals = path.read_bytes(), 0
    layer = CfC(3, 4, backbone_units=5, variant="keras")
    for _ in range(100):
        changed = bytearray(data)
        at = int(rng.integers(len(data)))
        if rng.integers(2):
            del changed[at:]
        else:
            changed[at : at + 4] = rng.bytes(4)
        path.write_bytes(changed)
        before = parameters(layer)
        try:
            from_keras(path, layer)
        except ValueError:
            refusals += 1
            assert_all_close(parameters(layer), before, 0.0)
    assert refusals > 40
