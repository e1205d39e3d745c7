"""Engines and connections: what the operations of this package stand on.

Each operation has one connection, on an engine of its own made for one purpose, closed at the end. SQLAlchemy's asynchronous
interface brings its ORM along, whose import takes a fifth of a short command's time; so it is imported where it is
needed, and ``read()`` does without.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.util import greenlet_spawn

from fininfra_db.dialects import Target, target_of
from fininfra_db.dialects.base import Purpose, first_line
from fininfra_db.dialects.lifted import Lifted, LiftedConnection
from fininfra_db.dialects.locks import HeldLock
from fininfra_db.dialects.sessions import ANSWER_TIMEOUT, SessionOptions
from fininfra_db.dialects.snapshots import Access, SnapshotStore
from fininfra_db.errors import DatabaseFailed, DatabaseMissing, DriverMissing, FininfraDbError, UrlInvalid
from fininfra_db.events import Observer
from fininfra_db.security import keyring_of
from fininfra_db.settings import Settings
from fininfra_db.types import use_keyring

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

R = TypeVar("R")

_LOOKS: Final = 20
_BETWEEN_LOOKS: Final = 0.05
"""How often, and after how many seconds, a look is repeated that met somebody else's change of a table."""


def make_engine(settings: Settings, purpose: Purpose) -> "AsyncEngine":
    """An engine for one purpose. Only the application's pools its connections.

    Parameters never appear in its errors or logs. Raises ``DriverMissing`` or ``UrlInvalid``.
    """
    from sqlalchemy.ext.asyncio import AsyncEngine

    return AsyncEngine(_make_engine(settings, purpose))


def _make_engine(settings: Settings, purpose: Purpose) -> Engine:
    """The engine inside: its driver is asynchronous, so it runs within ``greenlet_spawn`` only."""
    target = target_of(settings)
    session = session_options(settings, purpose)
    url, arguments = target.dialect.engine_arguments(target.url, purpose, session)
    options: dict[str, Any] = {"hide_parameters": True, "connect_args": arguments}
    if purpose == "application":
        options["pool_pre_ping"] = target.dialect.features.has_server
    else:
        options["poolclass"] = NullPool
    if purpose == "maintenance":
        options["isolation_level"] = "AUTOCOMMIT"
    engine = _create(url, target, options)
    target.dialect.prepare(engine, target.url, purpose, session)
    if purpose == "reading":
        for moment, hook in target.dialect.reading_hooks().items():
            event.listen(engine, moment, hook)
    if purpose != "application":
        event.listen(engine, "invalidate", statement_ender(target))
    use_keyring(engine.dialect, keyring_of(settings))
    return engine


def session_options(settings: Settings, purpose: Purpose) -> SessionOptions:
    """How long the sessions of one purpose wait. A migration begins when the lock was taken, which proves the place."""
    return SessionOptions(
        lock_timeout=settings.lock_timeout,
        ddl_lock_timeout=settings.ddl_lock_timeout,
        statement_timeout=settings.statement_timeout,
        is_proven=purpose == "migration" and settings.migration_lock,
    )


def statement_ender(target: Target) -> Callable[[Any, Any, BaseException | None], None]:
    """What to listen with to the ``invalidate`` of a pool, so that nothing goes on in the database when a run is interrupted.

    SQLAlchemy gives a connection up when a cancellation or a ``KeyboardInterrupt`` comes out of its statement, and closes it.
    """

    def end_statement(connection: Any, _record: Any, error: BaseException | None) -> None:
        if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
            with suppress(Exception):  # the connection is closed next and the run ends, whatever comes of this
                target.dialect.interrupt(connection, target.url)

    return end_statement


def _create(url: URL, target: Target, options: dict[str, Any]) -> Engine:
    try:
        return create_engine(url, **options)
    except ValueError:
        raise UrlInvalid("An option of the database URL has a value of the wrong kind.", "Correct the database URL.") from None
    except NoSuchModuleError:
        raise UrlInvalid(f"The driver of the database URL is not known for {target.dialect.label}.", "Name the database only.") from None
    except ImportError as error:
        extra = target.dialect.extra
        package = f"fininfra-db[{extra}]" if extra else target.url.get_driver_name()
        raise DriverMissing(
            f"The {target.dialect.label} driver is not installed or does not load: {error}.",
            f"Run: pip install '{package}'" if isinstance(error, ModuleNotFoundError) else "Install the system library that it names.",
        ) from None


@asynccontextmanager
async def open_connection(settings: Settings, purpose: Purpose) -> AsyncIterator["AsyncConnection"]:
    """One connection for one purpose. Raises ``DatabaseUnreachable`` or ``DatabaseMissing`` when there is none to be had."""
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    async with open_lifted(settings, purpose) as lifted:
        yield AsyncConnection(AsyncEngine(lifted.connection.engine), lifted.connection)


@asynccontextmanager
async def open_lifted(settings: Settings, purpose: Purpose) -> AsyncIterator[LiftedConnection]:
    """The same for what needs no ``AsyncConnection``, and is not to wait for the import of it."""
    _look_before_connecting(settings, purpose)
    engine = _make_engine(settings, purpose)
    try:
        with _errors_in_words(settings):
            async with asyncio.timeout(_time_to_connect(settings)):
                connection = LiftedConnection(await greenlet_spawn(engine.connect))
        try:
            with _statement_errors_in_words(settings):
                yield connection
        finally:
            await connection.close()
    finally:
        await greenlet_spawn(engine.dispose)


