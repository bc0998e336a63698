"""Writes golden/paper_steps.npz: weights of the CfC paper's own TensorFlow cells, of event-based
XOR, before training and after each of three steps of its optimisers.

    python tests/golden/make_paper_steps.py FOLDER

FOLDER holds tf_cfc.py of the paper's repository. Needs tensorflow and tf-keras, which the tests do
not. "<case>/<step>" holds the weights of a row of benchmarks.papers.original in one line, in the
order of our names; `SETUPS`, `EVENTS` and `flat` say the rest.
"""

import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.papers import xor
from benchmarks.papers.events import make_events

FILE = Path(__file__).with_name("paper_steps.npz")
ROWS = ("cfc", "mixed_paper", "no_gate", "pure", "ltc")
SMALL = {"units": 3, "backbone": 4, "batch": 6, "dropout": 0.0}
SETUPS = {row: replace(xor.SETUPS[row], **SMALL) for row in ROWS}
SETUPS |= {f"{row} clipped": replace(SETUPS[row], clip=0.02) for row in ("cfc", "pure")}
SAMPLES, SEED, STEPS = 18, 5, 3
EVENTS = make_events(SAMPLES, SEED)


def flat(weights):
    """Weights {name: array} in one line, in the order of the names."""
    return np.concatenate([np.ravel(np.array(weights[name])) for name in sorted(weights)])


def row_of(case):
    """The row of a case: its first word."""
    return case.split()[0]


def main(code):
    """Train each case and write the file."""
    from benchmarks.papers.original import Original

    arrays = {}
    for case, setup in SETUPS.items():
        mx.random.seed(1)
        row = row_of(case)
        ours = xor.build(row, setup)
        original = Original(code, row, setup, ours, STEPS)
        assert set(original.variables) == set(dict(tree_flatten(ours.trainable_parameters())))
        arrays[f"{case}/0"] = flat(original.weights())
        for step in range(STEPS):
            order = np.arange(step * setup.batch, (step + 1) * setup.batch)
            original.fit(EVENTS, order, setup.batch)
            arrays[f"{case}/{step + 1}"] = flat(original.weights())
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
