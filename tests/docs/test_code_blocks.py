"""The code blocks of all pages: each runs alone, in a namespace and a folder of its own, and gives
what its comments show: shapes of what a line assigns, values, printed lines. `CHECKS` has what else
the pages promise of a block.
"""

import ast
import io
import re
import tokenize
import warnings
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from tests.support import ROOT
from tests.support.cases import assert_all_close, assert_close, tolerance
from tests.support.quick import QUICK

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")]
PAGES = sorted(page for page in PAGES if page.name != "CHANGELOG.md")
NEEDS = {  # text of a block -> the packages without which it is skipped
    "import keras": ("keras", "jax", "scipy", "ncps", "h5py"),
    "import matplotlib": ("matplotlib", "networkx"),
    "import pandas": ("pandas",),
    "import gymnasium": ("gymnasium",),
    "import torch": ("torch", "ncps"),
    "import onnxruntime": ("onnx", "onnxruntime"),
    "import coremltools": ("coremltools",),
}
LISTS = r"\[[\w, ]*\](?:, \[[\w, ]*\])*"
SAME, GRADIENT = tolerance("float32", "forward"), tolerance("float32", "gradient")


class Block(NamedTuple):
    """A block of a page, with the line on which it begins."""

    page: str
    line: int
    text: str

    @property
    def name(self):
        return f"{self.page}:{self.line}"


def blocks(language):
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text[: match.start(1)].count("\n") + 1
            found.append(Block(page.relative_to(ROOT).as_posix(), line, match[1]))
    return found


# The guides train networks.
PYTHON = [b for b in blocks("python") if QUICK or not b.page.startswith("docs/guide/")]


def comments(text):
    """{line: the comment on it}"""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: t.string[1:].strip() for t in tokens if t.type == tokenize.COMMENT}


