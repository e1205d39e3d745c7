"""Upgrade, downgrade and stamp: one run, from the first look at the database to the proof that it is done.

The order of a run: read the version without a lock; if there is nothing to do, end. Else take the migration lock, read
the version again on the migration's own connection, migrate, and read it once more on a new connection: if it is not
what the run left behind, the run failed, whatever it reported.

Alembic is imported only when there is something to run, so that finding nothing to do is quick.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, inspect, text

from fininfra_db.connections import migration_lock, open_connection, read
from fininfra_db.dialects import target_of
from fininfra_db.dialects.locks import HeldLock
from fininfra_db.errors import (
    DatabaseAhead,
    FininfraDbError,
    LockLost,
    MigrationFailed,
    OptionsInvalid,
    RevisionNotFound,
    TableLocked,
    UnfinishedRevision,
)
from fininfra_db.migrate.config import Project
from fininfra_db.migrate.history import History
from fininfra_db.migrate.journal import FAILED, read_unfinished, rewrite
from fininfra_db.migrate.retry import reason_of, run_patiently
from fininfra_db.results import Entry, Migrated, Observer, Script, Stamped

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from fininfra_db.migrate.watch import Direction, Resume, Watch

Plan = Callable[[tuple[str, ...]], Iterable[Any]]
"""The steps from where a database is, as Alembic's ``ScriptDirectory`` makes them."""

VERSION_TABLE = "alembic_version"
_AHEAD_HINT = "Update the checkout to the one that made the revision, or check the database URL."
_ANSWER_TIMEOUT = 2.0
"""Seconds that the database may take to say where it is after a run was interrupted."""
_STAMP_HINT = "If create-tables made the tables, tell the history so with 'fininfra-db stamp head', then run 'fininfra-db check'."


@dataclass(frozen=True)
class State:
    """Where a database is: the rows of its version table, and the revision that an earlier run left unfinished."""

    versions: tuple[str, ...] = ()
    unfinished: Entry | None = None


async def read_versions(project: Project, *, only_looking: bool = False) -> tuple[str, ...]:
    """The rows of the version table, without writing anything; empty when there is no such table."""
    return (await read_state(project, only_looking=only_looking)).versions


async def read_state(project: Project, *, only_looking: bool = False) -> State:
    """Where the database is, without writing anything. ``only_looking`` holds a foreign ``env.py`` to that too."""
    if project.is_ours:
        return await read(project.settings, _select_state)
    from fininfra_db.migrate.environment import execute

    found: list[State] = []

    def look(versions: tuple[str, ...], context: "MigrationContext") -> Iterable[Any]:
        assert context.connection is not None
        found.append(State(tuple(sorted(versions)), read_unfinished(context.connection)))
        return ()

    await execute(project, look, "reading", only_looking=only_looking)
    return found[0] if found else State()


def _select_state(connection: Connection) -> State:
    versions = connection.scalars(text(f"SELECT version_num FROM {VERSION_TABLE}")) if inspect(connection).has_table(VERSION_TABLE) else ()
    return State(tuple(sorted(versions)), read_unfinished(connection))


async def upgrade(project: Project, revision: str, *, tag: str | None = None, observer: Observer | None = None) -> Migrated:
    """Apply every revision up to ``revision``. Raises ``DatabaseAhead``, ``RevisionNotFound``, ``MigrationFailed``..."""
    refuse_range(revision)
    history = project.history()
    state = await _state_or_none(project)
    before = state.versions
    refuse_unknown(history, before)
    if (
        state.unfinished is None
        and history.is_at_head(before)
        and (revision == "heads" or (revision == "head" and len(history.heads) <= 1))
    ):
        empty = () if history.revisions else (f"There is no revision file in {project.location}.",)
        return Migrated(before=before, after=before, warnings=empty)
    return await _migrate(project, "up", revision, before, tag, observer)


async def downgrade(project: Project, revision: str, *, tag: str | None = None, observer: Observer | None = None) -> Migrated:
    """Revert every revision above ``revision``."""
    refuse_range(revision)
    before = await read_versions(project)
    refuse_unknown(project.history(), before)
    return await _migrate(project, "down", revision, before, tag, observer)


async def stamp(project: Project, revisions: tuple[str, ...], *, purge: bool = False, tag: str | None = None) -> Stamped:
    """Write ``revisions`` into the version table without running anything. ``purge`` empties it first."""
    from fininfra_db.migrate.config import alembic_config
    from fininfra_db.migrate.environment import load_scripts
    from fininfra_db.migrate.lookup import alembic_errors

    before = (await _state_or_none(project)).versions
    if not purge:
        refuse_unknown(project.history(), before, "Update the checkout. To forget what the database says: 'fininfra-db stamp --purge ...'.")
    config = alembic_config(project)
    scripts = load_scripts(config)

    def plan(versions: tuple[str, ...]) -> Iterable[Any]:
        return scripts._stamp_revs(revisions, versions)

    with alembic_errors():
        list(plan(() if purge else before))  # a name that leads nowhere is found before anything is touched

    ran = await run_steps(project, config, scripts, plan, destination_rev=revisions, tag=tag, purge=purge)
    return Stamped(before=before, after=ran.after)


