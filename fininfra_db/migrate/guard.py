"""The guard: what would lose data is refused where that may be an accident, until the database is named.

An accident is a command that runs against a database that somebody lives from: one that is marked as production, or as
another environment than the one that the command believes to be in, or one on another machine that nobody has marked.
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from fininfra_db.connections import read
from fininfra_db.dialects import Target, dialect_of, target_of
from fininfra_db.errors import DatabaseMissing, DatabaseUnreachable, Protected, Refused, WrongDatabaseName
from fininfra_db.events import BlastRadius, Confirm, Observer, Question
from fininfra_db.migrate.config import Project
from fininfra_db.migrate.radius import Found, look
from fininfra_db.settings import DEVELOPMENT, Settings

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext


@dataclass(frozen=True)
class Action:
    """Something that is guarded. ``command`` is the verb, ``consequence`` what it does, as a question without its mark.

    ``destroys``: rows may be lost, so what is at stake is told before. ``asks``: a person is asked also where nothing is protected.
    ``invents``: example rows are written, which a protected database never takes, whatever is confirmed.
    """

    command: str
    consequence: str
    destroys: bool = True
    asks: bool = False
    invents: bool = False


RESET: Final = Action("reset", "Drop every table that this project owns and migrate again", asks=True)
RESET_AND_SEED: Final = replace(RESET, command="reset --seed", invents=True)
DOWNGRADE: Final = Action("downgrade", "Revert revisions, with the data that is in what they made")
RESTORE: Final = Action("snapshot restore", "Put a snapshot in the place of everything that is there now", asks=True)
DELETE: Final = Action("snapshot delete", "Delete a snapshot for good", destroys=False)
SEED: Final = Action("seed", "Write example rows", destroys=False, invents=True)
MARK: Final = Action("environment set", "Change the marker that protects this database", destroys=False)


@dataclass(frozen=True)
class Refusal:
    """Why an action needs the name of the database, and what to do when it was not meant. ``is_final``: the name does not help."""

    reason: str
    otherwise: str
    is_final: bool = False


@dataclass(frozen=True)
class Assessment:
    """One look at a database before an action. ``refusal`` is None where the action is nobody's accident."""

    action: Action
    blast_radius: BlastRadius
    refusal: Refusal | None


async def assess(settings: Settings, project: Project | None, action: Action, *, copied: str | None = None) -> Assessment:
    """Look at the database, once and without writing, and judge. Where a foreign ``env.py`` connects, the look is through it.

    ``copied`` is what the database was marked as when the snapshot was made that is to be deleted.
    A database that does not exist has nothing to lose, nor has a damaged one to a snapshot, which keeps what is left of it.
    Raises ``DatabaseUnreachable``.
    """
    ours = target_of(settings)
    try:
        if project is not None and not project.is_ours:
            looks = await _look_through_their_env(project, ours)
        else:
            looks = [(ours, await read(settings, lambda connection: look(connection, ours.dialect), takes_long=True))]
    except DatabaseUnreachable as error:
        if not isinstance(error, DatabaseMissing) and action is not RESTORE:
            raise
        looks = [(ours, Found(name=ours.dialect.database_name(ours.url)))]
    judged = [
        (target, found, judge(settings, action, found, is_local=target.dialect.is_local(target.url), copied=copied))
        for target, found in looks
    ]
    refused = [each for each in judged if each[2]]
    if len(refused) > 1:
        raise Protected(
            f"{action.command} is refused: env.py goes through several databases where it needs a confirmation: "
            f"{', '.join(found.name for _, found, _ in refused)}. Nothing was changed.",
            "Do it for one of them at a time, with an env.py that connects to that one only.",
        )
    target, found, refusal = (refused or judged)[0]
    radius = BlastRadius(
        database=found.name,
        url=target.display,
        source=target.source,
        environment=found.environment,
        rows=found.rows,
        unread=found.unread,
        newest_write=found.newest_write,
    )
    return Assessment(action, radius, refusal)


