"""PostgreSQL, through asyncpg (or psycopg, when the URL names it)."""

import asyncio
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import JSON, URL, ColumnElement, Connection, Engine, Insert, Table, Text, cast, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import SchemaType

from fininfra_db.dialects.asyncpg_simple import execute_simply, insert_with_commit
from fininfra_db.dialects.base import CONNECT_TIMEOUT, ConnectionOpener, Dialect, Features, Purpose
from fininfra_db.dialects.blockers import in_words, names_in
from fininfra_db.dialects.bulk import Sender
from fininfra_db.dialects.bulk_plan import Plan
from fininfra_db.dialects.judging import PostgresqlJudging
from fininfra_db.dialects.lifted import Lifted
from fininfra_db.dialects.loading import undecorated
from fininfra_db.dialects.online import OnlineDdl
from fininfra_db.dialects.postgresql_copy import CopySender
from fininfra_db.dialects.postgresql_snapshots import PostgresqlSnapshots
from fininfra_db.dialects.postgresql_turn import holder_name, holder_of, whose
from fininfra_db.dialects.sessions import DEFAULTS, SessionOptions, application_name, milliseconds, run_on
from fininfra_db.dialects.snapshots import Access, SnapshotStore
from fininfra_db.dialects.swapping import Key, Slot, Swap, from_arrays
from fininfra_db.dialects.tls import Tls, tls_of
from fininfra_db.dialects.wording import sqlstate
from fininfra_db.errors import DatabaseUnreachable, LockUnsafe, UrlInvalid
from fininfra_db.events import Holder

_LOCK_KEY: Final = int.from_bytes(b"fininfra", "big")
"""The advisory lock of migrations; PostgreSQL keeps these per database, so the key is the same everywhere."""

_LOCK_PARTS: Final = {"high": _LOCK_KEY >> 32, "low": _LOCK_KEY & 0xFFFFFFFF}
_HELD_LOCKS: Final = (
    "SELECT l.pid FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
    "AND l.classid::bigint = :high AND l.objid::bigint = :low "
    "AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())"
)
"""The sessions that hold our lock: pg_locks shows a 64-bit key as two halves (PostgreSQL documentation, "pg_locks")."""
_MADE: Final = ("42P07", "42710", "42701", "42P06")
_GONE: Final = ("42P01", "42704", "42703", "3F000")
"""Duplicate, and undefined, table, object, column and schema (PostgreSQL documentation, appendix A)."""

_INTEGERS: Final = ("command_timeout", "statement_cache_size", "max_cached_statement_lifetime", "max_cacheable_statement_size")
_CHECK_CLIENT_EVERY: Final = "2s"
"""How soon a statement ends whose client was killed; the server would go on to its end and keep its locks."""
_LOOKS: Final = 5
_PAST_THE_POOLER: Final = "Set SQL_URL_DIRECT to the URL of the server itself, past the pooler."
_INVALID_CATALOG_NAME: Final = "3D000"
_PASSING: Final = ("57P03", "57P01", "57P02", "53300", "08000", "08001", "08003", "08006")
"""Starting up, shutting down, crashed, too many connections, and connections that were not made or broke off."""
_LIBPQ_SAYS_PASSING: Final = re.compile(
    "failed to resolve|connection timeout|Connection refused|timeout expired|server closed the connection|starting up|shutting down"
    "|in recovery mode|not yet accepting connections|too many clients|remaining connection slots"
)
_LIBPQ_SAYS_MISSING: Final = re.compile(r'FATAL: +database "[^"]*" does not exist')
_DUPLICATE_DATABASE: Final = ("42P04", "23505")
_GAVE_UP_WAITING: Final = ("55P03", "40P01")
"""Lock not available, and deadlock."""
_LOCKS: Final = """
    SELECT pid, usename, application_name, state, CAST(extract(epoch FROM now() - min(xact_start)) AS integer),
        CASE WHEN bool_or(granted) THEN 'holds ' ELSE 'waits for ' END || string_agg(DISTINCT relname, ', '), query
    FROM pg_locks JOIN pg_class ON pg_class.oid = relation JOIN pg_stat_activity USING (pid)
    WHERE pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND relnamespace <> CAST('pg_catalog' AS regnamespace) AND pid <> pg_backend_pid()
        AND (CAST(:names AS text[]) IS NULL OR relname = ANY (CAST(:names AS text[])))
    GROUP BY pid, usename, application_name, state, query ORDER BY min(xact_start) LIMIT 5
"""