async def render_upgrade(project: Project, revision: str, tag: str | None = None) -> Script:
    """The SQL of an upgrade. ``revision`` is a target, or ``from:to``."""
    start, _, target = revision.rpartition(":")
    return await _render(project, "up", start or None, target, tag)


async def render_downgrade(project: Project, revision: str, tag: str | None = None) -> Script:
    """The SQL of a downgrade. ``revision`` is ``from:to``, since no database is asked where it is."""
    start, colon, target = revision.rpartition(":")
    if not colon:
        raise OptionsInvalid("downgrade --sql needs <from>:<to>: no database is asked where it is.", "For example head:base.")
    return await _render(project, "down", start, target, tag)


async def render_stamp(project: Project, revisions: tuple[str, ...], tag: str | None = None) -> Script:
    """The SQL that writes ``revisions`` into the version table; each may be ``from:to``."""
    from fininfra_db.migrate.config import alembic_config
    from fininfra_db.migrate.environment import load_scripts, render

    starts = {start for start, colon, _ in (revision.rpartition(":") for revision in revisions) if colon}
    if len(starts) > 1:
        raise OptionsInvalid("stamp --sql takes one starting revision for all.", "Give the same <from> in each <from>:<to>.")
    targets = tuple(revision.rpartition(":")[2] for revision in revisions)
    scripts = load_scripts(alembic_config(project))
    start = starts.pop() if starts else None
    sql = await render(
        project, lambda versions, _: scripts._stamp_revs(targets, versions), starting_rev=start, destination_rev=targets, tag=tag
    )
    return Script(sql=sql)


def refuse_range(revision: str) -> None:
    """``a:b`` names a script to render, not a place to migrate to."""
    if not revision:
        raise OptionsInvalid("The name of the revision is empty.", "Name a revision, or leave it out for head.")
    if ":" in revision:
        raise OptionsInvalid("A range of revisions is for --sql only.", "Name one revision, or add --sql.")


def refuse_unknown(history: History, versions: tuple[str, ...], hint: str = _AHEAD_HINT) -> None:
    """Raise ``DatabaseAhead`` when the database is at a revision without a file here."""
    unknown = history.unknown(versions)
    if unknown:
        raise DatabaseAhead(
            f"The database is at {', '.join(unknown)}, which this checkout does not have: it is ahead, or of another project. "
            "Nothing was changed.",
            hint,
        )


async def _state_or_none(project: Project) -> State:
    """Where the database is; nowhere for a SQLite file that the migration is about to make."""
    target = target_of(project.settings)
    if not target.dialect.features.has_server:
        from fininfra_db.errors import DatabaseMissing

        try:
            target.dialect.look_before_connecting(target.url, "reading")
        except DatabaseMissing:
            target.dialect.look_before_connecting(target.url, "migration")
            return State()
    return await read_state(project)


async def _migrate(
    project: Project,
    direction: "Direction",
    revision: str,
    before: tuple[str, ...],
    tag: str | None,
    observer: Observer | None,
    resume: "Resume | None" = None,
) -> Migrated:
    from fininfra_db.migrate.config import alembic_config
    from fininfra_db.migrate.environment import load_scripts
    from fininfra_db.migrate.lookup import alembic_errors

    config = alembic_config(project)
    scripts = load_scripts(config)
    plan: Any = scripts._upgrade_revs if direction == "up" else scripts._downgrade_revs
    with alembic_errors():
        list(plan(revision, before))  # a name that leads nowhere is found before anything is touched
    return await run_steps(
        project,
        config,
        scripts,
        lambda versions: plan(revision, versions),
        observer=observer,
        resume=resume,
        destination_rev=revision,
        tag=tag,
    )


async def run_steps(
    project: Project,
    config: "Config",
    scripts: "ScriptDirectory",
    plan: Plan,
    *,
    observer: Observer | None = None,
    resume: "Resume | None" = None,
    **options: Any,
) -> Migrated:
    """Run the steps of ``plan`` under the lock. The database must be where they lead when it is asked afterwards."""
    from fininfra_db.migrate.watch import Watch

    watch = None
    try:
        async with migration_lock(project.settings, observer) as lock:
            dialect = target_of(project.settings).dialect
            watch = Watch(dialect, lock, observer=observer, resume=resume, keeps_snapshot=not project.settings.no_snapshot)
            await _run_watched(project, watch, lock, observer, lambda: _execute(project, config, scripts, plan, watch, observer, options))
            after = await read_versions(project)
    except (asyncio.CancelledError, KeyboardInterrupt) as error:
        if watch is None:
            error.add_note(await _interrupted(project, watch))
        raise
    if set(after) != set(watch.expected):
        raise MigrationFailed(
            f"The run ended without an error, but the database is at {_at(after)} and not at {_at(watch.expected)}: it was not committed.",
            "Look for a statement that env.py runs on the connection before context.configure().",
        )
    return Migrated(before=watch.before, after=after, steps=tuple(watch.steps), snapshot=watch.snapshot)


