"""Interleaved rounds: every rival once a round, in a changing order, so that what the machine does meanwhile hits all alike.

Results are medians with the interval that holds the true median in 95 % of cases (order statistics, no assumption about the
distribution), and ratios taken round by round.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Summary:
    """Median and the 95 % interval of it, in the unit of the samples."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.low:.4g}–{self.high:.4g})"


def summarise(samples: Sequence[float]) -> Summary:
    """Median and interval; ValueError without samples."""
    if not samples:
        raise ValueError("no samples")
    ordered, n = sorted(samples), len(samples)
    reach = 1.96 * n**0.5 / 2
    low, high = max(0, int(n / 2 - reach)), min(n - 1, int(n / 2 + reach))
    return Summary(statistics.median(ordered), ordered[low], ordered[high], n)


def interleave(rivals: Mapping[str, Callable[[], float]], rounds: int = 10) -> dict[str, list[float]]:
    """One sample of each rival a round, in random order."""
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name in random.sample(list(rivals), len(rivals)):
            samples[name].append(rivals[name]())
    return samples


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Summary:
    """Ours over theirs, round by round."""
    return summarise([a / b for a, b in zip(ours, theirs, strict=True)])


def table(title: str, unit: str, samples: Mapping[str, Sequence[float]], ours: str) -> str:
    """A Markdown table: each rival's median, and ours in proportion to it."""
    lines = [f"### {title}", "", f"| | {unit} | ours / this |", "|---|---|---|"]
    for name, values in samples.items():
        proportion = "" if name == ours else str(ratio(samples[ours], values))
        lines.append(f"| {'**' + name + '**' if name == ours else name} | {summarise(values)} | {proportion} |")
    return "\n".join(lines) + "\n"


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "kernel": platform.release(),
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


def save(name: str, data: object) -> Path:
    """Write benchmarks/results/NAME.json with the machine beside the data."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "data": data}, indent=1))
    return path
