"""Help panel "Write revisions": revision, merge, check."""

from typing import Annotated

import typer

from fininfra_db.cli.options import BranchLabel, Message, RevId, Revisions, Splice, command, complete_revision
from fininfra_db.cli.perform import look, perform

PANEL = "Write revisions"


def register(app: typer.Typer) -> None:
    """Add the commands of this panel."""

    @command(app, "revision", panel=PANEL)
    def revision(
        ctx: typer.Context,
        message: Message = None,
        autogenerate: Annotated[
            bool, typer.Option("--autogenerate", help="Fill it with what the models have and the database lacks.")
        ] = False,
        allow_drop: Annotated[bool, typer.Option("--allow-drop", help="Let it drop tables and columns.")] = False,
        head: Annotated[str, typer.Option("--head", help="The parent, or <branch>@head.", autocompletion=complete_revision)] = "head",
        splice: Splice = False,
        branch_label: BranchLabel = None,
        version_path: Annotated[str | None, typer.Option("--version-path", help="The folder of version_locations to write to.")] = None,
        rev_id: RevId = None,
        depends_on: Annotated[
            list[str] | None, typer.Option("--depends-on", help="A revision that must run before.", autocompletion=complete_revision)
        ] = None,
    ) -> None:
        """Write a new revision file."""

        def write(database):  # type: ignore[no-untyped-def]  # naming Database here would import SQLAlchemy for --help
            from fininfra_db.migrate.authoring import Draft

            return database.revision(
                Draft(message, autogenerate, allow_drop, head, splice, branch_label, version_path, rev_id, tuple(depends_on or ()))
            )

        perform(ctx, write)

    @command(app, "merge", panel=PANEL)
    def merge(
        ctx: typer.Context,
        revisions: Revisions,
        message: Message = None,
        branch_label: BranchLabel = None,
        rev_id: RevId = None,
        splice: Splice = False,
    ) -> None:
        """Write a revision that joins several heads into one."""
        perform(
            ctx,
            lambda database: database.merge(tuple(revisions), message=message, branch_label=branch_label, rev_id=rev_id, splice=splice),
        )

    @command(app, "check", panel=PANEL)
    def check(ctx: typer.Context) -> None:
        """Exit 3 unless there is one head, nothing is pending, and the models agree with the database."""
        look(ctx, lambda database: database.check())
