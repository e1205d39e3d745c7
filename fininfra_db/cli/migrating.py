"""Help panel "Migrate": upgrade and its alias migrate, downgrade, stamp."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fininfra_db.cli.options import NoSnapshot, Revision, Revisions, Sql, Tag, command
from fininfra_db.cli.perform import perform
from fininfra_db.results import Result

if TYPE_CHECKING:
    from fininfra_db.database import Database

PANEL = "Migrate"


def register(app: typer.Typer) -> None:
    """Add the commands of this panel."""

    def upgrade(
        ctx: typer.Context, revision: Revision = "head", sql: Sql = False, tag: Tag = None, no_snapshot: NoSnapshot = False
    ) -> None:
        """Apply the revisions up to REVISION."""
        perform(
            ctx,
            lambda database: (database.upgrade_script if sql else database.upgrade)(revision, tag=tag),
            no_snapshot=no_snapshot,
        )

    command(app, "upgrade", panel=PANEL)(upgrade)
    command(app, "migrate", panel=PANEL)(upgrade)

    @command(app, "downgrade", panel=PANEL)
    def downgrade(ctx: typer.Context, revision: Revision, sql: Sql = False, tag: Tag = None, no_snapshot: NoSnapshot = False) -> None:
        """Revert the revisions above REVISION."""
        perform(
            ctx,
            lambda database: (database.downgrade_script if sql else database.downgrade)(revision, tag=tag),
            no_snapshot=no_snapshot,
        )

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
