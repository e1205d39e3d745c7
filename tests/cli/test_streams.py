"""Who reads what: the answer is on stdout, everything else on stderr, and ``--json`` is one object on stdout whatever happens."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fininfra_db.cli.options import Invocation
from fininfra_db.cli.output import Output
from fininfra_db.results import Result
from fininfra_db.security import generate_key
from tests.cli.helpers import (
    CANARY,
    FIRST,
    PROGRAM,
    Done,
    add_revision,
    add_three_revisions,
    commands,
    database_file,
    document_of,
    on_terminal,
    set_up,
    side_by_side,
    sqlite_in,
    together,
)
from tests.conftest import Project, clean_environment

ESCAPE = "\x1b"

SNAPSHOT = "20261122T084400.000Z-873e0a8abbd9"
"""A copy of the database that each project has."""

SUCCEEDS = {
    "check": (),
    "check-data": (),
    "create-tables": (),
    "current": (),
    "downgrade": ("-1",),
    "environment set": ("development",),
    "environment show": (),
    "heads": (),
    "history": ("-i",),
    "init": (),
    "keys encrypt": (),
    "keys generate": (),
    "keys rotate": ("--dry-run",),
    "keys status": (),
    "merge": ("heads", "-m", "join"),
    "migrate": (),
    "repair": ("--resume",),
    "reset": ("--yes",),
    "revision": ("-m", "more"),
    "seed": (),
    "setup-and-migrate": (),
    "show": ("head",),
    "snapshot delete": (SNAPSHOT,),
    "snapshot list": (),
    "snapshot restore": (SNAPSHOT, "--yes"),
    "snapshot save": (),
    "stamp": ("head",),
    "status": (),
    "upgrade": ("head",),
    "wait": (),
}
"""What each command needs to succeed in a project at head."""

NEEDED = {
    "downgrade": "base",
    "environment set": "staging",
    "merge": "heads",
    "repair": "--resume",
    "snapshot delete": SNAPSHOT,
    "snapshot restore": SNAPSHOT,
    "stamp": "head",
}
"""What must be said for the command line to be complete."""


@dataclass(frozen=True)
class Run:
    """One run, and the project that it was for."""

    project: Project
    done: Done


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, key: str) -> dict[str, Run]:
    """Every command in a project of its own, started elsewhere with every shared option behind its name."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(command: str) -> Run:
        project = sqlite_in(elsewhere, key)
        file = database_file(project)
        shutil.copyfile(file, file.with_name(f"{file.name}.snapshot-{SNAPSHOT}"))
        env_file = project.root / "other.env"
        env_file.write_text(f"FININFRA_DB_KEYS={key}\n", encoding="utf-8")
        shared = ("-C", str(project.root), "--sql-url", project.url, "--env-file", str(env_file), "--json", "-q", "-v", "--debug")
        silent = {"SQL_URL": "", "FININFRA_DB_KEYS": ""}
        return Run(project, project.run(*command.split(), *shared, *SUCCEEDS[command], env=silent, cwd=elsewhere))

    return dict(zip(SUCCEEDS, together(run, SUCCEEDS), strict=True))


def test_every_command_is_tried() -> None:
    assert sorted(SUCCEEDS) == commands()


@pytest.mark.parametrize("command", SUCCEEDS)
def test_json_is_one_object_when_a_command_succeeds(runs: dict[str, Run], command: str) -> None:
    done = runs[command].done
    document = document_of(done)
    assert done.returncode == 0
    assert document["ok"] is True
    assert document["command"] == command
    assert isinstance(document["result"], dict)
    assert document["error"] is None
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("command", [command for command in SUCCEEDS if command != "keys generate"])
def test_the_shared_options_are_taken_after_the_name_of_a_command(runs: dict[str, Run], command: str) -> None:
    project, done = runs[command].project, runs[command].done
    file = project.url.removeprefix("sqlite:///")
    assert document_of(done)["database"] == {"dialect": "sqlite", "url": f"sqlite+aiosqlite:///{file}", "source": "--sql-url"}


