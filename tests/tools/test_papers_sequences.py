"""The experiments of benchmarks/papers that compare models of sequences, tiny: data, models,
that training learns, the choice of a rate, commands, and the page of the results.
"""

import json
from argparse import Namespace
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

pytest.importorskip("tqdm")

from benchmarks.papers import comparison, digits, robustness, sequences, vowels
from benchmarks.papers.runs import held, read_results

PROTOCOL = sequences.Protocol(classes=2, epochs=12, batch=8, units=6)


def make(samples=40, seed=0):
    """Two classes: slow and fast waves of 4 to 9 steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % 2
    values = []
    for label in labels:
        times = np.arange(rng.integers(4, 10))[:, None]
        values.append(np.cos((0.2 + 1.4 * label) * times + rng.normal(0, 0.2, 2)))
    return sequences.from_lists(values, labels)


# --- data ---


def test_sequences_lie_at_the_front_and_tell_their_times():
    data = sequences.from_lists([np.ones((2, 3)), np.full((4, 3), 2.0)], [1, 0])
    assert data.values.shape == (2, 4, 3)
    assert list(data.count) == [2, 4]
    assert list(data.label) == [1, 0]
    assert np.array_equal(data.elapsed, [[1, 1, 0, 0], [1, 1, 1, 1]])
    assert np.array_equal(data.values[:, :, 0], [[1, 1, 0, 0], [2, 2, 2, 2]])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_what_is_left_of_dropped_sequences_keeps_its_times(share):
    whole = make(200)
    numbered = whole._replace(values=np.cumsum(whole.elapsed, axis=1)[..., None])
    left = sequences.drop(numbered, share, 3)
    for values, elapsed, count, all_of in zip(
        left.values, left.elapsed, left.count, whole.count, strict=True
    ):
        assert 1 <= count <= all_of
        times = np.cumsum(elapsed[:count])
        assert np.array_equal(times, values[:count, 0])  # a step's value is its time
        assert (elapsed[:count] > 0).all()
        assert not values[count:].any()
        assert not elapsed[count:].any()
    kept = left.count.sum() / whole.count.sum()
    assert abs(kept - (1 - share)) < 0.06 or share == 1.0
    assert left.values.shape[1] == left.count.max()
    again = sequences.drop(numbered, share, 3)
    assert np.array_equal(left.elapsed, again.elapsed)


def test_noise_leaves_padding_alone():
    data = make()
    noisy = sequences.add_noise(data, 0.5, 1)
    change = noisy.values - data.values
    present = data.elapsed > 0
    assert change[present].std() == pytest.approx(0.5, rel=0.1)
    assert not change[~present].any()
    assert np.array_equal(sequences.add_noise(data, 0.0, 1).values, data.values)


def test_a_part_is_split_off_of_every_class():
    labels = np.repeat([0, 1, 2], [10, 20, 40])
    data = sequences.from_lists([np.full((2, 1), n) for n in range(70)], labels)
    first, second = comparison.split_off(data, 0.2, 0)
    assert list(np.bincount(second.label)) == [2, 4, 8]
    assert sorted([*first.values[:, 0, 0], *second.values[:, 0, 0]]) == list(range(70))


def test_digits_are_whole_images_three_quarters_of_whose_pixels_are_left():
    pytest.importorskip("sklearn")
    training, valid, held_out = digits.load()
    assert [len(part.count) for part in (training, valid, held_out)] == [4 * 1079, 359, 359]
    assert np.bincount(held_out.label).min() > 30
    assert training.count.mean() == pytest.approx(48, abs=1)
    assert training.elapsed.sum(axis=1).max() <= 64
    assert abs(training.values).max() == 1.0
    one, other = training.elapsed[:1079], training.elapsed[1079 : 2 * 1079]
    assert (training.label[:1079] == training.label[1079 : 2 * 1079]).all()
    assert (one != other).any(axis=1).mean() > 0.99  # other pixels of the same image


TS = """@problemName JapaneseVowels
@classLabel true 1 2
@data
1.0,2.0,NaN:0.5,0.25,NaN:1
3.0,4.0,5.0:-1,-2,-3:2
"""


def test_files_of_vowels_are_read(tmp_path):
    (tmp_path / "a.ts").write_text(TS)
    values, labels = vowels.read(tmp_path / "a.ts")
    assert labels == [0, 1]
    assert np.array_equal(values[0], [[1, 0.5], [2, 0.25]])
    assert np.array_equal(values[1], [[3, -1], [4, -2], [5, -3]])


def vowel_files(folder):
    """Files of the vowels' form: 10 training and 4 test sequences of each of 2 classes."""
    rng = np.random.default_rng(0)
    for name, samples in zip(vowels.FILES, (20, 8), strict=True):
        rows = []
        for n in range(samples):
            steps = rng.integers(3, 7)
            series = [",".join(f"{x:.3f}" for x in rng.normal(n % 2, 1, steps)) for _ in range(2)]
            rows.append(":".join([*series, str(1 + n % 2)]))
        (folder / name).write_text("@data\n" + "\n".join(rows) + "\n")
    return folder


