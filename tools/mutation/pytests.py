"""Judges a mutant by pytest: the CPU kernels in an extension built from the mutated tree, the Metal
kernels by the simulator.
"""

import re
import shutil
import sys
from pathlib import Path

from .metal_tests import selections
from .mutants import Mutant
from .native import must
from .tokens import of_cuda_alone
from .tree import Run, Tree, run

EXTENSION_TESTS = (
    "tests/backends/test_cpu.py",
    "tests/programs/test_native.py",
    "tests/programs/test_primitives.py",
    *(f"tests/ops/test_{name}.py" for name in ("dropout", "resets", "mixed_memory")),
)


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
            copy_extension(self.build_folder, self.tree)
        return result


class Metal(Pytest):
    """The tests of the Metal kernels, each body compiled and checked by the simulator.

    built: the folder of the extension as it was built in place, which some of them need.  quick:
    without the families of tests, which take minutes.
    """

    name = "metal"

    def __init__(self, tree: Tree, cache: Path, built: Path, quick: bool = False):
        super().__init__(tree, tests=[], MSLSIM_REQUIRE="1", MSLSIM_CACHE=str(cache))
        self.seen: dict[tuple, float] = {}
        self.quick = quick
        if self.available:
            copy_extension(built, tree)

    @property
    def available(self) -> bool:
        """Whether the tree has such tests."""
        return (self.tree.folder / "tests/support/simulated_metal.py").is_file()

    def judge(self, mutant: Mutant) -> tuple[str, str]:
        """("killed", by what), ("survived", "") or ("invalid", why)."""
        if of_cuda_alone(self.tree.text(mutant.path), mutant.edit.start):
            return "invalid", "no build on this machine has this text"
        *first, family = selections(mutant.path)
        for tests in first if self.quick else [*first, family]:
            limit = max(60.0, 5 * self._seconds(tuple(tests)))
            with self.tree.mutated(mutant):
                self.limit = limit
                result = self.run_tests(tests)
            if re.search(r"CompileError|LanguageError", result.output):
                return "invalid", "does not compile"
            verdict = _verdict(result)
            if verdict[0] == "killed":
                return verdict
        return "survived", ""

    def _seconds(self, tests: tuple[str, ...]) -> float:
        """How long the unchanged tree takes to pass these tests. Raises RuntimeError."""
        if tests not in self.seen:
            self.limit = 3600.0
            result = must(self.run_tests([*tests]))
            if not re.search(r"\d passed", result.output) or "skipped" in result.output:
                raise RuntimeError(f"[mutation] {tests} are skipped:\n{result.output[-2000:]}")
            self.seen[tests] = result.seconds
        return self.seen[tests]


def copy_extension(built: Path, tree: Tree) -> None:
    """Put an extension beside the Python sources of a tree: _ext.*.so, _build_info.py."""
    for file in built.glob("_[eb]*[oy]"):
        shutil.copy2(file, tree.folder / "python/mlx_ncps")


def _verdict(result: Run) -> tuple[str, str]:
    if result.code == 0:
        return "survived", ""
    if result.code is None:
        return "killed", "timeout"
    failed = re.search(
        r"^(?:FAILED|ERROR) \S+::(\S+)(?: - (.{0,60}))?", result.output, re.MULTILINE
    )
    return "killed", " ".join(filter(None, failed.groups())) if failed else f"crash ({result.code})"
