"""The loader writes all of a seed or nothing, on every database."""

import asyncio
import re
import sys
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fininfra_db.connections import ensure_database, make_engine
from fininfra_db.data.household import Household, household
from fininfra_db.data.loader import seed_callable, seed_household
from fininfra_db.errors import DatabaseMissing, DatabaseUnreachable, KeyMissing, OptionsInvalid, SeedFailed
from fininfra_db.models import Account, BankConnection, Base, Transaction, User
from fininfra_db.settings import Settings, load_settings
from tests.conftest import Project

SEED: Household = household()


@pytest_asyncio.fixture
async def tables(project: Project) -> Settings:
    """A database that has the tables of the models and no row."""
    await create_tables(project.settings())
    return project.settings()


async def create_tables(settings: Settings) -> None:
    await ensure_database(settings)
    engine = make_engine(settings, "migration")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


async def execute(settings: Settings, work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
    engine = make_engine(settings, "application")
    try:
        async with engine.begin() as connection:
            return await work(connection)
    finally:
        await engine.dispose()


async def stored(settings: Settings) -> list[tuple[Any, ...]]:
    """Every row of the models, as it is in the database: sealed tokens stay sealed."""

    async def read(connection: AsyncConnection) -> list[tuple[Any, ...]]:
        names = [table.name for table in Base.metadata.sorted_tables]
        return [tuple(row) for name in names for row in await connection.execute(text(f"SELECT * FROM {name} ORDER BY id"))]

    found: list[tuple[Any, ...]] = await execute(settings, read)
    return found


async def emails(settings: Settings) -> set[str]:
    return set(await execute(settings, lambda connection: connection.scalars(select(User.email))))


def without_key(settings: Settings) -> Settings:
    return load_settings(project_root=settings.project_root, environ={"SQL_URL": settings.sql_url})


@pytest.mark.asyncio
async def test_seeding_twice_leaves_the_same_rows(tables: Settings) -> None:
    sizes = {model.__tablename__: len(found) for model, found in SEED.items()}
    first = await seed_household(tables)
    assert (first.seed, first.rows, first.inserted) == ("household", sizes, sum(sizes.values()))
    before = await stored(tables)
    second = await seed_household(tables)
    assert (second.rows, second.inserted) == (sizes, 0)
    assert await stored(tables) == before


@pytest.mark.asyncio
async def test_rows_read_back_equal_what_was_generated(tables: Settings) -> None:
    await seed_household(tables)

    async def compare(connection: AsyncConnection) -> None:
        for model, found in SEED.items():
            table = Base.metadata.tables[model.__tablename__]
            read = {row["id"]: dict(row) for row in (await connection.execute(select(table))).mappings()}
            assert {row["id"]: {**read[row["id"]], **row} for row in found} == read
        assert await connection.scalar(select(func.sum(Account.balance))) == sum(row["balance"] for row in SEED[Account])

    await execute(tables, compare)
    plaintext = {row["access_token"] for row in SEED[BankConnection]}
    assert not plaintext & {value for row in await stored(tables) for value in row if isinstance(value, str)}
    assert set(await execute(tables, lambda connection: connection.scalars(select(User.hashed_password)))) == {"!"}


@pytest.mark.asyncio
async def test_only_missing_rows_are_written_and_soft_deleted_ones_are_there(tables: Settings) -> None:
    await seed_household(tables)
    gone = [row["id"] for row in SEED[Transaction][10:25]]

    async def change(connection: AsyncConnection) -> None:
        await connection.execute(delete(Transaction).where(Transaction.id.in_(gone)))
        await connection.execute(update(Account).values(deleted_at=datetime(2026, 1, 2, tzinfo=UTC), name="Renamed"))

    await execute(tables, change)
    assert (await seed_household(tables)).inserted == len(gone)
    deleted = select(Account.name).where(Account.deleted_at.is_not(None))
    assert list(await execute(tables, lambda connection: connection.scalars(deleted))) == ["Renamed"] * 7


@pytest.mark.asyncio
async def test_a_row_in_the_way_is_named_and_nothing_is_written(tables: Settings) -> None:
    mine = {"id": "mine", "email": SEED[User][1]["email"]}
    await execute(tables, lambda connection: connection.execute(insert(User), [mine]))
    before = await stored(tables)
    with pytest.raises(SeedFailed, match=r"in the way.*users.email.*Nothing was written|in the way.*uq_users_email.*Nothing was written"):
        await seed_household(tables)
    assert await stored(tables) == before


@pytest.mark.asyncio
async def test_a_key_is_needed_to_write_tokens_and_only_then(tables: Settings) -> None:
    with pytest.raises(KeyMissing):
        await seed_household(without_key(tables))
    assert await stored(tables) == []
    await seed_household(tables)
    assert (await seed_household(without_key(tables))).inserted == 0


@pytest.mark.asyncio
async def test_two_seeds_at_once_write_the_rows_once(tables: Settings) -> None:
    seeded = await asyncio.gather(seed_household(tables), seed_household(tables))
    assert sorted(each.inserted for each in seeded) == [0, sum(seeded[0].rows.values())]


# Seeds of the project.

MODULE = """
import sys
from functools import partial, wraps

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from fininfra_db.models import BankConnection, User

EMAIL = "new@example.com"

async def asynchronous(session):
    assert isinstance(session, AsyncSession)
    session.add(User(email=EMAIL))

def synchronous(session):
    assert isinstance(session, Session)
    session.add(User(email=EMAIL))
    return session.scalars(select(User)).all()

class Seeds:
    class Demo:
        run = staticmethod(asynchronous)

    async def __call__(self, session):
        await asynchronous(session)

called = Seeds()

async def add(email, session):
    session.add(User(email=email))

bound = partial(add, EMAIL)

def twice_as_nice(function):
    @wraps(function)
    def wrapper(session):
        return function(session)
    return wrapper

decorated = twice_as_nice(asynchronous)

async def own_transaction(session):
    async with session.begin():
        session.add(User(email=EMAIL))

def own_commit(session):
    session.add(User(email=EMAIL))
    session.commit()
    session.close()

def of_nothing():
    raise AssertionError

async def of_two(session, other):
    raise AssertionError

def failing(fail):
    def seed(session):
        session.add(User(email=EMAIL))
        session.flush()
        with session.begin_nested():
            session.add(User(email="other@example.com"))
        return fail(session)
    return seed

@failing
def raises(session):
    raise ValueError("no such month")

@failing
def raises_without_a_word(session):
    raise RuntimeError

@failing
def exits(session):
    sys.exit(0)

@failing
def collides(session):
    session.add(User(email=EMAIL))

@failing
def runs_bad_sql(session):
    session.execute(text("SELECT * FROM nowhere"))

@failing
def forgets_to_await(session):
    return asynchronous(session)

@failing
def tells_a_secret(session):
    raise ValueError("cannot use key KEY")

async def commits_and_raises(session):
    session.add(User(email="kept@example.com"))
    await session.commit()
    session.add(User(email="lost@example.com"))
    await session.flush()
    raise ValueError("too late")

@failing
def seals(session):
    user = session.scalars(select(User)).first()
    session.add(BankConnection(user_id=user.id, access_token="t", item_id="i", institution_name="Bank"))
"""

WriteModule = Callable[[str], str]


@pytest.fixture
def write_module(project: Project, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Write a module of the project, under a name that was never imported; its name."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(source: str) -> str:
        name = f"seeds_{uuid4().hex}"
        (project.root / f"{name}.py").write_text(source)
        return name

    return write


@pytest.fixture
def module(write_module: WriteModule, key: str) -> str:
    return write_module(MODULE.replace("KEY", key))


@pytest.mark.parametrize(
    "path",
    ["asynchronous", "synchronous", "Seeds.Demo.run", "called", "bound", "decorated", "own_transaction", "own_commit"],
)
@pytest.mark.asyncio
async def test_what_a_callable_writes_is_committed(tables: Settings, module: str, path: str) -> None:
    seeded = await seed_callable(tables, f"{module}:{path}")
    assert (seeded.seed, seeded.rows, seeded.inserted) == (f"{module}:{path}", {}, 0)
    assert await emails(tables) == {"new@example.com"}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("raises", r"ValueError: no such month"),
        ("raises_without_a_word", r"RuntimeError"),
        ("exits", r"SystemExit: 0"),
        ("collides", r"IntegrityError: .*users.email.*"),
        ("runs_bad_sql", r"(Operational|Programming)Error: .*nowhere.*"),
        ("forgets_to_await", r"TypeError: it is not an 'async def' and returned something to be awaited"),
        ("tells_a_secret", r"ValueError: cannot use key \*\*\*"),
    ],
)
@pytest.mark.asyncio
async def test_a_failing_callable_leaves_nothing(tables: Settings, module: str, path: str, reason: str) -> None:
    with pytest.raises(SeedFailed) as caught:
        await seed_callable(tables, f"{module}:{path}")
    said = rf"The seed {module}:{path} did not finish: {reason}\. Its transaction was rolled back\."
    assert re.fullmatch(said, caught.value.message), caught.value.message
    assert caught.value.hint == "Correct the cause and run the seed again."
    assert await emails(tables) == set()


