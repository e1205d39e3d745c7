"""The options that every command takes, declared once, and how a command comes to have them."""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from typer.core import TyperCommand

from fininfra_db.errors import FininfraDbError

F = TypeVar("F", bound=Callable[..., Any])

_RELATIVE: Final = re.compile(r"-\d+")


@dataclass(frozen=True)
class Invocation:
    """One call of one command, and what its shared options say."""

    command: str
    project_root: Path | None = None
    sql_url: str | None = None
    env_file: Path | None = None
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the options of this call replace."""


def _shared(
    project_root: Annotated[
        Path | None, typer.Option("--project-root", "-C", help="The project's folder. Default: the nearest with alembic.ini.")
    ] = None,
    sql_url: Annotated[str | None, typer.Option("--sql-url", help="The database URL; ps shows it. Default: SQL_URL.")] = None,
    env_file: Annotated[Path | None, typer.Option("--env-file", help="Read this file instead of .env.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no notes.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print more.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
) -> None: ...


def _of_settings(
    lock_timeout: Annotated[
        float | None,
        typer.Option("--lock-timeout", metavar="SECONDS", help="Wait as long for another migration; 0 fails at once. Default: 300."),
    ] = None,
    ddl_lock_timeout: Annotated[
        float | None,
        typer.Option("--ddl-lock-timeout", metavar="SECONDS", help="Wait as long for a table's lock; 0 is no limit. Default: 5."),
    ] = None,
    statement_timeout: Annotated[
        float | None,
        typer.Option("--statement-timeout", metavar="SECONDS", help="Let a statement run as long; 0 is no limit. Default: 0."),
    ] = None,
    no_snapshot: Annotated[bool, typer.Option("--no-snapshot", help="Do not keep a copy of a SQLite file first.")] = False,
) -> None: ...


LOCKING: Final = ("lock_timeout",)
"""The settings that the options of a command that takes the migration lock replace."""

MIGRATING: Final = ("lock_timeout", "ddl_lock_timeout", "statement_timeout", "no_snapshot")
"""Those of a command that runs revisions."""


@functools.cache
def _parameters_of(declared: Callable[..., None]) -> list[Any]:
    """The options of a signature as Typer makes them, once for all commands."""
    holder = typer.Typer(add_completion=False)
    holder.command()(declared)
    return typer.main.get_command(holder).params


def shared_options() -> frozenset[str]:
    """The names of the options that every command takes."""
    return frozenset(parameter.name for parameter in _parameters_of(_shared))


def _seconds(text: str) -> float:
    """A number with a fraction is one of seconds. Raises ``ValueError``."""
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise ValueError(f"{text!r} is not a number of seconds.")


def _whole(text: str | int) -> int:
    """A number without one counts something; a default is one already. Raises ``ValueError``."""
    if isinstance(text, str) and not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"{text!r} is not a whole number.")
    return int(text)


class _AsWritten:
    """How Typer is kept from checking a value: it would use Pydantic, whose import takes a fifth of a short command's time."""

    converters: Final[dict[Any, Callable[[Any], Any]]] = {str: str, Path: Path, list[str]: tuple, float: _seconds, int: _whole}

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        try:
            return self.converters[param.type_descriptor.annotation](value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None


def as_written(parameters: list[Any]) -> list[Any]:
    """The parameters of a command; text, paths, seconds and flags among them are taken as they are written, unchecked."""
    for parameter in parameters:
        annotation = parameter.type_descriptor.annotation
        if annotation is bool and parameter.default is None:
            parameter.default = False
        elif annotation in _AsWritten.converters:
            parameter._runtime_param = _AsWritten()
    return parameters


class Command(TyperCommand):
    """A command with the shared options, on which ``-1`` is a revision and not an option."""

    settings: tuple[str, ...] = ()
    """The settings that it has options for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params += [parameter for parameter in _parameters_of(_of_settings) if parameter.name in self.settings]
        self.params += _parameters_of(_shared)

    def get_params(self, ctx: Any) -> list[Any]:
        return as_written(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, _relative_last(args, self._options_with_value()))
        except typer.TyperException as error:
            if getattr(error, "ctx", ctx) is None:  # the parser forgets it, and without it nobody could say which command this is
                error.ctx = ctx  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: Any) -> Any:
        """Gather the shared options in ``ctx.obj``, an ``Invocation``; the command itself takes its own only."""
        shared = {name: ctx.params.pop(name) for name in shared_options()}
        defaults = {parameter.name: parameter.default for parameter in self.params}
        given = {name: value for name in self.settings if (value := ctx.params.pop(name)) != defaults[name]}
        ctx.obj = Invocation(command=ctx.command_path.split(" ", 1)[-1], changes=given, **shared)
        return super().invoke(ctx)

    def _options_with_value(self) -> set[str]:
        options = (parameter for parameter in self.params if parameter.param_type_name == "option")
        return {name for option in options if not getattr(option, "is_flag", False) for name in option.opts}


def _relative_last(args: list[str], options_with_value: set[str]) -> list[str]:
    """Move a bare ``-1`` behind ``--``, where the parser takes it for an argument; any other unknown option stays one."""
    if "--" in args:
        return args
    is_value = [False, *(previous in options_with_value for previous in args)]
    relative = [index for index, arg in enumerate(args) if _RELATIVE.fullmatch(arg) and not is_value[index]]
    if not relative:
        return args
    rest = [arg for index, arg in enumerate(args) if index not in relative]
    return [*rest, "--", *(args[index] for index in relative)]


def command(app: typer.Typer, name: str, *, panel: str, settings: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Register a command: its own signature, options for ``settings``, and the shared options.

    The latter two reach it as ``ctx.obj``, an ``Invocation``.
    """
    kind = type("Command", (Command,), {"settings": settings}) if settings else Command
    return app.command(name, cls=kind, rich_help_panel=panel)


def complete_revision(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Shell completion of revision identifiers, from the headers of the files; silent when there is no project."""
    from fininfra_db.migrate.config import find_project
    from fininfra_db.settings import load_settings

    try:
        settings = load_settings(project_root=ctx.params.get("project_root"), sql_url="sqlite://")
        history = find_project(settings).history()
    except FininfraDbError:
        return
    yield from (
        (name, word) for name, word in (("head", "the latest"), ("heads", "all heads"), ("base", "nothing")) if name.startswith(incomplete)
    )
    for info in history.revisions.values():
        if info.revision.startswith(incomplete):
            yield info.revision, _escaped(info.message)


def complete_rule(incomplete: str) -> list[str]:
    """Shell completion of the rules of check-data."""
    from fininfra_db.data.checks.names import RULE_NAMES

    return [name for name in RULE_NAMES if name.startswith(incomplete)]


def _escaped(text: str) -> str:
    """Foreign text for Typer, which takes the help of a completion for Rich's markup."""
    if "[" not in text:
        return text
    from rich.markup import escape

    return escape(text)


Revision = Annotated[str, typer.Argument(help="head, base, +1, -1, a revision or its beginning.", autocompletion=complete_revision)]
Revisions = Annotated[list[str], typer.Argument(help="Revisions, or heads for all.", autocompletion=complete_revision)]
Rules = Annotated[list[str] | None, typer.Argument(help="Rules; all when none is named.", autocompletion=complete_rule)]
Sql = Annotated[bool, typer.Option("--sql", help="Print the SQL instead of running it; takes from:to.")]
Tag = Annotated[str | None, typer.Option("--tag", help="A word for env.py's get_tag_argument().")]
Message = Annotated[str | None, typer.Option("--message", "-m", help="The message of the revision.")]
BranchLabel = Annotated[str | None, typer.Option("--branch-label", help="A branch label for the revision.")]
RevId = Annotated[str | None, typer.Option("--rev-id", help="The identifier, instead of a new one.")]
Splice = Annotated[bool, typer.Option("--splice", help="Allow a parent that is not a head.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
ConfirmDatabase = Annotated[
    str | None, typer.Option("--confirm-database", metavar="NAME", help="The database's name, to lose data where it is protected.")
]
