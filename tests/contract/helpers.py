"""What the contract suites share: scratch databases, models of the test's own, revision files, and looking behind the program's back."""

import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import inspect

from fininfra_db.connections import ensure_database, open_connection
from fininfra_db.migrate.authoring import Draft
from tests.conftest import Project


async def create_empty_database(project: Project) -> None:
    """Create the project's database without a table in it."""
    await ensure_database(project.settings())
    async with open_connection(project.settings(), "migration"):
        pass


async def table_names(project: Project) -> set[str]:
    """Every table of the database but the program's own."""
    async with open_connection(project.settings(), "reading") as connection:
        found = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        return {name for name in found if not name.startswith("fininfra_")}


async def column_names(project: Project, table: str) -> set[str]:
    """Every column of a table."""
    async with open_connection(project.settings(), "reading") as connection:
        return {column["name"] for column in await connection.run_sync(lambda sync: inspect(sync).get_columns(table))}


def files_of(root: Path) -> dict[Path, bytes]:
    """Every file below ``root`` but Python's caches, with what is in it."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def write_module(root: Path, source: str) -> str:
    """Write a module that can be imported from the project, under a name that no other test has imported, and return the name."""
    name = f"models_{uuid.uuid4().hex[:12]}"
    (root / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    return name


async def use_models(project: Project, source: str) -> None:
    """Make these the models of the project, as ``init --models`` does; files that are missing are written."""
    await project.database().init(models=(write_module(project.root, source),))


async def write_by_hand(project: Project, message: str, *statements: str, head: str = "head") -> str:
    """Write a revision whose upgrade is ``statements``. Returns its identifier."""
    written = await project.database().revision(Draft(message=message, head=head, splice=True))
    if statements:
        append_upgrade(written.paths[0], *statements)
    return written.revisions[0]


def append_upgrade(path: Path, *statements: str) -> None:
    """Write the body of an empty revision's ``upgrade()``."""
    head, empty, rest = path.read_text(encoding="utf-8").partition("    pass\n")
    assert empty
    path.write_text(head + "".join(f"    {statement}\n" for statement in statements) + rest, encoding="utf-8")


_OTHER_PROCESS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print("ready", flush=True)
sys.stdin.readline()
connection.close()
"""


@contextmanager
def another_process(path: Path, *statements: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs ``statements`` on a SQLite file and stays where it is. A line on its stdin ends it."""
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER_PROCESS, str(path), *statements],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the statements failed"
        try:
            yield process
        finally:
            release(process)


def release(process: "subprocess.Popen[str]") -> None:
    """Let ``another_process`` go."""
    process.communicate("\n" if process.poll() is None else None)


_FOREIGN_ENV = """
from alembic import context
from sqlalchemy import create_engine, pool, text

config = context.config
engine = create_engine(config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)

with engine.connect() as connection:
    {first}
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


def make_foreign(project: Project, *, first: str = "pass") -> None:
    """A project of somebody else, whose ``env.py`` does something first."""
    versions = project.root / "alembic" / "versions"
    versions.mkdir(parents=True)
    (project.root / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/alembic\n", encoding="utf-8")
    (project.root / "alembic" / "env.py").write_text(_FOREIGN_ENV.format(first=first), encoding="utf-8")
    (versions / "one.py").write_text(
        "from alembic import op\nrevision = 'one'\ndown_revision = None\n\n\n"
        "def upgrade():\n    op.execute('CREATE TABLE mine (id INTEGER)')\n\n\ndef downgrade():\n    op.execute('DROP TABLE mine')\n",
        encoding="utf-8",
    )
