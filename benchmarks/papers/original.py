"""The CfC paper's own TensorFlow cells on event-based XOR, from the weights and in the batches of
`xor`, epoch by epoch; what both give stands beside each other in results/original.json.

    python -m benchmarks.papers.original train --code FOLDER --model pure --seed 0
    python -m benchmarks.papers.original table
    python -m benchmarks.papers.original figure

FOLDER holds tf_cfc.py of the paper's repository, which is no part of this project. Needs tensorflow
and tf-keras beside what `xor` needs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from . import xor
from .events import PAD, STRINGS, make_events
from .runs import add_result, arguments, begin, held, table

ROWS = ("cfc", "mixed_paper", "no_gate", "pure", "ltc")
HEADS = ("ff1", "ff2", "time_a", "time_b")
LTC_NAMES = ("gleak", "vleak", "cm", "sigma", "mu", "w", "erev")
LTC_NAMES += ("sensory_sigma", "sensory_mu", "sensory_w", "sensory_erev")
LTC_NAMES += ("input_w", "input_b", "output_w", "output_b")


def keras_of(code):
    """(tensorflow with Keras 2, the paper's module tf_cfc in the folder `code`)."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    spec = importlib.util.spec_from_file_location("tf_cfc", Path(code) / "tf_cfc.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tf, module


class Original:
    """A row of the paper's table as its code builds and trains it, with the weights of `ours`."""

    def __init__(self, code, row: str, setup: xor.Setup, ours, steps: int):
        self.row = row
        tf, module = keras_of(code)
        options = {
            "backbone_activation": setup.activation, "backbone_units": setup.backbone,
            "backbone_layers": 1, "backbone_dr": setup.dropout, "weight_decay": setup.weight_decay,
            "no_gate": row == "no_gate", "minimal": row == "pure",
            "forget_bias": 1,  # as in our cell: the rest is in the weights
        }  # fmt: skip
        if row == "ltc":
            cell = module.LTCCell(units=setup.units, ode_unfolds=6)
        elif row == "mixed_paper":
            cell = module.MixedCfcCell(units=setup.units, hparams=options)
        else:
            cell = module.CfcCell(units=setup.units, hparams=options)
        events = tf.keras.Input((None, 1))
        elapsed = tf.keras.Input((None, 1))
        mask = tf.keras.Input((None,), dtype=tf.bool)
        layer = tf.keras.layers.RNN(cell, return_sequences=False)
        head = tf.keras.layers.Dense(1)
        logits = head(layer((events, elapsed), mask=mask))
        self.model = tf.keras.Model([events, elapsed, mask], logits)
        rate = tf.keras.optimizers.schedules.ExponentialDecay(
            setup.learning_rate, steps, setup.decay
        )
        kind = tf.keras.optimizers.Adam if setup.optimizer == "adam" else None
        kind = kind or tf.keras.optimizers.RMSprop
        self.optimizer = kind(rate, clipnorm=setup.clip)
        self.model.compile(self.optimizer, tf.keras.losses.BinaryCrossentropy(from_logits=True))
        self.variables = _variables(row, cell, head)
        arrays = dict(tree_flatten(ours.parameters()))
        for name, (variable, across) in self.variables.items():
            array = np.array(arrays[name])
            variable.assign(array.T if across else array)

    def weights(self) -> dict[str, np.ndarray]:
        """Its weights under our names."""
        return {
            name: variable.numpy().T if across else variable.numpy()
            for name, (variable, across) in self.variables.items()
        }

    def fit(self, events, order, batch) -> float:
        """One epoch in this order -> the mean loss, L2 included."""
        inputs, parity = self._inputs(events, order), events.parity[order]
        options = {"batch_size": batch, "epochs": 1, "shuffle": False, "verbose": 0}
        return float(self.model.fit(inputs, parity, **options).history["loss"][0])

    def accuracy(self, events) -> float:
        """Share of right parities, in %."""
        order = np.arange(len(events.count))
        logits = self.model.predict(self._inputs(events, order), batch_size=1000, verbose=0)
        return 100.0 * float(np.mean((logits[:, 0] > 0) == (events.parity > 0)))

    def save(self, path) -> None:
        """What training goes on from, into an .npz file; a run stopped meanwhile leaves the old."""
        new = path.with_name("new.npz")
        np.savez(new, *(variable.numpy() for variable in self._trained()))
        os.replace(new, path)

    def load(self, path) -> None:
        """Go on from a file of `save`."""
        with np.load(path) as file:
            for variable, array in zip(self._trained(), file.values(), strict=True):
                variable.assign(array)

    def _trained(self):
        """Weights, and what the optimiser has of them."""
        self.optimizer.build(self.model.trainable_variables)
        return [*self.model.variables, *self.optimizer.variables]

    def _inputs(self, events, order):
        mask = np.arange(PAD) < events.count[order][:, None]
        return [events.bits[order, :, None], events.elapsed[order, :, None], mask]


def _variables(row, cell, head):
    """{our name: (Keras variable, whether it lies across)}."""
    layers = {"fc": head}
    found = {}
    if row == "ltc":
        found = {f"rnn_cell.{name}": (cell._params[name], False) for name in LTC_NAMES}
    else:
        mixed = row == "mixed_paper"
        cfc, ours = (cell.cfc, "rnn_cell.cfc") if mixed else (cell, "rnn_cell")
        layers[f"{ours}.backbone.0"] = cfc.backbone.layers[0]
        for name in HEADS[:1] if row == "pure" else HEADS:
            layers[f"{ours}.{name}"] = getattr(cfc, name)
    if row == "mixed_paper":
        found = {
            "rnn_cell.lstm.input_map.weight": (cell.input_kernel, True),
            "rnn_cell.lstm.input_map.bias": (cell.bias, False),
            "rnn_cell.lstm.recurrent_map.weight": (cell.recurrent_kernel, True),
        }
    if row == "pure":
        found = {f"rnn_cell.{name}": (getattr(cell, name), False) for name in ("w_tau", "A")}
    for name, layer in layers.items():
        found |= {f"{name}.weight": (layer.kernel, True), f"{name}.bias": (layer.bias, False)}
    return found


# --- command ---


def train(code, row, seed, epochs, data, path, *, setup=None, lock=None) -> dict:
    """An entry with losses and test accuracies after every epoch, and the seconds they took. A run
    that was stopped goes on from the checkpoint in the folder `path`.
    """
    import time

    setup = setup or xor.SETUPS[row]
    training, held_out = data
    samples = len(training.count)
    mx.random.seed(seed)
    ours = xor.build(row, setup)
    original = Original(code, row, setup, ours, max(1, samples // setup.batch))
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    log: list[dict] = []
    if (path / "log.json").exists():
        log = json.loads((path / "log.json").read_text(encoding="utf-8"))
        original.load(path / f"epoch{len(log)}.npz")
    for epoch in range(len(log), epochs):
        with held(lock):
            start = time.perf_counter()
            order = np.random.default_rng([seed, epoch]).permutation(samples)
            loss = original.fit(training, order, setup.batch)
            entry = {"loss": round(loss, 5), "accuracy": round(original.accuracy(held_out), 2)}
            log.append(entry | {"seconds": round(time.perf_counter() - start, 2)})
        original.save(path / f"epoch{epoch + 1}.npz")
        (path / "log.json").write_text(json.dumps(log), encoding="utf-8")
        (path / f"epoch{epoch}.npz").unlink(missing_ok=True)
        print(row, seed, epoch + 1, log[-1], flush=True)
    entry = {"model": row, "seed": seed, "epochs": epochs, "seconds": round(_seconds(log))}
    return entry | {name: [e[name] for e in log] for name in ("accuracy", "loss")}


def _seconds(log):
    return len(log) * float(np.median([entry["seconds"] for entry in log]))


def ours_beside(row, seed, epochs, data, path) -> list[float]:
    """Test accuracies of our own run from the same weights and in the same batches."""
    run = xor.train(row, seed, (0, epochs), data, path)
    return [entry["accuracy"] for entry in run.log[:epochs]]


def results_table(entries) -> str:
    """Markdown: test accuracies of both after some epochs."""
    rows = []
    for e in entries:
        marks = [n for n in (1, 2, 5, 10, 20, 40, 60, 100, 200) if n <= e["epochs"]]
        for name, key in (("paper's code", "accuracy"), ("mlx-ncps", "ours")):
            shown = ", ".join(f"{n}: {e[key][n - 1]:.2f}" for n in marks)
            rows.append([e["model"], e["seed"], name, shown])
    return table(["model", "seed", "code", "test accuracy, %, after epochs"], rows)


def draw(entries, path) -> None:
    """The picture: test accuracies of both over the epochs."""
    from .figures import beside_each_other

    curves = {f"{e['model']}, seed {e['seed']}": (e["accuracy"], e["ours"]) for e in entries}
    beside_each_other(curves, "test accuracy, %", "Event-based XOR, both codes", path)


def main(argv=None) -> int:
    parser = arguments(__doc__, "original", 60, "of the schedule")
    parser.add_argument("--model", choices=ROWS, default="pure")
    parser.add_argument("--code", help="folder of tf_cfc.py")
    options = parser.parse_args(argv)
    if not begin(options, results_table, draw):
        return 0
    data = tuple(make_events(*strings) for strings in STRINGS)
    for seed in options.seed:
        path = Path(options.checkpoints) / f"{options.model}-{seed}"
        ours = ours_beside(options.model, seed, options.epochs, data, f"{path}-ours")
        entry = train(
            options.code, options.model, seed, options.epochs, data, path, lock=options.lock
        )
        add_result(options.results, {**entry, "ours": ours})
    return 0


if __name__ == "__main__":
    sys.exit(main())