@pytest.mark.asyncio
async def test_a_missing_table_is_blamed_only_for_what_it_caused(tables: Settings, module: str) -> None:
    await execute(tables, lambda connection: connection.execute(text("DROP TABLE documents")))
    with pytest.raises(SeedFailed, match="nowhere") as caught:
        await seed_callable(tables, f"{module}:runs_bad_sql")
    assert "upgrade" not in (caught.value.hint or "")


@pytest.mark.asyncio
async def test_what_a_callable_committed_itself_stays_and_is_said(tables: Settings, module: str) -> None:
    with pytest.raises(SeedFailed, match="What it had committed by itself stays, the rest was rolled back"):
        await seed_callable(tables, f"{module}:commits_and_raises")
    assert await emails(tables) == {"kept@example.com"}


@pytest.mark.asyncio
async def test_a_callable_without_the_key_it_needs(tables: Settings, module: str) -> None:
    with pytest.raises(KeyMissing):
        await seed_callable(without_key(tables), f"{module}:seals")
    assert await emails(tables) == set()


# Databases that cannot be seeded.


@pytest.mark.asyncio
async def test_a_database_without_tables_is_to_be_upgraded(project: Project, module: str) -> None:
    settings = project.settings()
    await ensure_database(settings)
    await execute(settings, lambda connection: connection.execute(text("CREATE TABLE other (id INTEGER)")))
    for seeding in (seed_household(settings), seed_callable(settings, f"{module}:synchronous")):
        with pytest.raises(SeedFailed) as caught:
            await seeding
        assert "fininfra-db upgrade" in (caught.value.hint or "")


