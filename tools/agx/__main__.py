"""`python -m tools.agx`: judges every variant."""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
from pathlib import Path

from tools.plans import compiled

from . import check, loops, report
from .judge import Root, judge
from .variants import program_variants, variants

PROJECT = Path(__file__).parents[2]


def main(argv=None) -> int:
    """0; 1 when a variant is worse than stored or a launch not allowed."""
    parser = argparse.ArgumentParser(prog="tools/agx/run", description=__doc__)
    parser.add_argument("--update", action="store_true", help="store what is counted now")
    parser.add_argument("--check", action="store_true", help="try the instrument itself")
    parser.add_argument(
        "--loops", action="store_true", help="store what loops cost, and the page's times"
    )
    parser.add_argument("--programs", action="store_true", help="judge kernels of step programs")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    options = parser.parse_args(argv)
    root = Root(Path(os.environ["AGX_ROOT"]))
    if options.check:
        return check.main(root)
    if options.loops:
        wanted = compiled.names()
        texts = {one.name: one.text for one in variants() if one.name in wanted}
        loops.save({name: loops.of(root, text) for name, text in texts.items()})
        compiled.write_page(report.PAGE)
        return 0
    if options.programs:
        found = judge(root, program_variants())
        print("\n".join(report.table(found)))
        faults = report.faults(found, found) + report.outside(found)
        print(f"{len(found)} variants, {len(faults)} faults", *faults, sep="\n")
        return int(bool(faults))
    chosen = [one for one in variants() if options.only in one.name]
    found = judge(root, chosen)
    print("\n".join(report.table(found)))
    if options.update:
        date = datetime.date.today().isoformat()
        report.write_page(report.save(found, root.versions(), commit(), date))
    document = report.load()
    stored = {name: v for name, v in document["variants"].items() if options.only in name}
    faults = report.faults(found, stored)
    print(f"{len(found)} variants, {len(faults)} faults", *faults, sep="\n")
    if faults and root.versions() != document["compilers"]:
        print(f"Stored are figures of {document['compilers']}; these are {root.versions()}.")
    return int(bool(faults))


def commit() -> str:
    """The commit of the tree, with a plus where files differ from it."""

    def git(*words):
        done = subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True)
        return done.stdout.strip()

    kernels = ("metal", "python/mlx_ncps")
    return git("rev-parse", "--short", "HEAD") + "+" * bool(git("status", "-s", *kernels))


if __name__ == "__main__":
    sys.exit(main())
