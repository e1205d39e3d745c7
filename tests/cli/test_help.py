"""The help: what it says, that nothing is without it, and that it is there at once.

With ``FININFRA_UPDATE_GOLDEN=1`` in the environment the texts in ``tests/golden/help`` are written instead of compared.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import fininfra_db
from fininfra_db.cli.app import app
from tests.cli.helpers import PROGRAM, ROOT, commands, groups, set_up, together
from tests.conftest import Project, clean_environment

GOLDEN = ROOT / "tests" / "golden" / "help"
UPDATE = "FININFRA_UPDATE_GOLDEN"
SHARED = ("--project-root", "--sql-url", "--env-file", "--json", "--quiet", "--verbose", "--debug")
HEAVY = {"sqlalchemy", "alembic"}


def everything() -> list[str]:
    """The program, its groups and its commands, as they are typed."""
    return [*groups(), *commands()]


def file_of(name: str) -> Path:
    return GOLDEN / f"{name.replace(' ', '-') or 'fininfra-db'}.txt"


def leaf(name: str) -> Any:
    """A command as Typer has it."""
    found: Any = get_command(app)
    for word in name.split():
        found = found.commands[word]
    return found


def options_of(name: str) -> Iterator[Any]:
    return (parameter for parameter in leaf(name).params if parameter.param_type_name == "option")


@pytest.fixture(scope="module")
def helps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What ``--help`` prints for everything, in a folder without a project."""
    folder = tmp_path_factory.mktemp("nowhere")
    project = Project("sqlite", folder, "")

    def ask(name: str) -> str:
        done = project.run(*name.split(), "--help")
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    found = dict(zip(everything(), together(ask, everything()), strict=True))
    assert list(folder.iterdir()) == []
    return found


@pytest.mark.parametrize("name", everything(), ids=lambda name: name or "fininfra-db")
def test_help_is_what_it_was(helps: dict[str, str], name: str) -> None:
    if os.environ.get(UPDATE):
        file_of(name).parent.mkdir(parents=True, exist_ok=True)
        file_of(name).write_text(helps[name], encoding="utf-8")
    assert file_of(name).is_file(), f"a new command: run with {UPDATE}=1 and look at what is written"
    assert helps[name] == file_of(name).read_text(encoding="utf-8")


def test_no_help_is_left_of_what_is_gone() -> None:
    assert set(GOLDEN.glob("*")) == {file_of(name) for name in everything()}


@pytest.mark.parametrize("name", everything(), ids=lambda name: name or "fininfra-db")
def test_everything_has_a_sentence_of_help(name: str) -> None:
    text = leaf(name).help
    assert text == text.strip()
    assert text[0].isupper()
    assert text.endswith(".")


@pytest.mark.parametrize("name", everything(), ids=lambda name: name or "fininfra-db")
def test_every_option_and_argument_has_help_in_its_own_words(name: str) -> None:
    own = [parameter for parameter in leaf(name).params if parameter.name not in ("install_completion", "show_completion")]
    assert [parameter.name for parameter in own if not (parameter.help or "").endswith(".")] == []


@pytest.mark.parametrize("command", commands())
def test_every_command_has_the_shared_options(command: str) -> None:
    names = {name for option in options_of(command) for name in option.opts}
    assert set(SHARED) | {"-C", "-q", "-v"} <= names


def test_an_option_means_the_same_on_every_command() -> None:
    told: dict[str, set[str]] = {}
    for command in commands():
        for option in options_of(command):
            if option.opts[0] in (*SHARED, "--sql", "--tag", "--message", "--branch-label", "--rev-id", "--splice"):
                told.setdefault(option.opts[0], set()).add(option.help)
    assert {name: texts for name, texts in told.items() if len(texts) > 1} == {}


def test_the_program_lists_every_command(helps: dict[str, str]) -> None:
    listed = "".join(helps[group] for group in groups())
    assert [command for command in commands() if f"\n  {command.split()[-1]} " not in listed] == []


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    done = Project("sqlite", tmp_path, "").run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fininfra-db {fininfra_db.__version__}\n", "")


# What is not imported.


def imported(*words: str, **environ: str) -> set[str]:
    """The packages that a run imports, as Python itself tells."""
    environment = clean_environment() | {"PYTHONPROFILEIMPORTTIME": "1"} | environ
    done = subprocess.run([*PROGRAM, *words], env=environment, capture_output=True, text=True, timeout=60, check=False)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "fininfra_db.cli.app" in names
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["-h"], [], ["upgrade", "--help"], ["upgrade", "--nope"]], ids=" ".join)
def test_help_and_version_import_no_database(words: list[str]) -> None:
    assert imported(*words) & HEAVY == set()


def test_a_wrong_command_line_in_json_imports_no_database() -> None:
    assert imported("upgrade", "--nope", "--json") & HEAVY == set()


def test_completion_imports_no_database(sqlite_project: Project) -> None:
    root = str(set_up(sqlite_project).root)
    line = f"fininfra-db upgrade -C {root} "
    bash = imported(_FININFRA_DB_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD="4")
    zsh = imported(_FININFRA_DB_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    assert (bash | zsh) & HEAVY == set()


def test_what_needs_a_database_does_import_it(sqlite_project: Project) -> None:
    """Else the tests above could not fail."""
    project = set_up(sqlite_project)
    assert {"sqlalchemy"} <= imported("current", "-C", str(project.root), "--sql-url", project.url)
    assert imported("downgrade", "base", "-C", str(project.root), "--sql-url", project.url) >= HEAVY


def modules_after(code: str) -> set[str]:
    """The packages that are loaded after some code has run in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


def test_the_command_line_imports_no_database() -> None:
    found = modules_after(
        "import importlib, pkgutil, fininfra_db.cli\n"
        "for module in pkgutil.walk_packages(fininfra_db.cli.__path__, 'fininfra_db.cli.'): importlib.import_module(module.name)"
    )
    assert "typer" in found
    assert found & HEAVY == set()


def test_nothing_but_the_command_line_imports_typer_or_rich() -> None:
    found = modules_after(
        "import importlib, pkgutil, fininfra_db\n"
        "for module in pkgutil.walk_packages(fininfra_db.__path__, 'fininfra_db.'):\n"
        "    if not module.name.startswith(('fininfra_db.cli', 'fininfra_db.__main__')): importlib.import_module(module.name)"
    )
    assert found >= HEAVY
    assert found & {"typer", "rich", "click"} == set()
