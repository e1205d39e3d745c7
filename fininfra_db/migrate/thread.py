"""A foreign ``env.py`` in a thread of its own, and how it is ended when the run is interrupted.

A signal reaches the main thread only, and a cancellation only the event loop in which it was asked for.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.pool import Pool

from fininfra_db.connections import statement_ender
from fininfra_db.dialects import Target

_GRACE: Final = 2.0
"""Seconds that the thread may take to roll back; after that nobody waits for it, and it ends with the process."""


async def run_in_thread(work: Callable[[], None], target: Target) -> None:
    """Run ``work``, which connects to ``target`` in an event loop of its own. A cancellation of the caller is handed on to it."""
    thread = _Thread(work, target)
    thread.start()
    done = asyncio.wrap_future(thread.done)
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        thread.interrupt()
        await asyncio.wait({done}, timeout=_GRACE)
        if done.done():
            done.exception()  # looked at, or asyncio complains that nobody did
        raise


class _Thread(threading.Thread):
    def __init__(self, work: Callable[[], None], target: Target) -> None:
        super().__init__(name="env.py", daemon=True)
        self.done: Future[None] = Future()
        self._work = work
        self._target = target
        self._waits_in: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def run(self) -> None:
        try:
            with self._listening():
                self.done.set_result(self._work())
        except BaseException as error:  # whatever it is, it is raised again where the thread is waited for
            self.done.set_exception(error)

    def interrupt(self) -> None:
        """Cancel what waits for the database. Python code of a revision, which may run for hours, is ended by an exception."""
        if self._waits_in is not None:
            loop, task = self._waits_in
            if asyncio.current_task(loop) is None:
                with suppress(RuntimeError):  # the loop has just been closed
                    loop.call_soon_threadsafe(task.cancel)
                return
        import ctypes  # slow to import, and rarely needed

        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident or 0), ctypes.py_object(KeyboardInterrupt))

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Learn where this thread waits for its database, and end a statement there that is interrupted."""
        end_statement = statement_ender(self._target)

        def note(*_: Any) -> None:
            with suppress(RuntimeError):  # no loop, so a driver that is waited for in C
                task = asyncio.current_task()
                if threading.get_ident() == self.ident and task is not None:
                    self._waits_in = asyncio.get_running_loop(), task

        def end(connection: Any, record: Any, error: BaseException | None) -> None:
            if threading.get_ident() == self.ident and hasattr(connection, "driver_connection"):
                end_statement(connection, record, error)

        event.listen(Engine, "do_connect", note)
        event.listen(Pool, "invalidate", end)
        try:
            yield
        finally:
            event.remove(Engine, "do_connect", note)
            event.remove(Pool, "invalidate", end)
