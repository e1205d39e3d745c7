"""How every benchmark here measures: whole processes, all sides in turn, medians.

The machine is shared and its speed drifts, so the sides of a comparison run one after the other in each round, in
changing order, and only figures of the same run are set against each other.

This module and its callers stay small on purpose: Linux counts what a process held before ``exec`` as the child's, so
a child's peak memory is never below that of the process that started it.
"""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

KIB = 1024


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a command, where it runs, and with which environment.

    ``prepare`` is called before each run, outside of what is measured.
    """

    arguments: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    prepare: Callable[[], object] = lambda: None

    def output(self) -> str:
        """What the command prints, run once and not measured. Raises ``CalledProcessError`` when it fails."""
        done = subprocess.run(self.arguments, cwd=self.folder, env=self.environment, check=True, capture_output=True, text=True)
        return done.stdout


@dataclass
class Samples:
    """What the runs of one side took: seconds of wall time and KiB of peak memory."""

    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Milliseconds."""
        return statistics.median(self.seconds) * 1000

    @property
    def fastest(self) -> float:
        """Milliseconds."""
        return min(self.seconds) * 1000

    @property
    def peak(self) -> float:
        """MiB, the median of the runs."""
        return statistics.median(self.peaks) / KIB

    def add(self, side: Side) -> None:
        """Run ``side`` once. Raises ``RuntimeError`` when it fails: a failure is quick and would look like a gain."""
        side.prepare()
        with open(os.devnull, "wb") as nowhere:
            started = time.perf_counter()
            process = subprocess.Popen(side.arguments, cwd=side.folder, env=side.environment, stdout=nowhere, stderr=nowhere)
            _, status, usage = os.wait4(process.pid, 0)
            elapsed = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(side.arguments)} in {side.folder} ended with {process.returncode}")
        self.seconds.append(elapsed)
        self.peaks.append(usage.ru_maxrss)


def measure(sides: Mapping[K, Side], rounds: int) -> dict[K, Samples]:
    """Run every side once in each round, every other round in reverse; a first round only warms caches."""
    for side in sides.values():
        Samples().add(side)
    samples = {name: Samples() for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            samples[name].add(sides[name])
    return samples


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain markdown table; columns of figures are aligned to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    numeric = [all(row[column][:1].isdigit() or row[column] in ("", "-") for row in rows) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(cells, widths, numeric, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = "|".join(f"{'-' * (width + 1)}{':' if right else '-'}" for width, right in zip(widths, numeric, strict=True))
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def setting(*packages: str) -> str:
    """When and on what the figures were taken, to be printed below them."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {versions}; {machine}."
