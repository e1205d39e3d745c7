"""No secret is told, by any command, in any failure, in any spelling; and no value of a row without ``--debug``."""

import asyncio
import itertools
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from fininfra_db.security import generate_key
from tests.cli.helpers import FIRST, PROGRAM, add_revision, commands, database_file, set_up, use_models
from tests.conftest import Project, clean_environment, server_url
from tests.faults.secrets import LEFT, RIGHT, Ran, corpus, files_with, leaks, run_here

URLS = corpus(200)
ARGUMENTS = {
    "downgrade": "base",
    "environment set": "development",
    "merge": "heads",
    "repair": "--resume",
    "reset": "--yes",
    "revision": "-m more",
    "seed": "household",
    "snapshot restore": "newest",
    "stamp": "head",
    "wait": "--timeout 0",
}
FLAGS = ("", "--json", "-v --debug", "--json -v --debug")
VALUE = "alice.canary@row.example"
BUILT = f"{VALUE[:5]!r} + {VALUE[5:]!r}"
"""A value of a row, and how it is written in a source, of which a traceback shows lines."""

KEYS = [generate_key(), generate_key()]
LOGIN = f"postgresql://bob:{LEFT}%40{RIGHT}@127.0.0.1:1/books"


def lines_of_commands() -> list[str]:
    return [f"{command} {ARGUMENTS.get(command, '')}".strip() for command in commands()]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project at head in which nothing is changed by what cannot connect."""
    root = tmp_path_factory.mktemp("secrets") / "project"
    root.mkdir()
    return set_up(Project("sqlite", root, f"sqlite:///{root / 'finance.db'}", {"FININFRA_DB_KEYS": ",".join(KEYS)}))


def shown(ran: Ran, *secrets: str) -> str:
    """What leaked, with its run; nothing when nothing did."""
    found = leaks(ran.printed, *secrets)
    return f"{ran.line}: {found} in\n{ran.printed}" if found else ""


def test_the_corpus_holds_what_it_should() -> None:
    assert len(URLS) == len(set(URLS)) == 200
    assert all(leaks(url, LEFT) and leaks(url, RIGHT) for url in URLS)


@pytest.mark.parametrize("variable", ["SQL_URL", "DATABASE_URL", "SQL_URL_DIRECT", "--sql-url"])
def test_no_url_of_the_corpus_is_told_by_any_command(here: Project, variable: str) -> None:
    """Each URL meets two commands, and each command many URLs, with every set of flags."""
    every = itertools.cycle([f"{line} {flags}".strip() for flags in FLAGS for line in lines_of_commands()])
    told = []
    for number, url in enumerate(URLS):
        for line in (next(every), f"current {FLAGS[number % len(FLAGS)]}"):
            if variable == "--sql-url":
                ran = run_here(here, f"{line} --sql-url {url.replace(' ', '%20')}")
            else:
                ran = run_here(here, line, **({"SQL_URL": ""} | {variable: url} if variable == "DATABASE_URL" else {variable: url}))
            told.append(shown(ran, LEFT, RIGHT, *KEYS))
    assert [each for each in told if each] == []


def test_a_url_in_the_wrong_place_is_not_told(here: Project) -> None:
    """The command line is wrong, so there are no settings yet that could tell what is secret."""
    url = LOGIN.replace("%40", "-")
    for line in (
        f"current {url}",
        url,
        f"upgrade head {url} --json",
        f"nonsense {url}",
        f"{url} --json",
        f"seed {url}",
        f"wait --timeout {url}",
    ):
        ran = run_here(here, line)
        assert ran.code != 0
        assert not shown(ran, LEFT, RIGHT)


def test_a_small_part_of_the_corpus_in_processes_of_their_own(here: Project) -> None:
    for url in URLS[::40]:
        done = subprocess.run(
            [*PROGRAM, "current", "-v", "--debug"],
            cwd=here.root,
            env=clean_environment() | here.environ | {"SQL_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (2, 6)
        assert leaks(done.stdout + done.stderr, LEFT, RIGHT, *KEYS) == []


# What fails, and tells what it knows.

TELLS = (
    "import logging, os, warnings\n"
    "told = ' '.join(os.environ[name] for name in ('SQL_URL', 'SQL_URL_DIRECT', 'FININFRA_DB_KEYS', 'PGPASSWORD') if name in os.environ)\n"
    "logging.getLogger('mine').warning('connecting to %s', told)\n"
    "logging.getLogger('mine').warning('too few arguments %s %s', told)\n"
    "warnings.warn(told)\n"
    "try:\n    raise RuntimeError(told)\nexcept RuntimeError:\n    logging.getLogger('mine').exception('once more')\n"
)


def models_that_tell(project: Project) -> None:
    (project.root / "telling_models.py").write_text(f"{TELLS}raise RuntimeError(told) from ValueError(repr(told))\n", encoding="utf-8")
    use_models(project, "telling_models")


def a_seed_that_tells(project: Project) -> None:
    (project.root / "telling_seeds.py").write_text(f"{TELLS}\n\ndef run(session):\n    raise RuntimeError(told)\n", encoding="utf-8")


def a_revision_that_tells(project: Project) -> None:
    body = (
        "import os\n    op.execute('SELECT 1 AS a FROM nowhere WHERE 1 = ' + repr(os.environ['SQL_URL'] + os.environ['FININFRA_DB_KEYS']))"
    )
    add_revision(project, "aaaa1111", up=body)


def a_revision_that_does_not_load(project: Project) -> None:
    add_revision(project, "aaaa1111", more=f"{TELLS}raise RuntimeError(told)")


def an_env_that_tells(project: Project) -> None:
    """One of somebody else, with its own way of logging."""
    logs = "logging.basicConfig(level='INFO')\nlogging.getLogger('theirs').info('%s', told)\n"
    (project.root / "migrations" / "env.py").write_text(f"{TELLS}{logs}raise RuntimeError(told)\n", encoding="utf-8")


def a_broken_file(project: Project) -> None:
    database_file(project).write_bytes(b"SQLite format 3\x00" + f"{LEFT}{RIGHT}".encode() * 400)


FAILURES: dict[str, tuple[Callable[[Project], None], tuple[str, ...]]] = {
    "models": (models_that_tell, ("check", "create-tables", "revision --autogenerate -m x", "setup-and-migrate", "upgrade --sql")),
    "a seed": (a_seed_that_tells, ("seed telling_seeds:run", "seed telling_seeds:nothing")),
    "a revision": (a_revision_that_tells, ("upgrade", "upgrade head --json", "setup-and-migrate")),
    "a revision that does not load": (
        a_revision_that_does_not_load,
        ("upgrade", "check", "merge heads", "revision -m x", "downgrade base"),
    ),
    "an env.py": (an_env_that_tells, ("current", "upgrade", "check", "status", "wait --for head --timeout 0")),
    "a broken file": (a_broken_file, tuple(f"{name} {ARGUMENTS.get(name, '')}".strip() for name in commands())),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_fails_and_tells_what_it_knows_is_kept_quiet(sqlite_project: Project, failure: str) -> None:
    """The URL that is told is the one past which ``SQL_URL_DIRECT`` leads."""
    spoil, lines = FAILURES[failure]
    spoil(set_up(sqlite_project))
    environ = {
        "SQL_URL": f"postgresql://bob:{LEFT}%2F{RIGHT}@pooler/books",
        "SQL_URL_DIRECT": sqlite_project.url,
        "FININFRA_DB_KEYS": ",".join(KEYS),
        "PGPASSWORD": f"{RIGHT}{LEFT}",
    }
    runs = [run_here(sqlite_project, f"{line} {flags}", **environ) for line, flags in itertools.product(lines, FLAGS)]
    assert [each for ran in runs if (each := shown(ran, LEFT, RIGHT, *KEYS))] == []
    failed = [ran for ran in runs if ran.code]
    if failure == "a broken file":
        assert {ran.line.split()[0] for ran in failed} >= {"current", "upgrade", "seed", "status", "check", "reset"}
    else:
        assert len(failed) == len(runs)
        assert any("***" in ran.printed for ran in failed)


# A server that asks for a password.


@pytest.fixture
def with_password(tmp_path: Path) -> Iterator[Project]:
    """A project on MariaDB, whose user has a password of which each half can be recognised."""
    url, reason = server_url("mysql")
    if url is None:
        pytest.skip(reason)
    name, server = f"fininfra_test_{uuid.uuid4().hex[:10]}", Project("mysql", tmp_path, url)
    password = f"{LEFT}@/%{RIGHT}"
    users = [f"{name}@'%'", f"{name}@localhost"]
    asyncio.run(
        server.execute(
            *(f"CREATE USER {user} IDENTIFIED BY '{password}'" for user in users), *(f"GRANT ALL ON {name}.* TO {user}" for user in users)
        )
    )
    root = tmp_path / "project"
    root.mkdir()
    mine = make_url(url).set(username=name, password=password, database=name).render_as_string(hide_password=False)
    yield Project("mysql", root, mine, {"FININFRA_DB_KEYS": ",".join(KEYS)})
    asyncio.run(server.execute(f"DROP DATABASE IF EXISTS {name}", f"DROP USER {', '.join(users)}"))


def test_what_succeeds_tells_and_writes_no_secret(with_password: Project) -> None:
    lines = ["setup-and-migrate", *lines_of_commands(), "upgrade --sql base:head", "reset --yes", "history -v", "current -v"]
    runs = [run_here(with_password, f"{line} {flags}".strip()) for flags in ("-v --debug", "--json") for line in lines]
    assert [each for ran in runs if (each := shown(ran, LEFT, RIGHT, *KEYS))] == []
    assert {ran.line.split()[0] for ran in runs if ran.code == 0} >= {
        "setup-and-migrate",
        "upgrade",
        "seed",
        "status",
        "check",
        "wait",
        "stamp",
    }
    assert files_with(with_password.root, LEFT, RIGHT, *KEYS) == []


def test_a_refused_login_tells_no_secret(with_password: Project) -> None:
    url = make_url(with_password.url)
    for wrong in (url.set(password=f"{RIGHT}?{LEFT}"), url.set(username="nobody_at_all"), url.set(database="mysql")):
        for line, flags in itertools.product(("current", "upgrade", "setup-and-migrate", "wait"), FLAGS):
            ran = run_here(set_up_files(with_password), f"{line} {flags}", SQL_URL=wrong.render_as_string(hide_password=False))
            assert ran.code in (1, 6) or line == "wait"
            assert not shown(ran, LEFT, RIGHT, *KEYS)


def set_up_files(project: Project) -> Project:
    if not (project.root / "alembic.ini").exists():
        assert project.run("init").returncode == 0
    return project


# Values of rows.

SEEDS = f"""
from sqlalchemy import text

