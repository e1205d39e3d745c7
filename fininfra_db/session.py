"""Engines, connections and sessions.

An application uses ``get_async_session()``. The operations of this package use ``open_connection()``: one connection,
on an engine of its own made for one purpose, closed at the end.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import URL, event
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria
from sqlalchemy.pool import NullPool

from fininfra_db.dialects import Target, target_of
from fininfra_db.dialects.base import Purpose, first_line
from fininfra_db.errors import DatabaseFailed, DatabaseMissing, DriverMissing, FininfraDbError, UrlInvalid
from fininfra_db.security import keyring_of
from fininfra_db.settings import Settings, process_settings
from fininfra_db.types import use_keyring

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


def make_engine(settings: Settings, purpose: Purpose) -> AsyncEngine:
    """An engine for one purpose. Only the application's pools its connections.

    Parameters never appear in its errors or logs. Raises ``DriverMissing`` or ``UrlInvalid``.
    """
    target = target_of(settings)
    url, arguments = target.dialect.engine_arguments(target.url, purpose)
    options: dict[str, Any] = {"hide_parameters": True, "connect_args": arguments}
    if purpose == "application":
        options["pool_pre_ping"] = target.dialect.features.has_server
    else:
        options["poolclass"] = NullPool
    if purpose == "maintenance":
        options["isolation_level"] = "AUTOCOMMIT"
    engine = _create(url, target, options)
    target.dialect.prepare(engine.sync_engine, target.url, purpose)
    use_keyring(engine.dialect, keyring_of(settings))
    return engine


def _create(url: URL, target: Target, options: dict[str, Any]) -> AsyncEngine:
    try:
        return create_async_engine(url, **options)
    except NoSuchModuleError:
        raise UrlInvalid(f"The driver of the database URL is not known for {target.dialect.label}.", "Name the database only.") from None
    except ImportError as error:
        extra = target.dialect.extra
        package = f"fininfra-db[{extra}]" if extra else url.get_driver_name()
        raise DriverMissing(
            f"The {target.dialect.label} driver is not installed or does not load: {error}.", f"Run: pip install '{package}'"
        ) from None


@asynccontextmanager
async def open_connection(settings: Settings, purpose: Purpose) -> AsyncIterator[AsyncConnection]:
    """One connection for one purpose. Raises ``DatabaseUnreachable`` or ``DatabaseMissing`` when there is none to be had."""
    target = target_of(settings)
    target.dialect.look_before_connecting(target.url, purpose)
    target.dialect.make_room(target.url, purpose)
    engine = make_engine(settings, purpose)
    try:
        connection = await _connect(engine, target, settings)
        try:
            yield connection
        finally:
            await connection.close()
    finally:
        await engine.dispose()


async def _connect(engine: AsyncEngine, target: Target, settings: Settings) -> AsyncConnection:
    try:
        return await engine.connect()
    except FininfraDbError:
        raise
    except Exception as error:  # every driver raises exceptions of its own, wrapped by SQLAlchemy or not
        known = target.dialect.connection_error(error, target.url)
        raise type(known)(settings.redact(known.message), known.hint) from None


@asynccontextmanager
async def migration_lock(settings: Settings) -> AsyncIterator[None]:
    """Hold the migration lock of the database for as long as the block runs."""
    target = target_of(settings)
    async with target.dialect.migration_lock(lambda: open_connection(settings, "maintenance"), target.url):
        yield


async def ensure_database(settings: Settings) -> bool:
    """Create the database if the server has none of that name; whether this call created it.

    A SQLite file is made by the first connection that writes, so here it only says whether it is still missing.
    """
    target = target_of(settings)
    try:
        async with open_connection(settings, "reading"):
            return False
    except DatabaseMissing:
        if not target.dialect.features.has_server:
            target.dialect.look_before_connecting(target.url, "migration")
            return True
    maintenance = replace(
        settings, sql_url=target.url.set(database=target.dialect.maintenance_database).render_as_string(hide_password=False)
    )
    return await _create_database(maintenance, target, settings)


async def _create_database(maintenance: Settings, target: Target, settings: Settings) -> bool:
    name = target.url.database or ""
    async with open_connection(maintenance, "maintenance") as connection:
        try:
            await connection.run_sync(lambda sync: target.dialect.create_database(sync, name))
        except SQLAlchemyError as error:
            if target.dialect.says_exists(error):
                return False
            raise DatabaseFailed(
                settings.redact(f"{target.dialect.describe(target.url)} does not exist and cannot be created: {first_line(error)}"),
                "Create the database by hand, or use a login that may create databases.",
            ) from None
    return True
