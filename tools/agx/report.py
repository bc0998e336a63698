"""Compares what the compiler counted with the stored figures, and writes both down."""

from __future__ import annotations

import json
from pathlib import Path

from .judge import CHIPS, Figures

FILE = Path(__file__).with_name("figures.json")
PAGE = Path(__file__).parents[2] / "docs" / "agx.md"
SLACK = 0.02  # of instructions, bytes and cycles
CACHE = 12 * 1024  # bytes of instructions that a core is said to keep
MARKS = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def load(file: Path = FILE) -> dict:
    """The stored document; its variants as judge() gives them."""
    document = json.loads(file.read_text(encoding="utf-8"))
    for variant in document["variants"].values():
        for chip in CHIPS:
            figures = variant[chip]
            variant[chip] = figures if isinstance(figures, str) else Figures(*figures)
    return document


def save(variants: dict, versions: str, commit: str, date: str, file: Path = FILE) -> dict:
    """Store figures, a line for each variant; gives the document."""
    head = {"compilers": versions, "commit": commit, "date": date, "fields": Figures._fields}
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in head.items()]
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(variants[name])}" for name in variants)
    text = "{\n" + ",\n".join([*lines, f'"variants": {{\n{rows}\n}}']) + "\n}\n"
    file.write_text(text, encoding="utf-8")
    return load(file)


def faults(variants: dict, stored: dict) -> list[str]:
    """What is worse than stored, not allowed, or no longer the same set of variants."""
    found = [f"{name}: not stored; --update" for name in variants if name not in stored]
    found += [f"{name}: no plan chooses it; --update" for name in stored if name not in variants]
    for name, variant in variants.items():
        if variant["arrays"]:
            found.append(f"{name}: {variant['arrays']} arrays of a thread in memory")
        for chip in CHIPS:
            now, before = variant[chip], stored.get(name, variant)[chip]
            if isinstance(now, str):
                if not isinstance(before, str):
                    found.append(f"{name}, {chip}: refused: {now}")
                continue
            if variant["launched"] > now.allowed:
                text = f"{variant['launched']} threads are launched, {now.allowed} allowed"
                found.append(f"{name}, {chip}: {text}")
            if not isinstance(before, str):
                found += [f"{name}, {chip}: {text}" for text in _worse(now, before)]
    return found


def outside(variants: dict) -> list[str]:
    """What spills or has scratch memory."""
    return [
        f"{name}, {chip}: {variant[chip].spills} spills, {variant[chip].scratch} bytes of scratch"
        for name, variant in variants.items()
        for chip in CHIPS
        if isinstance(variant[chip], Figures) and (variant[chip].spills or variant[chip].scratch)
    ]


def _worse(now: Figures, before: Figures) -> list[str]:
    pairs = [(key, getattr(now, key), getattr(before, key)) for key in Figures._fields]
    text = []
    for key, a, b in pairs:
        if key == "allowed":
            worse = a < b
        elif key in ("spills", "fills", "scratch"):
            worse = a > b
        else:
            worse = a > b * (1 + SLACK) + 2
        if worse and key != "registers":  # these count by the threads that they allow
            text.append(f"{key} {b} -> {a}")
    return text


HEAD = ("threads: launched", "allowed", "registers", "spills:fills", "scratch", "instructions")
HEAD += ("code bytes", "ALU cycles", "IC cycles")


def cells(variant: dict, chip: str) -> list[str]:
    """Of one variant on one chip, as HEAD."""
    figures = variant[chip]
    if isinstance(figures, str):
        return [str(variant["launched"]), "refused", *["-"] * (len(HEAD) - 2)]
    f = figures
    counts = (f.scratch, f.instructions, f.code, f.alu, f.ic)
    start = [variant["launched"], f.allowed, f.registers, f"{f.spills}:{f.fills}"]
    return [*map(str, start), *map(str, counts)]


def table(variants: dict) -> list[str]:
    """A line for each variant; M2 where it differs from M1."""
    lines = ["kernel and template arguments | " + " | ".join(HEAD)]
    for name, variant in variants.items():
        lines.append(f"{name} | " + " | ".join(cells(variant, "m1")))
        if variant["m2"] != variant["m1"]:
            lines.append(f"{name}, M2 | " + " | ".join(cells(variant, "m2")))
    return lines


def page(document: dict) -> str:
    """The part of docs/agx.md that --update writes."""
    variants = document["variants"]
    judged = {name: v["m1"] for name, v in variants.items() if isinstance(v["m1"], Figures)}
    spilled = [name for name, figures in judged.items() if figures.spills]
    large = sum(figures.code > CACHE for figures in judged.values())
    differ = sum(v["m1"] != v["m2"] for v in variants.values())
    lines = [
        f"Commit {document['commit']}, {document['date']}; {document['compilers']}. "
        f"{len(variants)} variants, {len(variants) - len(judged)} of them refused by the compiler; "
        f"{len(spilled)} spill, {large} have more than {CACHE} bytes of code, "
        f"{differ} differ between M1 and M2.",
        "",
        "Of each kernel, the variant with the most code:",
        "",
        *_rows(variants, sorted(_largest(judged))),
        "",
        "Those that spill:",
        "",
        *_rows(variants, spilled),
    ]
    return "\n".join(lines) + "\n"


def _rows(variants: dict, names) -> list[str]:
    lines = ["| kernel | template arguments | " + " | ".join(HEAD) + " |"]
    lines.append("|" + " --- |" * (len(HEAD) + 2))
    for name in names:
        kernel, _, arguments = name.partition(" ")
        row = [f"`{kernel}`", arguments.lower(), *cells(variants[name], "m1")]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def _largest(judged: dict) -> list[str]:
    """The name of each kernel's largest variant."""
    largest = {}
    for name, figures in judged.items():
        kernel = name.split()[0]
        if kernel not in largest or judged[largest[kernel]].code < figures.code:
            largest[kernel] = name
    return list(largest.values())


def write_page(document: dict, file: Path = PAGE) -> None:
    """Put the table into the page, between its marks."""
    before, rest = file.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    file.write_text(before + MARKS[0] + page(document) + MARKS[1] + after, encoding="utf-8")
