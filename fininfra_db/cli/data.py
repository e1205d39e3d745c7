"""Help panel "Data": seed, keys generate; the snapshots are in :mod:`fininfra_db.cli.snapshots`."""

from typing import Annotated

import typer

from fininfra_db.cli.options import LOCKING, ConfirmDatabase, command
from fininfra_db.cli.output import Output
from fininfra_db.cli.perform import answer, perform
from fininfra_db.results import KeyGenerated

PANEL = "Data"


def register(app: typer.Typer) -> None:
    """Add the commands of this panel."""

    @command(app, "seed", panel=PANEL, settings=LOCKING)
    def seed(
        ctx: typer.Context,
        name: Annotated[str | None, typer.Argument(help="household, or module:callable of your own.")] = None,
        confirm_database: ConfirmDatabase = None,
    ) -> None:
        """Write example rows. Twice gives the same rows."""
        perform(ctx, lambda database: database.seed(name, confirm_database=confirm_database))

    from fininfra_db.cli import snapshots
    from fininfra_db.cli.app import make_group

    snapshots.register(app)

    keys = make_group("Encryption keys of sealed columns.")
    app.add_typer(keys, name="keys", rich_help_panel=PANEL)

    @command(keys, "generate", panel=PANEL)
    def generate(ctx: typer.Context) -> None:
        """Print a new key for FININFRA_DB_KEYS. Nothing is stored."""

        def work(_output: Output) -> KeyGenerated:
            from fininfra_db.security import generate_key

            return KeyGenerated(key=generate_key())

        answer(ctx, work)
