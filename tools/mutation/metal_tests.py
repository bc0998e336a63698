"""The tests that judge each text of metal/: first one quick case that runs it, then its family."""

from pathlib import Path
from typing import NamedTuple

# Not the tests that plant errors of their own, which look for texts that a mutant may change; one
# order of threads, for the simulator finds races in any; and none without the simulator.
CHOSEN = "not caught and not reverse and not chaos and not cuda and not explain"


class Tests(NamedTuple):
    """Files of tests/gpu, and an expression of pytest's -k that chooses among their tests."""

    files: tuple[str, ...]
    chosen: str = ""

    @property
    def arguments(self) -> list[str]:
        """Of pytest."""
        files = [f"tests/gpu/test_{name}.py" for name in self.files]
        return [*files, "-k", f"({self.chosen}) and {CHOSEN}" if self.chosen else CHOSEN]


# ---- quick ones: few variants of the kernels, in one order of threads where that can be chosen
_CFC = Tests(("cfc",), "test_cfc_sequence_equals_numpy and not edges and no_gate and per_batch")
_ACTIVATIONS = Tests(("cfc",), "test_cfc_sequence_equals_numpy and not edges and L2")
_MATRIX = Tests(("cfc",), "by_matrices_equals_numpy and B67")
_UPDATE = Tests(("cfc",), "by_products and (keras or pure)")
_CFC_BESIDE = Tests(("cfc_features",), "numpy and (resets and L2 or held_steps and B5T7)")
_DENSE = Tests(("ltc",), "edges and H63")
_STREAMED = Tests(("ltc",), "edges and B33T2")
_LISTS = Tests(("ltc",), "synapse_lists and B5T2 and not dense_lists")
_LISTS_DENSE = Tests(("ltc",), "synapse_lists and B5T2")
_FOLD = Tests(("fold",), "equal_those and True")
_PROGRAM = Tests(("programs",), "every_instruction and inside")
_LSTM = Tests(("ltc_beside",), "edges and memory and dense-ltc and H9")


def _beside(kind: str, case: str) -> Tests:
    return Tests(("ltc_beside",), f"edges and both and {kind}-ltc and {case}")


# ---- families
_CFCS = Tests(("cfc", "cfc_features", "training"), "not ltc")
_LTCS = Tests(("ltc", "ltc_beside", "fold", "training"), "not training or ltc")
_PROGRAMS = Tests(("programs",))
_ALL = Tests(("cfc", "ltc", "programs"))

# How the name of a text begins -> what judges it, until it is killed. The longest beginning counts.
JUDGES: dict[str, tuple[Tests, ...]] = {
    "math": (_DENSE, _CFC, _PROGRAM, _ALL),
    "activations": (_ACTIVATIONS, _PROGRAM, _ALL),
    "matrix": (_MATRIX, _CFCS),
    "program": (_PROGRAM, _PROGRAMS),
    "lstm": (_LSTM, Tests(("ltc_beside",), "memory or both")),
    "cfc": (_CFC, _MATRIX, _CFC_BESIDE, _CFCS),
    "cfc_update": (_UPDATE, Tests(("cfc", "cfc_features"), "products")),
    "ltc": (_DENSE, _LISTS_DENSE, _LTCS),
    "ltc_dense": (_DENSE, _beside("dense", "(H9 or H33)"), _LISTS_DENSE, _LTCS),
    "ltc_streamed": (_STREAMED, _beside("streamed", "B3T5"), _LTCS),
    "ltc_lists": (_LISTS, _beside("lists", "B5T4"), _LTCS),
    "ltc_replay": (_DENSE, _beside("dense", "H9"), _STREAMED, _LTCS),
    "ltc_fold": (_FOLD, Tests(("fold",))),
}


def selections(path: str) -> list[list[str]]:
    """Arguments of pytest, the quickest first."""
    stem = Path(path).stem
    beginning = max((name for name in JUDGES if stem.startswith(name)), key=len)
    return [tests.arguments for tests in JUDGES[beginning]]
