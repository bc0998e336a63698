"""Step programs: one step of any cell, traced once, as a short list of instructions that the
extension runs over whole sequences.
"""

from . import computing, moving  # noqa: F401  they fill the table of handlers
from .memo import Memo
from .modules import HALVES, float32_weights
from .program import Declined, Instruction, Program
from .pure import Impure, Watch
from .run import is_too_large, owned, programs_of, run_program, why_none
from .steps import step_program
from .trace import trace, trace_checked

__all__ = [
    "HALVES",
    "Declined",
    "Impure",
    "Instruction",
    "Memo",
    "Program",
    "Watch",
    "float32_weights",
    "is_too_large",
    "owned",
    "programs_of",
    "run_program",
    "step_program",
    "trace",
    "trace_checked",
    "why_none",
]
