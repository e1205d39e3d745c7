"""Trying again what did not get a table's lock: how often, how long after, and who was in the way."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from fininfra_db.connections import open_connection
from fininfra_db.dialects import target_of
from fininfra_db.dialects.wording import first_line, in_words
from fininfra_db.errors import FininfraDbError, TableLocked
from fininfra_db.events import Observer, Retrying
from fininfra_db.migrate.config import Project

if TYPE_CHECKING:
    from fininfra_db.migrate.watch import Watch

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


async def run_patiently(
    project: Project,
    watch: "Watch",
    observer: Observer | None,
    *,
    execute: Callable[[], Awaitable[None]],
    remains: Callable[[], Awaitable[bool]],
) -> None:
    """Run again what gave up waiting for a table's lock, as long as nothing ``remains`` of its revision in the database.

    Only that revision and those after it run again. Raises ``TableLocked`` after the last attempt, naming who was in the way.
    """
    dialect = target_of(project.settings).dialect
    stuck, attempt = None, 0
    while True:
        try:
            return await execute()
        except DBAPIError as error:
            step = watch.running
            if step is None or not dialect.gave_up_waiting(error) or await remains():
                raise
            attempt = attempt + 1 if stuck == step.revision else 1
            stuck = step.revision
            blockers = await _blockers(project, error.statement)
            if attempt == ATTEMPTS:
                raise _locked(reason_of(project, error), blockers) from error
        seconds = backoff(attempt)
        if observer is not None:
            observer(Retrying(step.revision, attempt + 1, seconds, blockers))
        await asyncio.sleep(seconds)


def reason_of(project: Project, error: Exception) -> str:
    """Why a revision failed, in one line, with the statement that was refused."""
    statement = getattr(error, "statement", None)
    reason = first_line(error) if isinstance(error, DBAPIError) else in_words(error)
    return project.settings.redact(f"{reason}. Statement: {' '.join(statement.split())}" if statement else reason)


async def _blockers(project: Project, statement: str | None) -> tuple[str, ...]:
    """Who is in the way, as far as the database tells."""
    dialect = target_of(project.settings).dialect
    try:
        async with open_connection(project.settings, "maintenance") as connection:
            found = await connection.run_sync(lambda sync: dialect.blockers(sync, statement))
    except (FininfraDbError, SQLAlchemyError):
        return ()
    return tuple(project.settings.redact(blocker) for blocker in found)


def _locked(reason: str, blockers: tuple[str, ...]) -> TableLocked:
    held = f" In the way: {'; '.join(blockers)}." if blockers else ""
    return TableLocked(
        f"{reason}. It was tried {ATTEMPTS} times.{held}",
        "Run the command again when that has ended, or let a statement wait longer with --ddl-lock-timeout SECONDS.",
    )
