"""simdgroup_matrix: what its functions give, in every order, and the mistakes that are found."""

import mslsim
import numpy as np
import pytest

# y = x w in tiles of 8 x 8, a SIMD group for each 8 columns; x lies in threadgroup memory as
# [column][row]
PRODUCT = """
    threadgroup float held[K][8];
    const uint lane = thread_position_in_threadgroup.x, tile = lane / 32u * 8u;
    for (uint at = lane; at < uint(8 * K); at += threads_per_threadgroup.x) {
      held[at % K][at / K] = x[at];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8, 8>(0.5f);
    for (uint k = 0u; k < uint(K); k += 8u) {
      simdgroup_float8x8 a, b;
      simdgroup_load(a, &held[k][0], 8, ulong2(0), true);
      simdgroup_load(b, w, N, ulong2(tile, k));
      simdgroup_multiply_accumulate(sum, a, b, sum);
    }
    simdgroup_store(sum, y + tile, N);
"""
HEADER = "#include <metal_simdgroup_matrix>\n"
K, N = 24, 16


def run(source=PRODUCT, threads=32 * N // 8, **options):
    x, w = arrays()
    kernel = mslsim.metal_kernel("matrices", ["x", "w"], ["y"], source, header=HEADER)
    with mslsim.options(**options):
        (y,) = kernel(
            inputs=[x, w],
            template=[("K", K), ("N", N)],
            grid=(threads, 1, 1),
            threadgroup=(threads, 1, 1),
            output_shapes=[(8, N)],
            output_dtypes=[np.float32],
        )
    return np.array(y)


def arrays():
    draw = np.random.default_rng(3)
    return (draw.standard_normal(shape).astype(np.float32) for shape in ((8, K), (K, N)))


@pytest.fixture(autouse=True)
def _clang():
    mslsim.require()


def changed(old, new):
    assert PRODUCT.count(old) == 1, old
    return PRODUCT.replace(old, new)


@pytest.mark.parametrize("order", mslsim.ORDERS)
def test_product_of_tiles(order):
    x, w = arrays()
    y = run(order=order, metal_versions=(310, 320, 400))
    np.testing.assert_allclose(y, x @ w + 0.5, atol=1e-5)
    assert np.array_equal(y, run(order="forward"))
    assert np.array_equal(y, run(order=order, mode="fast"))


@pytest.mark.parametrize("order", mslsim.ORDERS)
def test_transposed_store_and_a_diagonal(order):
    source = """
        simdgroup_float8x8 a, d(2.0f), y_;
        simdgroup_load(a, x, K);
        simdgroup_multiply(y_, a, d);
        simdgroup_store(y_, y, N, ulong2(8, 0), true);
        simdgroup_store(a, y, N);
    """
    x, _ = arrays()
    y = run(source, threads=32, order=order)
    np.testing.assert_array_equal(y[:, :8], x[:, :8])
    np.testing.assert_array_equal(y[:, 8:], 2 * x[:, :8].T)


def test_every_element_may_be_changed_where_it_lies():
    source = changed("simdgroup_store", "sum.thread_elements() *= 2.0f; simdgroup_store")
    for order in mslsim.ORDERS:
        assert np.array_equal(run(source, order=order), 2 * run())


LAYOUT = """
    simdgroup_float8x8 a;
    simdgroup_load(a, x, K);
    const uint lane = thread_position_in_threadgroup.x, quad = lane / 4u;
    const uint row = (quad & 4u) + lane / 2u % 4u, column = (quad & 2u) * 2u + lane % 2u * 2u;
    y[row * N + column] = a.thread_elements()[0];
    y[row * N + column + 1u] = a.thread_elements()[1];
    for (uint k = 0u; k < 8u; ++k) if (lane == 0u) for (uint n = 8u; n < 16u; ++n) y[k * N + n] = 0;
"""


def test_a_kernel_that_knows_where_elements_lie_differs_between_orders():
    x, _ = arrays()
    assert np.array_equal(run(LAYOUT, threads=32)[:, :8], x[:, :8])  # as on today's GPUs
    for order in ("reverse", "random", "chaos"):
        assert not np.array_equal(run(LAYOUT, threads=32, order=order)[:, :8], x[:, :8])


def test_halves_are_summed_in_float():
    source = """
        simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        threadgroup half h[64];
        for (uint at = thread_position_in_threadgroup.x; at < 64u; at += 32u) {
          h[at] = half(x[at / 8u * K + at % 8u]);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        simdgroup_half8x8 a;
        simdgroup_load(a, h, 8);
        simdgroup_multiply_accumulate(sum, a, a, sum);
        simdgroup_store(sum, y, N);
        simdgroup_store(sum, y + 8, N);
    """
    x, _ = arrays()
    h = x[:, :8].astype(np.float16).astype(np.float32)
    for order in mslsim.ORDERS:
        np.testing.assert_allclose(run(source, threads=32, order=order)[:, :8], h @ h, atol=1e-5)


BUGS = {  # name: (error, kind of a finding, (old, new) in the kernel's text)
    "some lanes stay away": (
        *(mslsim.SimdError, "simd-divergent"),
        ("simdgroup_multiply_acc", "if (lane % 32u < 24u) simdgroup_multiply_acc"),
    ),
    "some lanes do not load": (
        *(mslsim.SimdError, "simd-divergent"),
        ("simdgroup_load(b,", "if (lane != 5u) simdgroup_load(b,"),
    ),
    "some lanes do not store": (
        *(mslsim.SimdError, "simd-divergent"),
        ("simdgroup_store", "if (lane % 2u == 0u) simdgroup_store"),
    ),
    "a tile past the end of a buffer": (
        *(mslsim.OutOfBoundsError, "oob"),
        ("ulong2(tile, k)", "ulong2(tile + 8u, k)"),
    ),
    "a tile past the end of threadgroup memory": (
        *(mslsim.OutOfBoundsError, "oob"),
        ("&held[k][0]", "&held[k + 1u][0]"),
    ),
    "a store past the end": (mslsim.OutOfBoundsError, "oob", ("y + tile", "y + tile + 8")),
    "a sum that never began": (
        *(mslsim.UninitialisedError, "uninit"),
        ("sum = make_filled_simdgroup_matrix<float, 8, 8>(0.5f)", "sum"),
    ),
    "a factor that nobody loaded": (
        *(mslsim.UninitialisedError, "uninit"),
        ("simdgroup_load(b, w, N, ulong2(tile, k));", ""),
    ),
    "threadgroup memory that nobody wrote": (
        *(mslsim.UninitialisedError, "uninit"),
        ("at < uint(8 * K)", "at < uint(8 * K) - 8u"),
    ),
    "a load before the barrier": (
        *(mslsim.RaceError, "race"),
        ("threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
    ),
    "two SIMD groups store one tile": (mslsim.RaceError, "race", ("y + tile", "y")),
}


@pytest.mark.parametrize("name", BUGS)
def test_bug_is_caught(name):
    error, kind, (old, new) = BUGS[name]
    with pytest.raises(mslsim.MSLError) as caught:
        run(changed(old, new))
    assert kind in caught.value.kinds, str(caught.value)
    first = next(f for f in caught.value.findings if f.kind == kind)
    assert isinstance(caught.value, error) or caught.value.findings[0].kind != kind
    assert first.where.startswith("matrices.source:"), str(first)


def test_a_simd_group_of_fewer_than_32_threads_has_no_matrices():
    source = "simdgroup_float8x8 a(1.0f); simdgroup_store(a, y, N); simdgroup_store(a, y + 8, N);"
    assert run(source, threads=32).sum() == 16
    for threads in (16, 48):
        with pytest.raises(mslsim.SimdError, match="0xffffffff"):
            run(source, threads=threads)


def test_a_product_needs_no_memory_of_its_own_and_simd_barriers_order_it():
    """A tile is stored, and each lane reads another one's elements."""
    source = changed(
        "simdgroup_store(sum, y + tile, N);",
        """simdgroup_store(sum, &held[tile][0], 8, ulong2(0), true);
           simdgroup_barrier(mem_flags::mem_threadgroup);
           for (uint e = lane % 32u; e < 64u; e += 32u) {
             y[e / 8u * N + tile + e % 8u] = held[tile + e % 8u][e / 8u];
           }""",
    )
    last = "    simdgroup_store(sum, &held"
    source = source.replace(last, "threadgroup_barrier(mem_flags::mem_threadgroup);\n" + last)
    for order in mslsim.ORDERS:
        assert np.array_equal(run(source, order=order), run())
    racing = source.replace("simdgroup_barrier(mem_flags::mem_threadgroup);", "")
    with pytest.raises(mslsim.RaceError, match="no barrier"):
        run(racing)


def test_other_sizes_are_no_metal():
    with pytest.raises(mslsim.CompileError, match="8x8"):
        run(
            changed(
                "simdgroup_float8x8 a, b;",
                "simdgroup_float8x8 a, b; simdgroup_matrix<float, 4, 4> c;",
            )
        )


def test_a_matrix_is_not_loaded_from_constant_memory():
    """Where MLX puts inputs of fewer than 8 elements."""
    x, _ = arrays()
    source = "y[thread_position_in_grid.x] = few[thread_position_in_grid.x % 4u]; MORE"
    more = "simdgroup_float8x8 a; simdgroup_load(a, few, 2);"
    for text, error in ((source.replace("MORE", ""), None), (source.replace("MORE", more), True)):
        kernel = mslsim.metal_kernel("few", ["few"], ["y"], text, header=HEADER)
        arguments = {"inputs": [x[0, :4]], "grid": (32, 1, 1), "threadgroup": (32, 1, 1)}
        arguments |= {"output_shapes": [(32,)], "output_dtypes": [np.float32]}
        if error:
            with pytest.raises(mslsim.CompileError, match="simdgroup_load"):
                kernel(**arguments)
        else:
            assert np.array_equal(kernel(**arguments)[0], np.tile(x[0, :4], 8))
