"""``status``: one look at a database that answers whether it is safe to deploy, and what the ledger knows of each revision."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from fininfra_db.connections import read
from fininfra_db.dialects import Dialect, target_of
from fininfra_db.errors import DatabaseUnreachable
from fininfra_db.events import Holder
from fininfra_db.migrate.config import Project
from fininfra_db.migrate.history import History
from fininfra_db.migrate.journal import DONE, RUNNING, SETTLED, checksum_of, read_entries
from fininfra_db.migrate.looking import find_heads, find_pending, find_unknown
from fininfra_db.migrate.marker import read_marker
from fininfra_db.migrate.seeds import read_seeds
from fininfra_db.migrate.state import read_state
from fininfra_db.results import Applied, Entry, Finding, Revisions, RevisionState, SeedRecord, Status

APPLIED = "applied"
PENDING = "pending"
MISSING = "missing"
EDITED = "edited"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class _Seen:
    """What the database told."""

    server: str
    size: int | None
    environment: str | None
    entries: tuple[Entry, ...]
    holder: Holder | None
    seeds: tuple[SeedRecord, ...]


async def status(project: Project) -> Status:
    """Look at everything that matters before a deployment. Nothing is written."""
    history = project.history()
    state = await read_state(project, only_looking=True)
    versions = state.versions
    target = target_of(project.settings)
    seen = await read(project.settings, lambda connection: _look(connection, target.dialect, state.version_table))
    revisions = _states(history, versions, seen.entries)
    unfinished = tuple(entry for entry in seen.entries if entry.outcome == RUNNING) if seen.holder is None else ()
    return Status(
        database=target.dialect.describe(target.url),
        server=seen.server,
        size=seen.size,
        environment=seen.environment,
        versions=versions,
        heads=history.heads,
        applied=_named(revisions, APPLIED, EDITED),
        pending=_named(revisions, PENDING),
        missing=_named(revisions, MISSING),
        edited=_named(revisions, EDITED),
        revisions=revisions,
        unfinished=unfinished,
        holder=seen.holder,
        seeds=seen.seeds,
        findings=(
            *find_unknown(history, versions),
            *_find_unfinished(unfinished),
            *find_heads(history),
            *_find_edited(history, revisions),
            *(() if history.unknown(versions) or unfinished else find_pending(history, versions)),
        ),
    )


def _look(connection: Connection, dialect: Dialect, version_table: str) -> _Seen:
    return _Seen(
        server=dialect.server_version(connection),
        size=dialect.size(connection),
        environment=read_marker(connection),
        entries=read_entries(connection, version_table),
        holder=dialect.lock_holder(connection),
        seeds=read_seeds(connection),
    )


def _states(history: History, versions: tuple[str, ...], entries: tuple[Entry, ...]) -> tuple[RevisionState, ...]:
    """Each revision of the history, oldest first, and after them those that the database has and the history has not.

    Where the database is ahead, the version table says nothing of the revisions below; the ledger may.
    """
    unknown = history.unknown(versions)
    known = history.ancestors(versions)
    recorded = _latest(entries)
    went_up = {entry.revision for entry in _last_runs(entries) if entry.direction == "up"} if unknown else set()
    otherwise = UNKNOWN if unknown else PENDING
    states = []
    for info in history.in_order:
        applied = applied_of(history, info.revision, recorded) if info.revision in known | went_up else None
        state = EDITED if applied and applied.edited else APPLIED if info.revision in known | went_up else otherwise
        states.append(RevisionState(info.revision, info.message, state, applied))
    strangers = [entry for entry in _last_runs(entries) if entry.revision in went_up - set(history.revisions)]
    names = dict.fromkeys([*(entry.revision for entry in strangers), *unknown])
    return (*states, *(RevisionState(name, "", MISSING, applied_of(history, name, recorded)) for name in names))


def _last_runs(entries: Iterable[Entry]) -> list[Entry]:
    """The last run of each revision that came to its end, in the order in which they ran."""
    last: dict[str, Entry] = {}
    for entry in entries:
        if entry.outcome == DONE:
            last.pop(entry.revision, None)
            last[entry.revision] = entry
    return list(last.values())


def _latest(entries: Iterable[Entry]) -> dict[str, Entry]:
    """The last time that each revision was applied."""
    return {entry.revision: entry for entry in entries if entry.direction == "up" and entry.outcome in (DONE, SETTLED)}


def applied_of(history: History, revision: str, recorded: dict[str, Entry]) -> Applied | None:
    """What the ledger knows of an applied revision; None for one that was applied without it."""
    entry = recorded.get(revision)
    if entry is None:
        return None
    info = history.revisions.get(revision)
    edited = info is not None and entry.checksum is not None and checksum_of(info.path) != entry.checksum
    return Applied(entry.started, entry.seconds, entry.login, entry.host, edited)


async def with_ledger(project: Project, revisions: Revisions) -> Revisions:
    """Add what the ledger knows of each applied revision; without a database that can be read, a warning says so."""
    history = project.history()
    try:
        state = await read_state(project, only_looking=True)
        known = history.ancestors(state.versions)
        recorded = _latest(await read(project.settings, lambda connection: read_entries(connection, state.version_table)))
    except DatabaseUnreachable as error:
        return replace(revisions, warnings=(*revisions.warnings, f"When and by whom is not known: {error.message}"))
    told = (
        replace(info, applied=applied_of(history, info.revision, recorded)) if info.revision in known else info
        for info in revisions.revisions
    )
    return replace(revisions, revisions=tuple(told))


def _named(revisions: Iterable[RevisionState], *states: str) -> tuple[str, ...]:
    return tuple(each.revision for each in revisions if each.state in states)


def _find_unfinished(unfinished: tuple[Entry, ...]) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            "unfinished",
            f"A run of {entry.revision} ({entry.direction}) that began on {entry.started:%Y-%m-%d %H:%M} UTC ended in the middle.",
            "See what to do with 'fininfra-db repair --help'.",
        )
        for entry in unfinished
    )


def _find_edited(history: History, revisions: Iterable[RevisionState]) -> tuple[Finding, ...]:
    edited = _named(revisions, EDITED)
    if not edited:
        return ()
    files = ", ".join(f"{name} ({history.revisions[name].path.name})" for name in edited)
    return (
        Finding(
            "edited",
            f"Edited after {'they were' if len(edited) > 1 else 'it was'} applied: {files}. Databases made before and after differ.",
            "Restore the file, and write the change as a revision of its own.",
        ),
    )
