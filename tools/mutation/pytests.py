"""Judges a mutant by pytest: the CPU kernels in an extension built from the mutated tree, the Metal
kernels by the simulator.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path

from .native import must
from .select import Mutant
from .tree import Run, Tree, run

EXTENSION_TESTS = ("tests/test_cpu_backend.py",)
METAL_TESTS = "test_metal_*.py"


class Pytest:
    """pytest -x on some test files of a tree."""

    name = "pytest"

    def __init__(self, tree: Tree, *, tests: list[str], limit: float = 900.0, **environ):
        self.tree, self.tests, self.limit = tree, tests, limit
        cache = str(tree.folder / "build/simulator")  # mutants do not fill the user's own
        paths = {"PYTHONPATH": str(tree.folder / "python"), "MSLSIM_CACHE": cache}
        self.environ = paths | environ
        self.ready = False

    def prepare(self) -> None:
        """See the tests pass on the unchanged tree. Raises RuntimeError."""
        if not self.ready:
            result = must(self.run_tests())
            self.limit = max(60.0, 5 * result.seconds)
            self.ready = True

    def run_tests(self) -> Run:
        """The tests, stopping at the first failure."""
        command = [sys.executable, "-m", "pytest", "-xq", "--tb=line", "-pno:cacheprovider"]
        command += shlex.split(" ".join(self.tests))
        return run(command, limit=self.limit, cwd=self.tree.folder, **self.environ)

    def judge(self, mutant: Mutant) -> tuple[str, str]:
        """("killed", by what) or ("survived", "")."""
        self.prepare()
        with self.tree.mutated(mutant):
            return _verdict(self.run_tests())


class Extension(Pytest):
    """Builds mlx_ncps._ext, with every instruction set, in the mutated tree first."""

    name = "extension"

    def __init__(self, tree: Tree, *, tests=EXTENSION_TESTS):
        super().__init__(tree, tests=list(tests), MLX_NCPS_REQUIRE_NATIVE="1")
        self.build_folder = tree.folder / "build" / "extension"

    def prepare(self) -> None:
        """Configure, build and test the unchanged tree. Raises RuntimeError."""
        if self.ready:
            return
        ninja = shutil.which("ninja", path=str(Path(sys.executable).parent)) or "ninja"
        configure = ["cmake", "-S", ".", "-B", str(self.build_folder), "-G", "Ninja"]
        configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
        must(run(configure, limit=300, cwd=self.tree.folder))
        must(self._build())
        super().prepare()

    def judge(self, mutant: Mutant) -> tuple[str, str]:
        """("killed", by what) or ("survived", "")."""
        self.prepare()
        with self.tree.mutated(mutant):
            built = self._build()
            verdict = _verdict(self.run_tests()) if built.code == 0 else ("killed", "build")
        return verdict

    def _build(self) -> Run:
        # One job: mutation is background work.
        build = ["cmake", "--build", str(self.build_folder), "--parallel", "1"]
        result = run(build, limit=1200, cwd=self.tree.folder)
        if result.code == 0:
            for built in self.build_folder.glob("_[eb]*[oy]"):  # _ext.*.so, _build_info.py
                shutil.copy2(built, self.tree.folder / "python/mlx_ncps")
        return result


class Metal(Pytest):
    """The tests of the Metal kernels, each body compiled and checked by the simulator."""

    name = "metal"

    def __init__(self, tree: Tree, tests: list[str] | None = None):
        found = sorted((tree.folder / "tests").glob(METAL_TESTS))
        default = [str(path.relative_to(tree.folder)) for path in found]
        super().__init__(tree, tests=tests or default, MSLSIM_REQUIRE="1")

    @property
    def available(self) -> bool:
        """Whether the tree has such tests."""
        return bool(self.tests)


def _verdict(result: Run) -> tuple[str, str]:
    if result.code == 0:
        return "survived", ""
    if result.code is None:
        return "killed", "timeout"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", result.output, re.MULTILINE)
    return "killed", failed.group(1) if failed else f"crash ({result.code})"
