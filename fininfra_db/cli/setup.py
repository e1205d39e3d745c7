"""Help panel "Set up": init, setup-and-migrate, create-tables, reset."""

from typing import Annotated

import typer

from fininfra_db.cli.options import NoSnapshot, Yes, command
from fininfra_db.cli.perform import perform
from fininfra_db.settings import DEFAULT_SEED

PANEL = "Set up"


def register(app: typer.Typer) -> None:
    """Add the commands of this panel."""

    @command(app, "setup-and-migrate", panel=PANEL)
    def setup_and_migrate(ctx: typer.Context, no_snapshot: NoSnapshot = False) -> None:
        """Take a database from nothing to head: project files, database, first revision, upgrade."""
        perform(ctx, lambda database: database.setup_and_migrate(), no_snapshot=no_snapshot)

    @command(app, "init", panel=PANEL)
    def init(
        ctx: typer.Context,
        directory: Annotated[str, typer.Argument(help="The folder for migrations.")] = "migrations",
        models: Annotated[str | None, typer.Option("--models", help="The modules with your models, separated by commas.")] = None,
        package: Annotated[bool, typer.Option("--package", help="Make the folders Python packages.")] = False,
    ) -> None:
        """Write alembic.ini, the migrations folder and a development key; nothing that is there already."""
        named = tuple(name.strip() for name in (models or "").split(",") if name.strip())
        perform(ctx, lambda database: database.init(directory, models=named, package=package))

    @command(app, "create-tables", panel=PANEL)
    def create_tables(ctx: typer.Context) -> None:
        """Create the tables of the models without migrations, for a database to throw away."""
        perform(ctx, lambda database: database.create_tables())

    @command(app, "reset", panel=PANEL)
    def reset(
        ctx: typer.Context,
        yes: Yes = False,
        seed: Annotated[bool, typer.Option("--seed", help="Write the default seed afterwards.")] = False,
        no_snapshot: NoSnapshot = False,
    ) -> None:
        """Drop what the project owns and migrate again. Data is lost."""
        question = "Drop every table that this project owns in {database} and migrate again?"
        wanted = DEFAULT_SEED if seed else None
        perform(ctx, lambda database: database.reset(seed=wanted), question=question, yes=yes, no_snapshot=no_snapshot)
