"""Event-based XOR of the CfC paper (Hasani et al. 2022): the parity of a bit string that is given
as runs of equal bits, (bit, elapsed time) each.

    python -m benchmarks.papers.xor train --model cfc --seed 0
    python -m benchmarks.papers.xor table
    python -m benchmarks.papers.xor figure
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map, tree_map_with_path
from mlx_ncps import LTC, CfC, CfCCell, LiquidRNN
from mlx_ncps.cells import LSTMCell
from mlx_ncps.ops import xavier_uniform

from .events import STRINGS, Events, batch_of, make_events
from .optimizers import Adam, RMSprop
from .runs import Run, add_result, arguments, begin, spread, table

PAPER_EPOCHS = 200
GROUPS = 4  # parts of a batch


@dataclass(frozen=True)
class Setup:
    """How a model is trained: the values of the paper's code."""

    units: int
    activation: str
    backbone: int
    dropout: float  # of the backbone's outputs
    optimizer: str
    batch: int
    learning_rate: float
    decay: float  # of the learning rate, per epoch
    clip: float  # of the norm of each array's gradient
    weight_decay: float  # L2 on the matrices of the CfC
    published: str  # test accuracy, %, of 3 runs, ± deviation of a population; "" for none


SETUPS = {
    "cfc": Setup(192, "relu", 128, 0.0, "rmsprop", 128, 0.05, 0.95, 1.0, 3e-6, "99.42 ± 0.42"),
    "mixed": Setup(64, "relu", 128, 0.0, "rmsprop", 128, 0.005, 0.95, 10.0, 2e-6, ""),
    "mixed_paper": Setup(
        64, "relu", 128, 0.0, "rmsprop", 128, 0.005, 0.95, 10.0, 2e-6, "99.72 ± 0.08"
    ),
    "no_gate": Setup(
        128, "silu", 192, 0.3, "rmsprop", 128, 0.005, 0.95, 10.0, 5e-6, "96.29 ± 1.61"
    ),
    "pure": Setup(64, "silu", 64, 0.0, "adam", 256, 0.005, 0.9, 5.0, 3e-5, "85.42 ± 2.84"),
    "ltc": Setup(64, "", 0, 0.0, "adam", 256, 0.005, 0.9, 5.0, 0.0, "49.11 ± 0.00"),
}
FORGET_BIAS = 0.6  # of mixed memory


# --- training ---


class PaperMixedCell(nn.Module):
    """Mixed memory of the paper's code: the CfC reads the LSTM's output h* and its own state, while
    that of `mixed` reads the input and h*. The LSTM reads the input and the CfC's state in both.
    """

    def __init__(self, units: int, **options):
        super().__init__()
        self.state_size, self.output_size = (units, units), units
        self.lstm = LSTMCell(1, units)
        self.cfc = CfCCell(units, units, **options)

    def __call__(self, inputs, state, ts=1.0):
        """Inputs [B, 1], state (h, c), ts a number or [B, 1] -> (h', (h', c'))."""
        h, _ = state
        read, (_, c) = self.lstm(inputs, state)
        h, _ = self.cfc(read, h, ts)
        return h, (h, c)


def build(model: str, setup: Setup):
    """The network, its weights started as in the paper's code: its logit is a linear map of the
    state after the last event.
    """
    contract = {"proj_size": 1, "return_sequences": False, "return_state": False}
    options = {
        "variant": "paper",
        "mode": model if model in ("no_gate", "pure") else "default",
        "activation": setup.activation,
        "backbone_units": setup.backbone,
        "backbone_dropout": setup.dropout,
    }
    if model == "ltc":
        layer = LTC(1, setup.units, implicit_param_constraints=False, **contract)
    elif model == "mixed_paper":
        layer = LiquidRNN(PaperMixedCell(setup.units, **options), **contract)
    else:
        layer = CfC(1, setup.units, mixed_memory=model == "mixed", **options, **contract)
    layer.fc.weight = xavier_uniform((1, setup.units))
    layer.fc.bias = mx.zeros((1,))
    if model in ("mixed", "mixed_paper"):
        gates = [0.0, 0.0, FORGET_BIAS - 1, 0.0]  # the cell adds 1 to the third
        lstm = layer.lstm if model == "mixed" else layer.rnn_cell.lstm
        lstm.input_map.bias = mx.repeat(mx.array(gates), setup.units)
    return layer


def make_optimizer(setup: Setup, first: int, steps: int):
    """The paper's optimiser, its learning rate that of epoch `first` on, of `steps` steps each."""
    start = setup.learning_rate * setup.decay**first
    rate = optim.exponential_decay(start, setup.decay ** (1 / steps))
    return {"adam": Adam, "rmsprop": RMSprop}[setup.optimizer](rate)


