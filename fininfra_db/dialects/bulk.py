"""Many rows at once: prepared column by column, and sent while the next ones are being prepared.

A ``Plan`` says how the rows of one call become what the driver takes, a ``Sender`` how a chunk of them reaches the server, and
``load()`` brings the two together. All of it runs within a greenlet of SQLAlchemy, as every statement here does.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from inspect import signature
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Column, Connection, Date, NestedTransaction, Table, UniqueConstraint, insert
from sqlalchemy import Dialect as SqlalchemyDialect
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError
from sqlalchemy.util import await_only, greenlet_spawn

from fininfra_db.dialects.refusal import refused_by_database, refused_by_type
from fininfra_db.errors import ConfigurationError, OptionsInvalid, RowRefused

Row = Mapping[str, Any]
Values = list[list[Any]]
"""Of some rows, the values of each column, as the driver takes them."""

_SLICE: Final = 250
"""Rows that are prepared in one go. The event loop, which feeds the server, waits for so many."""
_DATES: Final = 4096


@dataclass(frozen=True)
class Field:
    """One column: where its values come from, and what makes the driver's value of one."""

    column: Column[Any]
    make: Callable[[], Any] | None
    process: Callable[[Any], Any] | None

    def values(self, rows: Sequence[Row]) -> list[Any]:
        key = self.column.key
        given = [row[key] for row in rows] if self.make is None else [self.make() for _ in rows]
        return given if self.process is None else list(map(self.process, given))

    def first_refused(self, rows: Sequence[Row]) -> int:
        """The index of the first row whose value ``values()`` cannot make."""
        for index in range(len(rows)):
            try:
                self.values(rows[index : index + 1])
            except Exception:  # a type may be anybody's, and raise anything
                return index
        return 0


@dataclass(frozen=True)
class Plan:
    """The columns of a call: those that the rows give, and those that have a default in Python."""

    table: Table
    fields: tuple[Field, ...]
    given: frozenset[str]

    def values(self, rows: Sequence[Row], indexes: Sequence[int]) -> Values:
        """Of rows, which have these ``indexes`` in the input. Raises ``RowRefused``, or what is wrong with the configuration."""
        for index, row in zip(indexes, rows, strict=True):
            if len(row) != len(self.given):
                raise self._other_keys(row, index)
        return [self._values(field, rows, indexes) for field in self.fields]

    def _values(self, field: Field, rows: Sequence[Row], indexes: Sequence[int]) -> list[Any]:
        try:
            return field.values(rows)
        except ConfigurationError:
            raise
        except Exception as error:  # a type may be anybody's, and raise anything
            place = field.first_refused(rows)
            if field.make is None and field.column.key not in rows[place]:
                raise self._other_keys(rows[place], indexes[place]) from None
            raise refused_by_type(self.table, indexes[place], field.column.name, error) from None

    def _other_keys(self, row: Row, index: int) -> RowRefused:
        odd = sorted(self.given.symmetric_difference(row))
        return RowRefused(self.table.name, index, odd[0] if len(odd) == 1 else None, "It has not the keys that the first row has.")

    def neighbours(self) -> Callable[[Row], Any] | None:
        """What to sort rows by, so that the entries of a chunk lie together in the indexes; None where the order has to stay.

        The columns of a unique key beside the primary one. The order stays where the database numbers the rows itself, and
        where a row may need another one of the table to be there before it.
        """
        made_here = {field.column.key for field in self.fields}
        numbered = any(column.key not in made_here for column in self.table.primary_key)
        nested = any(key.column.table is self.table for key in self.table.foreign_keys)
        keys = [] if numbered or nested else [key for key in unique_keys(self.table) if self.given.issuperset(key)]
        return itemgetter(*keys[0]) if keys else None


def unique_keys(table: Table) -> list[tuple[str, ...]]:
    """The unique keys of a table but the primary one, and those that hold all of it, as keys of columns; the widest first."""
    constraints = [each.columns for each in table.constraints if isinstance(each, UniqueConstraint)]
    indexes = [each.columns for each in table.indexes if each.unique]
    primary = {column.key for column in table.primary_key}
    keys = {tuple(str(column.key) for column in columns) for columns in (*constraints, *indexes)}
    return sorted((key for key in keys if not primary.issubset(key)), key=lambda key: (-len(key), key))


def plan_of(table: Table, first: Row, dialect: SqlalchemyDialect) -> Plan | None:
    """The plan for rows with the keys of the ``first``; None when a column takes more than a value, such as an expression.

    Raises ``OptionsInvalid`` for a key that is no column.
    """
    unknown = sorted(str(key) for key in first if key not in table.columns)
    if unknown:
        raise OptionsInvalid(f"The table {table.name} has no column {unknown[0]!r}. Nothing was written.", "Correct the keys of the rows.")
    fields = []
    for column in table.columns:
        make = None
        if column.key not in first:
            if column.default is None:
                continue
            make = _maker(column.default)
            if make is None:
                return None
        if column.type._has_bind_expression:
            return None
        fields.append(Field(column, make, _processor(column, dialect)))
    return Plan(table, tuple(fields), frozenset(first))


