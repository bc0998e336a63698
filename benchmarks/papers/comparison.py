"""Experiments that compare models on a task of sequences: learning rate by validation, runs over
seeds, the table and the picture of test error against training time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path

import numpy as np

from .runs import Run, add_result, arguments, begin, spread, table
from .sequences import MODELS, Protocol, Sequences, parameters, rows_of, synapses, test, train

RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
SHORTLIST = 3  # rates that run with all seeds


@dataclass(frozen=True)
class Experiment:
    """A task, its models, and what is measured of each trained model.

    load: () or (folder,) -> (training, validation, test sequences).
    measure: (model, test sequences, seed) -> more figures of an entry, or None.
    """

    name: str
    title: str
    description: str
    protocol: Protocol
    load: Callable
    models: tuple[tuple[str, int], ...]  # (model, units)
    measure: Callable | None = None


def of_models(protocol: Protocol) -> tuple[tuple[str, int], ...]:
    """All models, of the protocol's units."""
    return tuple((model, protocol.units) for model in MODELS)


def run_model(experiment, model, units, seeds, data, options, *, quiet=False) -> list[dict]:
    """Entries of all runs: every rate with the first seed, the SHORTLIST best of them with the
    others.
    """

    def run(rate, seed):
        return run_one(experiment, model, units, rate, seed, data, options, quiet=quiet)

    entries = [run(rate, seeds[0]) for rate in RATES]
    ranked = sorted(entries, key=valid_loss)
    rates = [entry["rate"] for entry in ranked[:SHORTLIST]]
    return entries + [run(rate, seed) for rate in rates for seed in seeds[1:]]


def run_one(experiment, model, units, rate, seed, data, options, *, quiet=False) -> dict:
    """Train and test one model; its entry is added to the results."""
    training, valid, held_out = data
    protocol = experiment.protocol
    path = Path(options.checkpoints) / f"{model}-{units}-{rate:g}-{protocol.epochs}-{seed}"
    run: Run = train(protocol, model, units, rate, seed, training, path, quiet=quiet)
    loss, _ = test(run.model, valid)
    _, accuracy = test(run.model, held_out)
    entry = {"model": model, "units": units, "rate": rate, "epochs": len(run.log), "seed": seed}
    entry |= {"valid_loss": round(loss, 4) if math.isfinite(loss) else None}
    entry |= {"accuracy": round(accuracy, 2), "parameters": parameters(run.model)}
    entry |= {"synapses": synapses(run.model), "seconds": round(run.seconds, 2)}
    entry |= {"processor_seconds": round(run.processor_seconds, 2)}
    if experiment.measure is not None:
        entry |= experiment.measure(run.model, held_out, seed)
    add_result(options.results, entry)
    print(entry)
    return entry


def valid_loss(entry) -> float:
    """The validation loss, infinite where it was not finite."""
    return math.inf if entry["valid_loss"] is None else entry["valid_loss"]


def best_rate(entries) -> float:
    """The rate of the lowest validation loss, mean over seeds, of those that ran with all seeds."""
    losses: dict[float, list] = {}
    for entry in entries:
        losses.setdefault(entry["rate"], []).append(valid_loss(entry))
    seeds = max(map(len, losses.values()))
    return min((sum(of), rate) for rate, of in losses.items() if len(of) == seeds)[1]


def chosen_entries(entries, model, units) -> list[dict]:
    """The entries of a model at its best rate, one for each seed, of its longest runs."""
    entries = [e for e in entries if (e["model"], e["units"]) == (model, units)]
    if not entries:
        return []
    longest = max(e["epochs"] for e in entries)
    entries = [e for e in entries if e["epochs"] == longest]
    rate = best_rate(entries)
    return [entry for entry in entries if entry["rate"] == rate]


def results_table(experiment, entries) -> str:
    """Markdown: accuracy, spread over seeds, sizes and training time of each model."""
    rows = []
    for model, units in experiment.models:
        chosen = chosen_entries(entries, model, units)
        if chosen:
            one = chosen[0]
            accuracy = spread([e["accuracy"] for e in chosen])
            seconds = spread([e["processor_seconds"] for e in chosen], digits=1)
            sizes = [one["synapses"], one["parameters"], one["rate"]]
            rows.append([model, units, accuracy, seconds, len(chosen), *sizes])
    head = ["model", "neurons", "test accuracy, %", "training, processor s", "seeds", "synapses"]
    return table([*head, "parameters", "learning rate"], rows)


def draw(experiment, entries, path) -> None:
    """The picture: test error against training time."""
    from .figures import error_against_time

    points = {}
    for model, units in experiment.models:
        chosen = chosen_entries(entries, model, units)
        if chosen:
            seconds = [e["processor_seconds"] for e in chosen]
            points[model] = seconds, [100 - e["accuracy"] for e in chosen]
    error_against_time(points, experiment.title, path)


def command(experiment: Experiment, argv=None, draw=draw, table_of=results_table) -> int:
    """The command of an experiment: train, table or figure."""
    parser = arguments(
        experiment.description, experiment.name, experiment.protocol.epochs, "of a run"
    )
    parser.set_defaults(seed=[0, 1, 2])
    known = sorted({model for model, _ in experiment.models})
    parser.add_argument("--model", choices=known, nargs="+", default=known)
    if signature(experiment.load).parameters:
        parser.add_argument("--data", help="folder of the data, if not that of the package")
    options = parser.parse_args(argv)
    if not begin(options, partial(table_of, experiment), partial(draw, experiment)):
        return 0
    protocol = replace(experiment.protocol, epochs=options.epochs)
    experiment = replace(experiment, protocol=protocol)
    folder = getattr(options, "data", None)
    data = experiment.load(*([folder] if folder else []))
    for model, units in experiment.models:
        if model in options.model:
            run_model(experiment, model, units, options.seed, data, options)
    return 0


def split_off(sequences: Sequences, share: float, seed: int) -> tuple[Sequences, Sequences]:
    """Two parts, the second with `share` of every class, drawn at random."""
    rng = np.random.default_rng(seed)
    second = np.zeros(len(sequences.label), bool)
    for label in np.unique(sequences.label):
        places = rng.permutation(np.flatnonzero(sequences.label == label))
        second[places[: round(share * len(places))]] = True
    return rows_of(sequences, ~second), rows_of(sequences, second)
