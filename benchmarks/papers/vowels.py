"""Japanese vowels (Kudo et al. 1999): which of nine men says /ae/, by 12 coefficients of his speech
over 7 to 29 frames, half of the frames dropped at random.

    python -m benchmarks.papers.vowels train
    python -m benchmarks.papers.vowels table
    python -m benchmarks.papers.vowels figure

The data (UCI, CC BY 4.0) ships with the package sktime, of which only the files are read.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np

from .comparison import Experiment, command, of_models, split_off
from .sequences import Protocol, Sequences, drop, from_lists

DROPPED = 0.5
PROTOCOL = Protocol(classes=9, epochs=80, batch=16)
FILES = ("JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts")


def load(folder=None) -> tuple[Sequences, Sequences, Sequences]:
    """Training, validation and test sequences, half of their frames dropped."""
    parts = load_whole(folder)
    return tuple(drop(part, DROPPED, seed) for seed, part in enumerate(parts))


def load_whole(folder=None) -> tuple[Sequences, Sequences, Sequences]:
    """Training (4/5 of the 270), validation (1/5) and test sequences (370), with all frames; each
    coefficient has mean 0 and variance 1 over the frames that train.
    """
    folder = find() if folder is None else Path(folder)
    rest, held_out = (from_lists(*read(folder / name)) for name in FILES)
    training, valid = split_off(rest, 0.2, 0)
    frames = training.values[training.elapsed > 0]
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)

    def scaled(part):
        values = (part.values - mean) / deviation * (part.elapsed > 0)[..., None]
        return part._replace(values=values.astype(np.float32))

    return scaled(training), scaled(valid), scaled(held_out)


def find() -> Path:
    """The folder of the data in the package sktime, which is not imported.

    Raises ValueError when there is none.
    """
    found = importlib.util.find_spec("sktime")
    if found is None or found.origin is None:
        raise ValueError(
            "[papers] the vowels want the package sktime (pip install --no-deps sktime), "
            "or --data with the folder of its JapaneseVowels files."
        )
    return Path(found.origin).parent / "datasets" / "data" / "JapaneseVowels"


def read(path) -> tuple[list[np.ndarray], list[int]]:
    """Arrays [frames, coefficients] and classes from 0, from a file of the .ts format: a line for
    each sequence, numbers of a coefficient by commas, coefficients and the class by colons.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.strip().lower() == "@data")
    values, labels = [], []
    for line in filter(None, map(str.strip, lines[start + 1 :])):
        *series, label = line.split(":")
        array = np.array([row.split(",") for row in series], dtype=np.float32).T
        values.append(array[~np.isnan(array).any(axis=1)])  # some editions are padded with NaN
        labels.append(int(label) - 1)
    return values, labels


EXPERIMENT = Experiment(
    "vowels", "Japanese vowels, half of the frames dropped; LSTM and GRU of mlx.nn",
    __doc__, PROTOCOL, load, of_models(PROTOCOL),
)  # fmt: skip


def main(argv=None) -> int:
    return command(EXPERIMENT, argv)


if __name__ == "__main__":
    sys.exit(main())
