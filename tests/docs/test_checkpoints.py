"""The blocks of docs/checkpoints.md run, one after the other, those that need another framework
where it is installed.
"""

import importlib.util
import re

import mlx.core as mx
import pytest

from tests.support import ROOT
from tests.support.cases import assert_close, tolerance

DOCUMENT = ROOT / "docs" / "checkpoints.md"
SAME = tolerance("float32", "forward")


def installed(name):
    keras = ("keras", "jax", "scipy", "ncps", "h5py")
    packages = {"ncps.torch": ("torch", "ncps"), "ncps.keras": keras}
    return all(importlib.util.find_spec(package) for package in packages[name])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Keras
def test_blocks_of_the_document_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 8
    names, x = {}, mx.ones((2, 5, 3))
    for n, block in enumerate(blocks):
        needs = re.match(r"# needs (.*)\n", block)
        if needs and not installed(needs[1]):
            continue
        exec(compile(block, f"{DOCUMENT.name}, block {n}", "exec"), names)
        if n == 0:
            assert mx.array_equal(names["twin"](x)[0], names["layer"](x)[0])
        elif n == 2:
            assert_close("imported", names["output"], names["model"](names["x"]), SAME)
        elif n == 4:
            assert_close("back", names["back"](x)[0], names["layer"](x)[0], SAME)
        elif n == 5:
            want = names["layer"](x)[0]
            assert_close("torch", names["output"].detach().numpy(), want, SAME)
    assert_close("same", names["same"](x)[0], names["layer"](x)[0], SAME)