async def _run_watched(
    project: Project, watch: "Watch", lock: HeldLock, observer: Observer | None, execute: Callable[[], Awaitable[None]]
) -> None:
    """Run the steps while the lock is kept. A revision that does not run to its end is named, with what is in the database now."""
    try:
        async with lock.kept():
            await run_patiently(project, watch, observer, execute=execute, remains=lambda: _remains(project, watch))
    except (asyncio.CancelledError, KeyboardInterrupt) as error:
        error.add_note(await _interrupted(project, watch))
        raise
    except FininfraDbError as error:
        if watch.running is None or isinstance(error, RevisionNotFound):
            raise
        raise await _failed(project, watch, error.message, error) from error
    except Exception as error:  # a revision is the user's code, which may raise anything
        if watch.running is None:
            raise
        raise await _failed(project, watch, reason_of(project, error)) from error


async def _execute(
    project: Project,
    config: "Config",
    scripts: "ScriptDirectory",
    plan: Plan,
    watch: "Watch",
    observer: Observer | None,
    options: dict[str, Any],
) -> None:
    from fininfra_db.migrate.environment import execute

    def work(versions: tuple[str, ...], context: "MigrationContext") -> Iterable[Any]:
        steps = list(plan(versions))
        if not steps:
            watch.refuse_unfinished(context)
        return watch.follow(steps, versions, context)

    await execute(project, work, "migration", config, scripts, observer=observer, **options)


async def _render(project: Project, direction: "Direction", start: str | None, target: str, tag: str | None) -> Script:
    from fininfra_db.migrate.config import alembic_config
    from fininfra_db.migrate.environment import load_scripts, render

    scripts = load_scripts(alembic_config(project))
    plan: Any = scripts._upgrade_revs if direction == "up" else scripts._downgrade_revs
    sql = await render(project, lambda versions, _: plan(target, versions), starting_rev=start, destination_rev=target, tag=tag)
    return Script(sql=sql)


async def _interrupted(project: Project, watch: "Watch | None") -> str:
    """Say what was interrupted, and what state the database is in now. Without ``watch`` the lock was still waited for."""
    if watch is not None:
        watch.is_interrupted = True
    where, remains = await _state(project, watch, timeout=_ANSWER_TIMEOUT)
    step = watch.running if watch is not None else None
    if watch is None or step is None:
        return f"No revision was running. {where}"
    done = "applied" if step.direction == "up" else "reverted"
    needs_repair = remains and not target_of(project.settings).dialect.features.transactional_ddl
    settle = " Before anything else is run, settle it with 'fininfra-db repair'." if needs_repair else ""
    return f"Revision {step.revision} ({step.message}) was being {done}. {where} {_rest(watch, remains)}{settle}"


async def _state(project: Project, watch: "Watch | None", *, timeout: float | None = None) -> tuple[str, bool]:
    """Where the database is, by asking it for at most ``timeout`` seconds, and whether a part of the running revision is in it."""
    remains = watch is not None and not watch.nothing_remains
    try:
        async with asyncio.timeout(timeout):
            where = f"The database is at {_at(await read_versions(project))}."
            return where, watch is not None and remains and await _remains(project, watch)
    except (FininfraDbError, TimeoutError):
        return "The database cannot be read now.", remains


def _rest(watch: "Watch", remains: bool) -> str:
    assert watch.running is not None
    kept = f" A snapshot of before is kept: {watch.snapshot.path}" if watch.snapshot else ""
    return f"{'A part of ' if remains else 'Nothing of '}{watch.running.revision} {'may remain' if remains else 'remains'}.{kept}"


async def _failed(project: Project, watch: "Watch", reason: str, error: FininfraDbError | None = None) -> FininfraDbError:
    """Say what failed, where, and what state the database is in now."""
    assert watch.running is not None
    step = watch.running
    verb = "apply" if step.direction == "up" else "revert"
    where, remains = await _state(project, watch)
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
        f"Revision {step.revision} ({step.message}) did not {verb}: {reason.rstrip('.')}. {where} {_rest(watch, remains)}",
        error.hint if isinstance(error, LockLost | TableLocked | UnfinishedRevision) else hint,
    )


async def _remains(project: Project, watch: "Watch") -> bool:
    """Whether a part of the revision that failed is in the database."""
    if watch.nothing_remains:
        return False
    unfinished = (await read_state(project)).unfinished
    return unfinished is None or await _is_left_behind(project, watch, unfinished)


async def _is_left_behind(project: Project, watch: "Watch", entry: Entry) -> bool:
    """Whether the unfinished row means that a part of the revision is in the database; if not, the row says so from now on.

    The row counts what was committed. A first statement that failed has done nothing, on any database; of one that was
    interrupted nobody knows.
    """
    if entry.statement and not (entry.statement == 1 and watch.failed_at_once and not watch.is_interrupted):
        return True
    async with open_connection(project.settings, "migration") as connection:
        await connection.run_sync(lambda sync: rewrite(sync, replace(entry, outcome=FAILED)))
        await connection.commit()
    return False


def _at(versions: tuple[str, ...]) -> str:
    return ", ".join(versions) or "no revision"
