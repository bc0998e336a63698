"""What tests, benchmarks and tools share: the table of cases, layers, simulated machines."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
