"""What a database is to this program: one interface, one file for each database beside this one.

Code that talks to the database is written once, on a synchronous ``Connection``, and lifted with ``run_sync``.
"""

import math
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

from sqlalchemy import URL, Connection, Engine, Table, create_mock_engine, event, insert
from sqlalchemy import Dialect as SqlalchemyDialect
from sqlalchemy.types import SchemaType

from fininfra_db.dialects.features import Features as Features
from fininfra_db.dialects.judging import Judging
from fininfra_db.dialects.lifted import Lifted
from fininfra_db.dialects.loading import Loading
from fininfra_db.dialects.locks import HeldLock, hold
from fininfra_db.dialects.online import OnlineDdl
from fininfra_db.dialects.place import Place
from fininfra_db.dialects.sessions import ANSWER_TIMEOUT, DEFAULTS, SessionOptions, run_on
from fininfra_db.dialects.snapshots import Access, SnapshotStore
from fininfra_db.dialects.swapping import Key, Slot, Swap, one_by_one
from fininfra_db.dialects.tls import OPTIONS as TLS_OPTIONS
from fininfra_db.dialects.tls import tls_of
from fininfra_db.dialects.wording import first_line as first_line
from fininfra_db.errors import (
    SnapshotsUnsupported,
    UrlInvalid,
)
from fininfra_db.events import Holder, Observer, Snapshot
from fininfra_db.settings import LOCK_TIMEOUT

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a server that does not answer, unless the URL says ``connect_timeout``."""

Purpose = Literal["application", "reading", "seeding", "migration", "maintenance"]
"""What an engine is for. Reading never writes; seeding and migration hold SQLite's write lock; maintenance runs in AUTOCOMMIT."""

Stated = Callable[[], Collection[str]]
"""Asked at the end of a run: the tables that its revisions say they delete rows from."""

ConnectionOpener = Callable[[], AbstractAsyncContextManager[Lifted]]


