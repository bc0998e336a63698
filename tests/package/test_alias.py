"""`import mlx_ncps.alias` makes `ncps.mlx` this package: with ncps, without it, in any order."""

import pytest

WITHOUT = """
import sys
class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] == "ncps" else finder.find_spec(name, path, target)
finder = next(f for f in sys.meta_path if getattr(f, "__name__", "") == "PathFinder")
sys.meta_path[sys.meta_path.index(finder)] = Hidden
"""
NAMES = """
import importlib, sys
import mlx_ncps, mlx_ncps.alias
finders = len(sys.meta_path)
importlib.reload(mlx_ncps.alias)
assert len(sys.meta_path) == finders, sys.meta_path
from ncps.mlx import CfC, CfCCell, LTC, LTCCell, LiquidCell, NCPDense, WiredCfCCell
from ncps.mlx.wirings import AutoNCP
from ncps.mlx import ops, wirings
import ncps.mlx.ops.numpy as truth
import ncps.mlx.rnn.cfc
assert ncps.mlx is mlx_ncps and CfC is mlx_ncps.CfC and truth is mlx_ncps.ops.numpy
assert AutoNCP is mlx_ncps.wirings.AutoNCP and wirings is mlx_ncps.wirings
assert sys.modules["ncps.mlx.rnn.cfc"] is sys.modules["mlx_ncps.rnn.cfc"]
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] == "mlx_ncps":
        assert module.__name__ == name and module.__spec__.name == name, name
try:
    import ncps.mlx.nothing
except ModuleNotFoundError as error:
    assert error.name == "ncps.mlx.nothing", error
else:
    raise SystemExit("ncps.mlx.nothing exists")
import ncps.wirings
"""
REAL = """
assert ncps.wirings is not mlx_ncps.wirings and "site-packages" in ncps.wirings.__file__
assert ncps.__file__ == before, ncps
"""
MADE = """
assert ncps.wirings is mlx_ncps.wirings and not hasattr(ncps, "__file__")
try:
    import ncps.torch
except ModuleNotFoundError as error:
    assert error.name == "ncps.torch", error
else:
    raise SystemExit("ncps.torch exists")
"""


def succeeds(run_python, code):
    done = run_python("-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr


def test_alias_without_ncps(run_python):
    succeeds(run_python, WITHOUT + NAMES + MADE)


@pytest.mark.parametrize("order", ["before", "after", "never"])
def test_alias_with_ncps(run_python, order):
    pytest.importorskip("ncps")
    spec = "import importlib.util\nbefore = importlib.util.find_spec('ncps').origin\n"
    first = "import ncps, ncps.wirings\n" if order == "before" else ""
    last = "import ncps.wirings\n" if order == "after" else ""
    succeeds(run_python, spec + first + "import mlx_ncps.alias\n" + last + NAMES + REAL)


def test_alias_alone_imports_nothing_of_ncps(run_python):
    code = "import sys, mlx_ncps.alias\nassert not any(n.startswith('ncps') for n in sys.modules)"
    succeeds(run_python, code)


def test_another_ncps_mlx_is_not_replaced(run_python):
    code = "import sys, types\nsys.modules['ncps.mlx'] = types.ModuleType('ncps.mlx')\n"
    done = run_python("-c", code + "import mlx_ncps.alias")
    assert done.returncode == 1
    assert "ImportError: [alias] ncps.mlx must not be imported before" in done.stderr


def test_pickled_objects_name_the_real_package(run_python):
    code = (
        "import mlx_ncps.alias, pickle\nfrom ncps.mlx import CfC\n"
        "assert b'mlx_ncps.rnn.cfc' in pickle.dumps(CfC(2, 3))\n"
    )
    succeeds(run_python, code)
