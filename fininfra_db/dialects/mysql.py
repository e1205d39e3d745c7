"""MySQL and MariaDB, through aiomysql (or asyncmy, when the URL names it)."""

import asyncio
import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from functools import partial
from hashlib import sha256
from importlib import import_module
from typing import Any, Final

from sqlalchemy import BINARY, URL, ColumnElement, Connection, Engine, String, Table, cast, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only, greenlet_spawn

from fininfra_db.dialects.base import ConnectionOpener, Dialect, Features, Purpose
from fininfra_db.dialects.blockers import in_words
from fininfra_db.dialects.bulk import Sender
from fininfra_db.dialects.bulk_plan import Plan
from fininfra_db.dialects.judging import MysqlJudging
from fininfra_db.dialects.lifted import Lifted
from fininfra_db.dialects.loading import undecorated
from fininfra_db.dialects.mysql_insert import InsertSender
from fininfra_db.dialects.mysql_snapshots import MysqlSnapshots
from fininfra_db.dialects.sessions import SessionOptions
from fininfra_db.dialects.snapshots import Access, SnapshotStore
from fininfra_db.dialects.swapping import Key, Slot, Swap, from_stage
from fininfra_db.dialects.tls import tls_of
from fininfra_db.dialects.upsert import Merge
from fininfra_db.dialects.wording import error_number
from fininfra_db.errors import DatabaseUnreachable, LockUnsafe
from fininfra_db.events import Holder

_UNKNOWN_DATABASE: Final = 1049
_PASSING: Final = (1040, 1203, 1053, 2006, 2013)
"""Too many connections, of all and of one user; shutting down; gone; lost."""
_GAVE_UP_WAITING: Final = (1205, 1213)
"""Lock wait timeout, and deadlock."""
_OPEN_TRANSACTIONS: Final = """
    SELECT id, user, command, timestampdiff(SECOND, trx_started, now()), coalesce(info, '')
    FROM information_schema.innodb_trx JOIN information_schema.processlist ON id = trx_mysql_thread_id
    WHERE id <> connection_id() AND db = database() ORDER BY trx_started LIMIT 5
"""
_CHANGE_THEMSELVES: Final = """
    SELECT column_name FROM information_schema.columns
    WHERE table_schema = coalesce(:schema, database()) AND table_name = :name AND extra LIKE '%on update%'
"""
_LONGEST_LOCK_NAME: Final = 64
_HOLDER_TABLE: Final = "fininfra_lock"
_MAKE_HOLDER_TABLE: Final = (
    f"CREATE TABLE IF NOT EXISTS {_HOLDER_TABLE} (id INT PRIMARY KEY, connection BIGINT, host VARCHAR(255), pid INT, since DATETIME(6)) "
    "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
)
_MOMENTARY: Final = (1412, 1684)
"""A table's definition has changed, or is being changed, by somebody else."""
_MADE: Final = (1007, 1050, 1060, 1061, 1068, 1826)
_GONE: Final = (1008, 1051, 1091)
"""Database, table, column, key, primary key or foreign key is there already, or is not there to be dropped (MariaDB "Error Codes")."""
_LONGEST_IDLE: Final = 2_147_483
"""The most seconds that ``wait_timeout`` takes on every platform."""
_LONGEST_WAIT: Final = 31_536_000
"""The most seconds that ``lock_wait_timeout`` and ``max_statement_time`` take."""
_MAINTENANCE_WAIT: Final = 3
"""Seconds that maintenance may wait for the lock of a table, well below the time that a server has to answer in."""
_KILL_TIMEOUT: Final = 1.5
"""Seconds to wait for the server to end an interrupted statement."""


