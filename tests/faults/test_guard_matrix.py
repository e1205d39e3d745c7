"""No single slip empties a protected database: marker x APP_ENV x host x terminal x confirmation x command.

Every cell goes through the real ``Database`` and the command line's real way to ask, in this process, against real databases:
SQLite for this machine, and the local PostgreSQL under a host name that is not one of this machine's for another. A cell
that is let through is stopped right there, before anything changes. What follows then is seen in the runs of the program
at the end of this file.
"""

import asyncio
import io
import itertools
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import make_url

from fininfra_db.cli.asking import Asking
from fininfra_db.cli.options import Invocation
from fininfra_db.cli.output import Output
from fininfra_db.connections import ensure_database
from fininfra_db.database import Database
from fininfra_db.dialects import target_of
from fininfra_db.errors import FininfraDbError, Refused
from fininfra_db.events import BlastRadius, Event
from fininfra_db.migrate import guard
from fininfra_db.migrate.marker import set_environment
from fininfra_db.settings import load_settings
from tests.cli.helpers import on_terminal, run_sql, set_up
from tests.conftest import Project, drop_database, make_project, url_on

MARKERS = (None, "development", "staging", "production", "pci")
APP_ENVS = (None, "development", "staging", "production")
PROTECTED = ("production", "pci")
HOSTS = ("local", "remote")
TERMINALS = (False, True)
CONFIRMATIONS = ("none", "--yes", "right name", "wrong name", "--yes and right name")
COMMANDS = ("reset", "seed", "downgrade", "snapshot restore")
ASKING = ("reset", "snapshot restore")
"""The commands that ask for a yes where nothing is protected."""
SEEDING = ("reset --seed", "seed")
"""The commands that write example rows."""
SLIP = "y\n"
"""What a person answers who reads no question."""


class Passed(Exception):
    """The guard let a command through."""


