"""What a session of this program is told before its first statement: how long it waits, and what it is called."""

import math
import os
import re
import socket
from dataclasses import dataclass
from typing import Any, Final

from fininfra_db.settings import DDL_LOCK_TIMEOUT, LOCK_TIMEOUT

ANSWER_TIMEOUT: Final = 15.0
"""Seconds for a server to answer what it answers at once; after that the connection counts as lost."""

_LONGEST_TIMEOUT: Final = 2**31 - 1
"""The most milliseconds that PostgreSQL and SQL Server take."""


@dataclass(frozen=True)
class SessionOptions:
    """How long the work of a migration may wait, in seconds.

    ``lock_timeout`` is for another migration to end (0 fails at once), ``ddl_lock_timeout`` for a statement to get the lock of
    its table (0: no limit), ``statement_timeout`` for a statement to end (None: no limit). ``is_proven`` says that the
    migration lock has shown that a session behind a pooler is one client's alone, so that it may be set up like any other.
    """

    lock_timeout: float = LOCK_TIMEOUT
    ddl_lock_timeout: float = DDL_LOCK_TIMEOUT
    statement_timeout: float | None = None
    is_proven: bool = False


DEFAULTS: Final = SessionOptions()


def application_name() -> str:
    """What the server is told of this process, as in ``fininfra-db 4711@web-1``: short, for PostgreSQL cuts it after 63 bytes."""
    host = re.sub(r"[^!-~]|[@']", "", socket.gethostname())[:20] or "localhost"
    return f"fininfra-db {os.getpid()}@{host}"


def milliseconds(seconds: float | None) -> int:
    """Whole milliseconds, as many as a server takes, rounded up: what is more than nothing must not become 0, which means no limit."""
    return min(math.ceil((seconds or 0) * 1000), _LONGEST_TIMEOUT)


def run_on(dbapi_connection: Any, statement: str) -> None:
    """Run a statement through the driver, and leave no transaction behind."""
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()
    dbapi_connection.commit()
