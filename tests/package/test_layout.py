"""The import direction: rnn -> cells -> ops -> dispatch -> backends; nothing points back."""

import ast
from pathlib import Path

import mlx_ncps
import pytest

PACKAGE = Path(mlx_ncps._loader.__file__).parent

# Part of the package -> the parts that it may import. A part that is not listed stands above them
# all: it may import everything, and none of these may import it.
MAY_IMPORT = {
    "_mlx": set(),
    "limits": set(),
    "fixed": set(),
    "checks": {"limits"},
    "options": {"checks", "limits"},
    "weight_files": {"checks"},
    "shown": {"checks"},
    "pretrained": {"checks", "config", "weights"},
    "weights": {"checks", "weight_files"},
    "recording": set(),
    "config_bounds": {"limits"},
    "config": {"checks", "config_bounds", "recording"},
    "_loader": {"_build_info", "_ext", "_mlx"},
    "_fork": {"_loader"},
    "backends": {"_loader", "checks"},
    "values": {"_loader", "checks"},
    "programs": {"_loader", "backends", "checks", "dispatch", "values"},
    "step_plan": {"_loader", "backends"},
    "dispatch": {"_fork", "_loader", "backends", "checks"},
    "at_once": {"_fork", "_loader", "backends", "dispatch", "programs", "step_plan"},
    "ops": {"_fork", "at_once", "backends", "checks", "dispatch", "limits", "options"},
    "wirings": {"checks", "config", "config_bounds", "fixed", "limits", "recording", "weights"},
    "layers": {
        "checks",
        "config",
        "fixed",
        "limits",
        "ops",
        "options",
        "pretrained",
        "values",
        "weights",
        "wirings",
    },
    "cells": {
        "_fork",
        "at_once",
        "step_plan",
        "checks",
        "config",
        "dispatch",
        "layers",
        "limits",
        "ops",
        "options",
        "programs",
        "shown",
        "values",
        "wirings",
        "recording",
    },
    "rnn": {
        "_fork",
        "at_once",
        "step_plan",
        "cells",
        "checks",
        "config",
        "dispatch",
        "layers",
        "ops",
        "programs",
        "options",
        "shown",
        "values",
        "weights",
        "wirings",
    },
}


def imported_modules(path):
    """Absolute names of what the file imports, wherever in it the import stands, but for a type
    checker alone.
    """
    package = ["mlx_ncps", *path.relative_to(PACKAGE).parent.parts]
    for node in run_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            name = node.args[0]
            if ast.unparse(name).startswith("f'.{"):  # whichever module of the same package
                yield ".".join(package)
            else:
                yield ast.literal_eval(name)


def run_nodes(tree):
    """`ast.walk` without what stands under `if TYPE_CHECKING:`."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def part(name):
    """ "ops" of "mlx_ncps.ops.ltc.ltc_step"; "" of another package."""
    words = name.split(".")
    return words[1] if words[0] == "mlx_ncps" and len(words) > 1 else ""


def files(folder):
    single = PACKAGE / f"{folder}.py"
    return [single] if single.exists() else sorted((PACKAGE / folder).rglob("*.py"))


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_layer_imports_only_what_lies_below(layer):
    assert files(layer), f"{layer} has no files"
    for path in files(layer):
        used = {part(name) for name in imported_modules(path)} - {"", layer}
        above = used - MAY_IMPORT[layer]
        assert not above, f"{path.relative_to(PACKAGE)} imports {sorted(above)}"


def test_only_the_loader_imports_the_native_module():
    users = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if any(part(name) == "_ext" for name in imported_modules(path))
    }
    assert users == {"_loader.py"}


def test_the_ground_truth_does_not_import_mlx():
    for path in files("ops/numpy"):
        packages = {name.split(".")[0] for name in imported_modules(path)}
        assert "mlx" not in packages, path.name
        used = {".".join(name.split(".")[:3]) for name in imported_modules(path)}
        own = {name for name in used if name.startswith("mlx_ncps")}
        assert own <= {"mlx_ncps.ops.numpy"}, f"{path.name} imports {sorted(own)}"
