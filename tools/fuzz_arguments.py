"""Hostile arguments for every public callable of mlx_ncps: each must be accepted, or rejected by a
ValueError or TypeError that says `[op]`, what was wanted and what it got.

    python -m tools.fuzz_arguments --cases 6000 --seed 0
    python -m tools.fuzz_arguments --seed 0 --replay 123

Cases run in processes of their own, so that a crash or a hang is seen. Ends with status 1 when 1 %
of the rejections or more are unclear, when anything crashed or hung, when lazy arrays are refused
where evaluated ones are not, and when a public name has no arguments here.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from pathlib import Path

HANG = 120  # seconds for one case, which takes milliseconds
MEMORY = 8 * 2**30  # bytes of address space: a size of 10**12 must not take the machine along
MOST_UNCLEAR = 0.01
CHUNK = 500  # cases of a process


def main() -> int:
    """Run the fuzz, print its table; the status to exit with."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=3, help="of each kind of failure")
    parser.add_argument("--only", default="", help="names that hold this, as `CfC.step`")
    parser.add_argument("--accepted", action="store_true", help="list what was accepted")
    parser.add_argument("--replay", type=int, metavar="NUMBER", help="one case, with its traceback")
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.only, options.seed, *options.work)
    if options.replay is not None:
        return replay(options.only, options.seed, options.replay)
    if missing := names_without_arguments(options.only):
        print("\n".join(missing))
        return 1
    outcomes = list(run_cases(options.only, options.seed, options.cases))
    if options.accepted:
        for number, kind, name, changed, *_ in outcomes:
            if kind == "accepted":
                print(f"--replay {number}: {name}({changed})")
    return report(outcomes, options.seed, options.examples)


def names_without_arguments(only: str) -> list[str]:
    """Public names that the catalogue doesn't know, and those whose valid arguments are refused."""
    from tools.argument_fuzz.names import public_names
    from tools.argument_fuzz.run import check_valid

    problems = []
    with tempfile.TemporaryDirectory() as folder:
        before = os.getcwd()
        os.chdir(folder)
        try:
            for name in public_names(only):
                try:
                    problems += check_valid(name)
                except KeyError:
                    problems.append(f"no arguments known for {name}")
        finally:
            os.chdir(before)
    return problems


def run_cases(only: str, seed: int, cases: int):
    """(number, kind, name, changed, error, message) of each case."""
    number = 0
    while number < cases:
        with tempfile.TemporaryDirectory() as folder:
            last = min(number + CHUNK, cases)
            for outcome in _one_process(only, seed, number, last, folder):
                yield outcome
                number = outcome[0] + 1


def _one_process(only: str, seed: int, first: int, last: int, folder: str):
    """The outcomes of the cases of one process, until it dies or hangs."""
    command = [sys.executable, "-m", "tools.fuzz_arguments", "--seed", str(seed)]
    command += ["--only", only, "--work", str(first), str(last)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environ |= {"MPLBACKEND": "agg"}
    errors = Path(folder, "stderr.txt")
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=folder, env=environ
        ) as process,
    ):
        lines = queue.Queue()
        reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        reader.start()
        running, died = first, ""
        while True:
            try:
                line = lines.get(timeout=HANG)
            except queue.Empty:
                process.kill()
                name, changed = died or ("the worker", "")
                yield running, "hung", name, changed, "", f"for {HANG} s"
                return
            if line is None:
                break
            event, running, *outcome = json.loads(line)
            if event == "begin":
                died = outcome
            else:
                yield running, *outcome
                died = ""
                running += 1
        if process.wait() or running < last:
            stderr.flush()
            text = errors.read_text(errors="replace").strip().splitlines()
            name, changed = died or ("the worker", "")
            yield (
                running,
                "crashed",
                name,
                changed,
                f"status {process.returncode}",
                " ".join(text[-3:]),
            )


def _read(stream, lines) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def work(only: str, seed: int, first: int, last: int) -> int:
    """The cases of one process, a line of JSON before and after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from tools.argument_fuzz import run

    for number in range(first, last):
        run.report_cases(only, seed, number, lambda line: print(json.dumps(line), flush=True))
    return 0


def replay(only: str, seed: int, number: int) -> int:
    """One case in this process, with the traceback of its error."""
    from tools.argument_fuzz import run

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run.replay(only, seed, number)
        os.chdir("/")
    return 0


def report(outcomes: list, seed: int, examples: int) -> int:
    """Print the table and the first examples; the status to exit with."""
    kinds = Counter(kind for _, kind, *_ in outcomes)
    rejected = sum(n for kind, n in kinds.items() if kind.startswith("rejected"))
    unclear = kinds["rejected unclearly"]
    print(f"{len(outcomes)} cases, seed {seed}")
    for kind, count in kinds.most_common():
        print(f"  {count:6d}  {kind}")
    failures = defaultdict(list)
    for number, kind, name, changed, error, message in outcomes:
        if kind not in ("accepted", "rejected clearly", "rejected by the signature"):
            failures[kind, error].append((number, name, changed, message))
    for (kind, error), found in sorted(failures.items(), key=lambda item: -len(item[1])):
        print(f"\n{kind}: {error or '-'} ({len(found)})")
        for number, name, changed, message in found[:examples]:
            print(f"  --replay {number}: {name}({changed})\n      {message}")
    share = unclear / max(rejected, 1)
    print(f"\n{unclear} of {rejected} rejections are unclear: {100 * share:.2f} %")
    others = sum(
        len(found) for (kind, _), found in failures.items() if kind != "rejected unclearly"
    )
    return int(share >= MOST_UNCLEAR or others > 0)


if __name__ == "__main__":
    sys.exit(main())
