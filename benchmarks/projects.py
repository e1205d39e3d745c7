"""Projects to measure: this program's and Alembic's own, with the same revisions on the same databases.

Small on purpose, as :mod:`benchmarks.measure` says.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from benchmarks.measure import Side

OURS: Final = "fininfra-db"

_SCRIPTS: Final = Path(sys.executable).parent
_SERVER: Final = os.environ.get("FININFRA_TEST_POSTGRESQL_URL") or "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres"
_SETTINGS: Final = ("SQL_URL", "DATABASE_URL", "PROJECT_ROOT", "APP_ENV", "FININFRA_", "PYTHON")
_ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if name == "PYTHONPATH" or not name.startswith(_SETTINGS)}
"""The surroundings of both programs: without what would reach into a project, and with the tree that is being worked on."""

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
    for statement in sys.argv[2:]:
        await connection.execute(statement)
    await connection.close()
asyncio.run(main())
"""
"""Run by a process of its own: this one stays small."""


@dataclass(frozen=True)
class Project:
    """A project folder and the program that works in it: ``fininfra-db``, or ``alembic`` and the template it was made from."""

    program: str
    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def of_ours(cls, folder: Path, url: str) -> "Project":
        """A new project of this program on ``url``."""
        folder.mkdir(parents=True)
        project = cls(OURS, folder, _ENVIRONMENT | {"SQL_URL": url})
        project.side("init").output()
        return project

    @classmethod
    def of_alembic(cls, folder: Path, template: str, url: str) -> "Project":
        """What ``alembic init -t template`` makes, with ``url`` in its ini file."""
        folder.mkdir(parents=True)
        project = cls(f"alembic, {template}", folder, _ENVIRONMENT)
        project.side("init", "-t", template, "migrations").output()
        ini = folder / "alembic.ini"
        escaped = url.replace("%", "%%")
        ini.write_text(ini.read_text().replace("driver://user:pass@localhost/dbname", escaped))
        return project

    @property
    def is_ours(self) -> bool:
        return self.program == OURS

    def add_revision(self, revision: str, text: str) -> None:
        """Write a revision file."""
        (self.folder / "migrations" / "versions" / f"{revision}.py").write_text(text)

    def add_tables(self, count: int) -> str:
        """Write ``count`` revisions, each of which creates a small table. Returns the head."""
        parent = None
        for number in range(count):
            table = f"account_{number:04d}"
            revision = sha256(table.encode()).hexdigest()[:12]
            self.add_revision(f"{revision}_create_{table}", _REVISION.format(table=table, revision=revision, parent=parent))
            parent = revision
        return str(parent)

    def require_head(self, head: str) -> None:
        """Raise ``RuntimeError`` unless the database is at ``head``."""
        current = self.side("current").output()
        if f"{head} (head)" not in current:
            raise RuntimeError(f"{self.folder} is not at its head {head}: {current}")

    def side(self, *arguments: str) -> Side:
        """The program with ``arguments``, to run and to measure."""
        return Side((str(_SCRIPTS / self.program.partition(",")[0]), *arguments), self.folder, self.environment)


@contextmanager
def scratch_database(name: str) -> Iterator[str | None]:
    """The URL of a new, empty database on the PostgreSQL server; None when no server answers."""
    url = urlsplit(_SERVER)._replace(path=f"/{name}").geturl()
    made = create_database(url)
    try:
        yield url if made else None
    finally:
        if made:
            _execute(_drop(name))


def create_database(url: str) -> bool:
    """Create the database of ``url`` on the PostgreSQL server, empty, whether or not it is there; whether the server answered."""
    name = urlsplit(url).path[1:]
    return _execute(_drop(name), f'CREATE DATABASE "{name}"')


def _drop(name: str) -> str:
    return f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'


def _execute(*statements: str) -> bool:
    url = urlsplit(_SERVER)
    server = url._replace(scheme=url.scheme.partition("+")[0]).geturl()
    return subprocess.run([sys.executable, "-c", _EXECUTE, server, *statements], capture_output=True).returncode == 0
