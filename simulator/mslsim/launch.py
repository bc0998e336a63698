"""Runs a compiled kernel over a grid and turns the runtime's report into findings."""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import compiler, words
from .errors import EXECUTION_KINDS, Finding, LaunchError, execution_error
from .kernel import Kernel
from .options import ORDERS, current

RUNTIME = compiler.HERE / "runtime"
MAX_BUFFERS = 31
MAX_THREADS = 1024
_IS_OUTPUT, _IS_INITIALISED, _IS_CONSTANT = 1, 2, 4
_REPORT_BYTES = 1 << 18


@dataclass
class Buffer:
    """A host array for one slot; an output is written in place.

    An output that is not `initialised` starts as NaN, and reading it before writing is an error.
    """

    array: np.ndarray
    output: bool = False
    initialised: bool = True
    constant: bool = False


@dataclass(frozen=True)
class Stats:
    """What a run did."""

    threadgroup_bytes: int
    switches: int
    barriers: int
    simd_operations: int
    stride_log2: int  # of the address reservation


class _Launch(ctypes.Structure):
    """runtime/launch.h"""

    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("object_base", ctypes.c_uint64),
        ("grid", ctypes.c_uint32 * 3),
        ("threadgroup", ctypes.c_uint32 * 3),
        *(
            (name, ctypes.c_uint32)
            for name in (
                *("buffers", "checked", "seed", "order", "threads"),
                *("flush_subnormals", "ulp", "stride_log2"),
            )
        ),
        *((name, ctypes.c_void_p) for name in ("address", "size", "item_size", "flags", "name")),
        ("block_size", ctypes.c_uint32 * MAX_BUFFERS),
        ("report", ctypes.c_void_p),
        ("report_capacity", ctypes.c_uint64),
        ("stats", ctypes.c_uint64 * 5),
    )


