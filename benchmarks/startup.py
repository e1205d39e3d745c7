"""Start-up: whole processes of ``fininfra-db`` against Alembic's own command, on the same revisions and databases.

    python -m benchmarks.startup [--rounds N]

Alembic stands in a project of its own, made with ``alembic init``: with its ``async`` template on our very URL, which is
like for like, and on SQLite also with its ``generic`` template on the synchronous driver, the fastest that Alembic can be.
Nothing is written by what is measured: every database is at head.
"""

import argparse
import os
import resource
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.measure import KIB, Samples, Side, markdown, measure, setting
from benchmarks.projects import OURS, Project, scratch_database

HISTORIES: Final = (10, 3000)
MEASURED: Final = {"--help": ("--help", "--help"), "current": ("current", "current"), "upgrade": ("upgrade", "upgrade head")}
"""What is measured: our arguments, and Alembic's for the same work."""

TARGETS: Final = {("--help", 10): 0.4, ("current", 10): 1.0, ("upgrade", 10): 1.0, ("current", 3000): 0.6, ("upgrade", 3000): 0.6}


@dataclass(frozen=True)
class Case:
    """What one figure is about."""

    command: str
    revisions: int
    database: str
    program: str


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description="Start-up against Alembic's own command.")
    parser.add_argument("--rounds", type=int, default=15, help="how often each command runs")
    rounds = parser.parse_args().rounds
    samples: dict[Case, Samples] = {}
    with tempfile.TemporaryDirectory(prefix="fininfra-startup-") as folder, ExitStack() as stack:
        for revisions in HISTORIES:
            server_url = stack.enter_context(scratch_database(f"fininfra_startup_{revisions}_{os.getpid()}"))
            samples |= measure(_sides(Path(folder) / str(revisions), revisions, server_url), rounds)
    print(_report(samples, rounds))


def _sides(folder: Path, revisions: int, server_url: str | None) -> dict[Case, Side]:
    """Every command on every database, as each program runs it."""
    local = "sqlite+aiosqlite:///dev.db"
    generic = Project.of_alembic(folder / "generic", "generic", "sqlite:///dev.db")
    sqlite = [Project.of_ours(folder / "ours", local), Project.of_alembic(folder / "async", "async", local), generic]
    server = []
    if server_url is not None:
        server = [
            Project.of_ours(folder / "ours-server", server_url),
            Project.of_alembic(folder / "async-server", "async", server_url),
        ]
    for project in (*sqlite, *server):
        head = project.add_tables(revisions)
        project.side("stamp", "head").output()
        project.require_head(head)
    sides = {}
    if revisions == HISTORIES[0]:  # help reads no history
        for project in (sqlite[0], generic):
            sides[Case("--help", revisions, "-", "alembic" if project is generic else OURS)] = _side(project, "--help")
    for database, projects in (("SQLite", sqlite), ("PostgreSQL", server)):
        for command in ("current", "upgrade"):
            for project in projects:
                sides[Case(command, revisions, database, project.program)] = _side(project, command)
    return sides


def _side(project: Project, command: str) -> Side:
    return project.side(*MEASURED[command][not project.is_ours].split())


def _report(samples: dict[Case, Samples], rounds: int) -> str:
    header = ("command", "revisions", "database", "peer", "ours ms", "peer ms", "ratio", "target", "ours MB", "peer MB")
    rows = []
    for case, theirs in samples.items():
        if case.program == OURS:
            continue
        ours = samples[Case(case.command, case.revisions, case.database, OURS)]
        rows.append(
            (
                case.command,
                "-" if case.command == "--help" else f"{case.revisions:,}",
                case.database,
                case.program,
                f"{ours.median:.0f} ({ours.fastest:.0f})",
                f"{theirs.median:.0f} ({theirs.fastest:.0f})",
                f"{ours.median / theirs.median:.2f} ({ours.fastest / theirs.fastest:.2f})",
                f"{TARGETS[case.command, case.revisions]}",
                f"{ours.peak:.1f}",
                f"{theirs.peak:.1f}",
            )
        )
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB
    packages = (OURS, "alembic", "sqlalchemy", "typer", "aiosqlite", "asyncpg")
    return "\n".join(
        [
            markdown(header, rows),
            "",
            f"{setting(*packages)} Medians of {rounds} rounds, the fastest in brackets. MB is peak memory; less than the "
            f"benchmark's own {own:.0f} does not show.",
        ]
    )


if __name__ == "__main__":
    main()
