"""What `backends.shapeless` has, for the cells and layers, which don't import backends."""

from ..backends.shapeless import (
    columns,
    last_step,
    length_varies,
    linear,
    one_step,
    refuse,
    timespans,
    tracing,
    zero_state,
)

__all__ = [
    "columns",
    "last_step",
    "length_varies",
    "linear",
    "one_step",
    "refuse",
    "timespans",
    "tracing",
    "zero_state",
]
