"""Sequences with dropped steps, and the classifiers of them that are compared: their data, models,
training and test, under one protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from mlx_ncps import LTC, CfC, CTRNNCell, LiquidRNN, LTCCell
from mlx_ncps.wirings import AutoNCP

from .runs import Run

MODELS = ("cfc", "mixed", "ltc", "lstm", "gru", "ctrnn")
WIRED = ("ncp_cfc", "ncp_ltc")


class Sequences(NamedTuple):
    """N sequences, the steps of each at the front of T places."""

    values: np.ndarray  # [N, T, F]
    elapsed: np.ndarray  # [N, T] time since the step before; 1 where none was dropped
    count: np.ndarray  # [N] number of steps
    label: np.ndarray  # [N] class


@dataclass(frozen=True)
class Protocol:
    """How every model of a task is trained."""

    classes: int
    epochs: int
    batch: int
    units: int = 32
    clip: float = 1.0  # of the norm of all gradients


# --- data ---


def from_lists(values, labels) -> Sequences:
    """Sequences of arrays [steps, F], without a dropped step."""
    count = np.array([len(steps) for steps in values], np.int32)
    padded = np.zeros((len(values), count.max(), values[0].shape[1]), np.float32)
    for row, steps in zip(padded, values, strict=True):
        row[: len(steps)] = steps
    elapsed = _present(count).astype(np.float32)
    return Sequences(padded, elapsed, count, np.array(labels, np.int32))


def _present(count):
    return np.arange(count.max()) < count[:, None]


def rows_of(sequences: Sequences, chosen) -> Sequences:
    """Those at the places `chosen`."""
    return Sequences(*(array[chosen] for array in sequences))


def drop(sequences: Sequences, share: float, seed) -> Sequences:
    """Each step dropped with probability `share`; what is left tells the time since the step
    before, the first one since the start. A sequence keeps one step at least.
    """
    rng = np.random.default_rng(seed)
    present = np.arange(sequences.values.shape[1]) < sequences.count[:, None]
    kept = (rng.random(present.shape) >= share) & present
    empty = np.flatnonzero(~kept.any(axis=1))
    kept[empty, sequences.count[empty] - 1] = True
    count = kept.sum(axis=1).astype(np.int32)
    order = np.argsort(~kept, axis=1, kind="stable")[:, : count.max()]  # those kept to the front
    present = _present(count)
    times = np.take_along_axis(np.cumsum(sequences.elapsed, axis=1), order, axis=1)
    values = np.take_along_axis(sequences.values, order[..., None], axis=1) * present[..., None]
    elapsed = np.diff(times, axis=1, prepend=0) * present
    return Sequences(values, elapsed.astype(np.float32), count, sequences.label)


def add_noise(sequences: Sequences, deviation: float, seed) -> Sequences:
    """Normal noise on every value."""
    noise = np.random.default_rng(seed).normal(0, deviation, sequences.values.shape)
    present = np.arange(sequences.values.shape[1]) < sequences.count[:, None]
    values = sequences.values + noise * present[..., None]
    return sequences._replace(values=values.astype(np.float32))


# --- models ---


class Classifier(nn.Module):
    """A recurrent layer and a linear map of its output after the last step. LSTM and GRU, which
    know no time, read the elapsed time as one more input.
    """

    def __init__(self, model: str, features: int, units: int, classes: int):
        super().__init__()
        self.model, self.features, self.units = model, features, units
        self.gated = model in ("lstm", "gru")
        self.rnn, width = _layer(model, features, units)
        self.head = nn.Linear(width, classes)

    def __call__(self, values, elapsed, count):
        """Logits [B, classes] of values [B, T, F], elapsed [B, T] and count [B]."""
        if self.gated:
            states = self.rnn(mx.concatenate([values, elapsed[..., None]], axis=-1))
            states = states[0] if isinstance(states, tuple) else states
        else:
            states = self.rnn(values, timespans=elapsed)
        last = mx.take_along_axis(states, (count - 1)[:, None, None], axis=1)
        return self.head(last[:, 0])


def _layer(model, features, units):
    """The layer, which gives all outputs [B, T, width], and their width."""
    if model == "lstm":
        return nn.LSTM(features + 1, units), units
    if model == "gru":
        return nn.GRU(features + 1, units), units
    if model == "ctrnn":
        return LiquidRNN(CTRNNCell(features, units), return_sequences=True), units
    kind = LTC if model.endswith("ltc") else CfC
    if model in WIRED:
        motor = units // 3
        return kind(features, AutoNCP(units, motor), return_state=False), motor
    options = {"mixed_memory": True} if model == "mixed" else {}
    return kind(features, units, return_state=False, **options), units


def synapses(model: Classifier) -> int:
    """Pairs (input or neuron, neuron) of which the second reads the first; with a wiring, pairs of
    the wiring. The linear map at the end has none.
    """
    if isinstance(model.rnn, LTC) or model.model in WIRED:
        return model.rnn.synapse_count + model.rnn.sensory_synapse_count
    read = [model.features + model.gated + model.units]
    if model.model == "mixed":
        read.append(model.features + model.units)  # the LSTM's
    return model.units * sum(read)


def parameters(model: Classifier) -> int:
    """Numbers that are trained and have an effect, so not those of a wiring's absent synapses."""
    count = sum(array.size for _, array in tree_flatten(model.trainable_parameters()))
    for cell in model.modules():
        arrays = 4 if isinstance(cell, LTCCell) else 2  # w, sigma, mu, erev; ff1, ff2
        for name in ("sparsity_mask", "sensory_sparsity_mask"):
            if name in cell:
                count -= arrays * mx.sum(cell[name] == 0).item()
    return count