class Terminal(io.StringIO):
    """A terminal on which everything has been typed in advance."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Cell:
    marker: str | None
    app_env: str | None
    host: str
    terminal: bool
    confirmation: str
    command: str

    @property
    def is_endangered(self) -> bool:
        """The rule in the words of the issue: protected, or another environment than believed, or unknown and elsewhere."""
        if self.marker in PROTECTED or self.app_env in PROTECTED:
            return True
        if self.marker is None:
            return self.host == "remote"
        return self.marker != (self.app_env or "development")

    @property
    def is_hopeless(self) -> bool:
        """Example rows never come into a protected database, nor into one that would be marked so."""
        return self.command in SEEDING and (self.marker or self.app_env) in PROTECTED

    @property
    def should_pass(self) -> bool:
        if self.is_hopeless:
            return False
        if "right name" in self.confirmation:
            return True
        if self.confirmation == "wrong name" or self.is_endangered:
            return False
        return self.command not in ASKING or self.terminal or self.confirmation == "--yes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a project with a table and a seed that does nothing."""
    root = tmp_path_factory.mktemp("matrix")
    table = "sa.Table('things', metadata, sa.Column('id', sa.Integer, primary_key=True))"
    models = f"import sqlalchemy as sa\n\nmetadata = sa.MetaData()\n{table}\n"
    (root / "matrix_models.py").write_text(models, encoding="utf-8")
    (root / "matrix_seeds.py").write_text("def run(session):\n    raise KeyboardInterrupt\n", encoding="utf-8")
    asyncio.run(
        Database(load_settings(project_root=root, environ={"APP_ENV": "production", "SQL_URL": "sqlite:///none.db"})).init(
            models=("matrix_models",)
        )
    )
    ini = root / "alembic.ini"
    ini.write_text(ini.read_text(encoding="utf-8").replace("[fininfra_db]", "[fininfra_db]\nprotected = production, pci"), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def urls(folder: Path) -> Iterator[dict[str, str]]:
    """A database with rows for each kind of host."""
    made = {
        "local": url_on("sqlite", folder, "matrix"),
        "remote": elsewhere(url_on("postgresql", folder, f"fininfra_matrix_{os.getpid()}")),
    }
    for url in made.values():
        asyncio.run(_fill(Project("", folder, url)))
    yield made
    asyncio.run(drop_database(made["remote"]))


async def _fill(project: Project) -> None:
    await ensure_database(project.settings())
    await project.execute(
        "CREATE TABLE things (id INTEGER PRIMARY KEY)",
        "INSERT INTO things VALUES (1), (2)",
        "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)",
    )


def elsewhere(url: str) -> str:
    """The same server under a host name that does not say that it is this machine."""
    parsed = make_url(url)
    for host in (parsed.host, socket.gethostname(), "0.0.0.0"):
        renamed = parsed.set(host=host)
        if (
            host
            and not target_of(load_settings(sql_url=str(renamed), environ={})).dialect.is_local(renamed)
            and _answers(host, parsed.port or 5432)
        ):
            return renamed.render_as_string(hide_password=False)
    pytest.skip("the local PostgreSQL answers under no name but this machine's own")


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def run(cell: Cell, project: Project, monkeypatch: pytest.MonkeyPatch, typed: str = SLIP) -> FininfraDbError | None:
    """The error that refused the cell's command; None when it was let through."""
    name = Path(make_url(project.url).database or "").name
    given = {"right name": name, "wrong name": f"{name}x", "--yes and right name": name}.get(cell.confirmation)
    for stream, text in (("stdin", typed), ("stderr", "")):
        monkeypatch.setattr(sys, stream, Terminal(text) if cell.terminal else io.StringIO(text))
    settings = project.settings(**({"APP_ENV": cell.app_env} if cell.app_env else {}))
    asking = Asking(Output(Invocation(cell.command)), yes="--yes" in cell.confirmation)
    database = Database(settings, observer=_stop, confirm=asking)
    verbs = {
        "reset": lambda: database.reset(confirm_database=given),
        "reset --seed": lambda: database.reset(seed="matrix_seeds:run", confirm_database=given),
        "seed": lambda: database.seed("matrix_seeds:run", confirm_database=given),
        "downgrade": lambda: database.downgrade("base", confirm_database=given),
        "snapshot restore": lambda: database._require(guard.RESTORE, given),
    }
    try:
        asyncio.run(verbs[cell.command]())
    except Refused as error:
        return error
    except (Passed, KeyboardInterrupt):  # the seed itself was reached
        return None
    raise AssertionError("the command went on")


def _stop(event: Event) -> None:
    assert isinstance(event, BlastRadius)
    raise Passed


CELLS = list(itertools.product(TERMINALS, CONFIRMATIONS, COMMANDS))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("marker", MARKERS)
def test_every_cell(
    folder: Path, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str, marker: str | None
) -> None:
    """Wrong allows and wrong refusals are counted apart: the first lose data, the second make people turn guards off."""
    project = Project("", folder, urls[host])
    asyncio.run(set_environment(project.settings(), marker))
    allows, refusals, tried = [], [], 0
    for app_env, rest in itertools.product(APP_ENVS, CELLS):
        cell = Cell(marker, app_env, host, *rest)
        error = run(cell, project, monkeypatch)
        tried += 1
        if error is None and not cell.should_pass:
            allows.append(cell)
        if error is not None and cell.should_pass:
            refusals.append((cell, error.message))
        if error is not None:
            assert error.exit_code == 4
            assert "Nothing was changed" in error.message
            if cell.is_endangered and not cell.terminal and cell.confirmation in ("none", "--yes"):
                name = Path(make_url(project.url).database or "").name
                assert (f"add --confirm-database {name}" in (error.hint or "")) != cell.is_hopeless, cell
                assert not cell.is_hopeless or "environment set" in (error.hint or "") or "correct APP_ENV" in (error.hint or ""), cell
    assert (allows, refusals, tried) == ([], [], 160)
    assert asyncio.run(project.rows("SELECT count(*) FROM things")) == [(2,)]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in SEEDING])
@pytest.mark.parametrize(
    ("typed", "passes"), [("{name}\n", True), ("{name}x\n", False), ("\n", False), ("", False), ("yes\n", False), ("production\n", False)]
)
def test_a_person_types_the_name(
    folder: Path, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch, command: str, typed: str, passes: bool
) -> None:
    project = Project("", folder, urls["remote"])
    asyncio.run(set_environment(project.settings(), "production"))
    name = make_url(project.url).database or ""
    for confirmation in ("none", "--yes"):
        cell = Cell("production", "production", "remote", True, confirmation, command)
        error = run(cell, project, monkeypatch, typed.format(name=name))
        assert (error is None) == passes
        assert error is None or error.message == "Not confirmed. Nothing was changed."


