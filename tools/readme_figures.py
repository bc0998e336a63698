"""The two pictures of README.md and of the site's first page, from committed results: what a CfC
learns (docs/results/time_series.json) and how long calls take (docs/results/cpu.json).

    python -m tools.readme_figures            draws docs/figures/learns.png and fast.png
    python -m tools.readme_figures --train    trains first, a minute, and writes time_series.json
"""

import argparse
import io
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS, FIGURES = ROOT / "docs" / "results", ROOT / "docs" / "figures"
LEARNED = RESULTS / "time_series.json"
SHOWN = 96  # observations of the test series
TIMED, UNTIMED = "CfC with time", "CfC without time"
ROWS = {  # of cpu.json: what the picture calls them
    "ltc-B64T128I64H64U6 fwd": "LTC, forward",
    "ltc-B32T64I16H64U6 fwd+bwd": "LTC, with gradients",
    "cfc-B64T128I64H128K128L1 fwd": "CfC, forward",
    "cfc-B64T128I64H128K128L1 fwd+bwd": "CfC, with gradients",
}
COLUMNS = {  # what the picture calls them: cells of cpu.json, of which the fastest counts, colour
    "mlx-ncps": (("fused",), "#0b5fa5"),
    "JAX scan": (("jax",), "#2a8f4f"),
    "ncps.torch": (("torch",), "#8b2f8f"),
    "plain MLX": (("eager", "compiled"), "#d55e00"),
}


def learn(seed=0):
    """Train the two networks of examples/time_series.py -> their predictions of the test series."""
    sys.path.insert(0, str(ROOT / "examples"))
    import mlx.core as mx
    import numpy as np
    import time_series

    models, train = {}, time_series.train

    def train_and_keep(model, *arguments, name, **options):
        models[name] = model
        return train(model, *arguments, name=name, **options)

    time_series.train = train_and_keep
    errors = time_series.main(["--seed", str(seed)])
    times, values = time_series.lorenz(6000, np.random.default_rng(seed))
    _, (x, gaps, _) = time_series.prepare(times, values)
    cut = len(values) * 4 // 5
    shown = slice(cut + 1, cut + 1 + SHOWN)
    windows = SHOWN // time_series.WINDOW
    mean, deviation = values[:cut, 0].mean(), values[:cut, 0].std()
    document = {
        "command": "python -m tools.readme_figures --train",
        "versions": f"mlx {mx.__version__}, seed {seed}",
        "errors": {name: round(error, 4) for name, error in errors.items()},
        "time": np.round(times[shown], 2).tolist(),
        "observed": np.round((values[shown, 0] - mean) / deviation, 3).tolist(),
        "warm_up": [n for n in range(SHOWN) if n % time_series.WINDOW < time_series.WARM_UP],
    }
    for name, model in models.items():
        output, _ = model(x[:windows], timespans=gaps[:windows] if name == TIMED else None)
        predicted = (x[:windows] + output)[..., 0].reshape(-1)
        document[name] = np.round(np.array(predicted), 3).tolist()
    LEARNED.write_text(json.dumps(document) + "\n", encoding="utf-8")


def times(document):
    """{row: {column: median seconds of its fastest cell}} of the document of the benchmarks."""
    return {
        row: {
            column: min(statistics.median(cells[key]["samples"]) for key in keys)
            for column, (keys, _) in COLUMNS.items()
        }
        for row, cells in ((row, document["rows"][row]["cells"]) for row in ROWS)
    }


def draw_learned(plt, document):
    """Observations at random times, and what the two networks predict of each from those before."""
    figure, axes = plt.subplots(figsize=(8, 2.9))
    elapsed = [time - document["time"][0] for time in document["time"]]
    kept = [n for n in range(SHOWN) if n not in document["warm_up"]]
    for name, colour, style in ((UNTIMED, "#d55e00", ":"), (TIMED, "#0b5fa5", "-")):
        parts = [n if n in kept else None for n in range(SHOWN)]
        y = [float("nan") if n is None else document[name][n] for n in parts]
        label = f"{name}, error {document['errors'][name]}"
        axes.plot(elapsed, y, style, color=colour, label=label, lw=1.5)
    axes.plot(elapsed, document["observed"], "ko", ms=3, label="observed")
    axes.set(xlabel="time", ylabel="x of the Lorenz attractor", ylim=(-2.4, 3.4))
    axes.legend(frameon=False, ncol=3, loc="upper center")
    return figure


def draw_times(plt, document):
    """A bar for each implementation and row, with its time."""
    figure, axes = plt.subplots(figsize=(8, 3.6))
    found, height = times(document), 0.2
    for n, (column, (_, colour)) in enumerate(COLUMNS.items()):
        seconds = [1000 * found[row][column] for row in ROWS]
        places = [r + (n - 1.5) * height for r in range(len(ROWS))]
        bars = axes.barh(places, seconds, height, color=colour, label=column)
        axes.bar_label(
            bars,
            [f"{t:.0f} ms" if t >= 100 else f"{t:.3g} ms" for t in seconds],
            padding=3,
            fontsize=8,
        )
    axes.set_yticks(range(len(ROWS)), ROWS.values())
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="time of a call in ms, logarithmic", xlim=(3, 9000))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, ncol=4, loc="lower center", bbox_to_anchor=(0.45, 1.0))
    return figure


def save(figure, path):
    """Write a PNG of few colours: a small file."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    picture = Image.open(drawn).convert("RGB")
    picture.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def main(arguments=None):
    """Draw both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--train", action="store_true", help="train the networks first")
    if parser.parse_args(arguments).train:
        learn()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 9, "figure.constrained_layout.use": True}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        learned = json.loads(LEARNED.read_text(encoding="utf-8"))
        save(draw_learned(plt, learned), FIGURES / "learns.png")
        cpu = json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8"))
        save(draw_times(plt, cpu), FIGURES / "fast.png")


if __name__ == "__main__":
    main()
