"""Upgrade, downgrade and stamp: one run, from the first look at the database to the proof that it is done.

The order of a run: read the version without a lock; if there is nothing to do, end. Else take the migration lock, read
the version again on the migration's own connection, migrate, and read it once more on a new connection: if it is not
what the run left behind, the run failed, whatever it reported.

Alembic is imported only when there is something to run, so that finding nothing to do is quick.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from fininfra_db.connections import migration_lock
from fininfra_db.dialects import target_of
from fininfra_db.dialects.locks import HeldLock
from fininfra_db.dialects.wording import first_line
from fininfra_db.errors import (
    DatabaseFailed,
    DatabaseUnreachable,
    FininfraDbError,
    LockNotObtained,
    MigrationFailed,
    OptionsInvalid,
    RevisionBroken,
    RevisionNotFound,
)
from fininfra_db.events import BlastRadius, Observer
from fininfra_db.migrate.aftermath import failed, forget_snapshot, interrupted, something_remains, tells_interruption
from fininfra_db.migrate.config import Project
from fininfra_db.migrate.retry import reason_of, run_patiently
from fininfra_db.migrate.state import in_words, read_versions, refuse_unknown, state_or_none
from fininfra_db.results import Migrated, Stamped

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from fininfra_db.migrate.watch import Direction, Resume, Watch

Plan = Callable[[tuple[str, ...]], Iterable[Any]]
"""The steps from where a database is, as Alembic's ``ScriptDirectory`` makes them."""


@tells_interruption
async def upgrade(project: Project, revision: str, *, tag: str | None = None, observer: Observer | None = None) -> Migrated:
    """Apply every revision up to ``revision``. Raises ``DatabaseAhead``, ``RevisionNotFound``, ``MigrationFailed``..."""
    refuse_range(revision)
    history = project.history()
    state = await state_or_none(project)
    before = state.versions
    refuse_unknown(history, before)
    if (
        state.unfinished is None
        and all(history.is_at_head(versions) for versions in (before, *state.others))
        and (revision == "heads" or (revision == "head" and len(history.heads) <= 1))
    ):
        empty = () if history.revisions else (f"There is no revision file in {project.location}.",)
        return Migrated(before=before, after=before, warnings=empty)
    return await _migrate(project, "up", revision, before, tag, observer)


@tells_interruption
async def downgrade(
    project: Project, revision: str, *, tag: str | None = None, observer: Observer | None = None, assessed: BlastRadius | None = None
) -> Migrated:
    """Revert every revision above ``revision``. Raises ``Refused`` when the database was marked otherwise since it was ``assessed``."""
    refuse_range(revision)
    before = await read_versions(project)
    refuse_unknown(project.history(), before)
    return await _migrate(project, "down", revision, before, tag, observer, assessed=assessed)


@tells_interruption
async def stamp(project: Project, revisions: tuple[str, ...], *, purge: bool = False, tag: str | None = None) -> Stamped:
    """Write ``revisions`` into the version table without running anything. ``purge`` empties it first."""
    from fininfra_db.migrate.config import alembic_config
    from fininfra_db.migrate.environment import load_scripts
    from fininfra_db.migrate.lookup import alembic_errors

    before = (await state_or_none(project)).versions
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


def refuse_range(revision: str) -> None:
    """``a:b`` names a script to render, not a place to migrate to."""
    if not revision:
        raise OptionsInvalid("The name of the revision is empty.", "Name a revision, or leave it out for head.")
    if ":" in revision:
        raise OptionsInvalid("A range of revisions is for --sql only.", "Name one revision, or add --sql.")


async def _migrate(
    project: Project,
    direction: "Direction",
    revision: str,
    before: tuple[str, ...],
    tag: str | None,
    observer: Observer | None,
    resume: "Resume | None" = None,
    assessed: BlastRadius | None = None,
) -> Migrated:
    from fininfra_db.migrate.config import alembic_config
    from fininfra_db.migrate.environment import load_scripts
    from fininfra_db.migrate.lookup import alembic_errors

    config = alembic_config(project)
    scripts = load_scripts(config)
    plan: Any = scripts._upgrade_revs if direction == "up" else scripts._downgrade_revs
    with alembic_errors(), _named_if_incomplete():
        steps = list(plan(revision, before))  # a name that leads nowhere is found before anything is touched
    return await run_steps(
        project,
        config,
        scripts,
        lambda versions: steps if versions == before else plan(revision, versions),
        observer=observer,
        resume=resume,
        assessed=assessed,
        destination_rev=revision,
        tag=tag,
    )


