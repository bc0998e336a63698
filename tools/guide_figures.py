"""Draws the pictures of docs/guide. Those of a program show what it computed: the block of its
page runs, and the names that it leaves are drawn.

    python -m tools.guide_figures [NAME ...]    into docs/figures/guide
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import mlx.core as mx
import numpy as np
from mlx_ncps import LTC, CfC, ops
from mlx_ncps.wirings import AutoNCP, FullyConnected
from PIL import Image

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs/figures/guide"
STYLE = {
    "figure.dpi": 110,
    "font.size": 9,
    "savefig.dpi": 90,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


def run_block(page: str, text: str) -> dict:
    """The names that the first Python block of a guide with this text leaves."""
    content = (ROOT / "docs/guide" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", content, re.DOTALL | re.MULTILINE)
    names: dict = {"__name__": "__main__"}
    exec(next(block for block in blocks if text in block), names)
    return names


def sine():
    """The quickstart's sine: before and after training, and the loss."""
    names = run_block("quickstart.md", "3 * np.pi")
    layer, x, y = names["layer"], names["x"], np.array(names["y"][0, :, 0])
    mx.random.seed(0)
    before, _ = LTC(2, AutoNCP(16, 1))(x)
    after, _ = layer(x)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6), width_ratios=(2, 1))
    left.plot(y, color="black", label="target")
    left.plot(np.array(before[0, :, 0]), color="tab:gray", ls=":", label="before training")
    left.plot(np.array(after[0, :, 0]), color="tab:orange", ls="--", label="after 400 steps")
    left.set(xlabel="step", ylabel="output", ylim=(-1.2, 1.6))
    left.legend(frameon=False, ncol=3, loc="upper center")
    right.semilogy(names["losses"], color="tab:blue")
    right.set(xlabel="training step", ylabel="mean squared error")
    return figure


def irregular():
    """The quickstart's wave: what was seen, and what the two networks predicted."""
    names = run_block("quickstart.md", "def waves")
    row = 3
    gaps = np.array(names["test_gaps"][row])
    times = np.cumsum(gaps)
    figure, axes = plt.subplots(figsize=(8, 2.6))
    y = np.array(names["test_y"][row, :, 0])
    axes.plot(times, y, "o", color="black", ms=4, label="seen next")
    for key, color, label in (
        ("predicted", "tab:orange", "predicted, told the time"),
        ("guessed", "tab:gray", "predicted, not told"),
    ):
        values = np.array(names[key][row, :, 0])
        axes.plot(times, values, "x-", lw=0.8, ms=4, color=color, label=label)
    axes.set(xlabel="time", ylabel="value", ylim=(-1.4, 1.8))
    axes.legend(frameon=False, ncol=3, loc="upper center")
    return figure


def time_constants(layer, drive):
    """Cm over the sum of the conductances (MATHS 3.5) of each neuron [N, H] of an LTC with one
    input at these inputs [N], from the state 0.
    """
    layer.build(1)
    p = {name: np.array(value) for name, value in layer.rnn_cell.parameters().items()}
    positive = {n: np.logaddexp(0, p[n]) for n in ("gleak", "cm", "w", "sensory_w")}  # (3.2)

    def gates(source, sigma, mu):
        return 1 / (1 + np.exp(-sigma * (source[:, :, None] - mu)))  # (3.3)

    state, inputs = np.zeros((len(drive), layer.state_size)), drive[:, None]
    own = positive["w"] * gates(state, p["sigma"], p["mu"])
    sensory = positive["sensory_w"] * gates(inputs, p["sensory_sigma"], p["sensory_mu"])
    return positive["cm"] / (positive["gleak"] + own.sum(axis=1) + sensory.sum(axis=1))


