"""The journal of revisions: what ran, when, by whom, and how far it came.

One table in the database, ``fininfra_migrations``. Where DDL is rolled back with its transaction, a row is written with
the revision that it tells of. Where DDL commits by itself, the row is committed before the revision's first statement and
counts the statements, so that a run that was killed can be told from one that never was.
"""

import hashlib
import io
import tokenize
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Column, Connection, Double, Integer, MetaData, String, Table, Text, inspect, select

from fininfra_db.errors import RevisionBroken
from fininfra_db.results import Entry
from fininfra_db.types import UtcDateTime

TABLE: Final = "fininfra_migrations"

RUNNING: Final = "running"
DONE: Final = "done"
FAILED: Final = "failed"
SETTLED: Final = "settled"

_LAYOUT: Final = (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER)
_BLOCKS: Final = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)

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
    Column("login", String(255)),
    Column("host", String(255)),
    Column("pid", Integer),
    Column("tool_version", String(50)),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)


def read_entries(connection: Connection) -> tuple[Entry, ...]:
    """Every row, oldest first; none where there is no journal yet. Nothing is written."""
    if not inspect(connection).has_table(TABLE):
        return ()
    return tuple(Entry(**row) for row in connection.execute(select(entries).order_by(entries.c.id)).mappings())


def checksum_of(path: Path) -> str:
    """The SHA-256 of a revision file's code, as hexadecimal digits: its comments, blank lines and docstring do not count.

    The same on every version of Python: it is made from the text of the tokens. Raises ``RevisionBroken``.
    """
    try:
        source = path.read_text(encoding="utf-8")
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (OSError, UnicodeDecodeError, tokenize.TokenError, SyntaxError) as error:
        raise RevisionBroken(f"The revision file {path.name} cannot be read: {error}.", f"Correct {path}.") from None
    return hashlib.sha256("\n".join(_code(tokens, source.splitlines(keepends=True))).encode()).hexdigest()


def _code(tokens: list[tokenize.TokenInfo], lines: list[str]) -> list[str]:
    """The text of each token that is code. An f-string is one text, as it was before Python 3.12 took it apart."""
    found: list[str] = []
    fstring: list[tuple[int, int]] = []
    for token in tokens:
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_START":
            fstring.append(token.start)
        elif kind == "FSTRING_END":
            start = fstring.pop()
            if not fstring:
                found.append(_slice(lines, start, token.end))
        elif not fstring and token.type not in _LAYOUT:
            found.append(tokenize.tok_name[token.type] if token.type in _BLOCKS else token.string)
    is_docstring = len(found) > 1 and found[0].lstrip("rRuUbB")[:1] in ("'", '"') and found[1] == "NEWLINE"
    return found[2:] if is_docstring else found


def _slice(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    (first, left), (last, right) = start, end
    if first == last:
        return lines[first - 1][left:right]
    return lines[first - 1][left:] + "".join(lines[first : last - 1]) + lines[last - 1][:right]


def as_row(entry: Entry) -> dict[str, Any]:
    """The columns of a row."""
    return {column.name: getattr(entry, column.name) for column in entries.c}
