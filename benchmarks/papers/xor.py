"""Event-based XOR of the CfC paper (Hasani et al. 2022): the parity of a bit string that is given
as runs of equal bits, (bit, elapsed time) each.

    python -m benchmarks.papers.xor train --model cfc --seed 0
    python -m benchmarks.papers.xor table
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import mlx_ncps
import numpy as np
from mlx.utils import tree_map, tree_map_with_path
from mlx_ncps import LTC, CfC

from .runs import Run, add_result, arguments, read_results, spread, table

PAD = 32  # strings have 2 .. PAD - 1 bits; elapsed times are divided by it
PAPER_EPOCHS = 200
GROUPS = 4  # parts of a batch


class Events(NamedTuple):
    """Bit strings as events: N samples, the events of each at the front of PAD places."""

    bits: np.ndarray  # [N, PAD] 0 or 1, the bit of each run
    elapsed: np.ndarray  # [N, PAD] time from the event before to this one, in units of PAD bits
    count: np.ndarray  # [N] number of events
    parity: np.ndarray  # [N] 0 or 1


@dataclass(frozen=True)
class Setup:
    """How a model is trained: the values of the paper's code."""

    units: int
    activation: str
    backbone: int
    optimizer: str
    batch: int
    learning_rate: float
    decay: float  # of the learning rate, per epoch
    clip: float  # of the norm of each array's gradient
    weight_decay: float  # L2 on the matrices of the CfC
    published: str  # test accuracy, % (3 runs)


SETUPS = {
    "cfc": Setup(192, "relu", 128, "rmsprop", 128, 0.05, 0.95, 1.0, 3e-6, "99.42 ± 0.42"),
    "mixed": Setup(64, "relu", 128, "rmsprop", 128, 0.005, 0.95, 10.0, 2e-6, "99.72 ± 0.08"),
    "no_gate": Setup(128, "silu", 192, "rmsprop", 128, 0.005, 0.95, 10.0, 5e-6, "96.29 ± 1.61"),
    "pure": Setup(64, "silu", 64, "adam", 256, 0.005, 0.9, 5.0, 3e-5, "85.42 ± 2.84"),
    "ltc": Setup(64, "", 0, "adam", 256, 0.005, 0.9, 5.0, 0.0, "49.11 ± 0.00"),
}


# --- data ---


def make_events(samples: int, seed: int) -> Events:
    """Random strings of 2 .. PAD - 1 bits, lengths and bits uniform, as events.

    The event of a run comes at its first bit, and says how many bits have come since the event
    before, this one included: so the first has an elapsed time of 1 bit. What is left after the
    last event is a last event with the last bit, unless nothing is left.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, PAD, samples)
    strings = rng.integers(0, 2, (samples, PAD))
    events = Events(
        np.zeros((samples, PAD), np.float32),
        np.zeros((samples, PAD), np.float32),
        np.zeros(samples, np.int32),
        np.zeros(samples, np.int32),
    )
    for n, (length, string) in enumerate(zip(lengths, strings, strict=True)):
        bits, elapsed = encode(string[:length])
        events.bits[n, : len(bits)] = bits
        events.elapsed[n, : len(bits)] = elapsed / PAD
        events.count[n] = len(bits)
        events.parity[n] = string[:length].sum() % 2
    return events


def encode(string):
    """A bit string as (bit of each event, bits that have come since the event before)."""
    starts = np.flatnonzero(np.diff(string, prepend=1 - string[0]))
    bits = string[starts]
    elapsed = np.diff(starts, prepend=-1)
    left = len(string) - 1 - starts[-1]
    if left > 0:
        bits, elapsed = np.append(bits, string[-1]), np.append(elapsed, left)
    return bits, elapsed


def batch_of(events: Events, chosen):
    """Inputs [B, T, 1], timespans [B, T], mask [B, T], parity [B]; T is the most events of any
    sample, since a masked step changes nothing.
    """
    steps = int(events.count[chosen].max())
    mask = np.arange(steps) < events.count[chosen][:, None]
    arrays = events.bits[chosen, :steps, None], events.elapsed[chosen, :steps], mask
    return *map(mx.array, arrays), mx.array(events.parity[chosen])


# --- training ---


def build(model: str, setup: Setup):
    """The network: its logit is a linear map of the state after the last event."""
    options = {"proj_size": 1, "return_sequences": False, "return_state": False}
    if model == "ltc":
        return LTC(1, setup.units, **options)
    return CfC(
        1,
        setup.units,
        variant="paper",
        mode=model if model in ("no_gate", "pure") else "default",
        mixed_memory=model == "mixed",
        activation=setup.activation,
        backbone_units=setup.backbone,
        **options,
    )


def make_optimizer(setup: Setup, first: int, steps: int):
    """The paper's optimiser, its learning rate that of epoch `first` on, of `steps` steps each."""
    start = setup.learning_rate * setup.decay**first
    rate = optim.exponential_decay(start, setup.decay ** (1 / steps))
    if setup.optimizer == "adam":
        return optim.Adam(rate, eps=1e-7, bias_correction=True)
    return optim.RMSprop(rate, alpha=0.9, eps=1e-7)


