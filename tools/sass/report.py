"""Stored figures, the page that shows them, and what is worse than stored."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from .compiler import Figures, work_of
from .machine_code import KINDS, OTHER

FILE = Path(__file__).with_name("figures.json")
PAGE = Path(__file__).parents[2] / "docs" / "sass.md"
MARKS = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
SLACK = 0.02  # of instructions and bytes
MOST_REGISTERS = 65536  # of a multiprocessor, which one threadgroup may not exceed
HEAD = ["kernel", "template arguments", "threads", "registers", "stack", "spilled bytes"]
HEAD += ["code bytes", "inner loop", "gates or products", "each", *KINDS, OTHER]


def load(file: Path = FILE) -> dict:
    """The stored document; its variants as (threads, Figures)."""
    document = json.loads(file.read_text(encoding="utf-8"))
    mixes = document["mixes"]

    def figures(row):
        return Figures(*row[1:-1], mixes[row[-1]])

    variants = document["variants"].items()
    return document | {"variants": {name: (row[0], figures(row)) for name, row in variants}}


def save(found: dict, compilers: str, file: Path = FILE) -> dict:
    """Store {name: (threads, Figures)}, a line for each variant; gives the document."""
    mixes = Counter(json.dumps(one.mix) for _, one in found.values())
    order = [mix for mix, _ in mixes.most_common()]
    number = {mix: n for n, mix in enumerate(order)}
    rows = [
        f"{json.dumps(name)}: {json.dumps([threads, *one[:-1], number[json.dumps(one.mix)]])}"
        for name, (threads, one) in found.items()
    ]
    fields = json.dumps(["threads", *Figures._fields])
    text = (
        f'{{\n"compilers": {json.dumps(compilers)},\n"fields": {fields},\n"mixes": [\n'
        + ",\n".join(order)
        + '\n],\n"variants": {\n'
        + ",\n".join(rows)
        + "\n}\n}\n"
    )
    file.write_text(text, encoding="utf-8")
    return load(file)


def faults(found: dict, stored: dict) -> list[str]:
    """What leaves the registers, is worse than stored, or no longer the same set of variants."""
    lines = [f"{name}: not stored; --update" for name in found if name not in stored]
    lines += [f"{name}: no plan chooses it; --update" for name in stored if name not in found]
    for name, (threads, now) in found.items():
        if now.stack or now.stores or now.loads:
            lines.append(f"{name}: {now.stack} bytes of stack, {now.stores} spilled")
        if now.registers * threads > MOST_REGISTERS:
            lines.append(f"{name}: {now.registers} registers of each of {threads} threads")
        before = stored.get(name, (threads, now))[1]
        for field in ("registers", "code", "instructions"):
            a, b = getattr(now, field), getattr(before, field)
            if a > b * (1 + SLACK) + 2:
                lines.append(f"{name}: {field} {b} -> {a}")
    return lines


def page(document: dict) -> str:
    """What stands between the page's marks."""
    variants = document["variants"]
    spilled = sum(one.stack + one.stores > 0 for _, one in variants.values())
    lines = [f"{document['compilers']}. {len(variants)} variants, of which {spilled} spill."]
    lines += ["", "Of each kernel, the variant with the largest inner loop:", ""]
    return "\n".join([*lines, *rows(variants, _largest(variants))]) + "\n"


def _largest(variants: dict) -> list[str]:
    largest: dict[str, tuple] = {}
    for name, (_, one) in variants.items():
        size = one.instructions, one.code, name
        kernel = name.split()[0]
        largest[kernel] = max(largest.get(kernel, size), size)
    return sorted(name for *_, name in largest.values())


def rows(variants: dict, names=None) -> list[str]:
    """The table of these variants in Markdown, or of all."""
    rows = [HEAD, ["---"] * len(HEAD)]
    for name in variants if names is None else names:
        kernel, _, arguments = name.partition(" ")
        threads, one = variants[name]
        counts = threads, one.registers, one.stack, one.stores, one.code
        each = f"{one.instructions / one.work:.1f}" if one.work else "-"
        kinds = (one.mix.get(kind, 0) for kind in (*KINDS, OTHER))
        what = {"FFMA": "multiply-adds", "MUFU.EX2": "gates"}[work_of(name)]
        loop = one.instructions or "-", f"{one.work} {what}" if one.work else "-", each
        rows.append([f"`{kernel}`", arguments.lower(), *map(str, (*counts, *loop, *kinds))])
    return ["| " + " | ".join(row) + " |" for row in rows]


def write_page(document: dict, file: Path = PAGE) -> dict:
    """Put the table into the page, between its marks; gives the document."""
    before, rest = file.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    file.write_text(before + MARKS[0] + page(document) + MARKS[1] + after, encoding="utf-8")
    return document