async def read(settings: Settings, work: Callable[[Connection], R], *, takes_long: bool = False) -> R:
    """What ``work`` finds on a connection for reading, opened as by ``open_connection()``.

    Raises ``ServerNotReady`` when the server does not answer; of ``work`` that ``takes_long``, such as counting rows, that
    cannot be told.
    """
    _look_before_connecting(settings, "reading")
    for _ in range(_LOOKS - 1):
        try:
            return await _read_once(settings, work, takes_long)
        except DBAPIError as error:
            if not target_of(settings).dialect.is_momentary(error):
                raise
            await asyncio.sleep(_BETWEEN_LOOKS)
    return await _read_once(settings, work, takes_long)


async def _read_once(settings: Settings, work: Callable[[Connection], R], takes_long: bool) -> R:
    target = target_of(settings)
    engine = _make_engine(settings, "reading")

    def run(limit: asyncio.Timeout) -> R:
        try:
            with _errors_in_words(settings):
                connection = engine.connect()
            answers_at_once = target.dialect.features.has_server and not takes_long
            limit.reschedule(asyncio.get_running_loop().time() + ANSWER_TIMEOUT if answers_at_once else None)
            with connection, _statement_errors_in_words(settings):
                return work(connection)
        finally:
            engine.dispose()

    try:
        async with asyncio.timeout(_time_to_connect(settings)) as limit:
            return await greenlet_spawn(run, limit)
    except TimeoutError:
        raise target.dialect.fell_silent(target.url) from None


def _time_to_connect(settings: Settings) -> float | None:
    target = target_of(settings)
    return target.dialect.time_to_connect(target.url)


def _look_before_connecting(settings: Settings, purpose: Purpose) -> None:
    target = target_of(settings)
    target.dialect.look_before_connecting(target.url, purpose)
    target.dialect.make_room(target.url, purpose)


@contextmanager
def _errors_in_words(settings: Settings) -> Iterator[None]:
    """Say what a failed connect means; every driver raises exceptions of its own, wrapped by SQLAlchemy or not."""
    try:
        yield
    except FininfraDbError:
        raise
    except Exception as error:  # drivers raise what they like, from OSError to classes of their own
        target = target_of(settings)
        known = target.dialect.connection_error(error, target.url)
        raise type(known)(settings.redact(known.message), known.hint) from None


@contextmanager
def _statement_errors_in_words(settings: Settings) -> Iterator[None]:
    """A statement may fail for what it says of the whole database: locked by another writer, or damaged."""
    try:
        yield
    except SQLAlchemyError as error:
        target = target_of(settings)
        known = target.dialect.statement_error(error, target.url)
        if known is not None:
            raise known from None
        raise


@asynccontextmanager
async def migration_lock(settings: Settings, observer: Observer | None = None, *, gives_way: bool = True) -> AsyncIterator[HeldLock]:
    """Hold the migration lock of the database for as long as the block runs; none when the settings say so.

    ``gives_way`` to whoever needs everybody else off the database.
    """
    if not settings.migration_lock:
        yield HeldLock()
        return
    target = target_of(settings)
    async with target.dialect.migration_lock(
        lambda: open_lifted(settings, "maintenance"),
        target.url,
        timeout=settings.lock_timeout,
        observer=observer,
        gives_way=gives_way,
    ) as lock:
        yield lock


@asynccontextmanager
async def locked_transaction(settings: Settings, purpose: Purpose, observer: Observer | None = None) -> AsyncIterator["AsyncConnection"]:
    """One connection under the migration lock, whose work is committed at the end of the block if the lock is still held."""
    async with migration_lock(settings, observer) as lock, lock.kept(), open_connection(settings, purpose) as connection:
        yield connection
        await lock.verify()
        await connection.commit()


@asynccontextmanager
async def lone_connection(settings: Settings, observer: Observer | None = None) -> AsyncIterator[Lifted]:
    """The one connection of a run that may have no second: it holds the migration lock itself, and gives way to nobody.

    On a server it is in AUTOCOMMIT. On SQLite it takes the write lock with its first statement.
    """
    async with migration_lock(settings, observer, gives_way=False) as lock:
        if lock.connection is not None:
            yield lock.connection
            return
        purpose: Purpose = "maintenance" if target_of(settings).dialect.features.has_server else "seeding"
        async with open_lifted(settings, purpose) as connection:
            yield connection


def snapshots_of(settings: Settings, observer: Observer | None = None, *, patience: float | None = None) -> SnapshotStore:
    """The snapshots of the database. ``patience`` is how long others who are connected are waited for, else the lock's timeout.

    Raises ``SnapshotsUnsupported``.
    """
    target = target_of(settings)

    def open_at(database: str) -> AbstractAsyncContextManager[Lifted]:
        url = target.url.set(database=database).render_as_string(hide_password=False)
        return open_lifted(replace(settings, sql_url=url), "maintenance" if target.dialect.features.has_server else "seeding")

    access = Access(
        locked=lambda: lone_connection(settings, observer),
        open=open_at,
        timeout=settings.lock_timeout if patience is None else patience,
        lock_timeout=settings.lock_timeout if settings.migration_lock else None,
        observer=observer,
    )
    return target.dialect.snapshots(target.url, access)


async def ensure_database(settings: Settings) -> bool:
    """Create the database if the server has none of that name; whether this call created it.

    On SQLite that is a file without tables.
    """
    target = target_of(settings)
    try:
        async with open_connection(settings, "reading"):
            return False
    except DatabaseMissing:
        if not target.dialect.features.has_server:
            _look_before_connecting(settings, "migration")
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
