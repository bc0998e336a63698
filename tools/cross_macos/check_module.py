"""Does a cross-built extension fit macOS and the MLX wheel?

`stubs` writes the stubs of the system's libraries that the module is linked against: what MLX's own
binaries, which Apple's tools linked for the same macOS, import from them. `check` then judges the
module: every symbol that it leaves undefined must be exported by the library that it names, or be
CPython's.

Usage: check_module.py stubs FOLDER MLX
       check_module.py check MODULE MLX CPYTHON_SYMBOLS
with MLX the folder of an unpacked macOS wheel, CPYTHON_SYMBOLS nanobind's darwin-ld-cpython.sym.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import lief

LIBMLX = "@rpath/libmlx.dylib"
RPATH = "@loader_path/../mlx/lib"
STUBS = {"libc++": "/usr/lib/libc++.1.dylib", "libobjc": "/usr/lib/libobjc.A.dylib"}
# In libc++, though nothing in MLX imports it, and why macOS 14 has it.
MORE_OF_LIBCXX = {
    "__ZNSt3__19to_stringEl": "std::to_string(long): as old as std::to_string",
    "__ZNSt3__16thread6detachEv": "std::thread::detach: as old as std::thread",
    "__ZTINSt3__112system_errorE": "type of std::system_error: as old as the class",
    "__ZdlPvm": "sized delete: clang calls it for macOS 10.12 and newer",
    "__ZdlPvmSt11align_val_t": "sized, aligned delete: clang calls it for macOS 10.13 and newer",
}


def parse(path: Path) -> lief.MachO.Binary:
    """The one binary in a file that is not fat."""
    fat = lief.MachO.parse(str(path))
    if fat is None or fat.size != 1:
        raise SystemExit(f"{path} is not a Mach-O file for one architecture")
    return fat.at(0)


def libraries(binary: lief.MachO.Binary) -> list[str]:
    """The libraries that the binary loads, in order."""
    load = lief.MachO.LoadCommand.TYPE
    kinds = (load.LOAD_DYLIB, load.LOAD_WEAK_DYLIB)
    return [command.name for command in binary.commands if command.command in kinds]


def imports(binary: lief.MachO.Binary) -> dict[str, set[str]]:
    """Undefined symbols by the library that they are bound to; "" where they name none."""
    loaded = libraries(binary)
    found = defaultdict(set)
    for symbol in binary.imported_symbols:
        ordinal = symbol.description >> 8 & 0xFF  # from 1; otherwise: whichever library has it
        found[loaded[ordinal - 1] if 1 <= ordinal <= len(loaded) else ""].add(symbol.name)
    return found


def write_stubs(folder: Path, mlx: Path) -> None:
    """A .tbd for each library of STUBS, with the symbols that it is known to have on macOS 14."""
    known = defaultdict(set)
    for path in (mlx / "lib" / "libmlx.dylib", *mlx.glob("core.*.so")):
        for library, symbols in imports(parse(path)).items():
            known[library] |= symbols
    known[STUBS["libc++"]] |= set(MORE_OF_LIBCXX)
    for stub, library in STUBS.items():
        symbols = ", ".join(f"'{name}'" for name in sorted(known[library]))
        (folder / f"{stub}.tbd").write_text(
            "--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\n"
            f"install-name: {library}\nexports:\n"
            f"  - targets: [ arm64-macos ]\n    symbols: [ {symbols} ]\n...\n"
        )
        print(f"{stub}: {len(known[library])} symbols known")


def faults(module: Path, mlx: Path, cpython: set[str]) -> list[str]:
    """What is wrong with the module; prints what was counted."""
    binary, libmlx = parse(module), parse(mlx / "lib" / "libmlx.dylib")
    header = binary.header
    found = []
    if header.cpu_type != lief.MachO.Header.CPU_TYPE.ARM64:
        found.append(f"it is for {header.cpu_type}, not for arm64")
    kinds = lief.MachO.Header.FILE_TYPE
    if header.file_type not in (kinds.BUNDLE, kinds.DYLIB):
        found.append(f"it is a {header.file_type}, not a loadable library")
    minimum = list(binary.build_version.minos)
    if minimum != list(libmlx.build_version.minos):
        found.append(f"it needs macOS {minimum}, MLX needs {list(libmlx.build_version.minos)}")
    init = "_PyInit_" + module.name.split(".")[0]
    if init not in {symbol.name for symbol in binary.exported_symbols}:
        found.append(f"it does not export {init}")
    if RPATH not in {rpath.path for rpath in binary.rpaths}:
        found.append(f"it has no rpath {RPATH}")

    undefined = imports(binary)
    exported = {symbol.name for symbol in libmlx.exported_symbols}
    found += [f"libmlx.dylib does not export {s}" for s in undefined[LIBMLX] - exported]
    found += [f"no library has {name}" for name in sorted(undefined[""] - cpython)]
    if not any("3mlx4core5metal6device" in name for name in undefined[LIBMLX]):
        found.append("it uses no Metal device: eval_gpu was not compiled")

    if not any("_pthread_set_qos_class_self_np" in names for names in undefined.values()):
        found.append("the pool's threads have no quality-of-service class")
    found += [f"it links {name}" for name in libraries(binary) if "Accelerate" in name]

    print(f"{module.name}: {header.file_type}, {header.cpu_type}, macOS {minimum}")
    for library, names in sorted(undefined.items()):
        print(f"  {len(names):4} symbols from {library or 'CPython'}")
    return found


def main(command: str, *arguments: str) -> int:
    """0 where nothing was wrong."""
    paths = [Path(argument) for argument in arguments]
    lief.logging.disable()
    if command == "stubs":
        write_stubs(*paths)
        return 0
    cpython = {line.split()[1] for line in paths.pop().read_text().splitlines() if line.strip()}
    wrong = faults(*paths, cpython)
    for fault in wrong:
        print(f"  WRONG: {fault}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
