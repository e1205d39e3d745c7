"""Whatever is wrong with what the program is given: its exit code, one clear message, a next step, and nothing else.

Nothing is written, no traceback is shown and no secret is told, not even with ``--json``, ``-v`` and ``--debug``.
"""

import asyncio
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from sqlalchemy import make_url

from tests.cli.helpers import (
    CANARY,
    CLOSED_PORT,
    FIRST,
    add_revision,
    database_file,
    document_of,
    run_sql,
    set_up,
    side_by_side,
    tables_in,
    together,
    traces,
    use_models,
    versions_in,
)
from tests.conftest import LOCAL_SERVERS, Project

LOGIN = f"finance:{CANARY}"


@dataclass(frozen=True)
class Case:
    """What is typed in a project at head, after what has happened to it; how that ends, and what must be said."""

    line: str
    exit_code: int
    code: str
    says: str
    spoil: Callable[[Project], object] = lambda project: None
    environ: dict[str, str] = field(default_factory=dict)


# What can happen to a project.


def empty(project: Project) -> None:
    shutil.rmtree(project.root)
    project.root.mkdir()


def a_file(name: str, content: str | bytes) -> Callable[[Project], object]:
    def spoil(project: Project) -> None:
        (project.root / name).parent.mkdir(parents=True, exist_ok=True)
        (project.root / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def models(content: str) -> Callable[[Project], object]:
    def spoil(project: Project) -> None:
        (project.root / "my_models.py").write_text(content, encoding="utf-8")
        use_models(project, "my_models")

    return spoil


def a_revision(**options: str) -> Callable[[Project], object]:
    return lambda project: add_revision(project, "aaaa1111", **options)


def an_option(line: str) -> Callable[[Project], object]:
    """One line in the ``[alembic]`` section of ``alembic.ini``, in place of that option's own."""

    def spoil(project: Project) -> None:
        ini = project.root / "alembic.ini"
        lines = [each for each in ini.read_text(encoding="utf-8").splitlines() if not each.startswith(line.partition(" ")[0])]
        ini.write_text("\n".join(lines).replace("[alembic]", f"[alembic]\n{line}", 1), encoding="utf-8")

    return spoil


def ahead(project: Project) -> None:
    run_sql(project, "UPDATE alembic_version SET version_num = 'ffff9999'")


def without_env_py(project: Project) -> None:
    (project.root / "migrations" / "env.py").unlink()


def without_migrations(project: Project) -> None:
    shutil.rmtree(project.root / "migrations")


def not_utf_8(project: Project) -> None:
    add_revision(project, "aaaa1111").write_bytes(b"revision = '\xff\xfe'\n")


def the_same_identifier_twice(project: Project) -> None:
    add_revision(project, "aaaa1111", file="one")
    add_revision(project, "aaaa1111", file="two")


def two_heads(project: Project) -> None:
    add_revision(project, "aaaa1111")
    add_revision(project, "aaaa2222")


def two_that_begin_alike(project: Project) -> None:
    add_revision(project, "aaaa1111")
    add_revision(project, "aaaa2222", "aaaa1111")


def sealed_with_another_key(project: Project) -> None:
    (project.root / "seeds.py").write_text(
        "from sqlalchemy import select\nfrom fininfra_db import BankConnection\n\n\ndef read(session):\n"
        "    return [each.access_token for each in session.scalars(select(BankConnection))]\n",
        encoding="utf-8",
    )
    assert project.run("seed").returncode == 0


def without_driver(module: str) -> Callable[[Project], object]:
    """Python, on PYTHONPATH, finds a module that keeps the driver from being imported."""
    return a_file(
        "blocked/sitecustomize.py",
        f"import sys\n\n\nclass Blocked:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {module!r}:\n            raise ModuleNotFoundError('No module named ' + name, name=name)\n\n"
        "sys.meta_path.insert(0, Blocked())\n",
    )


def url(text: str) -> dict[str, str]:
    return {"SQL_URL": text}


NOWHERE = f"postgresql://{LOGIN}@127.0.0.1:{CLOSED_PORT}/books"
NOWHERE_MYSQL = f"mysql://{LOGIN}@127.0.0.1:{CLOSED_PORT}/books"
OUR_ENV = "fininfra_db.migrate.environment"
BLOCKED = {"PYTHONPATH": "blocked"}
TWICE = (
    "from sqlalchemy import Column, Integer, MetaData, Table\n"
    "one, two = MetaData(), MetaData()\n"
    "for each in (one, two):\n    Table('books', each, Column('id', Integer, primary_key=True))\n"
)
SECRET_IN_MODELS = "import os\nraise RuntimeError('cannot reach ' + os.environ['SQL_URL'] + ' ' + os.environ['FININFRA_DB_KEYS'])\n"

CASES = {
    "no server answers": Case("current", 6, "database-unreachable", "'books' at 127.0.0.1", environ=url(NOWHERE)),
    "no server answers, mysql": Case("upgrade", 6, "database-unreachable", "'books' at 127.0.0.1", environ=url(NOWHERE_MYSQL)),
    "no server for a first setup": Case("setup-and-migrate", 6, "database-unreachable", "127.0.0.1", empty, url(NOWHERE)),
    "no server for a reset": Case("reset --yes", 6, "database-unreachable", "127.0.0.1", environ=url(NOWHERE_MYSQL)),
    "unknown host": Case(
        "check", 6, "database-unreachable", "no-such-host.invalid", environ=url(f"postgresql://{LOGIN}@no-such-host.invalid/books")
    ),
    "unknown scheme": Case("current", 2, "url-invalid", "unknown kind", environ=url(f"oracle://{LOGIN}@localhost/books")),
    "unknown scheme for a first setup": Case("setup-and-migrate", 2, "url-invalid", "unknown kind", empty, url(f"db2://{LOGIN}@h/books")),
    "not a URL": Case("current", 2, "url-invalid", "cannot be parsed", environ=url(f"nonsense {CANARY}")),
    "no scheme": Case("upgrade", 2, "url-invalid", "cannot be parsed", environ=url(f"//{LOGIN}@localhost/books")),
    "the port is no number": Case("upgrade", 2, "url-invalid", "SQL_URL", environ=url(f"postgresql://{LOGIN}@localhost:port/books")),
    "an @ in the password": Case(
        "current", 2, "url-invalid", "'@'", environ=url(f"postgresql://finance:{CANARY}@{CANARY}@localhost/books")
    ),
    "no database": Case("current", 2, "url-invalid", "names no database", environ=url(f"mysql://{LOGIN}@localhost")),
    "unknown sslmode": Case("current", 2, "url-invalid", "sslmode", environ=url(f"{NOWHERE}?sslmode=perhaps")),
    "unknown option": Case("upgrade", 2, "url-invalid", "nonsense", environ=url(f"{NOWHERE_MYSQL}?nonsense=1")),
    "no mysql driver": Case("current", 2, "driver-missing", "aiomysql", without_driver("aiomysql"), BLOCKED | url(NOWHERE_MYSQL)),
    "no mssql driver": Case(
        "upgrade", 2, "driver-missing", "aioodbc", without_driver("aioodbc"), BLOCKED | url(f"mssql://{LOGIN}@localhost/books")
    ),
    "no URL in production": Case("upgrade", 2, "url-missing", "APP_ENV", environ={"SQL_URL": "", "APP_ENV": "production"}),
    "no file with the URL": Case("current", 2, "url-missing", "nofile", environ={"SQL_URL": "", "SQL_URL_FILE": "nofile"}),
    "no project folder": Case("upgrade -C nowhere", 2, "project-not-found", "nowhere"),
    "no project folder in PROJECT_ROOT": Case("upgrade", 2, "project-not-found", "nowhere", environ={"PROJECT_ROOT": "nowhere"}),
    "no folder for a first SQLite file": Case(
        "setup-and-migrate", 6, "database-unreachable", "nowhere", empty, url("sqlite:///nowhere/books.db")
    ),
    "no SQLite file": Case("current", 6, "database-missing", "setup-and-migrate", environ=url("sqlite:///missing.db")),
    "a folder that takes no file": Case("upgrade", 6, "database-unreachable", "/proc/books.db", environ=url("sqlite:////proc/books.db")),
    "a folder below a file": Case("upgrade", 6, "database-unreachable", "alembic.ini", environ=url("sqlite:///alembic.ini/books.db")),
    "a database in memory": Case("upgrade", 2, "configuration", "in memory", environ=url("sqlite://")),
    "an unknown revision": Case("upgrade zzzz", 1, "revision-not-found", "'zzzz'"),
    "an unknown revision to stamp": Case("stamp zzzz", 1, "revision-not-found", "'zzzz'"),
    "an unknown revision as SQL": Case("upgrade --sql base:zzzz", 1, "revision-not-found", "'zzzz'"),
    "an ambiguous revision": Case("upgrade aaaa", 1, "revision-ambiguous", "'aaaa1111', 'aaaa2222'", two_that_begin_alike),
    "models with a typing error": Case(
        "check", 2, "models-not-loaded", "fininfra_db.modelz", lambda project: use_models(project, "fininfra_db.modelz")
    ),
    "models that tell secrets": Case("create-tables", 2, "models-not-loaded", "***", models(SECRET_IN_MODELS), url(NOWHERE)),
    "models with an error": Case("create-tables", 2, "models-not-loaded", "ZeroDivisionError", models("1 / 0\n")),
    "models that do not compile": Case("revision --autogenerate -m x", 2, "models-not-loaded", "SyntaxError", models("x = = 1\n")),
    "models that end the program": Case("check", 2, "models-not-loaded", "SystemExit", models("raise SystemExit(0)\n")),
    "models without a table": Case("revision --autogenerate -m x", 2, "models-not-loaded", "No table", models("x = 1\n")),
    "models for a first setup": Case(
        "setup-and-migrate", 2, "models-not-loaded", "nowhere", lambda project: (empty(project), _ini_with_models(project, "nowhere"))
    ),
    "an open quote in .env": Case("current", 2, "env-file-malformed", "line 2", a_file(".env", f"# mine\nSQL_URL='{CANARY}\n")),
    "words in .env": Case("upgrade", 2, "env-file-malformed", "line 1", a_file(".env", f"the password is {CANARY}\n")),
    "bytes in .env": Case("init", 2, "env-file-malformed", "UTF-8", a_file(".env", b"SQL_URL=\xff\xfe\n")),
    "no --env-file": Case("current --env-file nofile", 2, "env-file-malformed", "nofile"),
    "a revision without upgrade": Case(
        "upgrade",
        1,
        "revision-broken",
        "has no upgrade()",
        a_file("migrations/versions/z.py", "revision = 'z'\ndown_revision = '873e0a8abbd9'\n"),
    ),
    "words in alembic.ini": Case("current", 2, "configuration", "line 1", a_file("alembic.ini", f"the password is {CANARY}\n")),
    "twice in alembic.ini": Case(
        "upgrade", 2, "configuration", "line 3", a_file("alembic.ini", "[alembic]\nscript_location = a\nscript_location = b\n")
    ),
    "bytes in alembic.ini": Case("init", 2, "configuration", "alembic.ini", a_file("alembic.ini", b"[alembic]\nx = \xff\xfe\n")),
    "nothing in alembic.ini": Case("current", 2, "configuration", "script_location", a_file("alembic.ini", "")),
    "no package in alembic.ini": Case(
        "current", 2, "configuration", "nowhere", a_file("alembic.ini", "[alembic]\nscript_location = nowhere:db\n")
    ),
    "words in pyproject.toml": Case("current", 2, "configuration", "pyproject.toml", a_file("pyproject.toml", f"password {CANARY}\n")),
    "no alembic.ini": Case("current", 2, "project-not-found", "alembic.ini", empty),
    "no migrations": Case("upgrade", 2, "project-not-found", "migrations", without_migrations),
    "no env.py": Case("upgrade", 2, "project-not-found", "env.py", without_env_py),
    "an env.py with an error": Case(
        "check", 1, "environment-failed", "env.py failed in line 2", a_file("migrations/env.py", f"# {OUR_ENV}\n1 / 0\n")
    ),
    "an env.py that ends the program": Case(
        "check", 1, "environment-failed", "env.py failed in line 2", a_file("migrations/env.py", f"# {OUR_ENV}\nraise SystemExit(0)\n")
    ),
    "an env.py that does not compile": Case(
        "check", 1, "environment-failed", "env.py failed in line 2", a_file("migrations/env.py", f"# {OUR_ENV}\nx = = 1\n")
    ),
    "an env.py of somebody else with an error": Case(
        "current", 1, "environment-failed", "env.py failed in line 2", a_file("migrations/env.py", "from os import path\nimport nowhere\n")
    ),
    "an option that refers to nothing": Case(
        "revision -m x", 2, "configuration", "The option file_template in alembic.ini", an_option("file_template = %(bogus)s")
    ),
    "a file name of nothing": Case("revision -m x", 2, "configuration", "file_template", an_option("file_template = %%(bogus)s_%%(slug)s")),
    "an option with a single percent sign": Case(
        "check", 2, "configuration", "The option timezone in alembic.ini", an_option("timezone = 100% local")
    ),
    "an unknown driver": Case(
        "current", 2, "url-invalid", "a driver that is not known for PostgreSQL", environ=url(f"postgresql+foo://{LOGIN}@localhost/books")
    ),
    "a table in two MetaData": Case("check", 2, "models-not-loaded", "more than one MetaData: books", models(TWICE)),
    "a table in two MetaData to create": Case("create-tables", 2, "models-not-loaded", "books", models(TWICE)),
    "a database ahead to stamp": Case("stamp head", 1, "database-ahead", "stamp --purge", ahead),
    "no key": Case("seed", 2, "key-missing", "key", environ={"FININFRA_DB_KEYS": ""}),
    "no key that is one": Case("seed", 2, "key-invalid", "FININFRA_DB_KEYS", environ={"FININFRA_DB_KEYS": CANARY}),
    "no file with the key": Case("seed", 2, "key-missing", "nofile", environ={"FININFRA_DB_KEYS": "", "FININFRA_DB_KEYS_FILE": "nofile"}),
    "another key": Case("seed seeds:read", 1, "seed-failed", "another key", sealed_with_another_key, {"FININFRA_DB_KEYS": f"{'A' * 43}="}),
    "a seed with an error": Case(
        "seed seeds:run", 1, "seed-failed", "ZeroDivisionError", a_file("seeds.py", "def run(session):\n    1 / 0\n")
    ),
}

NO_DATABASES = {
    "empty": (b"", "0 bytes"),
    "another format": (b"PK\x03\x04" + CANARY.encode(), "not a SQLite database"),
    "damaged": (b"SQLite format 3\x00" + b"\xff" * 4096, "database"),
}

BROKEN = {
    "a syntax error": (a_revision(more="x = = 1"), "revision-broken", "aaaa1111.py"),
    "an import that fails": (a_revision(more="import nowhere"), "revision-broken", "aaaa1111.py"),
    "an error": (a_revision(more="1 / 0"), "revision-broken", "aaaa1111.py"),
    "the end of the program": (a_revision(more="raise SystemExit(0)"), "revision-broken", "aaaa1111.py"),
    "bytes": (not_utf_8, "revision-broken", "aaaa1111.py"),
    "a parent that is missing": (a_revision(parent="gone"), "revision-broken", "gone"),
    "an identifier twice": (the_same_identifier_twice, "revision-broken", "one.py"),
    "two heads": (two_heads, "multiple-heads", "aaaa1111, aaaa2222"),
}

READERS = ("current", "history", "heads", "show", "check")
WRITERS = (
    "upgrade --sql",
    "downgrade base",
    "stamp head",
    "revision -m x",
    "revision --autogenerate -m x",
    "merge heads",
    "setup-and-migrate",
)


def _ini_with_models(project: Project, name: str) -> None:
    (project.root / "alembic.ini").write_text(f"[alembic]\nscript_location = db\n[fininfra_db]\nmodels = {name}\n", encoding="utf-8")


def ends_well(project: Project, case: Case) -> None:
    """Run a case as it is and with everything told that can be told, and look at all that a bad input must and must not do."""
    before = traces(project.root)
    lines = (case.line, f"{case.line} --json -v --debug")
    environ = {"PYTHONDONTWRITEBYTECODE": "1"} | case.environ
    plain, told = together(lambda line: project.run(*line.split(), env=environ), lines)
    everything = plain.stdout + plain.stderr + told.stdout + told.stderr
    assert plain.returncode == told.returncode == case.exit_code, everything

    said = [line for line in plain.stderr.splitlines() if not line.startswith("database: ")]
    assert plain.stdout == ""
    assert len(said) == 2, said
    assert said[0].startswith("Error: ")
    assert said[1].startswith("  ")
    assert "Traceback" not in plain.stderr
    assert case.says in " ".join(said)

    error = document_of(told)["error"]
    assert error["code"] == case.code
    assert said == [f"Error: {error['message']}", f"  {error['hint']}"]

    secrets = {CANARY, *(value for name, value in (project.environ | case.environ).items() if name == "FININFRA_DB_KEYS" and value)}
    assert [secret for secret in secrets if secret in everything] == []
    assert traces(project.root) == before


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_ends_with_one_message_and_a_next_step(sqlite_project: Project, case: Case) -> None:
    case.spoil(set_up(sqlite_project))
    ends_well(sqlite_project, case)


def ends(project: Project, *lines: str) -> dict[str, tuple[int, str]]:
    """How each line ends in a project that none of them may change: its exit code and the code of its error."""
    done = side_by_side(project, [f"{line} --json" for line in lines])
    return {line: (run.returncode, (document_of(run)["error"] or {}).get("code")) for line, run in zip(lines, done.values(), strict=True)}


@pytest.mark.parametrize(("content", "says"), NO_DATABASES.values(), ids=NO_DATABASES)
def test_a_file_that_is_no_database_is_left_as_it_is(sqlite_project: Project, content: bytes, says: str) -> None:
    database_file(set_up(sqlite_project)).write_bytes(content)
    lines = ("current", "seed", "reset --yes", "setup-and-migrate")
    assert ends(sqlite_project, *lines) == dict.fromkeys(lines, (6, "database-unreachable"))
    ends_well(sqlite_project, Case("upgrade", 6, "database-unreachable", says))


def test_a_folder_is_no_database(sqlite_project: Project) -> None:
    database_file(set_up(sqlite_project)).unlink()
    database_file(sqlite_project).mkdir()
    for line in ("current", "upgrade"):
        ends_well(sqlite_project, Case(line, 6, "database-unreachable", "is a folder"))


@pytest.mark.parametrize(("spoil", "code", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_history_changes_nothing(sqlite_project: Project, spoil: Callable[[Project], object], code: str, says: str) -> None:
    """Not even with ``reset``: the tables are dropped only when they can be made again."""
    spoil(set_up(sqlite_project))
    ends_well(sqlite_project, Case("upgrade", 1, code, says))
    assert ends(sqlite_project, "reset --yes") == {"reset --yes": (1, code)}


@pytest.mark.parametrize("broken", ["a parent that is missing", "an identifier twice"])
def test_a_broken_history_is_named_by_every_command_that_loads_it(sqlite_project: Project, broken: str) -> None:
    spoil, code, _ = BROKEN[broken]
    spoil(set_up(sqlite_project))
    assert ends(sqlite_project, *WRITERS) == dict.fromkeys(WRITERS, (1, code))


@pytest.mark.parametrize("broken", ["a parent that is missing", "an identifier twice"])
def test_a_broken_history_is_named_by_every_command_that_reads_its_headers(sqlite_project: Project, broken: str) -> None:
    spoil, code, _ = BROKEN[broken]
    spoil(set_up(sqlite_project))
    assert ends(sqlite_project, *READERS) == dict.fromkeys(READERS, (1, code))


# Servers.


@pytest.fixture
def login(project: Project) -> Iterator[str]:
    """A user of MariaDB who has a password, which the root of a test server has not."""
    name = f"fininfra_{uuid.uuid4().hex[:8]}"
    root = Project(project.dialect, project.root, make_url(project.url).set(database="mysql").render_as_string(hide_password=False))
    asyncio.run(root.execute(f"CREATE USER '{name}'@'%' IDENTIFIED BY '{CANARY}'", f"GRANT ALL ON `fininfra_test_%`.* TO '{name}'@'%'"))
    yield name
    asyncio.run(root.execute(f"DROP USER '{name}'@'%'"))


@pytest.mark.parametrize("project", ["mysql"], indirect=True)
def test_a_wrong_password(project: Project, login: str) -> None:
    set_up(project)
    user = make_url(project.url).set(username=login)
    right, wrong = (user.set(password=password).render_as_string(hide_password=False) for password in (CANARY, f"{CANARY}-wrong"))
    assert project.run("check", env=url(right)).returncode == 0
    for line in ("current", "setup-and-migrate"):
        ends_well(project, Case(line, 6, "database-unreachable", f"Access denied for user '{login}'", environ=url(wrong)))


@pytest.mark.parametrize("project", ["postgresql"], indirect=True)
def test_an_unknown_login(project: Project) -> None:
    """PostgreSQL here trusts every role that there is, whatever its password."""
    asyncio.run(project.database().init())
    unknown = make_url(project.url).set(username="fininfra_nobody", password=CANARY).render_as_string(hide_password=False)
    ends_well(project, Case("setup-and-migrate", 6, "database-unreachable", "fininfra_nobody", environ=url(unknown)))


@pytest.mark.parametrize("project", ["postgresql"], indirect=True)
def test_a_database_that_may_not_be_created(project: Project) -> None:
    asyncio.run(project.database().init())
    name = f"fininfra_{uuid.uuid4().hex[:8]}"
    root = Project(project.dialect, project.root, make_url(project.url).set(database="postgres").render_as_string(hide_password=False))
    asyncio.run(root.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{CANARY}'"))
    user = make_url(project.url).set(username=name, password=CANARY).render_as_string(hide_password=False)
    try:
        ends_well(project, Case("setup-and-migrate", 1, "database-failed", "permission denied to create database", environ=url(user)))
    finally:
        asyncio.run(root.execute(f"DROP ROLE {name}"))


@pytest.mark.parametrize("project", LOCAL_SERVERS, indirect=True)
def test_a_database_that_is_missing_is_not_created_by_chance(project: Project) -> None:
    asyncio.run(project.database().init())
    add_revision(project, "aaaa1111", None)
    lines = ("current", "upgrade", "create-tables", "seed")
    assert ends(project, *lines) == dict.fromkeys(lines, (6, "database-missing"))
    ends_well(project, Case("check", 6, "database-missing", "setup-and-migrate"))


@pytest.mark.parametrize("project", LOCAL_SERVERS, indirect=True)
def test_a_broken_history_changes_nothing_on_a_server(project: Project) -> None:
    two_heads(set_up(project))
    before = tables_in(project)
    for line in ("upgrade", "reset --yes"):
        ends_well(project, Case(line, 1, "multiple-heads", "aaaa1111, aaaa2222"))
        assert tables_in(project) == before
        assert versions_in(project) == [FIRST]
