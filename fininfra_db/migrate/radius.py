"""What is at stake in a database: its own name, its marker, the rows of its tables and the newest write. One look, nothing written."""

import warnings
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, DateTime, Inspector, TableClause, column, func, inspect, select, table
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
            return _read(connection, table(name, *instants, schema=schema))
    except (DBAPIError, NoSuchTableError):  # refused, locked, or gone since the names were listed
        return None


def _read(connection: Connection, source: TableClause) -> tuple[int, datetime | None]:
    """The rows and the newest instant of a table, which is gone through once."""
    try:
        count, *newest = connection.execute(select(func.count(), *map(func.max, source.c)).select_from(source)).one()
    except ValueError:  # SQLite keeps any text in such a column, also one that is no instant
        return connection.scalar(select(func.count()).select_from(source)) or 0, None
    return count, max(filter(None, newest), default=None)
