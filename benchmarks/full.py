"""The command `python -m benchmarks full`: every other command, one after the other, and the pages.

A part that fails does not stop those after it. What is done is noted beside the results, so that
--resume goes on after an interruption.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

from . import ROOT
from .store import unfinished

PARTS = {  # name of the file of results: the command
    "cpu": ("table", "--full"),
    "scaling": ("scaling",),
    "memory": ("memory",),
    "features": ("features",),
    "streaming": ("streaming",),
    "training": ("training",),
}
DRAWN = ("scaling", "memory")


def run(options) -> int:
    """Run all parts. The worst code of a part; 130 when interrupted."""
    if options.json or options.out or options.only or options.columns:
        raise ValueError(
            "[benchmarks] full has no --json, --out, --only and --column: it runs everything; "
            "--results names the folder."
        )
    given = [word for word in shlex.split(options.typed) if word not in ("full", "--resume")]
    progress = Progress(options.results, options.resume)
    codes = [0]
    for name, command in PARTS.items():
        if name in progress.done:
            continue
        path = options.results / f"{name}.json"
        more = ["--resume"] if progress.begin(name, path) else []
        if name in DRAWN:
            more += ["--out", str(options.results.parent / "figures")]
        codes.append(start([*command, "--json", str(path), *given, *more]))
        if codes[-1] == 130:
            return 130
        progress.end(name)
    page = str(options.results.parent / "results.md")
    codes.append(start(["page", "--results", str(options.results), "--out", page]))
    progress.clear()
    return max(codes)


def start(arguments: list[str]) -> int:
    """The code of a command in a process of its own, which ends when this one is interrupted."""
    print(f"\n$ python -m benchmarks {shlex.join(arguments)}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        return 130


class Progress:
    """Which parts of a run are done, in a file until it has ended.

    resume: that of the run before, if it was interrupted.
    """

    def __init__(self, results: Path, resume: bool) -> None:
        self._path = results / "full.new.json"
        self._state = {"done": [], "begun": "", "was_there": False}
        if resume and self._path.exists():
            self._state = json.loads(self._path.read_text(encoding="utf-8"))

    @property
    def done(self) -> list[str]:
        """The names of the parts that have ended."""
        return self._state["done"]

    def begin(self, name: str, path: Path) -> bool:
        """Note that a part begins; whether it goes on with its own earlier results."""
        if self._state["begun"] == name:
            return unfinished(path).exists() or not self._state["was_there"]
        self._state |= {"begun": name, "was_there": path.exists()}
        self._write()
        return False

    def end(self, name: str) -> None:
        """Note that a part has ended."""
        self.done.append(name)
        self._write()

    def clear(self) -> None:
        """Forget the run, which has ended."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._state) + "\n", encoding="utf-8")
