"""Launch geometry of the GPU kernels: within every Apple GPU's limits at any shape; and what the
backends say of themselves where no GPU is.
"""

import mlx.core as mx
import pytest
from mlx_ncps import dispatch, ops
from mlx_ncps.backends import CfCFacts, LTCFacts, _kernels, _launch, _ltc_kernels, cuda, metal

from tests.support.case_arrays import to_mlx
from tests.support.cases import LtcCase, make

SIZES = (1, 2, 8, 9, 31, 32, 33, 63, 64, 65, 100, 128, 200, 500, 1000)
BATCHES = (1, 3, 15, 16, 33, 64, 500)


def check(launch):
    """Whole SIMD groups, at most THREADS threads."""
    x, y, z = launch.threads
    assert (x * y * z) % 32 == 0
    assert x * y * z <= _launch.THREADS
    assert launch.grid == tuple(g * t for g, t in zip(launch.groups, launch.threads, strict=True))
    assert min(launch.grid) >= 1


@pytest.mark.parametrize("units", SIZES)
def test_dense_has_a_thread_for_every_padded_neuron(units):
    if not _launch.dense_fits(units):
        assert units > _launch.DENSE_UNITS
        return
    for parts in (4, 8):
        launch = _launch.dense(units, 3, parts)
        check(launch)
        padded = parts * _launch.ceil_div(units, parts)  # read by others
        assert padded <= launch.threads[0] // parts


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("units", SIZES)
def test_blocked_kernels_cover_the_batch_and_fit_the_memory(units, batch):
    for plan, copies in ((_launch.streamed_forward, 2), (_launch.streamed_backward, 3)):
        blocks = plan(batch, units)
        check(blocks.launch)
        assert blocks.launch.groups[0] == _launch.ceil_div(batch, blocks.rows)
        assert 4 * copies * _launch.round_up(units) * blocks.rows <= 32 * 1024
    for widths in ((), (units,), (64, 3)):
        for weights in (100, 10**6):
            forward = _launch.cfc_forward(batch, units, widths, 4, weights)
            backward = _launch.cfc_backward(batch, units, widths, 4, weights)
            for plan, copies in ((forward, 2), (backward, 5)):
                check(plan.blocks.launch)
                row = 4 * (copies * plan.units + 2 * plan.width)
                assert plan.blocks.rows * row + 4 * plan.chip <= 32 * 1024
                assert plan.chip in (0, 1024)
                assert plan.units >= units
                assert plan.width >= max(widths, default=1)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("units", SIZES)
def test_lists_cover_the_batch_and_fit_the_memory(units, batch):
    plan = _launch.listed(batch, units)
    check(plan.launch)
    assert plan.launch.threads[0] == 32 * plan.simds
    assert plan.launch.groups[0] == _launch.ceil_div(batch, plan.simds * plan.rows)
    assert 12 * _launch.round_up(units) * plan.rows * plan.simds <= _launch.MEMORY


def test_large_batches_share_loads_and_small_ones_fill_the_gpu():
    assert [_launch.streamed_forward(b, 100).rows for b in (1, 16, 32, 64, 128)] == [1, 2, 4, 8, 8]
    assert [_launch.streams_lists(b, "metal") for b in (255, 256)] == [False, True]
    assert not _launch.streams_lists(256, "cuda")
    assert [_launch.streamed_forward(b, 100, "cuda").rows for b in (64, 512)] == [1, 4]
    listed = [_launch.listed(b, 100) for b in (1, 16, 64, 256, 2048)]
    assert [(one.rows, one.simds) for one in listed] == [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2)]
    rows = [_launch.cfc_forward(128, 64, (64,), heads, 10**5).blocks.rows for heads in (1, 3, 4)]
    assert rows == [16, 16, 8]


def test_plan_follows_size_and_density(monkeypatch):
    sparse = make(LtcCase(units=64, density=0.2)).params
    lists = ops.SynapseLists(sparse.mask, sparse.sensory_mask)
    assert [_ltc_kernels.plan(h) for h in (1, 64, 65)] == ["dense", "dense", "streamed"]
    assert _ltc_kernels.plan(64, lists) == "listed"
    with monkeypatch.context() as change:
        change.setattr(_launch, "LISTED_FORWARD_PER", 1)
        assert _ltc_kernels.plan(64, lists) == "dense"
        change.setattr(_launch, "DENSE_UNITS", 0)
        assert _ltc_kernels.plan(64, lists) == "list"


def test_an_ltc_state_beyond_threadgroup_memory_is_refused_with_the_reason():
    facts = LTCFacts(units=3000, inputs=1, ode_unfolds=1)
    assert "exceed threadgroup memory" in metal.unsupported("ltc_sequence", facts)
    assert metal.unsupported("ltc_sequence", facts._replace(units=64)) == ""


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

    run = _kernels.Runner("metal", register, mx.cpu)
    call = to_mlx(make(LtcCase()))
    options = {"unfolds": 2, "epsilon": 0.0, "implicit": False, "synapses": None, "training": True}
    for ts in (0.5, mx.array(0.5)):
        _ltc_kernels.ltc_sequence(run, call.inputs, call.state, ts, call.params, **options)
    assert names[: len(names) // 2] == names[len(names) // 2 :]
    assert [n[0] for n in names[:2]] == ["ncps_ltc_sensory_forward", "ncps_ltc_dense_forward_save"]
