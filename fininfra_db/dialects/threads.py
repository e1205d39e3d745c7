"""Work that waits for a disk, kept off the event loop."""

import asyncio
from collections.abc import Callable
from threading import Event
from typing import TypeVar

from sqlalchemy.util import await_
from sqlalchemy.util.concurrency import in_greenlet

R = TypeVar("R")


def in_thread(work: Callable[[Event], R]) -> R:
    """What ``work`` returns, run in a thread where an event loop is waiting for this code, and here where none is.

    ``work`` is given an event that is set when nobody waits for it any more: it should look and end early.
    """
    return await_(_in_thread(work)) if in_greenlet() else work(Event())


async def _in_thread(work: Callable[[Event], R]) -> R:
    stop = Event()
    try:
        return await asyncio.to_thread(work, stop)
    finally:
        stop.set()