from fininfra_db import User


def twice(session):
    session.add_all([User(email={VALUE!r}), User(email={VALUE!r})])
    session.flush()


def twice_in_sql(session):
    for number in (1, 2):
        session.execute(text("INSERT INTO users (id, email) VALUES (:id, :email)"), {{"id": str(number), "email": {VALUE!r}}})


def no_number(session):
    session.execute(text("INSERT INTO one_number (id) VALUES (:value)"), {{"value": {VALUE!r}}})


def no_number_on_the_server(session):
    number = "SELECT CAST(email AS {{}}) FROM (SELECT :email AS email) AS given"
    session.execute(text(f"INSERT INTO one_number (id) {{number}}"), {{"email": {VALUE!r}}})


def no_parent(session):
    session.execute(text("INSERT INTO accounts (id, user_id) VALUES ('1', :user)"), {{"user": {VALUE!r}}})
"""
REVISION = (
    f"""op.bulk_insert(sa.table("users", sa.column("id"), sa.column("email")), [{{"id": str(n), "email": {BUILT}}} for n in (1, 2)])"""
)


@pytest.fixture
def seeds(project: Project) -> Project:
    """A project at head with seeds that fail on a value."""
    set_up(project)
    module = f"failing_{project.root.parent.name}"
    kind = {"sqlite": "INTEGER", "postgresql": "INTEGER", "mysql": "SIGNED"}[project.dialect]
    (project.root / f"{module}.py").write_text(SEEDS.replace("AS {}", f"AS {kind}"), encoding="utf-8")
    asyncio.run(project.execute("CREATE TABLE one_number (id INTEGER NOT NULL)"))
    return project


FAILING = ("twice", "twice_in_sql", "no_number", "no_number_on_the_server", "no_parent")
NAMES = {"sqlite": "users.email", "postgresql": "uq_users_email", "mysql": "uq_users_email"}
"""What the databases call the key that is there already."""


def test_a_failing_seed_tells_no_value_of_a_row(seeds: Project) -> None:
    """The module has a name of its own, since Python imports one only once."""
    for seed, flags in itertools.product(FAILING, ("", "-v", "--json", "--json -v")):
        ran = run_here(seeds, f"seed failing_{seeds.root.parent.name}:{seed} {flags}")
        assert not shown(ran, VALUE)
        assert ran.code == 1 or seeds.dialect == "sqlite"
        assert not seed.startswith("twice") or NAMES[seeds.dialect] in ran.printed


def test_a_failing_revision_tells_no_value_of_a_row(project: Project) -> None:
    add_revision(set_up(project), "aaaa1111", FIRST, up=REVISION)
    for flags in ("", "-v", "--json"):
        ran = run_here(project, f"upgrade {flags}")
        assert ran.code == 1
        assert NAMES[project.dialect] in ran.printed
        assert not shown(ran, VALUE)


def test_debug_tells_what_the_server_says_of_the_row(project: Project) -> None:
    """SQLite says nothing of it."""
    add_revision(set_up(project), "aaaa1111", FIRST, up=REVISION)
    ran = run_here(project, "upgrade --debug")
    assert "Traceback" in ran.printed
    assert (VALUE in ran.printed) == (project.dialect != "sqlite")
