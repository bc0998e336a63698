"""examples/digits.py in its short form: it trains, measures, prints and draws."""

import importlib.util
import re
from pathlib import Path

import pytest

DIGITS = Path(__file__).parent.parent / "examples" / "digits.py"
NEEDED = ("sklearn", "matplotlib", "networkx", "tqdm")


@pytest.fixture(scope="module")
def pyplot():
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"examples need {name}: pip install 'mlx-ncps[demo]'")
    return pytest.importorskip("matplotlib.pyplot")


def test_digits_short(native, pyplot, run_python, tmp_path):
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

    def run(task, data, short):
        return digits.Result(task, None, [0.99, accuracy], 1.0, 0.1, 0.2)

    monkeypatch.setattr(digits, "run", run)
    monkeypatch.setattr(digits, "save_figure", lambda results, path: None)
    monkeypatch.setattr("sys.argv", ["digits.py", *arguments])
    assert digits.main() == code
    assert ("MISSED" in capsys.readouterr().out) == (code == 1)
