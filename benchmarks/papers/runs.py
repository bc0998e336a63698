"""What the experiments share: resumable runs, their results in a JSON file, the table of them."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from tqdm import tqdm

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CHECKPOINTS = HERE.parents[1] / "build" / "papers"


class Run:
    """One training that can stop after any epoch and go on: checkpoints of model and optimiser.

    path: folder of the checkpoint.  facts: what the run is (model, seed, setup); a checkpoint of
    other facts is refused with ValueError.
    """

    def __init__(self, path, facts: dict, model, optimizer):
        self.path, self.facts = Path(path), facts
        self.model, self.optimizer = model, optimizer
        self.log: list[dict] = []  # one entry for each epoch
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / "state.json").exists():
            self._load()

    @property
    def seconds(self) -> float:
        """Time of the epochs so far: their number times the median, as a pause lasts long."""
        return len(self.log) * statistics.median(entry["seconds"] for entry in self.log)

    def epochs(self, total: int, train_epoch, *, quiet=False) -> None:
        """Train up to `total` epochs, those of the checkpoint among them.

        train_epoch: (epoch) -> a dict of figures, which are logged.
        """
        first = len(self.log)
        label = " ".join(str(self.facts[name]) for name in ("model", "seed"))
        progress = tqdm(
            range(first, total),
            initial=first, total=total, desc=label, unit="epoch", disable=quiet,
        )  # fmt: skip
        for epoch in progress:
            start = time.perf_counter()
            figures = train_epoch(epoch)
            seconds = time.perf_counter() - start
            self.log.append({**figures, "seconds": round(seconds, 3)})
            self._save()
            progress.set_postfix_str(", ".join(f"{k} {v:.4g}" for k, v in figures.items()))

    def _save(self) -> None:
        """Weights, optimiser and log; state.json is replaced last and names the file that counts,
        so that a run stopped while it saves goes on from the epoch before.
        """
        name = f"epoch{len(self.log)}.safetensors"
        trees = {"model": self.model.parameters(), "optimizer": self.optimizer.state}
        arrays = dict(tree_flatten(trees))
        mx.save_safetensors(str(self.path / name), arrays)
        state = {"facts": self.facts, "arrays": name, "log": self.log}
        new = self.path / "state.json.new"
        new.write_text(json.dumps(state), encoding="utf-8")
        os.replace(new, self.path / "state.json")
        for old in self.path.glob("epoch*.safetensors"):
            if old.name != name:
                old.unlink()

    def _load(self) -> None:
        state = json.loads((self.path / "state.json").read_text(encoding="utf-8"))
        if state["facts"] != self.facts:
            raise ValueError(
                f"[papers] the checkpoint in {self.path} must be of {self.facts}, "
                f"got {state['facts']}."
            )
        arrays = tree_unflatten(list(mx.load(str(self.path / state["arrays"])).items()))
        self.model.update(arrays["model"])
        self.optimizer.state = arrays["optimizer"]
        self.log = state["log"]


def arguments(description: str, name: str, epochs: int, meaning: str) -> argparse.ArgumentParser:
    """A parser of what every experiment takes.

    name: of its folder of checkpoints and its file of results.  epochs, meaning: default and help
    of --epochs.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    add = parser.add_argument
    add("command", choices=("train", "table"))
    add("--seed", type=int, nargs="+", default=[0])
    add("--epochs", type=int, default=epochs, help=meaning)
    add("--threads", type=int, help="of the fused kernels")
    add("--checkpoints", default=CHECKPOINTS / name, help="folder of the runs")
    add("--results", default=RESULTS / f"{name}.json", help="file of the results")
    return parser


def add_result(path, entry: dict) -> None:
    """Put `entry` into the JSON list at `path`, in place of one of the same run."""
    path = Path(path)
    entries = read_results(path)
    key = _key(entry)
    entries = [other for other in entries if _key(other) != key] + [entry]
    entries.sort(key=_key)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(item) for item in entries)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def read_results(path) -> list[dict]:
    """The entries of a results file, none if there is no file."""
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _key(entry):
    return tuple(str(entry.get(name)) for name in ("model", "rate", "epochs", "seed"))


def spread(values, digits: int = 2) -> str:
    """Mean +- sample standard deviation of the finite values, and how many there are."""
    values = [value for value in values if math.isfinite(value)]
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "-"
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
