"""The signature at the head of every kernel of metal/ is what the launch code registers: its sizes,
macros, template arguments and buffers, by name, order, type and shape.
"""

import itertools
import math
import re
from collections import defaultdict
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from mlx_ncps import ops
from mlx_ncps.backends.gpu.geometry import APPLE, CUDA
from mlx_ncps.backends.gpu.trace import runner, trace_cfc, trace_ltc

from tests.support import ROOT

BODIES = {path.stem: path for path in (ROOT / "metal").glob("*.metal")}
KINDS = "sizes|flag|int|in float|in int|out float"
ROW = re.compile(rf"^//   ({KINDS}) +([^:]+?)(?: +: .*)?$")
BUFFER = re.compile(r"^([\w, ]+) \[(.*?)\](?: if (.+))?$")
OWN = {"NCPS_SHARE_ROWS", "NCPS_UNROLL", "THREADS"}  # macros of every body


class Buffer(NamedTuple):
    """A row of a signature for one buffer."""

    name: str
    output: bool
    dtype: str
    shape: tuple  # of expressions
    condition: str

    def exists(self, known: dict) -> bool:
        return eval(self.condition, {}, known)


class Signature(NamedTuple):
    """A parsed head."""

    sizes: list
    flags: list
    template: list
    buffers: list


@cache
def signature(stem: str) -> Signature:
    found = Signature([], [], [], [])
    for line in BODIES[stem].read_text(encoding="utf-8").splitlines():
        if not line.startswith("//   "):
            continue
        row = ROW.match(line)
        assert row, f"{stem}: {line!r} is no row of a signature"
        kind, what = row.groups()
        if kind == "sizes":
            found.sizes.extend(re.split(", ", what))
        elif kind in ("flag", "int"):
            (found.flags if kind == "flag" else found.template).append(what)
        else:
            names, shape, condition = BUFFER.match(what).groups()
            direction, dtype = kind.split()
            rest = direction == "out", dtype, tuple(shape.split(", ")), condition or "True"
            found.buffers.extend(Buffer(name, *rest) for name in names.split(", "))
    return found


def stem_of(name: str) -> str:
    """The file of a kernel, whose name ends with the macros that are 1."""
    return max((s for s in BODIES if name.startswith(f"ncps_{s}")), key=len)


def named_sizes(names: list, values: list, template: dict) -> dict:
    """{name: value} of `sizes`; of an array "widths[LAYERS]" the rest."""
    known = {}
    for at, name in enumerate(names):
        many = re.match(r"(\w+)\[(\w+)\]$", name)
        if many:
            assert at == len(names) - 1
            known[many[1]] = values[at:]
            assert len(values) - at == template[many[2]]
        else:
            known[name] = values[at]
    return known


def check_shape(shape, wanted: tuple, known: dict) -> None:
    """`shape` is `wanted`, whose first dimension may stand for several; a name that is not known
    yet is what it is here, and in all other buffers.
    """
    assert len(shape) >= len(wanted)
    several = len(shape) - len(wanted) + 1
    for size, expression in zip(
        (math.prod(shape[:several]), *shape[several:]), wanted, strict=True
    ):
        if expression.isidentifier():
            known.setdefault(expression, size)
        assert size == eval(expression.replace("/", "//"), {}, known), expression


def check(kernel: dict, call: dict) -> tuple[str, list]:
    """Asserts that a launch is as its file says -> (file, the rows that it is made of)."""
    stem = stem_of(kernel["name"])
    declared, template = signature(stem), dict(call["template"])
    macros = re.findall(r"^#define ([A-Z_]+) ([01])$", kernel["header"], re.MULTILINE)
    assert {name for name, _ in macros} == set(declared.flags)
    assert [name for name in template if name != "THREADS"] == declared.template
    known = {name: value == "1" for name, value in macros} | template
    sizes = dict(zip(kernel["input_names"], call["inputs"], strict=True))["sizes"]
    known |= named_sizes(declared.sizes, sizes.tolist(), template)
    rows = [row for row in declared.buffers if row.exists(known)]
    names = kernel["input_names"][1:], kernel["output_names"]
    assert names == tuple([b.name for b in rows if b.output == out] for out in (False, True))
    arrays = [(a.shape, str(a.dtype)) for a in call["inputs"][1:]]
    arrays += [
        (shape, str(dtype))
        for shape, dtype in zip(call["output_shapes"], call["output_dtypes"], strict=True)
    ]
    for row, (shape, dtype) in zip(sorted(rows, key=lambda b: b.output), arrays, strict=True):
        assert dtype == {"float": "mlx.core.float32", "int": "mlx.core.int32"}[row.dtype], row
        check_shape(shape, row.shape, known)
    return stem, rows


