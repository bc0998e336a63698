"""Step programs on a GPU: a kernel of its own for each program, whose text is written from its
instructions, runs whole sequences, forward and backward.
"""

from .schedule import Unsupported
from .sequence import Steps, launch_count, program_sequence, unsupported

__all__ = ["Steps", "Unsupported", "launch_count", "program_sequence", "unsupported"]
