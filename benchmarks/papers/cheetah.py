"""Half-cheetah of the LTC paper (Hasani et al. 2021): the next observation from those before, on
recorded traces of 17 features, by LTC, CfC, LSTM and continuous-time baselines of 32 units.

    python -m benchmarks.papers.cheetah train --model ltc --seed 0 1 2 --data FOLDER
    python -m benchmarks.papers.cheetah table
    python -m benchmarks.papers.cheetah figure
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_ncps import LTC, CfC, CTGRUCell, CTRNNCell, LiquidRNN, NeuralODECell

from .runs import Run, add_result, arguments, begin, spread, table

WINDOW, STRIDE, UNITS, BATCH, EPOCHS = 32, 10, 32, 16, 200
TRAIN, VALID, TEST = slice(15, 25), slice(0, 5), slice(5, 15)  # of the sorted files


class Split(NamedTuple):
    """Windows of the traces and the same one step later, each [N, WINDOW, features]."""

    inputs: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class Setup:
    """How a model is trained: the values of the paper's code."""

    learning_rate: float
    span: float  # time between two observations; the code's solver steps times their size
    compiled: bool  # compiling an unrolled solver takes longer than it saves
    published: str  # test error; "" for a model that the paper hasn't


SETUPS = {
    "ltc": Setup(0.01, 6.0, True, "2.308 ± 0.015"),
    "cfc": Setup(0.001, 1.0, True, ""),
    "lstm": Setup(0.001, 1.0, True, "2.500 ± 0.140"),
    "ctrnn": Setup(0.001, 0.6, False, "2.838 ± 0.112"),
    "ctgru": Setup(0.001, 1.0, False, "3.014 ± 0.134"),
    "neural_ode": Setup(0.001, 0.6, False, "3.805 ± 0.313"),
}


# --- data ---


def load(folder) -> tuple[Split, Split, Split]:
    """Training, validation and test windows of the .npy traces [steps, features] in `folder`.

    Raises ValueError when there are fewer than 25 of them.
    """
    files = sorted(Path(folder).glob("*.npy"))
    if len(files) < TRAIN.stop:
        raise ValueError(
            f"[papers] {folder} must hold {TRAIN.stop} .npy traces or more, got {len(files)}."
        )
    traces = [np.load(file, allow_pickle=False).astype(np.float32) for file in files]
    return tuple(cut(traces[part]) for part in (TRAIN, VALID, TEST))


def cut(traces) -> Split:
    """All windows of the traces that leave room for their targets, STRIDE steps apart."""
    starts = [range(0, len(trace) - WINDOW - 1, STRIDE) for trace in traces]
    pairs = list(zip(traces, starts, strict=True))
    inputs = [trace[s : s + WINDOW] for trace, those in pairs for s in those]
    targets = [trace[s + 1 : s + 1 + WINDOW] for trace, those in pairs for s in those]
    return Split(np.stack(inputs), np.stack(targets))


# --- models ---


class LSTM(nn.Module):
    """An LSTM whose forget gate starts with a bias of 1 more, as in the paper's code."""

    def __init__(self, features: int):
        super().__init__()
        self.lstm = nn.LSTM(features, UNITS)
        forget = slice(UNITS, 2 * UNITS)  # of the gates i, f, g, o
        self.lstm.bias[forget] = self.lstm.bias[forget] + 1.0

    def __call__(self, inputs, timespans=None):
        """All outputs [B, T, UNITS] of inputs [B, T, F]; an LSTM knows no time."""
        return self.lstm(inputs)[0]


class Predictor(nn.Module):
    """A recurrent layer and a linear map of its states: inputs [B, T, F] -> [B, T, F]."""

    def __init__(self, model: str, features: int, span: float):
        super().__init__()
        self.span = span
        self.rnn = _layer(model, features)
        self.head = nn.Linear(UNITS, features)

    def __call__(self, inputs):
        """Predictions [B, T, F] of the next inputs, from inputs [B, T, F]."""
        return self.head(self.rnn(inputs, timespans=self.span))


def _layer(model: str, features: int):
    if model == "lstm":
        return LSTM(features)
    if model == "ltc":
        options = {"implicit_param_constraints": False, "output_mapping": None}
        return LTC(features, UNITS, return_state=False, **options)
    if model == "cfc":
        return CfC(features, UNITS, return_state=False)
    cell = {"ctrnn": CTRNNCell, "ctgru": CTGRUCell, "neural_ode": NeuralODECell}[model]
    return LiquidRNN(cell(features, UNITS), return_sequences=True)


# --- training ---


