"""What a call would cost on a GPU at best, derived from published figures of the chips and measured
on none of them: the launches of a plan (`launches`), what a threadgroup of each kernel does
(`costs`), how long a chip takes for that (`chips`), and the table of docs/metal_kernels.md
(`table`). `compiled` counts the instructions of the recurrence as tools/agx compiles them, for the
table of docs/agx.md.

    python -m tools.plans                            # the table
    python -m tools.plans --compiled                 # that of docs/agx.md
    python -m tools.plans ltc B64 T128 I64 H64 U6    # one call; also cfc, --training
"""
