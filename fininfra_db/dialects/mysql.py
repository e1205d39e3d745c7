"""MySQL and MariaDB, through aiomysql (or asyncmy, when the URL names it)."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from datetime import UTC
from functools import partial
from hashlib import sha256
from importlib import import_module
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, event, inspect, text
from sqlalchemy.exc import DBAPIError

from fininfra_db.dialects.base import Dialect, Features
from fininfra_db.dialects.tls import tls_of
from fininfra_db.errors import DatabaseUnreachable
from fininfra_db.results import Holder

_UNKNOWN_DATABASE: Final = 1049
_PASSING: Final = (1040, 1203, 1053, 2006, 2013)
"""Too many connections, of all and of one user; shutting down; gone; lost."""
_LONGEST_LOCK_NAME: Final = 64
_HOLDER_TABLE: Final = "fininfra_lock"
_MAKE_HOLDER_TABLE: Final = (
    f"CREATE TABLE IF NOT EXISTS {_HOLDER_TABLE} (id INT PRIMARY KEY, connection BIGINT, host VARCHAR(255), pid INT, since DATETIME(6)) "
    "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
)
_ALREADY_SO: Final = (1007, 1008, 1050, 1051, 1060, 1061, 1068, 1091, 1146, 1826)
"""Database, table, column, key, primary key or foreign key is there already, or is not there to be dropped (MariaDB "Error Codes")."""


class MysqlDialect(Dialect):
    name = "mysql"
    label = "MySQL/MariaDB"
    features = Features(transactional_ddl=False, transaction_per_revision=True, has_server=True)
    drivers = ("aiomysql", "asyncmy")
    other_drivers = ("pymysql", "mysqldb", "mysqlconnector", "mariadbconnector", "cymysql", "pyodbc")
    extra = "mysql"
    maintenance_database = "information_schema"

    def driver_arguments(self, url: URL, query: Mapping[str, str], timeout: float | None) -> tuple[URL, dict[str, Any]]:
        tls = tls_of(query)
        creator = partial(_connect, url.get_driver_name(), timeout, tls.required)
        arguments: dict[str, Any] = {"async_creator_fn": creator}
        if url.password:  # the drivers encode it as Latin-1, the server has hashed it as UTF-8
            arguments["password"] = url.password.encode().decode("latin-1")
        if "charset" not in query:
            arguments["charset"] = "utf8mb4"
        if tls.mode not in (None, "disable"):
            arguments["ssl"] = tls.context()
        return url, arguments

    def insist_on_tls(self, engine: Engine) -> None:
        """Whatever the driver did before, ask the session what it got."""

        @event.listens_for(engine, "connect")
        def look(dbapi_connection: Any, _record: Any) -> None:
            cursor = dbapi_connection.cursor()
            cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
            row = cursor.fetchone()
            cursor.close()
            if not row or not row[1]:
                dbapi_connection.close()
                raise _no_tls()

    def reading_hooks(self) -> Mapping[str, Callable[[Connection], None]]:
        return {"begin": _begin_read_only}

    def says_missing(self, error: BaseException) -> bool:
        return _number(error) == _UNKNOWN_DATABASE

    def is_passing(self, error: BaseException) -> bool:
        return _number(error) in _PASSING or super().is_passing(error)

    def server_version(self, connection: Connection) -> str:
        version, _, rest = str(connection.scalar(text("SELECT VERSION()"))).partition("-")
        return f"{'MariaDB' if 'mariadb' in rest.lower() else 'MySQL'} {version}"

    def size(self, connection: Connection) -> int:
        """As of the server's last look at its tables: MySQL keeps these figures for a day."""
        query = "SELECT sum(data_length + index_length) FROM information_schema.tables WHERE table_schema = DATABASE()"
        return int(connection.scalar(text(query)) or 0)

    def create_database(self, connection: Connection, name: str) -> None:
        quoted = connection.dialect.identifier_preparer.quote_identifier(name)
        connection.exec_driver_sql(f"CREATE DATABASE IF NOT EXISTS {quoted} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")

    def try_lock(self, connection: Connection) -> bool:
        """The server tells nothing of a holder but its connection, so whoever gets the lock writes down who it is."""
        taken = bool(connection.scalar(text("SELECT GET_LOCK(:name, 0)"), {"name": _lock_name(connection)}))
        if taken:
            connection.exec_driver_sql(_MAKE_HOLDER_TABLE)
            connection.execute(
                text(f"REPLACE INTO {_HOLDER_TABLE} VALUES (1, CONNECTION_ID(), :host, :pid, UTC_TIMESTAMP(6))"),
                {"host": socket.gethostname(), "pid": os.getpid()},
            )
        return taken

    def holds_lock(self, connection: Connection) -> bool:
        return bool(connection.scalar(text("SELECT IS_USED_LOCK(:name) = CONNECTION_ID()"), {"name": _lock_name(connection)}))

    def lock_holder(self, connection: Connection) -> Holder | None:
        session = connection.scalar(text("SELECT IS_USED_LOCK(:name)"), {"name": _lock_name(connection)})
        if session is None:
            return None
        if inspect(connection).has_table(_HOLDER_TABLE):
            found = connection.execute(
                text(f"SELECT host, pid, since FROM {_HOLDER_TABLE} WHERE connection = :id"), {"id": session}
            ).first()
            if found is not None:
                return Holder("fininfra-db", found.host, found.pid, found.since.replace(tzinfo=UTC))
        return Holder(f"connection {session} of the server")

    def unlock(self, connection: Connection) -> None:
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _lock_name(connection)})

    def says_done(self, error: BaseException) -> bool:
        return _number(error) in _ALREADY_SO


def _number(error: BaseException) -> object:
    """The server's or the driver's number of an error; None where there is none."""
    return next(iter(getattr(error.orig if isinstance(error, DBAPIError) else error, "args", ())), None)


def _begin_read_only(connection: Connection) -> None:
    """Inside such a transaction DDL is refused as well (error 1792), instead of committing it."""
    connection.exec_driver_sql("START TRANSACTION READ ONLY")


async def _connect(driver: str, timeout: float | None, tls_required: bool, **options: Any) -> Any:
    """A driver's connection. The drivers' own timeouts end when TCP is up, and a mute server would hold them for ever."""
    connect = import_module(driver).connect  # asyncmy never goes on without TLS when it was given an SSLContext
    if tls_required and driver == "aiomysql":
        connect = _connect_with_tls
    async with asyncio.timeout(timeout):
        return await connect(**options)


async def _connect_with_tls(**options: Any) -> Any:
    """aiomysql logs in as plain text when the server offers no TLS, and an impostor may ask for the bare password: stop before that."""
    from aiomysql.connection import Connection
    from pymysql.constants.CLIENT import SSL  # type: ignore[import-untyped]

    class TlsConnection(Connection):  # type: ignore[misc]
        async def _request_authentication(self) -> None:
            if not self.server_capabilities & SSL:
                raise _no_tls()
            await super()._request_authentication()

    connection = TlsConnection(**options)
    await connection._connect()
    return connection


def _no_tls() -> DatabaseUnreachable:
    return DatabaseUnreachable(
        "The URL requires TLS and the server offers none; the connection was closed.",
        "Turn TLS on at the server, or use sslmode=disable on a network that you trust.",
    )


def _lock_name(connection: Connection) -> str:
    """Lock names are shared by the whole server and at most 64 characters long."""
    name = f"fininfra-db:{connection.engine.url.database}"
    return name if len(name) <= _LONGEST_LOCK_NAME else f"fininfra-db:{sha256(name.encode()).hexdigest()[:40]}"
