"""`python -m tools.mutation`: breaks the kernels, runs the tests, and reports who noticed."""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import report
from .explained import EXPLAINED
from .mutants import SHARED_FILES, Mutant, kernel_files, order, share
from .native import Native, SameCode, Sanitized, Threads
from .pytests import Extension, Metal, Pytest
from .tree import Tree

ROOT = Path(__file__).resolve().parents[2]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=__doc__)
    parser.add_argument("--kernels", choices=("cpu", "metal", "all"), default="all")
    parser.add_argument("--files", nargs="*", help="only files whose path contains one of these")
    for group, density in (("cpu", 20.0), ("metal", 20.0)):
        text = f"mutants that count per 100 lines of {group} kernels ({density:g})"
        parser.add_argument(f"--{group}-density", type=float, default=density, help=text)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="print the first mutants, run nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "build/mutation/result.json")
    parser.add_argument(
        "--resume", action="store_true", help="keep what --out knows of the same texts"
    )
    parser.add_argument(
        "--again", action="store_true", help="with --resume: run survivors once more"
    )
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--compiler", default="c++")
    parser.add_argument("--quick", action="store_true", help="the first judges alone: see the page")
    return parser.parse_args()


def densities(options: argparse.Namespace) -> dict[str, float]:
    """Mutants per 100 lines of each group of kernels."""
    return {"cpu": options.cpu_density, "metal": options.metal_density}


class Judges:
    """The stages that a mutant passes until one kills it, each made when it is first needed."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        cpu, metal = Tree(ROOT, folder / "cpu"), Tree(ROOT, folder / "metal")
        native = [stage(cpu, options.compiler) for stage in (Native, Sanitized, Threads, SameCode)]
        self.cpu = [native[0], native[-1]] if options.quick else [*native, Extension(cpu)]
        built = ROOT / "python/mlx_ncps"
        judge = Metal(metal, options.out.parent.resolve() / "simulator", built, options.quick)
        self.metal = [judge] if judge.available else []
        self.tree = cpu

    @staticmethod
    def group(path: str) -> str:
        """What only the GPU runs is "metal", the rest "cpu"."""
        return "cpu" if path.startswith("csrc/") or path in SHARED_FILES else "metal"

    def stages(self, path: str) -> list:
        """Who judges mutants of this file."""
        if path.startswith("csrc/"):
            return self.cpu
        if self.group(path) == "metal":
            return self.metal
        return [*self.cpu, *self.metal]

    def judge(self, mutant: Mutant) -> report.Result:
        """Run the stages until one kills the mutant."""
        start = time.monotonic()
        explained = (mutant.path, mutant.before, mutant.after) in EXPLAINED
        stage, verdict, cause = None, "survived", ""
        for stage in self.stages(mutant.path):
            if explained and isinstance(stage, Pytest):
                break  # each takes minutes, and a person has judged these lines
            verdict, cause = stage.judge(mutant)
            if verdict != "survived":
                break
        name = stage.name if verdict == "killed" else ""
        return report.result(mutant, verdict, name, cause, time.monotonic() - start)


def run(options: argparse.Namespace, judges: Judges, known: dict[str, report.Result]):
    """Yield results, a mutant of each file in turn, until each has its share or time is over."""
    paths = kernel_files(judges.tree.folder, options.kernels)
    if options.files:
        paths = [path for path in paths if any(part in path for part in options.files)]
    texts = {path: judges.tree.text(path) for path in paths if judges.stages(path)}
    stop = time.monotonic() + 60 * (options.minutes or 1e9)
    queues = {path: iter(order(path, text, options.seed)) for path, text in texts.items()}
    left = {path: share(texts[path], densities(options)[judges.group(path)]) for path in texts}
    while any(left.values()):
        for path in [path for path, count in left.items() if count]:
            mutant = next(queues[path], None)
            old = mutant and known.get(mutant.key)
            if old and options.again and old.verdict == "survived":
                old = None
            if not mutant or (not old and time.monotonic() > stop):
                left[path] = 0
                continue
            now = old or judges.judge(mutant)
            yield now, old is None
            left[path] -= now.verdict in ("killed", "survived")


def commit() -> str:
    """The commit whose kernels and tests run."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> int:
    """Run and report; 1 when a survivor has no explanation."""
    options = arguments()
    if options.list:
        for path in kernel_files(ROOT, options.kernels):
            for m in order(path, (ROOT / path).read_text(encoding="utf-8"), options.seed)[:10]:
                print(f"{m.path}:{m.line} {m.edit.operator}\n  - {m.before}\n  + {m.after}")
        return 0
    facts = {"commit": commit(), "seed": options.seed, "density": densities(options)}
    known = report.load(options.out) if options.resume else {}
    results, rest = [], dict(known)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # remove the copies whatever happened
    folder = Path(tempfile.mkdtemp(prefix="mlx_ncps_mutation_"))
    try:
        for result, new in run(options, Judges(folder, options), known):
            results.append(result)
            rest.pop(result.key, None)
            if new:
                report.save(options.out, facts, [*results, *rest.values()])
                where = f"{result.path}:{result.line} {result.operator}"
                why = f"{result.stage} {result.cause}".strip()
                print(f"{result.seconds:6.1f} s  {result.verdict:8} {where}  {why}", flush=True)
                if result.verdict == "survived":
                    print(f"    - {result.before}\n    + {result.after}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.save(options.out, facts, [*results, *rest.values()])
    print(report.markdown(results))
    return int(report.rate(results)[1] > 0)


if __name__ == "__main__":
    sys.exit(main())
