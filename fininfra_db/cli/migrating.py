"""Help panel "Migrate": upgrade and its alias migrate, downgrade, stamp."""

from typing import Annotated

import typer

from fininfra_db.cli.options import Revision, Revisions, Sql, Tag, command
from fininfra_db.cli.perform import perform

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

    @command(app, "stamp", panel=PANEL)
    def stamp(
        ctx: typer.Context,
        revisions: Revisions,
        sql: Sql = False,
        tag: Tag = None,
        purge: Annotated[bool, typer.Option("--purge", help="Empty the version table first.")] = False,
    ) -> None:
        """Write REVISIONS into the version table without running them."""
        if sql:
            perform(ctx, lambda database: database.stamp_script(*revisions, tag=tag))
        perform(ctx, lambda database: database.stamp(*revisions, purge=purge, tag=tag))