def test_vowels_are_scaled_by_what_trains(tmp_path):
    training, valid, held_out = vowels.load_whole(vowel_files(tmp_path))
    assert [len(part.count) for part in (training, valid, held_out)] == [16, 4, 8]
    frames = training.values[training.elapsed > 0]
    assert np.allclose(frames.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(frames.std(axis=0), 1, atol=1e-5)
    assert not training.values[training.elapsed == 0].any()
    dropped = vowels.load(tmp_path)
    assert dropped[0].count.sum() < training.count.sum()


def test_vowels_without_their_package_say_what_to_do(monkeypatch):
    monkeypatch.setattr(vowels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps sktime"):
        vowels.find()


# --- models ---


@pytest.mark.parametrize("model", sequences.MODELS + sequences.WIRED)
def test_models_learn_and_read_the_elapsed_time(tmp_path, model):
    units = 12 if model in sequences.WIRED else PROTOCOL.units
    data = make()
    protocol = replace(PROTOCOL, epochs=30)
    run = sequences.train(protocol, model, units, 0.02, 1, data, tmp_path, quiet=True)
    assert run.log[-1]["loss"] < 0.9 * run.log[0]["loss"]
    *inputs, _ = (mx.array(array) for array in data)
    logits = run.model(*inputs)
    assert logits.shape == (40, 2)
    later = run.model(inputs[0], 3 * inputs[1], inputs[2])
    assert mx.max(mx.abs(later - logits)).item() > 1e-4


@pytest.mark.parametrize("model", ["cfc", "ncp_ltc", "gru"])
def test_padding_changes_no_logit(model):
    mx.random.seed(0)
    classifier = sequences.Classifier(model, 2, 12, 3)
    data = make(8)
    wider = np.pad(data.values, ((0, 0), (0, 3), (0, 0)), constant_values=5.0)
    elapsed = np.pad(data.elapsed, ((0, 0), (0, 3)), constant_values=1.0)
    count = mx.array(data.count)
    short = classifier(mx.array(data.values), mx.array(data.elapsed), count)
    assert np.allclose(classifier(mx.array(wider), mx.array(elapsed), count), short, atol=1e-5)


def test_synapses_and_parameters_are_counted():
    models = (*sequences.MODELS, "ncp_ltc")
    of = {model: sequences.Classifier(model, 5, 12, 3) for model in models}
    assert sequences.synapses(of["lstm"]) == 12 * (12 + 6)
    assert sequences.synapses(of["cfc"]) == sequences.synapses(of["ctrnn"]) == 12 * (12 + 5)
    assert sequences.synapses(of["mixed"]) == 2 * 12 * (12 + 5)
    assert sequences.synapses(of["ltc"]) == 12 * (12 + 5)
    wiring = of["ncp_ltc"].rnn.rnn_cell.wiring
    nonzero = np.count_nonzero(wiring.adjacency) + np.count_nonzero(wiring.sensory_adjacency)
    assert sequences.synapses(of["ncp_ltc"]) == nonzero
    assert sequences.parameters(of["lstm"]) == 4 * 12 * (12 + 6 + 1) + 12 * 3 + 3


@pytest.mark.parametrize("name", [*sequences.MODELS, *sequences.WIRED])
def test_parameters_are_the_numbers_that_have_a_gradient(name):
    mx.random.seed(2)
    model = sequences.Classifier(name, 5, 12, 3)
    values = mx.random.normal((16, 6, 5))
    inputs = values, mx.ones((16, 6)), mx.full((16,), 6)

    def loss(model):
        return mx.sum(model(*inputs) * mx.arange(1, 4))

    _, gradients = nn.value_and_grad(model, loss)(model)
    seen = sum(mx.sum(gradient != 0).item() for _, gradient in tree_flatten(gradients))
    assert sequences.parameters(model) == seen


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    short = replace(PROTOCOL, epochs=3)

    def run(path):
        return sequences.train(short, "cfc", 6, 0.01, 1, make(), path, quiet=True)

    whole = run(tmp_path / "whole")
    stopped = sequences.Run.epochs

    def one_epoch(self, total, train_epoch, *, quiet):
        stopped(self, min(total, len(self.log) + 1), train_epoch, quiet=quiet)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences.Run, "epochs", one_epoch)
        run(tmp_path / "parts")
        run(tmp_path / "parts")
    parts = run(tmp_path / "parts")
    assert [e["loss"] for e in parts.log] == [e["loss"] for e in whole.log]


# --- results ---


def tiny(measure=None):
    protocol = replace(PROTOCOL, epochs=2)
    data = make(), make(20, 1), make(20, 2)
    models = (("cfc", 6), ("ncp_ltc", 12))
    return comparison.Experiment("tiny", "Tiny", "Tiny.", protocol, lambda: data, models, measure)


def test_best_rates_of_the_first_seed_are_run_with_every_seed(tmp_path):
    options = Namespace(checkpoints=tmp_path / "c", results=tmp_path / "r.json")
    experiment = tiny()
    entries = comparison.run_model(
        experiment, "cfc", 6, [0, 1, 2], experiment.load(), options, quiet=True
    )
    rates = len(comparison.RATES)
    assert [(e["rate"], e["seed"]) for e in entries[:rates]] == [(r, 0) for r in comparison.RATES]
    ranked = sorted(entries[:rates], key=lambda e: e["valid_loss"])
    wanted = [(e["rate"], seed) for e in ranked[: comparison.SHORTLIST] for seed in (1, 2)]
    assert [(e["rate"], e["seed"]) for e in entries[rates:]] == wanted
    stored = read_results(options.results)
    assert len(stored) == len(entries)
    chosen = comparison.chosen_entries(stored, "cfc", 6)
    assert sorted(e["seed"] for e in chosen) == [0, 1, 2]
    assert "| cfc | 6 |" in comparison.results_table(experiment, stored)


def test_rate_is_that_of_the_lowest_mean_validation_loss_of_whole_rates():
    losses = {0.1: (0.1,), 0.03: (0.2, 0.9), 0.01: (0.5, 0.4), 0.003: (0.1, None)}
    entries = [{"rate": rate, "valid_loss": loss} for rate in losses for loss in losses[rate]]
    assert comparison.best_rate(entries) == 0.01


def test_runs_of_fewer_epochs_are_no_more_seeds():
    one = {"model": "cfc", "units": 6, "rate": 0.1, "valid_loss": 0.5}
    long = [one | {"epochs": 9, "seed": seed} for seed in (0, 1)]
    short = one | {"epochs": 2, "seed": 0, "rate": 0.3, "valid_loss": 0.1}
    assert comparison.chosen_entries([short, *long, short | {"seed": 1}], "cfc", 6) == long


def test_commands_train_print_and_draw(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    experiment = tiny(robustness.measure)
    places = [f"--results={tmp_path / 'r.json'}", f"--checkpoints={tmp_path / 'c'}"]
    places += [f"--figure={tmp_path / 'f.png'}", "--threads=1", f"--lock={tmp_path / 'lock'}"]
    assert comparison.command(experiment, ["train", "--seed", "0", "1", *places]) == 0
    entries = read_results(tmp_path / "r.json")
    assert len(entries) == 2 * (len(comparison.RATES) + comparison.SHORTLIST)
    clean = [(e["accuracy"], e["noise"]["0.0"], e["dropped"]["0.0"]) for e in entries]
    assert all(len(set(three)) == 1 for three in clean)
    assert comparison.command(experiment, ["table", *places]) == 0
    assert "| ncp_ltc | 12 |" in capsys.readouterr().out
    assert comparison.command(experiment, ["figure", *places]) == 0
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    sized = replace(experiment, models=(("cfc", 32), ("ncp_ltc", 19)))
    for entry in entries:
        entry["units"] = {"cfc": 32, "ncp_ltc": 19}[entry["model"]]
    (tmp_path / "sized.json").write_text(json.dumps(entries))
    entries = read_results(tmp_path / "sized.json")
    robustness.draw(sized, entries, tmp_path / "g.png")
    assert (tmp_path / "g.png").exists()
    assert "| ncp_ltc | 19 |" in robustness.results_table(sized, entries)


def test_lock_waits_for_who_holds_it_alone(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with held(tmp_path / "lock"), open(tmp_path / "lock") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with open(tmp_path / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_command_of_data_without_a_folder_takes_none(capsys):
    with pytest.raises(SystemExit):
        digits.main(["train", "--data=nowhere"])
    assert "--data" in capsys.readouterr().err
    with pytest.raises((FileNotFoundError, ValueError), match="nowhere"):
        vowels.main(["train", "--data=nowhere"])


def test_page_holds_the_tables_and_pictures_of_the_results():
    from benchmarks.papers import page

    text = page.PAGE.read_text(encoding="utf-8")
    assert page.tables()
    assert page.with_tables(text) == text
    for name, table in page.tables().items():
        assert table in text
        assert f"figures/papers_{name}.png" in text
        assert (page.FIGURES / f"papers_{name}.png").exists()
    entries = [{"commit": commit} for commit in ("b", "a", "b")]
    assert page.commits(entries) == "Commits (runs): b (2), a (1)"