class Dialect(Loading, Place, Judging):
    """One kind of database."""

    name: ClassVar[str]
    drivers: ClassVar[tuple[str, ...]]
    """The asynchronous drivers that work, the default first."""
    other_drivers: ClassVar[tuple[str, ...]]
    """Drivers that a URL may name though they are not used here, synchronous ones mostly: the default takes their place."""
    extra: ClassVar[str | None] = None
    """The extra of this package that installs the default driver; None when it always comes along."""
    maintenance_database: ClassVar[str | None] = None
    """The database to connect to when the one of the URL does not exist yet."""

    nothing: ClassVar[str] = "SELECT 1"
    """A statement that does nothing, and where there is such a one, returns no rows."""

    online: ClassVar[OnlineDdl | None] = None
    """Changes beside running writers, of a database that can make them."""

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

    def engine_arguments(self, url: URL, purpose: Purpose, options: SessionOptions = DEFAULTS) -> tuple[URL, dict[str, Any]]:
        """The URL and the ``connect_args`` that make the driver do what the URL asks for."""
        bare = url.difference_update_query([*TLS_OPTIONS, "connect_timeout"])
        return self.driver_arguments(bare, _query_of(url), self.connect_timeout(url))

    def connect_timeout(self, url: URL) -> float | None:
        """Seconds that the driver may take to be let in; None for no limit."""
        try:
            timeout = float(_query_of(url).get("connect_timeout", CONNECT_TIMEOUT))
        except ValueError:
            timeout = math.nan
        if not math.isfinite(timeout):
            raise UrlInvalid("connect_timeout is not a number of seconds.", "Correct the database URL.")
        return timeout if timeout > 0 else None

    def time_to_connect(self, url: URL) -> float | None:
        """Seconds after which a connection is given up that is not ready for its first statement; None for no limit.

        The drivers' own limits end with the login, and what SQLAlchemy and this program ask then has none.
        """
        timeout = self.connect_timeout(url) if self.features.has_server else None
        return None if timeout is None else timeout * max(1, len(self.hosts(url))) + ANSWER_TIMEOUT

    def driver_arguments(self, url: URL, query: Mapping[str, str], timeout: float | None) -> tuple[URL, dict[str, Any]]:
        """Translate libpq's options in ``query`` for the driver. ``timeout`` is in seconds, None for no limit."""
        raise NotImplementedError

    def prepare(self, engine: Engine, url: URL, purpose: Purpose, options: SessionOptions) -> None:
        """Set up what each new connection of ``engine`` needs."""
        if tls_of({name: str(value) for name, value in url.query.items()}).required:
            self.insist_on_tls(engine)
        if purpose in ("migration", "maintenance"):
            event.listen(engine, "connect", lambda connection, _record: self.set_up_session(connection, url, purpose, options))

    def set_up_session(self, dbapi_connection: Any, url: URL, purpose: Purpose, options: SessionOptions) -> None:
        """Tell a new session how long to wait.

        Through the driver: nothing may be executed through SQLAlchemy before ``context.configure()``.
        """
        statement = self.session_sql(url, purpose, options)
        if statement:
            run_on(dbapi_connection, statement)

    def session_sql(self, url: URL, purpose: Purpose, options: SessionOptions) -> str:
        """The statement that sets up a session for a migration or for maintenance; empty when there is nothing to set."""
        return ""

    def insist_on_tls(self, engine: Engine) -> None:
        """Refuse connections that the driver made without TLS although TLS was required; drivers that never do need nothing."""

    def reading_hooks(self) -> Mapping[str, Callable[[Connection], None]]:
        """What keeps a connection for reading from writing, by the event of SQLAlchemy's ``Engine`` at which it is called.

        None may outlive the checkout from the pool: an engine that is kept is there for others too.
        """
        return {}

    def writing_hooks(self, purpose: Purpose, options: SessionOptions) -> Mapping[str, Callable[[Connection], None]]:
        """What makes a connection of a migration hold the write lock of its database, by the event of ``Engine`` at which it is called."""
        return {}

    def look_before_connecting(self, url: URL, purpose: Purpose) -> None:
        """Raise ``DatabaseUnreachable`` for a place where no database can be; a server tells by itself."""

    def make_room(self, url: URL, purpose: Purpose) -> None:
        """Make a file for a database that is about to be written, where a database is a file."""

    def recover(self, url: URL) -> None:
        """Undo what a killed program left half done, where the database does so only for those who may write."""

    def interrupt(self, connection: Any, url: URL) -> None:
        """End the statement that a connection may still run, because its run was interrupted.

        ``connection`` is SQLAlchemy's adapter of the driver's, and is closed next. Called within ``greenlet_spawn``. Drivers
        that end a statement when its task is cancelled need nothing.
        """

    def offline(self, url: URL) -> SqlalchemyDialect:
        """SQLAlchemy's dialect for rendering SQL without a connection and without a driver."""
        dialect = create_mock_engine(URL.create(self.name), lambda *_: None, paramstyle="named").dialect
        return dialect

    # Looking.

    def server_version(self, connection: Connection) -> str:
        """Product and version, such as ``PostgreSQL 16.4``."""
        raise NotImplementedError

    def size(self, connection: Connection) -> int | None:
        """The size of the database in bytes; None when it cannot be told."""
        raise NotImplementedError

    # Work.

    def named_types(self, tables: Iterable[Table]) -> dict[str, SchemaType]:
        """The types of the columns of reflected ``tables`` that are objects of their own in the database, and outlive them."""
        return {}

    def create_database(self, connection: Connection, name: str) -> None:
        """Create the database ``name``; ``connection`` is to the server, in AUTOCOMMIT."""
        connection.exec_driver_sql(f"CREATE DATABASE {connection.dialect.identifier_preparer.quote_identifier(name)}")

    @asynccontextmanager
    async def migration_lock(
        self,
        connect: ConnectionOpener,
        url: URL,
        *,
        timeout: float = LOCK_TIMEOUT,
        observer: Observer | None = None,
        gives_way: bool = True,
    ) -> AsyncIterator[HeldLock]:
        """Hold the one lock of this database's migrations.

        ``connect`` opens a maintenance connection, on which the lock lives. ``timeout`` is in seconds; 0 fails at once.
        ``gives_way``: the lock is not taken while somebody is ``wanted_alone()`` at the database.
        Raises ``LockNotObtained``, or ``LockUnsafe`` where a lock would hold nobody off.
        """
        async with hold(self, connect, url, timeout, observer, gives_way=gives_way) as lock:
            yield lock

    async def refuse_unsafe_lock(self, connection: Lifted, connect: ConnectionOpener) -> None:
        """Raise ``LockUnsafe`` where a lock of this session would hold nobody off."""

    def try_lock(self, connection: Connection) -> bool:
        """Take the migration lock if it is free, for as long as this connection lives."""
        raise NotImplementedError

    def holds_lock(self, connection: Connection) -> bool:
        """Whether this connection holds the migration lock, as the server sees it."""
        raise NotImplementedError

    def unlock(self, connection: Connection) -> None:
        """Give the migration lock back."""
        raise NotImplementedError

    def lock_holder(self, connection: Connection) -> Holder | None:
        """Who holds the migration lock now; None when nobody does, or the database does not tell. Nothing is written."""
        return None

    def wanted_alone(self, connection: Connection) -> Holder | None:
        """Who needs everybody else off the database, or will in a moment; None when nobody does."""
        return None

    def wait_for_disk(self, connection: Connection, wanted: bool) -> None:
        """Whether a commit on this connection waits until it is on the disk.

        Commits reach it in their order, so of a run of many revisions only the last one has to wait: what is lost with the
        server before that is a number of whole revisions, of a run that has not said yet that it is done.
        """

    def insert_unread(self, connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert rows that nothing waits for: they are sent with the commit at the latest."""
        connection.execute(insert(table), [dict(row) for row in rows])

    def swap(self, connection: Connection, slot: Slot, swaps: Sequence[Swap]) -> dict[Key, str]:
        """Replace values that are still what they were; what is stored now in each row that was changed.

        A row that is missing in the answer was changed by somebody else, or is gone.
        """
        return one_by_one(connection, slot, swaps)

    def guarded(self, connection: Connection, stated: Stated) -> AbstractContextManager[None]:
        """Look at what a migration is about to do, and at what it did before it is committed; raises to roll it back."""
        return nullcontext()

    def keys_kept(self, connection: Connection) -> Callable[[], None]:
        """Look at the foreign keys before a revision that nothing else guards. What is returned is called before it is committed.

        It raises to roll the revision back. There is nothing to do where foreign keys hold while a revision runs.
        """
        return lambda: None

    def before_migration(self, connection: Connection, versions: Collection[str]) -> Snapshot | None:
        """Keep a copy of a database, which is at ``versions``, before its first revision is run on ``connection``.

        Returns the copy, or None where there is none to make. Raises ``SnapshotFailed``: then nothing may be run.
        """
        return None

    def let_go_of_snapshots(self, url: URL, newest: Snapshot | None) -> None:
        """Remove the automatic copies that are not needed any more, after what ``newest`` was made for has succeeded."""

    def snapshots(self, url: URL, access: Access) -> SnapshotStore:
        """The copies of the database that are kept. Raises ``SnapshotsUnsupported`` where this program makes none."""
        raise SnapshotsUnsupported(
            f"Snapshots of a {self.label} database are not made by this program yet. Nothing was changed.",
            "Use the database's own backup tools.",
        )


def _query_of(url: URL) -> dict[str, str]:
    """The options of a URL; of one that is given twice, the last."""
    return {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
