"""SQLite: a file, one writer at a time, and transactions that only hold when they are asked for."""

import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, ColumnElement, Connection, Engine, FunctionFilter, String, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import functions, operators
from sqlalchemy.sql.elements import Over
from sqlalchemy.util import await_only

from fininfra_db.dialects import sqlite_guard, sqlite_snapshots
from fininfra_db.dialects.base import ConnectionOpener, Dialect, Features, Purpose, Stated, first_line
from fininfra_db.dialects.bulk import Sender
from fininfra_db.dialects.bulk_plan import Plan
from fininfra_db.dialects.judging import SqliteJudging
from fininfra_db.dialects.loading import undecorated
from fininfra_db.dialects.locks import HeldLock
from fininfra_db.dialects.sessions import DEFAULTS, SessionOptions
from fininfra_db.dialects.snapshots import Access, SnapshotStore
from fininfra_db.dialects.sqlite_files import MAGIC, file_of, is_closed_wal, is_file, read_start
from fininfra_db.dialects.sqlite_insert import ManySender
from fininfra_db.dialects.sqlite_lock import begin_patiently, commit_patiently, reader, writer
from fininfra_db.dialects.sqlite_store import SqliteSnapshots
from fininfra_db.dialects.swapping import Key, Slot, Swap, from_values, one_by_one
from fininfra_db.dialects.threads import in_thread
from fininfra_db.errors import ConfigurationError, DatabaseMissing, DatabaseUnreachable, FininfraDbError, UrlInvalid
from fininfra_db.events import Holder, Observer, Snapshot
from fininfra_db.settings import LOCK_TIMEOUT
from fininfra_db.types import Money

_UNFINISHED: Final = "SQLITE_READONLY_ROLLBACK"
"""SQLite's name for a file whose journal is to be rolled back, on a connection that may not write (sqlite.org/rescode.html)."""
_BRING_BACK: Final = "Bring back a snapshot ('fininfra-db snapshot list' shows what there is) or a backup."


