"""Launch geometry of the GPU kernels: within every Apple GPU's limits at any shape; and what the
backends say of themselves where no GPU is.
"""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import dispatch, ops
from mlx_ncps.backends import CfCFacts, LTCFacts, cuda, metal
from mlx_ncps.backends.gpu import ltc
from mlx_ncps.backends.gpu.geometry import APPLE, CUDA, apple, apple_here
from mlx_ncps.backends.gpu.pieces import ceil_div, round_up
from mlx_ncps.backends.gpu.runner import Runner
from mlx_ncps.backends.gpu.trace import launches, trace_ltc

from tests.support.case_arrays import to_mlx
from tests.support.cases import LtcCase, make

SPARSE = make(LtcCase(units=64, density=0.2)).params
LISTS = {"steps": 2, "inputs": 8, "units": 64, "unfolds": 2, "training": False}
LISTS["synapses"] = ops.SynapseLists(SPARSE.mask, np.ones((8, 64)))
SIZES = (1, 2, 8, 9, 31, 32, 33, 63, 64, 65, 100, 128, 200, 500, 1000)
BATCHES = (1, 3, 15, 16, 33, 64, 500)


def check(launch):
    """Whole SIMD groups, at most APPLE.threads threads."""
    x, y, z = launch.threads
    assert (x * y * z) % 32 == 0
    assert x * y * z <= APPLE.threads
    assert launch.grid == tuple(g * t for g, t in zip(launch.groups, launch.threads, strict=True))
    assert min(launch.grid) >= 1


@pytest.mark.parametrize("units", SIZES)
def test_dense_has_a_thread_for_every_padded_neuron(units):
    if not APPLE.dense_fits(units):
        assert units > APPLE.dense_units
        return
    for launch in (APPLE.dense_forward(3, units), APPLE.dense_backward(3, units)):
        check(launch)
        parts = launch.argument("PARTS")
        padded = parts * ceil_div(units, parts)  # read by others
        assert padded == launch.argument("UNITS") == parts * launch.argument("PER")
        assert padded <= launch.threads[0] // parts


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("units", SIZES)
def test_blocked_kernels_cover_the_batch_and_fit_the_memory(units, batch):
    for launch, copies in (
        (APPLE.streamed_forward(batch, units), 2),
        (APPLE.streamed_forward(batch, units, True), 2),
        (APPLE.streamed_backward(batch, units), 3),
        (APPLE.streamed_backward(batch, units, True), 5),
    ):
        check(launch)
        assert launch.groups[0] == ceil_div(batch, launch.argument("ROWS"))
        assert 4 * copies * round_up(units) * launch.argument("ROWS") <= 32 * 1024
    for widths in ((), (units,), (64, 3)):
        for weights in (100, 10**6):
            forward = APPLE.cfc_forward(batch, units, widths, 4, weights)
            backward = APPLE.cfc_backward(batch, units, widths, 4, weights)
            for launch, copies in ((forward, 2), (backward, 5)):
                check(launch)
                sizes = dict(launch.template)
                layers = 2
                if launch.matrix and copies == 2:  # as metal/cfc_forward.metal has it
                    copies, layers = 4 + (not widths), min(len(widths), 2)
                row = 4 * (copies * sizes["UNITS"] + layers * sizes["WIDTH"])
                assert sizes["ROWS"] * row + 4 * sizes["CHIP"] <= 32 * 1024
                assert sizes["CHIP"] in (0, 1024)
                assert sizes["UNITS"] >= units
                assert sizes["WIDTH"] >= max(widths, default=0)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("units", SIZES)
def test_lists_cover_the_batch_and_fit_the_memory(units, batch):
    for launch, copies in ((APPLE.lists(batch, units), 3), (APPLE.lists(batch, units, True), 5)):
        check(launch)
        simds, rows = launch.argument("SIMDS"), launch.argument("ROWS")
        assert launch.threads[0] == 32 * simds
        assert launch.groups[0] == ceil_div(batch, simds * rows)
        assert 4 * copies * round_up(units) * rows * simds <= APPLE.memory


def test_large_batches_share_loads_and_small_ones_fill_the_gpu():
    def rows(launches):
        return [launch.argument("ROWS") for launch in launches]

    streamed = (APPLE.streamed_forward(b, 100) for b in (1, 16, 32, 64, 128))
    assert rows(streamed) == [1, 2, 4, 8, 8]
    assert rows(CUDA.streamed_forward(b, 100) for b in (64, 512)) == [1, 4]
    lists = [APPLE.lists(b, 100) for b in (1, 16, 64, 256, 2048)]
    assert rows(lists) == [1, 2, 4, 8, 8]
    assert [launch.argument("SIMDS") for launch in lists] == [1, 1, 1, 1, 2]
    assert rows(CUDA.lists(b, 100) for b in (64, 512)) == [1, 4]
    for geometry, most in ((APPLE, 16), (CUDA, 8)):
        batch = 16 * geometry.min_groups
        cfc = (geometry.cfc_forward(batch, 63, (64,), heads, 10**5) for heads in (1, 3, 4))
        assert rows(cfc) == [most, most, 8]