def make_step(model, optimizer, compiled: bool):
    """A function that trains on one batch (inputs, targets) and gives its mean-squared error; an
    LTC's parameters are kept positive afterwards.
    """

    def loss_of(model, inputs, targets):
        return mx.mean(mx.square(model(inputs) - targets))

    loss_and_gradients = nn.value_and_grad(model, loss_of)
    state = [model.state, optimizer.state]

    def step(inputs, targets):
        loss, gradients = loss_and_gradients(model, inputs, targets)
        optimizer.update(model, gradients)
        if isinstance(model.rnn, LTC):
            model.rnn.apply_weight_constraints()
        return loss

    return mx.compile(step, inputs=state, outputs=state) if compiled else step


def error(model, split: Split) -> float:
    """Mean-squared error over all windows."""
    total = 0.0
    for start in range(0, len(split.inputs), 128):
        inputs, targets = (mx.array(array[start : start + 128]) for array in split)
        total += mx.sum(mx.square(model(inputs) - targets)).item()
    return total / split.targets.size


def train(name, seed, data, path, *, rate=None, epochs=EPOCHS, quiet=False) -> Run:
    """Train one model, or go on with it; data: (training, validation, test windows)."""
    setup, (training, valid, test) = SETUPS[name], data
    rate = setup.learning_rate if rate is None else rate
    mx.random.seed(seed)
    model = Predictor(name, training.inputs.shape[-1], setup.span)
    optimizer = optim.Adam(rate, bias_correction=True)
    optimizer.init(model.trainable_parameters())
    facts = {"model": name, "seed": seed, "rate": rate}
    run = Run(path, {**facts, "setup": asdict(setup)}, model, optimizer)
    step = make_step(model, optimizer, setup.compiled)

    def train_epoch(epoch):
        order = np.random.default_rng([seed, epoch]).permutation(len(training.inputs))
        losses = []
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            loss = step(mx.array(training.inputs[chosen]), mx.array(training.targets[chosen]))
            mx.eval(loss, model.state, optimizer.state)
            losses.append(loss.item())
        figures = {"train": float(np.mean(losses))}
        return figures | {"valid": error(model, valid), "test": error(model, test)}

    run.epochs(epochs, train_epoch, quiet=quiet)
    return run


def best(log) -> dict:
    """The epoch of the lowest validation error, as {"epoch": its number from 1, errors}."""
    valid = [np.nan_to_num(entry["valid"], nan=np.inf) for entry in log]
    number = int(np.argmin(valid))
    entry = log[number]
    return {"best_epoch": number + 1, **{name: entry[name] for name in ("train", "valid", "test")}}


# --- command ---


def results_table(entries) -> str:
    """Markdown: test error at the best validation epoch, mean and spread over seeds."""
    rows = []
    for model, setup in SETUPS.items():
        kinds = {(e["rate"], e["epochs"]) for e in entries if e["model"] == model}
        for rate, epochs in sorted(kinds, key=lambda kind: kind[0] != setup.learning_rate):
            chosen = [
                e for e in entries if (e["model"], e["rate"], e["epochs"]) == (model, rate, epochs)
            ]
            minutes = f"{np.mean([e['seconds'] for e in chosen]) / 60:.1f}"
            measured = spread([e["test"] for e in chosen], digits=3)
            published = setup.published if rate == setup.learning_rate else ""
            rows.append([model, published, measured, len(chosen), epochs, rate, minutes])
    head = ["model", "published", "test error", "seeds", "epochs", "learning rate", "minutes a run"]
    return table(head, rows)


def draw(entries, path) -> None:
    """The picture: test errors of each model beside those published, at the paper's rate."""
    from .figures import beside_published

    rows = []
    for model, setup in SETUPS.items():
        kinds = [e for e in entries if (e["model"], e["rate"]) == (model, setup.learning_rate)]
        longest = max((e["epochs"] for e in kinds), default=0)
        values = [e["test"] for e in kinds if e["epochs"] == longest]
        if values:
            label = f"{model}\n{len(values)} x {longest} epochs"
            rows.append((label, setup.published, values))
    beside_published(rows, "mean squared test error", "Half-cheetah", path)


def main(argv=None) -> int:
    parser = arguments(__doc__, "cheetah", EPOCHS, "of the whole training")
    parser.add_argument("--data", default=os.environ.get("CHEETAH_DATA", "data/cheetah"))
    parser.add_argument("--model", choices=tuple(SETUPS), nargs="+", default=["ltc"])
    parser.add_argument("--rate", type=float, help="learning rate in place of the paper's")
    options = parser.parse_args(argv)
    if not begin(options, results_table, draw):
        return 0
    data = load(options.data)
    for model in options.model:
        for seed in options.seed:
            rate = SETUPS[model].learning_rate if options.rate is None else options.rate
            path = f"{options.checkpoints}/{model}-{rate:g}-{seed}"
            run = train(model, seed, data, path, rate=rate, epochs=options.epochs)
            entry = {"model": model, "seed": seed, "epochs": options.epochs, "rate": rate}
            entry |= {**best(run.log), "seconds": round(run.seconds)}
            add_result(options.results, entry)
            print(entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
