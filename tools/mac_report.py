"""One report of what a Mac does with this project, to be pasted into an issue: `make mac-report`.

It builds, runs the tests, compares values and gradients of all cases on the GPU with float64, runs
the benchmarks, and writes build/mac-report.md: the machine, what passed, the times beside those
that tools/plans derives, and the text of the first kernel that does not compile. A step that
fails does not keep the next from running. The names of your folders are left out.

    make mac-report                                  # about an hour
    make mac-report MAC_REPORT_ARGS=--short          # some minutes: a part of each
    PYTHONPATH=simulator python -m tools.mac_report --short --as-mac   # on Linux, its GPU simulated

Ends with 0 if nothing failed; a GPU that is missing is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 60_000  # characters; an issue of GitHub may have 65 536
SHORT_TESTS = (
    "tests/backends/test_dispatch.py",
    "tests/ops/test_golden.py",
    "tests/ops/test_ops.py",
)
SHORT_ROWS = ("--quick", "--only", "cfc-B64*fwd", "--column", "fused", "--repeats", "3")
NO_GPU = 2  # exit status of tools/check_gpu.py


class Part(NamedTuple):
    """A section of the report; `verdict` stands in the summary, `passed` None for "not judged"."""

    title: str
    verdict: str
    passed: bool | None
    text: str = ""


class Done(NamedTuple):
    """A command that has run; status None: it ran out of time."""

    status: int | None
    output: str
    seconds: float

    @property
    def says(self) -> str:
        """How the command ended."""
        ended = "ran out of time" if self.status is None else f"exit status {self.status}"
        return f"{ended} after {self.seconds:.0f} s"


def run(command, seconds: float = 3600, **variables) -> Done:
    """Run a command from the root; its output is also shown while it runs."""
    print("==>", *command, flush=True)
    start, lines = time.monotonic(), []
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)
        process.wait()
        late = not timer.is_alive()
        timer.cancel()
    return Done(None if late else process.returncode, "".join(lines), time.monotonic() - start)


def said(*command) -> str:
    """The first line that a command prints; "unknown" where it can't run."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = done.stdout.strip().splitlines()
    return lines[0] if lines and done.returncode == 0 else "unknown"


def machine() -> list[str]:
    """Chip, system and compilers, from their own commands."""
    mac = platform.system() == "Darwin"
    facts = {
        "chip": said("sysctl", "-n", "machdep.cpu.brand_string") if mac else platform.machine(),
        "system": f"macOS {platform.mac_ver()[0]}" if mac else platform.platform(terse=True),
        "Metal compiler": said("xcrun", "-sdk", "macosx", "metal", "--version"),
        "C++ compiler": said("c++", "--version"),
        "commit": said("git", "describe", "--always", "--dirty"),
    }
    if mac:
        kinds = [said("sysctl", "-n", f"hw.perflevel{level}.logicalcpu") for level in (0, 1)]
        facts["performance and efficiency cores"] = ", ".join(kinds)
        facts["memory"] = f"{said('sysctl', '-n', 'hw.memsize')} bytes"
    return [f"- {name}: {value}" for name, value in facts.items()]


def build(options) -> Part:
    """The environment with the package in it."""
    if options.no_build:
        return Part("Build", "not run", None)
    done = run(["make", ".venv/test", f"PYTHON={sys.executable}"])
    passed = done.status == 0
    return Part("Build", done.says, passed, "" if passed else tail(done.output))


def package(options) -> Part:
    """What `python -m mlx_ncps` says of itself."""
    done = run([options.python, "-m", "mlx_ncps"], 300)
    return Part("Package", done.says, done.status == 0, fenced(done.output))


def tests(options) -> Part:
    """pytest: its summary and every failure's line."""
    command = [options.python, "-m", "pytest", "-q", "-rfE", "--tb=short"]
    command += ["--as-mac"] * options.as_mac
    done = run([*command, *(f"tests/{name}" for name in SHORT_TESTS if options.short)], 4 * 3600)
    summaries = re.findall(r"^(?:=+ )?(\d+ (?:passed|failed|skipped|error).* in .*?)(?: =+)?$",
                           done.output, re.MULTILINE)  # fmt: skip
    verdict = summaries[-1] if summaries else done.says
    failed = re.findall(r"^(?:FAILED|ERROR) .*", done.output, re.MULTILINE)
    text = "" if done.status == 0 else fenced("\n".join(failed)) + tail(done.output)
    return Part("Tests", verdict, done.status == 0, text)


