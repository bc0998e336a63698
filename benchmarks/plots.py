"""The figures of the results page, from documents of results."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter
from PIL import Image

from .implementations import BY_KEY
from .series import series_of, unfinished

# A column has one colour and one mark in every figure; the marks also tell them apart in grey.
STYLES = {
    "fused": ("#0b5fa5", "o", "-"),
    "checkpoint": ("#9a9ae0", "d", "-"),
    "chunked": ("#56b4e9", "D", "-"),
    "eager": ("#d55e00", "s", "--"),
    "compiled": ("#e69f00", "P", "--"),
    "by_hand": ("#b8860b", "^", "--"),
    "torch": ("#8b2f8f", "v", ":"),
    "jax_by_hand": ("#2a8f4f", "X", ":"),
    "torch_lstm": ("#888888", ".", "-."),
}
TITLES = {
    "checkpoint": "mlx-ncps, nn.utils.checkpoint",
    "chunked": "mlx-ncps, chunked_value_and_grad",
    "torch_lstm": "torch LSTM (another model)",
}
LABELS = {
    "T": "T, time steps",
    "H": "H, neurons",
    "B": "B, sequences",
    "U": "U, solver unfolds",
    "density": "share of the synapses that exist",
}
# file: (series of each panel, what the panels have in common)
SCALING = {
    "scaling_T": (("ltc T", "cfc T"), "forward, B16 I16 H32"),
    "scaling_H": (("ltc H", "cfc H"), "forward, B16 T32 I16"),
    "scaling_B": (("ltc B", "cfc B"), "forward, T32 I16 H32"),
    "scaling_U_density": (("ltc U", "ltc density"), "LTC forward, B16 T32 I16, H32 and H64"),
}
CROSS_OVER = (
    ("cfc cross-over", "cfc cross-over, fwd+bwd"),
    "CfC, B256 T8, I = K = H; grey: the other is faster than ours",
)
THREADS = (("ltc threads", "cfc threads"), "forward, LTC B64 T64 H64, CfC B64 T128 H128")


def draw_scaling(document, folder: Path) -> list[Path]:
    """Write a PNG for every group of series that the document has -> their paths.

    The cross-over is drawn only from complete measurements: the lines may cross at the end.
    """
    series = series_of(document)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (panels, common) in SCALING.items():
        if any(panel in series for panel in panels):
            paths.append(_times(series, panels, common, folder / f"{name}.png"))
    if any(panel in series for panel in CROSS_OVER[0]):
        lacking = [reason for panel in CROSS_OVER[0] if (reason := unfinished(document, panel))]
        if lacking:
            print(f"cross_over.png is not drawn: {'; '.join(lacking)}", file=sys.stderr)
        else:
            paths.append(_ratios(series, *CROSS_OVER, folder / "cross_over.png"))
    if any(panel in series for panel in THREADS[0]):
        paths.append(_threads(series, *THREADS, folder / "threads.png"))
    return paths


def _panels(names, common):
    figure, axes = plt.subplots(1, len(names), figsize=(9, 3.6), layout="constrained")
    figure.suptitle(common, fontsize=10)
    return figure, dict(zip(names, axes, strict=True))


def _lines(axis, points, value_of) -> None:
    """A line for each column: value_of(cells, key) over the values; None leaves a point out."""
    for key, (colour, mark, line) in STYLES.items():
        found = [(value, value_of(cells, key)) for value, cells in points]
        found = [(value, y) for value, y in found if y is not None]
        if found:
            title = TITLES.get(key) or BY_KEY[key].title
            x, y = zip(*found, strict=True)
            axis.plot(x, y, color=colour, marker=mark, ls=line, ms=5, lw=1.5, label=title)


def _op(name: str) -> str:
    return {"ltc": "LTC", "cfc": "CfC"}[name.split()[0]]


def _seconds(cells, key):
    return cells.get(key, {}).get("seconds")


def _times(series, panels, common, path: Path) -> Path:
    """Time over a size, both logarithmic."""
    figure, axes = _panels(panels, common)
    for name, axis in axes.items():
        points = series.get(name, [])
        _lines(axis, points, _seconds)
        symbol = name.split()[1]
        axis.set(title=_op(name), xlabel=LABELS[symbol], ylabel="time of a call")
        _logarithmic(axis, [value for value, _ in points])
    return _save(figure, axes, path)


def _ratios(series, panels, common, path: Path) -> Path:
    """Time of the others over ours: below 1 they win."""
    figure, axes = _panels(panels, common)
    for name, axis in axes.items():
        points = series.get(name, [])

        def ratio(cells, key):
            ours, theirs = _seconds(cells, "fused"), _seconds(cells, key)
            return theirs / ours if ours and theirs and key != "fused" else None

        _lines(axis, points, ratio)
        axis.axhline(1, color="black", lw=1)
        axis.axhspan(0.02, 1, color="black", alpha=0.08)
        axis.set(
            title="forward" if "bwd" not in name else "with gradients",
            xlabel="H, neurons",
            ylabel="time over ours",
        )
        _logarithmic(axis, [value for value, _ in points], lambda y, _: f"{y:g}x")
        axis.set_ylim(bottom=min(0.5, 0.8 * axis.dataLim.y0))
    return _save(figure, axes, path)


def _threads(series, panels, common, path: Path) -> Path:
    """Bars: speed with more threads over one thread."""
    figure, axes = _panels(panels, common)
    for name, axis in axes.items():
        points = series.get(name, [])
        keys = [k for k in STYLES if points and _seconds(points[0][1], k)]
        one = dict(points)[1] if points else {}
        for n, (value, cells) in enumerate(points):
            speed = [
                _seconds(one, k) / _seconds(cells, k) if _seconds(cells, k) else 0 for k in keys
            ]
            places = [i + 0.35 * n for i in range(len(keys))]
            shade = (0.45, 1.0, 0.75, 0.9)[n % 4]
            bars = axis.bar(places, speed, 0.33, color=[STYLES[k][0] for k in keys], alpha=shade)
            axis.bar_label(bars, [f"{s:.2f}x\n{value} thr." for s in speed], fontsize=7)
        axis.set_xticks([i + 0.17 for i in range(len(keys))], [BY_KEY[k].title for k in keys])
        axis.set(title=_op(name), ylabel="speed over one thread")
        axis.margins(y=0.25)
    return _save(figure, {}, path)


def draw_memory(document, folder: Path) -> Path:
    """Peak memory and time of a training step over T."""
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = _panels(("ltc", "cfc"), "gradients, B16 I16 H64: peak of MLX's memory")
    for name, axis in axes.items():
        points = series_of(document).get(f"{name} T", [])
        _lines(axis, points, lambda cells, key: cells.get(key, {}).get("peak_bytes"))
        axis.set(title=_op(name), xlabel=LABELS["T"], ylabel="bytes")
        _logarithmic(axis, [value for value, _ in points], lambda y, _: _bytes(y))
        axis.set_yscale("log", base=16)  # 1 MiB, 16 MiB, ...
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _bytes(y)))
    return _save(figure, axes, folder / "memory.png")


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.3g} {unit}"
        size /= 1024
    return ""


def _time(seconds: float, _=None) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 0.999:
            return f"{seconds * factor:g} {unit}"
    return f"{seconds:g} s"


def _logarithmic(axis, values, label=_time) -> None:
    """Both axes, with the measured values as ticks."""
    axis.set(xscale="log", yscale="log")
    if values:
        axis.set_xticks(values, [f"{value:g}" for value in values])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(label))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)


def _save(figure, axes, path: Path) -> Path:
    """One legend for all panels, below them."""
    found = {}
    for axis in axes.values():
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, fontsize=8)
    image = io.BytesIO()
    figure.savefig(image, dpi=110)
    plt.close(figure)
    # With a palette the file has a third of the bytes and looks the same.
    Image.open(image).convert("RGB").quantize(64).save(path, optimize=True)
    return path
