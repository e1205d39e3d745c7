"""SQLite's write lock: waiting for it where a signal can end the wait, and naming the process that is in the way.

SQLite's own wait sleeps in the driver's thread, where nothing reaches it. So its busy timeout is 0 for a statement that
needs the lock, and the statement is tried again until it succeeds.
"""

import asyncio
import math
import os
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import await_only

from fininfra_db.dialects.sqlite_files import file_of
from fininfra_db.events import Holder, Observer, Waiting

_RESERVED: Final = 0x40000001
_SHARED: Final = 0x40000002
"""The bytes of the database file that its one writer and its readers lock (os.h in SQLite's source)."""
_WAL_WRITER: Final = 120
"""The byte of the ``-shm`` file that the one writer locks in WAL mode (sqlite.org/walformat.html, section 2.2)."""

_FIELDS: Final = 8
"""The fields of a line of /proc/locks (proc(5))."""
_START: Final = 19
"""Where /proc/<pid>/stat says when the process started, counted from after its name (proc(5), field 22)."""


def begin_patiently(connection: Connection, timeout: float) -> None:
    """Begin a transaction that has the write lock, waiting up to ``timeout`` seconds for it."""
    url = connection.engine.url
    _try_patiently(connection.connection, lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"), timeout, lambda: writer(url))


def commit_patiently(engine: Engine, timeout: float) -> None:
    """Have each commit of an engine wait up to ``timeout`` seconds for the readers that are in the way.

    Such a commit leaves its transaction as it is, so it can be tried again (sqlite.org/lang_transaction.html). It is the
    dialect's, not one at the event: whoever listens may have statements left.
    """
    commit = engine.dialect.do_commit

    def again_and_again(dbapi_connection: PoolProxiedConnection) -> None:
        _try_patiently(dbapi_connection, lambda: commit(dbapi_connection), timeout, lambda: reader(engine.url))

    engine.dialect.do_commit = again_and_again  # type: ignore[method-assign]


def _try_patiently(
    connection: PoolProxiedConnection, work: Callable[[], object], seconds: float, blocker: Callable[[], Holder | None]
) -> None:
    """Do ``work``, again and again for up to ``seconds`` while somebody is in the way.

    The ``observer`` in the connection's ``info`` is told of the wait. Raises the error of the last try.
    """
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout")
    (own_wait,) = cursor.fetchone() or (0,)
    cursor.execute("PRAGMA busy_timeout = 0")
    observer: Observer | None = connection.info.get("observer")
    deadline = time.monotonic() + seconds
    while True:
        try:
            work()
            break
        except (sqlite3.OperationalError, OperationalError) as error:
            left = deadline - time.monotonic()
            if not _is_busy(error) or left <= 0:
                raise
        if observer is not None:
            observer(Waiting(blocker(), seconds))
            observer = None
        await_only(asyncio.sleep(min(left, random.uniform(0.05, 0.25))))
    cursor.execute(f"PRAGMA busy_timeout = {own_wait}")
    cursor.close()


def _is_busy(error: sqlite3.OperationalError | OperationalError) -> bool:
    """Whether the error says that another connection holds the lock."""
    driver_error = error.orig if isinstance(error, OperationalError) else error
    code = getattr(driver_error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY


def reader(url: URL) -> Holder | None:
    """Another process that reads a database file, and keeps it from being written; None when the system does not tell."""
    return _find(file_of(url), "READ", _SHARED)


def writer(url: URL) -> Holder | None:
    """The process that holds the write lock of a database file; None when nobody does or the system does not tell."""
    path = file_of(url)
    return _find(path, "WRITE", _RESERVED) or _find(path.with_name(f"{path.name}-shm"), "WRITE", _WAL_WRITER)


def _find(path: Path, kind: str, byte: int) -> Holder | None:
    """The process with a lock of this kind on one byte of a file, as Linux lists it. A reader is never this process itself.

    The file is not opened: to close it again would drop every lock that this process has on it (fcntl(2)).
    """
    with suppress(OSError):
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()  # elsewhere than on Linux there is no such file
        status = path.stat()
        file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        for line in lines:
            fields = line.split()  # 1: POSIX ADVISORY WRITE <pid> <device>:<inode> <first byte> <last byte>
            if len(fields) != _FIELDS or fields[3] != kind or fields[5] != file or fields[6] == "EOF":
                continue
            pid, first, last = int(fields[4]), int(fields[6]), math.inf if fields[7] == "EOF" else int(fields[7])
            if first <= byte <= last and not (kind == "READ" and pid == os.getpid()):
                return _describe(pid)
    return None


def _describe(pid: int) -> Holder:
    """A process of this machine: its program, and when it started."""
    folder = Path("/proc", str(pid))
    program = since = None
    with suppress(OSError, IndexError, ValueError):
        program = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip() or None
        ticks = int((folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[_START])
        booted = next((line for line in Path("/proc/stat").read_text(encoding="ascii").splitlines() if line.startswith("btime ")), "")
        since = datetime.fromtimestamp(int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK"), UTC)
    return Holder(program, None, pid, since)