def values(options, backend: str) -> Part:
    """tools/check_gpu.py: cases that failed, and the first kernel that did."""
    kept = options.out.parent / f"values-{backend}.json"
    kept.unlink(missing_ok=True)
    command = [options.python, "-m", "tools.check_gpu", backend, "--out", kept.parent]
    command += ["--as-mac"] * options.as_mac
    done = run([*command, "--steps", "few" if options.short else "values"], 4 * 3600)
    title = f"Values and gradients on the GPU, {backend}"
    if done.status == NO_GPU:
        return Part(title, f"not run: {done.output.strip().splitlines()[-1]}", None)
    if not kept.exists():  # it crashed: its last lines name the case before the one that failed
        return Part(title, done.says, False, tail(done.output))
    found = json.loads(kept.read_text())
    failed = len(found["failures"])
    verdict = f"{found.get('passed', 0)} cases passed, {failed} failed"
    verdict += f", {found['skipped']} not in the metallib" if found.get("skipped") else ""
    text = fenced("\n".join(found["failures"])) if failed else ""
    if kernel := found["kernel"]:
        text += f"The first kernel that fails: `{kernel['name']}`\n\n{fenced(kernel['error'])}"
        text += details("its text", kernel["text"])
    return Part(title, verdict, done.status == 0, text)


def benchmarks(options) -> Part:
    """The benchmark table, and the derived times beside the measured."""
    path = options.out.with_suffix(".json")
    path.unlink(missing_ok=True)
    device = "cpu" if options.as_mac or options.no_gpu else "gpu"
    command = [options.python, "-m", "benchmarks", "--device", device, "--json", path]
    command += SHORT_ROWS if options.short else ["--quick"] * options.quick
    done = run(command, 2 * 3600)
    derived = [options.python, "-m", "tools.mac_report", "--derived", path]
    text = run(derived, 300).output if path.exists() else ""
    return Part(
        f"Benchmarks on the {device}", done.says, done.status == 0, text + tail(done.output)
    )


def derived(path: Path) -> str:
    """Of a file of results: each row's median time on our kernels beside what the cost model
    derives for the chips that it knows.
    """
    from benchmarks.rows import ROWS, quick
    from tools.plans import chips

    cases = {row.name: row for row in (*ROWS, *quick(ROWS))}
    names = " / ".join(chip.name for chip in chips.CHIPS)
    lines = [f"| row | measured, ms | derived, ms: {names} |", "|---|---|---|"]
    for name, found in json.loads(path.read_text())["rows"].items():
        samples = found["cells"].get("fused", {}).get("samples")
        measured = f"{1e3 * statistics.median(samples):.3g}" if samples else "-"
        lines.append(f"| {name} | {measured} | {derived_ms(cases.get(name), chips.CHIPS)} |")
    note = "Derived: at best, from published figures of the chips' GPUs; measured on none of them."
    return "\n".join([*lines, "", note, "", ""])


def derived_ms(row, every_chip) -> str:
    """The derived times of a row on the GPU; "-" for modes and wirings without a plan."""
    from tools.plans import table

    if row is None or row.mode not in ("fwd", "fwd+bwd"):
        return "-"
    case, facts = row.case, {"steps": row.case.steps, "training": row.gradients}
    if row.is_ltc:
        lists = table.auto_ncp(*case.wiring[1:]) if case.wiring else None
        facts |= {"batch": case.batch, "inputs": case.inputs, "units": case.units}
        facts |= {"unfolds": case.unfolds, "synapses": lists}
        plan = table.gpu_launches(table.trace_ltc, **facts)
    else:
        plan = table.cfc(case.batch, units=case.units, **facts)
    times = [table.seconds(plan, chip) for chip in every_chip]
    if not row.is_ltc:
        stepwise = plan[-1].kernel.startswith("ncps_cfc_update")
        sizes = case.batch, case.units, case.steps, stepwise, row.gradients
        products = [table.product_seconds(chip, *sizes) for chip in every_chip]
        times = [a + b for a, b in zip(times, products, strict=True)]
    return " / ".join(f"{1e3 * seconds:.2g}" for seconds in times)


