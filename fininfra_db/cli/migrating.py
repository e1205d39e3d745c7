"""Help panel "Migrate": upgrade and its alias migrate, downgrade, stamp."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fininfra_db.cli.options import Revision, Revisions, Sql, Tag, command
from fininfra_db.cli.perform import perform
from fininfra_db.errors import OptionsInvalid
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

    command(app, "upgrade", panel=PANEL)(upgrade)
    command(app, "migrate", panel=PANEL)(upgrade)

    @command(app, "downgrade", panel=PANEL)
    def downgrade(ctx: typer.Context, revision: Revision, sql: Sql = False, tag: Tag = None) -> None:
        """Revert the revisions above REVISION."""
        perform(ctx, lambda database: (database.downgrade_script if sql else database.downgrade)(revision, tag=tag))

    @command(app, "repair", panel=PANEL)
    def repair(
        ctx: typer.Context,
        resume: Annotated[bool, typer.Option("--resume", help="Run what is missing of it.")] = False,
        mark_applied: Annotated[bool, typer.Option("--mark-applied", help="It was finished by hand: write its version only.")] = False,
        mark_rolled_back: Annotated[bool, typer.Option("--mark-rolled-back", help="It was undone by hand.")] = False,
    ) -> None:
        """Settle a revision that an earlier run left unfinished."""

        def settle(database: "Database") -> Coroutine[Any, Any, Result]:
            ways: dict[Settlement, bool] = {"resume": resume, "mark-applied": mark_applied, "mark-rolled-back": mark_rolled_back}
            chosen = [way for way, is_chosen in ways.items() if is_chosen]
            if len(chosen) != 1:
                raise OptionsInvalid("repair needs to be told how: one of --resume, --mark-applied and --mark-rolled-back.")
            return database.repair(chosen[0])

        perform(ctx, settle)

    @command(app, "stamp", panel=PANEL)
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
