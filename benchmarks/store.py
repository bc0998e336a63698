"""A JSON file of results that is written after every cell, so that an interrupted run keeps what it
has.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

SAME = ("machine", "versions", "threads", "backend", "repeats")  # of a resumed run


class Store:
    """{"command", "header", "rows": {name: {"row": facts, "cells": {key: result}}}} in a file.

    path: None keeps nothing on disk. What a file holds stays until a new run has ended: till then
    the new results are beside it (`unfinished`).
    resume: start from what the unfinished file holds, else from the file; ValueError when it was
    measured under another header or the file is no such one.
    """

    def __init__(self, path: Path | None, command: str, header: dict, resume: bool = False):
        self.path = path
        self.interrupted = False
        self.document = {"command": command, "header": header, "rows": {}}
        self._file = path  # what is written
        if path and (unfinished(path) if resume else path).exists():
            self._file = unfinished(path)
        if resume and self._file and self._file.exists():
            self.document = read(self._file)
            self._check(header)
            if command not in self.document["command"].split("; "):
                self.document["command"] += f"; {command}"
        self.write()

    @property
    def rows(self) -> dict:
        """The rows so far, by name."""
        return self.document["rows"]

    @contextmanager
    def measuring(self):
        """Within it KeyboardInterrupt ends the measuring, not the command, which sees it in
        `interrupted` and goes on with what there is. At its end new results replace the old.
        """
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True
            self.write()
            print("\ninterrupted: what is measured so far", file=sys.stderr)
            if self._file != self.path and self._file.exists():
                print(f"it is in {self._file}; --resume goes on with it", file=sys.stderr)
        else:
            self._finish()

    def row(self, name: str, facts: dict) -> dict:
        """The cells of a row, which is added with its facts when it is new."""
        return self.rows.setdefault(name, {"row": facts, "cells": {}})["cells"]

    def add(self, name: str, key: str, result: dict) -> None:
        """One cell, which is on the disk when this returns."""
        self.rows[name]["cells"][key] = _rounded(result)
        self.write()

    def write(self) -> None:
        """Replace the file as a whole, so that no reader sees half of it; never by nothing."""
        if self._file is None or not any(row["cells"] for row in self.rows.values()):
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, self._file)

    def _finish(self) -> None:
        """Put the results of a run that has ended in the place of those before."""
        if self._file != self.path and self._file.exists():
            os.replace(self._file, self.path)
        self._file = self.path

    def _check(self, header: dict) -> None:
        theirs = self.document["header"]
        for name in SAME:
            if theirs.get(name) != header.get(name):
                raise ValueError(
                    f"[benchmarks] --resume needs the same {name}: {self.path} has "
                    f"{theirs.get(name)!r}, this run {header.get(name)!r}."
                )
        if header["commit"] not in theirs["commit"]:
            theirs["commit"] += f", resumed at {header['commit']}"


def unfinished(path: Path) -> Path:
    """Where a run keeps its results until it has ended, when `path` holds those of another."""
    return path.with_suffix(".new.json")


def read(path: Path) -> dict:
    """The document in the file. Raises ValueError when it is not one."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"[benchmarks] {path} is no JSON: {error}.") from None
    if not isinstance(document, dict) or not isinstance(document.get("rows"), dict):
        raise ValueError(f"[benchmarks] {path} holds no results.")
    return document


def _rounded(value):
    """The same with floats of 4 digits: further ones are noise and make the file large."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