def fenced(text: str) -> str:
    """A block of code that may itself have fences."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}\n{text.strip()}\n{fence}\n\n"


def details(title: str, text: str) -> str:
    """A block of code that is folded until it is clicked."""
    return f"<details><summary>{title}</summary>\n\n{fenced(text)}</details>\n\n"


def tail(output: str, lines: int = 80) -> str:
    """The end of an output."""
    return details("end of the output", "\n".join(output.splitlines()[-lines:]))


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters: the middle is left out, and any code that it ends closed."""
    if len(text) <= limit:
        return text
    half = limit // 2 - 60
    start, end = text[:half], text[-half:]
    opened, closed = (len(re.findall("^```", part, re.MULTILINE)) % 2 for part in (start, end))
    marker = f"\n... {len(text) - 2 * half} characters left out ...\n"
    if opened > closed:
        marker = "\n```" + marker
    if opened < closed:
        marker += "```\n"
    return start + marker + end


def markdown(parts, facts, mode: str) -> str:
    """The report: a summary, then every part, the longest shortened until an issue holds it."""
    marks = {True: "passed", False: "**failed**", None: "-"}
    lines = ["# mlx-ncps on a Mac", "", mode, "", *facts, "", "| part | | |", "|---|---|---|"]
    lines += [f"| {p.title} | {marks[p.passed]} | {p.verdict} |" for p in parts]
    head = anonymous("\n".join([*lines, "", ""]))
    texts = {p.title: anonymous(p.text) for p in parts if p.text}
    room = LIMIT - len(head) - sum(len(title) + 8 for title in texts)
    while texts and sum(map(len, texts.values())) > room:
        longest = max(texts, key=lambda title: len(texts[title]))
        others = sum(len(text) for title, text in texts.items() if title != longest)
        second = max((len(t) for title, t in texts.items() if title != longest), default=0)
        texts[longest] = shortened(texts[longest], max(room - others, second // 2, 1000))
    return head + "".join(f"## {title}\n\n{text}" for title, text in texts.items())


def anonymous(text: str) -> str:
    """Without the names of the user's folders."""
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")


def parse(argv) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--short", action="store_true", help="a part of the tests, cases and benchmarks")
    add("--quick", action="store_true", help="short benchmarks")
    add("--no-build", action="store_true", help="use this Python and the package that it has")
    add(
        "--as-mac",
        action="store_true",
        help="simulate the GPU (tests/support/as_mac.py); implies no build",
    )
    add("--out", type=Path, default=ROOT / "build" / "mac-report.md", metavar="PATH")
    add("--derived", type=Path, metavar="JSON", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.no_build |= options.as_mac
    options.out = options.out.resolve()
    options.python = sys.executable if options.no_build else str(ROOT / ".venv" / "bin" / "python")
    return options


def main(argv=None) -> int:
    """Every step; 0 if none failed."""
    options = parse(argv)
    if options.derived:
        print(derived(options.derived))
        return 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    parts = [build(options)]
    if parts[0].passed is not False:
        parts += [package(options), tests(options)]
        on_gpu = values(options, "metal")
        options.no_gpu = on_gpu.passed is None
        parts.append(on_gpu)
        if not (options.as_mac or options.no_gpu):
            parts.append(values(options, "metallib"))
        parts.append(benchmarks(options))
    mode = f"Made by `tools/mac_report.py {' '.join(sys.argv[1:] if argv is None else argv)}`"
    if options.as_mac:
        mode += ", **on Linux, the GPU simulated and the benchmarks on the CPU**"
    options.out.write_text(markdown(parts, machine(), mode + "."))
    print(f"\nwrote {options.out}")
    return 1 if any(part.passed is False for part in parts) else 0


if __name__ == "__main__":
    sys.exit(main())
