"""Shuffles between the lanes of a group of four, in SPIR-V. OpenCL has no name for them, and Mesa
makes a dozen instructions of a shuffle between any lanes; of these it makes one, as the machine has
it, and as Metal's simd_shuffle_xor of a constant may become.
"""

from __future__ import annotations

from array import array

CAPABILITY, CONSTANT, FUNCTION = 17, 43, 54
SHUFFLE_XOR, QUAD_SWAP = 346, 366  # with the same operands but the last: a mask, or a direction
QUAD = 68  # the capability that QUAD_SWAP needs
DIRECTIONS = {1: 0, 2: 1, 3: 2}  # of a mask: horizontal, vertical, diagonal


def swapped(module: bytes) -> bytes:
    """A SPIR-V module with a QUAD_SWAP in the place of every SHUFFLE_XOR by a constant below 4."""
    words = array("I", module)
    head, found = words[:5], list(_instructions(words))
    constants = {one[2]: (one[1], one[3]) for one in found if one[0] & 0xFFFF == CONSTANT}
    added: dict[tuple[int, int], int] = {}  # (type, direction): the constant's name

    def swap(one):
        kind, mask = constants.get(one[5], (0, 0))
        if mask not in DIRECTIONS:
            return one
        key = kind, DIRECTIONS[mask]
        one[0], one[5] = 6 << 16 | QUAD_SWAP, added.setdefault(key, head[3] + len(added))
        return one

    found = [swap(one) if one[0] & 0xFFFF == SHUFFLE_XOR else one for one in found]
    if not added:
        return module
    first = next(n for n, one in enumerate(found) if one[0] & 0xFFFF == FUNCTION)
    new = [array("I", (4 << 16 | CONSTANT, t, name, value)) for (t, value), name in added.items()]
    head[3] += len(added)
    capability = array("I", (2 << 16 | CAPABILITY, QUAD))
    rest = capability, *found[:first], *new, *found[first:]
    return b"".join(one.tobytes() for one in (head, *rest))


def _instructions(words):
    at = 5
    while at < len(words):
        yield words[at : at + (words[at] >> 16)]
        at += words[at] >> 16