FAILS = {
    f"{command} {NEEDED.get(command, '')} {'extra' if command == 'keys generate' else '-C nowhere'} --json": command for command in SUCCEEDS
}
"""A project that is not there; ``keys generate`` needs none, so there it is an argument too many."""

WRONG = {f"{command} --no-such-option --json".strip(): command for command in (*SUCCEEDS, "", "keys")} | {
    "--json": "",
    "nonsense --json": "",
    "keys nonsense --json": "keys",
    "--json upgrade": "",
    "history --json -r": "history",
}


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """All of these, in a folder without a project."""
    return side_by_side(Project("sqlite", tmp_path_factory.mktemp("failures"), ""), (*FAILS, *WRONG))


@pytest.mark.parametrize(("line", "command"), FAILS.items())
def test_json_is_one_object_when_a_command_fails(failures: dict[str, Done], line: str, command: str) -> None:
    document = document_of(failures[line])
    assert failures[line].returncode == 2
    assert document["command"] == command
    assert document["database"] is None
    assert document["result"] is None
    assert document["error"]["code"] == ("usage" if command == "keys generate" else "project-not-found")
    assert document["error"]["hint"]


@pytest.mark.parametrize(("line", "command"), WRONG.items())
def test_json_is_one_object_when_the_command_line_is_wrong(failures: dict[str, Done], line: str, command: str) -> None:
    document = document_of(failures[line])
    assert failures[line].returncode == 2
    assert document["command"] == command
    assert document["error"]["code"] == "usage"
    assert document["error"]["message"]
    assert document["error"]["hint"] == f"See '{f'fininfra-db {command}'.strip()} --help'."


def test_json_holds_what_a_check_found_as_result_and_as_error(sqlite_project: Project) -> None:
    code, document = add_three_revisions(set_up(sqlite_project)).answer("check")
    assert code == 3
    assert document["ok"] is False
    assert document["result"]["pending"] == ["aaaa1111", "bbbb2222", "cccc3333"]
    assert document["result"]["findings"] == [document["error"]]
    assert document["error"]["code"] == "pending"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://finance:{CANARY}@db.example.org/finance",
        f"mysql://finance:{CANARY}@db.example.org/finance",
        f"mssql://finance:{CANARY}@db.example.org/finance?pwd={CANARY}",
        f"postgresql://db.example.org/finance?user=finance&password={CANARY}",
    ],
)
def test_the_url_is_shown_without_its_password(sqlite_project: Project, url: str) -> None:
    project = set_up(sqlite_project)
    plain, asked = together(lambda words: project.run("heads", *words, env={"SQL_URL": url}), [(), ("--json", "-v", "--debug")])
    document = document_of(asked)
    assert document["database"]["source"] == "SQL_URL in environment"
    assert "db.example.org/finance" in document["database"]["url"]
    assert "db.example.org/finance" in plain.stderr
    assert CANARY not in plain.stdout + plain.stderr + asked.stdout + asked.stderr


@dataclass(frozen=True, kw_only=True)
class Kept(Result):
    """Everything that JSON has no word of its own for."""

    amount: Decimal
    at: datetime
    path: Path


def test_decimals_instants_and_paths_are_json_strings(capsys: pytest.CaptureFixture[str]) -> None:
    winter_in_lisbon, summer_in_berlin = datetime(2026, 1, 2, 3, 4, 5, 600, UTC), datetime(2026, 7, 1, tzinfo=timezone(timedelta(hours=2)))
    for at in (winter_in_lisbon, summer_in_berlin):
        Output(Invocation("kept", json=True)).result(Kept(amount=Decimal("1234567890.1000"), at=at, path=Path("/a/b.py")))
    first, second = (json.loads(line)["result"] for line in capsys.readouterr().out.splitlines())
    assert (first["amount"], first["path"]) == ("1234567890.1000", "/a/b.py")
    assert (first["at"], second["at"]) == ("2026-01-02T03:04:05.000600Z", "2026-06-30T22:00:00Z")


