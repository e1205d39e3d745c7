"""Help panel "Data": seed; the groups of the snapshots and the keys have files of their own."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import typer

from fininfra_db.cli import seeding
from fininfra_db.cli.options import LOCKING, ConfirmDatabase, command
from fininfra_db.cli.perform import perform
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

    from fininfra_db.cli import snapshots

    snapshots.register(app)
