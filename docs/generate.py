"""Write the parts of README.md that come from the code: command reference, exit codes, schema diagram, rules of check-data.

python -m docs.generate           rewrite them
python -m docs.generate --check   exit 1 if they are not current
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql

from fininfra_db import errors
from fininfra_db.cli.app import app
from fininfra_db.data.checks.registry import RULES
from fininfra_db.models import Base

README = Path(__file__).resolve().parent.parent / "README.md"


def generate(text: str) -> str:
    """``text`` with every generated block made anew."""
    for name, make in BLOCKS.items():
        block = f"<!-- generated: {name} -->\n{make()}\n<!-- end -->"
        text, count = re.subn(rf"<!-- generated: {name} -->.*?<!-- end -->", lambda _, new=block: new, text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"README.md has {count} blocks for {name!r}, not one")
    return text


def commands() -> str:
    """Each command with its own options; the shared ones once, at the end."""
    from typer.main import get_command

    program: Any = get_command(app)
    sections = [_command(path, command) for path, command in _walk(program, "fininfra-db")]
    shared = [option for option in next(_walk(program, ""))[1].params if _is_shared(option)]
    return "\n\n".join([*sections, "Every command also takes:\n\n" + _options(shared)])


def _walk(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        below = f"{path} {name}"
        yield from _walk(command, below) if hasattr(command, "commands") else [(below, command)]


def _command(path: str, command: Any) -> str:
    arguments = " ".join(_argument(parameter) for parameter in command.params if parameter.param_type_name == "argument")
    own = [parameter for parameter in command.params if parameter.param_type_name == "option" and not _is_shared(parameter)]
    heading = f"**`{f'{path} {arguments}'.strip()}`** {command.help}"
    return f"{heading}\n\n{_options(own)}" if own else heading


def _argument(parameter: Any) -> str:
    name = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _options(options: list[Any]) -> str:
    rows = [f"| `{', '.join(option.opts)}` | {option.help} |" for option in options if option.name != "help"]
    return "\n".join(["| option | meaning |", "| --- | --- |", *rows])


def _is_shared(parameter: Any) -> bool:
    from fininfra_db.cli.options import shared_options

    return parameter.name in shared_options() or parameter.name == "help"


def exit_codes() -> str:
    """Each exit code and the error codes that lead to it."""
    meanings = {
        0: "done, or nothing to do",
        1: "failed",
        2: "usage or configuration",
        3: "a check found work: pending, edited or unfinished revisions, drift, several heads, a database that is ahead, rows to seal, "
        "rows that break a rule of `check-data`, whose name is the code then",
        4: "refused, or needs a confirmation",
        5: "lock not obtained, lost, or worth nothing",
        6: "cannot connect",
        130: "interrupted by Ctrl-C, by a request to terminate",
    }
    names: dict[int, set[str]] = {code: set() for code in meanings}
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, errors.FininfraDbError):
            names[value.exit_code].add(value.code)
    names[2].add("usage")  # the command line itself; no class of the library
    names[3] |= {
        "pending",
        "drift",
        "multiple-heads",
        "database-ahead",
        "edited",
        "unfinished",
        "unopened",
        "plaintext",
        "too-long",
        "old-key",
    }  # the findings of migrate/looking.py, migrate/status.py and data/sealed.py
    rows = [
        f"| {'130, 143' if code == 130 else code} | {meaning} | {', '.join(f'`{name}`' for name in sorted(names[code]))} |"
        for code, meaning in meanings.items()
    ]
    return "\n".join(["| exit code | meaning | `error.code` in JSON |", "| --- | --- | --- |", *rows])


def rules() -> str:
    """Each rule of check-data and what it finds."""
    return "\n".join(["| rule | what it finds |", "| --- | --- |", *(f"| `{rule.name}` | {rule.sentence} |" for rule in RULES.values())])


def diagram() -> str:
    """The schema as Mermaid."""
    lines = ["```mermaid", "erDiagram"]
    for table in Base.metadata.sorted_tables:
        lines += [f'    {foreign_key.referred_table.name} ||--o{{ {table.name} : ""' for foreign_key in _nearest_parents(table)]
    for table in Base.metadata.sorted_tables:
        lines += [f"    {table.name} {{", *(f"        {_column(column)}" for column in table.columns), "    }"]
    return "\n".join([*lines, "```"])


def _nearest_parents(table: Table) -> list[Any]:
    """The keys that show where a row hangs: a composite key makes the direct one to the user redundant in a picture."""
    keys = sorted(table.foreign_key_constraints, key=lambda key: -len(key.columns))
    return keys[:1]


def _column(column: Column[Any]) -> str:
    kind = re.sub(r"\W+", "_", column.type.compile(postgresql.dialect()).lower()).strip("_")
    marks = ", ".join(mark for mark, holds in (("PK", column.primary_key), ("FK", column.foreign_keys)) if holds)
    return f"{kind} {column.name} {marks}".rstrip()


BLOCKS: dict[str, Callable[[], str]] = {"commands": commands, "exit codes": exit_codes, "diagram": diagram, "rules": rules}


def main() -> None:
    text = README.read_text(encoding="utf-8")
    new = generate(text)
    if "--check" in sys.argv:
        sys.exit(0 if new == text else "README.md is not current: run python -m docs.generate")
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