class MysqlDialect(MysqlJudging, Dialect):
    name = "mysql"
    label = "MySQL/MariaDB"
    features = Features(transactional_ddl=False, transaction_per_revision=True, has_server=True, row_comparison=False)
    drivers = ("aiomysql", "asyncmy")
    other_drivers = ("pymysql", "mysqldb", "mysqlconnector", "mariadbconnector", "cymysql", "pyodbc")
    extra = "mysql"
    maintenance_database = "information_schema"
    nothing = "DO 0"

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

    def session_sql(self, url: URL, purpose: Purpose, options: SessionOptions) -> str:
        """A lock ends with its session, and the server would close an idle one; for the lock of a table it would wait a day.

        Only MariaDB can limit a statement that is not a SELECT, and only MariaDB reads what ``/*M!`` begins.
        """
        settings = f"SET SESSION wait_timeout = {_LONGEST_IDLE}"
        if purpose == "maintenance":
            settings += f", lock_wait_timeout = {_MAINTENANCE_WAIT}"
        if purpose == "migration":
            settings += f", lock_wait_timeout = {min(math.ceil(options.ddl_lock_timeout) or _LONGEST_WAIT, _LONGEST_WAIT)}"
            settings += f" /*M! , max_statement_time = {min(options.statement_timeout or 0, _LONGEST_WAIT):f} */"
        return settings

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
        return error_number(error) == _UNKNOWN_DATABASE

    def is_passing(self, error: BaseException) -> bool:
        return error_number(error) in _PASSING or super().is_passing(error)

    def server_version(self, connection: Connection) -> str:
        version, _, rest = str(connection.scalar(text("SELECT VERSION()"))).partition("-")
        return f"{'MariaDB' if 'mariadb' in rest.lower() else 'MySQL'} {version}"

    def size(self, connection: Connection) -> int:
        """As of the server's last look at its tables: MySQL keeps these figures for a day."""
        query = "SELECT sum(data_length + index_length) FROM information_schema.tables WHERE table_schema = DATABASE()"
        return int(connection.scalar(text(query)) or 0)

    def gave_up_waiting(self, error: BaseException) -> bool:
        return error_number(error) in _GAVE_UP_WAITING

    def blockers(self, connection: Connection, statement: str | None) -> tuple[str, ...]:
        """Which tables a transaction has locked is not told, so it is every one that is open in this database."""
        try:
            rows = connection.execute(text(_OPEN_TRANSACTIONS))
        except DBAPIError:  # it takes the PROCESS privilege
            return ()
        return tuple(in_words(pid, who, "", state, age, "", query) for pid, who, state, age, query in rows)

    async def refuse_unsafe_lock(self, connection: Lifted, connect: ConnectionOpener) -> None:
        """A lock of GET_LOCK is one node's own: a Galera cluster keeps no such locks (MariaDB's "Known Limitations")."""
        row, url = await connection.run_sync(
            lambda sync: (sync.execute(text("SHOW GLOBAL VARIABLES LIKE 'wsrep_on'")).first(), sync.engine.url)
        )
        if row is not None and str(row[1]).upper() in ("ON", "1"):
            raise LockUnsafe(
                f"{self.describe(url)} is a node of a Galera cluster: a lock taken on it holds nobody off on the others. "
                "No revision was run.",
                "If one migration at a time is sure without a lock, write lock = off under [fininfra_db] in alembic.ini.",
            )

    def create_database(self, connection: Connection, name: str) -> None:
        quoted = connection.dialect.identifier_preparer.quote_identifier(name)
        connection.exec_driver_sql(f"CREATE DATABASE IF NOT EXISTS {quoted} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")

    def live_name(self, connection: Connection) -> str:
        return str(connection.scalar(text("SELECT DATABASE()")))

    def referencing_schemas(self, connection: Connection) -> tuple[str | None, ...]:
        """Databases are schemas of each other here."""
        others = text(
            "SELECT DISTINCT constraint_schema FROM information_schema.referential_constraints "
            "WHERE unique_constraint_schema = DATABASE() AND constraint_schema <> DATABASE()"
        )
        return (None, *connection.scalars(others))

    def bulk_sender(self, connection: Connection, plan: Plan) -> Sender:
        return InsertSender(connection, plan)

    def make_stage(self, connection: Connection, merge: Merge) -> None:
        """A rollback leaves it, so a load that failed may have left one. A CREATE INDEX would commit."""
        self.drop_stage(connection, merge.stage)
        quote = connection.dialect.identifier_preparer
        key = ", ".join(quote.quote(column.name) for column in merge.staged_key)
        rows = merge.create.selectable.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {quote.format_table(merge.stage)} (UNIQUE ({key})) AS {rows}")

    def comparable(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """To a collation texts may be equal that differ in case, in accents or in spaces at the end."""
        return cast(column, BINARY) if isinstance(undecorated(column.type), String) else column

    def drop_stage(self, connection: Connection, stage: Table) -> None:
        """Without TEMPORARY the statement would commit (MySQL, "Statements That Cause an Implicit Commit")."""
        connection.exec_driver_sql(f"DROP TEMPORARY TABLE IF EXISTS {connection.dialect.identifier_preparer.format_table(stage)}")

    def wait_for_no_table(self, connection: Connection) -> None:
        connection.execute(text("SET SESSION lock_wait_timeout = 1"))

    def swap(self, connection: Connection, slot: Slot, swaps: Sequence[Swap]) -> dict[Key, str]:
        """A TIMESTAMP that is declared ON UPDATE stays as it is when it is set to itself."""
        names = connection.scalars(text(_CHANGE_THEMSELVES), {"schema": slot.table.schema, "name": slot.table.name})
        return from_stage(connection, slot, swaps, names.all())

    def try_lock(self, connection: Connection) -> bool:
        """The server tells nothing of a holder but its connection, so whoever gets the lock writes down who it is."""
        taken = bool(connection.scalar(text("SELECT GET_LOCK(:name, 0)"), {"name": _lock_name(connection)}))
        if taken:
            try:
                connection.exec_driver_sql(_MAKE_HOLDER_TABLE)
                connection.execute(
                    text(f"REPLACE INTO {_HOLDER_TABLE} VALUES (1, CONNECTION_ID(), :host, :pid, UTC_TIMESTAMP(6))"),
                    {"host": socket.gethostname(), "pid": os.getpid()},
                )
            except DBAPIError as error:  # somebody has that table locked, as a backup does: the lock is ours, only its holder goes unnamed
                if not self.gave_up_waiting(error):
                    raise
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

    def snapshots(self, url: URL, access: Access) -> SnapshotStore:
        return MysqlSnapshots(self, url, access)

    def is_momentary(self, error: BaseException) -> bool:
        return error_number(error) in _MOMENTARY

    def says_made(self, error: BaseException) -> bool:
        return error_number(error) in _MADE

    def says_gone(self, error: BaseException) -> bool:
        return error_number(error) in _GONE


def _begin_read_only(connection: Connection) -> None:
    """The session's mode, since a transaction's own lets DDL through: it commits and goes on outside. For that, it is not to be reused."""
    connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
    connection.connection.invalidate(soft=True)


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
