"""Upgrade, downgrade and stamp: one run, from the first look at the database to the proof that it is done.

The order of a run: read the version without a lock; if there is nothing to do, end. Else take the migration lock, read
the version again on the migration's own connection, migrate, and read it once more on a new connection: if it is not
what the run left behind, the run failed, whatever it reported.

Alembic is imported only when there is something to run, so that finding nothing to do is quick.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.exc import DBAPIError

from fininfra_db.connections import migration_lock, read
from fininfra_db.dialects import target_of
from fininfra_db.dialects.base import first_line
from fininfra_db.errors import DatabaseAhead, FininfraDbError, MigrationFailed, OptionsInvalid, RevisionNotFound
from fininfra_db.migrate.config import Project
from fininfra_db.migrate.history import History, read_header
from fininfra_db.results import Migrated, Observer, Script, Stamped, Step

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext

VERSION_TABLE = "alembic_version"
_ANSWER_TIMEOUT = 2.0
"""Seconds that the database may take to say where it is after a run was interrupted."""
Direction = Literal["up", "down"]
_STAMP_HINT = "If create-tables made the tables, tell the history so with 'fininfra-db stamp head', then run 'fininfra-db check'."


@dataclass
class _Run:
    """What a run has done so far."""

    steps: list[Step] = field(default_factory=list)
    running: Step | None = None
    before: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    committed_inside: Step | None = None
    rolls_back: bool = True
    """Whether a revision that fails leaves nothing behind: as ``env.py`` configured it, until the revision commits by itself."""

    def note_commit(self, _connection: Connection) -> None:
        """A commit while a revision runs is an ``autocommit_block``: what came before it stays."""
        self.committed_inside = self.running


async def read_versions(project: Project) -> tuple[str, ...]:
    """The rows of the version table, without writing anything; empty when there is no such table."""
    if project.is_ours:
        return await read(project.settings, _select_versions)
    from fininfra_db.migrate.environment import execute

    found: list[str] = []

    def look(versions: tuple[str, ...], _context: "MigrationContext") -> Iterable[Any]:
        found.extend(versions)
        return ()

    await execute(project, look, "reading")
    return tuple(sorted(found))


def _select_versions(connection: Connection) -> tuple[str, ...]:
    if not inspect(connection).has_table(VERSION_TABLE):
        return ()
    return tuple(sorted(connection.scalars(text(f"SELECT version_num FROM {VERSION_TABLE}"))))


async def upgrade(project: Project, revision: str, *, tag: str | None = None, observer: Observer | None = None) -> Migrated:
    """Apply every revision up to ``revision``. Raises ``DatabaseAhead``, ``RevisionNotFound``, ``MigrationFailed``..."""
    refuse_range(revision)
    history = project.history()
    before = await _versions_or_none(project)
    refuse_unknown(history, before)
    if history.is_at_head(before) and (revision == "heads" or (revision == "head" and len(history.heads) <= 1)):
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

    before = await _versions_or_none(project)
    config = alembic_config(project)
    scripts = load_scripts(config)

    def plan(versions: tuple[str, ...]) -> Iterable[Any]:
        return scripts._stamp_revs(revisions, versions)

    with alembic_errors():
        list(plan(() if purge else before))  # a name that leads nowhere is found before anything is touched

    return Stamped(before=before, after=await _run(project, config, plan, _Run(), destination_rev=revisions, tag=tag, purge=purge))


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


def refuse_unknown(history: History, versions: tuple[str, ...]) -> None:
    """Raise ``DatabaseAhead`` when the database is at a revision without a file here."""
    unknown = history.unknown(versions)
    if unknown:
        raise DatabaseAhead(
            f"The database is at {', '.join(unknown)}, which this checkout does not have: it is ahead, or of another project. "
            "Nothing was changed.",
            "Update the checkout to the one that made the revision, or check the database URL.",
        )


async def _versions_or_none(project: Project) -> tuple[str, ...]:
    """The database's versions; none for a SQLite file that the migration is about to make."""
    target = target_of(project.settings)
    if not target.dialect.features.has_server:
        from fininfra_db.errors import DatabaseMissing

        try:
            target.dialect.look_before_connecting(target.url, "reading")
        except DatabaseMissing:
            target.dialect.look_before_connecting(target.url, "migration")
            return ()
    return await read_versions(project)


async def _migrate(
    project: Project, direction: Direction, revision: str, before: tuple[str, ...], tag: str | None, observer: Observer | None
) -> Migrated:
    from fininfra_db.migrate.config import alembic_config
    from fininfra_db.migrate.environment import load_scripts
    from fininfra_db.migrate.lookup import alembic_errors

    config = alembic_config(project)
    scripts = load_scripts(config)
    plan: Any = scripts._upgrade_revs if direction == "up" else scripts._downgrade_revs
    with alembic_errors():
        list(plan(revision, before))  # a name that leads nowhere is found before anything is touched
    run = _Run()

    def watched(versions: tuple[str, ...]) -> Iterable[Any]:
        return _watched(plan(revision, versions), direction, run, observer)

    try:
        after = await _run(project, config, watched, run, observer=observer, destination_rev=revision, tag=tag)
    except FininfraDbError as error:
        if run.running is None or isinstance(error, RevisionNotFound):
            raise
        raise await _failed(project, run, error.message) from error
    except Exception as error:  # a revision is the user's code, which may raise anything
        if run.running is None:
            raise
        raise await _failed(project, run, _reason(project, error)) from error
    return Migrated(before=run.before, after=after, steps=tuple(run.steps))


