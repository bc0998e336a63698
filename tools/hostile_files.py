"""The files that the fuzz reads: real ones of every format, and the ways to spoil them."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_ncps import LTC, CfC, config
from mlx_ncps.convert import from_keras, from_torch, save_torch, to_torch
from mlx_ncps.wirings import NCP, AutoNCP, Random

try:
    import h5py
except ImportError:
    h5py = None

HUGE = (-1, 0, 2**20, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**64, 10**30)
ODD = (*HUGE, None, True, 1.5, float("nan"), float("inf"), "", "x", [], {}, [[]], {"class": "x"})


class Reader(NamedTuple):
    """How a file is read, and the layer that a refused one must not change."""

    read: Callable[[Path], Any]
    layer: Any


def parameters(layer) -> dict:
    """The bytes of all parameters of a layer by name."""
    if layer is None:
        return {}
    return {name: np.array(array).tobytes() for name, array in tree_flatten(layer.parameters())}


def same(before: dict, after: dict) -> bool:
    """Whether no parameter changed."""
    return before == after


def make(seed: int, case: int, folder: Path) -> tuple[str, Path, Reader]:
    """(what was done, the path of the file, its reader) of a case."""
    rng = random.Random(f"{seed} {case}")
    mx.random.seed(1)
    kinds = [name for name in _MAKERS if h5py or name not in ("h5", "keras")]
    kind = kinds[case % len(kinds)]
    name, data, reader, change = _MAKERS[kind](rng, folder)
    path = folder / f"case-{os_id()}-{name}"
    if data is not None:
        rounds = rng.choice((0, 0, 0, 1)) if change != "none" else rng.choice((0, 1, 1, 2))
        for _ in range(rounds):
            change, data = _corrupt(rng, data, change)
        path.write_bytes(data)
    return f"{kind}, {change}", path, reader


def os_id() -> int:
    """A number of this process, for file names."""
    import os

    return os.getpid()


def _corrupt(rng, data: bytes, change: str) -> tuple[str, bytes]:
    """Bytes with something wrong anywhere."""
    data = bytearray(data)
    at = rng.randrange(max(len(data), 1))
    how = rng.choice(("cut", "bits", "bytes", "number", "number", "copy", "drop", "more"))
    if how == "cut":
        del data[at:]
    elif how == "bits" and data:
        data[at] ^= 1 << rng.randrange(8)
    elif how == "bytes":
        data[at : at + 8] = rng.randbytes(8)
    elif how == "number":
        size = rng.choice((1, 2, 4, 8))
        value = rng.choice(HUGE) % 256**size
        near = rng.randrange(min(len(data), 512) + 1) if rng.random() < 0.5 else at
        data[near : near + size] = value.to_bytes(size, rng.choice(("little", "big")))
    elif how == "copy":
        data[at:at] = data[: rng.randrange(1, 200)]
    elif how == "drop":
        del data[at : at + rng.randrange(1, 64)]
    else:
        data += rng.randbytes(rng.randrange(1, 64))
    return f"{change}, {how} at {at}", bytes(data)


def _edit(rng, value, depth=0):
    """(what was done, a JSON value with one thing in it replaced)."""
    if isinstance(value, dict) and value and (depth == 0 or rng.random() < 0.9):
        keys = sorted(value, key=str)
        inner = [key for key in keys if isinstance(value[key], dict | list)]
        key = rng.choice(inner if inner and rng.random() < 0.7 else keys)
        how = rng.random()
        if how < 0.05:
            return f"no {key}", {k: v for k, v in value.items() if k != key}
        if how < 0.1:
            return f"{key} renamed", {(f"{k}_" if k == key else k): v for k, v in value.items()}
        done, new = _edit(rng, value[key], depth + 1)
        return f"{key}: {done}", {**value, key: new}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        done, new = _edit(rng, value[at], depth + 1)
        return f"[{at}] {done}", [*value[:at], new, *value[at + 1 :]]
    if rng.random() < 0.05:
        return "nested", json.loads("[" * 500 + "]" * 500)
    new = rng.choice(ODD)
    return f"{new!r:.30}", new


# --- what is read ------------------------------------------------------------------------------


def _layer(rng):
    layers = (
        lambda: LTC(3, AutoNCP(8, 2)),
        lambda: CfC(3, 5, backbone_units=4),
        lambda: CfC(3, AutoNCP(8, 2), mixed_memory=True),
        lambda: LTC(3, 4, bidirectional=True),
    )
    return rng.choice(layers)()


def _weights(suffix: str):
    def maker(rng, folder: Path):
        source, layer = rng.choice((0, 1, 2)), _layer(rng)
        path = folder / f"real-{os_id()}{suffix}"
        if source == 0:
            layer.save_weights(path)
            reader = Reader(layer.load_weights, layer)
        else:
            layer = CfC(3, 5) if source == 1 else LTC(3, AutoNCP(8, 2))
            save_torch(layer, path)
            reader = Reader(lambda p: from_torch(p, layer), layer)
            if rng.random() < 0.5:
                reader = Reader(from_torch, None)
        data = path.read_bytes()
        if rng.random() < 0.5:
            return f"a{suffix}", data, reader, "none"
        change, data = (_edit_safetensors if suffix == ".safetensors" else _edit_zip)(rng, data)
        return f"a{suffix}", data, reader, change

    return maker


def _edit_safetensors(rng, data: bytes) -> tuple[str, bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    how = rng.choice(("edit", "edit", "edit", "nan", "twice", "deep", "length"))
    if how == "edit":
        how, header = _edit(rng, header)
        text = json.dumps(header).encode()
    elif how == "nan":
        header.pop("__metadata__", None)
        text = json.dumps(header).encode()
        body = b"\xff" * len(body)
    elif how == "twice":
        text = json.dumps(header).encode()
        text = text[:-1] + b"," + text[1:]
    elif how == "deep":
        text = b"[" * 10**6
    else:
        text = json.dumps(header).encode()
        return how, rng.choice(HUGE[2:7]).to_bytes(8, "little") + text + body
    return how, struct.pack("<Q", len(text)) + text + body


def _edit_zip(rng, data: bytes) -> tuple[str, bytes]:
    """An archive with a member renamed, left out, twice, inflated, replaced or nested."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(m.filename, archive.read(m)) for m in archive.infolist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    how = rng.choice(
        ("renamed", "left out", "twice", "bomb", "nested", "inside", "odd name", "npy")
    )
    if how == "renamed":
        members[at] = (members[rng.randrange(len(members))][0] + "x", content)
    elif how == "left out":
        del members[at]
    elif how == "twice":
        members.append(members[at])
    elif how == "bomb":
        members[at] = (name, content + bytes(2**26 + rng.randrange(2**20)))
    elif how == "nested":
        members[at] = (name, data)
    elif how == "inside":
        how, content = _corrupt(rng, content, how)
        members[at] = (name, content)
    elif how == "odd name":
        members[at] = (rng.choice(("", "/", "../x.npy", "\x00", "x" * 60000, "é.npy")), content)
    else:
        shape = tuple(abs(rng.choice(HUGE[:7])) for _ in range(rng.randrange(4)))
        descr = rng.choice(("<f4", "<f8", "|O", "<U9", "<f2", "<c8", "|V2", "[('a', '<f4')]", "?"))
        text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117)
        header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"
        members[at] = (name, header + content[128:])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as made:
        for name, content in members:
            info = zipfile.ZipInfo(name or "x")
            info.compress_type = made.compression
            made.writestr(info, content)
    return f"member {how}", out.getvalue()


