"""A network that fails: connections that are reset, that fall silent, or that are slow, at any byte of a run."""

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from sqlalchemy import make_url

from benchmarks.faults import Outcome
from benchmarks.faults.databases import SERVERS, Snapshot
from benchmarks.faults.histories import SHOP
from benchmarks.faults.kills import UP, recovered
from benchmarks.faults.places import Place, place
from benchmarks.projects import OURS

Trouble = Literal["reset", "silence", "delay"]

LONGEST: Final = 60.0
"""Seconds after which a run on a silent network must have ended."""
CLEAR: Final = (1, 5, 6)
DELAY: Final = 0.01


class Proxy:
    """A TCP proxy before a server, with trouble from a certain number of bytes on, counted in both directions."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._trouble: Trouble | None = None
        self._after = 0
        self.passed = 0
        self.port = 0

    def begin(self, trouble: Trouble | None, after: int = 0) -> None:
        """Reset what is open, and count from now on."""

        async def begin() -> None:
            self._cut()
            self.passed, self._after, self._trouble = 0, after, trouble

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result()

    def serve(self, ready: threading.Event) -> None:
        """Listen, in a thread of its own, until ``end()``."""

        async def listen() -> None:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self._over.wait()
            server.close()
            self._cut()

        self._loop.run_until_complete(listen())

    def end(self) -> None:
        """Listen no more."""
        self._loop.call_soon_threadsafe(self._over.set)

    def _cut(self) -> None:
        for writer in tuple(self._open):
            # Closing a socket that lingers for 0 seconds sends RST.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._open.clear()

    async def _accept(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._server)
        self._open |= {client_writer, server_writer}
        ways = ((client_reader, server_writer), (server_reader, client_writer))
        await asyncio.gather(*(self._pass_on(reader, writer) for reader, writer in ways), return_exceptions=True)
        for writer in (client_writer, server_writer):
            self._open.discard(writer)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            self.passed += len(data)
            if self._trouble == "delay":
                await asyncio.sleep(DELAY)
            elif self._trouble is not None and self.passed > self._after:
                if self._trouble == "reset":
                    self._trouble = None
                    self._cut()
                    return
                continue  # swallowed
            writer.write(data)
            await writer.drain()
        writer.close()


@contextmanager
def proxy(kind: str) -> Iterator[Proxy]:
    """A proxy before the server of this kind, in a thread of its own."""
    url = make_url(SERVERS[kind])
    made = Proxy(url.host or "127.0.0.1", url.port or {"postgresql": 5432, "mysql": 3306}[kind])
    ready = threading.Event()
    thread = threading.Thread(target=made.serve, args=(ready,))
    thread.start()
    ready.wait()
    try:
        yield made
    finally:
        made.end()
        thread.join()


def disturbed(program: str, kind: str, trouble: Trouble, points: int = 1) -> Outcome:
    """Run an upgrade with trouble at ``points`` places, evenly spread over the bytes of an undisturbed run, and then without."""
    query = {"connect_timeout": "3"} if program == OURS else {}  # asyncpg itself does not take it from a URL
    with proxy(kind) as between, place(program, kind, SHOP, port=between.port, query=query) as here:
        between.begin(None)
        here.must(*UP)
        total, wanted = between.passed, here.database.snapshot()
        outcome = Outcome()
        for point in range(1, points + 1):
            here.database.clear()
            outcome += _disturb(here, between, trouble, total * point // (points + 1), wanted)
        return outcome


def _disturb(here: Place, between: Proxy, trouble: Trouble, after: int, wanted: Snapshot) -> Outcome:
    between.begin(trouble, after)
    done = here.run(*UP, timeout=LONGEST)
    told = f"{trouble} after {after} bytes"
    between.begin(None)
    failures = []
    if done.code is None:
        failures.append(f"{told}: hung for {done.seconds:.0f} s")
    elif here.is_ours and (done.code not in (0, *CLEAR) or done.has_traceback):
        failures.append(f"{told}: {done}")
    if trouble == "delay" and done.code != 0:
        failures.append(f"{told}: {done}")
    rest = recovered(here, UP, wanted, told)
    return Outcome.of([*failures, *rest.failures], named=rest.named)
