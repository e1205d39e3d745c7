"""Whose turn it is to have a PostgreSQL database to himself: an advisory lock beside the database, on the server's maintenance one.

Who copies or replaces a database needs everybody else off it, and so cannot hold a lock on it throughout. Whoever waits for the
migration lock meanwhile does so without a connection to the database, or each would wait for the other.
"""

import re
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import Connection, text

from fininfra_db.dialects.sessions import application_name
from fininfra_db.events import Holder

_NAMED: Final = re.compile(r"(?P<program>\S+) (?P<pid>\d+)@(?P<host>\S+) (?P<since>\S+)")
_HALF: Final = 0xFFFFFFFF
_HOLDER: Final = """
    SELECT a.application_name, a.pid, a.backend_start FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND CAST(l.classid AS bigint) = :high AND CAST(l.objid AS bigint) = :low
"""


def take(connection: Connection, database: str) -> bool:
    """Take the turn at a database if nobody has it, for as long as this session lives."""
    taken = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _key(database)}))
    if taken:
        connection.execute(text("SELECT set_config('application_name', :name, false)"), {"name": holder_name()})
    return taken


def whose(connection: Connection, database: str) -> Holder | None:
    """Whose turn at a database it is; None when it is nobody's."""
    key = _key(database)
    row = connection.execute(text(_HOLDER), {"high": key >> 32 & _HALF, "low": key & _HALF}).first()
    return None if row is None else holder_of(row)


def holder_of(row: Any) -> Holder:
    """The holder of a lock, from its ``application_name``, ``pid`` and ``backend_start``."""
    named = _NAMED.fullmatch(row.application_name or "")
    if named is None:
        return Holder(row.application_name or None, None, row.pid, row.backend_start)
    return Holder(named["program"], named["host"], int(named["pid"]), datetime.fromisoformat(named["since"]))


def holder_name() -> str:
    """What the session of a holder is called: program, process, host and time."""
    return f"{application_name()} {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _key(database: str) -> int:
    return int.from_bytes(sha256(f"fininfra snapshots of {database}".encode()).digest()[:8], "big", signed=True)