def dynamics():
    """One step of a CfC and of an LTC over the elapsed time; an LTC's time constant."""
    mx.random.seed(3)
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6))
    spans = np.linspace(0, 4, 81)
    x, h = mx.array([[1.0, -0.5]]), mx.random.uniform(-0.8, 0.8, (1, 4))
    many = mx.array(spans, dtype=mx.float32)[:, None]  # [81, 1]: a row for each elapsed time
    rows = (mx.broadcast_to(x, (81, 1, 2)), mx.broadcast_to(h, (81, 4)))
    for axis, layer, title in (
        (axes[0], CfC(2, 4), "CfC: state after a step"),
        (axes[1], LTC(2, 4, ode_unfolds=24), "LTC: state after a step"),
    ):
        _, states = layer(rows[0], rows[1], many)
        axis.plot(spans, np.array(states))
        axis.set(xlabel="elapsed time", title=title)
    drive = np.linspace(-1, 2, 61)
    axes[2].plot(drive, time_constants(LTC(1, 4), drive))
    axes[2].set(xlabel="input", title="LTC: time constants", ylim=(0, None))
    return figure


def wirings():
    """A dense wiring beside an NCP of the same size."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1, 1.5))
    dense, ncp = FullyConnected(8, 2, input_dim=3), AutoNCP(16, 3, input_dim=4)
    dense.draw_graph("shell", ax=axes[0], neuron_colors={"inter": "tab:blue"})
    axes[0].set_title(f"FullyConnected(8, 2): {dense.synapse_count} synapses")
    ncp.draw_graph("layered", ax=axes[1], legend=True)
    axes[1].set_title(f"AutoNCP(16, 3): {ncp.synapse_count} synapses")
    for axis in axes:
        axis.set_axis_off()
    return figure


def solvers():
    """How far each solver of an LTC is from the exact solution, by unfolds."""
    rng = np.random.default_rng(0)
    mx.random.seed(0)
    layer = LTC(3, 16)
    cell = layer.rnn_cell
    cell.build((None, 3))
    x = rng.normal(size=(8, 20, 3))
    ts = rng.uniform(0.5, 1.5, (8, 20))
    params = ops.LTCParams(*(a if a is None else np.array(a, np.float64) for a in cell.params()))
    start, raw = np.zeros((8, 16)), {"implicit_param_constraints": True}

    def run(solver, unfolds):
        return ops.numpy.ltc_sequence(
            x, start, ts, params, ode_unfolds=unfolds, ode_solver=solver, **raw
        )

    exact = run("runge_kutta", 512)
    figure, axes = plt.subplots(figsize=(5, 2.8))
    counts = np.array([2, 4, 6, 8, 12, 16, 24, 32, 48, 64])
    for solver, marker in (("semi_implicit", "o"), ("explicit", "s"), ("runge_kutta", "^")):
        with np.errstate(all="ignore"):
            errors = np.array([np.abs(run(solver, n) - exact).max() for n in counts])
        shown = errors < 3
        axes.loglog(counts[shown], errors[shown], marker=marker, ms=4, label=solver)
    axes.axvline(6, color="tab:gray", lw=0.8, ls=":")
    axes.set_xticks(counts, counts)
    axes.minorticks_off()
    axes.set(xlabel="ode_unfolds (6: the default)", ylabel="largest error of a state")
    axes.legend(frameon=False)
    return figure


def states():
    """The states of all neurons of the interpretation page, by name, and their time constants."""
    names = run_block("howto_interpret.md", "layer.time_constants(x)")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(3, 1), sharey=True)
    row, labels = names["states"][0], names["layer"].state_names()
    shown = left.imshow(row.T, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1)
    left.set_yticks(range(len(labels)), labels, fontsize=7)
    left.set(xlabel="step", title="states")
    figure.colorbar(shown, ax=left, pad=0.01)
    taus = np.quantile(names["taus"], [0.05, 0.5, 0.95], axis=(0, 1))
    spread = np.abs(taus[[0, 2]] - taus[1])
    right.errorbar(taus[1], range(len(labels)), xerr=spread, fmt="o", ms=4)
    right.set(xlabel="time constant", title="median, 5 to 95 %", xlim=(0, None))
    return figure


FIGURES = {f.__name__: f for f in (sine, irregular, dynamics, wirings, solvers, states)}


def main(names: list[str]) -> None:
    """Draws the named figures, or all."""
    matplotlib.use("Agg")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names or FIGURES:
        with plt.rc_context(STYLE):
            figure = FIGURES[name]()
            picture = io.BytesIO()
            figure.savefig(picture)
            plt.close(figure)
            few = Image.open(picture).convert("RGB").quantize(64)  # a third of the size
            few.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
