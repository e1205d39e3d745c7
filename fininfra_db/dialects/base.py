"""What a database is to this program: one interface, one file for each database beside this one.

Code that talks to the database is written once, on a synchronous ``Connection``, and lifted with ``run_sync``.
"""

import asyncio
import math
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sqlalchemy import URL, Connection, Engine, create_mock_engine
from sqlalchemy import Dialect as SqlalchemyDialect
from sqlalchemy.exc import DBAPIError, InvalidRequestError, SQLAlchemyError

from fininfra_db.dialects.tls import OPTIONS as TLS_OPTIONS
from fininfra_db.dialects.tls import tls_of
from fininfra_db.errors import DatabaseMissing, DatabaseUnreachable, FininfraDbError, LockNotObtained, UrlInvalid
from fininfra_db.results import Holder
from fininfra_db.settings import DDL_LOCK_TIMEOUT, LOCK_TIMEOUT

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a server that does not answer, unless the URL says ``connect_timeout``."""

Purpose = Literal["application", "reading", "seeding", "migration", "maintenance"]
"""What an engine is for. Reading never writes; seeding and migration hold SQLite's write lock; maintenance runs in AUTOCOMMIT."""

ConnectionOpener = Callable[[], AbstractAsyncContextManager["AsyncConnection"]]


@dataclass(frozen=True)
class Features:
    """How a database differs, as facts.

    ``transactional_ddl``: DDL is rolled back with its transaction. ``transaction_per_revision``: each revision commits
    by itself, else a run commits as a whole. ``has_server``: databases are created on a server, not as a file.
    """

    transactional_ddl: bool
    transaction_per_revision: bool
    has_server: bool


@dataclass(frozen=True)
class SessionOptions:
    """How long a session waits, in seconds, as in :class:`fininfra_db.settings.Settings`."""

    lock_timeout: float = LOCK_TIMEOUT
    ddl_lock_timeout: float = DDL_LOCK_TIMEOUT
    statement_timeout: float | None = None


