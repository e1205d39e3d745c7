"""Trying again: how often, how long after, and waiting in between."""

import asyncio
import random
import time
from typing import Final

from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

ATTEMPTS: Final = 10
"""How often something that gave up waiting for a lock is run in all."""

_FIRST: Final = 0.5
_LONGEST: Final = 30.0


def backoff(attempt: int) -> float:
    """Seconds to wait after the failed attempt of this number, counted from 1.

    "Full jitter": anything up to a limit that doubles each time, from 0.5 s to 30 s, so that several never come back at once.
    """
    return random.uniform(0, min(_LONGEST, _FIRST * 2 ** (attempt - 1)))


def pause(seconds: float) -> None:
    """Wait inside a revision, whose code is synchronous, without holding up the event loop that it may run on."""
    if in_greenlet():
        await_only(asyncio.sleep(seconds))
    else:
        time.sleep(seconds)
