"""Robustness and size: the Japanese vowels with all frames, learnt by models of several sizes, then
tested with noise and with dropped frames that training never saw.

    python -m benchmarks.papers.robustness train
    python -m benchmarks.papers.robustness table
    python -m benchmarks.papers.robustness figure
"""

from __future__ import annotations

import sys

from .comparison import Experiment, chosen_entries, command
from .runs import spread, table
from .sequences import MODELS, WIRED, Protocol, add_noise, drop, test
from .vowels import load_whole

NOISE = (0.0, 0.25, 0.5, 1.0, 1.5)  # standard deviation; that of the data is 1
DROPPED = (0.0, 0.25, 0.5, 0.75, 0.9)  # share of the frames
NCP_UNITS = 19
PROTOCOL = Protocol(classes=9, epochs=60, batch=16)
SIZES = {"ncp_cfc": (12, 19, 32, 64), "ncp_ltc": (12, 19, 32, 64), "lstm": (4, 8, 19, 32, 64)}
SIZES |= {"gru": (4, 8, 19, 32, 64), "ltc": (4, 8, 19, 32), "cfc": (4, 8, 19, 32)}


def measure(model, held_out, seed) -> dict:
    """Accuracies in % with noise and with dropped frames, by their amount."""
    noisy = {str(x): test(model, add_noise(held_out, x, seed))[1] for x in NOISE}
    dropped = {str(x): test(model, drop(held_out, x, seed))[1] for x in DROPPED}
    kinds = {"noise": noisy, "dropped": dropped}
    return {kind: {x: round(a, 2) for x, a in of.items()} for kind, of in kinds.items()}


def _models():
    """Those of the picture's left half first, then the other sizes."""
    first = [(model, PROTOCOL.units) for model in MODELS] + [(m, NCP_UNITS) for m in WIRED]
    sizes = [(model, units) for model, of in SIZES.items() for units in of]
    return tuple(dict.fromkeys([*first, *sizes]))


EXPERIMENT = Experiment(
    "robustness", "Japanese vowels, trained on all frames: 3 seeds, 32 neurons, 19 where wired",
    __doc__, PROTOCOL, load_whole, _models(), measure,
)  # fmt: skip


def draw(experiment, entries, path) -> None:
    """The picture: accuracy against noise, dropped frames, neurons, synapses and parameters."""
    from .figures import lines

    compared = [(m, PROTOCOL.units) for m in MODELS] + [(m, NCP_UNITS) for m in WIRED]
    panels = []
    for kind, label in (("noise", "noise, standard deviations"), ("dropped", "share dropped")):
        series = {}
        for model, units in compared:
            chosen = chosen_entries(entries, model, units)
            if chosen:
                levels = chosen[0][kind]
                series[model] = [(float(x), [e[kind][x] for e in chosen]) for x in levels]
        panels.append((label, False, series))
    for key, label in (("units", "neurons"), ("synapses",) * 2, ("parameters",) * 2):
        series = {}
        for model, of in SIZES.items():
            found = [chosen for units in of if (chosen := chosen_entries(entries, model, units))]
            if found:
                series[model] = [(c[0][key], [e["accuracy"] for e in c]) for c in found]
        panels.append((label, True, series))
    lines(panels, experiment.title, path)


def results_table(experiment, entries) -> str:
    """Markdown: accuracies of each model and size, clean, with noise, with dropped frames."""
    rows = []
    for model, units in experiment.models:
        chosen = chosen_entries(entries, model, units)
        if chosen:
            levels = [("noise", x) for x in NOISE[1:]] + [("dropped", x) for x in DROPPED[1:]]
            cells = [spread([e[kind][str(x)] for e in chosen], digits=1) for kind, x in levels]
            clean = spread([e["accuracy"] for e in chosen], digits=1)
            one = chosen[0]
            sizes = [one["synapses"], one["parameters"], one["rate"]]
            rows.append([model, units, *sizes, len(chosen), clean, *cells])
    levels = [f"noise {x:g}" for x in NOISE[1:]] + [f"{100 * x:g} % dropped" for x in DROPPED[1:]]
    head = ["model", "neurons", "synapses", "parameters", "learning rate", "seeds", "clean"]
    return table([*head, *levels], rows)


def main(argv=None) -> int:
    return command(EXPERIMENT, argv, draw=draw, table_of=results_table)


if __name__ == "__main__":
    sys.exit(main())
