"""Step programs: one step of any cell, traced once, as a short list of instructions that the
extension runs over whole sequences.
"""

from . import computing, moving  # noqa: F401  they fill the table of handlers
from .holding import holding
from .memo import Memo
from .modules import HALVES, float32_weights
from .on_gpu import gpu_choice, gpu_in_place, launches_on_gpu, runner_of_gpu, why_not_on_gpu
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
    "gpu_choice",
    "gpu_in_place",
    "holding",
    "is_too_large",
    "launches_on_gpu",
    "owned",
    "programs_of",
    "run_program",
    "runner_of_gpu",
    "step_program",
    "trace",
    "trace_checked",
    "why_none",
    "why_not_on_gpu",
]
