"""What is at stake in a database: its own name, its marker, the rows of its tables and the newest write. One look, nothing written."""

import warnings
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, DateTime, Inspector, column, func, inspect, select, table
from sqlalchemy.exc import DBAPIError, NoSuchTableError, SAWarning

from fininfra_db.dialects import Dialect
from fininfra_db.migrate.marker import read_marker
from fininfra_db.migrate.plugin import PREFIX
from fininfra_db.types import UtcDateTime

_INSTANTS: Final = ("created_at", "updated_at")
_VERSION_COLUMNS: Final = {"version_num"}
"""The columns of Alembic's version table, whatever it is called: its rows are not data."""


@dataclass(frozen=True)
class Found:
    """What the look found. ``has_tables``: there is a table that is not this program's own."""

    name: str
    environment: str | None = None
    has_tables: bool = False
    rows: dict[str, int] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    newest_write: datetime | None = None


def look(connection: Connection, dialect: Dialect) -> Found:
    """Look at the database of ``connection``. A table that is locked is not waited for."""
    dialect.wait_for_no_table(connection)
    inspector = inspect(connection)
    counted = {
        f"{schema}.{name}" if schema else name: _count(connection, inspector, schema, name)
        for schema in dialect.schemas(connection)
        for name in inspector.get_table_names(schema)
        if not name.startswith(PREFIX)
    }
    rows = {name: found[0] for name, found in counted.items() if found is not None and found[0]}
    return Found(
        name=dialect.live_name(connection),
        environment=read_marker(connection),
        has_tables=bool(counted),
        rows=dict(sorted(rows.items(), key=lambda item: (-item[1], item[0]))),
        unread=tuple(sorted(name for name, found in counted.items() if found is None)),
        newest_write=max((found[1] for found in counted.values() if found and found[1]), default=None),
    )


def _count(connection: Connection, inspector: Inspector, schema: str | None, name: str) -> tuple[int, datetime | None] | None:
    """How many rows a table has, and its newest instant; None when it cannot be read, or not now.

    In a savepoint, since on PostgreSQL one refused statement would end the look at all the others.
    """
    try:
        with connection.begin_nested(), warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # of types that SQLAlchemy does not know, which do not matter here
            types = {each["name"]: each["type"] for each in inspector.get_columns(name, schema)}
            if set(types) == _VERSION_COLUMNS:
                return 0, None
            instants = [column(each, UtcDateTime()) for each in _INSTANTS if isinstance(types.get(each), DateTime)]
            source = table(name, *instants, schema=schema)
            count = connection.scalar(select(func.count()).select_from(source)) or 0
            return count, max(filter(None, (_newest(connection, source.c[each.name]) for each in instants)), default=None)
    except (DBAPIError, NoSuchTableError):  # refused, locked, or gone since the names were listed
        return None


def _newest(connection: Connection, instant: Any) -> datetime | None:
    try:
        newest: datetime | None = connection.scalar(select(func.max(instant)))
    except ValueError:  # SQLite keeps any text in such a column, also one that is no instant
        return None
    return newest
