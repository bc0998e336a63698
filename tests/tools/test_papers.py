"""The experiments of benchmarks/papers at tiny sizes: their data, that training learns, and that a
stopped run goes on as if it had not stopped.
"""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

pytest.importorskip("tqdm")

from benchmarks import machine
from benchmarks.papers import cheetah, runs, xor
from benchmarks.papers.events import PAD, STRINGS, batch_of, encode, make_events

# --- event-based XOR ---


@pytest.mark.parametrize(
    ("string", "bits", "elapsed"),
    [
        ([0, 0, 0, 1, 1, 0], [0, 1, 0], [1, 3, 2]),
        ([0, 0, 0, 1, 1], [0, 1, 1], [1, 3, 1]),
        ([1, 1], [1, 1], [1, 1]),
        ([0, 1, 0], [0, 1, 0], [1, 1, 1]),
        ([1, 1, 1, 1], [1, 1], [1, 3]),
    ],
)
def test_encode_by_hand(string, bits, elapsed):
    got = encode(np.array(string))
    assert [list(part) for part in got] == [bits, elapsed]


def decode(bits, elapsed):
    """The string of events: between two events the bits are those of the first."""
    string = []
    for n, (bit, count) in enumerate(zip(bits, elapsed, strict=True)):
        string += [bits[n - 1]] * (count - 1) + [bit]
    return string


def test_encode_is_lossless():
    rng = np.random.default_rng(0)
    for _ in range(200):
        string = rng.integers(0, 2, rng.integers(2, PAD))
        bits, elapsed = encode(string)
        assert sum(elapsed) == len(string)
        assert decode(list(bits), list(elapsed)) == list(string)


def test_make_events_are_normalised_padded_and_labelled():
    events = make_events(300, 5)
    lengths = np.round(events.elapsed.sum(axis=1) * PAD).astype(int)
    assert lengths.min() == 2
    assert lengths.max() == PAD - 1
    for n, count in enumerate(events.count):
        elapsed = np.round(events.elapsed[n, :count] * PAD).astype(int)
        assert np.allclose(elapsed / PAD, events.elapsed[n, :count])
        string = decode(list(events.bits[n, :count]), list(elapsed))
        assert events.parity[n] == sum(string) % 2
        assert not events.bits[n, count:].any()
        assert not events.elapsed[n, count:].any()
    assert 0.4 < events.parity.mean() < 0.6
    again, other = make_events(300, 5), make_events(300, 6)
    assert np.array_equal(again.bits, events.bits)
    assert not np.array_equal(other.bits, events.bits)


def test_the_strings_to_test_are_those_of_the_paper():
    """The paper's LTC gives the same answer for every string, which is right for 49.11 %."""
    even = 100 * np.mean(make_events(*STRINGS[1]).parity == 0)
    assert f"{even:.2f} ± 0.00" == xor.SETUPS["ltc"].published


def test_batch_of_masks_what_is_padding():
    events = make_events(50, 1)
    chosen = np.argsort(events.count)[:7]
    inputs, timespans, mask, parity = batch_of(events, chosen)
    steps = events.count[chosen].max()
    assert inputs.shape == (7, steps, 1)
    assert timespans.shape == mask.shape == (7, steps)
    assert np.array_equal(np.array(mask).sum(axis=1), events.count[chosen])
    assert np.array_equal(np.array(parity), events.parity[chosen])


def small(name):
    return replace(xor.SETUPS[name], units=8, backbone=8, batch=16, learning_rate=0.01)


def xor_run(path, model="cfc", epochs=3):
    data = make_events(64, 1), make_events(20, 2)
    return xor.train(model, 3, (0, epochs), data, path, setup=small(model), quiet=True)


