"""Many rows at once: prepared column by column, and sent while the next ones are being prepared.

A ``Plan`` says how the rows of one call become what the driver takes, a ``Sender`` how a chunk of them reaches the server, and
``load()`` brings the two together. All of it runs within a greenlet of SQLAlchemy, as every statement here does.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from itertools import islice
from typing import Any, Final

from sqlalchemy import Column, Connection, Date, NestedTransaction, Table, insert
from sqlalchemy import Dialect as SqlalchemyDialect
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError
from sqlalchemy.util import await_only, greenlet_spawn

from fininfra_db.dialects.refusal import refused_by_database, refused_by_type
from fininfra_db.errors import ConfigurationError, OptionsInvalid, RowRefused

Row = Mapping[str, Any]
Values = list[list[Any]]
"""Of some rows, the values of each column, as the driver takes them."""

_SLICE: Final = 1000
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

    def values(self, rows: Sequence[Row], start: int) -> Values:
        """Of rows, the first of which has the index ``start``. Raises ``RowRefused``, or what is wrong with the configuration."""
        for index, row in enumerate(rows):
            if len(row) != len(self.given):
                raise self._other_keys(row, start + index)
        return [self._values(field, rows, start) for field in self.fields]

    def _values(self, field: Field, rows: Sequence[Row], start: int) -> list[Any]:
        try:
            return field.values(rows)
        except ConfigurationError:
            raise
        except Exception as error:  # a type may be anybody's, and raise anything
            index = field.first_refused(rows)
            if isinstance(error, KeyError) and field.make is None and field.column.key not in rows[index]:
                raise self._other_keys(rows[index], start + index) from None
            raise refused_by_type(self.table, start + index, field.column.name, error) from None

    def _other_keys(self, row: Row, index: int) -> RowRefused:
        odd = sorted(self.given.symmetric_difference(row))
        return RowRefused(self.table.name, index, odd[0] if len(odd) == 1 else None, "It has not the keys that the first row has.")


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

    size: int
    """The most rows in a chunk."""

    @abstractmethod
    def prepare(self, values: Values) -> list[Any]:
        """The items of some rows."""

    @abstractmethod
    async def send(self, items: Sequence[Any]) -> None:
        """Insert the rows. A failure may leave some of them behind, and raises SQLAlchemy's error where the database refused."""


class PlainSender(Sender):
    """An ordinary insert of the driver's ``executemany``: for rows as they were given."""

    size = 1000

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection, self._statement = connection, insert(table)

    def prepare(self, values: Values) -> list[Any]:
        raise AssertionError("an ordinary insert needs no plan")

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
    plan = plan_of(table, first, connection.dialect)
    loading = _Loading(connection, table, sender_of(plan), is_passing)
    with connection.begin_nested():
        return loading.run(_chunks(_chained(first, source), plan, loading.sender))


def _chained(first: Row, source: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from source


def _chunks(source: Iterator[Row], plan: Plan | None, sender: Sender) -> Iterator[list[Any]]:
    """The items of as many rows as are sent at once, again and again. While they are prepared, the event loop has its turns."""
    start = 0
    while True:
        items: list[Any] = []
        while rows := list(islice(source, min(_SLICE, sender.size - len(items)))):
            items += [dict(row) for row in rows] if plan is None else sender.prepare(plan.values(rows, start + len(items)))
            await_only(asyncio.sleep(0))
        if not items:
            return
        yield items
        start += len(items)


class _Loading:
    """Chunks on their way: each in a savepoint of its own, so that the row that is to blame for a failure can be looked for."""

    def __init__(self, connection: Connection, table: Table, sender: Sender, is_passing: Callable[[BaseException], bool]) -> None:
        self._connection, self._table, self.sender, self._is_passing = connection, table, sender, is_passing
        self._flight: tuple[int, Sequence[Any], NestedTransaction, asyncio.Task[None]] | None = None

    def run(self, chunks: Iterator[list[Any]]) -> int:
        count = 0
        try:
            for items in chunks:
                self._land()
                self._depart(count, items)
                count += len(items)
            self._land()
        except BaseException as error:
            self._give_up(error)
            raise
        return count

    def _depart(self, start: int, items: Sequence[Any]) -> None:
        savepoint = self._connection.begin_nested()
        self._flight = start, items, savepoint, asyncio.get_running_loop().create_task(self.sender.send(items))
        await_only(asyncio.sleep(0))

    def _land(self) -> None:
        if self._flight is None:
            return
        start, items, savepoint, task = self._flight
        try:
            await_only(task)
        except Exception as error:  # a driver raises anything for a value that it cannot send
            self._flight = None
            savepoint.rollback()
            self._find_refused(start, items, error)
        self._flight = None
        savepoint.commit()

    def _give_up(self, error: BaseException) -> None:
        """End what is on its way. An interruption leaves the driver in the middle of a statement, and the connection is given up."""
        if self._flight is None:
            return
        task, self._flight = self._flight[3], None
        if isinstance(error, Exception):
            await_only(asyncio.wait([task]))
        else:
            task.cancel()
            self._connection.invalidate(error)

    def _find_refused(self, start: int, items: Sequence[Any], error: Exception) -> None:
        """Raise ``RowRefused`` for the first of the rows that cannot be written, else ``error``: halves are sent again until it is found."""
        while items and not self._is_nobodys_fault(error):
            half = items[: (len(items) + 1) // 2]
            try:
                with self._connection.begin_nested():
                    await_only(self.sender.send(half))
            except Exception as found:  # as above
                if len(half) == 1:
                    error = found if self._is_nobodys_fault(found) else refused_by_database(self._table, start, found)
                    raise error from None
                items, error = half, found
            else:
                items, start = items[len(half) :], start + len(half)
        raise error

    def _is_nobodys_fault(self, error: Exception) -> bool:
        if isinstance(error, DBAPIError):
            return error.connection_invalidated or isinstance(error, ProgrammingError) or self._is_passing(error)
        return isinstance(error, SQLAlchemyError | ConfigurationError)
