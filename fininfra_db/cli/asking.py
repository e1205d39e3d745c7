"""Asking a person before data may be lost: on a terminal only, and Ctrl-C is an answer too."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from fininfra_db.cli.output import Output
from fininfra_db.errors import ConfirmationRequired, Refused
from fininfra_db.events import Question


class Asking:
    """The command line's way to ask. ``yes``: the person has said so in advance, which answers a plain question only."""

    def __init__(self, output: Output, *, yes: bool = False) -> None:
        self._output = output
        self._yes = yes

    def __call__(self, question: Question) -> str | None:
        """The name of the database as the person gives it, or None; see ``results.Confirm``."""
        name = question.blast_radius.database
        if question.reason is None and self._yes:
            return name
        if not self._has_terminal():
            if question.reason is not None:
                return None
            raise ConfirmationRequired(
                f"This needs a confirmation and there is no terminal to ask on. Nothing was changed in {question.blast_radius.url}. "
                f"It holds {question.blast_radius}.",
                "Add --yes to go on without asking.",
            )
        self._output.stake(question.blast_radius)
        with _interruptible():
            if question.reason is None:
                return name if typer.confirm(f"{question.consequence}?", err=True) else None
            text = f"{question.consequence}? Here {question.reason}.\nType the name of the database to go on"
            return str(typer.prompt(text, default="", show_default=False, err=True))

    def _has_terminal(self) -> bool:
        return sys.stdin.isatty() and sys.stderr.isatty() and not self._output.invocation.json


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a signal end the run, as anywhere else. The end of the input is a no."""
    try:
        yield
    except typer.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise Refused("Not confirmed. Nothing was changed.") from None
