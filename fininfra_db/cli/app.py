"""The program ``fininfra-db``: its groups, its help and its ends."""

import gc
import io
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

import fininfra_db
from fininfra_db.cli.options import as_written
from fininfra_db.redaction import without_logins

_GARBAGE: Final = 50_000
"""Objects that are made between two searches for garbage. A command is short, and Python's own 700 take a tenth of its time."""

_EPILOG = (
    "Exit codes: 0 done or nothing to do, 1 failed, 2 usage or configuration, 3 a check found work, "
    "4 refused or needs confirmation, 5 lock not obtained, 6 cannot connect, 130 or 143 interrupted."
)


class Group(TyperGroup):
    """A group that lists its commands by help panel, and answers a wrong command line in JSON when asked for JSON."""

    def get_params(self, ctx: Any) -> list[Any]:
        return as_written(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name)) and not command.hidden]
        width = formatter.width - 6 - max(len(command.name or "") for command in commands)
        panels: dict[str, list[Any]] = {}
        for command in commands:
            panels.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append(command)
        for panel, listed in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(command.name or "", command.get_short_help_str(width)) for command in listed])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:  # it says the word that it does not know, which may be a URL
            error.message = without_logins(error.message)
            raise

    def main(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        if "--json" not in given:
            return super().main(args, *rest, **options)
        try:
            code = super().main(given, *rest, **options | {"standalone_mode": False})
        except typer.TyperException as error:
            from fininfra_db.cli.output import usage_error

            context = getattr(error, "ctx", None)
            usage_error(context.command_path.partition(" ")[2] if context else "", error.format_message())
            print(f"Error: {error.format_message()}", file=sys.stderr)
            sys.exit(error.exit_code)
        sys.exit(code if isinstance(code, int) else 0)


def make_group(help_text: str, epilog: str | None = None) -> typer.Typer:
    """A group of commands in plain text: its help is the same on a terminal and in a pipe, and quick."""
    return typer.Typer(
        cls=Group,
        help=help_text,
        epilog=epilog,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fininfra-db {fininfra_db.__version__}")
        raise typer.Exit


def _build() -> typer.Typer:
    from fininfra_db.cli import authoring, data, keys, looking, migrating, setup

    built = make_group("Take a finance database from nothing to production, and keep it safe there.", _EPILOG)

    @built.callback()
    def program(
        version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    ) -> None: ...

    for panel in (setup, migrating, authoring, looking, data, keys):
        panel.register(built)
    return built


app = _build()


def main() -> None:
    """Run the program."""
    gc.set_threshold(_GARBAGE)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a message in any script is printed on a terminal of any
    try:
        app(prog_name="fininfra-db")
    finally:
        gc.freeze()  # what is left ends with the process: searching it for garbage would take a fifth of a short command's time