class PostgresqlDialect(PostgresqlJudging, Dialect):
    name = "postgresql"
    label = "PostgreSQL"
    features = Features(transactional_ddl=True, transaction_per_revision=True, has_server=True, row_comparison=True)
    drivers = ("asyncpg", "psycopg")
    other_drivers = ("psycopg2", "psycopg2cffi", "pg8000", "psycopg_async")
    maintenance_database = "postgres"
    nothing = "DO $$BEGIN END$$"
    online = OnlineDdl()

    def engine_arguments(self, url: URL, purpose: Purpose, options: SessionOptions = DEFAULTS) -> tuple[URL, dict[str, Any]]:
        """What looks at the database prepares nothing by name: a pooler may look for the name on another server connection."""
        url, arguments = super().engine_arguments(url, purpose, options)
        if purpose in ("reading", "maintenance") and url.get_driver_name() == "asyncpg":
            arguments = {"statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": str} | arguments
        return url, arguments

    def driver_arguments(self, url: URL, query: Mapping[str, str], timeout: float | None) -> tuple[URL, dict[str, Any]]:
        tls = tls_of(query)
        if url.get_driver_name() == "psycopg":  # libpq itself: it takes its own options as they are
            own = {name: query[name] for name in ("sslmode", "sslrootcert", "sslcert", "sslkey") if name in query}
            # The name "psycopg" alone is the synchronous driver, unless SQLAlchemy's own asynchronous engine asks.
            return url.set(drivername="postgresql+psycopg_async"), own | {"connect_timeout": int(timeout or 0)}
        arguments: dict[str, Any] = {"timeout": timeout}
        if tls.mode is not None:
            arguments["ssl"] = _asyncpg_ssl(tls)
        settings = {}
        if "application_name" in query:
            settings["application_name"] = query["application_name"]
        if "options" in query:
            settings |= _server_settings(query["options"])
        if settings:
            arguments["server_settings"] = settings
        arguments |= {name: int(query[name]) for name in _INTEGERS if name in query}
        return url.difference_update_query(["application_name", "options", *_INTEGERS]), arguments

    def prepare(self, engine: Engine, url: URL, purpose: Purpose, options: SessionOptions) -> None:
        super().prepare(engine, url, purpose, options)
        if purpose == "migration" and engine.dialect.driver == "asyncpg":
            execute_simply(engine)

    def session_sql(self, url: URL, purpose: Purpose, options: SessionOptions) -> str:
        """Only settings that the server has: idle sessions end since version 14, and only on Linux it notices a lost client."""
        settings: dict[str, Any] = {
            "application_name": application_name(),
            "idle_session_timeout": 0,
            "idle_in_transaction_session_timeout": 0,
            "client_connection_check_interval": _CHECK_CLIENT_EVERY,
        }
        if purpose == "migration":
            settings["lock_timeout"] = milliseconds(options.ddl_lock_timeout)
            settings["statement_timeout"] = milliseconds(options.statement_timeout)
        if "application_name" in url.query:
            del settings["application_name"]
        values = ", ".join(f"('{name}', '{value}')" for name, value in settings.items())
        return (
            f"SELECT set_config(name, wanted.value, false) FROM pg_settings JOIN (VALUES {values}) AS wanted (name, value) USING (name) "
            "WHERE (name <> 'client_connection_check_interval' OR position('linux' IN version()) > 0)"
        )

    def set_up_session(self, dbapi_connection: Any, url: URL, purpose: Purpose, options: SessionOptions) -> None:
        """Behind a pooler the settings would stay on a server connection that may be anybody's next, unless it is proven ours."""
        statement = self.session_sql(url, purpose, options)
        if not options.is_proven:
            statement += f" AND pg_backend_pid() = {_pid_at_login(dbapi_connection.driver_connection)}"
        run_on(dbapi_connection, statement)

    def reading_hooks(self) -> Mapping[str, Callable[[Connection], None]]:
        """The drivers say so in the BEGIN that they send anyway."""
        return {"engine_connect": _read_only}

    def says_missing(self, error: BaseException) -> bool:
        return sqlstate(error) == _INVALID_CATALOG_NAME or bool(_LIBPQ_SAYS_MISSING.search(_libpq_message(error)))

    def is_passing(self, error: BaseException) -> bool:
        return sqlstate(error) in _PASSING or bool(_LIBPQ_SAYS_PASSING.search(_libpq_message(error))) or super().is_passing(error)

    def server_version(self, connection: Connection) -> str:
        return f"{self.label} {connection.scalar(text('SHOW server_version'))}".partition(" (")[0]

    def size(self, connection: Connection) -> int:
        return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)

    def says_exists(self, error: BaseException) -> bool:
        return sqlstate(error) in _DUPLICATE_DATABASE

    def gave_up_waiting(self, error: BaseException) -> bool:
        return sqlstate(error) in _GAVE_UP_WAITING

    def blockers(self, connection: Connection, statement: str | None) -> tuple[str, ...]:
        rows = connection.execute(text(_LOCKS), {"names": None if statement is None else names_in(statement)})
        return tuple(in_words(*row) for row in rows)

    async def refuse_unsafe_lock(self, connection: Lifted, connect: ConnectionOpener) -> None:
        """A lock belongs to a session of the server, which a pooler may hand to somebody else after each transaction.

        There is a pooler where the process that answers is not the one that was named at login. It hands sessions around
        when two connections are answered by the same process, or one by different ones.
        """
        mine = await connection.run_sync(_answering_pid)
        if mine == await connection.run_sync(lambda sync: _pid_at_login(sync.connection.driver_connection)):
            return
        url = await connection.run_sync(lambda sync: sync.engine.url)
        where = self.describe(url)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT), connect() as second:
                others = await second.run_sync(_answering_pid)
                for _ in range(_LOOKS):
                    mine_now, others_now = await connection.run_sync(_answering_pid), await second.run_sync(_answering_pid)
                    if mine == others or (mine, others) != (mine_now, others_now):
                        raise LockUnsafe(
                            f"{where} is behind a pooler that changes the server's session after each transaction: "
                            "a lock there would hold nobody off. No revision was run.",
                            _PAST_THE_POOLER,
                        )
        except TimeoutError:
            raise DatabaseUnreachable(
                f"{where} is behind a pooler that gives one connection, and a migration needs two.", _PAST_THE_POOLER
            ) from None
        statement = self.session_sql(url, "maintenance", DEFAULTS)
        await connection.run_sync(lambda sync: sync.exec_driver_sql(statement))

    def live_name(self, connection: Connection) -> str:
        return str(connection.scalar(text("SELECT current_database()")))

    def hosts(self, url: URL) -> tuple[str, ...]:
        """Where neither URL nor query names a host, both drivers ask the environment as libpq does."""
        given = (os.environ.get("PGHOSTADDR"), os.environ.get("PGHOST"), os.environ.get("PGSERVICE"))
        return super().hosts(url) or tuple(host for value in given if value for host in value.split(","))

    def schemas(self, connection: Connection) -> tuple[str | None, ...]:
        readable = text(
            "SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' "
            "AND nspname IS DISTINCT FROM current_schema() AND has_schema_privilege(oid, 'USAGE') ORDER BY nspname"
        )
        return (None, *connection.scalars(readable))

    def referencing_schemas(self, connection: Connection) -> tuple[str | None, ...]:
        """Also those that this login may not read: a row that is kept from it is not lost to it."""
        others = text(
            "SELECT DISTINCT child.nspname FROM pg_constraint AS k JOIN pg_namespace AS child ON child.oid = k.connamespace "
            "JOIN pg_class AS t ON t.oid = k.confrelid JOIN pg_namespace AS parent ON parent.oid = t.relnamespace "
            "WHERE k.contype = 'f' AND parent.nspname = ANY (current_schemas(false)) AND child.nspname IS DISTINCT FROM current_schema()"
        )
        return (None, *connection.scalars(others))

    def wait_for_no_table(self, connection: Connection) -> None:
        connection.execute(text("SET LOCAL lock_timeout = '500ms'"))

    def named_types(self, tables: Iterable[Table]) -> dict[str, SchemaType]:
        types = (column.type for table in tables for column in table.columns)
        return {str(kind.name): kind for kind in types if isinstance(kind, SchemaType) and kind.name}

    def try_lock(self, connection: Connection) -> bool:
        """Whoever gets the lock names itself, host, process and time, where others can read it."""
        taken = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEY}))
        if taken:
            connection.execute(text("SELECT set_config('application_name', :name, false)"), {"name": holder_name()})
        return taken

    def insert_unread(self, connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
        rows = tuple(rows)
        if not insert_with_commit(connection, table, rows):
            super().insert_unread(connection, table, rows)

    def swap(self, connection: Connection, slot: Slot, swaps: Sequence[Swap]) -> dict[Key, str]:
        """With the plan for a few rows, which looks each up in the index: the one for many reads all of the table each time."""
        connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
        return from_arrays(connection, slot, swaps)

    def bulk_sender(self, connection: Connection, plan: Plan) -> Sender | None:
        sender = CopySender(connection, plan)
        return sender if connection.dialect.driver == "asyncpg" and sender.can_send() else None

    def insert_into(self, table: Table, key: Sequence[str]) -> Insert:
        """The row of somebody else is waited for, and then found by the update."""
        from sqlalchemy.dialects.postgresql import insert

        return insert(table).on_conflict_do_nothing(index_elements=[table.c[name] for name in key])

    def clear_stage(self, connection: Connection, stage: Table) -> None:
        """DELETE would leave the rows where they are, to be read over each time."""
        connection.exec_driver_sql(f"TRUNCATE {connection.dialect.identifier_preparer.format_table(stage)}")

    def comparable(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """The type ``json`` has no equality; its text is kept as it was written."""
        return cast(column, Text) if undecorated(column.type).__visit_name__ == JSON.__visit_name__ else column

    def wait_for_disk(self, connection: Connection, wanted: bool) -> None:
        connection.exec_driver_sql(f"SET synchronous_commit TO {'DEFAULT' if wanted else 'off'}")

    def holds_lock(self, connection: Connection) -> bool:
        return bool(connection.scalar(text(f"SELECT EXISTS ({_HELD_LOCKS} AND l.pid = pg_backend_pid())"), _LOCK_PARTS))

    def lock_holder(self, connection: Connection) -> Holder | None:
        statement = f"SELECT a.application_name, a.pid, a.backend_start FROM pg_stat_activity a JOIN ({_HELD_LOCKS}) h ON h.pid = a.pid"
        row = connection.execute(text(statement), _LOCK_PARTS).first()
        return None if row is None else holder_of(row)

    def wanted_alone(self, connection: Connection) -> Holder | None:
        return whose(connection, self.live_name(connection))

    def unlock(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})

    def snapshots(self, url: URL, access: Access) -> SnapshotStore:
        return PostgresqlSnapshots(self, url, access)

    def says_made(self, error: BaseException) -> bool:
        return sqlstate(error) in _MADE

    def says_gone(self, error: BaseException) -> bool:
        return sqlstate(error) in _GONE


def _pid_at_login(driver_connection: Any) -> int:
    """The process of the server that the driver was told of when it logged in; a pooler makes one up."""
    if hasattr(driver_connection, "get_server_pid"):
        return int(driver_connection.get_server_pid())
    return int(driver_connection.info.backend_pid)


def _answering_pid(connection: Connection) -> int:
    return int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)


def _read_only(connection: Connection) -> None:
    connection.execution_options(postgresql_readonly=True)


def _asyncpg_ssl(tls: Tls) -> Any:
    """asyncpg takes libpq's weaker modes by name, with its fallback, and a context for the rest.

    By name it would leave a client certificate out, so one that is given makes TLS required.
    """
    return tls.context() if tls.required or (tls.certificate and tls.mode != "disable") else tls.mode


def _server_settings(options: str) -> dict[str, str]:
    """libpq's ``options=-c name=value``, the form that asyncpg has no word for."""
    settings = dict(re.findall(r"(?:-c\s*|--)([\w.]+)=((?:\\.|\S)+)", options))
    if not settings:
        raise UrlInvalid("The 'options' of the database URL are not of the form '-c name=value'.", "Correct the database URL.")
    return {name: re.sub(r"\\(.)", r"\1", value) for name, value in settings.items()}


def _libpq_message(error: BaseException) -> str:
    """What psycopg says of a failed connect, for which libpq gives no SQLSTATE; nothing of any other error."""
    text = str(error.orig) if isinstance(error, DBAPIError) else ""
    return text if text.startswith(("connection failed", "failed to resolve", "connection timeout")) else ""
