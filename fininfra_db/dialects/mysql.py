"""MySQL and MariaDB, through aiomysql (or asyncmy, when the URL names it)."""

import asyncio
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from importlib import import_module
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only, greenlet_spawn

from fininfra_db.dialects.base import Dialect, Features
from fininfra_db.dialects.tls import tls_of
from fininfra_db.errors import DatabaseUnreachable

_UNKNOWN_DATABASE: Final = 1049
_LONGEST_LOCK_NAME: Final = 64
_KILL_TIMEOUT: Final = 1.5
"""Seconds to wait for the server to end an interrupted statement."""


class MysqlDialect(Dialect):
    name = "mysql"
    label = "MySQL/MariaDB"
    features = Features(transactional_ddl=False, transaction_per_revision=True, has_server=True)
    drivers = ("aiomysql", "asyncmy")
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

    def interrupt(self, connection: Any, url: URL) -> None:
        """The server notices a closed connection only when the statement ends, so it is told on another one."""
        thread = connection.driver_connection.thread_id()
        await_only(asyncio.wait_for(greenlet_spawn(self._kill, url, thread), _KILL_TIMEOUT))

    def _kill(self, url: URL, thread: int) -> None:
        place, arguments = self.engine_arguments(url, "maintenance")
        engine = create_engine(place, connect_args=arguments, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"KILL {thread}")

    def says_missing(self, error: BaseException) -> bool:
        cause = error.orig if isinstance(error, DBAPIError) else error
        return _UNKNOWN_DATABASE in getattr(cause, "args", ())[:1]

    def create_database(self, connection: Connection, name: str) -> None:
        quoted = connection.dialect.identifier_preparer.quote_identifier(name)
        connection.exec_driver_sql(f"CREATE DATABASE IF NOT EXISTS {quoted} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")

    def try_lock(self, connection: Connection) -> bool:
        return bool(connection.scalar(text("SELECT GET_LOCK(:name, 0)"), {"name": _lock_name(connection)}))

    def unlock(self, connection: Connection) -> None:
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _lock_name(connection)})


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
