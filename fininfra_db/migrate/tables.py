"""Making and dropping tables without revisions: ``create-tables`` and the first half of ``reset``."""

from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, MetaData, Table, inspect
from sqlalchemy.types import SchemaType

from fininfra_db.connections import migration_lock, open_connection
from fininfra_db.dialects import target_of
from fininfra_db.errors import DatabaseMissing, Refused
from fininfra_db.migrate.config import Project, alembic_config, load_metadata
from fininfra_db.migrate.drift import tables_made_by
from fininfra_db.migrate.environment import execute, load_scripts
from fininfra_db.migrate.runner import VERSION_TABLE, read_versions, refuse_unknown
from fininfra_db.results import Snapshot, TablesCreated
from fininfra_db.settings import Settings


async def create_tables(settings: Settings) -> TablesCreated:
    """Create the tables of the models that are not there yet. Tables that are there are left as they are."""
    metadata = load_metadata(settings)

    def create(connection: Connection) -> tuple[str, ...]:
        before = set(inspect(connection).get_table_names())
        for each in metadata:
            each.create_all(connection)
        return tuple(table.name for each in metadata for table in each.sorted_tables if table.name not in before)

    async with migration_lock(settings), open_connection(settings, "migration") as connection:
        created = await connection.run_sync(create)
        await connection.commit()
    warnings = ("These tables have no migration history: before the first upgrade, run 'fininfra-db stamp head'.",) if created else ()
    return TablesCreated(created=created, warnings=warnings)


async def drop_owned_tables(project: Project) -> tuple[tuple[str, ...], Snapshot | None]:
    """Drop the tables of the models and of the revision files, and the version table; whatever else is there stays.

    Returns what was dropped, and the copy of the database that was kept before, if one was. Raises ``Refused`` when the
    project does not say which models are its own.
    """
    project.require_models()
    owned = tables_made_by(load_scripts(alembic_config(project)))
    for metadata in load_metadata(project.settings):
        owned |= {table.name for table in metadata.sorted_tables}
    if _is_missing(project.settings):
        return (), None
    try:
        versions = await read_versions(project)
        refuse_unknown(project.history(), versions)
        owned.add(await _version_table(project))
        async with migration_lock(project.settings), open_connection(project.settings, "migration") as connection:
            kept = await connection.run_sync(lambda sync: _keep(sync, project.settings, owned, versions))
            dropped = await connection.run_sync(lambda sync: _drop(sync, owned))
            await connection.commit()
            return dropped, kept
    except DatabaseMissing:
        return (), None


async def _version_table(project: Project) -> str:
    """The name of the version table, which a foreign ``env.py`` may have chosen."""
    if project.is_ours:
        return VERSION_TABLE
    found: list[str] = []

    def look(_versions: tuple[str, ...], context: MigrationContext) -> tuple[Any, ...]:
        found.append(context.version_table)
        return ()

    await execute(project, look, "reading")
    return found[0]


def _is_missing(settings: Settings) -> bool:
    target = target_of(settings)
    try:
        target.dialect.look_before_connecting(target.url, "reading")
    except DatabaseMissing:
        return True
    return False


def _keep(connection: Connection, settings: Settings, owned: set[str], versions: tuple[str, ...]) -> Snapshot | None:
    """Keep a copy of the database, unless nothing will be dropped or it will be refused."""
    names = inspect(connection).get_table_names()
    _refuse_if_needed_by_others(connection, [name for name in names if name not in owned], owned)
    if not settings.snapshots or owned.isdisjoint(names):
        return None
    return target_of(settings).dialect.before_migration(connection, versions)


def _drop(connection: Connection, owned: set[str]) -> tuple[str, ...]:
    found = MetaData()
    present = [name for name in inspect(connection).get_table_names() if name in owned]
    found.reflect(connection, only=present, resolve_fks=False)
    tables = list(reversed(found.sorted_tables))
    found.drop_all(connection, tables=tables)
    for table in tables:
        _drop_named_types(table, connection)
    return tuple(table.name for table in tables)


def _refuse_if_needed_by_others(connection: Connection, others: list[str], owned: set[str]) -> None:
    """Tables of somebody else with a foreign key to ours: not every database keeps a table that is pointed to."""
    found = inspect(connection).get_multi_foreign_keys(filter_names=others) if others else {}
    needed = sorted(
        {f"{name} -> {key['referred_table']}" for (_, name), keys in found.items() for key in keys if key["referred_table"] in owned}
    )
    if needed:
        raise Refused(
            f"Tables that are not this project's point at tables that would be dropped: {', '.join(needed)}. Nothing was dropped.",
            "Drop those foreign keys first, if they are not needed.",
        )


def _drop_named_types(table: Table, connection: Connection) -> None:
    """An ENUM type of PostgreSQL outlives its table, and would be in the way when the history runs again."""
    for column in table.columns:
        if isinstance(column.type, SchemaType):
            column.type.drop(connection, checkfirst=True)
