"""What a database is to this program: one interface, one file for each database beside this one.

Code that talks to the database is written once, on a synchronous ``Connection``, and lifted with ``run_sync``.
"""

import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sqlalchemy import URL, Connection, Engine, create_mock_engine
from sqlalchemy import Dialect as SqlalchemyDialect
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from fininfra_db.dialects.locks import HeldLock, hold
from fininfra_db.dialects.tls import OPTIONS as TLS_OPTIONS
from fininfra_db.dialects.tls import tls_of
from fininfra_db.dialects.wording import first_line as first_line
from fininfra_db.errors import DatabaseMissing, DatabaseUnreachable, FininfraDbError, LockNotObtained, ServerNotReady, UrlInvalid
from fininfra_db.results import Holder, Observer
from fininfra_db.settings import LOCK_TIMEOUT

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


class Dialect:
    """One kind of database."""

    name: ClassVar[str]
    label: ClassVar[str]
    features: ClassVar[Features]
    drivers: ClassVar[tuple[str, ...]]
    """The asynchronous drivers that work, the default first."""
    other_drivers: ClassVar[tuple[str, ...]]
    """Drivers that a URL may name though they are not used here, synchronous ones mostly: the default takes their place."""
    extra: ClassVar[str | None] = None
    """The extra of this package that installs the default driver; None when it always comes along."""
    maintenance_database: ClassVar[str | None] = None
    """The database to connect to when the one of the URL does not exist yet."""

    # Place: from a URL to an engine.

    def locate(self, url: URL, project_root: Path) -> URL:
        """The URL with an asynchronous driver, and with whatever is relative to the project made absolute.

        Raises ``UrlInvalid`` for a driver that is not known: the default could mean something else by the URL.
        """
        driver = url.drivername.partition("+")[2]
        if driver and driver not in (*self.drivers, *self.other_drivers):
            raise UrlInvalid(
                f"The database URL names a driver that is not known for {self.label}.",
                f"Write {url.get_backend_name()}:// alone, or name one of {', '.join(self.drivers)}.",
            )
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

    def prepare(self, engine: Engine, url: URL, purpose: Purpose) -> None:
        """Set up what each new connection of ``engine`` needs."""
        if tls_of({name: str(value) for name, value in url.query.items()}).required:
            self.insist_on_tls(engine)

    def insist_on_tls(self, engine: Engine) -> None:
        """Refuse connections that the driver made without TLS although TLS was required; drivers that never do need nothing."""

    def reading_hooks(self) -> Mapping[str, Callable[[Connection], None]]:
        """What keeps a connection for reading from writing, by the event of SQLAlchemy's ``Engine`` at which it is called.

        Each holds for a transaction or for a checkout from the pool, never for the session of the server: behind a pooler
        the session is used by others afterwards.
        """
        return {}

    def look_before_connecting(self, url: URL, purpose: Purpose) -> None:
        """Raise ``DatabaseUnreachable`` for a place where no database can be; a server tells by itself."""

    def make_room(self, url: URL, purpose: Purpose) -> None:
        """Make a file for a database that is about to be written, where a database is a file."""

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
        if self.says_missing(error):
            return DatabaseMissing(f"{where} does not exist.", "Run 'fininfra-db setup-and-migrate' to create it, or check the name.")
        kind = ServerNotReady if self.is_passing(error) else DatabaseUnreachable
        if any(isinstance(cause, TimeoutError) for cause in causes):
            return kind(f"{where} did not answer in time.", "Check the host and port, and that the server runs.")
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return kind(f"The host of {where} is unknown.", "Check the host name in the database URL.")
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return DatabaseUnreachable(
                    f"The certificate of {where} is not trusted: {cause.verify_message}.",
                    "Check sslmode, sslrootcert and the host in the database URL. No password was sent.",
                )
        return kind(
            f"Cannot connect to {where}: {first_line(error)}", "Check that the server runs and that the URL's user and password are right."
        )

    def is_passing(self, error: BaseException) -> bool:
        """Whether a failed connect is a trouble that goes away by itself: nobody answers, or not yet, or the server is full.

        What is about the login, the database or TLS stays as it is, however long it is waited for.
        """
        causes = [cause for cause in _causes(error) if isinstance(cause, OSError | EOFError)]
        lasting = any(isinstance(cause, ssl.SSLError | PermissionError) or "SSL" in str(cause) for cause in causes)
        return bool(causes) and not lasting

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

    # Looking.

    def server_version(self, connection: Connection) -> str:
        """Product and version, such as ``PostgreSQL 16.4``."""
        raise NotImplementedError

    def size(self, connection: Connection) -> int | None:
        """The size of the database in bytes; None when it cannot be told."""
        raise NotImplementedError

    # Work.

    def create_database(self, connection: Connection, name: str) -> None:
        """Create the database ``name``; ``connection`` is to the server, in AUTOCOMMIT."""
        connection.exec_driver_sql(f"CREATE DATABASE {connection.dialect.identifier_preparer.quote_identifier(name)}")

    @asynccontextmanager
    async def migration_lock(
        self, connect: ConnectionOpener, url: URL, *, timeout: float = LOCK_TIMEOUT, observer: Observer | None = None
    ) -> AsyncIterator[HeldLock]:
        """Hold the one lock of this database's migrations.

        ``connect`` opens a maintenance connection, on which the lock lives. ``timeout`` is in seconds; 0 fails at once.
        Raises ``LockNotObtained``, or ``LockUnsafe`` where a lock would hold nobody off.
        """
        async with hold(self, connect, url, timeout, observer) as lock:
            yield lock

    async def refuse_unsafe_lock(self, connection: "AsyncConnection", connect: ConnectionOpener) -> None:
        """Raise ``LockUnsafe`` where a lock of this session would hold nobody off."""

    def lock_not_obtained(self, url: URL, holder: Holder | None = None) -> LockNotObtained:
        """The error for a lock that somebody else held for as long as could be waited."""
        return LockNotObtained(
            f"{self.describe(url)} is locked by {holder or 'another writer'}, and went on being locked. Nothing was changed.",
            "Wait for it to end and run the command again, or wait longer with --lock-timeout SECONDS.",
        )

    def try_lock(self, connection: Connection) -> bool:
        """Take the migration lock if it is free, for as long as this connection lives."""
        raise NotImplementedError

    def holds_lock(self, connection: Connection) -> bool:
        """Whether this connection holds the migration lock, as the server sees it."""
        raise NotImplementedError

    def unlock(self, connection: Connection) -> None:
        """Give the migration lock back."""
        raise NotImplementedError

    def says_done(self, error: BaseException) -> bool:
        """Whether a statement failed because what it makes is there already, or what it drops is gone."""
        return False

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
