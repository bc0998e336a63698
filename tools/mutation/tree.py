"""A copy of the project in which mutants live, and bounded runs of commands in it."""

import io
import os
import resource
import signal
import subprocess
import tarfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from .mutants import Mutant

MEMORY = 24 * 2**30  # bytes of address space of one command
NICE = 10


class Run(NamedTuple):
    """How a command ended. code None: it was stopped after `limit` seconds."""

    code: int | None
    output: str
    seconds: float


def run(command: list[str], *, limit: float, cwd: Path, bounded: bool = True, **environ) -> Run:
    """Run a command at low priority to its end or its limit; no process of it outlives the call.

    bounded: limit its address space (off under AddressSanitizer, which reserves terabytes).
    """

    def prepare():
        os.nice(NICE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if bounded:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    start = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=prepare,
    )
    try:
        output = process.communicate(timeout=limit)[0]
        code = process.returncode
    except subprocess.TimeoutExpired:
        code = None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if code is None:
        output = process.communicate()[0]
    return Run(code, output, time.monotonic() - start)


class Tree:
    """The files of a repository's last commit, in a folder of their own."""

    def __init__(self, repository: Path, folder: Path):
        self.folder = folder
        archive = ["git", "archive", "--format=tar", "HEAD"]
        files = subprocess.run(archive, cwd=repository, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(files)) as tar:
            tar.extractall(folder, filter="data")

    def text(self, path: str) -> str:
        """The text of a file."""
        return (self.folder / path).read_text(encoding="utf-8")

    @contextmanager
    def mutated(self, mutant: Mutant):
        """The tree with the mutant in it; whole again afterwards."""
        original = self.text(mutant.path)
        (self.folder / mutant.path).write_text(mutant.edit.apply(original), encoding="utf-8")
        try:
            yield
        finally:
            (self.folder / mutant.path).write_text(original, encoding="utf-8")
