"""SQLite: a file, one writer at a time, and transactions that only hold when they are asked for."""

import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, event

from fininfra_db.dialects.base import LOCK_TIMEOUT, ConnectionOpener, Dialect, Features, Purpose, first_line
from fininfra_db.errors import ConfigurationError, DatabaseMissing, DatabaseUnreachable, FininfraDbError, MigrationFailed, UrlInvalid

_MAGIC: Final = b"SQLite format 3\x00"
"""The first bytes of every SQLite database (sqlite.org/fileformat.html)."""


class SqliteDialect(Dialect):
    name = "sqlite"
    label = "SQLite"
    features = Features(transactional_ddl=True, transaction_per_revision=False, has_server=False)
    drivers = ("aiosqlite",)

    def locate(self, url: URL, project_root: Path) -> URL:
        located = super().locate(url, project_root)
        name = url.database
        if not name or name == ":memory:" or name.startswith("file:"):
            return located
        return located.set(database=os.path.normpath(project_root / os.path.expanduser(name)))

    def engine_arguments(self, url: URL, purpose: Purpose) -> tuple[URL, dict[str, Any]]:
        if purpose == "application":
            return super().engine_arguments(url, purpose)
        if not url.database or url.database == ":memory:":
            raise ConfigurationError(
                "A SQLite database in memory ends with each connection and cannot be managed.", "Name a file, as in sqlite:///dev.db."
            )
        if purpose == "reading" and not url.database.startswith("file:"):
            url = url.set(database=f"file:{quote(url.database)}").update_query_dict({"mode": "ro", "uri": "true"})
        url, arguments = super().engine_arguments(url, purpose)
        if purpose == "migration" and "timeout" not in url.query:
            arguments["timeout"] = LOCK_TIMEOUT
        return url, arguments

    def driver_arguments(self, url: URL, query: Mapping[str, str], timeout: float | None) -> tuple[URL, dict[str, Any]]:
        if query.get("sslmode"):
            raise UrlInvalid("sslmode was asked for, and a SQLite file has no connection to encrypt.", "Remove it from the URL.")
        return url, {}

    def prepare(self, engine: Engine, url: URL, purpose: Purpose) -> None:
        """Take transactions out of the driver's hands and put foreign keys into the state that the purpose needs.

        sqlite3 begins a transaction before DML only, so DDL would commit by itself: the driver is set to begin none and
        every BEGIN is ours. The pragma does nothing inside a transaction, hence at connect. During a migration foreign
        keys are off: a batch rebuild drops the old table, which with them on would delete every row below it.
        """
        foreign_keys = "OFF" if purpose == "migration" else "ON"
        begin = "BEGIN IMMEDIATE" if purpose == "migration" else "BEGIN"

        @event.listens_for(engine, "connect")
        def set_up(dbapi_connection: Any, _record: Any) -> None:
            dbapi_connection.isolation_level = None
            cursor = dbapi_connection.cursor()
            cursor.execute(f"PRAGMA foreign_keys={foreign_keys}")
            cursor.close()

        @event.listens_for(engine, "begin")
        def begin_for_real(connection: Connection) -> None:
            mode = connection.get_execution_options().get("sqlite_begin")
            connection.exec_driver_sql(f"BEGIN {mode}" if mode else begin)

    def look_before_connecting(self, url: URL, purpose: Purpose) -> None:
        """SQLite would create a missing file and take an empty one for a new database; a typing error must not do that."""
        name = url.database
        if purpose == "application" or not name or name == ":memory:" or name.startswith("file:"):
            return
        path = Path(name)
        if not path.parent.is_dir():
            raise DatabaseUnreachable(f"The folder of the SQLite database does not exist: {path.parent}", "Create it, or check SQL_URL.")
        if path.is_dir():
            raise DatabaseUnreachable(f"The SQLite database is a folder: {path}", "Name a file in SQL_URL.")
        if path.exists():
            self._look_at_file(path)
        elif purpose == "reading":
            raise DatabaseMissing(f"There is no SQLite database at {path} yet.", "Run 'fininfra-db setup-and-migrate' to make it.")
        if purpose != "reading" and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise DatabaseUnreachable(f"The SQLite database cannot be written: {path}", "Check the permissions of the file and its folder.")

    def _look_at_file(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                start = file.read(len(_MAGIC))
        except OSError as error:
            raise DatabaseUnreachable(f"{path} cannot be read: {error.strerror}.", "Check the permissions of the file.") from None
        if not start:
            raise DatabaseUnreachable(
                f"{path} is empty (0 bytes): whatever it held is gone, or it never was a database.",
                "Restore it from a backup, or delete the file and run the command again for a new database.",
            )
        if start != _MAGIC:
            raise DatabaseUnreachable(f"{path} is not a SQLite database.", "Check the path in SQL_URL; the file was not touched.")

    def make_room(self, url: URL, purpose: Purpose) -> None:
        """Put a valid database without tables where there is no file, in one step.

        SQLite itself would leave a file of 0 bytes until the first commit: after a failure it would look like a database
        that lost everything, and a second migrator could not tell it from one.
        """
        if purpose != "migration" or not url.database or url.database.startswith("file:") or Path(url.database).exists():
            return
        path = Path(url.database)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            new = Path(folder) / path.name
            with closing(sqlite3.connect(new)) as connection:
                connection.executescript("CREATE TABLE room (id INTEGER); DROP TABLE room; VACUUM;")
            with suppress(FileExistsError):
                os.link(new, path)

    def connection_error(self, error: BaseException, url: URL) -> FininfraDbError:
        if isinstance(error, TypeError):
            return super().connection_error(error, url)
        return DatabaseUnreachable(f"Cannot open {self.describe(url)}: {first_line(error)}", "Check the path and its permissions.")

    def describe(self, url: URL) -> str:
        return f"SQLite database {url.database}"

    @asynccontextmanager
    async def migration_lock(self, connect: ConnectionOpener, url: URL, timeout: float = LOCK_TIMEOUT) -> AsyncIterator[None]:
        """Nothing to do: the migration's own BEGIN IMMEDIATE is the lock, and it ends with the process whatever happens."""
        yield

    def before_commit(self, connection: Connection) -> None:
        """Foreign keys were off, so every one is looked at now; a row that points nowhere rolls the run back."""
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if broken:
            tables = ", ".join(sorted({f"{row[0]} -> {row[2]}" for row in broken}))
            raise MigrationFailed(
                f"After the migration {len(broken)} rows point at a row that is not there ({tables}). Everything was rolled back.",
                "Correct the revision so that it keeps these rows consistent, and run the command again.",
            )
