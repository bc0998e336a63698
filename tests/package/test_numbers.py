"""What is numbered or listed twice, in Python and in C++, Metal or CUDA, is the same in both: the
headers of metal/ are read as text, so that this holds without the native module too.
"""

import re

import pytest
from mlx_ncps import _loader, ops
from mlx_ncps.backends import activations, cpu, fold, reference
from mlx_ncps.backends.gpu import runner
from mlx_ncps.ops import checks
from mlx_ncps.ops import numpy as truth
from mlx_ncps.ops.numpy import ltc_solvers

needs_native = pytest.mark.skipif(_loader.native is None, reason="native module not built")


def rows(header, name):
    """The lines X(...) of a list of a header, as tuples of words."""
    text = runner.text(header).replace("\\\n", " ")
    (line,) = re.findall(rf"#define {name}\(X\)(.*)", text)
    return [tuple(re.split(r"\s*,\s*", row)) for row in re.findall(r"X\(([^)]*)\)", line)]


def flags(one):
    return one.from_value, one.backbone, one.heads


def test_activations_of_python_are_those_of_the_kernels():
    listed = rows("activations.h", "NCPS_ACTIVATIONS")
    assert [(name, *map(str, flags(one))) for name, one in activations.TABLE.items()] == [
        (name, *(word.title() for word in words)) for _, name, *words in listed
    ]
    for place, (constant, name, *_) in enumerate(listed):
        assert constant == name.upper()
        assert activations.number(name) == place


def test_modes_of_python_are_those_of_the_kernels():
    listed = rows("cfc.h", "NCPS_CFC_MODES")
    assert tuple(name for _, name in listed) == activations.MODES == truth.MODES == ops.MODES
    assert [activations.mode_number(name) for _, name in listed] == list(range(len(listed)))


def test_solvers_of_python_are_those_of_the_kernels():
    names = tuple(name for _, name, _ in rows("ltc.h", "NCPS_LTC_SOLVERS"))
    assert names == checks.SOLVERS == tuple(reference.SOLVERS) == tuple(ltc_solvers.SOLVERS)


def test_activations_and_variants_of_the_ground_truth_are_those_of_the_package():
    assert truth.ACTIVATIONS == ops.ACTIVATIONS == tuple(activations.ACTIVATIONS)
    assert truth.VARIANTS == ops.VARIANTS == activations.VARIANTS
    heads = {activations.HEAD_ACTIVATIONS[variant] for variant in ops.VARIANTS}
    assert heads == {name for name, one in activations.TABLE.items() if one.heads}
    assert heads == set(fold.HEAD_ACTIVATIONS.values())


@needs_native
def test_lists_and_limits_of_the_native_module_are_those_of_python():
    native = _loader.native
    table = [(name, *flags(one)) for name, one in activations.TABLE.items()]
    assert list(native.activations) == table
    assert native.cfc_modes == activations.MODES
    assert native.ltc_solvers == checks.SOLVERS
    assert native.max_cfc_layers == cpu.MAX_LAYERS
