"""One process at a time in a project's folder: for writing its files, and for what no database keeps apart."""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fininfra_db.errors import LockNotObtained

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@asynccontextmanager
async def project_lock(root: Path, timeout: float = math.inf) -> AsyncIterator[None]:
    """Let one process at a time do something with a project; the lock is the folder's and ends with the process.

    Raises ``LockNotObtained`` after ``timeout`` seconds. Windows has no such locks; there nobody is kept off.
    """
    if fcntl is None:
        yield
        return
    deadline = time.monotonic() + timeout
    folder = os.open(root, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LockNotObtained(
                        f"The project {root} is locked by another run, and went on being locked. Nothing was changed.",
                        "Wait for it to end and run the command again, or wait longer with --lock-timeout SECONDS.",
                    ) from None
                await asyncio.sleep(0.05)
        yield
    finally:
        os.close(folder)
