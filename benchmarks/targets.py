"""What the rows have to reach on a CPU with two AVX-512 cores."""

from __future__ import annotations

LTC, SMALL = "ltc-B64T128I64H64U6", "ltc-B32T64I16H64U6"
NCP, CFC = f"{LTC}-AutoNCP_64_8", "cfc-B64T128I64H128K128L1"
STEPS = ("ltc-B1T1I64H64U6", "ltc-B1T1I64H64U6-AutoNCP_64_8", "cfc-B1T1I64H128K128L1")
TITLES = {
    "mlx_ops": "as fast as MLX ops",
    "torch": "as fast as ncps.torch",
    "jax": "as fast as JAX scan",
    "limit": "of the vector limit",
    "memory": "of the memory of MLX ops",
    "p50": "p50 of a call",
}
# (row, kind, bound): at least, but for memory and p50 at most
TARGETS = (
    (f"{LTC} fwd", "mlx_ops", 120),
    (f"{LTC} fwd", "torch", 9),
    (f"{LTC} fwd", "jax", 6),
    (f"{LTC} fwd", "limit", 0.8),
    (f"{SMALL} fwd+bwd", "mlx_ops", 75),
    (f"{SMALL} fwd+bwd", "torch", 16),
    (f"{SMALL} fwd+bwd", "jax", 20),
    (f"{SMALL} fwd+bwd", "memory", 1 / 50),
    (f"{NCP} fwd", "mlx_ops", 500),
    (f"{NCP} fwd", "torch", 40),
    (f"{NCP} fwd", "jax", 25),
    (f"{CFC} fwd", "mlx_ops", 50),
    (f"{CFC} fwd", "torch", 3),
    (f"{CFC} fwd", "jax", 1.3),
    (f"{CFC} fwd", "limit", 0.75),
    (f"{CFC} fwd+bwd", "mlx_ops", 40),
    (f"{CFC} fwd+bwd", "torch", 3),
    (f"{CFC} fwd+bwd", "jax", 1.5),
    *((f"{name} step", kind, 10) for name in STEPS for kind in ("mlx_ops", "torch")),
    *((f"{name} step", "p50", 25e-6) for name in STEPS),
)
SMALLER = ("memory", "p50")


def reached(row: dict, kind: str) -> float | None:
    """What a summarised row reaches of a kind; None where it was not measured."""
    if kind == "limit":
        return row["share_of_limit"]
    if kind == "memory":
        return 1 / row["memory_ratio"] if row["memory_ratio"] else None
    if kind == "p50":
        return row["cells"].get("fused", {}).get("latency", {}).get("p50")
    return row["ratios"].get(kind)


def table(rows) -> list:
    """Case, target, what was reached and whether that is enough, of the targets of these rows."""
    found = {row["name"]: row for row in rows}
    lines = [["case", "target", "reached", ""]]
    for name, kind, bound in TARGETS:
        value = reached(found[name], kind) if name in found else None
        if value is None:
            continue
        enough = value <= bound if kind in SMALLER else value >= bound
        side = "at most" if kind in SMALLER else "at least"
        wanted = f"{side} {_text(kind, bound)} {TITLES[kind]}"
        lines.append([name, wanted, _text(kind, value), "met" if enough else "missed"])
    return lines


def _text(kind: str, value: float) -> str:
    if kind == "p50":
        return f"{value * 1e6:.3g} us"
    if kind == "memory":
        return f"1/{1 / value:.0f}"
    return f"{value:.0%}" if kind == "limit" else f"{value:.3g}x"
