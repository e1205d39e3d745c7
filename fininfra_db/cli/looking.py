"""Help panel "Look": current, history, heads, show, status, check-data, wait. Nothing here writes a byte."""

from typing import Annotated

import typer

from fininfra_db.cli.options import Revision, Rules, command
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
        look(ctx, lambda database: database.history(rev_range, indicate_current=indicate_current, ledger=ctx.obj.verbose))

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

    @command(app, "status", panel=PANEL)
    def status(ctx: typer.Context) -> None:
        """Exit 3 unless it is safe to deploy: nothing pending, missing, edited or unfinished."""
        look(ctx, lambda database: database.status())

    @command(app, "check-data", panel=PANEL)
    def check_data(ctx: typer.Context, rules: Rules = None) -> None:
        """Exit 3 if rows break a rule: books that do not balance, rows of nobody, tokens that do not open."""
        look(ctx, lambda database: database.check_data(*rules or ()))

    @command(app, "wait", panel=PANEL)
    def wait(
        ctx: typer.Context,
        waited_for: Annotated[
            str, typer.Option("--for", metavar="server|head", help="The server to answer, or head to be applied.")
        ] = "server",
        timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="Give up then; 0 tries once.")] = 60.0,
    ) -> None:
        """Wait until the server answers, or the database is at head."""
        look(ctx, lambda database: database.wait(waited_for, timeout=timeout))
