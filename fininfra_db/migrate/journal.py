"""The journal of revisions: what ran, when, by whom, and how far it came.

One table in the database, ``fininfra_migrations``. Where DDL is rolled back with its transaction, a row is written with
the revision that it tells of. Where DDL commits by itself, the row is committed before the revision's first statement and
counts the statements, so that a run that was killed can be told from one that never was.
"""

import hashlib
import re
from pathlib import Path
from typing import Final

from sqlalchemy import Column, Connection, Double, Integer, MetaData, String, Table, Text, inspect, select, update

from fininfra_db.dialects import dialect_of
from fininfra_db.errors import RevisionBroken
from fininfra_db.results import Entry
from fininfra_db.types import UtcDateTime

TABLE: Final = "fininfra_migrations"
VERSION_TABLE: Final = "alembic_version"

RUNNING: Final = "running"
DONE: Final = "done"
FAILED: Final = "failed"
SETTLED: Final = "settled"

_CODE_OR_COMMENT: Final = re.compile(
    r'("""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|[^"\'#]+|["\'])|#[^\n]*', re.DOTALL
)
_DOCSTRING: Final = re.compile(
    r'\s*[rRuU]?(?:"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')', re.DOTALL
)

entries: Final = Table(
    TABLE,
    MetaData(),
    Column("id", String(36), primary_key=True),
    Column("revision", String(255), nullable=False),
    Column("direction", String(4), nullable=False),
    Column("outcome", String(10), nullable=False),
    Column("started", UtcDateTime(), nullable=False),
    Column("seconds", Double()),
    Column("statement", Integer, nullable=False),
    Column("statement_sql", Text),
    Column("digest", String(64)),
    Column("checksum", String(64)),
    Column("version_table", String(255), nullable=False),
    Column("login", String(255)),
    Column("host", String(255)),
    Column("pid", Integer),
    Column("tool_version", String(50)),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)


def read_entries(connection: Connection, version_table: str | None = None) -> tuple[Entry, ...]:
    """Every row, oldest first, or those of one version table; none where there is no journal yet. Nothing is written."""
    if not inspect(connection).has_table(TABLE):
        return ()
    rows = select(entries).order_by(entries.c.id)
    if version_table is not None:
        rows = rows.where(entries.c.version_table == version_table)
    return tuple(Entry(**row) for row in connection.execute(rows).mappings())


def read_unfinished(connection: Connection, version_table: str = VERSION_TABLE) -> Entry | None:
    """The revision that began and did not end; None when all did. While a run goes on, that is the one it is at.

    ``version_table`` says whose: projects may share a database.
    """
    if not inspect(connection).has_table(TABLE):
        return None
    running = select(entries).where(entries.c.outcome == RUNNING, entries.c.version_table == version_table).order_by(entries.c.id)
    row = connection.execute(running).mappings().first()
    return Entry(**row) if row else None


def write_entries(connection: Connection, *new: Entry) -> None:
    """Insert rows; the table must be there."""
    if new:
        dialect_of(connection.dialect.name).insert_unread(connection, entries, map(vars, new))


def rewrite(connection: Connection, entry: Entry) -> None:
    """Make the row of ``entry`` say what ``entry`` says."""
    connection.execute(update(entries).where(entries.c.id == entry.id), vars(entry) | {"id": entry.id})


def settle_all(connection: Connection, version_table: str) -> None:
    """Say of every unfinished revision of one project that nobody needs to finish it; the caller commits.

    Nothing where there is no journal.
    """
    if inspect(connection).has_table(TABLE):
        running = (entries.c.outcome == RUNNING, entries.c.version_table == version_table)
        connection.execute(update(entries).where(*running).values(outcome=SETTLED))


def checksum_of(path: Path) -> str:
    """The SHA-256 of a revision file's code, as hexadecimal digits: comments, blank lines and the docstring do not count.

    It is made from the text, so every version of Python comes to the same. Raises ``RevisionBroken``.
    """
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RevisionBroken(f"The revision file {path.name} cannot be read: {error}.", f"Correct {path}.") from None
    code = "".join(_CODE_OR_COMMENT.findall(source))
    code = _DOCSTRING.sub("", code, count=1) if _DOCSTRING.match(code) else code
    lines = filter(None, map(str.rstrip, code.splitlines()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
