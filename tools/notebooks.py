"""Runs the notebooks of docs/notebooks and keeps their outputs, small: `make notebooks`.

    python -m tools.notebooks [NAME ...]

Needs nbclient and ipykernel. What changes from run to run without meaning anything (times, versions
of the kernel) is left out of the files.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "docs/notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(path: Path) -> None:
    """Executes one notebook in place. Raises CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:  # for the files that a notebook writes
        place = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    notebook.metadata = METADATA
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
    nbformat.write(notebook, path)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


def main(names: list[str]) -> None:
    """Runs the named notebooks, or all."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            run(path)


if __name__ == "__main__":
    main(sys.argv[1:])
