"""Sessions: what an application uses, through ``get_async_session()``, and many rows at once."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Table, event, inspect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, ORMExecuteState, Session, with_loader_criteria

from fininfra_db.connections import make_engine
from fininfra_db.dialects import dialect_of
from fininfra_db.errors import OptionsInvalid
from fininfra_db.results import Upserted
from fininfra_db.settings import Settings, process_settings

_engines: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Settings, AsyncGenerator[AsyncEngine]]] = WeakKeyDictionary()


class FinanceSession(Session):
    """A session whose queries leave soft-deleted rows out, unless ``execution_options(include_deleted=True)``."""


@event.listens_for(FinanceSession, "do_orm_execute")
def _leave_out_deleted(state: ORMExecuteState) -> None:
    from fininfra_db.models import SoftDeleted

    wanted = state.execution_options.get("include_deleted", False)
    if state.is_select and not state.is_column_load and not wanted:
        state.statement = state.statement.options(
            with_loader_criteria(SoftDeleted, lambda model: model.deleted_at.is_(None), include_aliases=True)
        )


@asynccontextmanager
async def get_async_session(settings: Settings | None = None) -> AsyncIterator[AsyncSession]:
    """A session on the database of ``settings``, by default the process's.

    Commit with ``await session.commit()`` or use ``async with session.begin()``; what is not committed is rolled back
    at the end. Objects stay readable after a commit.
    """
    async with AsyncSession(get_engine(settings), sync_session_class=FinanceSession, expire_on_commit=False) as session:
        yield session


def get_engine(settings: Settings | None = None) -> AsyncEngine:
    """The pooled engine for ``settings``, one for each running event loop, disposed of when the loop shuts down.

    Outside a loop each call makes a new engine, which is the caller's to dispose of.
    """
    chosen = settings or process_settings()
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return make_engine(chosen, "application")
    holders = _engines.setdefault(loop, {})
    if chosen not in holders:
        holders[chosen] = _hold(chosen)
    return _peek(holders[chosen])


async def _hold(settings: Settings) -> AsyncGenerator[AsyncEngine]:
    """Keep an engine until the loop closes its asynchronous generators, the last moment to close connections in order."""
    engine = make_engine(settings, "application")
    try:
        while True:
            yield engine
    finally:
        await engine.dispose()


def _peek(holder: AsyncGenerator[AsyncEngine]) -> AsyncEngine:
    """The next value of a generator that never waits, without waiting for it."""
    try:
        holder.asend(None).send(None)
    except StopIteration as stop:
        engine: AsyncEngine = stop.value
        return engine
    raise AssertionError("the holder of an engine never waits")


async def bulk_insert(session: AsyncSession, model: type[DeclarativeBase], rows: Iterable[Mapping[str, Any]]) -> int:
    """Insert ``rows`` into the table of ``model`` in the quickest way that the database has, and return how many there were.

    The rows are mappings with the names of the model's attributes, all with the same. Values go through the column types, and
    defaults are filled in, as in an ordinary insert. They are read one chunk at a time, so there may be any number of them; where
    they come from may not use the session. All is written in the session's transaction, or nothing; the session's own objects
    are flushed first. Raises ``RowRefused`` with the index of a row that cannot be written, ``OptionsInvalid`` for a name that the
    model does not have, ``KeyMissing`` for a text to be sealed without a key.
    """
    connection, table, rows = await _table_of(session, model, rows)
    return await connection.run_sync(lambda sync: dialect_of(sync.dialect.name).bulk_insert(sync, table, rows))


async def bulk_upsert(
    session: AsyncSession, model: type[DeclarativeBase], rows: Iterable[Mapping[str, Any]], key: Sequence[str] | None = None
) -> Upserted:
    """Insert the ``rows`` whose ``key`` is not in the table of ``model`` yet, and update those that differ from what is there.

    ``key`` names the attributes of a unique key: by default the one beside the primary key, such as ``user_id``, ``account_id`` and
    ``transaction_id`` of a transaction, and the primary key where there is no other. A row that is there keeps its ``id`` and
    ``created_at`` and what the rows do not give; ``updated_at`` changes where something else does. Of rows with the same key the
    last wins. Returns how many rows were inserted, updated, and found unchanged, as if they had come one after the other. Objects
    that the session holds already are not refreshed. Otherwise as ``bulk_insert()``.
    """
    columns = _columns_of(model)
    chosen = None if key is None else [_named(columns, model, name) for name in key]
    connection, table, rows = await _table_of(session, model, rows)
    return await connection.run_sync(lambda sync: dialect_of(sync.dialect.name).bulk_upsert(sync, table, rows, chosen))


async def _table_of(
    session: AsyncSession, model: type[DeclarativeBase], rows: Iterable[Mapping[str, Any]]
) -> tuple[AsyncConnection, Table, Iterable[Mapping[str, Any]]]:
    """The session's connection, the table of ``model``, and the rows with its columns for keys."""
    await session.flush()
    columns = _columns_of(model)
    if any(name != key for name, key in columns.items()):
        rows = ({_named(columns, model, name): value for name, value in row.items()} for row in rows)
    table = inspect(model).local_table
    assert isinstance(table, Table)
    return await session.connection(bind_arguments={"mapper": model}), table, rows


def _columns_of(model: type[DeclarativeBase]) -> dict[str, str]:
    """The key of each column by the name of its attribute."""
    return {name: str(attribute.columns[0].key) for name, attribute in inspect(model).column_attrs.items()}


def _named(columns: Mapping[str, str], model: type[DeclarativeBase], name: str) -> str:
    try:
        return columns[name]
    except KeyError:
        raise OptionsInvalid(f"{model.__name__} has no column {name!r}. Nothing was written.", "Correct the keys of the rows.") from None
