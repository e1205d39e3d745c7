"""Many rows at once: prepared column by column, and sent while the next ones are being prepared.

A ``Plan`` says how the rows of one call become what the driver takes, a ``Sender`` how a chunk of them reaches the server, and
``load()`` brings the two together. All of it runs within a greenlet of SQLAlchemy, as every statement here does.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, NestedTransaction, Table, insert
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError, StatementError
from sqlalchemy.util import await_only, greenlet_spawn

from fininfra_db.dialects.bulk_plan import Plan, Row, Values, plan_of
from fininfra_db.dialects.refusal import refused_by_database
from fininfra_db.errors import ConfigurationError, RowRefused

_SLICE: Final = 250
"""Rows that are prepared in one go. The event loop, which feeds the server, waits for so many."""


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
        here = indexes[begin : begin + _SLICE]
        items += _items(sender, plan.table, plan.values(rows[begin : begin + _SLICE], here), here)
        _let_others_run()
    return _Chunk(indexes, items)


def _items(sender: Sender, table: Table, values: Values, indexes: Sequence[int]) -> list[Any]:
    try:
        return sender.prepare(values)
    except Exception as error:  # a driver raises anything for a value that it cannot write
        if len(indexes) == 1:
            raise refused_by_database(table, indexes[0], error, []) from None
        return [item for place, index in enumerate(indexes) for item in _items(sender, table, [[each[place]] for each in values], [index])]


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
            self._send_in_halves(chunk, error)
        else:
            savepoint.commit()
            self._flight = None  # only now: a savepoint that an interruption keeps from its end is rolled back

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

    def _send_in_halves(self, chunk: _Chunk, error: Exception) -> None:
        """Raise ``RowRefused`` for the first row that cannot be written, or write them all: some fail only together."""
        if self._is_nobodys_fault(error):
            if isinstance(error, StatementError):
                error.hide_parameters = True  # whatever the engine, which may be the application's own
            raise error
        if len(chunk.items) == 1:
            raise self._refused(chunk, error) from None
        for half in chunk.split():
            try:
                with self._connection.begin_nested():
                    await_only(self._sender.send(half.items))
            except Exception as found:  # as above
                self._send_in_halves(half, found)

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
        cause = error.orig if isinstance(error, StatementError) else error  # what a type or a default raised for a value
        return isinstance(cause, SQLAlchemyError | ConfigurationError)