def _maker(default: Any) -> Callable[[], Any] | None:
    """What makes a column's default, None when it is made in SQL or from the other values of the row."""
    if default.is_scalar:
        return lambda: default.arg
    function = getattr(default.arg, "__wrapped__", None) if default.is_callable else None  # SQLAlchemy wraps what takes no context
    if function is None:
        return None
    try:
        signature(function).bind()
    except (TypeError, ValueError):
        return None
    return function  # type: ignore[no-any-return]


def _processor(column: Column[Any], dialect: SqlalchemyDialect) -> Callable[[Any], Any] | None:
    """What an ordinary insert applies to a value. Days come again and again, and SQLite's are slow to write."""
    process = column.type.dialect_impl(dialect).bind_processor(dialect)
    return lru_cache(_DATES)(process) if process is not None and isinstance(column.type, Date) else process


class Sender(ABC):
    """How chunks of rows reach the server. An ``item`` is one row, ready to be sent."""

    plan: Plan | None
    """None where rows are sent as they were given."""
    size: int
    """The most rows in a chunk."""

    overlaps: bool = True
    """Whether the next chunk is prepared while one is on its way."""

    def order(self) -> Callable[[Row], Any] | None:
        """What the rows of a chunk are sorted by, if they may be sorted."""
        return None if self.plan is None else self.plan.neighbours()

    @abstractmethod
    def prepare(self, values: Values) -> list[Any]:
        """The items of some rows."""

    @abstractmethod
    async def send(self, items: Sequence[Any]) -> None:
        """Insert the rows. A failure may leave some of them behind, and raises SQLAlchemy's error where the database refused."""

    async def send_alone(self, item: Any) -> None:
        """Insert the row that was refused, in the way that says most about it."""
        await self.send([item])


class PlainSender(Sender):
    """An ordinary insert with the driver's ``executemany``."""

    size = 1000

    def __init__(self, connection: Connection, table: Table, plan: Plan | None) -> None:
        self._connection, self._statement = connection, insert(table)
        self.plan = plan and replace(plan, fields=tuple(replace(field, process=None) for field in plan.fields))

    def prepare(self, values: Values) -> list[Any]:
        """With the values as they were given: SQLAlchemy makes the driver's of them."""
        assert self.plan is not None
        keys = [field.column.key for field in self.plan.fields]
        return [dict(zip(keys, row, strict=True)) for row in zip(*values, strict=True)]

    async def send(self, items: Sequence[Any]) -> None:
        await greenlet_spawn(self._connection.execute, self._statement, items)


def as_sqlalchemy(connection: Connection, statement: str, error: BaseException) -> BaseException:
    """A driver's error as SQLAlchemy raises it, for a statement that was not sent through it."""
    dbapi: Any = connection.dialect.loaded_dbapi
    translate = getattr(connection.connection.dbapi_connection, "_handle_exception", None)
    if translate is not None:  # asyncpg's errors are not those of a DBAPI, and SQLAlchemy's adapter makes them so
        try:
            translate(error)
        except Exception as translated:  # it raises, whatever it makes of the error
            error = translated
    lost = connection.dialect.is_disconnect(error, None, None) if isinstance(error, dbapi.Error) else False
    return DBAPIError.instance(
        statement, None, error, dbapi.Error, hide_parameters=True, connection_invalidated=lost, dialect=connection.dialect
    )


def load(
    connection: Connection,
    table: Table,
    rows: Iterable[Row],
    sender_of: Callable[[Plan | None], Sender],
    is_passing: Callable[[BaseException], bool],
) -> int:
    """Insert ``rows`` within the transaction of ``connection``, all or none; how many there were.

    ``sender_of`` is given the plan, None where only an ordinary insert will do. ``is_passing`` knows the errors that no row
    is to blame for. Raises ``RowRefused`` with the index of the first row that cannot be written.
    """
    source = iter(rows)
    first = next(source, None)
    if first is None:
        return 0
    with connection.begin_nested():
        sender = sender_of(plan_of(table, first, connection.dialect))
        return _Loading(connection, table, sender, is_passing).run(_chunks(_chained(first, source), sender))


