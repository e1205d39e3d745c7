"""What is said of a run that did not come to its end: what failed, where the database is now, and what remains.

The database is asked, and where its journal says that nothing remains, the journal is put right.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from fininfra_db.connections import open_connection
from fininfra_db.dialects import target_of
from fininfra_db.dialects.sessions import ANSWER_TIMEOUT
from fininfra_db.errors import FininfraDbError, LockLost, MigrationFailed, TableLocked, UnfinishedRevision
from fininfra_db.migrate.config import Project
from fininfra_db.migrate.journal import FAILED, rewrite
from fininfra_db.migrate.state import in_words, read_state, read_versions

if TYPE_CHECKING:
    from fininfra_db.migrate.watch import Watch

P = ParamSpec("P")
R = TypeVar("R")

_INTERRUPTED_TIMEOUT: Final = 2.0
"""Seconds that the database may take to say where it is after a run was interrupted: somebody waits for the end."""
_STAMP_HINT: Final = "If create-tables made the tables, tell the history so with 'fininfra-db stamp head', then run 'fininfra-db check'."


@dataclass(frozen=True)
class _Found:
    """What the database told after a run that did not come to its end; ``versions`` is None when it told nothing.

    ``remains``: a part of the running revision may be in it. ``is_whole``: all of it is, its commit went through.
    """

    versions: tuple[str, ...] | None
    remains: bool
    is_whole: bool = False

    def __str__(self) -> str:
        return "The database cannot be read now." if self.versions is None else f"The database is at {in_words(self.versions)}."


def tells_interruption(run: Callable[Concatenate[Project, P], Awaitable[R]]) -> Callable[Concatenate[Project, P], Coroutine[Any, Any, R]]:
    """Let an interruption of ``run`` say where the database is, also while no revision is running."""

    @wraps(run)
    async def told(project: Project, /, *args: P.args, **options: P.kwargs) -> R:
        try:
            return await run(project, *args, **options)
        except (asyncio.CancelledError, KeyboardInterrupt) as error:
            if not hasattr(error, "__notes__"):
                error.add_note(await interrupted(project, None))
            raise

    return told


async def interrupted(project: Project, watch: "Watch | None") -> str:
    """Say what was interrupted, and what state the database is in now. Without ``watch`` no revision was running."""
    if watch is not None:
        watch.is_interrupted = True
    found = await _look(project, watch, timeout=_INTERRUPTED_TIMEOUT)
    step = watch.running if watch is not None else None
    if watch is None or step is None:
        return f"No revision was running. {found}"
    done = "applied" if step.direction == "up" else "reverted"
    needs_repair = found.remains and not target_of(project.settings).dialect.features.transactional_ddl
    settle = " Before anything else is run, settle it with 'fininfra-db repair'." if needs_repair else ""
    return f"Revision {step.revision} ({step.message}) was being {done}. {found} {_rest(watch, found)}{settle}"


async def forget_snapshot(project: Project, watch: "Watch") -> None:
    """Remove the copy of a database that a run has left as it was: it would push out one that is of use."""
    if watch.snapshot is not None:
        await _look(project, watch, timeout=ANSWER_TIMEOUT)


async def _look(project: Project, watch: "Watch | None", *, timeout: float) -> _Found:
    """Ask the database, for at most ``timeout`` seconds; of one that is as it was before, the snapshot goes."""
    try:
        async with asyncio.timeout(timeout):
            versions = await read_versions(project)
            if watch is None:
                return _Found(versions, remains=False)
            watch.forget_snapshot(versions)
            if watch.is_committing and set(versions) == set(watch.expected):
                return _Found(versions, remains=False, is_whole=True)
            return _Found(versions, remains=await something_remains(project, watch))
    except (FininfraDbError, SQLAlchemyError, TimeoutError):
        return _Found(None, remains=watch is not None and not watch.nothing_remains)


def _rest(watch: "Watch", found: _Found) -> str:
    """What is left of the running revision. Of a database that cannot be read, not even its commit is known."""
    assert watch.running is not None
    name = watch.running.revision
    if found.remains:
        told = f"A part of {name} may remain."
    elif found.is_whole:
        told = f"All of {name} was done: its commit went through."
    elif found.versions is None:
        told = f"All of {name} was done, or nothing."
    else:
        told = f"Nothing of {name} remains."
    return f"{told} A snapshot of before is kept: {watch.snapshot.path}" if watch.snapshot else told


async def failed(project: Project, watch: "Watch", reason: str, error: FininfraDbError | None = None) -> FininfraDbError:
    """Say what failed, where, and what state the database is in now."""
    assert watch.running is not None
    step = watch.running
    found = await _look(project, watch, timeout=ANSWER_TIMEOUT)
    if isinstance(error, TableLocked):
        found = replace(found, remains=False)
    ended = "ended badly" if found.is_whole or found.versions is None else f"did not {'apply' if step.direction == 'up' else 'revert'}"
    has_hint = isinstance(error, LockLost | TableLocked | UnfinishedRevision)
    kind = type(error) if error is not None and has_hint else MigrationFailed
    return kind(
        f"Revision {step.revision} ({step.message}) {ended}: {reason.rstrip('.')}. {found} {_rest(watch, found)}",
        error.hint if error is not None and has_hint else _next_command(watch, reason, found),
    )


def _next_command(watch: "Watch", reason: str, found: _Found) -> str:
    if found.remains:
        return (
            "Correct the revision, then run 'fininfra-db repair --resume' for the rest of it; or finish or undo it by hand, then run "
            "'fininfra-db repair --mark-applied' or '--mark-rolled-back'."
        )
    if found.is_whole or found.versions is None:
        return "See where the database is with 'fininfra-db status', then run the command again."
    if not watch.before and "already exists" in reason:
        return _STAMP_HINT
    return "Correct the revision, then run the command again."


async def something_remains(project: Project, watch: "Watch") -> bool:
    """Whether a part of the revision that failed is in the database. Where the journal says more than is so, it is put right."""
    if watch.nothing_remains:
        return False
    row = (await read_state(project)).unfinished
    left = watch.what_is_left(row) if row is not None else None
    if row is None or left is None:
        return not watch.is_put_right
    if left != row:
        async with open_connection(project.settings, "migration") as connection:
            await connection.run_sync(lambda sync: rewrite(sync, left))
            await connection.commit()
    watch.is_put_right = left.outcome == FAILED
    return not watch.is_put_right
