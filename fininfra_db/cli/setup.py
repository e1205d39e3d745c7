"""Help panel "Set up": init, setup-and-migrate, create-tables, reset, environment set and show."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fininfra_db.cli import seeding
from fininfra_db.cli.options import MIGRATING, ConfirmDatabase, Yes, command
from fininfra_db.cli.perform import look, perform
from fininfra_db.results import Reset

if TYPE_CHECKING:
    from fininfra_db.database import Database

PANEL = "Set up"


def register(app: typer.Typer) -> None:
    """Add the commands of this panel."""

    @command(app, "setup-and-migrate", panel=PANEL, settings=MIGRATING)
    def setup_and_migrate(ctx: typer.Context) -> None:
        """Take a database from nothing to head: project files, database, first revision, upgrade."""
        perform(ctx, lambda database: database.setup_and_migrate())

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

    @command(app, "reset", panel=PANEL, settings=MIGRATING)
    def reset(
        ctx: typer.Context,
        yes: Yes = False,
        confirm_database: ConfirmDatabase = None,
        seed: Annotated[bool, typer.Option("--seed", help="Write SEED afterwards.")] = False,
        name: seeding.Name = None,
        users: seeding.Users = None,
        months: seeding.Months = None,
        accounts: seeding.Accounts = None,
        per_account: seeding.PerAccount = None,
        as_of: seeding.AsOf = None,
        random_seed: seeding.RandomSeed = 0,
        no_cache: Annotated[bool, typer.Option("--no-cache", help="With --seed: neither take nor keep a copy of the result.")] = False,
    ) -> None:
        """Drop what the project owns and migrate again. Data is lost."""

        def work(database: "Database") -> Coroutine[Any, Any, Reset]:
            request = seeding.request_of(name, users, months, accounts, per_account, as_of, random_seed)
            wanted = seeding.if_wanted(seed, request)
            return database.reset(seed=wanted, confirm_database=confirm_database, use_cache=not no_cache)

        perform(ctx, work, yes=yes)

    from fininfra_db.cli.app import make_group

    environment = make_group("The database's own mark of what it is: production, staging, development.")
    app.add_typer(environment, name="environment", rich_help_panel=PANEL)

    @command(environment, "show", panel=PANEL)
    def show(ctx: typer.Context) -> None:
        """Show the environment that the database is marked with."""
        look(ctx, lambda database: database.environment())

    @command(environment, "set", panel=PANEL)
    def set_environment(
        ctx: typer.Context,
        name: Annotated[str, typer.Argument(help="A word such as production; none takes the mark away.")],
        confirm_database: ConfirmDatabase = None,
    ) -> None:
        """Mark the database. Where it is protected, data is not lost without --confirm-database."""
        perform(ctx, lambda database: database.set_environment(name, confirm_database=confirm_database))
