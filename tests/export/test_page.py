"""The page of deployment: its C program compiles and gives what the layer gives; so do the examples
of the functions.
"""

import doctest
import re
import subprocess

import mlx.core as mx
import mlx_ncps
import pytest
from mlx_ncps import LTC, export
from mlx_ncps.wirings import AutoNCP

from tests.support import ROOT
from tests.support.cases import assert_close, tolerance

PAGE = (ROOT / "docs" / "guide" / "deployment.md").read_text(encoding="utf-8")
NEEDS = {"to_onnx": "onnx", "to_coreml": "coremltools"}


def test_the_program_of_the_page_runs(c_compilers, tmp_path):
    layer = LTC(4, AutoNCP(19, 2))
    export.to_c(layer, tmp_path / "policy.h")
    program = re.search(r"^```c\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[1]
    (tmp_path / "main.c").write_text(program)
    command = re.search(r"^cc (.*) && \./main$", PAGE, re.MULTILINE)[1].split()
    subprocess.run([c_compilers[0], "-Wall", "-Werror", *command], check=True, cwd=tmp_path)
    done = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=True)
    got = mx.array([[float(word) for word in line.split()] for line in done.stdout.splitlines()])
    x = mx.broadcast_to(mx.array([0.1, -0.2, 0.3, 0.4]), (5, 4))
    wanted = layer(x, timespans=0.5)[0]
    assert_close("outputs", got, wanted, tolerance("float32", "forward"))


@pytest.mark.parametrize("name", [name for name in export.__all__ if name != "export_function"])
def test_the_example_of_a_function_runs(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    function = getattr(export, name)
    examples = doctest.DocTestFinder(recurse=False).find(function, name, mlx_ncps, globs={})
    results = [doctest.DocTestRunner().run(example) for example in examples]
    assert sum(result.attempted for result in results) >= 3
    assert sum(result.failed for result in results) == 0
