"""examples/: digits.py in its short form as a program; the others here, with less training."""

import gzip
import importlib.util
import re
import struct

import mlx.core as mx
import numpy as np
import pytest

from tests.support import ROOT
from tests.support.cases import assert_close, tolerance

DIGITS = ROOT / "examples" / "digits.py"
NEEDED = ("sklearn", "scipy", "matplotlib", "networkx", "tqdm")


@pytest.fixture(scope="module")
def pyplot():
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"examples need {name}: pip install 'mlx-ncps[examples]'")
    return pytest.importorskip("matplotlib.pyplot")


def test_digits_learns_in_its_short_form(native, pyplot, run_python, tmp_path):
    picture = tmp_path / "out.png"
    done = run_python(str(DIGITS), "--short", "--output", str(picture))
    assert done.returncode == 0, done.stderr
    assert "1437 training images, 360 test images" in done.stdout

    rows = re.findall(r"(\w+).*: test accuracy ([\d.]+)% after (\d+) epochs", done.stdout)
    assert [(name, epochs) for name, _, epochs in rows] == [("CfC", "5"), ("LTC", "5")]
    assert [float(percent) > 50 for _, percent, _ in rows] == [True, True]  # by chance: 10
    assert done.stdout.count("not enforced") == 2

    assert "cfc_sequence over the whole sequence on cpu" in done.stdout
    assert "ltc_sequence over the whole sequence on cpu" in done.stdout
    times = re.findall(r"epoch (\w+) +([\d.]+) s \(backend (\w+), median", done.stdout)
    runs = [("fused", "cpu"), ("unfused", "reference")]
    assert [(kind, backend) for kind, _, backend in times] == 2 * runs
    assert all(float(seconds) > 0 for _, seconds, _ in times)

    image = pyplot.imread(picture)  # [height, width, RGBA]
    assert image.shape[0] > 600
    assert image.shape[1] > 1000
    height, width = (size // 2 for size in image.shape[:2])
    quarters = [image[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    for quarter in quarters:  # curves, bars, the wiring above and below
        assert 0.01 < (quarter[..., :3].min(axis=-1) < 0.9).mean() < 0.9


@pytest.mark.parametrize(
    ("accuracy", "arguments", "code"),
    [(0.95, [], 0), (0.94, [], 1), (0.94, ["--short"], 0)],
)
def test_digits_exit_code(pyplot, monkeypatch, capsys, accuracy, arguments, code):
    monkeypatch.syspath_prepend(str(DIGITS.parent))
    digits = importlib.import_module("digits")

    def run(task, data, short, epochs):
        return digits.Result(task, None, [0.99, accuracy], 1.0, 0.1, 0.2)

    monkeypatch.setattr(digits, "run", run)
    monkeypatch.setattr(digits, "save_figure", lambda results, path: None)
    monkeypatch.setattr("sys.argv", ["digits.py", *arguments])
    assert digits.main() == code
    assert ("MISSED" in capsys.readouterr().out) == (code == 1)


@pytest.fixture
def example(native, pyplot, monkeypatch):  # in plain MLX operations training takes minutes
    """A function that imports an example by its name."""
    monkeypatch.syspath_prepend(str(DIGITS.parent))
    return importlib.import_module


def write_idx(path, array, pack):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    data = head + array.astype(np.uint8).tobytes()
    (path.with_name(path.name + ".gz") if pack else path).write_bytes(
        gzip.compress(data) if pack else data
    )


@pytest.mark.parametrize("pack", [False, True])
def test_digits_reads_mnist(example, tmp_path, pack):
    digits, rng = example("digits"), np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (5, 28, 28)), rng.integers(0, 10, 5)
    for kind, count in (("train", 5), ("t10k", 3)):
        write_idx(tmp_path / f"{kind}-images-idx3-ubyte", images[:count], pack)
        write_idx(tmp_path / f"{kind}-labels-idx1-ubyte", labels[:count], pack)
    x_train, x_test, y_train, y_test = digits.load_mnist(tmp_path)
    assert_close("images", x_train, images / 255, tolerance("float32", "forward"))
    assert_close("test images", x_test, images[:3] / 255, tolerance("float32", "forward"))
    assert y_train.tolist() == labels.tolist()
    assert y_test.tolist() == labels[:3].tolist()
    write_idx(tmp_path / "wrong", images, False)
    (tmp_path / "wrong").write_bytes(b"\0\0\x0d" + (tmp_path / "wrong").read_bytes()[3:])
    with pytest.raises(SystemExit, match="must be an idx file of bytes"):
        digits.read_idx(tmp_path / "wrong")


def test_time_series_needs_the_time(example):
    errors = example("time_series").main(["--samples", "800", "--epochs", "8"])
    assert errors["CfC with time"] < errors["CfC without time"]
    assert errors["CfC with time"] < errors["value seen last"] / 2


def test_time_series_of_a_file(example, tmp_path, capsys):
    time_series, path = example("time_series"), tmp_path / "series.csv"
    t = np.cumsum(np.random.default_rng(0).uniform(0.1, 0.3, 400))
    rows = [f"{a},{np.sin(a)},{np.cos(a)}" for a in t]
    path.write_text("\n".join(["when,sine,cosine", *rows, "99,,1"]), encoding="utf-8")
    times, values = time_series.read_csv(path, "when")
    assert_close("times", times, t, 0.0)
    assert_close("values", values, np.stack([np.sin(t), np.cos(t)], axis=1), 0.0)
    assert time_series.read_csv(path, None)[1].shape == (400, 3)
    errors = time_series.main(["--csv", str(path), "--time", "when", "--epochs", "15"])
    assert "72 windows to train, 2 to test, 2 features" in capsys.readouterr().out
    assert errors["CfC with time"] < errors["value seen last"]


def test_cheetah_learns_the_motion(example):
    errors = example("cheetah").main(["--samples", "5", "--epochs", "12"])
    assert errors["CfC"] < errors["nothing moves"] / 2
    assert errors["LTC"] < 0.75 * errors["nothing moves"]


def test_cheetah_reads_traces(example, tmp_path, capsys):
    cheetah, rng = example("cheetah"), np.random.default_rng(0)
    for n in range(5):
        np.save(tmp_path / f"trace_{n}.npy", cheetah.simulate(52, rng)[:, :7])
    traces = cheetah.load_traces(tmp_path)
    assert [trace.shape for trace in traces] == 5 * [(52, 7)]
    training, validation, test = cheetah.split(traces)
    assert [len(part[0]) for part in (training, validation, test)] == [4, 2, 4]
    assert_close("next", training[1][:, :-1], training[0][:, 1:], 0.0)
    cheetah.main(["--traces", str(tmp_path), "--epochs", "1"])
    assert "4 windows to train, 4 to test, 7 features" in capsys.readouterr().out
    (tmp_path / "trace_0.npy").unlink()
    with pytest.raises(SystemExit, match="must hold at least 5"):
        cheetah.load_traces(tmp_path)


def test_xor_events_are_runs(example, tmp_path):
    xor = example("xor_events")
    values, lengths = xor.encode(np.array([0, 0, 0, 1, 1, 0, 1]))
    assert values.tolist() == [0, 1, 0, 1]
    assert lengths.tolist() == [3, 2, 1, 1]
    x, elapsed, mask, y = arrays = xor.make_events(50, 9, np.random.default_rng(0))
    ones = np.rint((x[..., 0] * elapsed * 9 * mask).sum(axis=1)).astype(int)
    assert (ones % 2).tolist() == y.tolist()
    assert set(np.rint((elapsed * mask).sum(axis=1) * 9).astype(int)) <= set(range(2, 10))
    path = tmp_path / "events.npz"
    np.savez(path, **dict(zip(("x", "elapsed", "mask", "y"), arrays, strict=True)))
    for got, want in zip(xor.load_events(path), arrays, strict=True):
        np.testing.assert_array_equal(got, want)


def test_xor_events_need_the_time(example):
    arguments = ["--bits", "3", "--samples", "800", "--epochs", "24"]
    accuracies = example("xor_events").main(arguments)
    assert accuracies["CfC with time"] > 0.95
    assert accuracies["CfC with time"] > accuracies["CfC without time"] + 0.1


def test_video_convolves_each_frame(example):
    video = example("video")
    model = video.FilmClassifier(7, 12, 5)
    x, elapsed = mx.random.normal((2, 3, 7, 12)), mx.random.uniform(1, 2, (2, 3))
    frames = []
    for t in range(3):
        z = mx.maximum(model.first(x[:, t, ..., None]), 0)
        frames.append(model.map(mx.maximum(model.second(z), 0).reshape(2, -1)))
    want = model.rnn(mx.stack(frames, axis=1), timespans=elapsed)[0]
    assert_close("logits", model(x, elapsed), want, tolerance("float32", "forward"))


def test_video_reads_films(example, tmp_path, capsys):
    video, path = example("video"), tmp_path / "films.npz"
    films, elapsed, y = video.make_films(40, np.random.default_rng(0))
    np.savez(path, x=films, elapsed=elapsed, y=y)
    accuracies = video.main(["--films", str(path), "--epochs", "1"])
    assert "32 films of 8 frames to train, 8 to test" in capsys.readouterr().out
    assert accuracies["guessing"] == 1 / 8
    assert 0 <= accuracies["all frames"] <= 1


def test_inspect_wiring_draws_and_restores(example, pyplot, tmp_path, capsys):
    inspect_wiring, picture = example("inspect_wiring"), tmp_path / "wiring.png"
    weights = str(tmp_path / "weights.safetensors")
    arguments = ["--samples", "64", "--epochs", "4", "--output", str(picture)]
    error = inspect_wiring.main([*arguments, "--save", weights])
    printed = capsys.readouterr().out
    assert "motor    neurons [0, 1]: 6 synapses, 1 of them inhibitory, 0 from the inputs" in printed
    assert len(re.findall(r"strong synapse: \w+ \d+ -> \w+ \d+, conductance [\d.]+", printed)) == 3
    assert error < 0.5
    assert inspect_wiring.main(["--weights", weights, "--output", str(picture)]) == error
    image = pyplot.imread(picture)
    assert image.shape[0] > 800
    left, right = image[:, :600, :3], image[:, 700:, :3]
    for half in (left, right):
        assert 0.01 < (half.min(axis=-1) < 0.9).mean() < 0.5


def test_cart_pole_stays_up(example, capsys):
    cart_pole = example("cart_pole")
    arguments = ["--rounds", "1", "--samples", "16", "--epochs", "4", "--steps", "150", "--short"]
    seconds = cart_pole.main(arguments)
    assert seconds["controller"].min() > 2.5
    assert seconds["no force"].max() < 2.5
    assert seconds["network"].shape == (5,)
    assert re.search(r"p50 \d+ us, p99 \d+ us", capsys.readouterr().out)


def test_cart_pole_physics(example):
    cart_pole, rng = example("cart_pole"), np.random.default_rng(0)
    state, force = rng.normal(size=(3, 4)), rng.normal(size=3)
    coarse, fine = (cart_pole.advance(state, force, np.full(3, 1e-3), n) for n in (10, 1000))
    assert_close("state", coarse, fine, 1e-5)
    upright = np.zeros((1, 4))
    assert_close("upright", cart_pole.advance(upright, np.zeros(1), np.ones(1)), upright, 0.0)


@pytest.mark.parametrize("hidden", [False, True])
def test_from_torch_gives_equal_outputs(example, monkeypatch, capsys, hidden):
    from_torch, find = example("from_torch"), importlib.util.find_spec
    if hidden:  # as if PyTorch were not installed
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
        )
    difference, again = from_torch.main(["--epochs", "3"])
    assert difference < 1e-5
    assert again == 0
    assert ("compared with float64" in capsys.readouterr().out) or not hidden


def test_from_torch_describes_a_checkpoint(example, tmp_path, capsys):
    from_torch, path = example("from_torch"), tmp_path / "model.safetensors"
    from_torch.numpy_checkpoint(path, np.random.default_rng(0))
    assert from_torch.main(["--checkpoint", str(path)]) is None
    printed = capsys.readouterr().out
    assert "CfC of 16 neurons and 3 inputs" in printed
    assert re.search(r"rnn_cell\.backbone\.0\.weight +\(32, 19\)", printed)


def test_data_parallel_agrees(native, pyplot, run_python):
    if not mx.distributed.is_available("ring"):
        pytest.skip("this MLX has no ring backend")
    done = run_python(str(DIGITS.parent / "data_parallel.py"), "--epochs", "8")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"rank [01] of 2: weights are those of all", done.stdout)) == 2
    first, last = map(float, re.search(r"loss ([\d.]+) at first, ([\d.]+)", done.stdout).groups())
    alone = float(re.search(r"whole batch ([\d.]+)", done.stdout)[1])
    assert last < first
    assert abs(last - alone) <= 2e-6


def test_every_example_is_listed():
    folder = DIGITS.parent
    scripts = {p.stem for p in folder.glob("*.py") if "__main__" in p.read_text(encoding="utf-8")}
    makefile = (folder.parent / "Makefile").read_text(encoding="utf-8")
    short = re.search(r"^EXAMPLES := (.*)$", makefile, re.MULTILINE)[1].split()
    assert set(short) | {"digits"} == scripts
    table = (folder / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)\.py`", table, re.MULTILINE)) == scripts
