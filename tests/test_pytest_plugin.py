"""The pytest plugin, in test runs of its own: private databases, sessions of which nothing stays, and what killed runs leave."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import func, make_url, select, text
from sqlalchemy.exc import DBAPIError

from fininfra_db import Database, User, testing
from fininfra_db.connections import open_connection
from fininfra_db.errors import FininfraDbError
from fininfra_db.settings import Settings, load_settings
from fininfra_db.testing import PrivateDatabases, private_databases, rolled_back_session
from tests.conftest import DATABASES, LOCAL_SERVERS, clean_environment, drop_database, url_on

TESTS = """
import asyncio

import pytest
from sqlalchemy import func, select

from fininfra_db import SeedRequest, User, get_async_session

COUNT = select(func.count()).select_from(User)
used = set()


async def add(settings):
    async with get_async_session(settings) as session:
        session.add(User(id="one", email="one@example.com"))
        await session.commit()
        return await session.scalar(COUNT)


@pytest.mark.parametrize("number", range(2))
def test_each_has_its_own(fininfra_database, number):
    assert fininfra_database.settings.sql_url not in used
    used.add(fininfra_database.settings.sql_url)
    assert asyncio.run(add(fininfra_database.settings)) == 1
    assert asyncio.run(fininfra_database.check()).findings == ()


@pytest.mark.asyncio
@pytest.mark.parametrize("number", range(2))
async def test_nothing_stays(fininfra_session, number):
    assert await fininfra_session.scalar(COUNT) == 0
    fininfra_session.add(User(id="one", email="one@example.com"))
    await fininfra_session.commit()
    fininfra_session.add(User(id="two", email="two@example.com"))
    await fininfra_session.flush()
    await fininfra_session.rollback()
    assert await fininfra_session.scalar(COUNT) == 1


@pytest.mark.asyncio
@pytest.mark.fininfra(seed=SeedRequest("demo", users=3, months=1))
async def test_seeded(fininfra_session, fininfra_database):
    assert await fininfra_session.scalar(COUNT) == 3
    async with get_async_session(fininfra_database.settings) as session:
        assert await session.scalar(COUNT) == 3, "both fixtures are about one database"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project at head, with tests of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "fininfra_db", "setup-and-migrate"], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "test_theirs.py").write_text(TESTS, encoding="utf-8")
    return tmp_path


def run(folder: Path, *words: str) -> tuple[str, dict[str, int]]:
    """Run pytest there: what it printed, and its outcomes.

    Not by ``pytester``: it makes the process forget the modules of a test, and those of asyncpg cannot be loaded twice.
    """
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False)
    summary = done.stdout.strip().splitlines()[-1]
    return done.stdout, {
        outcome: int(number) for number, outcome in re.findall(r"(\d+) (passed|failed|skipped|errors?|deselected)", summary)
    }


def test_each_test_has_a_database_of_its_own_on_every_server(folder: Path) -> None:
    servers = [url_on(dialect, folder, "none") for dialect in DATABASES if dialect != "sqlite"]
    lines = ["[pytest]", "fininfra_urls =", *(f"    {url}" for url in ("sqlite://", "$THEIR_SERVER", *servers))]
    (folder / "pytest.ini").write_text("\n".join(lines), encoding="utf-8")
    before = (folder / "dev.db").read_bytes()
    printed, outcomes = run(folder, "-rs", "-v")
    assert outcomes == {"passed": 5 * 3, "skipped": 5}, printed
    assert "test_nothing_stays[postgresql-0] PASSED" in printed
    assert "$THEIR_SERVER is not set" in printed
    assert (folder / "dev.db").read_bytes() == before


def test_workers_do_not_share(folder: Path) -> None:
    printed, outcomes = run(folder, "-n", "2")
    assert outcomes == {"passed": 5}, printed


def test_it_does_without_pytest_asyncio(folder: Path) -> None:
    printed, outcomes = run(folder, "-p", "no:asyncio", "-k", "its_own", "-W", "ignore")
    assert outcomes == {"passed": 2, "deselected": 3}, printed


def test_whoever_does_not_use_it_does_not_wait_for_it() -> None:
    program = "import sys, fininfra_db.pytest_plugin; sys.exit('sqlalchemy' in sys.modules or 'alembic' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# The library behind it.


@pytest.fixture(params=DATABASES)
def settings(request: pytest.FixtureRequest, tmp_path: Path, key: str) -> Settings:
    return settings_on(request.param, tmp_path, key)


@pytest.fixture(params=LOCAL_SERVERS)
def server_settings(request: pytest.FixtureRequest, tmp_path: Path, key: str) -> Settings:
    return settings_on(request.param, tmp_path, key)


def settings_on(dialect: str, folder: Path, key: str) -> Settings:
    url = url_on(dialect, folder, "none")
    return load_settings(project_root=Path(__file__).parent.parent, sql_url=url, environ={"FININFRA_DB_KEYS": key})


