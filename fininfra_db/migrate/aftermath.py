"""What is said of a run that did not come to its end: what failed, where the database is now, and what remains.

The database is asked, and where its journal says that nothing remains, the journal is put right.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from fininfra_db.connections import open_connection
from fininfra_db.dialects import target_of
from fininfra_db.dialects.sessions import ANSWER_TIMEOUT
from fininfra_db.errors import FininfraDbError, LockLost, MigrationFailed, TableLocked, UnfinishedRevision
from fininfra_db.migrate.config import Project
from fininfra_db.migrate.journal import FAILED, rewrite
from fininfra_db.migrate.state import in_words, read_state, read_versions

if TYPE_CHECKING:
    from fininfra_db.migrate.watch import Watch

_INTERRUPTED_TIMEOUT: Final = 2.0
"""Seconds that the database may take to say where it is after a run was interrupted: somebody waits for the end."""
_UNREADABLE: Final = "The database cannot be read now."
_STAMP_HINT: Final = "If create-tables made the tables, tell the history so with 'fininfra-db stamp head', then run 'fininfra-db check'."


async def interrupted(project: Project, watch: "Watch | None") -> str:
    """Say what was interrupted, and what state the database is in now. Without ``watch`` the lock was still waited for."""
    if watch is not None:
        watch.is_interrupted = True
    where, remains = await _state(project, watch, timeout=_INTERRUPTED_TIMEOUT)
    step = watch.running if watch is not None else None
    if watch is None or step is None:
        return f"No revision was running. {where}"
    done = "applied" if step.direction == "up" else "reverted"
    needs_repair = remains and not target_of(project.settings).dialect.features.transactional_ddl
    settle = " Before anything else is run, settle it with 'fininfra-db repair'." if needs_repair else ""
    return f"Revision {step.revision} ({step.message}) was being {done}. {where} {_rest(watch, where, remains)}{settle}"


async def _state(project: Project, watch: "Watch | None", *, timeout: float) -> tuple[str, bool]:
    """Where the database is, by asking it for at most ``timeout`` seconds, and whether a part of the running revision is in it."""
    try:
        async with asyncio.timeout(timeout):
            where = f"The database is at {in_words(await read_versions(project))}."
            return where, watch is not None and await something_remains(project, watch)
    except (FininfraDbError, TimeoutError):
        return _UNREADABLE, watch is not None and not watch.nothing_remains


def _rest(watch: "Watch", where: str, remains: bool) -> str:
    """What is left of the running revision. Of a database that cannot be read, not even its commit is known."""
    assert watch.running is not None
    name = watch.running.revision
    whole = f"{name} is in it as a whole or not at all." if where == _UNREADABLE else f"Nothing of {name} remains."
    kept = f" A snapshot of before is kept: {watch.snapshot.path}" if watch.snapshot else ""
    return f"{f'A part of {name} may remain.' if remains else whole}{kept}"


async def failed(project: Project, watch: "Watch", reason: str, error: FininfraDbError | None = None) -> FininfraDbError:
    """Say what failed, where, and what state the database is in now."""
    assert watch.running is not None
    step = watch.running
    verb = "apply" if step.direction == "up" else "revert"
    where, remains = await _state(project, watch, timeout=ANSWER_TIMEOUT)
    remains = remains and not isinstance(error, TableLocked)
    kind = type(error) if isinstance(error, LockLost | TableLocked | UnfinishedRevision) else MigrationFailed
    hint = (
        _STAMP_HINT
        if not watch.before and "already exists" in reason
        else "Correct the revision, then run 'fininfra-db repair --resume' for the rest of it; or finish or undo it by hand, then run "
        "'fininfra-db repair --mark-applied' or '--mark-rolled-back'."
        if remains
        else "Correct the revision, then run the command again."
    )
    return kind(
        f"Revision {step.revision} ({step.message}) did not {verb}: {reason.rstrip('.')}. {where} {_rest(watch, where, remains)}",
        error.hint if isinstance(error, LockLost | TableLocked | UnfinishedRevision) else hint,
    )


async def something_remains(project: Project, watch: "Watch") -> bool:
    """Whether a part of the revision that failed is in the database. Where the journal says more than is so, it is put right."""
    if watch.nothing_remains:
        return False
    row = (await read_state(project)).unfinished
    left = watch.what_is_left(row) if row is not None else None
    if row is None or left is None:
        return True
    if left != row:
        async with open_connection(project.settings, "migration") as connection:
            await connection.run_sync(lambda sync: rewrite(sync, left))
            await connection.commit()
    return left.outcome != FAILED
