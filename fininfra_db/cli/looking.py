"""Help panel "Look": current, history, heads, show. Nothing here writes a byte."""

from typing import Annotated

import typer

from fininfra_db.cli.options import Revision, command
from fininfra_db.cli.perform import look

PANEL = "Look"


def register(app: typer.Typer) -> None:
    """Add the commands of this panel."""

    @command(app, "current", panel=PANEL)
    def current(
        ctx: typer.Context,
        check_heads: Annotated[bool, typer.Option("--check-heads", "-c", help="Exit 3 unless the database is at head.")] = False,
    ) -> None:
        """Show the revision that the database is at."""
        look(ctx, lambda database: database.current(check_heads=check_heads))

    @command(app, "history", panel=PANEL)
    def history(
        ctx: typer.Context,
        rev_range: Annotated[
            str | None, typer.Option("--rev-range", "-r", help="[start]:[end]; current is the database's revision.")
        ] = None,
        indicate_current: Annotated[bool, typer.Option("--indicate-current", "-i", help="Mark the database's revision.")] = False,
    ) -> None:
        """List the revisions, newest first."""
        look(ctx, lambda database: database.history(rev_range, indicate_current=indicate_current))

    @command(app, "heads", panel=PANEL)
    def heads(
        ctx: typer.Context,
        resolve_dependencies: Annotated[bool, typer.Option("--resolve-dependencies", help="Take dependencies for parents.")] = False,
    ) -> None:
        """Show the revisions that nothing follows."""
        look(ctx, lambda database: database.heads(resolve_dependencies=resolve_dependencies))

    @command(app, "show", panel=PANEL)
    def show(ctx: typer.Context, revision: Revision = "head") -> None:
        """Show revisions in full; current is the database's."""
        look(ctx, lambda database: database.show(revision))
