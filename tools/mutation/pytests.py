"""Judges a mutant by pytest: the CPU kernels in an extension built from the mutated tree, the Metal
kernels by the simulator.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import ClassVar

from .native import must
from .select import Mutant
from .tree import Run, Tree, run

EXTENSION_TESTS = ("tests/backends/test_cpu.py",)


class Pytest:
    """pytest -x on some test files of a tree."""

    name = "pytest"

    def __init__(self, tree: Tree, *, tests: list[str], limit: float = 900.0, **environ):
        self.tree, self.tests, self.limit = tree, tests, limit
        self.environ = {"PYTHONPATH": str(tree.folder / "python"), **environ}
        self.ready = False

    def prepare(self) -> None:
        """See the tests pass on the unchanged tree. Raises RuntimeError."""
        if not self.ready:
            result = must(self.run_tests())
            self.limit = max(60.0, 5 * result.seconds)
            self.ready = True

    def run_tests(self, tests: list[str] | None = None) -> Run:
        """The tests, stopping at the first failure."""
        command = [sys.executable, "-m", "pytest", "-xq", "--tb=line", "-pno:cacheprovider"]
        command += tests or self.tests
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
    # Not the tests that plant errors of their own, which look for texts that a mutant may change;
    # and one order of threads, for the simulator finds races in any.
    chosen = "not caught and not reverse and not chaos"
    # Part of a kernel's name -> one case that runs it, to begin with; "" any other kernel.
    first: ClassVar = {
        "ltc_lists": "synapse_lists and B5T2",
        "ltc_streamed": "edges and B33T2 and forward",
        "ltc": "edges and H63 and forward",
        "": "edges and B3T2 and H63",
    }

    def __init__(self, tree: Tree, cache: Path):
        super().__init__(tree, tests=[], MSLSIM_REQUIRE="1", MSLSIM_CACHE=str(cache))
        self.seen: dict[tuple, float] = {}

    @property
    def available(self) -> bool:
        """Whether the tree has such tests."""
        return (self.tree.folder / "tests/support/simulated_metal.py").is_file()

    def selections(self, path: str) -> list[list[str]]:
        """Arguments of pytest: one case that runs the kernel, then all tests of its family."""
        stem = Path(path).stem
        families = [family for family in ("ltc", "cfc") if stem.startswith(family)]
        files = [f"tests/gpu/test_{family}.py" for family in families or ("ltc", "cfc")]
        first = next(tests for part, tests in self.first.items() if part in stem)
        return [[*files, "-k", f"({first}) and {self.chosen}"], [*files, "-k", self.chosen]]

    def judge(self, mutant: Mutant) -> tuple[str, str]:
        """("killed", by what), ("survived", "") or ("invalid", why)."""
        for tests in self.selections(mutant.path):
            if tuple(tests) not in self.seen:
                self.limit = 1800.0
                self.seen[tuple(tests)] = must(self.run_tests(tests)).seconds
            self.limit = max(120.0, 5 * self.seen[tuple(tests)])
            with self.tree.mutated(mutant):
                result = self.run_tests(tests)
            if re.search(r"CompileError|LanguageError", result.output):
                return "invalid", "does not compile"
            verdict = _verdict(result)
            if verdict[0] == "killed":
                return verdict
        return "survived", ""


def _verdict(result: Run) -> tuple[str, str]:
    if result.code == 0:
        return "survived", ""
    if result.code is None:
        return "killed", "timeout"
    failed = re.search(
        r"^(?:FAILED|ERROR) \S+::(\S+)(?: - (.{0,60}))?", result.output, re.MULTILINE
    )
    return "killed", " ".join(filter(None, failed.groups())) if failed else f"crash ({result.code})"
