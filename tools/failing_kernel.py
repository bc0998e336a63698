"""Finds the kernel behind a failure on a GPU: launches are evaluated one by one until one fails.

MLX compiles a kernel when its result is needed, and its error does not name it.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
from mlx_ncps.backends import cuda, metal


class Kernel(NamedTuple):
    """A kernel that did not compile or run: its name, MLX's words, the text that was compiled."""

    name: str
    error: str
    text: str


class _Failed(Exception):
    """Carries the Kernel out of the call."""


def _text(named: dict, called: dict, is_cuda: bool) -> str:
    """What MLX compiles for a launch, from a trace of it; for CUDA our part of that."""
    if is_cuda:
        return named["header"] + "\n" + named["source"]
    found = []

    def note(node):
        if node.get("name") == "CustomKernel":
            found.append(node["arguments"][1])

    kernel, arrays = mx.fast.metal_kernel(**named), called["inputs"]
    rest = {key: value for key, value in called.items() if key not in ("inputs", "stream")}
    mx.export_function(note, lambda *inputs: kernel(inputs=list(inputs), **rest), *arrays)
    return found[0]


def failing_kernel(backend: str, call) -> Kernel | None:
    """The first kernel that fails while `call()` runs on "metal" or "cuda"; None if none does."""
    module = {"metal": metal, "cuda": cuda}.get(backend)
    if module is None:
        return None
    run = module.run

    def register(**named):
        kernel = run.register(**named)

        def launch(**called):
            try:
                outputs = kernel(**called)
                mx.eval(outputs)
            except Exception as error:  # any error of MLX, the compiler or the driver
                template = ", ".join(f"{key}={value}" for key, value in called["template"])
                name = f"{named['name']}<{template}>"
                raise _Failed(Kernel(name, str(error), _text(named, called, run.cuda))) from error
            return outputs

        return launch

    module.run = run.but(register=register)
    try:
        call()
    except _Failed as failed:
        return failed.args[0]
    except Exception:  # the error is not a kernel's
        return None
    finally:
        module.run = run
    return None
