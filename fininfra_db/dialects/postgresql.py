"""PostgreSQL, through asyncpg (or psycopg, when the URL names it)."""

import re
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from fininfra_db.dialects.base import Dialect, Features, Purpose, SessionOptions
from fininfra_db.dialects.tls import Tls, tls_of
from fininfra_db.errors import UrlInvalid

_LOCK_KEY: Final = int.from_bytes(b"fininfra", "big")
"""The advisory lock of migrations; PostgreSQL keeps these per database, so the key is the same everywhere."""

_INTEGERS: Final = ("command_timeout", "statement_cache_size", "max_cached_statement_lifetime", "max_cacheable_statement_size")
_INVALID_CATALOG_NAME: Final = "3D000"
_DUPLICATE_DATABASE: Final = ("42P04", "23505")


class PostgresqlDialect(Dialect):
    name = "postgresql"
    label = "PostgreSQL"
    features = Features(transactional_ddl=True, transaction_per_revision=True, has_server=True)
    drivers = ("asyncpg", "psycopg")
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

    def prepare(self, engine: Engine, url: URL, purpose: Purpose, session: SessionOptions) -> None:
        """asyncpg never falls back to plain text when TLS is required, so there is nothing to add."""

    def says_missing(self, error: BaseException) -> bool:
        return _sqlstate(error) == _INVALID_CATALOG_NAME

    def says_exists(self, error: BaseException) -> bool:
        return _sqlstate(error) in _DUPLICATE_DATABASE

    def try_lock(self, connection: Connection) -> bool:
        return bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEY}))

    def unlock(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})


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


def _sqlstate(error: BaseException) -> str | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