@pytest.mark.parametrize("model", list(xor.SETUPS))
def test_xor_step_learns_a_batch(model):
    setup = replace(small(model), learning_rate=0.003)
    mx.random.seed(0)
    network = xor.build(model, setup)
    optimizer = xor.make_optimizer(setup, 0, 100)
    optimizer.init(network.trainable_parameters())
    step = xor.make_step(network, optimizer, setup)
    events = make_events(64, 1)
    shortest = np.argsort(events.count, kind="stable")[:16]
    losses = [step(events, shortest) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.002


@pytest.mark.parametrize("model", ["mixed", "mixed_paper"])
def test_mixed_memory_starts_with_the_papers_forget_gate(model):
    network = xor.build(model, small(model))
    lstm = network.lstm if model == "mixed" else network.rnn_cell.lstm
    starts = np.array(lstm.input_map.bias).reshape(4, -1)
    assert np.allclose(starts, [[0], [0], [0.6 - 1], [0]])  # the cell adds 1


def test_xor_step_in_parts_equals_the_whole_batch(monkeypatch):
    def after(groups):
        monkeypatch.setattr(xor, "GROUPS", groups)
        setup = replace(small("cfc"), optimizer="adam", weight_decay=0.01)
        mx.random.seed(0)
        network = xor.build("cfc", setup)
        optimizer = xor.make_optimizer(setup, 0, 100)
        optimizer.init(network.trainable_parameters())
        step = xor.make_step(network, optimizer, setup)
        losses = [step(make_events(13, 1), np.arange(13)) for _ in range(3)]
        return losses, tree_flatten(network.parameters())

    (losses, parts), (want_losses, whole) = after(4), after(1)
    assert np.allclose(losses, want_losses, rtol=1e-4)
    for (key, got), (_, want) in zip(parts, whole, strict=True):
        assert np.allclose(got, want, atol=1e-4), key


def test_xor_learning_rate_follows_the_paper():
    setup = xor.SETUPS["cfc"]
    optimizer = xor.make_optimizer(setup, 50, 782)
    assert optimizer.learning_rate.item() == pytest.approx(0.05 * 0.95**50, rel=1e-5)
    optimizer.state["step"] = mx.array(782 * 10)
    optimizer.apply_gradients({"w": mx.zeros((2,))}, {"w": mx.zeros((2,))})
    assert optimizer.learning_rate.item() == pytest.approx(0.05 * 0.95**60, rel=1e-3)


def test_clip_shortens_long_gradients_alone():
    gradient = mx.array([3.0, 4.0])
    assert np.allclose(xor.clip(gradient, 1.0), [0.6, 0.8])
    assert np.array_equal(np.array(xor.clip(gradient, 10.0)), [3.0, 4.0])
    assert np.array_equal(np.array(xor.clip(mx.zeros((2,)), 1.0)), [0.0, 0.0])


def test_accuracy_counts_right_signs():
    events = make_events(40, 3)

    def predict(inputs, timespans, mask):  # the number of ones, from the events themselves
        bits, elapsed = np.array(inputs[..., 0]), np.round(np.array(timespans) * PAD)
        before = np.concatenate([bits[:, :1], bits[:, :-1]], axis=1)
        ones = ((elapsed - 1) * before + bits) * np.array(mask)
        return mx.array(ones.sum(axis=1) % 2 - 0.5)

    assert xor.accuracy(predict, events) == 100.0
    assert xor.accuracy(lambda *a: -predict(*a), events) == 0.0


def same_run(one, other):
    pairs = zip(
        tree_flatten(one.model.parameters()), tree_flatten(other.model.parameters()), strict=True
    )
    for (key, got), (_, want) in pairs:
        assert np.array_equal(np.array(got), np.array(want)), key
    for entry, want in zip(one.log, other.log, strict=True):
        times = {"seconds": 0, "processor": 0}
        assert entry | times == want | times


@pytest.mark.parametrize("model", ["cfc", "pure"])  # RMSprop and Adam
def test_xor_resumed_run_equals_an_uninterrupted_one(tmp_path, model):
    whole = xor_run(tmp_path / "whole", model)
    xor_run(tmp_path / "parts", model, 1)
    xor_run(tmp_path / "parts", model, 2)
    parts = xor_run(tmp_path / "parts", model)
    assert len(parts.log) == 3
    same_run(parts, whole)


def test_checkpoint_of_another_run_is_refused(tmp_path):
    xor_run(tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"\[papers\] the checkpoint in .* must be of"):
        xor_run(tmp_path, "pure")


# --- half-cheetah ---


def traces(folder, count=26, steps=75, features=3):
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for n in range(count):
        phase = rng.uniform(0, 6, features) + np.arange(steps)[:, None] * 0.3
        np.save(folder / f"trace_{n:04d}.npy", np.sin(phase) + n)
    return folder


def test_cheetah_windows_and_splits(tmp_path):
    train, valid, test = cheetah.load(traces(tmp_path))
    per_trace = len(range(0, 75 - 33, 10))
    assert [len(split.inputs) for split in (train, valid, test)] == [
        10 * per_trace,
        5 * per_trace,
        10 * per_trace,
    ]
    levels = [np.unique(np.round(split.inputs.mean(axis=(1, 2)))) for split in (train, valid, test)]
    assert [list(level) for level in levels] == [
        list(range(15, 25)),
        list(range(5)),
        list(range(5, 15)),
    ]
    assert train.inputs.shape[1:] == (32, 3)
    for split in (train, valid, test):
        assert np.array_equal(split.inputs[:, 1:], split.targets[:, :-1])
    first = np.load(tmp_path / "trace_0015.npy").astype(np.float32)
    assert np.array_equal(train.inputs[1], first[10:42])
    assert np.array_equal(train.targets[1], first[11:43])


def test_cheetah_too_few_traces_raise(tmp_path):
    with pytest.raises(ValueError, match=r"must hold 25 .npy traces or more, got 3"):
        cheetah.load(traces(tmp_path, count=3))


def cheetah_run(folder, model, epochs):
    rng = np.random.default_rng(1)
    wave = np.sin(rng.uniform(0, 6, (20, 1, 2)) + 0.3 * np.arange(33)[:, None])
    wave = wave.astype(np.float32)
    split = cheetah.Split(wave[:, :-1], wave[:, 1:])
    short = cheetah.Split(split.inputs[:, :4], split.targets[:, :4])
    return cheetah.train(
        model, 2, (short, short, short), folder, rate=0.01, epochs=epochs, quiet=True
    )


@pytest.mark.parametrize("model", list(cheetah.SETUPS))
def test_cheetah_models_learn(tmp_path, model):
    run = cheetah_run(tmp_path, model, 12)
    assert run.log[-1]["valid"] < 0.8 * run.log[0]["valid"]
    if model == "ltc":
        cell = run.model.rnn.rnn_cell
        assert all(mx.min(cell[name]).item() >= 0 for name in ("w", "sensory_w", "cm", "gleak"))


@pytest.mark.parametrize("model", ["ltc", "lstm"])
def test_cheetah_resumed_run_equals_an_uninterrupted_one(tmp_path, model):
    whole = cheetah_run(tmp_path / "whole", model, 3)
    cheetah_run(tmp_path / "parts", model, 1)
    same_run(cheetah_run(tmp_path / "parts", model, 3), whole)


def test_best_is_the_lowest_validation_error():
    log = [
        {"train": 3.0, "valid": float("nan"), "test": 9.0},
        {"train": 2.0, "valid": 1.0, "test": 5.0},
        {"train": 1.0, "valid": 2.0, "test": 4.0},
    ]
    assert cheetah.best(log) == {"best_epoch": 2, "train": 2.0, "valid": 1.0, "test": 5.0}


# --- results ---


def test_results_replace_the_same_run_and_make_tables(tmp_path):
    path = tmp_path / "results" / "xor.json"
    for seed, accuracy in ((0, 50.0), (1, 99.0), (0, 98.0)):
        entry = {"model": "cfc", "seed": seed, "epochs": (0, 9), "accuracy": accuracy}
        runs.add_result(path, {**entry, "seconds": 60})
    stored = json.loads(path.read_text())
    assert [e["accuracy"] for e in stored] == [98.0, 99.0]
    assert [e["commit"] for e in stored] == [machine.commit()] * 2
    text = xor.results_table(runs.read_results(path))
    assert "| cfc | 99.42 ± 0.42 | 98.50 ± 0.71 | 2 | 0 to 9 | 1 |" in text
    entry = {"model": "ltc", "seed": 0, "epochs": 200, "rate": 0.01, "test": 2.5, "seconds": 90}
    text = cheetah.results_table([entry])
    assert "| ltc | 2.308 ± 0.015 | 2.500 | 1 | 200 | 0.01 | 1.5 |" in text


def test_commands_train_and_print(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(xor, "make_events", lambda n, seed, real=make_events: real(40, seed))
    monkeypatch.setitem(xor.SETUPS, "cfc", small("cfc"))
    places = [f"--results={tmp_path / 'r.json'}", f"--checkpoints={tmp_path / 'c'}"]
    assert xor.main(["train", "--epochs", "1", *places]) == 0
    assert xor.main(["table", *places]) == 0
    assert "| cfc |" in capsys.readouterr().out
    data, places = traces(tmp_path / "data"), [f"--results={tmp_path / 'h.json'}", places[1]]
    assert (
        cheetah.main(["train", "--epochs", "1", "--model", "ltc", f"--data={data}", *places]) == 0
    )
    assert cheetah.main(["table", *places]) == 0
    assert "| ltc |" in capsys.readouterr().out
