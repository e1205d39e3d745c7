"""Compare and swap: the values of a column are replaced in the rows where they are still what they were.

Keys and values are the driver's own here, past the column types, which would seal a value again; and a table is its bare name
with columns, so that no ``onupdate`` of a model changes another column. Each way of doing it answers with what is stored
afterwards in the rows that it changed.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Column,
    ColumnClause,
    ColumnElement,
    Connection,
    LargeBinary,
    Result,
    String,
    Table,
    TableClause,
    Text,
    and_,
    bindparam,
    cast,
    column,
    func,
    insert,
    or_,
    select,
    table,
    tuple_,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import NullType

Key = tuple[Any, ...]
"""The primary key of a row, as the driver gives it."""

_OLD: Final = "fininfra_old"
_NEW: Final = "fininfra_new"
_STAGE: Final = "fininfra_swap"


class Swap(NamedTuple):
    """One row: ``old`` becomes ``new``, if it is still ``old``."""

    key: Key
    old: str
    new: str


@dataclass(frozen=True)
class Slot:
    """A column of text in a table that has a primary key."""

    table: Table
    column: Column[Any]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return tuple(each.name for each in self.table.primary_key)

    @cached_property
    def rows(self) -> TableClause:
        """The table with the key and the value."""
        return self.rows_with(())

    def rows_with(self, others: Collection[str]) -> TableClause:
        """The table with the key, the value and ``others``."""
        value: ColumnClause[str] = column(self.column.name, String())
        return table(self.table.name, *map(column, self.names), value, *map(column, others), schema=self.table.schema)

    @cached_property
    def key(self) -> tuple[ColumnClause[Any], ...]:
        return tuple(self.rows.c[name] for name in self.names)

    @property
    def value(self) -> ColumnClause[str]:
        return self.rows.c[self.column.name]

    def at(self, key: Key) -> ColumnElement[bool]:
        """The one row of ``key``."""
        return and_(*(each == _as_it_is(value) for each, value in zip(self.key, key, strict=True)))

    def after(self, key: Key, *, row_comparison: bool) -> ColumnElement[bool]:
        """The rows behind ``key`` in the order of the primary key, in the form that is answered from its index."""
        if row_comparison and len(key) > 1:
            return tuple_(*self.key) > tuple_(*map(_as_it_is, key))
        pairs = [(each, _as_it_is(value)) for each, value in zip(self.key, key, strict=True)]
        return or_(*(and_(*(each == value for each, value in pairs[:place]), each > value) for place, (each, value) in enumerate(pairs)))


def one_by_one(connection: Connection, slot: Slot, swaps: Sequence[Swap]) -> dict[Key, str]:
    """Two statements for each row: right everywhere, and slow."""
    stored = {}
    for key, old, new in swaps:
        if connection.execute(update(slot.rows).where(slot.at(key), slot.value == old).values({slot.value: new})).rowcount:
            stored[key] = connection.scalars(select(slot.value).where(slot.at(key))).one()
    return stored


def from_arrays(connection: Connection, slot: Slot, swaps: Sequence[Swap]) -> dict[Key, str]:
    """One UPDATE from arrays, a row of which is a swap.

    The values are parameters and no part of the statement, which refers to itself: it would keep them until Python looks for garbage.
    """
    names = (*slot.names, _OLD, _NEW)
    types = (*(each.type for each in slot.table.primary_key), Text(), Text())
    lists = [f"fininfra_{number}" for number, _ in enumerate(names)]
    arrays = [cast(bindparam(name, type_=NullType()), ARRAY(kind)) for name, kind in zip(lists, types, strict=True)]
    source = func.unnest(*arrays).table_valued(*names, name=_STAGE).render_derived()
    same_row = [each == source.c[each.name] for each in slot.key]
    swap = update(slot.rows).where(*same_row, slot.value == source.c[_OLD]).values({slot.value: source.c[_NEW]})
    parameters = dict(zip(lists, map(list, zip(*((*key, old, new) for key, old, new in swaps), strict=True)), strict=True))
    return _by_key(connection.execute(swap.returning(*slot.key, slot.value), parameters))


def from_values(connection: Connection, slot: Slot, swaps: Sequence[Swap]) -> dict[Key, str]:
    """One UPDATE from a list of values. It is written as text: to compile so many parameters would take longer than to run it."""
    quote = connection.dialect.identifier_preparer
    target, value, names = quote.format_table(slot.table), quote.quote(slot.column.name), [quote.quote(name) for name in slot.names]
    width = len(names) + 2
    row = f"({', '.join('?' * width)})"
    same_row = " AND ".join(f"{target}.{name} = swap.column{number}" for number, name in enumerate(names, 1))
    statement = (
        f"UPDATE {target} SET {value} = swap.column{width} FROM (VALUES {', '.join([row] * len(swaps))}) AS swap "
        f"WHERE {same_row} AND {target}.{value} = swap.column{width - 1} RETURNING {', '.join([*names, value])}"
    )
    parameters = tuple(chain.from_iterable((*key, old, new) for key, old, new in swaps))
    return _by_key(connection.exec_driver_sql(statement, parameters))


def from_stage(connection: Connection, slot: Slot, swaps: Sequence[Swap], untouched: Collection[str]) -> dict[Key, str]:
    """One UPDATE from a temporary table. ``untouched`` are columns that the database would change by itself.

    The server says how many rows it changed, not which; so it is asked for the rows that do not hold their new value now. When
    there are more of them than it did not change, they are in the answer. Values are compared byte by byte, since a collation may
    take two of them for the same.
    """
    rows = slot.rows_with(untouched)
    value = rows.c[slot.column.name]
    with _staged(connection, slot) as stage:
        connection.execute(insert(stage), [dict(zip(stage.c.keys(), (*key, old, new), strict=True)) for key, old, new in swaps])
        same_row = and_(*(rows.c[name] == stage.c[name] for name in slot.names))
        changes = {value: stage.c[_NEW]} | {rows.c[name]: rows.c[name] for name in untouched}
        changed = connection.execute(update(rows).where(same_row, _bytes(value) == _bytes(stage.c[_OLD])).values(changes)).rowcount
        both = stage.outerjoin(rows, same_row)
        is_not_new = or_(value.is_(None), _bytes(value) != _bytes(stage.c[_NEW]))
        others = _by_key(connection.execute(select(*(stage.c[name] for name in slot.names), value).select_from(both).where(is_not_new)))
    stored = {key: new for key, _, new in swaps if key not in others}
    return stored if len(stored) == changed else others | stored


@contextmanager
def _staged(connection: Connection, slot: Slot) -> Iterator[TableClause]:
    """A temporary table for swaps, with the types and collations of the columns that they are compared with."""
    quote = connection.dialect.identifier_preparer
    value = quote.quote(slot.column.name)
    columns = ", ".join([*(quote.quote(name) for name in slot.names), f"{value} AS {_OLD}", f"{value} AS {_NEW}"])
    connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {_STAGE} AS SELECT {columns} FROM {quote.format_table(slot.table)} LIMIT 0")
    try:
        yield table(_STAGE, *map(column, (*slot.names, _OLD, _NEW)))
    finally:
        with suppress(SQLAlchemyError):  # a connection that is broken has no temporary table any more
            connection.exec_driver_sql(f"DROP TEMPORARY TABLE {_STAGE}")


def _as_it_is(value: Any) -> BindParameter[Any]:
    """A parameter for the driver, not converted by a type."""
    return bindparam(None, value, type_=NullType(), unique=True)


def _bytes(value: ColumnElement[str]) -> ColumnElement[bytes]:
    return cast(value, LargeBinary)


def _by_key(rows: Result[Any]) -> dict[Key, str]:
    """The values in the last column by the key in the others."""
    return {row[:-1]: row[-1] for row in rows.all()}
