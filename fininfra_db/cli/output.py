"""Two streams and one JSON object: the answer goes to stdout, everything else to stderr."""

import dataclasses
import json
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from fininfra_db.cli.options import Invocation
from fininfra_db.cli.views import View, view
from fininfra_db.errors import FininfraDbError
from fininfra_db.events import BlastRadius, Dropped, Event, Progress, Retrying, Step, Waiting
from fininfra_db.redaction import redact, secrets_of_url
from fininfra_db.results import Finding, Result
from fininfra_db.settings import Settings, secrets_of

if TYPE_CHECKING:
    from fininfra_db.cli.progress import Bar

_SAID: Final = ("message", "hint", "warnings", "reason", "statement_sql")
"""The fields of results and errors that hold words; the others hold names and figures."""

Described = dict[str, str] | None
"""The database as the JSON shows it: ``dialect``, ``url`` without the password, ``source``."""


class Output:
    """What one command prints."""

    def __init__(self, invocation: Invocation) -> None:
        self.invocation = invocation
        self.settings: Settings | None = None
        self.database: Described = None
        self._staked: BlastRadius | None = None
        self._bar: Bar | None = None

    def target(self) -> None:
        """Say which database this is about, and who said so."""
        if self.database is not None:
            self.note(f"database: {self.database['url']} (from {self.database['source']})", style="dim")

    def note(self, text: str, style: str = "") -> None:
        """Something beside the answer."""
        if not (self.invocation.quiet or self.invocation.json):
            self._err(text, style)

    def event(self, event: Event) -> None:
        """What happens during a run: each revision is shown to a person who watches, and with ``-v``; the rest always."""
        match event:
            case Step():
                if sys.stderr.isatty() or self.invocation.verbose:
                    self.note(f"{'Applying' if event.direction == 'up' else 'Reverting'} {event.revision} {event.message}")
            case Waiting():
                self.note(f"Waiting for up to {event.seconds:.0f} s: the database is locked by {event.holder or 'another writer'}.")
            case Retrying():
                blockers = f", held by {'; '.join(event.blockers)}" if event.blockers else ""
                self.note(f"{event.revision} did not get a table's lock{blockers}. Attempt {event.attempt} in {event.seconds:.1f} s.")

            case BlastRadius():
                if (event.rows or event.unread) and event != self._staked:
                    self.note(f"This database holds {event}.")
            case Dropped():
                self._err(f"Dropped before this ended: {event}.", style="yellow")
            case Progress():
                self._progress(event)

    def _progress(self, event: Progress) -> None:
        """A bar, for a person who watches."""
        if self._bar is None and is_fancy(sys.stderr) and not (self.invocation.quiet or self.invocation.json):
            from fininfra_db.cli.progress import Bar

            self._bar = Bar()
        if self._bar is not None:
            self._bar.show(event)

    def _end_progress(self) -> None:
        """Take the bar away before anything else is printed."""
        if self._bar is not None:
            self._bar.end()
            self._bar = None

    def stake(self, radius: BlastRadius) -> None:
        """What is at stake, for a person who is asked about it: shown with ``--quiet`` too, and once."""
        self._staked = radius
        marker = f", marked {radius.environment}" if radius.environment else ""
        self._err(f"{radius.url} (from {radius.source}){marker}\nThis database holds {radius}.", style="yellow")

    def result(self, result: Result) -> None:
        """The answer of a command that did what it was asked for."""
        self._end_progress()
        if self.invocation.json:
            print(self._document(not result.findings, result, result.findings[0] if result.findings else None))
            return
        shown = view(result, verbose=self.invocation.verbose)
        if shown.is_answer or not self.invocation.quiet:
            _print(shown, sys.stdout)
        for warning in result.warnings:
            self.note(f"Warning: {warning}", style="yellow")
        for finding in result.findings:
            self._err(_with_hint(finding.message, finding.hint), style="yellow")

    def error(self, error: FininfraDbError) -> None:
        """A command that did not do what it was asked for."""
        if self.invocation.json:
            print(self._error_text(error))
        else:
            self._err(self._error_text(error), style="red")

    def last_words(self, error: FininfraDbError) -> None:
        """The same, while anything may be half printed: past the buffers of the streams."""
        with suppress(OSError):
            os.write(1 if self.invocation.json else 2, f"{self._error_text(error)}\n".encode(errors="backslashreplace"))

    def _error_text(self, error: FininfraDbError) -> str:
        if self.invocation.json:
            return self._document(False, None, Finding(error.code, error.message, error.hint))
        return self.redact(_with_hint(f"Error: {error.message}", error.hint))

    def redact(self, text: str) -> str:
        """``text`` without the secrets of this run's settings; as long as there are none, of the command line and the environment."""
        if self.settings is not None:
            return self.settings.redact(text)
        return redact(text, secrets_of(os.environ) | secrets_of_url(self.invocation.sql_url or ""))

    def _document(self, ok: bool, result: Result | None, error: Finding | None) -> str:
        """What is said is redacted; what was asked for is exact, since a password may be a word that is the name of a table."""
        document = {
            "ok": ok,
            "command": self.invocation.command,
            "database": self.database,
            "result": None if result is None else self._said_redacted(dataclasses.asdict(result)),
            "error": None if error is None else self._said_redacted(dataclasses.asdict(error)),
        }
        return json.dumps(document, default=_plain, ensure_ascii=False)

    def _said_redacted(self, value: Any, name: str = "") -> Any:
        """A document with the texts that are said in it, wherever they stand, without secrets."""
        if isinstance(value, dict):
            return {key: self._said_redacted(each, name=key) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._said_redacted(each, name=name) for each in value]
        return self.redact(value) if name in _SAID and isinstance(value, str) else value

    def _err(self, text: str, style: str = "") -> None:
        self._end_progress()
        text = self.redact(text)
        if not (style and is_fancy(sys.stderr)):
            print(text, file=sys.stderr)
            return
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True, highlight=False).print(Text(text, style=style), soft_wrap=True)


def usage_error(command: str, message: str) -> None:
    """The JSON of a command line that could not be parsed, when it asked for JSON."""
    output = Output(Invocation(command=command, json=True))
    print(output._document(False, None, Finding("usage", message, f"See 'fininfra-db {command} --help'.".replace("  ", " "))))


def is_fancy(stream: TextIO) -> bool:
    """Whether colours and tables will be seen: a terminal that can, and nobody who asked for plain text."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def _print(shown: View, stream: TextIO) -> None:
    if shown.grid is None or not is_fancy(stream):
        for line in shown.lines:
            print(line, file=stream)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(shown.grid.columns):
        table.add_column(column, overflow="fold", no_wrap=number < 2)  # an identifier in two lines cannot be copied
    for row in shown.grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(file=stream, markup=False, highlight=False)
    for line in shown.grid.introduction:
        console.print(line, soft_wrap=True)
    console.print(table)
    if shown.grid.summary:
        console.print(shown.grid.summary)


def _with_hint(message: str, hint: str | None) -> str:
    return f"{message}\n  {hint}" if hint else message


def _plain(value: Any) -> str:
    """What JSON has no word for: amounts as strings, instants as RFC 3339 in UTC, paths as text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal | Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form here")