@pytest.mark.parametrize("command", SEEDING)
def test_nobody_is_asked_for_a_name_that_does_not_help(
    folder: Path, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    project = Project("", folder, urls["local"])
    name = Path(make_url(project.url).database or "").name
    for marker, app_env, reason in (
        ("production", None, "the database is marked production"),
        (None, "production", "APP_ENV is production"),
    ):
        asyncio.run(set_environment(project.settings(), marker))
        for confirmation in ("none", "right name"):
            error = run(Cell(marker, app_env, "local", True, confirmation, command), project, monkeypatch, f"{name}\n")
            assert error is not None
            assert f"{command} is refused: {reason}, which is protected, and example rows are never written there. " in error.message


# The program itself.


@pytest.fixture
def production(sqlite_project: Project) -> Project:
    """The schema with a user in it, marked as production."""
    run_sql(set_up(sqlite_project), "INSERT INTO users (id, email) VALUES ('1', 'a@example.org')")
    asyncio.run(set_environment(sqlite_project.settings(), "production"))
    return sqlite_project


def users(project: Project) -> int:
    try:
        return int(asyncio.run(project.rows("SELECT count(*) FROM users"))[0][0])
    except Exception:  # the table is gone, which is the worst case
        return -1


DATA_LOSS = (("reset",), ("reset", "--yes"), ("reset", "-y", "--seed"), ("downgrade", "base"), ("downgrade", "-1"), ("seed",))


@pytest.mark.parametrize("words", DATA_LOSS, ids=" ".join)
def test_the_program_refuses_and_says_how(production: Project, words: tuple[str, ...]) -> None:
    """In whatever environment it believes to be, which the cells above try one by one."""
    code, document = production.answer(*words, env={"APP_ENV": "development"})
    name = Path(make_url(production.url).database or "").name
    assert (code, document["error"]["code"]) == (4, "protected")
    assert "--confirm-database finance.db" not in document["error"]["message"]
    assert f"--confirm-database {name}" in document["error"]["hint"]
    assert (f"add --confirm-database {name}" in document["error"]["hint"]) != (words[-1] in ("seed", "--seed"))
    assert words[0] == "seed" or "1 row: users 1; newest write " in document["error"]["message"]
    assert production.run(*words, "--confirm-database", "finance").returncode == 4
    assert users(production) == 1


@pytest.mark.parametrize("words", DATA_LOSS, ids=" ".join)
def test_the_program_does_it_with_the_name_but_for_seeds(production: Project, words: tuple[str, ...]) -> None:
    name = Path(make_url(production.url).database or "").name
    done = production.run(*words, "--confirm-database", name)
    seeds = words[-1] in ("seed", "--seed")
    assert done.returncode == (4 if seeds else 0), done.stderr
    assert users(production) == (1 if seeds else {"reset": 0, "downgrade": -1}[words[0]])
    assert production.run("environment", "show").stdout == "production (protected)\n"


@pytest.mark.parametrize("words", [("reset",), ("reset", "--yes"), ("downgrade", "base", "-q")], ids=" ".join)
def test_on_a_terminal_the_name_is_typed(production: Project, words: tuple[str, ...]) -> None:
    name = Path(make_url(production.url).database or "").name
    for typed in ("y\n", "\n", "\x04") if words == ("reset",) else ("y\n",):
        done = on_terminal(production, *words, typed=typed, NO_COLOR="1")
        assert (done.returncode, users(production)) == (4, 1), done.screen
    assert "Not confirmed. Nothing was changed." in done.screen
    assert "marked production" in done.screen
    assert done.screen.count("1 row: users 1; newest write ") == 1
    assert "(from SQL_URL in environment)" in done.screen
    assert on_terminal(production, *words, typed="\x03", NO_COLOR="1").returncode == 130
    assert users(production) == 1
    done = on_terminal(production, *words, typed=f"{name}\n", NO_COLOR="1")
    assert done.returncode == 0, done.screen
    assert done.screen.count("1 row: users 1; newest write ") == 1
    assert users(production) != 1


def test_nobody_is_asked_where_nothing_is_protected(sqlite_project: Project) -> None:
    project = set_up(sqlite_project)
    for words in (("seed",), ("downgrade", "base"), ("upgrade",), ("reset", "--yes")):
        done = on_terminal(project, *words, NO_COLOR="1")
        assert done.returncode == 0, done.screen
        assert "Type the name" not in done.screen
        assert project.run(*words).returncode == 0


def test_a_database_on_another_machine(tmp_path: Path, key: str) -> None:
    """Without a marker it is refused once it holds rows; marked as what APP_ENV says it is not."""
    for project in make_project("postgresql", tmp_path, key):
        project.url = elsewhere(project.url)
        set_up(project)
        assert project.run("downgrade", "base").returncode == 0
        assert project.run("upgrade").returncode == 0
        assert project.run("seed").returncode == 0, "an empty database is nobody's"
        for words in (("reset", "--yes"), ("downgrade", "base"), ("seed",)):
            code, document = project.answer(*words)
            assert (code, document["error"]["code"]) == (4, "protected")
            assert "another machine" in document["error"]["message"]
            assert "environment set development" in document["error"]["hint"]
        assert users(project) == 2
        assert project.run("environment", "set", "development").returncode == 0
        assert project.run("reset", "--yes").returncode == 0
        assert users(project) == 0
