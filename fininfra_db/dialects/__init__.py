"""From settings to a database: which one, where, and the dialect that knows it."""

from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from fininfra_db.dialects.base import Dialect, Features
from fininfra_db.dialects.mssql import MssqlDialect
from fininfra_db.dialects.mysql import MysqlDialect
from fininfra_db.dialects.postgresql import PostgresqlDialect
from fininfra_db.dialects.sqlite import SqliteDialect
from fininfra_db.errors import UrlInvalid
from fininfra_db.redaction import masked_options
from fininfra_db.settings import Settings

__all__ = ["Dialect", "Features", "Target", "dialect_of", "target_of"]

_DIALECTS: Final[dict[str, Dialect]] = {
    "sqlite": SqliteDialect(),
    "postgresql": PostgresqlDialect(),
    "postgres": PostgresqlDialect(),
    "mysql": MysqlDialect(),
    "mariadb": MysqlDialect(),
    "mssql": MssqlDialect(),
}
_SHAPE: Final = "A URL looks like postgresql://user:password@host:5432/name; percent-encode special characters in the password."


@dataclass(frozen=True)
class Target:
    """The database of a run. ``url`` has an asynchronous driver and holds the password: show ``display`` instead."""

    dialect: Dialect
    url: URL = field(repr=False)
    source: str

    @property
    def display(self) -> str:
        """The URL without any secret."""
        return self.url.set(query=masked_options(self.url.query)).render_as_string(hide_password=True)


def target_of(settings: Settings) -> Target:
    """Resolve the URL of the settings. Raises ``UrlInvalid``, whose message never holds the URL."""
    url = _parsed(settings.sql_url)
    if url is None:
        raise UrlInvalid(f"The database URL ({settings.sql_url_source}) cannot be parsed.", _SHAPE)
    dialect = dialect_of(url.get_backend_name())
    if (dialect.features.has_server or url.password) and _ends_in_doubt(settings.sql_url, url):
        raise UrlInvalid(f"The password in the database URL ({settings.sql_url_source}) holds an '@' that is not percent-encoded.", _SHAPE)
    if dialect.features.has_server and not url.database:
        raise UrlInvalid(f"The database URL ({settings.sql_url_source}) names no database.", _SHAPE)
    return Target(dialect, dialect.locate(url, settings.project_root), settings.sql_url_source)


def _parsed(text: str) -> URL | None:
    """The URL, or None; what the parser has to say of it may hold a part of the password."""
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        return None


def _ends_in_doubt(text: str, url: URL) -> bool:
    """Whether the password may go on behind the '@' at which SQLAlchemy has it end."""
    behind = text.partition("://")[2].partition(":")[2] if url.password is not None else ""
    return behind.count("@") > 1 or "@" in f"{url.host}{url.database}"


def dialect_of(name: str) -> Dialect:
    """The dialect for a URL's scheme. Raises ``UrlInvalid`` for one that is not supported."""
    try:
        return _DIALECTS[name]
    except KeyError:
        raise UrlInvalid(
            "The database URL names an unknown kind of database.", "Use sqlite, postgresql, mysql, mariadb or mssql."
        ) from None
