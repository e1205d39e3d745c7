"""Making and dropping tables without revisions: ``create-tables`` and the first half of ``reset``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, MetaData, Table, event, inspect
from sqlalchemy.exc import SQLAlchemyError

from fininfra_db.connections import locked_transaction
from fininfra_db.dialects import Dialect, target_of
from fininfra_db.dialects.base import first_line
from fininfra_db.errors import DatabaseFailed, DatabaseMissing, FininfraDbError, Refused
from fininfra_db.events import BlastRadius, Dropped, Observer, Snapshot
from fininfra_db.migrate.config import Project, alembic_config, load_metadata
from fininfra_db.migrate.drift import tables_made_by
from fininfra_db.migrate.environment import load_scripts
from fininfra_db.migrate.journal import settle_all
from fininfra_db.migrate.marker import refuse_if_remarked
from fininfra_db.migrate.plugin import PREFIX
from fininfra_db.migrate.seeds import forget
from fininfra_db.migrate.state import State, read_state, refuse_unknown
from fininfra_db.results import TablesCreated
from fininfra_db.settings import Settings


async def create_tables(settings: Settings) -> TablesCreated:
    """Create the tables of the models that are not there yet. Tables that are there are left as they are."""
    metadata = load_metadata(settings)

    def create(connection: Connection) -> tuple[str, ...]:
        before = set(inspect(connection).get_table_names())
        for each in metadata:
            each.create_all(connection)
        return tuple(table.name for each in metadata for table in each.sorted_tables if table.name not in before)

    async with locked_transaction(settings, "migration") as connection:
        created = await connection.run_sync(create)
    warnings = ("These tables have no migration history: before the first upgrade, run 'fininfra-db stamp head'.",) if created else ()
    return TablesCreated(created=created, warnings=warnings)


async def drop_owned_tables(project: Project, observer: Observer | None = None, assessed: BlastRadius | None = None) -> Dropped:
    """Drop the tables of the models and of the revision files, and the version table; whatever else is there stays.

    Returns what was dropped. Raises ``Refused`` when the project does not say which models are its own, or the database
    was marked otherwise since it was ``assessed``. Where each DROP
    is final, whatever ends the drop in between says what is gone: an error in its message, an interruption to ``observer``.
    """
    project.require_models()
    owned = tables_made_by(load_scripts(alembic_config(project)))
    for metadata in load_metadata(project.settings):
        owned |= {table.name for table in metadata.sorted_tables}
    if _is_missing(project.settings):
        return Dropped()
    try:
        state = await read_state(project)
        refuse_unknown(project.history(), state.versions)
        owned = {name for name in owned if not name.startswith(PREFIX)}
        return await _drop_under_lock(project, owned, state, observer, assessed)
    except DatabaseMissing:
        return Dropped()


async def _drop_under_lock(
    project: Project, owned: set[str], state: State, observer: Observer | None, assessed: BlastRadius | None
) -> Dropped:
    dropping = _Dropping(target_of(project.settings).dialect, state, keeps_snapshot=not project.settings.no_snapshot)
    try:
        async with locked_transaction(project.settings, "migration") as connection:
            await connection.run_sync(lambda sync: refuse_if_remarked(sync, assessed))
            await connection.run_sync(lambda sync: dropping.run(sync, owned))
        dropping.dialect.let_go_of_snapshots(target_of(project.settings).url, dropping.snapshot)
    except SQLAlchemyError as error:
        raise dropping.failed(project.settings.redact(first_line(error))) from error
    except FininfraDbError as error:
        if dropping.is_final:
            error.add(dropping.state)
        raise
    except BaseException:  # an interruption: what is gone is named before it goes on
        if observer and dropping.is_final:
            observer(dropping.done)
        raise
    return dropping.done


@contextmanager
def naming(dropped: Dropped, observer: Observer | None) -> Iterator[None]:
    """Whatever ends a reset after the drop says what is gone: an error in its message, an interruption to ``observer``."""
    try:
        yield
    except FininfraDbError as error:
        if dropped.tables:
            error.add(f"Before that, the reset had dropped {dropped}.")
        raise
    except BaseException:  # an interruption, as above
        if observer and dropped.tables:
            observer(dropped)
        raise


def _is_missing(settings: Settings) -> bool:
    target = target_of(settings)
    try:
        target.dialect.look_before_connecting(target.url, "reading")
    except DatabaseMissing:
        return True
    return False


@dataclass
class _Dropping:
    """A drop of several tables, and how far it has come. ``before`` is where the database was."""

    dialect: Dialect
    before: State
    keeps_snapshot: bool
    snapshot: Snapshot | None = None
    tables: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def run(self, connection: Connection, owned: set[str]) -> None:
        schema, _, name = self.before.version_table.rpartition(".")
        versions = Table(name, MetaData(), schema=schema or None)
        names = [name for name in inspect(connection).get_table_names() if name != self.before.version_table]
        _refuse_if_needed_by_others(connection, [name for name in names if name not in owned], owned)
        present = [name for name in names if name in owned]
        is_versioned = inspect(connection).has_table(versions.name, versions.schema)
        if (present or is_versioned) and self.keeps_snapshot:
            self.snapshot = self.dialect.before_migration(connection, self.before.versions)
        settle_all(connection, self.before.version_table)
        forget(connection)
        if not self.dialect.features.transactional_ddl:
            connection.commit()  # before the first DROP, which is final
        found = MetaData()
        found.reflect(connection, only=present, resolve_fks=False)
        tables = list(reversed(found.sorted_tables))
        first = [versions] if is_versioned else []
        self.left = [table.fullname for table in (*first, *tables)]
        for table in (*first, *tables):
            event.listen(table, "after_drop", self._note)
        for table in first:  # where each DROP is final, a drop that ends half way must not leave a database that says it is at head
            table.drop(connection)
        found.drop_all(connection, tables=tables)
        for name, kind in self.dialect.named_types(tables).items():
            kind.drop(connection, checkfirst=True)
            self.types.append(name)

    def _note(self, table: Table, _connection: Connection, **_options: Any) -> None:
        self.left.remove(table.fullname)
        self.tables.append(table.fullname)

    @property
    def is_final(self) -> bool:
        """Whether something is gone that no rollback brings back."""
        return bool(self.tables) and not self.dialect.features.transactional_ddl

    @property
    def done(self) -> Dropped:
        return Dropped(tuple(self.tables), tuple(self.types), self.snapshot)

    @property
    def state(self) -> str:
        """What is gone and what is left, in words; where a drop is rolled back, that nothing is gone."""
        if not self.is_final:
            return "Nothing was dropped."
        return f"Dropped already: {self.done}. Still there: {', '.join(self.left) or 'nothing'}."

    def failed(self, reason: str) -> DatabaseFailed:
        return DatabaseFailed(
            f"The tables could not be dropped: {reason.rstrip('.')}. {self.state}", "Remove the cause, then run 'fininfra-db reset' again."
        )


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