def _chained(first: Row, source: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from source


@dataclass(frozen=True)
class _Chunk:
    """Rows that are ready to be sent, and where in the input each stood."""

    indexes: Sequence[int]
    items: Sequence[Any]

    def split(self) -> tuple["_Chunk", "_Chunk"]:
        middle = (len(self.items) + 1) // 2
        return (_Chunk(self.indexes[:middle], self.items[:middle]), _Chunk(self.indexes[middle:], self.items[middle:]))


def _chunks(source: Iterator[Row], sender: Sender) -> Iterator[_Chunk]:
    """As many rows as are sent at once, again and again."""
    start = 0
    while rows := _drawn(source, sender.size):
        if sender.plan is None:
            yield _Chunk(range(start, start + len(rows)), [dict(row) for row in rows])
        else:
            yield _prepared(rows, start, sender.plan, sender)
        start += len(rows)


def _drawn(source: Iterator[Row], size: int) -> list[Row]:
    rows: list[Row] = []
    while more := list(islice(source, min(_SLICE, size - len(rows)))):
        rows += more
        _let_others_run()
    return rows


def _prepared(rows: list[Row], start: int, plan: Plan, sender: Sender) -> _Chunk:
    indexes: Sequence[int] = range(start, start + len(rows))
    sort_key = sender.order()
    if sort_key is not None:
        with suppress(KeyError, TypeError):  # a row without a value, or with one that does not sort, is refused below
            order = sorted(range(len(rows)), key=list(map(sort_key, rows)).__getitem__)
            indexes, rows = [start + place for place in order], [rows[place] for place in order]
    items: list[Any] = []
    for begin in range(0, len(rows), _SLICE):
        items += sender.prepare(plan.values(rows[begin : begin + _SLICE], indexes[begin : begin + _SLICE]))
        _let_others_run()
    return _Chunk(indexes, items)


def _let_others_run() -> None:
    """Give the event loop a turn: it feeds the server, and has other tasks than this one."""
    await_only(asyncio.sleep(0))


class _Loading:
    """Chunks on their way: each in a savepoint of its own, so that the row that is to blame for a failure can be looked for."""

    def __init__(self, connection: Connection, table: Table, sender: Sender, is_passing: Callable[[BaseException], bool]) -> None:
        self._connection, self._table, self._sender, self._is_passing = connection, table, sender, is_passing
        self._flight: tuple[_Chunk, NestedTransaction, asyncio.Task[None]] | None = None

    def run(self, chunks: Iterator[_Chunk]) -> int:
        count = 0
        try:
            for chunk in chunks:
                self._land()
                self._depart(chunk)
                count += len(chunk.items)
            self._land()
        except BaseException as error:
            self._give_up(error)
            raise
        return count

    def _depart(self, chunk: _Chunk) -> None:
        savepoint = self._connection.begin_nested()
        self._flight = chunk, savepoint, asyncio.get_running_loop().create_task(self._sender.send(chunk.items))
        if self._sender.overlaps:
            _let_others_run()
        else:
            self._land()

    def _land(self) -> None:
        if self._flight is None:
            return
        chunk, savepoint, task = self._flight
        try:
            await_only(task)
        except Exception as error:  # a driver raises anything for a value that it cannot send
            self._flight = None
            savepoint.rollback()
            self._find_refused(chunk, error)
        self._flight = None
        savepoint.commit()

    def _give_up(self, error: BaseException) -> None:
        """End what is on its way. An interruption leaves the driver in the middle of a statement, and the connection is given up."""
        if self._flight is None:
            return
        (_, savepoint, task), self._flight = self._flight, None
        if isinstance(error, Exception):
            await_only(asyncio.wait([task]))
        else:
            task.cancel()
            self._connection.invalidate(error)
        savepoint.rollback()

    def _find_refused(self, chunk: _Chunk, error: Exception) -> None:
        """Raise ``RowRefused`` for a row that cannot be written, else ``error``: halves are sent again until it is found."""
        while chunk.items and not self._is_nobodys_fault(error):
            half, rest = chunk.split()
            try:
                with self._connection.begin_nested():
                    await_only(self._sender.send(half.items))
            except Exception as found:  # as above
                if len(half.items) == 1 and not self._is_nobodys_fault(found):
                    raise self._refused(half, found) from None
                chunk, error = half, found
            else:
                chunk = rest
        raise error

    def _refused(self, alone: _Chunk, error: Exception) -> RowRefused:
        if not isinstance(error, DBAPIError):  # it is the driver's, which may know more
            try:
                with self._connection.begin_nested():
                    await_only(self._sender.send_alone(alone.items[0]))
            except Exception as told:  # as above
                error = told
        names = [] if self._sender.plan is None else [field.column.name for field in self._sender.plan.fields]
        return refused_by_database(self._table, alone.indexes[0], error, names)

    def _is_nobodys_fault(self, error: Exception) -> bool:
        if isinstance(error, DBAPIError):
            return error.connection_invalidated or isinstance(error, ProgrammingError) or self._is_passing(error)
        return isinstance(error, SQLAlchemyError | ConfigurationError)