@contextmanager
def _named_if_incomplete() -> Iterator[None]:
    """Alembic takes ``upgrade`` and ``downgrade`` of each file as it plans, and says of one that lacks them only what Python says."""
    try:
        yield
    except AttributeError as error:
        file = getattr(error.obj, "__file__", None)
        if file is None or error.name not in ("upgrade", "downgrade"):
            raise
        raise RevisionBroken(
            f"The revision file {Path(file).name} has no {error.name}(). Nothing was run.", f"Write it into {file}; 'pass' will do."
        ) from None


async def run_steps(
    project: Project,
    config: "Config",
    scripts: "ScriptDirectory",
    plan: Plan,
    *,
    observer: Observer | None = None,
    resume: "Resume | None" = None,
    assessed: BlastRadius | None = None,
    **options: Any,
) -> Migrated:
    """Run the steps of ``plan`` under the lock. The database must be where they lead when it is asked afterwards."""
    from fininfra_db.migrate.watch import Watch

    async with migration_lock(project.settings, observer) as lock:
        dialect = target_of(project.settings).dialect
        watch = Watch(
            dialect,
            lock,
            observer=observer,
            resume=resume,
            keeps_snapshot=not project.settings.no_snapshot,
            keeps_keys=not project.is_ours,
            # A foreign env.py may go through several databases, each with a marker of its own, and one of them was assessed.
            assessed=assessed if project.is_ours else None,
        )
        await _run_watched(project, watch, lock, observer, lambda: _execute(project, config, scripts, plan, watch, observer, options))
        after = await _read_afterwards(project, watch)
        dialect.let_go_of_snapshots(target_of(project.settings).url, watch.snapshot)
    if set(after) != set(watch.expected):
        raise MigrationFailed(
            f"The run ended without an error, but the database is at {in_words(after)} and not at {in_words(watch.expected)}: "
            "it was not committed.",
            "Look for a statement that env.py runs on the connection before context.configure().",
        )
    return Migrated(before=watch.before, after=after, steps=tuple(watch.steps), snapshot=watch.snapshot)


async def _read_afterwards(project: Project, watch: "Watch") -> tuple[str, ...]:
    """Where the database is after the run. That it cannot be asked must not sound as if nothing was run."""
    try:
        return await read_versions(project)
    except (DatabaseUnreachable, LockNotObtained, SQLAlchemyError) as error:
        kind = type(error) if isinstance(error, DatabaseUnreachable) else DatabaseFailed
        reason = "another program has it locked." if isinstance(error, LockNotObtained) else first_line(error)
        raise kind(
            f"The run came to its end, at {in_words(watch.expected)}, but whether the database is there cannot be asked: {reason}",
            "Before anything else, see where it is with 'fininfra-db status'.",
        ) from error


async def _run_watched(
    project: Project, watch: "Watch", lock: HeldLock, observer: Observer | None, execute: Callable[[], Awaitable[None]]
) -> None:
    """Run the steps while the lock is kept. A revision that does not run to its end is named, with what is in the database now."""
    try:
        async with lock.kept():
            await run_patiently(project, watch, observer, execute=execute, remains=lambda: something_remains(project, watch))
    except (asyncio.CancelledError, KeyboardInterrupt) as error:
        error.add_note(await interrupted(project, watch))
        raise
    except FininfraDbError as error:
        if watch.running is None or isinstance(error, RevisionNotFound):
            await forget_snapshot(project, watch)
            raise
        raise await failed(project, watch, error.message, error) from error
    except Exception as error:  # a revision is the user's code, which may raise anything
        if watch.running is None:
            await forget_snapshot(project, watch)
            raise
        raise await failed(project, watch, reason_of(project, error)) from error


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
    from fininfra_db.migrate.watch import is_revision

    def work(versions: tuple[str, ...], context: "MigrationContext") -> Iterable[Any]:
        steps = list(plan(versions))
        if not any(is_revision(step) for step in steps):
            watch.refuse_unfinished(context)
        return watch.follow(steps, versions, context)

    await execute(project, work, "migration", config, scripts, observer=observer, **options)
