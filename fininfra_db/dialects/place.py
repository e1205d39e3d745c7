"""Whose database it is, and on which machine."""

import ipaddress
import re
from typing import ClassVar, Final

from sqlalchemy import URL, Connection

from fininfra_db.dialects.features import Features

_HOST_OPTIONS: Final = ("host", "hostaddr", "server")
_ELSEWHERE: Final = {"service", "servicefile", "dsn", "read_default_file", "read_default_group"}
"""Options of a URL's query that name hosts, or a file or catalogue of the driver's that may name one."""


class Place:
    """Where one kind of database is, and what it is called there."""

    features: ClassVar[Features]

    def live_name(self, connection: Connection) -> str:
        """The name of the database, as the database itself gives it."""
        raise NotImplementedError

    def database_name(self, url: URL) -> str:
        """The name of the database as the URL gives it, for one that does not exist."""
        return url.database or ""

    def is_local(self, url: URL) -> bool:
        """Whether the URL leads to this machine, by its words: a tunnel to another one cannot be told from a local server."""
        if not self.features.has_server:
            return True
        return not _ELSEWHERE & set(url.query) and all(map(_is_local, self.hosts(url)))

    def hosts(self, url: URL) -> tuple[str, ...]:
        """The hosts that the driver may connect to; none for a local socket. An option of the query replaces the URL's own."""
        named = [value for option in _HOST_OPTIONS for value in url.normalized_query.get(option, ())]
        return tuple(host for value in named for host in value.split(",")) or ((url.host,) if url.host else ())

    def referencing_schemas(self, connection: Connection) -> tuple[str | None, ...]:
        """The schemas that may have foreign keys to tables of this one, which is None."""
        return self.schemas(connection)

    def schemas(self, connection: Connection) -> tuple[str | None, ...]:
        """The schemas that tables of users are in; None is the default one."""
        return (None,)

    def wait_for_no_table(self, connection: Connection) -> None:
        """Let what this connection reads fail soon where a migration holds the table, instead of waiting for its end."""


def _is_local(host: str) -> bool:
    """Whether a host, with a port or without, is this machine or the path of a socket."""
    if host.startswith(("/", "@")):
        return True
    bare = re.sub(r"^\[(.*)\](:\d*)?$", r"\1", host) if host.startswith("[") else re.sub(r"^([^:]*):\d*$", r"\1", host)
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare.lower() in ("", "localhost")
