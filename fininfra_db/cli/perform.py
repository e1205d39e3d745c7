"""From an invocation to an exit code: the one boundary where errors become text."""

import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from fininfra_db.cli.asking import Asking
from fininfra_db.cli.options import Invocation
from fininfra_db.cli.output import Output
from fininfra_db.cli.signals import Signals
from fininfra_db.errors import ConfigurationError, DatabaseFailed, FininfraDbError, Interrupted
from fininfra_db.results import Result
from fininfra_db.settings import Settings, load_settings

if TYPE_CHECKING:
    from fininfra_db.database import Database

R = TypeVar("R", bound=Result)
Operation = Callable[["Database"], Coroutine[Any, Any, Result]]

_FOUND_WORK = 3
_AFTER_INTERRUPTION = "'fininfra-db status' shows where the database is and what is left to do."
_WHAT_REMAINS = "Each statement that was not committed was rolled back; MySQL and MariaDB commit DDL at once."


def perform(ctx: typer.Context, operation: Operation, *, yes: bool = False) -> None:
    """Run one operation and end the process with its exit code. ``yes`` answers a plain question in advance."""

    def work(output: Output) -> Coroutine[Any, Any, Result]:
        settings = _settings(ctx.obj)
        output.settings = settings
        output.database = _describe(settings.direct)
        output.target()
        from fininfra_db.database import Database

        return operation(Database(settings, observer=output.event, confirm=Asking(output, yes=yes)))

    answer(ctx, work)


def look(ctx: typer.Context, operation: Operation) -> None:
    """Run an operation that only reads, and let not even Python write what it compiles of the project's files."""
    sys.dont_write_bytecode = True
    perform(ctx, operation)


def answer(ctx: typer.Context, work: Callable[[Output], Result | Coroutine[Any, Any, Result]]) -> None:
    """Print what ``work`` returns or raises, or the coroutine that it returns, and end the process with its exit code."""
    invocation: Invocation = ctx.obj
    output = Output(invocation)
    from fininfra_db.cli import logs  # logging is not needed for --help

    logs.configure(output.redact, verbose=invocation.verbose)
    signals = Signals(lambda message: output.last_words(Interrupted(message, _AFTER_INTERRUPTION)))
    signals.listen()
    try:
        done = work(output)
        result = done if isinstance(done, Result) else signals.run(done)
        signals.speak()
        _print(output, result)
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # the last boundary: whatever it is, it is one message and no secret
        signals.speak()
        shown = _in_words(error, interrupted=signals.received is not None)
        _fail(output, shown, error)
        raise typer.Exit(128 + signals.received if signals.received else shown.exit_code) from None
    raise typer.Exit(_FOUND_WORK if result.findings else 0)


def _print(output: Output, result: Result) -> None:
    try:
        output.result(result)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough; what is still to be flushed at the end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _settings(invocation: Invocation) -> Settings:
    settings = load_settings(project_root=invocation.project_root, sql_url=invocation.sql_url, env_file=invocation.env_file)
    return replace(settings, **invocation.changes)


def _describe(settings: Settings) -> dict[str, str] | None:
    """The database without its secrets; None when the URL is not one, which only matters once it is used."""
    from fininfra_db.dialects import target_of

    try:
        target = target_of(settings)
    except ConfigurationError:
        return None
    return {"dialect": target.dialect.name, "url": target.display, "source": target.source}


def _in_words(error: BaseException, *, interrupted: bool) -> FininfraDbError:
    """What ended the work, as an error of this package."""
    if isinstance(error, KeyboardInterrupt) or interrupted:
        notes = getattr(error, "__notes__", None) or ([str(error)] if isinstance(error, FininfraDbError) else [_WHAT_REMAINS])
        return Interrupted(f"Interrupted. {' '.join(notes)}", _AFTER_INTERRUPTION)
    if isinstance(error, FininfraDbError):
        return error
    from sqlalchemy.exc import SQLAlchemyError

    from fininfra_db.dialects.base import first_line

    hint = "Run the command again with --debug for the traceback."
    if isinstance(error, SQLAlchemyError):
        return DatabaseFailed(f"The database refused a statement: {first_line(error)}", hint)
    return FininfraDbError(f"{type(error).__name__}: {first_line(error)}", hint)


def _fail(output: Output, shown: FininfraDbError, error: BaseException) -> None:
    output.error(shown)
    if output.invocation.debug:
        from fininfra_db.cli import logs

        logs.print_traceback(error, output.redact)
