"""The environment marker: the database itself says whether it is production, whatever a shell or a ``.env`` says."""

import re
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from fininfra_db.connections import locked_transaction, read
from fininfra_db.dialects.base import first_line
from fininfra_db.errors import FininfraDbError, OptionsInvalid, Refused
from fininfra_db.events import BlastRadius
from fininfra_db.migrate.meta import read_meta, write_meta
from fininfra_db.results import Environment, Marked
from fininfra_db.settings import Settings, environment_name

NAME: Final = "environment"
NO_MARKER: Final = "none"
"""The word that takes the marker away."""

_WORD: Final = re.compile(r"[a-z][a-z0-9_-]{0,49}")


def read_marker(connection: Connection) -> str | None:
    """The environment that the database is marked with; None when it is not. Nothing is written."""
    return environment_name(read_meta(connection, NAME) or "") or None


def refuse_if_remarked(connection: Connection, assessed: BlastRadius | None) -> None:
    """Raise ``Refused`` when the database has another marker than when the guard ``assessed`` it. None was not assessed.

    The caller holds the migration lock, which whoever marks a database takes too, and has written nothing yet.
    """
    if assessed is None or (now := read_marker(connection)) == assessed.environment:
        return
    what = f"marked the database as {now}" if now else "took the marker of the database away"
    raise Refused(
        f"While this command waited, somebody {what}: it was {assessed.environment or 'not marked'} before. Nothing was changed.",
        "If it is still meant, run the command again.",
    )


def mark(connection: Connection, app_env: str | None) -> bool:
    """Mark a database that has no marker with the environment that ``app_env`` names. The caller commits.

    Returns whether it did: not without a name, and not when the name is none that ``environment set`` would take.
    """
    name = environment_name(app_env or "")
    if not is_name(name) or read_marker(connection) is not None:
        return False
    write_meta(connection, NAME, name)
    return True


def is_name(name: str) -> bool:
    """Whether this is the name of an environment, in its one spelling."""
    return name != NO_MARKER and _WORD.fullmatch(name) is not None


def parse_name(text: str) -> str | None:
    """The environment that a person named; None for the word that takes the marker away. Raises ``OptionsInvalid``."""
    name = environment_name(text)
    if name == NO_MARKER:
        return None
    if not is_name(name):
        raise OptionsInvalid(
            f"{text!r} is not the name of an environment. Nothing was changed.",
            "A name is a word such as production, staging or development.",
        )
    return name


async def show_environment(settings: Settings) -> Environment:
    """The marker of the database. Nothing is written."""
    name = await read(settings, read_marker)
    return Environment(environment=name, protected=settings.protects(name))


async def set_environment(settings: Settings, name: str | None, assessed: BlastRadius | None = None) -> Marked:
    """Write the marker, or with None take it away. Raises ``Refused`` when it is not the one that was ``assessed``."""

    def write(connection: Connection) -> str | None:
        refuse_if_remarked(connection, assessed)
        before = read_marker(connection)
        if before != name:
            write_meta(connection, NAME, name)
        return before

    async with locked_transaction(settings, "seeding") as connection:
        before = await connection.run_sync(write)
    return Marked(before=before, environment=name, protected=settings.protects(name))


async def mark_migrated(settings: Settings) -> tuple[str, ...]:
    """After a migration: mark the database with ``APP_ENV``, if that is set and there is no marker yet.

    Returns warnings: the migration is done, so what goes wrong here is no failure of it.
    """
    name = settings.environment or ""
    try:
        if not is_name(name) or await read(settings, read_marker) is not None:
            return ()
        async with locked_transaction(settings, "seeding") as connection:
            await connection.run_sync(lambda sync: mark(sync, name))
    except (SQLAlchemyError, FininfraDbError) as error:
        reason = settings.redact(first_line(error)).rstrip(".")
        return (f"The database could not be marked as {name}: {reason}. Run 'fininfra-db environment set {name}'.",)
    return ()
