"""The text that the simulator compiles is the text that MLX generates.

mx.export_function traces a call without a Metal device and hands out the CustomKernel node, whose
arguments are the kernel's name, its source, the grid and the threadgroup.
"""

from typing import NamedTuple

import mlx.core as mx
import mslsim
import pytest
from mslsim.fast import dtype_name

SOURCE = "uint i = thread_position_in_grid.x;\n  y[i] = T(x[i] * s);\n"


class Facts(NamedTuple):
    """What the text may depend on of an array, beside its dtype."""

    ndim: int
    size: int


def mlx_node(call, *inputs):
    """Arguments of the CustomKernel that `call` makes."""
    nodes = []

    def note(node):
        if node.get("name") == "CustomKernel":
            nodes.append(node["arguments"])

    mx.export_function(note, call, *inputs)
    (arguments,) = nodes
    return arguments


def check(inputs, names, source, outputs=(("y", mx.float32),), template=None, **kernel_options):
    """Build the kernel with MLX and with the simulator, compare name and text."""
    arguments = ("k", names, [name for name, _ in outputs], source)
    original = mx.fast.metal_kernel(*arguments, **kernel_options)
    simulated = mslsim.metal_kernel(*arguments, **kernel_options)

    def call(*arrays):
        return original(
            inputs=list(arrays),
            template=template,
            grid=(64, 2, 1),
            threadgroup=(32, 2, 1),
            output_shapes=[(64,)] * len(outputs),
            output_dtypes=[dtype for _, dtype in outputs],
        )

    name, text, *rest = mlx_node(call, *inputs)
    described = [(Facts(a.ndim, a.size), dtype_name(a.dtype)) for a in inputs]
    values = [(key, dtype_name(v) if isinstance(v, mx.Dtype) else v) for key, v in template or ()]
    dtypes = [dtype_name(dtype) for _, dtype in outputs]
    assert simulated.text(described, dtypes, values) == (name, text)
    assert rest[:6] == [64, 2, 1, 32, 2, 1]
    return text


def test_template_of_every_kind():
    template = [("T", mx.bfloat16), ("N", 3), ("B", True), ("M", -2), ("C", False)]
    inputs = [mx.zeros((64,), mx.bfloat16), mx.array(2.0)]
    check(inputs, ["x", "s"], SOURCE, [("y", mx.bfloat16)], template)


def test_no_template_with_header():
    header = "// helpers\ninline float twice(float v) { return 2 * v; }\n"
    inputs = [mx.zeros(64), mx.array(2.0)]
    source = "y[thread_position_in_grid.x] = twice(s);"
    check(inputs, ["x", "s"], source, header=header)


@pytest.mark.parametrize(
    ("shape", "declaration"),
    [
        ((), "const constant float& x "),
        ((1,), "const constant float* x "),
        ((7,), "const constant float* x "),
        ((0,), "const constant float* x "),
        ((8,), "const device float* x "),
        ((2, 4), "const device float* x "),
        ((1, 7), "const constant float* x "),
    ],
)
def test_small_inputs_live_in_constant_space(shape, declaration):
    text = check([mx.zeros(shape)], ["x"], "y[thread_position_in_grid.x] = 1;")
    assert declaration in text


@pytest.mark.parametrize(
    "dtype",
    [
        *(mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32),
        *(mx.int64, mx.float16, mx.bfloat16, mx.float32, mx.complex64),
    ],
    ids=str,
)
def test_each_dtype_has_mlx_text(dtype):
    check([mx.zeros((9,), dtype)], ["x"], "y[0] = x[0];", [("y", dtype)], [("T", dtype)])


def test_shape_strides_and_ndim_only_when_named():
    source = "y[0] = x_shape[0] + w_strides[1] + x_ndim + s_shape; // w_ndim"
    text = check([mx.zeros((3, 4)), mx.zeros((2, 5)), mx.array(1.0)], ["x", "w", "s"], source)
    assert "x_strides" not in text
    assert "const constant int& w_ndim [[buffer(5)]]" in text  # a comment counts


def test_every_attribute_has_mlx_text():
    attributes = mslsim.signature.ATTRIBUTES
    for names in (attributes, list(attributes)[::3]):
        source = " ".join(f"// {name}\n" for name in names) + "y[0] = 1;"
        text = check([mx.zeros(64)], ["x"], source)
        assert all(f"{attributes[name]} {name} [[{name}]]" in text for name in names)


def test_several_atomic_outputs():
    outputs = [("y", mx.float32), ("z", mx.uint32)]
    source = "atomic_fetch_add_explicit(&y[0], 1, memory_order_relaxed);"
    text = check([mx.zeros(64)], ["x"], source, outputs, atomic_outputs=True)
    assert "device atomic<uint32_t>* z [[buffer(2)]]" in text
