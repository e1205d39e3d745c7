"""Help panel "Migrate": upgrade and its alias migrate, downgrade, stamp."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fininfra_db.cli.options import LOCKING, MIGRATING, ConfirmDatabase, Revision, Revisions, Sql, Tag, command
from fininfra_db.cli.perform import perform
from fininfra_db.results import Result

if TYPE_CHECKING:
    from fininfra_db.database import Database
    from fininfra_db.migrate.repair import Settlement

PANEL = "Migrate"


def register(app: typer.Typer) -> None:
    """Add the commands of this panel."""

    def upgrade(ctx: typer.Context, revision: Revision = "head", sql: Sql = False, tag: Tag = None) -> None:
        """Apply the revisions up to REVISION."""
        perform(ctx, lambda database: (database.upgrade_script if sql else database.upgrade)(revision, tag=tag))

    command(app, "upgrade", panel=PANEL, settings=MIGRATING)(upgrade)
    command(app, "migrate", panel=PANEL, settings=MIGRATING)(upgrade)

    @command(app, "downgrade", panel=PANEL, settings=MIGRATING)
    def downgrade(
        ctx: typer.Context, revision: Revision, sql: Sql = False, tag: Tag = None, confirm_database: ConfirmDatabase = None
    ) -> None:
        """Revert the revisions above REVISION."""

        def revert(database: "Database") -> Coroutine[Any, Any, Result]:
            if sql:
                return database.downgrade_script(revision, tag=tag)
            return database.downgrade(revision, tag=tag, confirm_database=confirm_database)

        perform(ctx, revert)

    @command(app, "repair", panel=PANEL, settings=MIGRATING)
    def repair(
        ctx: typer.Context,
        resume: Annotated[bool, typer.Option("--resume", help="Run what is missing of it.")] = False,
        mark_applied: Annotated[bool, typer.Option("--mark-applied", help="It was finished by hand: write its version only.")] = False,
        mark_rolled_back: Annotated[bool, typer.Option("--mark-rolled-back", help="It was undone by hand.")] = False,
    ) -> None:
        """Settle a revision that an earlier run left unfinished."""
        chosen = _chosen(("resume", resume), ("mark-applied", mark_applied), ("mark-rolled-back", mark_rolled_back))
        perform(ctx, lambda database: database.repair(chosen))

    @command(app, "stamp", panel=PANEL, settings=LOCKING)
    def stamp(
        ctx: typer.Context,
        revisions: Revisions,
        sql: Sql = False,
        tag: Tag = None,
        purge: Annotated[bool, typer.Option("--purge", help="Empty the version table first.")] = False,
    ) -> None:
        """Write REVISIONS into the version table without running them."""

        def write(database: "Database") -> Coroutine[Any, Any, Result]:
            if sql:
                return database.stamp_script(*revisions, purge=purge, tag=tag)
            return database.stamp(*revisions, purge=purge, tag=tag)

        perform(ctx, write)


def _chosen(*ways: tuple["Settlement", bool]) -> "Settlement":
    chosen = [way for way, is_chosen in ways if is_chosen]
    if len(chosen) != 1:
        raise typer.BadParameter("It needs to be told how: one of --resume, --mark-applied and --mark-rolled-back.")
    return chosen[0]