# Text.


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, key: str) -> Project:
    """A project with three revisions that its database does not have; only looked at."""
    return add_three_revisions(sqlite_in(tmp_path_factory.mktemp("behind"), key))


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["current"], f"{FIRST}\n"),
        (["heads"], "bbbb2222 -> cccc3333 (head), message of cccc3333\n"),
        (["history", "-r", "bbbb2222:"], "bbbb2222 -> cccc3333 (head), message of cccc3333\naaaa1111 -> bbbb2222, message of bbbb2222\n"),
        (["current", "-c"], f"{FIRST}\n"),
        (["check"], ""),
    ],
    ids=" ".join,
)
def test_stdout_is_the_answer_and_nothing_else(behind: Project, words: list[str], answer: str) -> None:
    done = behind.run(*words)
    assert done.stdout == answer
    assert done.stderr.startswith("database: sqlite+aiosqlite:///")


def test_a_script_on_stdout_runs_as_it_is(behind: Project, tmp_path: Path) -> None:
    done = behind.run("upgrade", "--sql", "-v")
    with closing(sqlite3.connect(tmp_path / "made.db")) as connection:
        connection.executescript(done.stdout)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("cccc3333",)]


def test_a_generated_key_is_all_that_is_printed(sqlite_project: Project) -> None:
    done = sqlite_project.run("keys", "generate")
    assert re.fullmatch(r"[\w-]{43}=\n", done.stdout, re.ASCII)
    assert done.stderr == ""


def test_warnings_are_on_stderr_and_in_the_json(sqlite_project: Project, tmp_path: Path) -> None:
    keyless = {"FININFRA_DB_KEYS": ""}
    (tmp_path / "other").mkdir()
    done = sqlite_project.run("init", env=keyless)
    assert "development key" in done.stderr
    assert "development key" not in done.stdout
    document = document_of(sqlite_project.run("init", "--json", "-C", str(tmp_path / "other"), env=keyless))
    assert "development key" in document["result"]["warnings"][0]


@pytest.mark.parametrize("words", [["downgrade", "zzzz"], ["downgrade", "--nope"], ["show", "zzzz"], ["upgrade", "a:b"]], ids=" ".join)
def test_an_error_leaves_stdout_empty(behind: Project, words: list[str]) -> None:
    done = behind.run(*words)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Error: " in done.stderr


def test_quiet_keeps_notes_back_but_no_answer_and_no_error(behind: Project, sqlite_project: Project) -> None:
    assert behind.run("current", "--quiet").stderr == ""
    assert behind.run("current", "-q").stdout == f"{FIRST}\n"
    assert behind.run("check", "-q").stderr.startswith("3 revisions are pending")
    assert behind.run("show", "zzzz", "-q").stderr.startswith("Error: ")
    upgraded = add_three_revisions(set_up(sqlite_project)).run("upgrade", "-q")
    assert (upgraded.returncode, upgraded.stdout, upgraded.stderr) == (0, "", "")


def test_verbose_shows_revisions_in_full(behind: Project) -> None:
    done = behind.run("history", "-r", "bbbb2222:bbbb2222", "-v")
    path = behind.root / "migrations" / "versions" / "bbbb2222.py"
    assert done.stdout.split("\n") == [
        "Revision: bbbb2222",
        "Parent: aaaa1111",
        f"Path: {path}",
        "Message: message of bbbb2222",
        "",
        "",
    ]


def test_verbose_says_on_stderr_what_runs(sqlite_project: Project) -> None:
    project = add_three_revisions(set_up(sqlite_project))
    assert "Applying" not in project.run("upgrade", "+1").stderr
    done = project.run("upgrade", "-v")
    assert "Applying bbbb2222 message of bbbb2222\n" in done.stderr
    assert "Applying cccc3333 message of cccc3333\n" in done.stderr
    assert "Applying" not in done.stdout
    assert "plugin" not in done.stderr, "how Alembic starts is of no use to anybody"


