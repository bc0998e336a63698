"""A layer as a C99 header: it compiles without a warning and computes what the layer does."""

import subprocess

import mlx.core as mx
import numpy as np
import pytest
from mlx_ncps import LTC, CfC, LiquidRNN, export
from mlx_ncps.cells import CTRNNCell, LSTMCell
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import assert_close, tolerance
from tests.support.export_cases import LAYERS, T, built, leaves, run, trial
from tests.support.parts import Adapter

SAME = tolerance("float32", "forward")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow")
DRIVER = """\
#include <stdio.h>
#include <stdlib.h>

static void get(float *to, int count) {
  if (fread(to, sizeof(float), (size_t)count, stdin) != (size_t)count) exit(2);
}
static void put(const float *from, int count) {
  fwrite(from, sizeof(float), (size_t)count, stdout);
}
"""
RUN = """\
static void run_{name}(int steps) {{
  float x[{upper}_INPUTS], state[{upper}_STATE], y[{upper}_OUTPUTS], ts;
  int t;
  {name}_reset(state);
  put(state, {upper}_STATE);
  get(state, {upper}_STATE);
  for (t = 0; t < steps; ++t) {{
    get(x, {upper}_INPUTS);
    get(&ts, 1);
    {name}_step(x, state, ts, y);
    put(y, {upper}_OUTPUTS);
    put(state, {upper}_STATE);
  }}
}}
"""


def program(folder, layers):
    """The source of a program that runs these layers, of this name each, one after another."""
    text = DRIVER
    for name, layer in layers.items():
        export.to_c(layer, folder / f"{name}.h")
        text += f'#include "{name}.h"\n' + RUN.format(name=name, upper=name.upper())
    calls = "".join(f"  run_{name}({T});\n" for name in layers)
    (folder / "main.c").write_text(f"{text}int main(void) {{\n{calls}  return 0;\n}}\n")
    return folder / "main.c"


