"""Where a database is, without writing a byte of it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, inspect, text

from fininfra_db.connections import read
from fininfra_db.dialects import target_of
from fininfra_db.errors import DatabaseAhead, DatabaseMissing
from fininfra_db.migrate.config import Project
from fininfra_db.migrate.history import History
from fininfra_db.migrate.journal import VERSION_TABLE as VERSION_TABLE
from fininfra_db.migrate.journal import read_unfinished
from fininfra_db.results import Entry

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

_AHEAD_HINT: Final = "Update the checkout to the one that made the revision, or check the database URL."


@dataclass(frozen=True)
class State:
    """Where a database is: the rows of its version table, and the revision that an earlier run left unfinished."""

    versions: tuple[str, ...] = ()
    unfinished: Entry | None = None
    others: tuple[tuple[str, ...], ...] = ()
    """What is in the version tables of further databases, where a foreign ``env.py`` goes through several."""
    version_table: str = VERSION_TABLE
    """The version table, with its schema if ``env.py`` names one: it tells projects that share a database apart."""


async def read_versions(project: Project, *, only_looking: bool = False) -> tuple[str, ...]:
    """The rows of the version table, without writing anything; empty when there is no such table."""
    return (await read_state(project, only_looking=only_looking)).versions


async def read_state(project: Project, *, only_looking: bool = False) -> State:
    """Where the database is, without writing anything. ``only_looking`` holds a foreign ``env.py`` to that too."""
    if project.is_ours:
        return await read(project.settings, _select_state)
    from fininfra_db.migrate.environment import execute
    from fininfra_db.migrate.watch import table_of

    found: list[State] = []

    def look(versions: tuple[str, ...], context: "MigrationContext") -> Iterable[Any]:
        assert context.connection is not None
        table = table_of(context)
        found.append(State(tuple(sorted(versions)), read_unfinished(context.connection, table), version_table=table))
        return ()

    await execute(project, look, "reading", only_looking=only_looking)
    if not found:
        return State()
    unfinished = next((state.unfinished for state in found if state.unfinished), None)
    return replace(found[0], unfinished=unfinished, others=tuple(state.versions for state in found[1:]))


def _select_state(connection: Connection) -> State:
    versions = connection.scalars(text(f"SELECT version_num FROM {VERSION_TABLE}")) if inspect(connection).has_table(VERSION_TABLE) else ()
    return State(tuple(sorted(versions)), read_unfinished(connection))


async def state_or_none(project: Project) -> State:
    """Where the database is; nowhere for a SQLite file that the migration is about to make."""
    target = target_of(project.settings)
    if not target.dialect.features.has_server:
        try:
            target.dialect.look_before_connecting(target.url, "reading")
        except DatabaseMissing:
            target.dialect.look_before_connecting(target.url, "migration")
            return State()
    return await read_state(project)


def refuse_unknown(history: History, versions: tuple[str, ...], hint: str = _AHEAD_HINT) -> None:
    """Raise ``DatabaseAhead`` when the database is at a revision without a file here."""
    unknown = history.unknown(versions)
    if unknown:
        raise DatabaseAhead(
            f"The database is at {', '.join(unknown)}, which this checkout does not have: it is ahead, or of another project. "
            "Nothing was changed.",
            hint,
        )


def in_words(versions: tuple[str, ...]) -> str:
    """The rows of a version table, for messages."""
    return ", ".join(versions) or "no revision"