@pytest.fixture
def private(settings: Settings, tmp_path: Path) -> Iterator[PrivateDatabases]:
    made = private_databases(settings, tmp_path)
    yield made
    made.close()


async def count_of(database: Database) -> int:
    async with open_connection(database.settings, "reading") as connection:
        return await connection.scalar(select(func.count()).select_from(User)) or 0


async def test_private_databases_can_be_made_inside_a_running_loop(private: PrivateDatabases) -> None:
    empty, seeded = private.make(), private.make("household")
    assert (await count_of(empty), await count_of(seeded)) == (0, 2)
    async with rolled_back_session(empty.settings) as session:
        session.add(User(id="one", email="one@example.com"))
        await session.commit()
    assert await count_of(empty) == 0
    private.remove(empty)


async def test_what_killed_runs_have_left_is_removed(server_settings: Settings, tmp_path: Path) -> None:
    """A database of a process that is no more, one of a process that is there, and one that only looks alike.

    Of SQLite they are files, and pytest removes its old folders.
    """
    first = private_databases(server_settings, tmp_path)
    living = first.make().settings
    name = str(make_url(living.sql_url).database)
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    ).stdout.strip()
    names = {"left": name.replace(f"_{os.getpid()}_", f"_{gone}_"), "alike": f"{name}_x"}
    server = first._maintenance()
    async with open_connection(server, "maintenance") as connection:
        for each in names.values():
            await connection.execute(text(f"CREATE DATABASE {each}"))
        if connection.dialect.name == "mysql":  # an empty one is no database to us
            await connection.execute(text(f"CREATE TABLE {names['left']}.t (id INT)"))
    second = private_databases(server_settings, tmp_path)
    second.make()
    async with open_connection(server, "maintenance") as connection:
        schema = "datname FROM pg_database" if connection.dialect.name == "postgresql" else "schema_name FROM information_schema.schemata"
        found = set(await connection.scalars(text(f"SELECT {schema}")))
    assert names["left"] not in found
    assert {names["alike"], name} <= found
    second.close()
    first.close()
    await drop_database(make_url(server_settings.sql_url).set(database=names["alike"]).render_as_string(hide_password=False))


async def databases_on(settings: Settings, private: PrivateDatabases) -> set[str]:
    """The databases of tests on a server that this process made."""
    async with open_connection(private._maintenance(), "maintenance") as connection:  # type: ignore[attr-defined]
        schema = "datname FROM pg_database" if connection.dialect.name == "postgresql" else "schema_name FROM information_schema.schemata"
        found = await connection.scalars(text(f"SELECT {schema}"))
        return {name for name in found if re.fullmatch(rf"fininfra_test_[0-9a-f]+_{os.getpid()}_.*", name)}


async def test_a_database_that_is_in_use_is_no_leftover(server_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process may be one that cannot be seen from here."""
    first = private_databases(server_settings, tmp_path)
    used, unused = first.make(), first.make()
    monkeypatch.setattr(testing, "_is_leftover", lambda _name: True)
    async with open_connection(used.settings, "reading") as connection:
        await connection.execute(text("SELECT 1"))
        second = private_databases(server_settings, tmp_path)
        second.make()
        left = await databases_on(server_settings, second)
    assert make_url(used.settings.sql_url).database in left
    assert make_url(unused.settings.sql_url).database not in left
    second.close()
    first.close()
    assert await databases_on(server_settings, first) == set()


def test_whose_a_database_is_tells_machines_of_one_name_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for content in ("one", "two"):
        (tmp_path / "id").write_text(content, encoding="utf-8")
        monkeypatch.setattr(testing, "_PLACES", (tmp_path / "id",))
        testing._host.cache_clear()
        seen.add(testing._host())
    testing._host.cache_clear()
    assert len(seen) == 2


async def test_what_fails_is_not_tried_again_and_leaves_nothing(server_settings: Settings, tmp_path: Path) -> None:
    private = private_databases(server_settings, tmp_path)
    before = await databases_on(server_settings, private)
    for _ in range(2):
        with pytest.raises(FininfraDbError):
            private.make("no such seed")
    (template,) = private._templates.values()
    private._wait(asyncio.sleep(0))
    await asyncio.to_thread(lambda: private._wait(private._finish()))
    assert await databases_on(server_settings, private) - before == {make_url(template.settings.sql_url).database}
    private.close()
    assert await databases_on(server_settings, private) <= before


async def test_an_open_transaction_does_not_keep_a_database(server_settings: Settings, tmp_path: Path) -> None:
    private = private_databases(server_settings, tmp_path)
    made = private.make()
    left = None
    with suppress(DBAPIError):  # the connection ends with its database
        async with open_connection(made.settings, "application") as connection:
            await connection.execute(select(func.count()).select_from(User))
            private.remove(made)
            await asyncio.to_thread(private.close)
            left = await databases_on(server_settings, private)
    assert left == set()
