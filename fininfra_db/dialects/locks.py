"""The migration lock of a server: one session that holds it, and the proof that it still does.

The lock lives on a connection of its own, in AUTOCOMMIT, and the server frees it when that connection ends. It is polled,
never waited for inside the server: a waiting statement would deadlock with CREATE INDEX CONCURRENTLY.
"""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy import URL
from sqlalchemy.util import await_only

from fininfra_db.dialects.lifted import Lifted
from fininfra_db.dialects.sessions import ANSWER_TIMEOUT
from fininfra_db.errors import LockLost
from fininfra_db.events import Holder, Observer, Waiting

if TYPE_CHECKING:
    from fininfra_db.dialects.base import ConnectionOpener, Dialect

HEARTBEAT: Final = 5.0
"""Seconds between two such questions while a revision runs: they also keep the connection from being closed as idle."""

PROOF_LASTS: Final = 0.25
"""Seconds for which a revision may rely on what the server said: of many quick ones not each has to ask."""

_GOODBYE_TIMEOUT: Final = 1.0
_ASIDE: Final = 0.3
"""Seconds between two looks at a database that somebody wants to himself: a look takes a hundredth of one."""


class HeldLock:
    """The migration lock while it is held."""

    @property
    def connection(self) -> Lifted | None:
        """The connection that holds it, in AUTOCOMMIT; None where the work's own connection does."""
        return None

    async def verify(self) -> None:
        """Raise ``LockLost`` unless the server says that the lock is still this run's."""

    def require(self) -> None:
        """``verify()`` for the synchronous code of a run: in a greenlet of the loop that took the lock, or in another thread."""

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Ask again and again while the block runs; when the lock is lost, the block is cancelled and ``LockLost`` raised."""
        yield


class SessionLock(HeldLock):
    """A lock that a session of the server holds."""

    def __init__(self, dialect: "Dialect", connection: Lifted, url: URL) -> None:
        self._dialect, self._connection, self._url = dialect, connection, url
        self._busy = asyncio.Lock()
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._lost: LockLost | None = None
        self._proven = -PROOF_LASTS

    @property
    def connection(self) -> Lifted:
        return self._connection

    async def verify(self) -> None:
        asked = time.monotonic()
        try:
            async with self._busy, asyncio.timeout(ANSWER_TIMEOUT):
                held = await self._connection.run_sync(self._dialect.holds_lock)
        except Exception:  # every driver says in its own way that the connection is gone, and with it the lock
            held = False
        if not held:
            raise LockLost(
                f"The migration lock of {self._dialect.describe(self._url)} was lost: its connection ended or was given to somebody else.",
                "Another migration may run now. See where the database is with 'fininfra-db status', then run the command again.",
            )

        self._proven = asked

    def require(self) -> None:
        if time.monotonic() - self._proven < PROOF_LASTS:
            return
        if threading.get_ident() == self._thread:
            await_only(self.verify())
        else:
            asyncio.run_coroutine_threadsafe(self.verify(), self._loop).result()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        worker = asyncio.current_task()
        assert worker is not None
        beat = asyncio.create_task(self._beat(worker))
        try:
            yield
        except asyncio.CancelledError:
            if self._lost is None:
                raise
            worker.uncancel()
            raise self._lost from None
        finally:
            beat.cancel()

    async def _beat(self, worker: "asyncio.Task[object]") -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            try:
                await self.verify()
            except LockLost as lost:
                self._lost = lost
                worker.cancel()
                return


@asynccontextmanager
async def hold(
    dialect: "Dialect", connect: "ConnectionOpener", url: URL, timeout: float, observer: Observer | None, *, gives_way: bool = True
) -> AsyncIterator[HeldLock]:
    """Take the lock, waiting up to ``timeout`` seconds for whoever holds it. Raises ``LockNotObtained`` or ``LockUnsafe``.

    With ``gives_way`` it is waited without a connection while somebody needs everybody else off the database.
    """
    patience = Patience(dialect, url, timeout, observer)
    while True:
        async with connect() as connection:
            async with _answering(dialect, url):
                await dialect.refuse_unsafe_lock(connection, connect)
            if await _take(dialect, connection, patience, gives_way=gives_way):
                try:
                    yield SessionLock(dialect, connection, url)
                finally:
                    # Whatever keeps the server from answering, it frees the lock when the connection ends, and that is next.
                    with suppress(Exception):
                        async with asyncio.timeout(_GOODBYE_TIMEOUT):
                            await connection.run_sync(dialect.unlock)
                return
        await asyncio.sleep(_ASIDE)


@asynccontextmanager
async def _answering(dialect: "Dialect", url: URL) -> AsyncIterator[None]:
    """Give the server its time to answer what the block asks. Raises ``ServerNotReady`` when it does not."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            yield
    except TimeoutError:
        raise dialect.fell_silent(url) from None


class Patience:
    """How long a lock is waited for, which an observer is told once."""

    def __init__(self, dialect: "Dialect", url: URL, timeout: float, observer: Observer | None) -> None:
        self.url, self._dialect, self._timeout, self._observer = url, dialect, timeout, observer
        self._deadline = time.monotonic() + timeout

    def wait_for(self, holder: Holder | None) -> float:
        """Seconds until the next try. Raises ``LockNotObtained`` when it was waited long enough."""
        if time.monotonic() >= self._deadline:
            raise self._dialect.lock_not_obtained(self.url, holder)
        if self._observer is not None:
            self._observer(Waiting(holder, self._timeout))
            self._observer = None
        return min(random.uniform(0.05, 0.25), max(0.0, self._deadline - time.monotonic()))


async def _take(dialect: "Dialect", connection: Lifted, patience: Patience, *, gives_way: bool) -> bool:
    """Take the lock; False, and it is not taken, when somebody needs everybody else off the database."""
    while True:
        async with _answering(dialect, patience.url):
            taken = await connection.run_sync(dialect.try_lock)
            wanted = await connection.run_sync(dialect.wanted_alone) if gives_way else None
            if taken and wanted is None:
                return True
            if taken:
                await connection.run_sync(dialect.unlock)
            holder = wanted or await connection.run_sync(dialect.lock_holder)
        pause = patience.wait_for(holder)
        if wanted is not None:
            return False
        await asyncio.sleep(pause)
