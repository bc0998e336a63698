"""The words of the Metal Shading Language that the front end and the lint must know."""

from __future__ import annotations

ADDRESS_SPACES = ("device", "constant", "threadgroup", "thread", "threadgroup_imageblock")
FUNCTION_KINDS = ("kernel", "vertex", "fragment")

SCALARS = (
    *("bool", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong"),
    *("half", "float", "bfloat"),
)
# Scalar types in a kernel's signature: (bytes, kind of a NumPy dtype).
SIZES = {
    **dict.fromkeys(("bool",), (1, "b")),
    **dict.fromkeys(("char", "int8_t"), (1, "i")),
    **dict.fromkeys(("uchar", "uint8_t"), (1, "u")),
    **dict.fromkeys(("short", "int16_t"), (2, "i")),
    **dict.fromkeys(("ushort", "uint16_t"), (2, "u")),
    **dict.fromkeys(("int", "int32_t"), (4, "i")),
    **dict.fromkeys(("uint", "uint32_t"), (4, "u")),
    **dict.fromkeys(("long", "int64_t"), (8, "i")),
    **dict.fromkeys(("ulong", "uint64_t", "size_t"), (8, "u")),
    **dict.fromkeys(("half", "float16_t"), (2, "f")),
    "float": (4, "f"),
}
BFLOATS = ("bfloat", "bfloat16_t")
VECTORS = frozenset(f"{scalar}{n}" for scalar in SCALARS for n in (2, 3, 4))

# Names that Metal's own headers or grammar take: a variable, parameter, field or function of this
# name is an error there, or hides a type that the rest of the text needs.
RESERVED = frozenset(
    (*ADDRESS_SPACES, *FUNCTION_KINDS, *SCALARS, *VECTORS, "object_data", "ray_data", "sampler")
)

# Words that end a declarator: a reserved word before one of them stands where a name belongs.
AFTER_A_NAME = frozenset(("=", ";", "[", ",", "++", "--", "+=", "-="))

# C++ that Metal leaves out and that a syntax tree may not show.
BANNED = frozenset(
    (
        *("goto", "try", "catch", "throw", "typeid", "dynamic_cast", "thread_local", "virtual"),
        *("asm", "__asm__", "register", "double"),
    )
)

# What asks for a NaN or an infinity, or makes one.
NOT_FINITE = frozenset(
    (
        *("isnan", "isinf", "isfinite", "isnormal", "isordered", "isunordered"),
        *("INFINITY", "NAN", "HUGE_VALF", "HUGE_VALH", "infinity", "quiet_NaN", "signaling_NaN"),
    )
)

# Keywords of OpenCL that are ordinary identifiers in Metal: the front end renames them.
OPENCL_ONLY = frozenset(
    (
        *("global", "local", "generic", "pipe", "read_only", "write_only", "read_write"),
        *("event_t", "queue_t", "clk_event_t", "reserve_id_t", "vec_step", "channel"),
        *("image1d_t", "image2d_t", "image3d_t"),
    )
)

# Values that a kernel receives through an attribute of the same name. The order is that of
# `Builtin` in runtime/state.h: the launcher passes three words for each.
BUILTINS = (
    "thread_position_in_grid",
    "thread_position_in_threadgroup",
    "threadgroup_position_in_grid",
    "threads_per_grid",
    "threads_per_threadgroup",
    "dispatch_threads_per_threadgroup",
    "threadgroups_per_grid",
    "grid_size",
    "grid_origin",
    "thread_index_in_threadgroup",
    "thread_index_in_simdgroup",
    "simdgroup_index_in_threadgroup",
    "simdgroups_per_threadgroup",
    "dispatch_simdgroups_per_threadgroup",
    "threads_per_simdgroup",
    "thread_execution_width",
    "thread_index_in_quadgroup",
    "quadgroup_index_in_threadgroup",
    "quadgroups_per_threadgroup",
    "dispatch_quadgroups_per_threadgroup",
)

# Apple's headers that a text may include: all empty here, the stand-in replaces them.
HEADERS = (
    *("array", "atomic", "common", "compute", "extended_vector", "geometric", "integer"),
    *("limits", "logging", "math", "matrix", "numeric", "pack", "quadgroup", "relational"),
    *("simdgroup", "simdgroup_matrix", "stdlib", "tensor", "texture", "type_traits", "types"),
    *("uniform",),
)
