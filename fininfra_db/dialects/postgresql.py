"""PostgreSQL, through asyncpg (or psycopg, when the URL names it)."""

import os
import re
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from fininfra_db.dialects.base import Dialect, Features, Purpose
from fininfra_db.dialects.tls import Tls, tls_of
from fininfra_db.errors import UrlInvalid
from fininfra_db.results import Holder

_LOCK_KEY: Final = int.from_bytes(b"fininfra", "big")
"""The advisory lock of migrations; PostgreSQL keeps these per database, so the key is the same everywhere."""

_LOCK_PARTS: Final = {"high": _LOCK_KEY >> 32, "low": _LOCK_KEY & 0xFFFFFFFF}
_HELD_LOCKS: Final = (
    "SELECT l.pid FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
    "AND l.classid::bigint = :high AND l.objid::bigint = :low "
    "AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())"
)
"""The sessions that hold our lock: pg_locks shows a 64-bit key as two halves (PostgreSQL documentation, "pg_locks")."""
_HOLDER: Final = re.compile(r"(?P<program>\S+) (?P<pid>\d+)@(?P<host>\S+) (?P<since>\S+)")
_ALREADY_SO: Final = ("42P07", "42710", "42701", "42P06", "42P01", "42704", "42703", "3F000")
"""Duplicate table, object, column, schema; undefined table, object, column, schema (PostgreSQL documentation, appendix A)."""

_INTEGERS: Final = ("command_timeout", "statement_cache_size", "max_cached_statement_lifetime", "max_cacheable_statement_size")
_INVALID_CATALOG_NAME: Final = "3D000"
_PASSING: Final = ("57P03", "57P01", "57P02", "53300", "08000", "08001", "08003", "08006")
"""Starting up, shutting down, crashed, too many connections, and connections that were not made or broke off."""
_LIBPQ_SAYS_PASSING: Final = re.compile(
    "failed to resolve|connection timeout|Connection refused|timeout expired|server closed the connection|starting up|shutting down"
    "|in recovery mode|not yet accepting connections|too many clients|remaining connection slots"
)
_LIBPQ_SAYS_MISSING: Final = re.compile(r'FATAL: +database "[^"]*" does not exist')
_DUPLICATE_DATABASE: Final = ("42P04", "23505")


class PostgresqlDialect(Dialect):
    name = "postgresql"
    label = "PostgreSQL"
    features = Features(transactional_ddl=True, transaction_per_revision=True, has_server=True)
    drivers = ("asyncpg", "psycopg")
    other_drivers = ("psycopg2", "psycopg2cffi", "pg8000", "psycopg_async")
    maintenance_database = "postgres"

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

    def prepare(self, engine: Engine, url: URL, purpose: Purpose) -> None:
        """asyncpg never falls back to plain text when TLS is required, so there is nothing to add."""

    def reading_hooks(self) -> Mapping[str, Callable[[Connection], None]]:
        """The drivers say so in the BEGIN that they send anyway."""
        return {"engine_connect": _read_only}

    def says_missing(self, error: BaseException) -> bool:
        return _sqlstate(error) == _INVALID_CATALOG_NAME or bool(_LIBPQ_SAYS_MISSING.search(_libpq_message(error)))

    def is_passing(self, error: BaseException) -> bool:
        return _sqlstate(error) in _PASSING or bool(_LIBPQ_SAYS_PASSING.search(_libpq_message(error))) or super().is_passing(error)

    def server_version(self, connection: Connection) -> str:
        return f"{self.label} {connection.scalar(text('SHOW server_version'))}".partition(" (")[0]

    def size(self, connection: Connection) -> int:
        return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)

    def says_exists(self, error: BaseException) -> bool:
        return _sqlstate(error) in _DUPLICATE_DATABASE

    def try_lock(self, connection: Connection) -> bool:
        """Whoever gets the lock names itself, host, process and time, where others can read it."""
        taken = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEY}))
        if taken:
            connection.execute(text("SELECT set_config('application_name', :name, false)"), {"name": _name_of_holder()})
        return taken

    def holds_lock(self, connection: Connection) -> bool:
        return bool(connection.scalar(text(f"SELECT EXISTS ({_HELD_LOCKS} AND l.pid = pg_backend_pid())"), _LOCK_PARTS))

    def lock_holder(self, connection: Connection) -> Holder | None:
        statement = f"SELECT a.application_name, a.pid, a.backend_start FROM pg_stat_activity a JOIN ({_HELD_LOCKS}) h ON h.pid = a.pid"
        row = connection.execute(text(statement), _LOCK_PARTS).first()
        if row is None:
            return None
        named = _HOLDER.fullmatch(row.application_name or "")
        if named is None:
            return Holder(row.application_name or None, None, row.pid, row.backend_start)
        return Holder(named["program"], named["host"], int(named["pid"]), datetime.fromisoformat(named["since"]))

    def unlock(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})

    def says_done(self, error: BaseException) -> bool:
        return _sqlstate(error) in _ALREADY_SO


def _name_of_holder() -> str:
    """At most 63 characters, which is what PostgreSQL keeps of an ``application_name``."""
    host = re.sub(r"[^!-~]|@", "", socket.gethostname())[:20] or "localhost"
    return f"fininfra-db {os.getpid()}@{host} {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


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


def _sqlstate(error: BaseException) -> str | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