class _DlInfo(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


@functools.cache
def _runtime() -> ctypes.CDLL:
    sources = sorted(RUNTIME.glob("*.cpp"))
    texts = [path.read_text() for path in sorted(RUNTIME.iterdir())]
    tools = compiler.toolchain()
    flags = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread")

    def make(path):
        done = compiler.run([*tools.cxx, *flags, *map(str, sources), "-o", str(path)])
        if done.returncode:
            raise RuntimeError(f"[mslsim] the runtime does not build:\n{done.stderr}")

    key = compiler.digest(tools.version, *tools.cxx, *flags, *texts)
    path = compiler.cached(f"runtime-{key}.so", make)
    # Kernels find the runtime's functions, and those of libm, among the global symbols.
    ctypes.CDLL("libm.so.6", mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library.mslsim_launch.argtypes = [ctypes.c_void_p]
    library.mslsim_launch.restype = ctypes.c_int
    return library


_entries: weakref.WeakKeyDictionary[Kernel, tuple[int, int]] = weakref.WeakKeyDictionary()


def _entry(kernel: Kernel) -> tuple[int, int]:
    """(address of the kernel's entry point, load address of its object)."""
    if kernel not in _entries:
        _runtime()
        library = ctypes.CDLL(str(kernel.object_path))
        # by index: as an attribute, the name would be mangled within a class
        entry = ctypes.cast(library["__msl_entry"], ctypes.c_void_p).value
        info = _DlInfo()
        ctypes.CDLL(None).dladdr(ctypes.c_void_p(entry), ctypes.byref(info))
        _entries[kernel] = (entry, info.base)
    return _entries[kernel]


def launch(
    kernel: Kernel,
    buffers: Mapping[str, Buffer],
    grid: Sequence[int],
    threadgroup: Sequence[int],
    *,
    threadgroup_memory: Mapping[int, int] | None = None,
    stride_log2: int = 0,
) -> Stats:
    """Run `kernel` under the current options; raises an MSLError for what it did wrong.

    Args:
        kernel: From `Kernel`.
        buffers: A Buffer for every parameter of the kernel that is one, by name.
        grid: Threads in x, y, z, as for dispatchThreads.
        threadgroup: Threads of a threadgroup; cut to the grid, as MLX does.
        threadgroup_memory: Bytes of `[[threadgroup(i)]]` parameters, by index.
        stride_log2: Of the address reservation; 0 takes the largest that the system grants.
    """
    options = current()
    grid = [int(n) for n in grid]
    threadgroup = [min(int(t), g) for t, g in zip(threadgroup, grid, strict=True)]
    slots = {s.index: s for s in kernel.slots if s.kind == "buffer"}
    _check_limits(kernel, grid, threadgroup, slots)
    _check_numbers(kernel, buffers, slots.values())
    count = max(slots, default=-1) + 1
    address, size = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    item_size, flags = np.ones(count, np.uint32), np.full(count, _IS_CONSTANT, np.uint32)
    names = (ctypes.c_char_p * max(count, 1))(*[b"unbound"] * count)
    for i, slot in slots.items():
        buffer = buffers[slot.name]
        address[i], size[i] = buffer.array.ctypes.data, buffer.array.nbytes
        item_size[i] = buffer.array.dtype.itemsize
        flags[i] = (
            _IS_OUTPUT * buffer.output
            | _IS_INITIALISED * buffer.initialised
            | _IS_CONSTANT * buffer.constant
        )
        names[i] = slot.name.encode()
    report = ctypes.create_string_buffer(_REPORT_BYTES)
    entry, base = _entry(kernel)
    request = _Launch(
        entry=entry,
        object_base=base,
        grid=tuple(grid),
        threadgroup=tuple(threadgroup),
        buffers=count,
        checked=kernel.checked,
        seed=options.seed,
        order=ORDERS.index(options.order),
        threads=1 if kernel.checked else max(1, options.threads),
        flush_subnormals=options.ftz,
        ulp=options.ulp,
        stride_log2=stride_log2,
        address=address.ctypes.data,
        size=size.ctypes.data,
        item_size=item_size.ctypes.data,
        flags=flags.ctypes.data,
        name=ctypes.cast(names, ctypes.c_void_p),
        report=ctypes.cast(report, ctypes.c_void_p),
        report_capacity=_REPORT_BYTES,
    )
    for i, n in (threadgroup_memory or {}).items():
        request.block_size[i] = (n + 15) // 16 * 16
    abandoned = _runtime().mslsim_launch(ctypes.byref(request))
    findings = _findings(kernel, report.value.decode(errors="replace"))
    if options.finite and not abandoned:
        findings += _not_finite(buffers, slots.values())
    wrong = [f for f in findings if f.kind in EXECUTION_KINDS - options.allow]
    if wrong or abandoned:
        raise execution_error(kernel.name, wrong or findings)
    return Stats(*request.stats)


def _check_limits(kernel, grid, threadgroup, slots) -> None:
    text = ""
    if min(*grid, *threadgroup) < 1:
        text = f"empty grid {tuple(grid)} or threadgroup {tuple(threadgroup)}"
    elif np.prod(threadgroup) > MAX_THREADS:
        text = f"threadgroup {tuple(threadgroup)} has more than {MAX_THREADS} threads"
    elif kernel.most_threads and np.prod(threadgroup) > kernel.most_threads:
        attribute = f"max_total_threads_per_threadgroup({kernel.most_threads})"
        text = f"threadgroup {tuple(threadgroup)} has more threads than {attribute}"
    elif np.prod(grid, dtype=np.float64) * 2 >= 2**32:
        text = f"grid {tuple(grid)}: the simulator numbers fewer than 2^31 threads"
    elif max(slots, default=0) >= MAX_BUFFERS:
        text = f"{max(slots) + 1} buffers: Metal has {MAX_BUFFERS}"
    if text:
        raise LaunchError(kernel.name, [Finding("limit", "", text)])


def _check_numbers(kernel, buffers, slots) -> None:
    """A number that the host binds must have the declared type: Metal copies its bytes."""
    found = []
    for slot in slots:
        dtype = buffers[slot.name].array.dtype
        declared = words.SIZES.get(slot.element) if slot.is_number else None
        if declared and declared != (dtype.itemsize, dtype.kind):
            text = f"'{slot.name}' is {dtype.name} on the host, the kernel declares {slot.element}"
            found.append(Finding("argument", "", text))
    if found:
        raise LaunchError(kernel.name, found)


def _not_finite(buffers, slots) -> list[Finding]:
    """Outputs with elements that are NaN or infinite."""
    found = []
    for slot in slots:
        buffer = buffers[slot.name]
        if not buffer.output:
            continue
        if slot.element in words.BFLOATS:
            bad = buffer.array.view(np.uint16) & 0x7F80 == 0x7F80
        elif buffer.array.dtype.kind == "f":
            bad = ~np.isfinite(buffer.array)
        else:
            continue
        at = np.flatnonzero(bad)
        if at.size:
            text = f"{at.size} of {bad.size} elements are NaN or infinite, the first is {at[0]}"
            found.append(Finding("not-finite", "", f"output '{slot.name}': {text}"))
    return found


def _findings(kernel: Kernel, report: str) -> list[Finding]:
    found = []
    for line in report.splitlines():
        kind, first, second, text = line.split("\t", 3)
        places = [place_of(kernel, int(a, 16)) for a in (first, second) if int(a, 16)]
        if "\t" in text:  # the finding carries its own place
            place, text = text.split("\t", 1)
            if kind == "wrap" and place.split(":")[0] not in kernel.user_files:
                continue  # in what the headers compute
            places = [place] if place else []
        text = re.sub(
            r"'#(\d+)'",
            lambda m: f"'{kernel.threadgroup_names.get(int(m.group(1)), m.group(1))}'",
            text,
        )
        found.append(Finding(kind, " and ".join(places), text))
    return found


def place_of(kernel: Kernel, offset: int) -> str:
    """The "file:line" of a return address in the kernel's object, or the bare offset.

    Of the functions inlined there, the innermost of the user's own counts.
    """
    path = str(kernel.object_path)
    tools = (
        ("llvm-symbolizer-19", ("--functions=none", f"--obj={path}")),
        ("llvm-symbolizer", ("--functions=none", f"--obj={path}")),
        ("addr2line", ("-i", "-e", path)),
    )
    for tool, arguments in tools:
        if not shutil.which(tool):
            continue
        output = compiler.run([tool, *arguments, hex(offset - 1)]).stdout
        frames = re.findall(r"^(?:.*/)?([^/\n?:]+):(\d+)", output, re.M)
        for file, line in sorted(frames, key=lambda frame: frame[0] not in kernel.user_files):
            return f"{file}:{line}"
    return f"+{offset:#x}"