def test_a_cfc_takes_matrices_where_tiles_are_whole():
    def matrix(batch, units, widths, geometry=APPLE):
        both = [
            plan(batch, units, widths, 3, weights)
            for plan in (geometry.cfc_forward, geometry.cfc_backward)
            for weights in (1000, 10**6)
        ]
        for launch in both:
            assert launch.argument("PARTS") == 4 or not launch.matrix
        assert len({launch.matrix for launch in both}) == 1
        return both[0].matrix

    assert all(matrix(b, h, w) for b in (64, 65, 500) for h in (8, 64, 128) for w in ((), (64, 8)))
    assert not any(matrix(b, 64, (64,)) for b in (1, 8, 63))
    assert not any(matrix(64, h, (k,)) for h, k in ((65, 64), (64, 65), (4, 8), (8, 4)))
    assert not matrix(64, 1000, ())  # a row takes too much memory
    assert not matrix(2048, 64, (64,), CUDA)
    assert not matrix(64, 64, (64,), replace(APPLE, matrix=False))
    four = APPLE.cfc_forward(128, 64, (64,), 4, 10**5)
    assert (four.matrix, four.argument("ROWS")) == (True, 16)


ARCHITECTURES = {  # of Metal: the cores of the smallest and the largest chip of its class
    "applegpu_g13g": (7, 20),
    "applegpu_g14p": (4, 6),
    "applegpu_g13s": (24, 40),
    "applegpu_g16s": (24, 40),
    "applegpu_g14d": (48, 80),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_leave_no_core_of_the_smallest_chip_of_a_class_idle(architecture):
    """Where the batch has so many rows; and no group is shared further than that needs, nor merged
    where each core has one already.
    """
    cores, geometry = ARCHITECTURES[architecture][0], apple(architecture)
    for batch in (1, 8, 16, 32, 40, 64, 80, 128, 256, 1000):
        plans = [geometry.streamed_forward(batch, 100), geometry.streamed_backward(batch, 100)]
        plans += [geometry.cfc_forward(batch, 128, (128,), 3, 10**5)]
        plans += [geometry.cfc_backward(batch, 128, (128,), 3, 10**5)]
        for launch in plans:
            check(launch)
            groups, rows = launch.groups[0], launch.argument("ROWS")
            assert groups >= min(batch, cores), (batch, rows)
            assert (
                rows >= 16 or rows >= geometry.ltc_rows or batch // (2 * rows) < geometry.min_groups
            )


def test_max_and_ultra_chips_have_a_group_for_each_core_at_64_rows():
    groups = [
        apple(f"applegpu_g15{letter}").cfc_forward(64, 128, (128,), 3, 10**5).groups[0]
        for letter in "pgsd"
    ]
    assert groups == [8, 8, 32, 64]


@pytest.mark.parametrize("architecture", ["", "applegpu_g99z", "sm_90"])
def test_an_architecture_that_is_not_known_is_launched_as_a_plain_chip(architecture):
    assert apple(architecture) is APPLE


def test_a_runner_asks_for_the_chip_when_it_launches_first(monkeypatch):
    asked = []
    facts = {"architecture": "applegpu_g13s"}
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda device: asked.append(device) or facts)
    run = Runner("metal", None, mx.cpu, apple_here)
    assert asked == []
    assert run.geometry is run.geometry is apple("applegpu_g13s")
    assert asked == [mx.gpu]


@pytest.mark.parametrize(
    ("geometry", "batch"),
    [(APPLE, 256), (apple("applegpu_g15s"), 512), (apple("applegpu_g15d"), 1024), (CUDA, None)],
)
def test_large_batches_stream_the_lists_that_fit_registers_on_apple_chips(geometry, batch):
    def forward(batch):
        found = launches(trace_ltc, geometry=geometry, batch=batch, **LISTS)
        return found[-1].kernel

    assert forward((batch or 2**14) - 1) == "ncps_ltc_dense_forward_lists"
    if batch is not None:
        assert forward(batch) == "ncps_ltc_lists_forward"


