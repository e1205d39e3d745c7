"""Rows that are inserted, or take the place of those with the same key: through a temporary table, on every database.

A chunk goes into the table of its own first, the stage. Then one statement inserts what is not there yet, and one updates what is
there and differs: so what happened is counted exactly, and no unique key but the chosen one decides. What databases have for it
counts differently, or takes any key (MySQL, "INSERT ... ON DUPLICATE KEY UPDATE Statement").
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Index,
    Insert,
    String,
    Table,
    Update,
    and_,
    exists,
    false,
    or_,
    select,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.schema import CreateTableAs
from sqlalchemy.util import greenlet_spawn

from fininfra_db.dialects.bulk import Sender
from fininfra_db.dialects.bulk_plan import Plan, Values, unique_keys
from fininfra_db.errors import OptionsInvalid, RowRefused
from fininfra_db.types import KEPT, EncryptedString

Comparable = Callable[[ColumnElement[Any]], ColumnElement[Any]]

_KEPT_TOGETHER: Final = 500
"""Keys in a statement, well below the number of values that every database takes."""
_ROWS: Final = {"preserve_rowcount": True}


def key_of(table: Table, named: Sequence[str] | None) -> tuple[str, ...]:
    """The unique key that rows are told apart by: ``named``, else the one beside the primary key, else the primary key.

    Raises ``OptionsInvalid`` for one that the table does not have, and where there are several to choose from.
    """
    primary = tuple(str(column.key) for column in table.primary_key)
    keys = unique_keys(table)
    if named is None and len(keys) < 2:
        return keys[0] if keys else primary
    for key in (primary, *keys):
        if named is not None and set(key) == set(named):
            return key
    known = ", ".join(f"({', '.join(key)})" for key in (primary, *keys))
    raise OptionsInvalid(
        f"Rows of {table.name} are told apart by a unique key, and it is not clear by which. Nothing was written.", f"Name one: {known}."
    )


class Merge:
    """The statements that bring the rows of the stage into the table."""

    def __init__(self, table: Table, plan: Plan, key: Sequence[str], stage_name: str, comparable: Comparable) -> None:
        self._columns = [field.column for field in plan.fields]
        self.create = CreateTableAs(select(*self._columns).where(false()), stage_name, temporary=True)
        self.table, self.stage, self.key = table, self.create.table, tuple(key)
        self.staged_key = [self._staged(table.c[name]) for name in key]
        self.index = Index(f"{stage_name}_key", *map(_collated, self.staged_key), unique=True)
        self.same_key = and_(*[table.c[name] == self._staged(table.c[name]) for name in key])
        given = [table.c[name] for name in plan.given.difference(key) if not table.c[name].primary_key and not table.c[name].info.get(KEPT)]
        compared = [column for column in given if column.onupdate is None]
        self._sealed = [(column, column.type) for column in compared if isinstance(column.type, EncryptedString)]
        self._update = self._update_of(given, compared, comparable) if compared else None

    def _staged(self, column: Column[Any]) -> Column[Any]:
        return self.stage.c[column.name]

    def _update_of(self, given: Sequence[Column[Any]], compared: Sequence[Column[Any]], comparable: Comparable) -> Update:
        """Of rows that differ. SQLAlchemy adds the columns with ``onupdate`` that were not given."""
        pairs = [(_bare(column), _bare(self._staged(column))) for column in compared]
        differs = or_(*[comparable(there).is_distinct_from(comparable(new)) for there, new in pairs])
        values = {column: self._staged(column) for column in given}
        return update(self.table).values(values).where(self.same_key, differs)

    def missing(self, statement: Insert) -> Insert:
        """``statement``, which inserts into the table, for the rows whose key is not there."""
        new = select(*[self._staged(column) for column in self._columns]).where(~exists().where(self.same_key).correlate(self.stage))
        return statement.from_select([column.name for column in self._columns], new, include_defaults=False)

    def run(self, connection: Connection, missing: Insert) -> tuple[int, int]:
        """How many of the rows of the stage were inserted, and how many were updated."""
        self._keep_sealed(connection)
        inserted = connection.execute(missing, execution_options=_ROWS).rowcount
        updated = 0 if self._update is None else connection.execute(self._update, execution_options=_ROWS).rowcount
        return inserted, updated

    def _keep_sealed(self, connection: Connection) -> None:
        """Sealed again, the same text differs: where nothing but that has changed, the stage takes what the table has."""
        for column, kind in self._sealed:
            staged = self._staged(column)
            both = select(*self.staged_key, type_coerce(column, String), type_coerce(staged, String)).where(self.same_key)
            rows = connection.execute(both).all()
            same = [tuple(row[:-2]) for row in rows if kind.seals_same(row[-2], row[-1], connection.dialect)]
            keep = update(self.stage).values({staged: column}).where(self.same_key)
            for begin in range(0, len(same), _KEPT_TOGETHER):
                connection.execute(keep.where(tuple_(*self.staged_key).in_(same[begin : begin + _KEPT_TOGETHER])))


def _collated(column: Column[Any]) -> ColumnElement[Any]:
    """With the collation that it was declared with, which SQLite forgets in a table made of a query."""
    collation = getattr(column.type, "collation", None)
    return column if collation is None else column.collate(collation)


def _bare(column: Column[Any]) -> ColumnElement[Any]:
    """A sealed column as the text that it holds, which may be compared here: see ``_keep_sealed()``."""
    return type_coerce(column, String) if isinstance(column.type, EncryptedString) else column


class UpsertSender(Sender):
    """Chunks into the stage, and from there into the table, counting what becomes of them.

    A key that comes again has a round of its own, so that the rows have the effect that they would have one after the other. Keys
    that are equal only to the database, such as texts of another case, are refused by the unique index of the stage, and the chunk
    is sent again in halves until they are apart.
    """

    def __init__(
        self, connection: Connection, merge: Merge, inner: Sender, missing: Insert, clear: Callable[[Connection, Table], None]
    ) -> None:
        assert inner.plan is not None
        self._connection, self.merge, self._inner, self._missing, self._clear = connection, merge, inner, missing, clear
        self.plan, self.size, self.overlaps = replace(inner.plan, table=merge.table), inner.size, inner.overlaps
        names = [str(field.column.key) for field in self.plan.fields]
        absent = [name for name in merge.key if name not in names]
        if absent:
            raise OptionsInvalid(f"The rows have no {absent[0]}, which they are told apart by. Nothing was written.", "Give each its key.")
        self._places = [names.index(name) for name in merge.key]
        self.inserted = self.updated = 0

    def order(self) -> None:
        """As given: the last of the rows with one key wins."""

    def prepare(self, values: Values) -> list[Any]:
        return list(zip(zip(*[values[place] for place in self._places], strict=True), self._inner.prepare(values), strict=True))

    async def send(self, items: Sequence[Any]) -> None:
        counts = []
        for together in self._rounds(items):
            await self._inner.send(together)
            counts.append(await greenlet_spawn(self.merge.run, self._connection, self._missing))
            await greenlet_spawn(self._clear, self._connection, self.merge.stage)
        for inserted, updated in counts:  # now that none of them is taken back and sent again
            self.inserted += inserted
            self.updated += updated

    def _rounds(self, items: Sequence[Any]) -> list[list[Any]]:
        rounds: list[list[Any]] = []
        seen: dict[Any, int] = {}
        for key, item in items:
            if None in key:
                raise RowRefused(self.merge.table.name, 0, self.merge.key[key.index(None)], "A row without its key cannot be told apart.")
            place = seen[key] = seen.get(key, -1) + 1
            if place == len(rounds):
                rounds.append([])
            rounds[place].append(item)
        return rounds
