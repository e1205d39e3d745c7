"""The group ``keys``: generate, status, rotate, encrypt."""

from typing import Annotated

import typer

from fininfra_db.cli.options import LOCKING, command
from fininfra_db.cli.output import Output
from fininfra_db.cli.perform import answer, look, perform
from fininfra_db.results import KeyGenerated

PANEL = "Data"

DryRun = Annotated[bool, typer.Option("--dry-run", help="Count what would be sealed, and write nothing.")]


def register(app: typer.Typer) -> None:
    """Add the group and its commands."""
    from fininfra_db.cli.app import make_group

    keys = make_group("Encryption keys of sealed columns.")
    app.add_typer(keys, name="keys", rich_help_panel=PANEL)

    @command(keys, "generate", panel=PANEL)
    def generate(ctx: typer.Context) -> None:
        """Print a new key for FININFRA_DB_KEYS. Nothing is stored."""

        def work(_output: Output) -> KeyGenerated:
            from fininfra_db.security import generate_key

            return KeyGenerated(key=generate_key())

        answer(ctx, work)

    @command(keys, "status", panel=PANEL)
    def status(ctx: typer.Context) -> None:
        """Show the rows under each key. Exit 3 unless all of them are under the first one."""
        look(ctx, lambda database: database.keys_status())

    @command(keys, "rotate", panel=PANEL, settings=LOCKING)
    def rotate(ctx: typer.Context, dry_run: DryRun = False) -> None:
        """Seal every row with the first key. Run again, it carries on where it was ended."""
        perform(ctx, lambda database: database.rotate_keys(dry_run=dry_run))

    @command(keys, "encrypt", panel=PANEL, settings=LOCKING)
    def encrypt(ctx: typer.Context, dry_run: DryRun = False) -> None:
        """Seal the rows of sealed columns that hold plaintext."""
        perform(ctx, lambda database: database.encrypt_plaintext(dry_run=dry_run))