def literal(text):
    """The value that a comment is; None where it is prose."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return None


def shapes(text, names):
    """The shapes that a comment begins with, "[8, 20, 4], [B, H]: ..."; [] where it has none."""
    lists = re.match(rf"({LISTS})(?:$|[,:;.])", text)
    lists = re.findall(r"\[([\w, ]*)\]", lists[1]) if lists else []
    sizes = [[names.get(word, word) for word in re.findall(r"\w+", one)] for one in lists]
    return [tuple(map(int, one)) for one in sizes if all(str(size).isdigit() for size in one)]


def run(block):
    """The names that a block leaves; its comments are compared on the way."""
    names, shown = {"__name__": "__main__"}, comments(block.text)
    for statement in ast.parse(block.text).body:
        comment = shown.get(statement.end_lineno, "")
        if isinstance(statement, ast.Expr):
            got = eval(compile(ast.Expression(statement.value), block.name, "eval"), names)
            want = literal(comment)
            assert want is None or got == want, f"{comment}, not {got}"
            continue
        exec(compile(ast.Module([statement], []), block.name, "exec"), names)
        if isinstance(statement, ast.Assign):
            targets = statement.targets[0]
            targets = targets.elts if isinstance(targets, ast.Tuple) else [targets]
            for target, shape in zip(targets, shapes(comment, names), strict=False):
                got = names[target.id].shape
                assert got == shape, f"{ast.unparse(statement)}: {got}, not {shape}"
    return names


def check_printed(block, printed):
    """Every comment behind a `print` is a line, or a part of one; "..." stands for anything."""
    shown = comments(block.text)
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            want = shown.get(node.end_lineno, "")
            pattern = ".*".join(map(re.escape, want.split("...")))
            assert re.search(pattern, printed), f"not printed: {want}"


def leaves(tree):
    return dict(tree_flatten(tree))


def equal(got, want, limit=SAME):
    """Of two arrays, or of two trees of them; AssertionError where they differ."""
    if isinstance(want, dict):
        assert_all_close(leaves(got), leaves(want), limit)
    else:
        assert_close("result", got, want, limit)
    return True


def whole(model, x, ts, y):
    """The loss of the whole sequence, and its gradients."""
    loss = nn.value_and_grad(model, lambda: mx.mean(mx.square(model(x, timespans=ts)[0] - y)))
    return loss()


# {page: [(a text of a block, what holds after it)]}, in the names of the block and of HELPERS.
HELPERS = {"equal": equal, "leaves": leaves, "whole": whole, "GRADIENT": GRADIENT, "mx": mx}
HELPERS["Path"] = Path
HELPERS["two"] = mx.ones((2, 5, 3))
CHECKS = {
    "docs/layers.md": [
        ("CfC(CfCCell(I, 16))", "output.shape == (8, 20, 4)"),
        ('variant="keras"', "output.shape == (8, 20, 16)"),
        ("initialization_ranges=", "output.shape == (8, 20, 16)"),
        ("LTC(I, 16, mixed_memory=True)", "'the LSTM in front of the cell' in printed"),
        ("lengths = ", "output.shape == (8, 20, 16)"),
        ("carry_forward(x,", "output.shape == (8, 20, 16)"),
        ("CfCRNN(I, 16", "output.shape == (8, 20, 4)"),
        ("class Leaky", "output.shape == (8, 8)"),
        ("CTRNNCell(I, 16", "output.shape == (8, 20, 16)"),
        ("backbone_dropout=0.1", "'cfc_sequence over the whole sequence on' in printed"),
        ("layer.step(mx.array(sample)", "output.shape == action.shape == (4,)"),
        ("resets=starts", "output.shape == (8, 20, 16) and action.shape == (8, 16)"),
    ],
    "docs/training.md": [
        ("clip_grad_norm", "norm.item() > 0"),
        ("last_loss", "last_loss.item() > 0"),
        ("reset_states", "equal(mx.concatenate([first, second], axis=1), both)"),
        ("distributed", "group.size() == 1"),
        ("chunked_value_and_grad(", "last.shape == (8, 16)"),
        ("chunked_value_and_grad(", "equal(loss, whole(model, x, ts, y)[0])"),
        ("chunked_value_and_grad(", "equal(gradients, whole(model, x, ts, y)[1], GRADIENT)"),
        ("checkpoint(", "equal(checkpointed_loss, whole(model, x, ts, y)[0])"),
        ("checkpoint(", "equal(checkpointed_gradients, whole(model, x, ts, y)[1], GRADIENT)"),
        ("class LowRank", "set(leaves(gradients)) == {'rnn_cell.ff1.a', 'rnn_cell.ff1.b'}"),
        ("nn.quantize", "0 < abs(after - before).max().item() < abs(before).max().item()"),
        ("nn.quantize", "'scales' not in quantized.layers[0].rnn_cell.backbone[0]"),
        ("nn.quantize", "'scales' in quantized.layers[0].rnn_cell.ff1"),
    ],
    "docs/wirings_and_layers.md": [
        ("target=0", "printed.startswith('AutoNCP(units=16, output_dim=4, input_dim=3, ')"),
        ("target=0", "{s.target for s in wiring.get_synapses(target=0)} == {0}"),
        ("remove_synapse", "removed > 0 and layer.synapse_count == wiring.synapse_count"),
        ("remove_synapse", "mx.sum(cell.sparsity_mask != 0).item() == layer.synapse_count"),
        ("class Scale", "dense.mask.shape == (12, 3)"),
        ("redraw", "abs(same - mx.array(weight).tolist()).max() < 1e-6"),
        ("from_config", "mx.array_equal(model(x), output)"),
        ("mlx_ncps.alias", "output.shape == (8, 20, 4)"),
        ("mlx_ncps.alias", "CfC.__module__ == 'mlx_ncps.rnn.cfc'"),
    ],
    "docs/checkpoints.md": [
        ("twin =", "mx.array_equal(twin(two)[0], layer(two)[0])"),
        ("import_function", "equal(output, model(x))"),
        ("back =", "equal(back(two)[0], layer(two)[0])"),
        ("strict=True", "equal(output.detach().numpy(), layer(two)[0])"),
        ("same =", "equal(same(two)[0], layer(two)[0])"),
    ],
    "docs/guide/deployment.md": [
        ('"policy.h"', "'POLICY_STATE 19' in Path('policy.h').read_text()"),
        ("export_sequence", "same and output.shape == (8, 70, 4)"),
        ("whole.fc", "same"),
    ],
    "docs/maths.md": [("", "equal(got, want)")],
    "docs/guide/quickstart.md": [
        ("3 * np.pi", "losses[-1] < 0.01 * losses[0]"),
        ("def waves", "error < 0.1 * blind_error"),
        ("again =", "same.item()"),
    ],
    "docs/guide/howto_irregular.md": [("import pandas", "right > 0.75")],
    "docs/guide/howto_streaming.md": [
        ("StreamingSession(layer)", "same"),
        ("def teacher", "distance < 0.1"),
    ],
    "docs/guide/howto_rl.md": [("ROLLOUTS", "score > 200"), ("import gymnasium", "same")],
    "docs/guide/howto_long_sequences.md": [
        ("piece_loss", "equal and less < 0.5 * megabytes"),
        ("reset_states", "last < 0.5 * variance"),
    ],
    "docs/guide/howto_interpret.md": [
        ("time_constants", "loss.item() < 0.2 and correlation[0] > 0.8"),
        ("weights < 0.8", "removed > 0 and change > 0"),
        ("saliency", "far < 0.5 * reach.max().item()"),
    ],
    "docs/guide/migrate_torch.md": [
        ("model.save_weights", "loss.item() < 0.01"),
        ('from_torch("model.pt")', "same"),
        ("model.cfc, prefix", "equal(model.cfc(two), theirs(two)[0])"),
        ("model.cfc, prefix", "equal(layer(two)[0], theirs(two)[0])"),
        ("model.cfc, prefix", "model.head.weight.tolist() == 2 * [8 * [1.0]]"),
        ("loss_of(layer, x, y, hx)", "last < 0.5 * mx.mean(mx.square(y)).item()"),
    ],
    "docs/guide/migrate_keras.md": [
        ("layer = from_keras", "same"),
        ("bias_correction=True", "loss.item() < 0.01"),
    ],
    "docs/guide/migrate_mlx_ports.md": [("mlx_ncps.alias", "learned")],
}


def checks(block):
    return [check for text, check in CHECKS.get(block.page, []) if text in block.text]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_block_runs_alone(block, run_python, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for package in (p for text, needed in NEEDS.items() if text in block.text for p in needed):
        pytest.importorskip(package)
    if "import keras" in block.text:
        warnings.simplefilter("ignore", DeprecationWarning)  # of Keras
    if "mlx_ncps.alias" in block.text:  # makes `ncps.mlx` for the whole process
        code = [block.text, *(f"assert {check}, {check!r}" for check in checks(block))]
        done = run_python("-W", "error", "-c", "\n".join(code))
        assert done.returncode == 0, done.stderr
        return
    if "import mslsim" in block.text:
        import mslsim

        mslsim.require()
        with mslsim.options(mode="checked"):
            names = run(block)
    else:
        names = run(block)
    printed = capsys.readouterr().out
    check_printed(block, printed)
    for check in checks(block):
        assert eval(check, HELPERS | names | {"printed": printed}), check


def test_every_check_has_its_block():
    for page, found in CHECKS.items():
        texts = [block.text for block in blocks("python") if block.page == page]
        assert len(texts) >= len({text for text, _ in found})
        for text, check in found:
            assert any(text in one for one in texts), f"{page}: {text}, {check}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("import mlx.core as mx\nx = mx.ones((2, 3))  # [2, 4]\n", r"\(2, 3\), not \(2, 4\)"),
        ("T = 3\nimport mlx.core as mx\nx = mx.ones((2,))  # [T], a vector\n", r"\(2,\), not"),
        ("(1, 2)  # (1, 3)\n", r"\(1, 3\), not \(1, 2\)"),
        ("print(3 * 'a')  # aa...b\n", "not printed: aa...b"),
    ],
)
def test_what_a_comment_shows_is_compared(text, fault, capsys):
    def run_and_compare(block):
        run(block)
        check_printed(block, capsys.readouterr().out)

    with pytest.raises(AssertionError, match=fault):
        run_and_compare(Block("page", 1, text))


def test_commands_of_the_pages_exist():
    text = "\n".join(re.sub("#.*", "", block.text) for block in blocks("sh"))
    known = (ROOT / "Makefile").read_text(encoding="utf-8").split()
    targets = set(re.findall(r"\bmake ([\w-]+)", text))
    assert len(targets) > 5
    assert not [target for target in targets if f"{target}:" not in known and target not in known]
    paths = re.findall(r"\b((?:tests|tools|examples|simulator)/[\w/.]+)", text)
    for module in re.findall(r"-m ((?:benchmarks|tools)[\w.]*)", text):
        path = module.replace(".", "/")
        paths.append(path + ("/__main__.py" if (ROOT / path).is_dir() else ".py"))
    assert len(paths) > 5
    assert not [path for path in paths if not (ROOT / path).exists()]
