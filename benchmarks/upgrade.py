"""Upgrade: an empty database taken through many small revisions, against Alembic's own command.

    python -m benchmarks.upgrade [--rounds N] [--revisions N]

Alembic stands in a project made with its ``async`` template, on the same revisions and the same URL. Each run begins
with an empty database, and its end is looked at: it is at head.
"""

import argparse
import os
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.measure import Samples, Side, markdown, measure, setting
from benchmarks.projects import OURS, Project, create_database, scratch_database

TARGETS: Final = {"SQLite": 0.7, "PostgreSQL": 1.0}
_LOCAL: Final = "sqlite+aiosqlite:///dev.db"

Key = tuple[str, str]
"""A database, and ours or the peer."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upgrade", description="Upgrades against Alembic's own command.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each command runs")
    parser.add_argument("--revisions", type=int, default=1000, help="how many revisions are applied")
    given = parser.parse_args()
    samples: dict[Key, Samples] = {}
    with tempfile.TemporaryDirectory(prefix="fininfra-upgrade-") as folder, ExitStack() as stack:
        servers = [stack.enter_context(scratch_database(f"fininfra_upgrade_{side}_{os.getpid()}")) for side in ("ours", "peer")]
        for database in TARGETS:
            urls = (_LOCAL, _LOCAL) if database == "SQLite" else tuple(url for url in servers if url is not None)
            if urls:
                samples |= _measured(database, Path(folder) / database, urls, given.revisions, given.rounds)
    print(_report(samples, given.revisions, given.rounds))


def _measured(database: str, folder: Path, urls: tuple[str, ...], revisions: int, rounds: int) -> dict[Key, Samples]:
    projects = (Project.of_ours(folder / "ours", urls[0]), Project.of_alembic(folder / "peer", "async", urls[1]))
    heads = [project.add_tables(revisions) for project in projects]
    sides = {(database, project.program): _side(project, url) for project, url in zip(projects, urls, strict=True)}
    samples = measure(sides, rounds)
    for project, head in zip(projects, heads, strict=True):
        project.require_head(head)
    return samples


def _side(project: Project, url: str) -> Side:
    file = project.folder / "dev.db"
    empty = partial(file.unlink, missing_ok=True) if url == _LOCAL else partial(create_database, url)
    return replace(project.side("upgrade", "head"), prepare=empty)


def _report(samples: dict[Key, Samples], revisions: int, rounds: int) -> str:
    rows = []
    for (database, program), theirs in samples.items():
        if program == OURS:
            continue
        ours = samples[database, OURS]
        rows.append(
            (
                database,
                program,
                f"{ours.median:,.0f} ({ours.fastest:,.0f})",
                f"{theirs.median:,.0f} ({theirs.fastest:,.0f})",
                f"{ours.median / theirs.median:.2f} ({ours.fastest / theirs.fastest:.2f})",
                f"{TARGETS[database]}",
            )
        )
    packages = (OURS, "alembic", "sqlalchemy", "aiosqlite", "asyncpg")
    return "\n".join(
        [
            markdown(("database", "peer", "ours ms", "peer ms", "ratio", "target"), rows),
            "",
            f"{setting(*packages)} {revisions:,} revisions, each creating a table. Medians of {rounds} rounds, the fastest in brackets.",
        ]
    )


if __name__ == "__main__":
    main()