# ---- All registrations --------------------------------------------------------------------------


def sparse(units, inputs):
    draw = np.random.default_rng(units)
    masks = draw.random((units, units)) < 0.1, draw.random((inputs, units)) < 0.3
    return ops.SynapseLists(*(mask.astype(float) for mask in masks))


GEOMETRIES = (APPLE, CUDA, replace(APPLE, lists_forward_per=0, dense_units=0))
LTC = [
    {"batch": b, "steps": 2, "inputs": 7, "units": h, "unfolds": 3, "synapses": lists}
    for b, h in ((3, 9), (40, 70), (300, 33))
    for lists in (None, sparse(h, 7))
]
LTC.append(LTC[0] | {"implicit": True})
CFC = [
    {"batch": b, "steps": 2, "inputs": 7, "units": h, "backbone": (k,) * layers, "mode": mode}
    | {"activation": "gelu", "scalar_ts": scalar}
    for (b, h, k), layers, mode, scalar in itertools.product(
        ((3, 9, 5), (40, 130, 70), (2, 500, 500), (64, 24, 16), (130, 96, 64)),
        (0, 2),
        ("default", "pure"),
        (True, False),
    )
]
CFC += [
    CFC[4] | {"variant": variant, "dropout": drop, "resets": anew, "holds": holds}
    for variant in ("torch", "keras")
    for drop, anew, holds in itertools.product((True, False), repeat=3)
]


@pytest.fixture(scope="module")
def registered():
    """{file: the rows that its launches were made of, with the macros}; all were checked."""
    found = defaultdict(set)

    def launched(kernel, call):
        stem, rows = check(kernel, call)
        found[stem].update(rows)
        macros = re.findall(r"^#define ([A-Z_]+ [01])$", kernel["header"], re.MULTILINE)
        found[stem].update(macros)

    for geometry, training in itertools.product(GEOMETRIES, (False, True)):
        for trace, calls in ((trace_ltc, LTC), (trace_cfc, CFC)):
            for facts in calls:
                trace(runner(launched, geometry), **facts, training=training)
    return found


def test_every_launch_is_as_the_head_of_its_kernel_says(registered):
    assert set(registered) == set(BODIES)


@pytest.mark.parametrize("stem", BODIES)
def test_every_row_of_a_head_is_of_some_launch(registered, stem):
    declared = signature(stem)
    assert [row for row in declared.buffers if row not in registered[stem]] == []
    values = {f"{flag} {on}" for flag in declared.flags for on in (0, 1)}
    assert values <= registered[stem]


@pytest.mark.parametrize("stem", BODIES)
def test_a_body_reads_what_its_head_names_and_nothing_else(stem):
    text = re.sub(r"//.*", "", BODIES[stem].read_text(encoding="utf-8"))
    declared = signature(stem)
    for name in (*declared.flags, *(buffer.name for buffer in declared.buffers)):
        assert re.search(rf"\b{name}\b", text), f"{name} is not read"
    unread = {name for name in declared.template if not re.search(rf"\b{name}\b", text)}
    assert unread <= {"ACTIVATION", "MODE"}  # of one launch code for all modes
    for name, at in re.findall(r"(\w+) = uint\(sizes\[(\d+)\]\)", text):
        assert declared.sizes[int(at)].split("[")[0] == name
    macros = set(re.findall(r"\b[A-Z][A-Z_]+[A-Z0-9]*\b(?! = )", text))
    own = OWN | set(re.findall(r"(?:constexpr (?:float|int)|#define) (\w+)", text))
    assert macros - own <= {*declared.flags, *declared.template}


def test_a_head_that_is_not_true_is_found():
    calls = []
    run = runner(lambda *launch: calls.append(launch))
    trace_ltc(run, **LTC[0], training=True)
    kernel, call = next(c for c in calls if c[0]["name"] == "ncps_ltc_dense_backward")
    assert check(kernel, call)[0] == "ltc_dense_backward"
    names = [*kernel["input_names"]]
    names[1], names[2] = names[2], names[1]
    wrong = [
        (kernel | {"input_names": names}, call),
        (kernel, call | {"template": [("PER", 1), ("UNITS", 9), ("PARTS", 8)]}),
        (kernel, call | {"output_shapes": call["output_shapes"][::-1]}),
        (kernel | {"header": kernel["header"].replace("#define LISTS", "#define LISTED")}, call),
    ]
    for launch in wrong:
        with pytest.raises(AssertionError):
            check(*launch)
