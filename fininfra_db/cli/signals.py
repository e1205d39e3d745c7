"""What Ctrl-C and a request to terminate do: the first ends the work in order, the second ends the process.

In order means: the statement is ended on the server, the transaction rolled back, the lock given back, and what is true now
is said. Where that takes longer than ``GRACE``, the process ends without it, and the database cleans up after it.
"""

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

if TYPE_CHECKING:
    import asyncio

R = TypeVar("R")

GRACE: Final = 5.0
"""Seconds that an interrupted run may take to end in order; whoever stops containers kills after ten."""

_SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Signals:
    """The signals of one run.

    ``last_words`` says why the process ends at once, in the middle of whatever runs.
    """

    def __init__(self, last_words: Callable[[str], None]) -> None:
        self.received: int | None = None
        """The signal that interrupted the work; None when it ended by itself."""
        self._last_words = last_words
        self._again = False
        self._work_is_over = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._voice = threading.Lock()
        self._speaks = False

    def listen(self) -> None:
        """Handle the signals from now on. One that nohup has turned off stays off."""
        for number in _SIGNALS:
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """What ``work`` returns, in an event loop of its own. Raises ``KeyboardInterrupt`` when it was interrupted.

        The notes of the exception that ended it are those of the ``KeyboardInterrupt``.
        """
        import asyncio

        async def run() -> R:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            try:
                return await work
            finally:
                self._work_is_over = True

        try:
            return asyncio.run(run())
        except asyncio.CancelledError as error:
            interrupted = KeyboardInterrupt()
            for note in getattr(error, "__notes__", ()):
                interrupted.add_note(note)
            raise interrupted from error

    def speak(self) -> None:
        """Called before the answer is printed: from now on nobody else says anything, and a first signal changes nothing."""
        self._work_is_over = True
        if not self._speaks:
            self._voice.acquire()
        self._speaks = True

    def _handle(self, number: int, _frame: object) -> None:
        if self._again:
            self._end(number, "Interrupted again, and ended at once.")
        self._again = True
        _thread.start_new_thread(self._end_late, (number,))  # unlike threading's, it takes no lock that the interrupted code may hold
        if self._work_is_over:
            return
        self.received = number
        if self._loop is None or self._task is None:
            raise KeyboardInterrupt
        import asyncio

        if asyncio.current_task(self._loop) is self._task:  # Python code of a revision or a seed, which may run for hours
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._task.cancel)

    def _end_late(self, number: int) -> None:
        time.sleep(GRACE)
        self._end(number, f"Interrupted, and ended without waiting any longer: the work did not come to an end in {GRACE:.0f} s.")

    def _end(self, number: int, message: str) -> NoReturn:
        if self._voice.acquire(blocking=False):
            self._last_words(message)
        os._exit(128 + number)