def make_step(model, optimizer, setup: Setup):
    """A function (events, chosen) that trains on one batch and gives its mean loss.

    The batch runs in GROUPS parts of similar length, whose gradients are summed: the same sum in
    another order, without most of the padding. An LTC's parameters are kept positive.
    """

    def loss_of(model, inputs, timespans, mask, parity):
        logits = model(inputs, timespans=timespans, mask=mask)[:, 0]
        return nn.losses.binary_cross_entropy(logits, parity, with_logits=True, reduction="sum")

    loss_and_gradients = nn.value_and_grad(model, loss_of)
    random = [model.state, mx.random.state]  # dropout draws
    whole = [model.state, optimizer.state]

    @partial(mx.compile, inputs=random, outputs=random)
    def part(*arrays):
        return loss_and_gradients(model, *arrays)

    @partial(mx.compile, inputs=whole, outputs=whole)
    def update(size, gradients):
        """Mean over the batch, L2 on the cell's matrices, clip each array, optimiser."""

        def finish(name, gradient, weight):
            gradient = gradient / size
            if name.startswith("rnn_cell.") and name.endswith("weight") and ".lstm." not in name:
                gradient = gradient + 2 * setup.weight_decay * weight
            return clip(gradient, setup.clip)

        weights = model.trainable_parameters()
        optimizer.update(model, tree_map_with_path(finish, gradients, weights))
        if isinstance(model, LTC):
            model.apply_weight_constraints()

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
    optimizer = make_optimizer(setup, epochs[0], max(1, samples // setup.batch))
    optimizer.init(model.trainable_parameters())
    facts = {"model": model_name, "seed": seed, "first": epochs[0], "samples": samples}
    run = Run(path, {**facts, "setup": asdict(setup)}, model, optimizer)
    step = make_step(model, optimizer, setup)
    predict = mx.compile(
        lambda x, ts, mask: model(x, timespans=ts, mask=mask)[:, 0], inputs=model.state
    )

    def train_epoch(epoch):
        order = np.random.default_rng([seed, epoch]).permutation(samples)
        mx.random.seed(1000 * seed + epoch)
        model.train()
        losses = []
        for start in range(0, samples, setup.batch):
            losses.append(step(train_events, order[start : start + setup.batch]))
        model.eval()
        return {"loss": float(np.mean(losses)), "accuracy": accuracy(predict, test_events)}

    run.epochs(epochs[1] - epochs[0], train_epoch, quiet=quiet)
    return run


# --- command ---


def results_table(entries) -> str:
    """Markdown: final test accuracy of each model, mean and spread over seeds."""
    rows = []
    for model, setup in SETUPS.items():
        for epochs in sorted({tuple(e["epochs"]) for e in entries if e["model"] == model}):
            chosen = of_run(entries, model, epochs)
            minutes = np.mean([e["seconds"] for e in chosen]) / 60
            measured = spread(e["accuracy"] for e in chosen)
            part = f"{epochs[0]} to {epochs[1]}"
            rows.append([model, setup.published, measured, len(chosen), part, f"{minutes:.0f}"])
    head = ["model", "published, %", "test accuracy, %", "seeds", "epochs", "minutes a run"]
    return table(head, rows)


def of_run(entries, model, epochs):
    """The entries of a model and a part of the schedule, one for each seed."""
    return [e for e in entries if (e["model"], tuple(e["epochs"])) == (model, epochs)]


def draw(entries, path) -> None:
    """The picture: accuracies of each model beside those published, of its longest schedule."""
    from .figures import beside_published

    rows = []
    for model, setup in SETUPS.items():
        parts = {tuple(e["epochs"]) for e in entries if e["model"] == model}
        if parts:
            longest = max(parts, key=lambda part: part[1] - part[0])
            chosen = of_run(entries, model, longest)
            label = f"{model}\n{len(chosen)} x {longest[1] - longest[0]} epochs"
            rows.append((label, setup.published, [e["accuracy"] for e in chosen]))
    beside_published(rows, "test accuracy, %", "Event-based XOR", path)


def main(argv=None) -> int:
    parser = arguments(__doc__, "xor", PAPER_EPOCHS, "end of the schedule")
    parser.add_argument("--model", choices=tuple(SETUPS), nargs="+", default=["cfc"])
    parser.add_argument("--first", type=int, default=0, help="first epoch of the schedule")
    options = parser.parse_args(argv)
    if not begin(options, results_table, draw):
        return 0
    data = tuple(make_events(*strings) for strings in STRINGS)
    epochs = (options.first, options.epochs)
    for model, seed in [(model, seed) for model in options.model for seed in options.seed]:
        path = f"{options.checkpoints}/{model}-{options.first}-{seed}"
        run = train(model, seed, epochs, data, path)
        entry = {"model": model, "seed": seed, "epochs": epochs}
        entry |= {"accuracy": run.log[-1]["accuracy"], "seconds": round(run.seconds)}
        add_result(options.results, entry)
        print(entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
