"""Looking for rows by their ids, adding those that are missing, and removing those of a seed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Connection, ForeignKeyConstraint, MetaData, Table, and_, delete, exists, inspect, select

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


Owned = Callable[[Table], ColumnElement[bool]]
"""Says of a table which rows are a seed's."""


def remove(connection: Connection, metadata: Iterable[MetaData], models: Iterable[type[Base]], is_ours: Owned) -> int:
    """Delete the rows that ``is_ours`` says, children before parents; how many there were.

    A row stays when one of somebody else hangs below it, in any table of ``metadata``.
    """
    names = set(inspect(connection).get_table_names())
    keys = [key for each in metadata for table in each.tables.values() if table.name in names for key in table.foreign_key_constraints]
    removed = 0
    for table in reversed([table_of(model) for model in models]):
        nothing_below = [~_row_below(key) for key in keys if key.referred_table is table]
        removed += connection.execute(delete(table).where(is_ours(table), *nothing_below)).rowcount
    return removed


def _row_below(key: ForeignKeyConstraint) -> ColumnElement[bool]:
    """Whether a row has one below it by this foreign key."""
    is_child = and_(*(element.parent == element.column for element in key.elements))
    return exists().where(is_child).correlate(key.referred_table)
