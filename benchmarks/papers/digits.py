"""Handwritten digits of scikit-learn, read pixel by pixel, a quarter of the pixels dropped at
random: the elapsed time tells how many pixels were passed over.

    python -m benchmarks.papers.digits train
    python -m benchmarks.papers.digits table
    python -m benchmarks.papers.digits figure
"""

from __future__ import annotations

import sys

import numpy as np

from .comparison import Experiment, command, of_models, split_off
from .sequences import Protocol, Sequences, drop, from_lists, rows_of

DROPPED = 0.25
COPIES = 4  # of an image that trains, each with other pixels dropped
PROTOCOL = Protocol(classes=10, epochs=30, batch=32)


def load() -> tuple[Sequences, Sequences, Sequences]:
    """Training, validation and test sequences: 3/5, 1/5 and 1/5 of the 1797 images."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = (images / 8 - 1).astype(np.float32)[..., None]  # 0 .. 16 to -1 .. 1
    rest, held_out = split_off(from_lists(list(pixels), labels), 0.2, 0)
    training, valid = split_off(rest, 0.25, 1)
    training = rows_of(training, np.tile(np.arange(len(training.count)), COPIES))
    return tuple(drop(part, DROPPED, seed) for seed, part in enumerate((training, valid, held_out)))


EXPERIMENT = Experiment(
    "digits", "Digits, pixel by pixel, a quarter dropped; LSTM and GRU of mlx.nn",
    __doc__, PROTOCOL, load, of_models(PROTOCOL),
)  # fmt: skip


def main(argv=None) -> int:
    return command(EXPERIMENT, argv)


if __name__ == "__main__":
    sys.exit(main())
