"""Help panel "Data": seed, snapshot list and restore; the group of the keys is in its own file."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fininfra_db.cli import seeding
from fininfra_db.cli.options import LOCKING, ConfirmDatabase, Yes, command
from fininfra_db.cli.perform import look, perform
from fininfra_db.results import Seeded

if TYPE_CHECKING:
    from fininfra_db.database import Database

PANEL = "Data"


def register(app: typer.Typer) -> None:
    """Add the commands of this panel."""

    @command(app, "seed", panel=PANEL, settings=LOCKING)
    def seed(
        ctx: typer.Context,
        name: seeding.Name = None,
        users: seeding.Users = None,
        months: seeding.Months = None,
        accounts: seeding.Accounts = None,
        per_account: seeding.PerAccount = None,
        as_of: seeding.AsOf = None,
        random_seed: seeding.RandomSeed = 0,
        replace: seeding.Replace = False,
        confirm_database: ConfirmDatabase = None,
    ) -> None:
        """Write example rows. Twice gives the same rows."""

        def work(database: "Database") -> Coroutine[Any, Any, Seeded]:
            request = seeding.request_of(name, users, months, accounts, per_account, as_of, random_seed, replace=replace)
            return database.seed(request, confirm_database=confirm_database)

        perform(ctx, work)

    from fininfra_db.cli.app import make_group

    snapshot = make_group("Copies of the database: SQLite is copied before each migration.")
    app.add_typer(snapshot, name="snapshot", rich_help_panel=PANEL)

    @command(snapshot, "list", panel=PANEL)
    def list_snapshots(ctx: typer.Context) -> None:
        """List the snapshots of the database, newest first."""
        look(ctx, lambda database: database.snapshots())

    @command(snapshot, "restore", panel=PANEL, settings=LOCKING)
    def restore(
        ctx: typer.Context,
        name: Annotated[str, typer.Argument(help="As 'snapshot list' shows it.")],
        yes: Yes = False,
        confirm_database: ConfirmDatabase = None,
    ) -> None:
        """Bring a snapshot back. What is there now is kept as a snapshot first."""
        perform(ctx, lambda database: database.restore_snapshot(name, confirm_database=confirm_database), yes=yes)