@pytest.mark.asyncio
async def test_a_missing_database_is_not_made(project: Project, module: str) -> None:
    before = sorted(project.root.iterdir())
    for seeding in (seed_household(project.settings()), seed_callable(project.settings(), f"{module}:synchronous")):
        with pytest.raises(DatabaseMissing):
            await seeding
    assert [path for path in sorted(project.root.iterdir()) if path.name != "__pycache__"] == before


@pytest.mark.asyncio
async def test_a_server_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    nowhere = load_settings(project_root=tmp_path, environ={"SQL_URL": "postgresql://bob:hunter2@127.0.0.1:1/none"})
    for seeding in (seed_household(nowhere), seed_callable(nowhere, "builtins:len")):
        with pytest.raises(DatabaseUnreachable) as caught:
            await seeding
        assert "hunter2" not in str(caught.value)


def test_each_run_may_have_an_event_loop_of_its_own_and_leaves_no_connection(project: Project, module: str) -> None:
    asyncio.run(create_tables(project.settings()))
    threads = set(threading.enumerate())
    assert asyncio.run(seed_household(project.settings())).inserted > 500
    asyncio.run(seed_callable(project.settings(), f"{module}:synchronous"))
    assert asyncio.run(seed_household(project.settings())).inserted == 0
    for thread in set(threading.enumerate()) - threads:  # aiosqlite has a thread for each open connection
        thread.join(timeout=5)
        assert not thread.is_alive()


# Names that are no seed. No database is contacted, so one kind is enough.


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("demo", "no seed 'demo'"),
        ("", "no seed ''"),
        (":asynchronous", "no seed ':asynchronous'"),
        ("{module}:", "no seed"),
        ("no_such_module_here:seed", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("{module}.below:seed", "does not import"),
        (".relative:seed", "does not import"),
        ("{module}:missing", "has no 'missing'"),
        ("{module}:asynchronous.missing", "has no 'asynchronous.missing'"),
        ("{module}:asynchronous..again", "has no 'asynchronous..again'"),
        ("{module}:EMAIL", "cannot be called with a session"),
        ("{module}:of_nothing", "cannot be called with a session"),
        ("{module}:of_two", "cannot be called with a session"),
    ],
)
@pytest.mark.parametrize("project", ["sqlite"], indirect=True)
@pytest.mark.asyncio
async def test_a_name_that_is_no_seed_is_refused(project: Project, module: str, name: str, says: str) -> None:
    with pytest.raises(OptionsInvalid, match=re.escape(says)):
        await seed_callable(project.settings(), name.format(module=module))


@pytest.mark.parametrize(
    ("source", "says"),
    [("1 / 0", "ZeroDivisionError"), ("def seed(:", "SyntaxError"), ("exit()", "SystemExit"), ("import no_such_one", "no_such_one")],
)
@pytest.mark.parametrize("project", ["sqlite"], indirect=True)
@pytest.mark.asyncio
async def test_a_module_that_does_not_import_is_refused(project: Project, write_module: WriteModule, source: str, says: str) -> None:
    with pytest.raises(OptionsInvalid, match=rf"does not import: .*{says}"):
        await seed_callable(project.settings(), f"{write_module(source)}:seed")
