"""Named snapshots: saved, brought back and deleted under the migration lock. How a copy is made is the dialect's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, String, column, inspect, select, table

from fininfra_db.connections import read, snapshots_of
from fininfra_db.dialects import target_of
from fininfra_db.dialects.snapshots import AUTOMATIC, Check, Facts, Kept, Look, Settle, parse_name
from fininfra_db.errors import SnapshotFailed
from fininfra_db.events import BlastRadius, Observer
from fininfra_db.migrate.config import Project, alembic_options, find_project
from fininfra_db.migrate.marker import NAME as ENVIRONMENT
from fininfra_db.migrate.marker import read_marker, refuse_if_remarked
from fininfra_db.migrate.meta import write_meta
from fininfra_db.migrate.seeds import read_seeds
from fininfra_db.migrate.state import VERSION_TABLE, read_state
from fininfra_db.results import Restored, SnapshotDeleted, Snapshots, SnapshotSaved
from fininfra_db.settings import Settings

TABLE_NOTE: Final = "version_table"
ENVIRONMENT_NOTE: Final = "environment"
"""What is noted with a copy: where its revisions are written down, and what it is marked as."""

_UNKNOWN: Final = ""


async def list_snapshots(settings: Settings) -> Snapshots:
    """The snapshots of the database, the newest first. Nothing is written."""
    return Snapshots(snapshots=tuple(kept.snapshot for kept in await snapshots_of(settings).kept()))


async def save_snapshot(settings: Settings, name: str | None, observer: Observer | None = None) -> SnapshotSaved:
    """Copy the database under ``name``, or under the time of day."""
    wanted = parse_name(name)
    look = labelling(settings, await version_table_of(settings))
    return SnapshotSaved(snapshot=await snapshots_of(settings, observer).save(wanted, look))


async def restore_snapshot(settings: Settings, kept: Kept, assessed: BlastRadius, observer: Observer | None = None) -> Restored:
    """Put a snapshot in the place of the database. The mark of its environment is of the place, and stays.

    The versions that are there afterwards are read. Raises ``SnapshotFailed`` when they are not those of the snapshot.
    """
    store = snapshots_of(settings, observer)
    place = _Place(settings, assessed)
    is_marked_so = kept.notes.get(ENVIRONMENT_NOTE, _UNKNOWN) == assessed.environment
    restored = await store.restore(kept, place.check, settle=None if is_marked_so else place.settle)
    await require_restored(settings, kept)
    if restored.kept is not None:
        await store.prune(re.compile(f"{AUTOMATIC.pattern}$"), spare=(restored.kept.name, kept.snapshot.name))
    return restored


async def delete_snapshot(settings: Settings, kept: Kept, assessed: BlastRadius, observer: Observer | None = None) -> SnapshotDeleted:
    """Remove a snapshot for good."""
    await snapshots_of(settings, observer).delete(kept, checking(settings, assessed))
    return SnapshotDeleted(snapshot=kept.snapshot)


async def find_snapshot(settings: Settings, name: str) -> Kept:
    """The snapshot of this name. Raises ``SnapshotNotFound``."""
    return await snapshots_of(settings).named(name)


def noted_environment(kept: Kept) -> str | None:
    """What the database was marked as when the snapshot was made; None when it was not, or nobody noted it."""
    return kept.notes.get(ENVIRONMENT_NOTE)


def labelling(settings: Settings, version_table: str = VERSION_TABLE, notes: Mapping[str, object] | None = None) -> Look:
    """What reads the facts of a label, with these ``notes``."""
    dialect = target_of(settings).dialect

    def look(connection: Connection) -> Facts:
        noted = {TABLE_NOTE: version_table, ENVIRONMENT_NOTE: read_marker(connection), **(notes or {})}
        versions = _versions(connection, version_table)
        return Facts(versions, _seeds(connection), dialect.server_version(connection), noted)

    return look


def checking(settings: Settings, assessed: BlastRadius) -> Check:
    """What looks at a database before it is replaced: it is marked as it was when the guard looked."""
    look = labelling(settings)

    def check(connection: Connection) -> Facts:
        refuse_if_remarked(connection, assessed)
        return look(connection)

    return check


def settling(environment: str | None) -> Settle:
    """What marks a copy as its place is marked."""

    def settle(connection: Connection) -> None:
        if read_marker(connection) != environment:
            write_meta(connection, ENVIRONMENT, environment)

    return settle


@dataclass
class _Place:
    """Where a snapshot is put. A database that is gone has no mark, and the snapshot brings its own."""

    settings: Settings
    assessed: BlastRadius
    is_there: bool = False

    def check(self, connection: Connection) -> Facts:
        facts = checking(self.settings, self.assessed)(connection)
        self.is_there = True
        return facts

    def settle(self, copy: Connection) -> None:
        if self.is_there:
            settling(self.assessed.environment)(copy)


async def require_restored(settings: Settings, kept: Kept) -> None:
    """Read the versions back. Raises ``SnapshotFailed`` when they are not those of the snapshot."""
    version_table = kept.notes.get(TABLE_NOTE)
    if version_table is None:  # an automatic one has no label, and its name only the gist of the versions
        return
    now = await read(settings, lambda connection: Facts(_versions(connection, version_table)).revision)
    if now != kept.snapshot.revision:
        raise SnapshotFailed(
            f"The snapshot {kept.snapshot.name} was restored, and then the database was at {now or 'no revision'} "
            f"instead of {kept.snapshot.revision or 'no revision'}: somebody else has migrated it since.",
            "See where it is: fininfra-db status",
        )


async def version_table_of(settings: Settings) -> str:
    """The table that the project keeps its versions in; Alembic's usual one where there is no project."""
    project = project_or_none(settings)
    if project is None or project.is_ours:
        return VERSION_TABLE
    return (await read_state(project)).version_table


def project_or_none(settings: Settings) -> Project | None:
    """The migrations of the project root; None where there are none."""
    return find_project(settings) if alembic_options(settings.project_root) is not None else None


def _versions(connection: Connection, version_table: str) -> tuple[str, ...]:
    schema, _, name = version_table.rpartition(".")
    if not inspect(connection).has_table(name, schema or None):
        return ()
    rows = connection.scalars(select(column("version_num", String)).select_from(table(name, schema=schema or None)))
    return tuple(sorted(rows))


def _seeds(connection: Connection) -> str | None:
    """The names of the seeds in the database; None where none is noted."""
    return ", ".join(dict.fromkeys(seed.name for seed in read_seeds(connection))) or None
