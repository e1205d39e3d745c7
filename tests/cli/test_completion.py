"""What the shells are told when Tab is pressed, through the protocol that their completion scripts speak."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import FIRST, PROGRAM, Done, add_revision, add_three_revisions, commands, groups, sqlite_in, traces
from tests.conftest import Project, clean_environment

SHELLS = ("bash", "zsh", "fish")
FOREIGN = 'it\'s "new" for $HOME and `x`: [red]50%[/red] [/]'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, key: str) -> Project:
    return add_three_revisions(sqlite_in(tmp_path_factory.mktemp("completed"), key))


def ask(shell: str, line: str, folder: Path, **environ: str) -> Done:
    """Press Tab at the end of a line, in a folder."""
    words = line.split(" ")
    spoken = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment = clean_environment() | spoken | {"_FININFRA_DB_COMPLETE": f"complete_{shell}"} | environ
    return subprocess.run(PROGRAM, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def completed(shell: str, line: str, folder: Path, **environ: str) -> dict[str, str]:
    """What is offered, each with its description; bash shows none."""
    before = traces(folder, with_caches=True)
    done = ask(shell, line, folder, **environ)
    assert done.stderr == ""
    assert traces(folder, with_caches=True) == before
    if shell == "zsh":
        return {value: told.replace("\\\\:", ":") for value, told in re.findall(r'"([^"]+)":"([^"]*)"', done.stdout)}
    offered = (line.partition("\t") for line in done.stdout.splitlines() if line)
    return {value: told for value, _, told in offered}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_commands_are_offered(project: Project, shell: str) -> None:
    names = {command for command in [*commands(), *groups()] if command and " " not in command}
    assert set(completed(shell, "fininfra-db ", project.root)) == names
    assert set(completed(shell, "fininfra-db down", project.root)) == {"downgrade"}
    assert set(completed(shell, "fininfra-db keys ", project.root)) == {"generate", "status", "rotate", "encrypt"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_commands_are_described(project: Project, shell: str) -> None:
    assert completed(shell, "fininfra-db head", project.root) == {"heads": "Show the revisions that nothing follows."}


@pytest.mark.parametrize("shell", SHELLS)
def test_options_are_offered(project: Project, shell: str) -> None:
    assert set(completed(shell, "fininfra-db upgrade --s", project.root)) == {"--sql", "--sql-url", "--statement-timeout"}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("upgrade ", {"head", "heads", "base", FIRST, "aaaa1111", "bbbb2222", "cccc3333"}),
        ("downgrade bb", {"bbbb2222"}),
        ("downgrade b", {"base", "bbbb2222"}),
        ("show aaaa1111", {"aaaa1111"}),
        ("stamp --purge c", {"cccc3333"}),
        ("merge aaaa1111 bb", {"bbbb2222"}),
        ("revision --head aa", {"aaaa1111"}),
        ("revision --depends-on aa", {"aaaa1111"}),
        ("migrate zzzz", set()),
        ("seed ", {"household", "demo", "load"}),
        ("seed d", {"demo"}),
        ("reset --yes --seed lo", {"load"}),
    ],
)
def test_revisions_are_offered(project: Project, shell: str, line: str, offered: set[str]) -> None:
    assert set(completed(shell, f"fininfra-db {line}", project.root)) == offered


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_rules_are_offered(project: Project, shell: str) -> None:
    assert set(completed(shell, "fininfra-db check-data orphans bu", project.root)) == {"budgets"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_revisions_are_described_by_their_messages(project: Project, shell: str) -> None:
    offered = completed(shell, "fininfra-db upgrade ", project.root)
    assert offered[FIRST] == "initial schema"
    assert offered["aaaa1111"] == "message of aaaa1111"
    assert all(offered.values())


def test_a_message_is_never_taken_for_markup_or_for_code(tmp_path: Path, key: str) -> None:
    project = sqlite_in(tmp_path, key)
    path = add_revision(project, "aaaa1111")
    text = path.read_text(encoding="utf-8").replace('"""', "'''").replace("message of aaaa1111", FOREIGN)
    path.write_text(text, encoding="utf-8")
    assert completed("fish", "fininfra-db upgrade a", project.root)["aaaa1111"] == FOREIGN
    assert "[red]50%[/red] [/]" in ask("zsh", "fininfra-db upgrade a", project.root).stdout
    assert set(completed("bash", "fininfra-db upgrade a", project.root)) == {"aaaa1111"}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("option", ["-C", "--project-root"])
def test_the_project_of_the_option_is_looked_at(project: Project, tmp_path: Path, shell: str, option: str) -> None:
    assert set(completed(shell, f"fininfra-db upgrade {option} {project.root} bbbb", tmp_path)) == {"bbbb2222"}


def test_the_project_above_and_the_one_of_the_environment_are_looked_at(project: Project, tmp_path: Path) -> None:
    assert set(completed("bash", "fininfra-db upgrade bb", project.root / "migrations")) == {"bbbb2222"}
    assert set(completed("bash", "fininfra-db upgrade bb", tmp_path, PROJECT_ROOT=str(project.root))) == {"bbbb2222"}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("line", ["upgrade ", "upgrade a", "show -C /no/such/folder a", "revision --head "])
def test_without_a_project_it_is_silent(tmp_path: Path, shell: str, line: str) -> None:
    assert completed(shell, f"fininfra-db {line}", tmp_path) == {}


@pytest.mark.parametrize("file", [".env", "alembic.ini", "migrations/versions/broken.py"])
def test_in_a_broken_project_it_is_silent(tmp_path: Path, key: str, file: str) -> None:
    project = sqlite_in(tmp_path, key)
    (project.root / file).write_bytes(b"the password is \xff\xfe\n")
    assert completed("bash", "fininfra-db upgrade ", project.root) == {}


def test_the_database_is_not_asked(project: Project, tmp_path: Path) -> None:
    offered = completed("bash", "fininfra-db upgrade aa", project.root, SQL_URL="nonsense", APP_ENV="production")
    assert set(offered) == {"aaaa1111"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine")
def test_bash_itself_completes_with_the_script_that_is_printed(project: Project) -> None:
    """The whole way: the script of the program, in the shell, asking the installed program."""
    environment = clean_environment() | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    script = subprocess.run(PROGRAM, env=environment | {"_FININFRA_DB_COMPLETE": "source_bash"}, capture_output=True, text=True, check=True)
    press = (
        "\nCOMP_WORDS=(fininfra-db downgrade bb)\nCOMP_CWORD=2\n_fininfra_db_completion fininfra-db\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script.stdout + press], cwd=project.root, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["bbbb2222"]
    assert done.stderr == ""
