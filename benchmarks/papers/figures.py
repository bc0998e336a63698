"""The pictures of the experiments."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, LogLocator
from PIL import Image

# A model has one colour and one mark in every picture; the marks also tell them apart in grey.
STYLES = {
    "cfc": ("CfC", "#0b5fa5", "o"),
    "mixed": ("mixed memory", "#56b4e9", "D"),
    "ltc": ("LTC", "#d55e00", "s"),
    "lstm": ("LSTM", "#555555", "v"),
    "gru": ("GRU", "#999999", "^"),
    "ctrnn": ("CT-RNN", "#2a8f4f", "X"),
    "ncp_cfc": ("CfC, NCP wiring", "#8b2f8f", "P"),
    "ncp_ltc": ("LTC, NCP wiring", "#e69f00", "p"),
}


def beside_published(rows, label: str, title: str, path) -> None:
    """Points of each model's runs, their mean and spread, beside what the paper says.

    rows: (name, published "mean ± deviation" or "", values of the runs).
    """
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for place, (_, published, values) in enumerate(rows):
        if published:
            mean, deviation = map(float, published.split(" ± "))
            name = "published" if not axis.get_legend_handles_labels()[0] else None
            grey = {"color": "#777777", "fmt": "s", "capsize": 4, "label": name}
            axis.errorbar(place - 0.12, mean, deviation, **grey)
        blue = {"color": STYLES["cfc"][1], "capsize": 4}
        ours = "mlx-ncps, mean and deviation; dots: runs" if place == len(rows) - 1 else None
        axis.errorbar(
            place + 0.12, np.mean(values), _deviation(values), fmt="o", **blue, label=ours
        )
        axis.plot([place + 0.24] * len(values), values, ".", color="#56b4e9", ms=4)
    axis.set_xticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    axis.set(ylabel=label, title=title)
    axis.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    save(figure, path)


def error_against_time(points, title: str, path) -> None:
    """Error over training time, both with their spread.

    points: {model: (seconds of the runs, errors of the runs in %)}.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for model, (seconds, errors) in points.items():
        label, colour, mark = STYLES[model]
        spread = {"xerr": _deviation(seconds), "yerr": _deviation(errors), "capsize": 3}
        axis.errorbar(
            np.mean(seconds), np.mean(errors), fmt=mark, color=colour, label=label, **spread
        )
    axis.set(xscale="log", xlabel="training time, processor seconds", ylabel="test error, %")
    axis.set_title(title, fontsize=10)
    axis.set_ylim(bottom=0)
    _plain_ticks(axis)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save(figure, path)


def lines(panels, title: str, path) -> None:
    """A panel for each (x label, logarithmic or not, {model: [(x, accuracies of the runs)]}), three
    in a row, and the legend in the place after the last.
    """
    rows = len(panels) // 3 + 1
    size = {"figsize": (11, 3.4 * rows), "layout": "constrained"}
    figure, axes = plt.subplots(rows, 3, sharey=True, **size)
    figure.suptitle(title, fontsize=10)
    found = {}
    for axis, (label, logarithmic, series) in zip(axes.flat, panels, strict=False):
        for model, points in series.items():
            name, colour, mark = STYLES[model]
            x, values = zip(*sorted(points), strict=True)
            mean, deviation = [np.mean(v) for v in values], [_deviation(v) for v in values]
            style = {"color": colour, "marker": mark, "ms": 4, "lw": 1.2, "capsize": 2}
            found[name] = axis.errorbar(x, mean, deviation, **style)
        axis.set(xlabel=label, xscale="log" if logarithmic else "linear")
        axis.grid(alpha=0.3)
        if logarithmic:
            values = {x for points in series.values() for x, _ in points}
            _plain_ticks(axis, sorted(values) if len(values) < 8 else None)
    for axis in axes[:, 0]:
        axis.set_ylabel("test accuracy, %")
    *unused, last = axes.flat[len(panels) :]
    for axis in (*unused, last):
        axis.axis("off")
    last.legend(found.values(), found.keys(), loc="center")
    save(figure, path)


def _plain_ticks(axis, values=None) -> None:
    """Plain numbers on a logarithmic x axis, at these values or at 1, 2, 5, 10 and so on."""
    axis.xaxis.set_major_locator(FixedLocator(values) if values else LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.tick_params(axis="x", labelsize=7)


def beside_each_other(curves, label: str, title: str, path) -> None:
    """A panel for each run: what the paper's code and this package give over the epochs.

    curves: {name of the run: (values of the paper's code, values of ours)}.
    """
    size = (3.4 * len(curves), 3.2)
    figure, axes = plt.subplots(1, len(curves), figsize=size, layout="constrained", sharey=True)
    figure.suptitle(title, fontsize=10)
    for axis, (run, (theirs, ours)) in zip(np.atleast_1d(axes), curves.items(), strict=True):
        axis.plot(range(1, len(theirs) + 1), theirs, color="#555555", label="paper's code")
        axis.plot(range(1, len(ours) + 1), ours, color=STYLES["cfc"][1], ls="--", label="mlx-ncps")
        axis.set_title(run, fontsize=9)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel(label)
    np.atleast_1d(axes)[0].legend(fontsize=8)
    save(figure, path)


def _deviation(values) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def save(figure, path) -> None:
    """A PNG with a palette, which has a third of the bytes and looks the same."""
    image = io.BytesIO()
    figure.savefig(image, dpi=110)
    plt.close(figure)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.open(image).convert("RGB").quantize(64).save(path, optimize=True)