class Dialect:
    """One kind of database."""

    name: ClassVar[str]
    label: ClassVar[str]
    features: ClassVar[Features]
    drivers: ClassVar[tuple[str, ...]]
    """The asynchronous drivers that work, the default first."""
    extra: ClassVar[str | None] = None
    """The extra of this package that installs the default driver; None when it always comes along."""
    maintenance_database: ClassVar[str | None] = None
    """The database to connect to when the one of the URL does not exist yet."""

    # Place: from a URL to an engine.

    def locate(self, url: URL, project_root: Path) -> URL:
        """The URL with an asynchronous driver, and with whatever is relative to the project made absolute."""
        driver = url.drivername.partition("+")[2]
        return url.set(drivername=f"{self.name}+{driver if driver in self.drivers else self.drivers[0]}")

    def engine_arguments(self, url: URL, purpose: Purpose) -> tuple[URL, dict[str, Any]]:
        """The URL and the ``connect_args`` that make the driver do what the URL asks for."""
        query = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
        bare = url.difference_update_query([*TLS_OPTIONS, "connect_timeout"])
        try:
            timeout = float(query.get("connect_timeout", CONNECT_TIMEOUT))
        except ValueError:
            timeout = math.nan
        if not math.isfinite(timeout):
            raise UrlInvalid("connect_timeout is not a number of seconds.", "Correct the database URL.")
        return self.driver_arguments(bare, query, timeout if timeout > 0 else None)

    def driver_arguments(self, url: URL, query: Mapping[str, str], timeout: float | None) -> tuple[URL, dict[str, Any]]:
        """Translate libpq's options in ``query`` for the driver. ``timeout`` is in seconds, None for no limit."""
        raise NotImplementedError

    def prepare(self, engine: Engine, url: URL, purpose: Purpose, session: SessionOptions) -> None:
        """Set up what each new connection of ``engine`` needs."""
        if tls_of({name: str(value) for name, value in url.query.items()}).required:
            self.insist_on_tls(engine)

    def insist_on_tls(self, engine: Engine) -> None:
        """Refuse connections that the driver made without TLS although TLS was required; drivers that never do need nothing."""

    def look_before_connecting(self, url: URL, purpose: Purpose) -> None:
        """Raise ``DatabaseUnreachable`` for a place where no database can be; a server tells by itself."""

    def make_room(self, url: URL, purpose: Purpose) -> None:
        """Make a file for a database that is about to be written, where a database is a file."""

    def interrupt(self, connection: Any, url: URL) -> None:
        """End the statement that a connection may still run, because its run was interrupted.

        ``connection`` is SQLAlchemy's adapter of the driver's, and is closed next. Called within ``greenlet_spawn``. Drivers
        that end a statement when its task is cancelled need nothing.
        """

    def offline(self, url: URL) -> SqlalchemyDialect:
        """SQLAlchemy's dialect for rendering SQL without a connection and without a driver."""
        dialect = create_mock_engine(URL.create(self.name), lambda *_: None, paramstyle="named").dialect
        return dialect

    # Trouble: from a driver's exception to a sentence.

    def connection_error(self, error: BaseException, url: URL) -> FininfraDbError:
        """What a failed connect means, in words. The driver's message may hold secrets and is cut to its first line."""
        where = self.describe(url)
        causes = list(_causes(error))
        if isinstance(error, TypeError | InvalidRequestError):
            return UrlInvalid(f"The driver does not take an option of the database URL: {first_line(error)}", "Remove the option.")
        if any(isinstance(cause, TimeoutError) for cause in causes):
            return DatabaseUnreachable(f"{where} did not answer in time.", "Check the host and port, and that the server runs.")
        if self.says_missing(error):
            return DatabaseMissing(f"{where} does not exist.", "Run 'fininfra-db setup-and-migrate' to create it, or check the name.")
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return DatabaseUnreachable(f"The host of {where} is unknown.", "Check the host name in the database URL.")
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return DatabaseUnreachable(
                    f"The certificate of {where} is not trusted: {cause.verify_message}.",
                    "Check sslmode, sslrootcert and the host in the database URL. No password was sent.",
                )
        return DatabaseUnreachable(
            f"Cannot connect to {where}: {first_line(error)}", "Check that the server runs and that the URL's user and password are right."
        )

    def says_missing(self, error: BaseException) -> bool:
        """Whether the error says that the server has no such database."""
        return False

    def says_exists(self, error: BaseException) -> bool:
        """Whether the error says that somebody else has just created the database."""
        return False

    def statement_error(self, error: BaseException, url: URL) -> FininfraDbError | None:
        """What a failed statement says of the whole database, in words; None when it is about the statement."""
        return None

    def describe(self, url: URL) -> str:
        """The database in words, without user and password."""
        host = url.host or "local socket"
        return f"{self.label} database {url.database!r} at {host}{f':{url.port}' if url.port else ''}"

    # Work.

    def create_database(self, connection: Connection, name: str) -> None:
        """Create the database ``name``; ``connection`` is to the server, in AUTOCOMMIT."""
        connection.exec_driver_sql(f"CREATE DATABASE {connection.dialect.identifier_preparer.quote_identifier(name)}")

    @asynccontextmanager
    async def migration_lock(self, connect: ConnectionOpener, url: URL, timeout: float = LOCK_TIMEOUT) -> AsyncIterator[None]:
        """Hold the one lock of this database's migrations.

        ``connect`` opens a maintenance connection: the lock lives on a connection of its own, in AUTOCOMMIT, and the
        server frees it when that connection ends. It is polled, never waited for inside the server: a waiting statement
        would deadlock with CREATE INDEX CONCURRENTLY. Raises ``LockNotObtained`` after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        async with connect() as connection:
            while not await connection.run_sync(self.try_lock):
                if time.monotonic() >= deadline:
                    raise self.lock_not_obtained(url)
                await asyncio.sleep(random.uniform(0.05, 0.25))
            try:
                yield
            finally:
                await connection.run_sync(self.unlock)

    def lock_not_obtained(self, url: URL, holder: Holder | None = None) -> LockNotObtained:
        """The error for a lock that somebody else held for as long as could be waited."""
        return LockNotObtained(
            f"{self.describe(url)} is locked by {holder or 'another writer'}, and went on being locked. Nothing was changed.",
            "Wait for it to end and run the command again, or wait longer with --lock-timeout SECONDS.",
        )

    def try_lock(self, connection: Connection) -> bool:
        """Take the migration lock if it is free, for as long as this connection lives."""
        raise NotImplementedError

    def unlock(self, connection: Connection) -> None:
        """Give the migration lock back."""
        raise NotImplementedError

    def lock_holder(self, connection: Connection) -> Holder | None:
        """Who holds the migration lock now; None when nobody does, or the database does not tell. Nothing is written."""
        return None

    @contextmanager
    def guarded(self, connection: Connection) -> Iterator[None]:
        """Look at what a migration is about to do, and at what it did before it is committed; raises to roll it back."""
        yield


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The driver's exception and what it was raised from."""
    cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def first_line(error: BaseException) -> str:
    """What the driver says, without the lines after it, which may hold values of a row."""
    cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(error, SQLAlchemyError) and not isinstance(error, DBAPIError):
        cause = error
    text = str(cause) or type(cause).__name__
    if text.startswith("<class "):
        text = text.partition(">: ")[2] or text
    return text.splitlines()[0].strip()