def compiled(compiler, source, *options):
    file = source.with_suffix(".out")
    command = [compiler, *STRICT, "-O1", *options, str(source), "-o", str(file), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    return file


def flat(x, ts, state):
    """What the program reads of a trial of one row."""
    steps = mx.concatenate([x[0], ts[0][:, None]], axis=1)
    return np.concatenate([np.array(a, np.float32).ravel() for a in (*leaves(state), steps)])


def outputs(compiler, folder, layers):
    """{name: (state after reset, outputs [T, O], states [T, S])} of the compiled program."""
    given = {name: trial(layer, batch=1) for name, layer in layers.items()}
    source = program(folder, layers)
    done = subprocess.run(
        [str(compiled(compiler, source))],
        input=b"".join(flat(*trial).tobytes() for trial in given.values()),
        capture_output=True,
        check=True,
    )
    numbers, results, at = np.frombuffer(done.stdout, np.float32), {}, 0
    for name, layer in layers.items():
        wanted = run(layer, *given[name])
        states = np.concatenate([np.array(part[0]) for part in wanted[1]], axis=-1)
        O, S = wanted[0].shape[-1], states.shape[-1]
        end = at + S + T * (O + S)
        steps = numbers[at + S : end].reshape(T, O + S)
        results[name] = (numbers[at : at + S], steps, (np.array(wanted[0][0]), states))
        at = end
    assert at == len(numbers)
    return results


@pytest.fixture(scope="module")
def results(c_compilers, tmp_path_factory):
    """What the program of all layers gives, one for each compiler."""
    layers = {name: built(name) for name in LAYERS}
    folders = {path: tmp_path_factory.mktemp("c") for path in c_compilers}
    return [outputs(path, folder, layers) for path, folder in folders.items()]


@pytest.mark.parametrize("name", LAYERS)
def test_the_header_computes_what_the_layer_does(name, results):
    for result in results:
        reset, steps, (wanted, states) = result[name]
        assert not reset.any()
        count = wanted.shape[-1]
        assert_close("outputs", steps[:, :count], wanted, SAME)
        assert_close("states", steps[:, count:], states, SAME)


def single(compiler, folder, layer, given):
    """Outputs and states of a layer over steps that are given as numbers."""
    export.to_c(layer, folder / "cell.h")
    text = DRIVER + '#include "cell.h"\n' + RUN.format(name="cell", upper="CELL")
    source = folder / "main.c"
    source.write_text(f"{text}int main(void) {{ run_cell({len(given[1])}); return 0; }}\n")
    data = b"".join(np.asarray(a, np.float32).tobytes() for a in given)
    file = compiled(compiler, source)
    done = subprocess.run([str(file)], input=data, capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.float32)


@pytest.mark.parametrize("make", [lambda: CfC(2, 3), lambda: LTC(2, AutoNCP(6, 1))])
@pytest.mark.parametrize("ts", [-1.0, float("nan")])
def test_times_that_are_none_give_nan(make, ts, c_compilers, tmp_path):
    layer = make()
    size = layer.state_size
    state = np.zeros(size)
    got = single(c_compilers[0], tmp_path, layer, (state, [[0.3, 0.4, ts]]))
    assert np.isnan(got[size:]).all()


def test_no_time_keeps_the_state_of_an_ltc_exactly(c_compilers, tmp_path):
    layer = LTC(2, AutoNCP(6, 1))
    state = np.linspace(-1.3, 1.7, 6, dtype=np.float32)
    got = single(c_compilers[0], tmp_path, layer, (state, [[0.3, 0.4, 0.0]]))
    assert np.array_equal(got[-6:], state)


def test_a_header_is_of_c_plus_plus_too(c_compilers, tmp_path):
    export.to_c(built("ltc_stack"), tmp_path / "stack.h")
    export.to_c(built("keras_memory_cfc"), tmp_path / "memory.h")
    source = tmp_path / "main.cpp"
    source.write_text(
        '#include "stack.h"\n#include "memory.h"\n'
        "int main() { float s[STACK_STATE] = {0}, x[4] = {0}, y[STACK_OUTPUTS];\n"
        "  stack_step(x, s, 1.0f, y); float m[MEMORY_STATE] = {0}, z[MEMORY_OUTPUTS];\n"
        "  memory_step(x, m, 1.0f, z); return 0; }\n"
    )
    for compiler in c_compilers:
        command = [compiler, "-x", "c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic"]
        done = subprocess.run(
            [*command, "-c", str(source), "-o", str(tmp_path / "main.o")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[:3000]


def test_a_sparse_wiring_is_small(tmp_path):
    """A number that is 0 because of the wiring isn't in the file."""
    sparse, dense = LTC(8, AutoNCP(19, 3, seed=1)), LTC(8, 19)
    export.to_c(sparse, tmp_path / "sparse.h")
    export.to_c(dense, tmp_path / "dense.h")
    count = sparse.synapse_count + sparse.sensory_synapse_count
    assert f"neuron_synapse[{sparse.synapse_count}][4]" in (tmp_path / "sparse.h").read_text()
    assert count < (dense.synapse_count + dense.sensory_synapse_count) / 2
    ratio = (tmp_path / "sparse.h").stat().st_size / (tmp_path / "dense.h").stat().st_size
    assert ratio < 0.6


def test_the_same_layer_gives_the_same_text(tmp_path):
    layer = built("wired_mixed")
    for name in ("a", "b"):
        export.to_c(layer, tmp_path / f"{name}.h", name="policy")
    assert (tmp_path / "a.h").read_text() == (tmp_path / "b.h").read_text()
    assert all(len(line) <= 120 for line in (tmp_path / "a.h").read_text().splitlines())


def adapted():
    layer = CfC(3, 4)
    layer.rnn_cell.ff1 = Adapter(layer.rnn_cell.ff1)
    return layer


def broken():
    layer = LTC(3, 4)
    layer.rnn_cell.w = layer.rnn_cell.w.at[0, 0].add(float("inf"))
    return layer


REFUSED = {
    "both directions": (lambda: CfC(3, 4, bidirectional=True), "bidirectional must be False"),
    "backwards": (lambda: LTC(3, 4, go_backwards=True), "export_sequence"),
    "another cell": (lambda: LiquidRNN(CTRNNCell(3, 4)), "got LiquidRNN of CTRNNCell: export_step"),
    "a module": (adapted, "ff1 must be an nn.Linear, got Adapter: merge it"),
    "not built": (lambda: LTC(None, AutoNCP(8, 2)), r"call it once, or build\(input_size\)"),
    "not finite": (broken, "weights must be finite"),
    "an LSTM": (lambda: LSTMCell(3, 4), "got LSTMCell"),
    "no layer": (lambda: None, "got NoneType"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_c_cannot_have_is_refused(case, tmp_path):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=rf"^\[to_c\] .*{message}"):
        export.to_c(make(), tmp_path / "cell.h")
    assert not list(tmp_path.iterdir())


WRITERS = {
    "to_c": export.to_c,
    "to_onnx": export.to_onnx,
    "to_coreml": export.to_coreml,
    "export_step": export.export_step,
    "export_sequence": lambda layer, path: export.export_sequence(layer, path, 2),
    "export_function": lambda layer, path: export.export_function(path, layer, mx.ones((1, 2, 3))),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_path_that_can_be_no_file_is_refused(name, tmp_path):
    for path in ("", tmp_path, tmp_path / "none" / "a.mlpackage", 3):
        with pytest.raises(ValueError, match=rf"^\[{name}\] (path|file) must be .*, got "):
            WRITERS[name](CfC(3, 4), path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["3d", "a b", "", "é", 3])
def test_a_name_that_is_no_identifier_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"^\[to_c\] name must be a C identifier"):
        export.to_c(CfC(3, 4), tmp_path / "cell.h", name=name)
    with pytest.raises(ValueError, match=r"^\[to_c\] name must be a C identifier"):
        export.to_c(CfC(3, 4), tmp_path / "3d.h")
