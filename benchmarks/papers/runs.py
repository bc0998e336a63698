"""What the experiments share: resumable runs, their results in a JSON file, the table of them."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_ncps
from mlx.utils import tree_flatten, tree_unflatten
from tqdm import tqdm

from ..machine import commit

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
CHECKPOINTS = ROOT / "build" / "papers"
FIGURES = ROOT / "docs" / "figures"
KEY = ("model", "units", "rate", "epochs", "seed")  # entries that agree in these are of one run


class Run:
    """One training that can stop after any epoch and go on: checkpoints of model and optimiser.

    path: folder of the checkpoint.  facts: what the run is (model, seed, setup); a checkpoint of
    other facts is refused with ValueError.
    """

    lock: Path | None = None  # of every run of the process: see `held`

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
        return self._total("seconds")

    @property
    def processor_seconds(self) -> float:
        """The same of the processor, which other work on the machine hardly changes."""
        return self._total("processor")

    def _total(self, name):
        return len(self.log) * statistics.median(entry[name] for entry in self.log)

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
            with held(self.lock):
                start, processor = time.perf_counter(), time.process_time()
                figures = train_epoch(epoch)
                seconds, processor = time.perf_counter() - start, time.process_time() - processor
            times = {"seconds": round(seconds, 3), "processor": round(processor, 3)}
            self.log.append(figures | times)
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


@contextmanager
def held(path):
    """Hold the shared lock (flock) of the file at `path`: training waits here while another
    process has the lock alone, to measure for instance. None: no lock.
    """
    if path is None:
        yield
        return
    import fcntl  # not on Windows

    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


# --- command ---


def arguments(description: str, name: str, epochs: int, meaning: str) -> argparse.ArgumentParser:
    """A parser of what every experiment takes.

    name: of its folder of checkpoints, its file of results and its figure.  epochs, meaning:
    default and help of --epochs.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    add = parser.add_argument
    add("command", choices=("train", "table", "figure"))
    add("--seed", type=int, nargs="+", default=[0])
    add("--epochs", type=int, default=epochs, help=meaning)
    add("--threads", type=int, help="of the fused kernels")
    add(
        "--lock", help="file whose shared lock is held during an epoch, so that others can pause it"
    )
    add("--checkpoints", default=CHECKPOINTS / name, help="folder of the runs")
    add("--results", default=RESULTS / f"{name}.json", help="file of the results")
    add("--figure", default=FIGURES / f"papers_{name}.png", help="file of the picture")
    return parser


def begin(options, table_of: Callable[[list], str], draw: Callable[[list, Path], Any]) -> bool:
    """Whether to train: `table` and `figure` are done here, of what is stored. Sets the CPU as the
    device, and threads and the lock as the command's options say.
    """
    if options.command == "table":
        print(table_of(read_results(options.results)))
    if options.command == "figure":
        draw(read_results(options.results), options.figure)
    if options.command != "train":
        return False
    commit()  # of this moment: the checkout may change while it trains
    if options.threads:
        mlx_ncps.set_num_threads(options.threads)
    Run.lock = options.lock
    mx.set_default_device(mx.cpu)
    return True


# --- results ---


def add_result(path, entry: dict) -> None:
    """Put `entry` and the commit into the JSON list at `path`, in place of one of the same run."""
    path = Path(path)
    entry = entry | {"commit": commit()}
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
    return tuple(json.dumps(entry.get(name)) for name in KEY)  # a tuple is a list in the file


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