def make_step(model, optimizer, setup: Setup):
    """A function (events, chosen) that trains on one batch and gives its mean loss.

    The batch runs in GROUPS parts of similar length, whose gradients are summed: the same sum in
    another order, without most of the padding.
    """

    def loss_of(model, inputs, timespans, mask, parity):
        logits = model(inputs, timespans=timespans, mask=mask)[:, 0]
        return nn.losses.binary_cross_entropy(logits, parity, with_logits=True, reduction="sum")

    loss_and_gradients = nn.value_and_grad(model, loss_of)
    whole = [model.state, optimizer.state]

    @partial(mx.compile, inputs=model.state, outputs=model.state)
    def part(*arrays):
        return loss_and_gradients(model, *arrays)

    @partial(mx.compile, inputs=whole, outputs=whole)
    def update(size, gradients):
        """Mean over the batch, L2 on the cell's matrices, clip each array, optimiser."""

        def finish(name, gradient, weight):
            gradient = gradient / size
            if name.startswith("rnn_cell.") and name.endswith("weight"):
                gradient = gradient + 2 * setup.weight_decay * weight
            return clip(gradient, setup.clip)

        weights = model.trainable_parameters()
        optimizer.update(model, tree_map_with_path(finish, gradients, weights))

    def step(events, chosen):
        chosen = chosen[np.argsort(events.count[chosen], kind="stable")]
        groups = np.array_split(chosen, min(GROUPS, len(chosen)))
        losses, gradients = zip(*(part(*batch_of(events, g)) for g in groups), strict=True)
        update(mx.array(float(len(chosen))), tree_map(lambda *parts: sum(parts), *gradients))
        mx.eval(losses, model.state, optimizer.state)
        return sum(loss.item() for loss in losses) / len(chosen)

    return step


def clip(gradient, limit: float):
    """The gradient of one array, no longer than `limit`."""
    norm = mx.linalg.norm(gradient)
    return gradient * mx.minimum(1.0, limit / mx.maximum(norm, 1e-12))


def accuracy(predict, events: Events) -> float:
    """Share of right parities, in %."""
    right = 0
    order = np.argsort(events.count, kind="stable")  # little padding
    for start in range(0, len(order), 500):
        *inputs, parity = batch_of(events, order[start : start + 500])
        right += mx.sum((predict(*inputs) > 0) == (parity > 0)).item()
    return 100.0 * right / len(order)


def train(model_name, seed, epochs, data, path, *, setup=None, quiet=False) -> Run:
    """Train one model, or go on with it; data: (training events, test events).

    epochs: (first, end), the part of the paper's schedule of the learning rate that runs.
    """
    setup = setup or SETUPS[model_name]
    train_events, test_events = data
    mx.random.seed(seed)
    model = build(model_name, setup)
    samples = len(train_events.count)
    steps = math.ceil(samples / setup.batch)
    optimizer = make_optimizer(setup, epochs[0], steps)
    optimizer.init(model.trainable_parameters())
    facts = {"model": model_name, "seed": seed, "first": epochs[0], "samples": samples}
    run = Run(path, {**facts, "setup": asdict(setup)}, model, optimizer)
    step = make_step(model, optimizer, setup)
    predict = mx.compile(
        lambda x, ts, mask: model(x, timespans=ts, mask=mask)[:, 0], inputs=model.state
    )

    def train_epoch(epoch):
        order = np.random.default_rng([seed, epoch]).permutation(samples)
        losses = []
        for start in range(0, samples, setup.batch):
            losses.append(step(train_events, order[start : start + setup.batch]))
        return {"loss": float(np.mean(losses)), "accuracy": accuracy(predict, test_events)}

    run.epochs(epochs[1] - epochs[0], train_epoch, quiet=quiet)
    return run


# --- command ---


def results_table(entries) -> str:
    """Markdown: final test accuracy of each model, mean and spread over seeds."""
    rows = []
    for model, setup in SETUPS.items():
        for epochs in sorted({tuple(e["epochs"]) for e in entries if e["model"] == model}):
            chosen = [e for e in entries if (e["model"], tuple(e["epochs"])) == (model, epochs)]
            minutes = np.mean([e["seconds"] for e in chosen]) / 60
            measured = spread(e["accuracy"] for e in chosen)
            part = f"{epochs[0]} to {epochs[1]}"
            rows.append([model, setup.published, measured, len(chosen), part, f"{minutes:.0f}"])
    head = ["model", "published, %", "test accuracy, %", "seeds", "epochs", "minutes a run"]
    return table(head, rows)


def main(argv=None) -> int:
    parser = arguments(__doc__, "xor", PAPER_EPOCHS, "end of the schedule")
    parser.add_argument("--model", choices=tuple(SETUPS), default="cfc")
    parser.add_argument("--first", type=int, default=0, help="first epoch of the schedule")
    options = parser.parse_args(argv)
    if options.command == "table":
        print(results_table(read_results(options.results)))
        return 0
    if options.threads:
        mlx_ncps.set_num_threads(options.threads)
    mx.set_default_device(mx.cpu)
    data = make_events(100_000, 1), make_events(10_000, 2)
    epochs = (options.first, options.epochs)
    for seed in options.seed:
        path = f"{options.checkpoints}/{options.model}-{options.first}-{seed}"
        run = train(options.model, seed, epochs, data, path)
        entry = {"model": options.model, "seed": seed, "epochs": epochs}
        entry |= {"accuracy": run.log[-1]["accuracy"], "seconds": round(run.seconds)}
        add_result(options.results, entry)
        print(entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