def _torch(rng, folder: Path):
    """The zip archive that torch.save writes of a state dict, made without PyTorch."""
    layer = CfC(3, 5) if rng.random() < 0.5 else LTC(3, AutoNCP(8, 2))
    arrays = list(to_torch(layer, numpy=True).items())
    sizes = rng.random() < 0.3
    pickled = [b"\x80\x02ccollections\nOrderedDict\n)R("]
    for n, (name, array) in enumerate(arrays):
        claim = rng.choice(HUGE[2:]) if sizes and rng.random() < 0.2 else array.size
        pickled += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n((", _text("storage")]
        pickled += [b"ctorch\nFloatStorage\n", _text(str(n)), _text("cpu"), _int(claim), b"tQ"]
        pickled += [_int(0), _ints(array.shape), _ints([s // 4 for s in array.strides])]
        pickled += [b"\x89ccollections\nOrderedDict\n)RtR"]
    text = b"".join([*pickled, b"u."])
    what = "none"
    if rng.random() < 0.2:
        what = rng.choice(("bytearray", "system", "encode"))
        hostile = {
            "bytearray": b"cbuiltins\nbytearray\n" + _int(10**11) + b"\x85R.",
            "system": b"cos\nsystem\n" + _text("exit 7") + b"\x85R.",
            "encode": b"c_codecs\nencode\n" + _text("x") + b"\x85R.",
        }
        text = b"\x80\x02" + hostile[what]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("model/data.pkl", text)
        archive.writestr("model/byteorder", "little")
        for n, (_, array) in enumerate(arrays):
            archive.writestr(f"model/data/{n}", array.tobytes())
        archive.writestr("model/version", "3\n")
    data = out.getvalue()
    if what == "none" and rng.random() < 0.5:
        what, data = _edit_zip(rng, data)
    reader = Reader(lambda p: from_torch(p, layer), layer)
    return "a.pt", data, reader, what


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a\x10" + data


def _ints(values) -> bytes:
    return b"(" + b"".join(_int(value) for value in values) + b"t"


def _keras_arrays(rng):
    """The arrays of an LTC of Keras with a wiring in the order of get_weights(), and its name."""
    cell = LTC(3, AutoNCP(8, 2)).rnn_cell
    names = ("gleak", "vleak", "cm", "sigma", "mu", "w", "erev")
    names += ("sensory_sigma", "sensory_mu", "sensory_w", "sensory_erev")
    arrays = [np.array(cell[name]) for name in names]
    return arrays + [
        np.array(cell[name]) for name in ("input_w", "input_b", "output_w", "output_b")
    ]


def _write_keras(file, rng) -> str:
    """A weights file of Keras 3, one layer or two directions, with a fault in its structure."""
    places = rng.choice(
        (["layers/ltc"], ["layers/both/forward_layer", "layers/both/backward_layer"])
    )
    what = rng.choice(("none", "none", "huge", "chunked", "link", "ring", "text", "deep", "odd"))
    with h5py.File(file, "w") as opened:
        for place in places:
            group = opened.create_group(place)
            group.create_group("vars").attrs["name"] = place.rpartition("/")[2]
            for n, array in enumerate(_keras_arrays(rng)):
                group[f"cell/vars/{n}"] = array
        spoilt = opened[places[-1]]["cell/vars"]
        name = str(rng.randrange(15))
        if what in ("huge", "chunked", "text", "link", "odd"):
            del spoilt[name]
        if what == "huge":
            spoilt.create_dataset(name, (rng.choice((2**30, 2**40, 2**50)),), "f4")
        elif what == "chunked":
            spoilt.create_dataset(name, (2**33,), "f4", chunks=(2**20,), compression="gzip")
        elif what == "text":
            spoilt[name] = rng.choice((b"text", "text", np.zeros(3, np.complex64)))
        elif what == "link":
            spoilt[name] = rng.choice((h5py.SoftLink("/x"), h5py.ExternalLink("x.h5", "/x")))
        elif what == "odd":
            spoilt[name] = rng.choice((np.float64(1e300), np.zeros((0, 8)), np.full((8,), np.nan)))
        elif what == "ring":
            opened["layers/again"] = opened["layers"]
        elif what == "deep":
            opened.create_group("/".join(["x"] * 200))
    return what


def _h5(rng, folder: Path):
    file = io.BytesIO()
    what = _write_keras(file, rng)
    layer = LTC(3, AutoNCP(8, 2), bidirectional=rng.random() < 0.5)
    known = {"input_mapping": "affine", "output_mapping": "affine"}
    reader = Reader(lambda p: from_keras(p, layer), layer)
    if rng.random() < 0.5:
        reader = Reader(lambda p: from_keras(p, **known), None)
    return "a.weights.h5", file.getvalue(), reader, what


def _keras(rng, folder: Path):
    file = io.BytesIO()
    what = _write_keras(file, rng)
    wiring = {"class_name": "AutoNCP", "config": {"units": 8, "output_size": 2, "input_dim": 3}}
    inner = {"units": wiring, "ode_unfolds": 4, "epsilon": 1e-8, "return_sequences": True}
    inner |= {"input_mapping": "affine", "output_mapping": "affine", "name": "ltc"}
    one = {"class_name": "LTC", "config": inner}
    halves = {
        "layer": {"class_name": "LTC", "config": inner | {"name": "forward_layer"}},
        "backward_layer": {"class_name": "LTC", "config": inner | {"name": "backward_layer"}},
    }
    both = {
        "class_name": "Bidirectional",
        "config": {"name": "both", "merge_mode": "sum", **halves},
    }
    model = {"class_name": "Sequential", "config": {"name": "model", "layers": [one, both]}}
    if rng.random() < 0.7:
        done, model = _edit(rng, model)
        what = f"{what}, {done}"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as made:
        made.writestr("config.json", json.dumps(model))
        made.writestr("model.weights.h5", file.getvalue())
    data = out.getvalue()
    if rng.random() < 0.2:
        what, data = _edit_zip(rng, data)
    layer = LTC(3, AutoNCP(8, 2)) if rng.random() < 0.3 else None
    reader = Reader((lambda p: from_keras(p, layer)) if layer else from_keras, layer)
    return "a.keras", data, reader, what


def _config(rng, folder: Path):
    """A configuration with a few values replaced, as JSON in a file."""
    wirings = (AutoNCP(8, 2), NCP(3, 3, 2, 2, 2, 3, 2), Random(6, 2, 0.5))
    wiring = rng.choice(wirings)
    made = rng.choice((wiring, CfC(3, wiring), LTC(3, wiring, bidirectional=True), _layer(rng)))
    value, done = config.to_config(made), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        what, value = _edit(rng, value)
        done.append(what)
    reader = Reader(lambda p: config.from_config(json.loads(p.read_text())), None)
    path = folder / f"case-{os_id()}-a.json"
    path.write_text(json.dumps(value))
    return "a.json", None, reader, "; ".join(done)


_MAKERS = {
    "safetensors": _weights(".safetensors"),
    "npz": _weights(".npz"),
    "pt": _torch,
    "h5": _h5,
    "keras": _keras,
    "config": _config,
}