class SqliteDialect(SqliteJudging, Dialect):
    name = "sqlite"
    label = "SQLite"
    features = Features(transactional_ddl=True, transaction_per_revision=False, has_server=False, row_comparison=True)
    drivers = ("aiosqlite",)
    other_drivers = ("pysqlite",)

    def locate(self, url: URL, project_root: Path) -> URL:
        located = super().locate(url, project_root)
        name = url.database
        if not name or not is_file(url):
            return located
        return located.set(database=os.path.normpath(project_root / os.path.expanduser(name)))

    def engine_arguments(self, url: URL, purpose: Purpose, options: SessionOptions = DEFAULTS) -> tuple[URL, dict[str, Any]]:
        if purpose == "application":
            return super().engine_arguments(url, purpose)
        if not url.database or url.database == ":memory:":
            raise ConfigurationError(
                "A SQLite database in memory ends with each connection and cannot be managed.", "Name a file, as in sqlite:///dev.db."
            )
        if purpose == "reading" and is_file(url):
            url = url.set(database=f"file:{quote(url.database)}").update_query_dict({"mode": "ro", "uri": "true"})
        if purpose == "reading" and is_closed_wal(file_of(url)):
            url = url.update_query_dict({"immutable": "1"})
        return super().engine_arguments(url, purpose)

    def driver_arguments(self, url: URL, query: Mapping[str, str], timeout: float | None) -> tuple[URL, dict[str, Any]]:
        if query.get("sslmode"):
            raise UrlInvalid("sslmode was asked for, and a SQLite file has no connection to encrypt.", "Remove it from the URL.")
        return url, {}

    def prepare(self, engine: Engine, url: URL, purpose: Purpose, options: SessionOptions) -> None:
        """Take transactions out of the driver's hands and put foreign keys into the state that the purpose needs.

        sqlite3 begins a transaction before DML only, so DDL would commit by itself: the driver is set to begin none and
        every BEGIN is ours. The pragma does nothing inside a transaction, hence at connect. During a migration foreign
        keys are off: a batch rebuild drops the old table, which with them on would delete every row below it. A seed and a
        migration take the write lock as they begin, and wait for it in a way that can be interrupted.
        """

        @event.listens_for(engine, "connect")
        def set_up(dbapi_connection: Any, _record: Any) -> None:
            self.set_up_session(dbapi_connection, url, purpose, options)

        if purpose == "application":

            @event.listens_for(engine, "do_connect")
            def look_before_connecting(*_: Any) -> None:
                self.look_before_connecting(url, "application")

        if purpose in ("seeding", "migration"):
            for moment, hook in self.writing_hooks(purpose, options).items():
                event.listen(engine, moment, hook)
            commit_patiently(engine, options.lock_timeout)
        else:

            @event.listens_for(engine, "begin")
            def begin(connection: Connection) -> None:
                mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
                connection.exec_driver_sql(f"BEGIN {mode}")

    def set_up_session(self, dbapi_connection: Any, url: URL, purpose: Purpose, options: SessionOptions) -> None:
        dbapi_connection.isolation_level = None
        cursor = dbapi_connection.cursor()
        cursor.execute(f"PRAGMA foreign_keys={'OFF' if purpose == 'migration' else 'ON'}")
        cursor.close()

    def writing_hooks(self, purpose: Purpose, options: SessionOptions) -> Mapping[str, Callable[[Connection], None]]:
        """Each transaction takes the write lock as it begins.

        An ``env.py`` may have turned foreign keys on for its engine; a migration turns them off at the last moment.
        """

        def begin(connection: Connection) -> None:
            if purpose == "migration":
                connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            begin_patiently(connection, options.lock_timeout)

        return {"begin": begin}

    def look_before_connecting(self, url: URL, purpose: Purpose) -> None:
        """SQLite would create a missing file and take an empty one for a new database; a typing error must not do that."""
        if not is_file(url):
            return
        path = file_of(url)
        if not path.parent.is_dir():
            raise DatabaseUnreachable(f"The folder of the SQLite database does not exist: {path.parent}", "Create it, or check SQL_URL.")
        if path.is_dir():
            raise DatabaseUnreachable(f"The SQLite database is a folder: {path}", "Name a file in SQL_URL.")
        if path.exists():
            self._look_at_file(path)
        elif purpose != "migration":
            raise DatabaseMissing(f"There is no SQLite database at {path} yet.", "Run 'fininfra-db setup-and-migrate' to make it.")
        if purpose in ("seeding", "migration") and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise DatabaseUnreachable(f"The SQLite database cannot be written: {path}", "Check the permissions of the file and its folder.")

    def _look_at_file(self, path: Path) -> None:
        try:
            start = read_start(path, len(MAGIC))
        except OSError as error:
            raise DatabaseUnreachable(f"{path} cannot be read: {error.strerror}.", "Check the permissions of the file.") from None
        if start is None:  # SQLite has it open here, so it is one
            return
        if not start:
            raise DatabaseUnreachable(
                f"{path} is empty (0 bytes): whatever it held is gone, or it never was a database.",
                f"{_BRING_BACK} Or delete the file and run the command again for a new database.",
            )
        if start != MAGIC:
            raise DatabaseUnreachable(f"{path} is not a SQLite database.", "Check the path in SQL_URL; the file was not touched.")

    def make_room(self, url: URL, purpose: Purpose) -> None:
        """Put a valid database without tables where there is no file, in one step.

        SQLite itself would leave a file of 0 bytes until the first commit: after a failure it would look like a database
        that lost everything, and a second migrator could not tell it from one.
        """
        if purpose != "migration" or not is_file(url):
            return
        path = file_of(url)
        if path.exists() or not os.access(path.parent, os.W_OK):
            return
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
                new = Path(folder) / path.name
                with closing(sqlite3.connect(new)) as connection:
                    connection.executescript("CREATE TABLE room (id INTEGER); DROP TABLE room; VACUUM;")
                with suppress(FileExistsError):
                    _place(new, path)
        except OSError as error:
            raise DatabaseUnreachable(
                f"The SQLite database cannot be made: {path}: {error.strerror}.", "Check the permissions of the folder, and its space."
            ) from None

    def recover(self, url: URL) -> None:
        """Open the file in a way that lets SQLite roll back the journal of a killed program. Those of living ones are left alone."""
        path = file_of(url)
        if not is_file(url) or not path.exists() or not path.with_name(f"{path.name}-journal").exists():
            return
        with suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=0)) as connection:  # the next look says what is wrong
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def connection_error(self, error: BaseException, url: URL) -> FininfraDbError:
        if isinstance(error, TypeError):
            return super().connection_error(error, url)
        return DatabaseUnreachable(f"Cannot open {self.describe(url)}: {first_line(error)}", "Check the path and its permissions.")

    def statement_error(self, error: BaseException, url: URL) -> FininfraDbError | None:
        if not isinstance(error, DatabaseError):
            return None
        if "database is locked" in str(error.orig):
            return self.lock_not_obtained(url, writer(url) if error.statement else reader(url))  # a commit is no statement
        if getattr(error.orig, "sqlite_errorname", None) == _UNFINISHED:
            return DatabaseUnreachable(
                f"A program was killed while it wrote to {self.describe(url)}. What it left has to be rolled back before anybody can look.",
                "Run a command that writes, such as 'fininfra-db upgrade' or the one that was killed: it rolls back first.",
            )
        if any(words in str(error.orig) for words in ("malformed", "not a database")):
            return DatabaseUnreachable(f"{self.describe(url)} is damaged: {first_line(error)}.", _BRING_BACK)
        return None

    def describe(self, url: URL) -> str:
        return f"SQLite database {url.database}"

    def server_version(self, connection: Connection) -> str:
        return f"{self.label} {connection.exec_driver_sql('SELECT sqlite_version()').scalar()}"

    def size(self, connection: Connection) -> int:
        """Of the file, and of the log beside it."""
        path = Path(next(row[2] for row in connection.exec_driver_sql("PRAGMA database_list") if row[1] == "main"))
        files = (path, path.with_name(f"{path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def live_name(self, connection: Connection) -> str:
        return next(Path(row[2]).name for row in connection.exec_driver_sql("PRAGMA database_list") if row[1] == "main")

    def database_name(self, url: URL) -> str:
        return Path(url.database or "").name

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
        """Nothing to do: the migration's own BEGIN IMMEDIATE is the lock, and it ends with the process whatever happens."""
        yield HeldLock()

    def lock_holder(self, connection: Connection) -> Holder | None:
        """Told by Linux only; elsewhere None, though somebody may hold it."""
        return writer(connection.engine.url)

    def interrupt(self, connection: Any, url: URL) -> None:
        """The driver runs a statement in a thread of its own, and to close its connection would wait for the end of it.

        To close does not roll back while the statement's cursor is still there: the lock would stay until the process ends.
        """
        await_only(connection.driver_connection.interrupt())
        await_only(connection.driver_connection.rollback())

    def comparable(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """To a collation texts may be equal that are not the same."""
        return column.collate("BINARY") if isinstance(undecorated(column.type), String) else column

    def bulk_sender(self, connection: Connection, plan: Plan) -> Sender:
        return ManySender(connection, plan)

    def guarded(self, connection: Connection, stated: Stated) -> AbstractContextManager[None]:
        return sqlite_guard.guarded(connection, stated)

    def swap(self, connection: Connection, slot: Slot, swaps: Sequence[Swap]) -> dict[Key, str]:
        """In one statement since SQLite 3.35."""
        return (from_values if connection.dialect.update_returning else one_by_one)(connection, slot, swaps)

    def keys_kept(self, connection: Connection) -> Callable[[], None]:
        return sqlite_guard.keys_kept(connection)

    def before_migration(self, connection: Connection, versions: Collection[str]) -> Snapshot | None:
        """Copy the file, if there is a row in it to lose."""
        file = connection.exec_driver_sql("PRAGMA database_list").first()
        if file is None or not file[2] or not sqlite_guard.holds_rows(connection):
            return None
        path = Path(file[2]).resolve()
        return in_thread(lambda stop: sqlite_snapshots.take(path, versions, stop))

    def let_go_of_snapshots(self, url: URL, newest: Snapshot | None) -> None:
        if newest is not None:
            sqlite_snapshots.prune(file_of(url).resolve(), spare=newest)

    def snapshots(self, url: URL, access: Access) -> SnapshotStore:
        return SqliteSnapshots(file_of(url).resolve(), access)


def _place(new: Path, path: Path) -> None:
    """Give a file its name unless it is taken (``FileExistsError``), in one step where the file system has links."""
    try:
        os.link(new, path)
    except FileExistsError:
        raise
    except OSError:
        with path.open("xb") as file:
            file.write(new.read_bytes())


_SCALED: Final = "fininfra_scaled"
"""Passed down to a sum whose FILTER or OVER is being rendered: the division then stands around the whole."""


def _is_money_sum(element: Any) -> bool:
    if isinstance(element, Over):
        return _is_money_sum(element.element)
    if isinstance(element, FunctionFilter):
        return _is_money_sum(element.func)
    return isinstance(element, functions.sum) and isinstance(element.type, Money)


def _render_sum(element: Any, compiler: Any, **options: Any) -> str:
    """``sum(amount)`` in whole ten-thousandths: SQLite before 3.43 adds binary fractions, whose errors add up to cents."""
    visit = getattr(compiler, f"visit_{element.__visit_name__}")
    if not _is_money_sum(element):
        return str(visit(element, **options))
    inside = options.pop(_SCALED, False)
    if isinstance(element, functions.sum):
        (argument,) = element.clauses
        distinct = getattr(argument, "operator", None) is operators.distinct_op
        amount = compiler.process(argument.element if distinct else argument, **options)
        text = f"sum({'DISTINCT ' if distinct else ''}CAST(round({amount} * 10000) AS INTEGER))"
    else:
        text = visit(element, **options | {_SCALED: True})
    return text if inside else f"({text} / 10000.0)"


for _construct in (functions.sum, FunctionFilter, Over):
    compiles(_construct, "sqlite")(_render_sum)
