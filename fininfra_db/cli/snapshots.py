"""The commands ``snapshot save``, ``restore``, ``list`` and ``delete``, on the help panel "Data"."""

from typing import Annotated

import typer

from fininfra_db.cli.options import LOCKING, ConfirmDatabase, Yes, command
from fininfra_db.cli.perform import look, perform

PANEL = "Data"
Name = Annotated[str, typer.Argument(help="As 'snapshot list' shows it.")]


def register(app: typer.Typer) -> None:
    """Add the group to the panel."""
    from fininfra_db.cli.app import make_group

    snapshot = make_group("Copies of the database. SQLite is copied before each migration, too.")
    app.add_typer(snapshot, name="snapshot", rich_help_panel=PANEL)

    @command(snapshot, "save", panel=PANEL, settings=LOCKING)
    def save(ctx: typer.Context, name: Annotated[str | None, typer.Argument(help="Default: the date and time.")] = None) -> None:
        """Copy the database, and keep the copy until it is deleted."""
        perform(ctx, lambda database: database.save_snapshot(name))

    @command(snapshot, "restore", panel=PANEL, settings=LOCKING)
    def restore(ctx: typer.Context, name: Name, yes: Yes = False, confirm_database: ConfirmDatabase = None) -> None:
        """Bring a snapshot back. What is there now is kept as a snapshot first."""
        perform(ctx, lambda database: database.restore_snapshot(name, confirm_database=confirm_database), yes=yes)

    @command(snapshot, "list", panel=PANEL)
    def list_snapshots(ctx: typer.Context) -> None:
        """List the snapshots of the database, newest first."""
        look(ctx, lambda database: database.snapshots())

    @command(snapshot, "delete", panel=PANEL, settings=LOCKING)
    def delete(ctx: typer.Context, name: Name, confirm_database: ConfirmDatabase = None) -> None:
        """Delete a snapshot for good."""
        perform(ctx, lambda database: database.delete_snapshot(name, confirm_database=confirm_database))