async def _run(
    project: Project, config: "Config", plan: Callable[[tuple[str, ...]], Iterable[Any]], run: _Run, **options: Any
) -> tuple[str, ...]:
    """Run the steps of ``plan`` under the lock. Returns where the database is then, which must be where the steps lead."""
    from fininfra_db.migrate.environment import execute

    def work(versions: tuple[str, ...], context: "MigrationContext") -> Iterable[Any]:
        run.before = run.expected = tuple(sorted(versions))
        run.rolls_back = context.impl.transactional_ddl
        context.on_version_apply_callbacks += (lambda heads, **_: setattr(run, "expected", tuple(heads)),)
        event.listen(context.connection, "commit", run.note_commit)
        return plan(versions)

    try:
        async with migration_lock(project.settings):
            await execute(project, work, "migration", config, **options)
            after = await read_versions(project)
    except (asyncio.CancelledError, KeyboardInterrupt) as error:
        error.add_note(await _interrupted(project, run))
        raise
    if set(after) != set(run.expected):
        raise MigrationFailed(
            f"The run ended without an error, but the database is at {_at(after)} and not at {_at(run.expected)}: it was not committed.",
            "Look for a statement that env.py runs on the connection before context.configure().",
        )
    return after


def _watched(plan: Iterable[Any], direction: Direction, run: _Run, observer: Observer | None) -> Iterator[Any]:
    """Hand on each step. Alembic asks for the next one when it has run the one before, so the time between is its own."""
    for step in plan:
        script = step.revision
        header = read_header(Path(script.path))
        message = header.message if header else ""
        run.running = Step(script.revision, message, direction, 0.0)
        if observer is not None:
            observer(run.running)
        started = time.perf_counter()
        yield step
        run.steps.append(Step(script.revision, message, direction, time.perf_counter() - started))
    run.running = None


async def _render(project: Project, direction: Direction, start: str | None, target: str, tag: str | None) -> Script:
    from fininfra_db.migrate.config import alembic_config
    from fininfra_db.migrate.environment import load_scripts, render

    scripts = load_scripts(alembic_config(project))
    plan: Any = scripts._upgrade_revs if direction == "up" else scripts._downgrade_revs
    sql = await render(project, lambda versions, _: plan(target, versions), starting_rev=start, destination_rev=target, tag=tag)
    return Script(sql=sql)


def _reason(project: Project, error: Exception) -> str:
    statement = getattr(error, "statement", None)
    reason = first_line(error) if isinstance(error, DBAPIError) else f"{type(error).__name__}: {error}"
    return project.settings.redact(f"{reason}. Statement: {' '.join(statement.split())}" if statement else reason)


async def _interrupted(project: Project, run: _Run) -> str:
    """Say what was interrupted, and what state the database is in now."""
    state, step = await _state(project, timeout=_ANSWER_TIMEOUT), run.running
    if step is None:
        return f"No revision was running. {state}"
    done = "applied" if step.direction == "up" else "reverted"
    return f"Revision {step.revision} ({step.message}) was being {done}. {state} {_remains(run, step)}"


async def _state(project: Project, timeout: float | None = None) -> str:
    """Where the database is, by asking it."""
    try:
        async with asyncio.timeout(timeout):
            return f"The database is at {_at(await read_versions(project))}."
    except (FininfraDbError, TimeoutError):
        return "The database cannot be read now."


def _remains(run: _Run, step: Step) -> str:
    if run.rolls_back and run.committed_inside is not step:
        return f"Nothing of {step.revision} remains."
    why = "The revision committed a part of itself" if run.rolls_back else "This database commits each DDL statement by itself"
    return f"{why}: a part of {step.revision} may remain."


async def _failed(project: Project, run: _Run, reason: str) -> MigrationFailed:
    """Say what failed, where, and what state the database is in now."""
    assert run.running is not None
    step = run.running
    verb = "apply" if step.direction == "up" else "revert"
    state = f"{await _state(project)} {_remains(run, step)}"
    rolls_back = run.rolls_back and run.committed_inside is not step
    return MigrationFailed(
        f"Revision {step.revision} ({step.message}) did not {verb}: {reason.rstrip('.')}. {state}",
        _STAMP_HINT
        if not run.before and "already exists" in reason
        else "Correct the revision, then run the command again."
        if rolls_back
        else "Look at the tables of the revision, undo or finish its part by hand, then run the command again.",
    )


def _at(versions: tuple[str, ...]) -> str:
    return ", ".join(versions) or "no revision"