def judge(settings: Settings, action: Action, found: Found, *, is_local: bool, copied: str | None = None) -> Refusal | None:
    """The rule. A protected marker always counts; the rest only where there is something to lose, as a snapshot always is."""
    marker, here = found.environment, settings.environment
    if settings.protects(marker):
        return Refusal(
            f"the database is marked {marker}, which is protected",
            f"If it is not {marker} any more: fininfra-db environment set {DEVELOPMENT} --confirm-database {shlex.quote(found.name)}",
            is_final=action.invents,
        )
    if action.invents and marker is None and settings.protects(here):  # a migration would mark it so
        return Refusal(f"APP_ENV is {here}, which is protected", "If that is not where you are: correct APP_ENV.", is_final=True)
    if settings.protects(copied):
        return Refusal(f"the snapshot is of a database that was marked {copied}, which is protected", "If not: leave it where it is.")
    if action is MARK or not (found.has_tables or action is DELETE):
        return None
    if settings.protects(here):
        return Refusal(f"APP_ENV is {here}, which is protected", "If that is not where you are: correct APP_ENV.")
    if marker is not None and marker != (here or DEVELOPMENT):
        believed = f"APP_ENV is {here}" if here else f"APP_ENV is not set, which stands for {DEVELOPMENT}"
        return Refusal(
            f"the database is marked {marker} and {believed}",
            f"If you are in {marker}: set APP_ENV={marker}. If the database is not: fininfra-db environment set {here or DEVELOPMENT}",
        )
    if marker is None and not is_local and (found.rows or found.unread):
        return Refusal(
            "the database is on another machine, holds rows, and nobody has marked which environment it is of",
            f"To mark it: fininfra-db environment set {here or DEVELOPMENT}",
        )
    return None


def require(assessment: Assessment, given: str | None = None, *, confirm: Confirm | None = None, observer: Observer | None = None) -> None:
    """Let the action pass, or raise. ``given`` is the name of the database as the caller gave it; ``confirm`` asks a person.

    Raises ``WrongDatabaseName``, ``Protected``, or ``Refused`` when the person did not agree. Once it has passed, what is at
    stake is told to ``observer``.
    """
    action, radius, refusal = assessment.action, assessment.blast_radius, assessment.refusal
    if given is not None and given != radius.database:
        raise WrongDatabaseName(
            f"The database is {radius.database!r}, and --confirm-database says {given!r}. Nothing was changed in {_place(radius)}.",
            "Check which database the URL leads to.",
        )
    if refusal and refusal.is_final:
        raise _protected(action, refusal, radius)
    if given is None and (refusal or (action.asks and confirm)):
        question = Question(action.command, action.consequence, refusal.reason if refusal else None, radius)
        answer = confirm(question) if confirm else None
        if answer is None and refusal:
            raise _protected(action, refusal, radius)
        if answer != radius.database:
            raise Refused("Not confirmed. Nothing was changed.")
    if observer and action.destroys:
        observer(radius)


def _protected(action: Action, refusal: Refusal, radius: BlastRadius) -> Protected:
    stake = f" It holds {radius}." if action.destroys else ""
    never = ", and example rows are never written there" if refusal.is_final else ""
    confirm = f"If it is meant: add --confirm-database {shlex.quote(radius.database)}"
    ways = (refusal.otherwise,) if refusal.is_final else (confirm,) if action is MARK else (confirm, refusal.otherwise)
    return Protected(
        f"{action.command} is refused: {refusal.reason}{never}. Nothing was changed in {_place(radius)}.{stake}", "\n  ".join(ways)
    )


def _place(radius: BlastRadius) -> str:
    return f"{radius.url} (from {radius.source})"


async def _look_through_their_env(project: Project, target: Target) -> list[tuple[Target, Found]]:
    """A foreign ``env.py`` may connect to another place than our settings say, or to several; those are the ones to guard."""
    from fininfra_db.migrate.environment import execute

    seen: list[tuple[Target, Found]] = []

    def work(_versions: tuple[str, ...], context: "MigrationContext") -> Iterable[Any]:
        connection = context.connection
        assert connection is not None
        url, dialect = connection.engine.url, dialect_of(connection.dialect.name)
        is_ours = (url.host, url.database) == (target.url.host, target.url.database)
        seen.append((Target(dialect, url, target.source if is_ours else "env.py"), look(connection, dialect)))
        return ()

    await execute(project, work, "reading")
    return seen
