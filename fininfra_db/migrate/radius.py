"""What is at stake in a database: its own name, its marker, the rows of its tables and the newest write. One look, nothing written."""

import warnings
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, DateTime, column, func, inspect, select, table
from sqlalchemy.exc import DBAPIError, SAWarning

from fininfra_db.dialects import Dialect
from fininfra_db.migrate.marker import read_marker
from fininfra_db.migrate.meta import RESERVED_PREFIX
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
    """Look at the database of ``connection``."""
    tables = _tables(connection, dialect)
    counted = {name: _count(connection, *where) for name, where in tables.items()}
    rows = {name: found[0] for name, found in counted.items() if found is not None and found[0]}
    return Found(
        name=dialect.live_name(connection),
        environment=read_marker(connection),
        has_tables=bool(tables),
        rows=dict(sorted(rows.items(), key=lambda item: (-item[1], item[0]))),
        unread=tuple(sorted(name for name, found in counted.items() if found is None)),
        newest_write=max((found[1] for found in counted.values() if found and found[1]), default=None),
    )


def _tables(connection: Connection, dialect: Dialect) -> dict[str, tuple[str | None, str, dict[str, Any]]]:
    """Each table that is not this program's own: its name in words, its schema, its name, its columns and their types."""
    inspector = inspect(connection)
    found = {}
    for schema in dialect.schemas(connection):
        names = [name for name in inspector.get_table_names(schema) if not name.startswith(RESERVED_PREFIX)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # of types that SQLAlchemy does not know, which do not matter here
            described = inspector.get_multi_columns(schema=schema, filter_names=names) if names else {}
        for (_, name), columns in described.items():
            found[f"{schema}.{name}" if schema else name] = (schema, name, {each["name"]: each["type"] for each in columns})
    return found


def _count(connection: Connection, schema: str | None, name: str, columns: dict[str, Any]) -> tuple[int, datetime | None] | None:
    """How many rows a table has, and its newest instant; None when it may not be read.

    A savepoint, since on PostgreSQL one refused statement would end the look at all the others.
    """
    if set(columns) == _VERSION_COLUMNS:
        return 0, None
    instants = [column(each, UtcDateTime()) for each in _INSTANTS if isinstance(columns.get(each), DateTime)]
    source = table(name, *instants, schema=schema)
    try:
        with connection.begin_nested():
            count, *newest = connection.execute(select(func.count(), *map(func.max, instants)).select_from(source)).one()
    except DBAPIError:
        return None
    except ValueError:  # SQLite keeps any text in such a column, also one that is no instant
        return _count(connection, schema, name, {})
    return count, max(filter(None, newest), default=None)
