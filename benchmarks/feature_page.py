"""The page docs/features.md, of the results of `features`, `streaming` and `training`."""

from __future__ import annotations

from pathlib import Path

from . import features, report, streaming, training
from .layer_command import notes
from .store import read

INTRODUCTION = """\
# Features, streaming steps and training steps

Written by `python -m benchmarks page` from the files in [results/](results); don't edit it.
[benchmarks.md](benchmarks.md) explains how it is measured.
"""
FEATURES = """\
Each row is a layer with what is named, beside the plain fused layer of the same sizes (a CfC or
LTC; of a cell from the literature the CfC). *of plain* is our time over that layer's, *of the
reference* over that of the same layer in MLX operations, *error* the largest one against the
latter in float32, relative to the largest element. *arithmetic* counts multiply-adds of a step
over those of the plain layer, a gate of an LTC as 8. A row is beyond its limit, in bold, where it
takes more than 3 times the plain layer's time, for cells of the literature 5 times, times its
arithmetic where that is above 1. *refused* names what a layer does not take.
"""
STREAMING = """\
The p50 of single steps of one sequence, each from the state of the one before, beside
`layer.step` of the plain layer (for an input that is not evaluated yet: evaluated by hand, then
stepped). A row is beyond its limit where it takes more than 3 times as long, times its arithmetic
where that is above 1.
"""
TRAINING = """\
Loss, gradients and a step of MLX's, PyTorch's or our JAX program's Adam, T = 32, I = 16. Ours is
the public layer, eager and with the whole step in `mx.compile`. A ratio below 1 is named as
behind. The JAX programs are compiled as a whole, so their like is our compiled step. *MLX's Adam
alone* is the update of the eager step, with gradients that are there already: what no layer can
save. [training.md](training.md#a-step-compiled-with-clipped-gradients) has a compiled step.
"""


def page(results: Path, part) -> str:
    """The text, from the files in `results`; part.header, .absent and .markdown write its parts."""
    sections = (
        ("Feature by feature", "features", FEATURES, _features),
        ("Streaming", "streaming", STREAMING, _streaming),
        ("Training steps", "training", TRAINING, _training),
    )
    parts = [INTRODUCTION]
    for title, name, text, body in sections:
        parts += [f"## {title}\n", text]
        path = results / f"{name}.json"
        if path.exists():
            document = read(path)
            parts += [part.header(document), *body(document, part.markdown)]
        else:
            parts.append(part.absent("make bench-full"))
    return "\n".join(parts).rstrip() + "\n"


def _features(document, markdown) -> list[str]:
    return [markdown(features.table(document)), _indented(notes(document, features.is_beyond))]


def _streaming(document, markdown) -> list[str]:
    return [markdown(streaming.table(document)), _indented(notes(document, streaming.is_beyond))]


def _training(document, markdown) -> list[str]:
    parts = []
    for title, lines in training.tables(document).items():
        parts += [f"### {title}\n", markdown(lines)]
    notes = report.notes(training.summaries(document), training.COLUMNS)
    return [*parts, _indented(notes)] if notes else parts


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()) + "\n"