@pytest.mark.parametrize(("geometry", "streams"), [(APPLE, True), (CUDA, False)])
@pytest.mark.parametrize("resets", [False, True])
def test_a_backward_behind_an_lstm_streams_where_registers_are_too_few(geometry, streams, resets):
    def backward(units, memory=True, **facts):
        facts |= {"units": units, "batch": 1, "memory": memory, "resets": resets, "training": True}
        found = launches(trace_ltc, geometry=geometry, **LISTS | {"synapses": None} | facts)
        wanted = "dense_backward", "streamed_backward", "lists_backward"
        kernels = (w for one in found for w in wanted if one.kernel.startswith(f"ncps_ltc_{w}"))
        return next(kernels)

    few, many = (ops.SynapseLists(star(n), np.ones((8, 64))) for n in (48, 56))  # 6 and 7 of each
    assert backward(56) == backward(64, memory=False) == "dense_backward"
    assert backward(64) == ("streamed_backward" if streams else "dense_backward")
    assert backward(64, synapses=few) == "dense_backward"
    assert backward(64, False, synapses=many) == "dense_backward"
    assert backward(64, synapses=many) == ("lists_backward" if streams else "dense_backward")


def star(targets):
    """A mask of 64 neurons, the first of which reaches so many."""
    mask = np.zeros((64, 64))
    mask[0, :targets] = 1
    return mask


@pytest.mark.parametrize(("geometry", "rows"), [(APPLE, 4), (CUDA, 8)])
def test_a_thread_sums_fewer_rows_behind_an_lstm(geometry, rows):
    def of(launch):
        return launch.argument("ROWS"), launch.template[1]

    lists = replace(geometry, lists_rows=8)
    assert of(geometry.streamed_forward(1024, 300)) == (8, ("PARTS", 1))
    assert of(geometry.streamed_forward(1024, 300, True)) == (rows, ("PARTS", 1))
    assert of(geometry.streamed_forward(1024, 128, True)) == (8, ("PARTS", 4))
    assert lists.lists(1024, 64).argument("ROWS") == 8
    assert lists.lists(1024, 64, True).argument("ROWS") == rows


def test_kind_of_recurrence_follows_size_and_density():
    lists = LISTS["synapses"]
    assert [ltc.kind_of(APPLE, h) for h in (1, 64, 65)] == ["dense", "dense", "streamed"]
    assert ltc.kind_of(APPLE, 64, lists) == "dense_lists"
    few = replace(APPLE, lists_forward_per=1)
    assert ltc.kind_of(few, 64, lists) == "dense"
    assert ltc.kind_of(replace(few, dense_units=0), 64, lists) == "lists"


def test_an_ltc_state_beyond_threadgroup_memory_is_refused_with_the_reason():
    facts = LTCFacts(units=3000, inputs=1, ode_unfolds=1)
    assert "exceed threadgroup memory" in metal.unsupported("ltc_sequence", facts)
    assert metal.unsupported("ltc_sequence", facts._replace(units=64)) == ""
    facts = facts._replace(units=2000)
    assert metal.unsupported("ltc_sequence", facts) == ""
    assert "the LSTM's gradients of 2000 neurons" in metal.unsupported("ltc_mixed_sequence", facts)


@pytest.mark.parametrize("facts", [LTCFacts(0, 64), CfCFacts(0, 64, backbone=(64,))])
def test_no_inputs_are_refused_with_the_reason(facts):
    op = "ltc_sequence" if isinstance(facts, LTCFacts) else "cfc_sequence"
    assert "input" in metal.unsupported(op, facts)


@pytest.mark.parametrize("backend", [metal, cuda], ids=lambda b: b.NAME)
def test_backend_without_a_gpu_says_so_and_can_not_be_forced(backend):
    runs, reason = backend.available()
    if runs:
        pytest.skip(f"a {backend.NAME} GPU is here")
    assert "GPU" in reason
    with pytest.raises(RuntimeError, match=f"{backend.NAME} can't run here: {reason}"):
        dispatch.use_backend(backend.NAME)


def test_scalar_and_zero_dimensional_timespans_launch_the_same_kernels():
    names = []

    def register(name, **_):
        def kernel(*, output_shapes, template, **_):
            names.append((name, *template))
            return [mx.zeros(shape) for shape in output_shapes]

        return kernel

    run = Runner("metal", register, mx.cpu, APPLE)
    call = to_mlx(make(LtcCase()))
    options = {"ode_unfolds": 2, "epsilon": 0.0, "implicit_param_constraints": False}
    options |= {"synapses": None, "training": True}
    for ts in (0.5, mx.array(0.5)):
        ltc.sequence(run, call.inputs, call.state, ts, call.params, **options)
    assert names[: len(names) // 2] == names[len(names) // 2 :]
    assert [n[0] for n in names[:3]] == [
        "ncps_ltc_fold_forward",
        "ncps_ltc_sensory_forward",
        "ncps_ltc_dense_forward_save",
    ]
