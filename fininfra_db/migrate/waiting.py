"""Waiting until the server answers, or until the database is at head.

Only what goes away by itself is waited for; a wrong password or a bad URL fails at once.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy.exc import DBAPIError

from fininfra_db.connections import read
from fininfra_db.dialects import target_of
from fininfra_db.errors import DatabaseMissing, DatabaseUnreachable, LockNotObtained, OptionsInvalid, ServerNotReady
from fininfra_db.migrate.config import Project
from fininfra_db.migrate.looking import find_pending, find_unknown
from fininfra_db.migrate.state import read_versions
from fininfra_db.results import Finding, Waited
from fininfra_db.settings import Settings

DEFAULT_TIMEOUT: Final = 60.0

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0
_GROWTH: Final = 1.5
_SHORTEST_TRY: Final = 1.0
"""Seconds that a try may take though the time is nearly up: one that cannot succeed would be none."""

Attempt = Callable[[], Awaitable[Finding | None]]
"""One try: None when there is nothing left to wait for, else what is missing. Raises ``ServerNotReady``."""


async def wait_for_server(settings: Settings, timeout: float) -> Waited:
    """Wait until the server lets us in; that it has no such database is an answer too."""

    async def attempt() -> None:
        try:
            await read(settings, lambda _connection: None)
        except DatabaseMissing:
            return

    return await _poll(attempt, settings, "server", timeout)


async def wait_for_head(project: Project, timeout: float) -> Waited:
    """Wait until every revision of this checkout is applied. A database that is ahead never will be, and is a finding at once."""
    history = project.history()
    dialect = target_of(project.settings).dialect

    async def attempt() -> Finding | None:
        try:
            versions = await read_versions(project, only_looking=True)
        except DatabaseMissing as error:
            return Finding(error.code, error.message, error.hint)
        except LockNotObtained as error:  # a SQLite file that is being migrated
            raise ServerNotReady(error.message, error.hint) from None
        except DBAPIError as error:
            if dialect.is_passing(error):
                raise ServerNotReady("The connection was lost.", "Run the command again.") from error
            raise
        return next(iter((*find_unknown(history, versions), *find_pending(history, versions))), None)

    return await _poll(attempt, project.settings, "head", timeout)


async def _poll(attempt: Attempt, settings: Settings, waited_for: str, timeout: float) -> Waited:
    """Try until it succeeds or ``timeout`` seconds are over; once at least."""
    if not (math.isfinite(timeout) and timeout >= 0):
        raise OptionsInvalid("The time to wait is not a number of seconds.", "For example --timeout 60; 0 tries once.")
    started, pause, tries = time.monotonic(), _FIRST_PAUSE, 0
    while True:
        tries += 1
        error, finding = await _try(attempt, settings, started + timeout - time.monotonic())
        seconds = time.monotonic() - started
        if error is None and (finding is None or finding.code == "database-ahead"):
            return Waited(waited_for=waited_for, seconds=seconds, tries=tries, findings=(finding,) if finding else ())
        if seconds >= timeout:
            waited = f"Waited {seconds:.0f} s and tried {tries} time{'s' if tries > 1 else ''}."
            if error is not None:
                raise ServerNotReady(f"{error.message.rstrip('.')}. {waited}", error.hint)
            assert finding is not None
            findings = (Finding(finding.code, f"{finding.message} {waited}", finding.hint),)
            return Waited(waited_for=waited_for, seconds=seconds, tries=tries, findings=findings)
        await asyncio.sleep(min(pause * random.uniform(0.5, 1.0), timeout - seconds))
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)


async def _try(attempt: Attempt, settings: Settings, seconds: float) -> tuple[DatabaseUnreachable | None, Finding | None]:
    """One try, which ends when the time does: a server that accepts and says nothing would hold it for longer."""
    try:
        async with asyncio.timeout(max(seconds, _SHORTEST_TRY)):
            return None, await attempt()
    except ServerNotReady as error:
        return error, None
    except TimeoutError:
        target = target_of(settings)
        return ServerNotReady(f"{target.dialect.describe(target.url)} did not answer in time.", "Check the host and port."), None
