"""Weight files that are corrupt or hostile: refused before anything is allocated, and the layer
stays as it was.
"""

import json
import struct
import zipfile

import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_ncps import LTC, CfC, LSTMCell
from mlx_ncps.convert import from_torch, save_torch, to_torch
from mlx_ncps.weight_files import open_arrays
from mlx_ncps.wirings import NCP, AutoNCP

from tests.support.cases import assert_all_close

suffixes = pytest.mark.parametrize("suffix", ["safetensors", "npz"])
MAKERS = {
    "cfc_keras": lambda: CfC(3, AutoNCP(8, 2), variant="keras"),
    "ltc_wired": lambda: LTC(3, NCP(3, 2, 2, 2, 2, 2, 2), mixed_memory=True, proj_size=2),
}


def weights(module):
    return {name: np.array(array) for name, array in tree_flatten(module.parameters())}


def refused(module, source, message):
    """Loading raises, and leaves every array of the module as it was."""
    before = weights(module)
    with pytest.raises(ValueError, match=message):
        module.load_weights(source)
    after = weights(module)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert np.array_equal(array, after[name]), name


# --- hostile safetensors -----------------------------------------------------------------------

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def safetensors(header, data=bytes(8), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


SAFETENSORS = {
    "empty": (b"", "header must be at most 0 bytes"),
    "short": (b"\1\2\3", "header must be at most 0 bytes"),
    "header of petabytes": (safetensors({"a": F32}, length=2**50), r"at most \d+ bytes, got 1125"),
    "header of all bits": (safetensors({"a": F32}, length=2**64 - 1), "header must be at most"),
    "no JSON": (safetensors(b"{{{{"), "header must be JSON"),
    "no UTF-8": (safetensors(b'{"\xff": 1}'), "header must be JSON"),
    "NaN in JSON": (safetensors(b'{"a": {"dtype": "F32", "shape": [NaN]}}'), "NaN is no number"),
    "deep JSON": (safetensors(b"[" * 100_000), "header must be JSON"),
    "a list": (safetensors([1, 2]), "header must be an object"),
    "a number": (safetensors({"a": 3}), "a must have dtype, shape and data_offsets, got 3"),
    "twice": (
        safetensors(b'{"a":%(f)s,"a":%(f)s}' % {b"f": json.dumps(F32).encode()}),
        "'a' is there twice",
    ),
    "bad metadata": (safetensors({"__metadata__": [1], "a": F32}), "__metadata__ must be an obj"),
    "other checksums": (
        safetensors({"__metadata__": {"crc32.b": "00000000"}, "a": F32}),
        "must have a checksum of each array, or none",
    ),
    "unknown dtype": (safetensors({"a": F32 | {"dtype": "F8"}}), "a must have a dtype of F64, "),
    "dtype of a list": (safetensors({"a": F32 | {"dtype": [1]}}), "a must have a dtype of F64, "),
    "no dtype": (safetensors({"a": {"shape": [2]}}), "a must have a dtype of F64, .* got None"),
    "shape of petabytes": (safetensors({"a": F32 | {"shape": [2**47]}}), "must have 562949953421"),
    "shape that wraps": (safetensors({"a": F32 | {"shape": [2**32 + 2]}}), "must have 17179869192"),
    "negative shape": (
        safetensors({"a": F32 | {"shape": [-2]}}),
        r"a must have a shape of at most",
    ),
    "shape of floats": (safetensors({"a": F32 | {"shape": [2.0]}}), "a must have a shape of at"),
    "shape of bools": (safetensors({"a": F32 | {"shape": [True]}}), "a must have a shape of at"),
    "shape is a number": (safetensors({"a": F32 | {"shape": 2}}), "a must have a shape of at most"),
    "many axes": (safetensors({"a": F32 | {"shape": [1] * 99}}), "shape of at most 16 sizes"),
    "no offsets": (safetensors({"a": F32 | {"data_offsets": [0]}}), "a must have two data_offsets"),
    "offsets backwards": (
        safetensors({"a": F32 | {"data_offsets": [8, 0]}}),
        "a must have 8 bytes",
    ),
    "offsets outside": (
        safetensors({"a": F32 | {"data_offsets": [2**40, 2**40 + 8]}}),
        "a must lie at 0 within 8 bytes of data, got 1099511627776",
    ),
    "negative offset": (safetensors({"a": F32 | {"data_offsets": [-8, 0]}}), "two data_offsets"),
    "truncated": (
        safetensors({"a": F32}, bytes(4)),
        "a must lie at 0 within 4 bytes, got|within 4",
    ),
    "left over": (safetensors({"a": F32}, bytes(9)), "arrays must fill the 9 bytes of data, got 8"),
    "overlap": (
        safetensors({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, bytes(12)),
        "b must lie at 8 within 12 bytes of data, got 4 to 12",
    ),
    "same bytes": (safetensors({"a": F32, "b": F32}), "b must lie at 8 within 8 bytes of data"),
    "gap": (
        safetensors({"a": F32, "b": F32 | {"data_offsets": [12, 20]}}, bytes(20)),
        "b must lie at 8 within 20 bytes of data, got 12",
    ),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_hostile_safetensors_are_refused(name, tmp_path):
    data, message = SAFETENSORS[name]
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    module = LSTMCell(3, 4)
    refused(module, path, r"\[load_weights\] w\.safetensors: .*" + message)
    with pytest.raises(ValueError, match=r"\[from_torch\] w\.safetensors: "):
        from_torch(path)


def test_a_flipped_byte_of_the_data_is_found_by_its_checksum(tmp_path):
    module, path = LSTMCell(3, 4), tmp_path / "w.safetensors"
    module.save_weights(path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    refused(module, path, "must have the checksum")


# --- hostile npz -------------------------------------------------------------------------------


def npz(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)


def npy(shape="(2,)", descr="'<f4'", data=bytes(8), version=b"\1\0"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


NPZ = {
    "no zip": (None, "must be an .npz file that can be read"),
    "objects": ([("a.npy", npy(descr="'|O'"))], "must hold numbers, got dtype object"),
    "strings": ([("a.npy", npy(descr="'<U2'"))], "must hold numbers, got dtype <U2"),
    "complex": ([("a.npy", npy(descr="'<c8'"))], "must hold numbers, got dtype complex64"),
    "fields": ([("a.npy", npy(descr="[('x', '<f4')]"))], "must hold numbers"),
    "petabytes": ([("a.npy", npy("(1125899906842624,)"))], "must have 4503599627370496 bytes"),
    "product wraps": ([("a.npy", npy("(4294967296, 4294967298)"))], "must have 73786976"),
    "negative": ([("a.npy", npy("(-2,)"))], "must have a shape"),
    "truncated": ([("a.npy", npy("(3,)"))], "a.npy must have 12 bytes for its shape"),
    "left over": ([("a.npy", npy("(1,)"))], "a.npy must have 4 bytes for its shape"),
    "many axes": ([("a.npy", npy("(" + "1," * 99 + ")", data=bytes(4)))], "must have a shape"),
    "no magic": ([("a.npy", b"hello there, no magic at all")], "can be read"),
    "version 3": ([("a.npy", npy(version=b"\3\0"))], "version of an .npy file must be 1.0 or 2.0"),
    "no header": ([("a.npy", b"\x93NUMPY\1\0\xff\xff{")], "can be read"),
    "code": ([("a.npy", npy("__import__('os').abort()"))], "can be read"),
    "nested": ([("a.npy", npy("(" * 2000))], "can be read"),
    "twice": ([("a.npy", npy()), ("a", npy())], "'a' is there twice"),
}


@pytest.mark.parametrize("name", NPZ)
def test_hostile_npz_are_refused(name, tmp_path):
    members, message = NPZ[name]
    path = tmp_path / "w.npz"
    if members is None:
        path.write_bytes(b"PK\3\4 but no archive")
    else:
        npz(path, members)
    refused(LSTMCell(3, 4), path, r"(?s)\[load_weights\] w\.npz: .*" + message)
    with pytest.raises(ValueError, match=r"\[from_torch\] w\.npz: "):
        from_torch(path)


def test_pickles_in_an_npz_are_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.savez(tmp_path / "w.npz", a=np.array([Bomb()], object))
    refused(LSTMCell(3, 4), tmp_path / "w.npz", "must hold numbers, got dtype object")
    assert not (tmp_path / "ran").exists()


def test_a_zip_bomb_is_refused_before_it_is_inflated(tmp_path):
    path, size = tmp_path / "w.npz", 2**27
    npz(path, [("a.npy", npy(f"({size // 4},)", data=bytes(size)))], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**18
    refused(LSTMCell(3, 4), path, "must hold at most 100 times as many, got 134217")


def test_a_zip_that_claims_less_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "w.npz"
    npz(path, [("a.npy", npy(data=bytes(100_000)))], zipfile.ZIP_DEFLATED)
    data = path.read_bytes().replace(
        struct.pack("<I", len(npy(data=b"")) + 100_000), struct.pack("<I", len(npy()))
    )
    path.write_bytes(data)
    refused(LSTMCell(3, 4), path, "w.npz: ")


# --- files of sizes that don't fit together, other files ---------------------------------------


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("rnn_cell.backbone.2.weight", (100_000, 1)),
        ("rnn_cell.ff1.weight", (100_000, 1)),
        ("lstm.input_map.weight", (1, 1)),
    ],
)
def test_sizes_of_a_state_dict_cannot_ask_for_a_huge_layer(key, shape):
    arrays = to_torch(CfC(3, 4, backbone_units=5, backbone_layers=2), numpy=True)
    if key == "lstm.input_map.weight":
        arrays |= {"rnn_cell.ff1.weight": np.zeros((50_000, 5), np.float32)}
        arrays |= {"rnn_cell.backbone.0.weight": np.zeros((5, 50_003), np.float32)}
    with pytest.raises(ValueError, match=r"\[from_torch\] source must have shapes that fit"):
        from_torch(arrays | {key: np.zeros(shape, np.float32)})


def test_sizes_of_an_ltc_cannot_either():
    arrays = to_torch(LTC(3, 4), numpy=True)
    huge = {"rnn_cell.sensory_w": np.zeros((1, 200_000), np.float32)}
    with pytest.raises(ValueError, match="a layer of 40000200000 numbers, got"):
        from_torch(arrays | huge)


@pytest.mark.parametrize("suffix", ["gguf", "npy", "pickle", ""])
def test_other_files_are_refused(suffix, tmp_path):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(b"anything")
    message = r"\[load_weights\] file must end in .safetensors or .npz, got 'w"
    refused(LSTMCell(3, 4), str(path), message)
    with pytest.raises(ValueError, match=r"\[save_weights\] file must end in .safetensors"):
        LSTMCell(3, 4).save_weights(path)


@suffixes
def test_a_missing_file_is_said_to_be_missing(suffix, tmp_path):
    with pytest.raises(FileNotFoundError):
        LSTMCell(3, 4).load_weights(tmp_path / f"w.{suffix}")


# --- fuzzing -----------------------------------------------------------------------------------


def corrupted(data, rng):
    """One of: a flipped bit, another byte, a cut, bytes in between, zeros, a piece twice."""
    data, at = bytearray(data), int(rng.integers(len(data)))
    kind = rng.integers(6)
    if kind == 0:
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[at] = int(rng.integers(256))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        data[at:at] = rng.bytes(int(rng.integers(1, 9)))
    elif kind == 4:
        data[at : at + 8] = bytes(len(data[at : at + 8]))
    else:
        data[at:at] = data[at : at + 16]
    return bytes(data)


@suffixes
@pytest.mark.parametrize("name", ["ltc_wired", "cfc_keras"])
def test_corrupt_files_load_identical_weights_or_raise(name, suffix, tmp_path):
    module = MAKERS[name]()
    path, rng = tmp_path / f"w.{suffix}", np.random.default_rng(3)
    module.save_weights(path)
    data, want = path.read_bytes(), weights(module)
    outcomes = {"loaded": 0, "refused": 0}
    for _ in range(150):
        path.write_bytes(corrupted(data, rng))
        try:
            module.load_weights(path)
            outcomes["loaded"] += 1
        except ValueError:
            outcomes["refused"] += 1
        now = weights(module)
        assert now.keys() == want.keys()
        assert all(np.array_equal(now[key], want[key]) for key in want)
    assert outcomes["refused"] > 100, outcomes


@suffixes
def test_corrupt_state_dicts_convert_to_identical_weights_or_raise(suffix, tmp_path):
    layer = LTC(3, AutoNCP(8, 2))
    path, rng = tmp_path / f"w.{suffix}", np.random.default_rng(4)
    save_torch(layer, path)
    data, want = path.read_bytes(), to_torch(layer, numpy=True)
    refusals = 0
    for _ in range(60):
        path.write_bytes(corrupted(data, rng))
        try:
            assert_all_close(to_torch(from_torch(path), numpy=True), want, 0.0)
        except ValueError:
            refusals += 1
    assert refusals > 40


def test_corrupt_torch_files_raise_or_load(tmp_path):
    torch = pytest.importorskip("torch")
    layer = CfC(3, 4, backbone_units=5)
    path, rng = tmp_path / "w.pt", np.random.default_rng(5)
    torch.save(to_torch(layer), path)
    data, refusals = path.read_bytes(), 0
    for _ in range(60):
        path.write_bytes(corrupted(data, rng))
        try:
            from_torch(path, layer)
        except ValueError:
            refusals += 1
    assert refusals > 20


def test_open_arrays_reads_nothing_before_it_is_asked(tmp_path):
    path = tmp_path / "w.safetensors"
    LSTMCell(3, 4).save_weights(path)
    stored = open_arrays("test", path)
    assert stored["input_map.weight"].shape == (16, 3)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"\[test\] w\.safetensors: .* bytes, got"):
        [entry.read() for entry in stored.values()]