def test_debug_adds_the_traceback_and_only_debug_does(behind: Project) -> None:
    plain, debug = (behind.run("show", "zzzz", *words) for words in ((), ("--debug",)))
    assert "Traceback (most recent call last)" in debug.stderr
    assert debug.stderr.startswith(plain.stderr)
    assert "Traceback" not in plain.stderr


# Terminals and pipes.


@pytest.mark.parametrize("words", [["history"], ["history", "--json"], ["check", "-v"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(behind: Project, words: list[str]) -> None:
    """``fininfra-db history | head -1``: whoever reads has closed the pipe, here before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    environ = clean_environment() | behind.environ | {"SQL_URL": behind.url}
    done = subprocess.run([*PROGRAM, *words], cwd=behind.root, env=environ, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert done.returncode == behind.run(*words).returncode
    assert done.stderr == behind.run(*words).stderr


def test_a_pipe_gets_plain_text_without_being_asked(behind: Project) -> None:
    done = behind.run("history", env={"NO_COLOR": "", "TERM": "xterm-256color", "FORCE_COLOR": "", "COLORTERM": "truecolor"})
    assert ESCAPE not in done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "bbbb2222 -> cccc3333 (head), message of cccc3333"


def test_a_terminal_gets_a_table(behind: Project) -> None:
    done = on_terminal(behind, "history", "-q")
    assert ESCAPE in done.screen
    plain = re.sub(rf"{ESCAPE}\[[0-9;]*m", "", done.screen).splitlines()
    assert plain[0].split() == ["revision", "parent", "created", "message"]
    assert plain[1].split() == ["cccc3333", "bbbb2222", "(head)", "message", "of", "cccc3333"]
    assert "->" not in done.screen


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
@pytest.mark.parametrize("words", [["history"], ["show", "zzzz"], ["downgrade", "--nope"], ["--help"]], ids=" ".join)
def test_a_terminal_that_asks_for_plain_text_gets_what_a_pipe_gets(behind: Project, words: list[str], environ: dict[str, str]) -> None:
    done, piped = on_terminal(behind, *words, **environ), behind.run(*words)
    assert ESCAPE not in done.screen
    assert done.screen == piped.stderr + piped.stdout
    assert done.returncode == piped.returncode


def test_a_terminal_gets_the_same_json_as_a_pipe(behind: Project) -> None:
    assert on_terminal(behind, "history", "--json").screen == behind.run("history", "--json").stdout


def test_json_never_asks(behind: Project) -> None:
    done = on_terminal(behind, "reset", "--json", typed="y\n")
    assert done.returncode == 4
    assert json.loads(done.screen)["error"]["code"] == "confirmation-required"


def test_progress_is_shown_on_a_terminal_and_not_in_a_pipe(sqlite_project: Project) -> None:
    project = add_three_revisions(set_up(sqlite_project))
    assert "Applying aaaa1111" in on_terminal(project, "upgrade", "+1").screen
    assert "Applying bbbb2222" not in project.run("upgrade", "+1").stderr


def test_foreign_text_is_never_taken_for_markup(sqlite_project: Project) -> None:
    project = set_up(sqlite_project)
    path = add_revision(project, "aaaa1111")
    path.write_text(path.read_text(encoding="utf-8").replace("message of aaaa1111", "[red]drop[/red] [/] [link=x]"), encoding="utf-8")
    assert "[red]drop[/red] [/] [link=x]" in on_terminal(project, "history").screen
    assert "[red]drop[/red]" in on_terminal(project, "upgrade").screen
    assert "[/nope]" in on_terminal(project, "show", "[/nope]").screen


def test_a_key_is_made_anew_each_time(runs: dict[str, Run]) -> None:
    made: Any = document_of(runs["keys generate"].done)["result"]["key"]
    assert len(made) == len(generate_key())
    assert made not in runs["keys generate"].project.environ.values()
