"""Sessions: what an application uses, through ``get_async_session()``."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, ORMExecuteState, Session, with_loader_criteria

from fininfra_db.connections import make_engine
from fininfra_db.dialects import dialect_of
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
    """Insert ``rows`` within the session's transaction; how many there were."""
    await session.flush()
    connection = await session.connection(bind_arguments={"mapper": model})
    return await connection.run_sync(lambda sync: dialect_of(sync.dialect.name).bulk_insert(sync, model.__table__, rows))
