"""Hostile weight files and configurations: seeded corruptions of real ones, each read in a worker
process with little memory and little time. A file may load, or be refused with ValueError; all else
is a fault: another error, a crash, a hang, much memory, or a layer that a refused file changed.

    python -m tools.fuzz_files --cases 1000 --seed 0
    python -m tools.fuzz_files --seed 0 --case 137      # one case again, with its traceback

`.h5` and `.keras` need h5py. `.pt` files are made here; without PyTorch they are checked up to the
point where PyTorch would read them. The exit status is 1 when there was a fault.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from tools import hostile_files as hostile

MEMORY = 4 * 2**30  # bytes of address space, over what a worker has after its imports
SECONDS = 20  # for one case
GROWTH = 512 * 2**20  # bytes of memory that one case may add


def run_case(seed: int, case: int, folder: Path, show=False) -> str:
    """What one case did: "loaded", "refused", or "fault: ..."."""
    kind, path, reader = hostile.make(seed, case, folder)
    before = hostile.parameters(reader.layer)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(SECONDS)
    try:
        reader.read(path)
        outcome = "loaded"
    except ValueError as error:
        clear = str(error).startswith("[")
        outcome = "refused" if clear else f"fault: {kind}: unclear ValueError: {error!s:.200}"
    except BaseException as error:
        is_torch = isinstance(error, ImportError) and "needs PyTorch" in str(error)
        outcome = "loaded" if is_torch else f"fault: {kind}: {type(error).__name__}: {error!s:.200}"
        if show:
            traceback.print_exc()
    finally:
        signal.alarm(0)
    if outcome != "loaded" and not hostile.same(before, hostile.parameters(reader.layer)):
        outcome = f"fault: {kind}: refused, but the layer changed"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) * _MAXRSS_UNIT
    if grown > GROWTH:
        outcome = f"fault: {kind}: {grown >> 20} MB of memory"
    return outcome


_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def _stop(*_):
    raise TimeoutError(f"{SECONDS} seconds")


def _work(seed: int, cases: list[int], folder: str, results) -> None:
    if sys.platform != "darwin":  # macOS has no such limit
        now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    for case in cases:
        results.send((case, None))
        results.send((case, run_case(seed, case, Path(folder))))
    results.close()


def run(seed: int, cases: int) -> dict[int, str]:
    """The outcome of every case; a worker that dies or hangs is replaced by one for the rest."""
    context = multiprocessing.get_context("spawn")
    outcomes: dict[int, str] = {}
    left = list(range(cases))
    with tempfile.TemporaryDirectory() as folder:
        while left:
            ours, theirs = context.Pipe(duplex=False)
            worker = context.Process(target=_work, args=(seed, left, folder, theirs))
            worker.start()
            theirs.close()
            begun = None
            try:
                while ours.poll(60 if begun is None else 3 * SECONDS):
                    case, outcome = ours.recv()
                    begun = case
                    if outcome is not None:
                        outcomes[case] = outcome
            except EOFError:
                pass
            worker.kill() if worker.is_alive() and len(outcomes) < cases else None
            worker.join()
            if begun is None:
                raise RuntimeError(f"a worker ended before its first case ({worker.exitcode})")
            if begun not in outcomes:
                outcomes[begun] = f"fault: the process ended with {worker.exitcode}"
            left = [case for case in left if case not in outcomes]
    return outcomes


def main() -> int:
    """Run the cases, print the faults, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of all cases (0)")
    parser.add_argument("--case", type=int, help="this case alone, in this process")
    options = parser.parse_args()
    if options.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(run_case(options.seed, options.case, Path(folder), show=True))
        return 0
    outcomes = run(options.seed, options.cases)
    faults = {case: what for case, what in outcomes.items() if what.startswith("fault")}
    for case, what in sorted(faults.items()):
        print(f"--seed {options.seed} --case {case}: {what}")
    loaded = sum(what == "loaded" for what in outcomes.values())
    print(
        f"{len(outcomes)} cases of seed {options.seed}: {loaded} loaded, "
        f"{len(outcomes) - loaded - len(faults)} refused, {len(faults)} faults"
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