# --- training and test ---


def train(protocol, model, units, rate, seed, data: Sequences, path, *, quiet=False) -> Run:
    """Train one model by Adam, or go on with it; the learning rate falls to 0 along a cosine."""
    samples, features = len(data.count), data.values.shape[-1]
    steps = samples // protocol.batch  # what is left of an epoch's order is left out
    mx.random.seed(seed)
    classifier = Classifier(model, features, units, protocol.classes)
    schedule = optim.cosine_decay(rate, protocol.epochs * steps)
    optimizer = optim.Adam(schedule, bias_correction=True)
    optimizer.init(classifier.trainable_parameters())
    facts = {"model": model, "units": units, "rate": rate, "seed": seed}
    facts |= {"epochs": protocol.epochs, "batch": protocol.batch, "samples": samples}
    run = Run(path, facts, classifier, optimizer)
    step = _make_step(classifier, optimizer, protocol.clip)

    def train_epoch(epoch):
        order = np.random.default_rng([seed, epoch]).permutation(samples)
        losses = []
        for start in range(0, steps * protocol.batch, protocol.batch):
            chosen = order[start : start + protocol.batch]
            losses.append(step(*(mx.array(array[chosen]) for array in data)))
            mx.eval(losses[-1], classifier.state, optimizer.state)
        return {"loss": float(np.mean([loss.item() for loss in losses]))}

    run.epochs(protocol.epochs, train_epoch, quiet=quiet)
    return run


def _make_step(model, optimizer, clip):
    def loss_of(model, values, elapsed, count, label):
        return nn.losses.cross_entropy(model(values, elapsed, count), label, reduction="mean")

    loss_and_gradients = nn.value_and_grad(model, loss_of)
    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(*batch):
        loss, gradients = loss_and_gradients(model, *batch)
        gradients, _ = optim.clip_grad_norm(gradients, clip)
        optimizer.update(model, gradients)
        return loss

    return step


def test(model: Classifier, data: Sequences) -> tuple[float, float]:
    """Mean cross-entropy and share of right classes in %."""
    loss = right = 0.0
    for start in range(0, len(data.count), 128):
        *inputs, label = (mx.array(array[start : start + 128]) for array in data)
        logits = model(*inputs)
        loss += nn.losses.cross_entropy(logits, label, reduction="sum").item()
        right += mx.sum(mx.argmax(logits, axis=-1) == label).item()
    return loss / len(data.count), 100.0 * right / len(data.count)
