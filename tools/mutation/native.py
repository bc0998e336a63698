"""Judges a mutant of the CPU kernels by the C++ tests: compiles the one kernels_<isa>.cpp that has
the mutated text, links it with objects built once, and runs the tests of kernels in tests/native.

Without optimisation, which takes a fraction of a second; SameCode compares optimised code.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from .mutants import Mutant
from .tokens import conditional
from .tree import Run, Tree, run

ISA_FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mprefer-vector-width=256"],
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
        "-mprefer-vector-width=512",
    ],
}
COMMON = ["-std=c++20", "-fPIC", "-I.", "-DMLX_NCPS_X86=1"]
KERNELS = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SUPPORT = (*("csrc/cpu/interrupt.cpp", "csrc/cpu/thread_count.cpp", "csrc/cpu/thread_pool.cpp"),)
OTHER_TESTS = ("perf_guard.cpp", "test_thread_pool.cpp")  # have a main of their own, run no kernel

# In lines that do something else where vectors are wide, and so are judged there, too.
OF_WIDE_VECTORS = ("GATES_AHEAD", "W >= ", "upper", ".rows = memory.take(")
FILLED = {"MALLOC_PERTURB_": "128"}  # glibc fills new memory with 3.4e38

# How the name of a text begins -> what the names of all tests that run it contain, so that the
# others need not run; any other text is run by all.
TESTS_OF = {
    "cfc": "cfc_kernels",
    "ltc": "ltc_kernels",
    "lstm": "c_kernels",  # cfc_kernels, ltc_kernels
    "resets": "c_kernels",
    "dropout": "drop",
    "program": "programs",
}


class Kernels:
    """Compiles the kernels of one tree for one instruction set, with the flags of a stage."""

    flags: tuple[str, ...] = ()

    def __init__(self, tree: Tree, compiler: str):
        self.tree, self.compiler = tree, compiler
        self.objects = tree.folder / "build" / type(self).__name__

    def isas_of(self, mutant: Mutant) -> list[str]:
        """The instruction sets that judge a mutant; none when this machine builds its text for
        none.
        """
        if any(word in mutant.before for word in OF_WIDE_VECTORS):
            return sorted({"baseline", runnable()[-1]}, key=list(ISA_FLAGS).index)
        if not conditional(self.tree.text(mutant.path), mutant.edit.start):
            return ["baseline"]
        for isa in runnable():
            before = self._preprocess(isa)
            with self.tree.mutated(mutant):
                if self._preprocess(isa) != before:
                    return [isa]
        return []

    def object(self, isa: str) -> Path:
        """Where compile_kernels writes."""
        return self.objects / f"kernels_{isa}.o"

    def compile_kernels(self, isa: str) -> Run:
        """The object file of one instruction set."""
        flags = [*KERNELS, *ISA_FLAGS[isa], *self.flags]
        return self.compile(f"csrc/cpu/kernels_{isa}.cpp", self.object(isa), flags)

    def compile(self, source: str, to: Path, flags: Iterable[str]) -> Run:
        """One object file."""
        to.parent.mkdir(parents=True, exist_ok=True)
        return self.run([*COMMON, *flags, "-w", "-c", source, "-o", str(to)], 300)

    def run(self, arguments: list[str], limit: float) -> Run:
        """The compiler."""
        return run([self.compiler, *arguments], limit=limit, cwd=self.tree.folder)

    def _preprocess(self, isa: str) -> str:
        source = f"csrc/cpu/kernels_{isa}.cpp"
        return must(self.run([*COMMON, *ISA_FLAGS[isa], "-E", "-P", source], 60)).output


class Native(Kernels):
    """The native tests of one tree."""

    name = "native"
    support_flags: tuple[str, ...] = ("-O1",)

    def __init__(self, tree: Tree, compiler: str):
        super().__init__(tree, compiler)
        self.limits: dict[str, float] = {}  # of tests that the unchanged tree has passed
        self.ready = False

    def prepare(self) -> None:
        """Build everything, and keep the tests of the unchanged tree. Raises RuntimeError."""
        if self.ready:
            return
        for source in self.sources():
            must(self.compile(source, self._support(source), self.support_flags))
        # The tests run every instruction set that isa.cpp finds; `blind` finds the baseline alone.
        blind = "-D__builtin_cpu_supports(x)=0"
        for name, flags in {"baseline": (blind,), "all": ()}.items():
            isa, flags = self.objects / f"isa_{name}.o", (*self.support_flags, *flags)
            must(self.compile("csrc/cpu/isa.cpp", isa, flags))
        must(self.compile_kernels("baseline"))
        self._link("baseline").rename(self.objects / "unchanged")
        self.ready = True

    def _limit(self, tests: str) -> float:
        """Seconds that these tests may take; sees the unchanged tree pass them first."""
        if tests not in self.limits:
            result = must(self._run(self.objects / "unchanged", tests, 1800.0))
            self.limits[tests] = max(20.0, 10 * result.seconds)
        return self.limits[tests]

    def judge(self, mutant: Mutant) -> tuple[str, str]:
        """("killed", by what), ("survived", "") or ("invalid", why)."""
        self.prepare()
        verdict = "invalid", "no build on this machine has this text"
        for isa in self.isas_of(mutant):
            verdict = self._judge_with(isa, mutant)
            if verdict[0] != "survived":
                break
        return verdict

    def _judge_with(self, isa: str, mutant: Mutant) -> tuple[str, str]:
        isas = ["baseline"] if isa == "baseline" else list(ISA_FLAGS)
        for other in set(isas) - {isa}:
            if not self.object(other).exists():
                must(self.compile_kernels(other))
        with self.tree.mutated(mutant):
            compiled = self.compile_kernels(isa)
        if compiled.code != 0:
            self.object(isa).unlink(missing_ok=True)
            return "invalid", "does not compile"
        tests = tests_of(mutant.path)
        limit = self._limit(tests)
        result = self._run(self._link(isa), tests, limit)
        self.object(isa).unlink()
        return ("survived", "") if result.code == 0 else ("killed", _cause(result))

    def sources(self) -> list[str]:
        """What is built once: the C++ tests and all that they need but kernels."""
        tests = sorted(path.name for path in self.tree.folder.glob("tests/native/*.cpp"))
        return [*SUPPORT, *(f"tests/native/{name}" for name in tests if name not in OTHER_TESTS)]

    def _support(self, source: str) -> Path:
        return self.objects / f"{Path(source).stem}.o"

    def _link(self, isa: str) -> Path:
        """The program of the tests."""
        isas = ["baseline"] if isa == "baseline" else list(ISA_FLAGS)
        parts = [self._support(source) for source in self.sources()]
        parts += [self.objects / ("isa_baseline.o" if isa == "baseline" else "isa_all.o")]
        parts += [self.object(i) for i in isas]
        binary = self.objects / f"tests_{isa}"
        must(self.run([*self.flags, *map(str, parts), "-pthread", "-o", str(binary)], 120))
        return binary

    def _run(self, binary: Path, tests: str, limit: float) -> Run:
        """The tests whose names contain this, up to the first failure."""
        command = [str(binary), tests, "first"]
        bounded = not self.flags
        environ = FILLED if bounded else {}
        return run(command, limit=limit, cwd=self.tree.folder, bounded=bounded, **environ)


class Sanitized(Native):
    """The native tests with the kernels under AddressSanitizer and UBSan, as in `make sanitize`."""

    name = "sanitizers"
    flags = tuple(SANITIZE)


class Threads(Native):
    """The native tests under ThreadSanitizer, as in `make sanitize`: kernels and thread pool."""

    name = "threads"
    flags = ("-fsanitize=thread",)
    support_flags = ("-O1", "-fsanitize=thread")


class SameCode(Kernels):
    """Finds mutants that are no bugs because the optimiser makes the same machine code of them."""

    name = "compiler"
    flags = ("-O2",)

    def __init__(self, tree: Tree, compiler: str):
        super().__init__(tree, compiler)
        self.pristine: dict[str, bytes] = {}

    def judge(self, mutant: Mutant) -> tuple[str, str]:
        """("equal", which code) or ("survived", "")."""
        isas = self.isas_of(mutant)
        for isa in isas:
            if isa not in self.pristine:
                must(self.compile_kernels(isa))
                self.pristine[isa] = self.object(isa).read_bytes()
            with self.tree.mutated(mutant):
                must(self.compile_kernels(isa))
            if self.object(isa).read_bytes() != self.pristine[isa]:
                return "survived", ""
        return "equal", f"same machine code ({', '.join(isas)})"


def must(result: Run) -> Run:
    """The result of a command that has to succeed. Raises RuntimeError."""
    if result.code != 0:
        raise RuntimeError(f"[mutation] the unchanged tree fails:\n{result.output[-4000:]}")
    return result


def tests_of(path: str) -> str:
    """What the names of the tests that run this text contain."""
    stem = Path(path).stem
    return next((tests for start, tests in TESTS_OF.items() if stem.startswith(start)), "")


def runnable() -> list[str]:
    """The instruction sets that this machine runs, the plainest first."""
    flags = set()
    if sys.platform == "linux":
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text(encoding="utf-8")))
    needs = {"baseline": set(), "avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512dq"}}
    return [isa for isa, need in needs.items() if need <= flags]


def _cause(result: Run) -> str:
    """What killed the mutant, in a few words."""
    if result.code is None:
        return "timeout"
    error = re.search(
        r"(AddressSanitizer: [\w-]+|ThreadSanitizer: [\w ]+|runtime error: [^\n]{0,60})",
        result.output,
    )
    if error:
        return error.group(1)
    failed = re.search(r"^FAILED +(\w+)", result.output, re.MULTILINE)
    return failed.group(1) if failed else f"crash ({result.code})"
