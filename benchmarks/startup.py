"""Start-up: whole processes of ``fininfra-db`` against Alembic's own command, on the same revisions and databases.

    python -m benchmarks.startup [--rounds N]

Alembic stands in a project of its own, made with ``alembic init``: with its ``async`` template on our very URL, which is
like for like, and on SQLite also with its ``generic`` template on the synchronous driver, the fastest that Alembic can be.
Nothing is written by what is measured: every database is at head.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from benchmarks.measure import KIB, Samples, Side, markdown, measure

HISTORIES: Final = (10, 3000)
MEASURED: Final = {"--help": ("--help", "--help"), "current": ("current", "current"), "upgrade": ("upgrade", "upgrade head")}
"""What is measured: our arguments, and Alembic's for the same work."""

TARGETS: Final = {("--help", 10): 0.4, ("current", 10): 1.0, ("upgrade", 10): 1.0, ("current", 3000): 0.6, ("upgrade", 3000): 0.6}
OURS: Final = "fininfra-db"

_SCRIPTS: Final = Path(sys.executable).parent
_SERVER: Final = os.environ.get("FININFRA_TEST_POSTGRESQL_URL") or "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres"
_SETTINGS: Final = ("SQL_URL", "DATABASE_URL", "PROJECT_ROOT", "APP_ENV", "FININFRA_", "PYTHON")
_ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}

_REVISION: Final = '''"""create table {table}

Revision ID: {revision}
Revises: {parent}
Create Date: 2026-01-01 00:00:00.000000

"""
from typing import Sequence, Union

from alembic import op
import sqlalchemy as sa


# revision identifiers, used by Alembic.
revision: str = {revision!r}
down_revision: Union[str, Sequence[str], None] = {parent!r}
branch_labels: Union[str, Sequence[str], None] = None
depends_on: Union[str, Sequence[str], None] = None


def upgrade() -> None:
    """Upgrade schema."""
    op.create_table(
        "{table}",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("amount", sa.Numeric(precision=19, scale=4), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_{table}")),
    )


def downgrade() -> None:
    """Downgrade schema."""
    op.drop_table("{table}")
'''

_EXECUTE: Final = """
import asyncio, sys, asyncpg
async def main():
    connection = await asyncpg.connect(sys.argv[1], timeout=5)
    await connection.execute(sys.argv[2])
    await connection.close()
asyncio.run(main())
"""
"""Run by a process of its own: this one stays small, see :mod:`benchmarks.measure`."""


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
            server_url = stack.enter_context(_scratch_database(f"fininfra_startup_{revisions}_{os.getpid()}"))
            samples |= measure(_sides(Path(folder) / str(revisions), revisions, server_url), rounds)
    print(_report(samples, rounds))


def _sides(folder: Path, revisions: int, server_url: str | None) -> dict[Case, Side]:
    """Every command on every database, as each program runs it."""
    generic = _Project.of_alembic(folder / "generic", "generic", "sqlite:///dev.db", revisions)
    sqlite = [
        _Project.of_ours(folder / "ours", "sqlite+aiosqlite:///dev.db", revisions),
        _Project.of_alembic(folder / "async", "async", "sqlite+aiosqlite:///dev.db", revisions),
        generic,
    ]
    server = []
    if server_url is not None:
        server = [
            _Project.of_ours(folder / "ours-server", server_url, revisions),
            _Project.of_alembic(folder / "async-server", "async", server_url, revisions),
        ]
    sides = {}
    if revisions == HISTORIES[0]:  # help reads no history
        for project in (sqlite[0], generic):
            sides[Case("--help", revisions, "-", "alembic" if project is generic else OURS)] = project.side("--help")
    for database, projects in (("SQLite", sqlite), ("PostgreSQL", server)):
        for command in ("current", "upgrade"):
            for project in projects:
                sides[Case(command, revisions, database, project.program)] = project.side(command)
    return sides


@dataclass(frozen=True)
class _Project:
    """A project folder whose database is at head."""

    program: str
    folder: Path
    environment: dict[str, str]

    @classmethod
    def of_ours(cls, folder: Path, url: str, revisions: int) -> "_Project":
        folder.mkdir(parents=True)
        project = cls(OURS, folder, _ENVIRONMENT | {"SQL_URL": url})
        project.run("init")
        return project._at_head(revisions)

    @classmethod
    def of_alembic(cls, folder: Path, template: str, url: str, revisions: int) -> "_Project":
        folder.mkdir(parents=True)
        project = cls(f"alembic, {template}", folder, _ENVIRONMENT)
        project.run("init", "-t", template, "migrations")
        ini = folder / "alembic.ini"
        escaped = url.replace("%", "%%")
        ini.write_text(ini.read_text().replace("driver://user:pass@localhost/dbname", escaped))
        return project._at_head(revisions)

    def _at_head(self, revisions: int) -> "_Project":
        parent = None
        for number in range(revisions):
            table = f"account_{number:04d}"
            revision = sha256(table.encode()).hexdigest()[:12]
            text = _REVISION.format(table=table, revision=revision, parent=parent)
            (self.folder / "migrations" / "versions" / f"{revision}_create_{table}.py").write_text(text)
            parent = revision
        self.run("stamp", "head")
        current = self.side("current").output()
        if f"{parent} (head)" not in current:
            raise RuntimeError(f"{self.folder} is not at its head {parent}: {current}")
        return self

    def run(self, *arguments: str) -> None:
        Side((self._script, *arguments), self.folder, self.environment).output()

    def side(self, command: str) -> Side:
        arguments = MEASURED[command][self.program != OURS].split()
        return Side((self._script, *arguments), self.folder, self.environment)

    @property
    def _script(self) -> str:
        return str(_SCRIPTS / self.program.partition(",")[0])


@contextmanager
def _scratch_database(name: str) -> Iterator[str | None]:
    """The URL of a new, empty database on the PostgreSQL server; None when no server answers."""
    url = urlsplit(_SERVER)
    server = url._replace(scheme=url.scheme.partition("+")[0]).geturl()
    made = _execute(server, f'CREATE DATABASE "{name}"')
    try:
        yield url._replace(path=f"/{name}").geturl() if made else None
    finally:
        if made:
            _execute(server, f'DROP DATABASE "{name}" WITH (FORCE)')


def _execute(server: str, statement: str) -> bool:
    return subprocess.run([sys.executable, "-c", _EXECUTE, server, statement], capture_output=True).returncode == 0


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
    packages = ", ".join(f"{name} {version(name)}" for name in (OURS, "alembic", "sqlalchemy", "typer", "aiosqlite", "asyncpg"))
    return "\n".join(
        [
            markdown(header, rows),
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {packages}; {platform.system()} {platform.machine()}, "
            f"{os.cpu_count()} cores. Medians of {rounds} rounds, the fastest in brackets. MB is peak memory; less than the "
            f"benchmark's own {own:.0f} does not show.",
        ]
    )


if __name__ == "__main__":
    main()
