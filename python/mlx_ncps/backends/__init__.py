"""The implementations of the fused operators: one module each, all with the names that `Backend`
lists; `dispatch` picks one.
"""

from functools import cache
from importlib import import_module
from typing import Any

from .types import Backend, CfCFacts, Facts, FusedCall, LTCFacts

__all__ = ["HOMES", "Backend", "CfCFacts", "Facts", "FusedCall", "LTCFacts", "backend"]

HOMES = {  # name -> default device on which `auto` takes it; first come, first chosen
    "metal": "gpu",
    "metallib": "gpu",
    "cuda": "gpu",
    "cpu": "cpu",
    "reference": "any",
}


@cache
def backend(name: str) -> Any:
    """The module of a backend. Those of GPUs would be a quarter of the package's import, and are
    imported when one is asked for.
    """
    return import_module(f".{name}", __package__)
