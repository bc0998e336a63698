"""`python -m tools.cortex_m`: exported cells on a Cortex-M4F under QEMU, against the layer.

Needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm. Prints a Markdown table: bytes
of code and of constants of a step, of newlib's functions that it calls, of state and stack;
instructions of a step; the largest relative error over the steps. Fails where that is above the
bound of the tests.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_ncps import LTC, CfC, export
from mlx_ncps.wirings import AutoNCP

from tests.support.cases import relative_error, tolerance
from tests.support.export_cases import leaves, run
from tests.support.step_layers import randomise

HERE = Path(__file__).parent
INPUTS, STEPS, REPEATS = 8, 20, 10
TARGET = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
OPTIONS = ("-std=gnu99", "-O2", "-Wall", "-Wextra", "-Werror", "-ffunction-sections")
MACHINE = ("-M", "mps2-an386", "-nographic", "-icount", "shift=0", "-semihosting")
PER_TICK = 40  # instructions
LAYERS = {
    "LTC, 19-neuron NCP, 6 unfolds": lambda: LTC(INPUTS, AutoNCP(19, 1)),
    "LTC, 19-neuron NCP, 8 unfolds of Runge-Kutta": lambda: LTC(
        INPUTS, AutoNCP(19, 1), ode_solver="runge_kutta", ode_unfolds=8
    ),
    "LTC, 19 neurons, dense, 6 unfolds": lambda: LTC(INPUTS, 19),
    "CfC, 19-neuron NCP": lambda: CfC(INPUTS, AutoNCP(19, 1)),
    "CfC, 19-neuron NCP, mixed memory": lambda: CfC(INPUTS, AutoNCP(19, 1), mixed_memory=True),
    "CfC, 19 neurons, backbone of 32": lambda: CfC(INPUTS, 19, backbone_units=32),
}


def call(*command: object) -> str:
    """What a program prints; of QEMU's that is on stderr."""
    words, both = [str(word) for word in command], subprocess.STDOUT
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=both, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout}")
    return done.stdout


def array(name: str, values: np.ndarray) -> str:
    """A constant array in C."""
    shape = "".join(f"[{n}]" for n in values.shape)
    return f"static const float {name}{shape} = {numbers(values)};\n"


def numbers(values: np.ndarray) -> str:
    """An array, or one number, as C writes it."""
    if values.ndim == 0:
        return f"{np.float32(values)!s}f"
    return f"{{{', '.join(map(numbers, values))}}}"


def build(folder: Path) -> dict[str, int]:
    """The image of the folder's headers; bytes of its parts."""
    image = folder / "image.elf"
    common = ("arm-none-eabi-gcc", *TARGET, *OPTIONS, f"-I{folder}")
    call(*common, "-c", HERE / "main.c", "-o", folder / "main.o")
    link = ("-nostartfiles", "-Wl,--gc-sections", "-T", HERE / "board.ld", "--specs=nosys.specs")
    call(*common, folder / "main.o", *link, "-lm", "-o", image)
    own = {name for _, _, name in symbols(folder / "main.o")}
    found = {"code": 0, "constants": 0, "library": 0}
    for size, kind, name in symbols(image):
        base = name.split(".")[0]
        if base not in {one.split(".")[0] for one in own}:
            found["library"] += size if kind in "tTrRwW" else 0
        elif kind in "rR":
            found["constants"] += 0 if base.startswith("given_") else size
        elif base == "step" or base.startswith("cell_"):
            found["code"] += size if kind in "tT" else 0
    return found


def symbols(file: Path) -> list[tuple[int, str, str]]:
    """Size, kind and name of each."""
    lines = re.findall(r"^\w+ (\w+) (\w) (\S+)$", call("arm-none-eabi-nm", "-S", file), re.M)
    return [(int(size, 16), kind, name) for size, kind, name in lines]


def trial(layer, folder: Path) -> tuple[dict[str, int], float]:
    """(sizes and instructions, the largest relative error) of a layer."""
    mx.random.seed(3)
    x = mx.random.normal((1, STEPS, INPUTS))
    ts = mx.random.uniform(0.1, 2.0, (1, STEPS))
    state = tuple(mx.random.normal((1, layer.state_size)) for _ in range(1 + layer.mixed_memory))
    state = state if layer.mixed_memory else state[0]
    export.to_c(layer, folder / "cell.h")
    flat = np.concatenate([np.array(s[0]) for s in leaves(state)])
    given = array("given_inputs", np.array(x[0])) + array("given_ts", np.array(ts[0]))
    given += array("given_state", flat)
    sizes = f"#define STEPS {STEPS}\n#define REPEATS {REPEATS}\n"
    (folder / "given.h").write_text(sizes + given)
    found = build(folder)
    printed = call("qemu-system-arm", *MACHINE, "-kernel", folder / "image.elf").split()
    words = [int(word, 16) for word in printed]
    *results, stack, loop, steps = words
    assert abs(loop * PER_TICK - 2_000_000) < 500, f"not {PER_TICK} instructions a tick: {loop}"
    found |= {
        "state": 4 * len(flat),
        "stack": stack,
        "instructions": round(steps * PER_TICK / (STEPS * REPEATS)),
    }
    got = np.array(results, np.uint32).view(np.float32).reshape(STEPS, -1)
    outputs, states = run(layer, x, ts, state)
    wanted = [np.array(outputs[0]), np.concatenate([np.array(s[0]) for s in states], axis=-1)]
    count = wanted[0].shape[-1]
    return found, max(
        relative_error(got[:, :count], wanted[0]), relative_error(got[:, count:], wanted[1])
    )


def main() -> int:
    """Try every layer."""
    columns = ("code", "constants", "library", "state", "stack", "instructions")
    print(f"| layer | {' | '.join(columns)} | error |\n|---{'|---' * (len(columns) + 1)}|")
    bound, worst = tolerance("float32", "forward"), 0.0
    for name, make in LAYERS.items():
        mx.random.seed(7)
        layer = make()
        randomise(layer)
        with tempfile.TemporaryDirectory() as folder:
            found, error = trial(layer, Path(folder))
        worst = max(worst, error)
        print(f"| {name} | {' | '.join(f'{found[c]:,}' for c in columns)} | {error:.1e} |")
    return int(worst > bound)


if __name__ == "__main__":
    sys.exit(main())
