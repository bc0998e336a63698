"""The page of deployment: its C programs compile and give what the layers give."""

import re
import subprocess

import mlx.core as mx
from mlx_ncps import LTC, export
from mlx_ncps.wirings import AutoNCP

from tests.support import ROOT
from tests.support.cases import assert_close, tolerance

PAGE = (ROOT / "docs" / "guide" / "deployment.md").read_text(encoding="utf-8")


def block(language, text):
    """The block of the page that has this text."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (one,) = (block for block in found if text in block)
    return one


def printed_by(header, compiler, folder):
    """The numbers [lines, words] that the page's program with this header prints."""
    (folder / "main.c").write_text(block("c", header))
    command = re.search(r"^cc (.*) && \./main$", PAGE, re.MULTILINE)[1].split()
    subprocess.run([compiler, "-Wall", "-Werror", *command], check=True, cwd=folder)
    done = subprocess.run([str(folder / "main")], capture_output=True, text=True, check=True)
    return mx.array([[float(word) for word in line.split()] for line in done.stdout.splitlines()])


def test_the_program_of_the_page_runs(c_compilers, tmp_path):
    layer = LTC(4, AutoNCP(19, 2))
    export.to_c(layer, tmp_path / "policy.h")
    got = printed_by("policy.h", c_compilers[0], tmp_path)
    x = mx.broadcast_to(mx.array([0.1, -0.2, 0.3, 0.4]), (5, 4))
    wanted = layer(x, timespans=0.5)[0]
    assert_close("outputs", got, wanted, tolerance("float32", "forward"))


def test_the_program_for_missing_values_gives_what_the_layer_gives(
    c_compilers, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    mx.random.seed(0)
    names = {}
    exec(block("python", "sensor.h"), names)
    got = printed_by("sensor.h", c_compilers[0], tmp_path)
    assert_close("outputs", got, names["output"][0], tolerance("float32", "forward"))
