"""Looking for rows by their ids, and adding those that are missing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Table, select

from fininfra_db.dialects import dialect_of
from fininfra_db.models import Base

T = TypeVar("T")

_IDS_IN_A_QUERY: Final = 500
"""Well below the fewest parameters that a database takes in one statement: 2100 on SQL Server."""


def table_of(model: type[Base]) -> Table:
    """The table of a model."""
    return Base.metadata.tables[model.__tablename__]


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """``items`` in lists of ``size``, of which only one is in memory."""
    waiting = iter(items)
    while chunk := list(islice(waiting, size)):
        yield chunk


def present_ids(connection: Connection, table: Table, ids: Iterable[str]) -> set[str]:
    """Which of these ids are there."""
    found: set[str] = set()
    for chunk in chunks(ids, _IDS_IN_A_QUERY):
        found.update(connection.scalars(select(table.c.id).where(table.c.id.in_(chunk))))
    return found


def insert_missing(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert the rows whose ``id`` is not there, soft-deleted or changed as the others may be; how many there were."""
    present = present_ids(connection, table, (row["id"] for row in rows))
    missing = [row for row in rows if row["id"] not in present]
    return dialect_of(connection.dialect.name).bulk_insert(connection, table, missing) if missing else 0
