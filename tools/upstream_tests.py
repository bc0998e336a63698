"""Runs the torch tests of ncps against this package, with only their imports changed.

    python -m tools.upstream_tests SOURCE      (a clone, a bare repository, an sdist or the file)

The tests are read from the checkout and never kept. Three lines change, all of them imports:

    import torch                              ->  import upstream_shim as torch
    from ncps.torch import CfC, LTCCell, LTC  ->  from upstream_shim import CfC, LTCCell, LTC
    import ncps                               ->  import mlx_ncps as ncps

The shim stands for torch's tensors: `randn` and `zeros` make a `Tensor`, which holds an `mx.array`
and knows `size()`, and the three classes are ours, called with the arrays that tensors hold and
giving tensors of what they return. It adds no arithmetic. It is needed because the tests ask
`output.size() == (5, 3, 32)`, and `size` of an `mx.array` is a number. PyTorch is not needed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TEST = "ncps/tests/test_torch.py"
IMPORTS = {
    r"^import torch$": "import upstream_shim as torch",
    r"^from ncps\.torch import (.*)$": r"from upstream_shim import \1",
    r"^import ncps$": "import mlx_ncps as ncps",
}
SHIM = '''"""torch.randn and torch.zeros on MLX, and our layers on the tensors that they make."""

import mlx.core as mx
import mlx_ncps


class Tensor:
    def __init__(self, array):
        self.array = array

    def size(self):
        return self.array.shape


def randn(*shape):
    return Tensor(mx.random.normal(shape))


def zeros(*shape):
    return Tensor(mx.zeros(shape))


def wrap(value):
    if isinstance(value, tuple):
        return tuple(map(wrap, value))
    assert isinstance(value, mx.array) and mx.all(mx.isfinite(value)).item()
    return Tensor(value)


def on_tensors(layer):
    class OnTensors(layer):
        def __call__(self, *tensors):
            return wrap(super().__call__(*(tensor.array for tensor in tensors)))

    return OnTensors


CfC, LTC, LTCCell = map(on_tensors, (mlx_ncps.CfC, mlx_ncps.LTC, mlx_ncps.LTCCell))
'''


def read_tests(source: Path) -> str:
    """The text of the tests, from a folder, a git repository, an sdist or the file itself."""
    if source.is_file() and tarfile.is_tarfile(source):
        with tarfile.open(source) as archive:
            names = [name for name in archive.getnames() if name.endswith(TEST)]
            return archive.extractfile(names[0]).read().decode()
    if source.is_file():
        return source.read_text(encoding="utf-8")
    if (source / TEST).exists():
        return (source / TEST).read_text(encoding="utf-8")
    show = ["git", "-C", str(source), "show", f"HEAD:{TEST}"]
    return subprocess.run(show, check=True, capture_output=True, text=True).stdout


def changed_imports(text: str) -> str:
    """The tests with their imports changed, and nothing else. Prints what changed."""
    lines = []
    for line in text.splitlines():
        new = line
        for pattern, replacement in IMPORTS.items():
            new = re.sub(pattern, replacement, new)
        if new != line:
            print(f"- {line}\n+ {new}")
        lines.append(new)
    if sum(new != line for new, line in zip(lines, text.splitlines(), strict=True)) != len(IMPORTS):
        raise SystemExit(f"{len(IMPORTS)} imports must change, got others: not the tests of ncps?")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs the tests and returns pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="checkout, bare repository, sdist or the file")
    text = changed_imports(read_tests(parser.parse_args().source))
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "upstream_shim.py").write_text(SHIM, encoding="utf-8")
        (Path(folder) / "test_torch.py").write_text(text, encoding="utf-8")
        command = ["-m", "pytest", "-v", "-p", "no:cacheprovider", "-W", "error", "test_torch.py"]
        return subprocess.run([sys.executable, *command], cwd=folder, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
