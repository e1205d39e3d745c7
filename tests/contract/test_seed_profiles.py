"""The profiles on every database: the same rows, once, whatever ends a run; and removed again without a trace of anybody else's."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import delete, insert, make_url, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fininfra_db.data.loader import write_seeds
from fininfra_db.data.profiles import plan, plan_of
from fininfra_db.data.request import SeedRequest
from fininfra_db.errors import OptionsInvalid, SeedFailed
from fininfra_db.events import Event, Progress
from fininfra_db.models import Account, Base, Budget, Transaction, User
from fininfra_db.settings import Settings
from tests.conftest import Project, clean_environment
from tests.contract.test_seeds import create_tables, execute, stored

DEMO = SeedRequest("demo", users=3, months=1)
LOAD = SeedRequest("load", users=6, accounts=2, per_account=10)


@pytest_asyncio.fixture
async def tables(project: Project) -> Settings:
    """A database that has the tables of the models and no row."""
    await create_tables(project.settings())
    return project.settings()


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is one user."""
    monkeypatch.setattr(plan, "BATCH", 1)


def made(request: SeedRequest) -> dict[str, list[dict[str, Any]]]:
    """The rows of a request by table, as the profile makes them."""
    whole = plan_of(request)
    return {model.__tablename__: sorted(rows, key=lambda row: str(row["id"])) for model, rows in whole.rows(range(whole.users))}


async def read(settings: Settings, request: SeedRequest) -> dict[str, list[dict[str, Any]]]:
    """The same columns, as the database gives them back through the models' types, tokens opened."""

    async def work(connection: AsyncConnection) -> dict[str, list[dict[str, Any]]]:
        found = {}
        for name, rows in made(request).items():
            table = Base.metadata.tables[name]
            query = select(*(table.c[column] for column in rows[0]))
            found[name] = sorted((dict(row) for row in (await connection.execute(query)).mappings()), key=lambda row: str(row["id"]))
        return found

    found: dict[str, list[dict[str, Any]]] = await execute(settings, work)
    return found


async def users(settings: Settings) -> int:
    return len(list(await execute(settings, lambda connection: connection.scalars(select(User.id)))))


async def recorded(settings: Settings) -> list[tuple[Any, ...]]:
    query = text("SELECT name, arguments, written FROM fininfra_seeds ORDER BY name, arguments")
    return [tuple(row) for row in await execute(settings, lambda connection: connection.execute(query))]


@pytest.mark.parametrize("request_", [DEMO, LOAD], ids=["demo", "load"])
async def test_every_database_holds_what_the_profile_makes_and_a_second_run_changes_nothing(
    tables: Settings, request_: SeedRequest
) -> None:
    sizes = {name: len(rows) for name, rows in made(request_).items()}
    first = await write_seeds(tables, request_)
    assert (first.seed, first.rows, first.inserted) == (request_.name, sizes, sum(sizes.values()))
    assert await read(tables, request_) == made(request_)
    before = (await stored(tables), await recorded(tables))
    again = await write_seeds(tables, request_)
    assert (again.rows, again.inserted) == (sizes, 0)
    assert (await stored(tables), await recorded(tables)) == before


async def test_balances_are_those_of_the_ledger_in_sql(tables: Settings) -> None:
    await write_seeds(tables, DEMO)
    await write_seeds(tables, LOAD)
    differing = """
        SELECT count(*) FROM accounts a WHERE a.balance <> (
            SELECT round(sum(t.amount), 4) FROM transactions t WHERE t.account_id = a.id AND t.pending = {false})
    """.format(false="0" if "sqlite" in tables.sql_url else "false")
    if "sqlite" in tables.sql_url:
        differing = differing.replace("a.balance <>", "round(a.balance, 4) <>")
    assert list(await execute(tables, lambda connection: connection.scalars(text(differing)))) == [0]


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from fininfra_db.data.loader import write_seeds
from fininfra_db.data.profiles import plan
from fininfra_db.data.request import SeedRequest
from fininfra_db.settings import load_settings

plan.BATCH = 1

def end(event):
    if event.done >= 3.9 * 24:
        os.kill(os.getpid(), signal.SIGKILL)

settings = load_settings(project_root=Path(sys.argv[1]))
asyncio.run(write_seeds(settings, SeedRequest("load", users=6, accounts=2, per_account=10), observer=end))
"""


async def test_a_run_that_was_killed_is_completed_by_the_next(tables: Settings, project: Project) -> None:
    environment = clean_environment() | project.environ | {"SQL_URL": project.url}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(project.root)], env=environment, capture_output=True, check=False)
    assert ended.returncode == -9, ended.stderr
    assert await users(tables) == 3, "the batch that was killed is rolled back as a whole, those before stay"
    completed = await write_seeds(tables, LOAD)
    assert completed.inserted == sum(completed.rows.values()) // 2
    assert completed.rows == {name: len(rows) for name, rows in made(LOAD).items()}
    assert await read(tables, LOAD) == made(LOAD)


@pytest.mark.usefixtures("small_batches")
async def test_a_failing_batch_is_said_and_those_before_stay(tables: Settings) -> None:
    mine = {"id": "mine", "email": made(LOAD)["users"][2]["email"]}
    await execute(tables, lambda connection: connection.execute(insert(User), [mine]))
    with pytest.raises(SeedFailed, match=r"in the way of the load.*The batches before stay, the rest was rolled back"):
        await write_seeds(tables, LOAD)
    assert await users(tables) == 3
    await execute(tables, lambda connection: connection.execute(delete(User).where(User.id == "mine")))
    assert (await write_seeds(tables, LOAD)).inserted == 4 * 24
    assert await read(tables, LOAD) == made(LOAD)


async def test_what_has_gone_is_not_counted_and_users_that_are_missing_come_back(tables: Settings) -> None:
    await write_seeds(tables, LOAD)
    gone = made(LOAD)["users"][1]["id"]
    await execute(tables, lambda connection: connection.execute(delete(User).where(User.id == gone)))
    again = await write_seeds(tables, LOAD)
    assert (again.inserted, again.rows) == (24, {name: len(rows) for name, rows in made(LOAD).items()})


async def test_more_users_are_added(tables: Settings) -> None:
    await write_seeds(tables, SeedRequest("load", users=2, accounts=2, per_account=10))
    grown = await write_seeds(tables, LOAD)
    assert (grown.inserted, grown.rows["users"]) == (4 * 24, 6)
    assert await read(tables, LOAD) == made(LOAD)
    assert [row[0] for row in await recorded(tables)] == ["load"]


# --replace.


async def test_replace_removes_what_the_profile_wrote_with_any_arguments_and_nothing_else(tables: Settings) -> None:
    await write_seeds(tables, SeedRequest("household"))
    await write_seeds(tables, LOAD)
    mine = {"id": "018cc4e5-2200-7845-86e0-000000000001", "email": "mine@example.com"}
    await execute(tables, lambda connection: connection.execute(insert(User), [mine]))
    before = await stored(tables)
    second = SeedRequest("demo", users=2, months=1, random_seed=5)
    await write_seeds(tables, DEMO)
    await write_seeds(tables, second)
    other = SeedRequest("demo", users=1, months=2, replace=True)
    replaced = await write_seeds(tables, other)
    size = sum(map(len, made(other).values()))
    assert (replaced.inserted, sum(replaced.rows.values())) == (size, size)
    assert replaced.removed == sum(len(rows) for each in (DEMO, second) for rows in made(each).values())
    after = await stored(tables)
    assert set(map(str, before)) <= set(map(str, after))
    assert len(after) == len(before) + size
    assert [row[0] for row in await recorded(tables)] == ["demo", "household", "load"]


@pytest.mark.parametrize("request_", [DEMO, SeedRequest("household")], ids=["demo", "household"])
async def test_replace_brings_back_what_was_changed_and_deleted(tables: Settings, request_: SeedRequest) -> None:
    await write_seeds(tables, request_)
    written = without_tokens(await stored(tables))

    async def change(connection: AsyncConnection) -> None:
        await connection.execute(delete(Budget))
        await connection.execute(update(Account).values(name="Renamed", balance=Decimal(1)))

    await execute(tables, change)
    await write_seeds(tables, SeedRequest(request_.name, users=request_.users, months=request_.months, replace=True))
    assert without_tokens(await stored(tables)) == written


def without_tokens(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows without what is sealed, which is another text each time."""
    return [tuple(value for value in row if not str(value).startswith("gAAAA")) for row in rows]


async def test_rows_of_somebody_else_stay_with_what_they_hang_below(tables: Settings) -> None:
    await write_seeds(tables, DEMO)
    account = made(DEMO)["accounts"][0]
    mine = made(DEMO)["transactions"][0] | {
        "id": "mine",
        "transaction_id": "mine",
        "account_id": account["id"],
        "user_id": account["user_id"],
    }
    await execute(tables, lambda connection: connection.execute(insert(Transaction), [mine]))
    await write_seeds(tables, SeedRequest("demo", users=3, months=1, replace=True))
    again = await read(tables, DEMO)
    assert [row["id"] for row in again["transactions"] if row["transaction_id"] == "mine"] == ["mine"]
    again["transactions"] = [row for row in again["transactions"] if row["id"] != "mine"]
    assert again == made(DEMO)
    await write_seeds(tables, SeedRequest("demo", users=1, months=1, random_seed=3, replace=True))
    left = await read(tables, DEMO)
    assert {row["id"] for row in left["users"]} >= {account["user_id"]}
    theirs = [row["id"] for row in left["transactions"] if row["user_id"] == account["user_id"]]
    assert theirs == [row["id"] for row in made(DEMO)["transactions"] if row["user_id"] == account["user_id"]] + ["mine"]


async def test_a_user_that_is_kept_is_kept_whole_so_that_the_first_command_completes_the_rest(tables: Settings) -> None:
    await write_seeds(tables, LOAD)
    mine = made(LOAD)["transactions"][0] | {"id": "mine", "transaction_id": "mine"}
    await execute(tables, lambda connection: connection.execute(insert(Transaction), [mine]))
    other = SeedRequest("load", users=6, accounts=2, per_account=10, months=6)
    replaced = await write_seeds(tables, replace(other, replace=True))
    assert (replaced.removed, replaced.inserted) == (5 * 24, 6 * 24)
    again = await write_seeds(tables, LOAD)
    assert (again.inserted, again.rows) == (5 * 24, {name: len(rows) for name, rows in made(LOAD).items()})
    ours = {name: {row["id"]: row for row in rows} for name, rows in (await read(tables, LOAD)).items()}
    assert {name: [ours[name][row["id"]] for row in rows] for name, rows in made(LOAD).items()} == made(LOAD)
    await write_seeds(tables, replace(LOAD, replace=True))
    assert len(await recorded(tables)) == 1


@pytest.mark.parametrize("request_", [LOAD, SeedRequest("household")], ids=["load", "household"])
async def test_rows_of_tables_that_no_model_tells_of_keep_what_they_hang_below(
    tables: Settings, project: Project, request_: SeedRequest
) -> None:
    """Their foreign keys delete them with their parents; on PostgreSQL one is in another schema, on MySQL in another database."""
    other = {"sqlite": "", "postgresql": "audit.", "mysql": f"{make_url(tables.sql_url).database}_audit."}[project.dialect]
    home = f"{make_url(tables.sql_url).database}." if project.dialect == "mysql" else ""
    await write_seeds(tables, request_)
    users, accounts = sorted(await ids(tables, User)), sorted(await ids(tables, Account))
    reference = f"FOREIGN KEY (it) REFERENCES {home}{{}} (id) ON DELETE CASCADE"
    kind = "VARCHAR(36)" + (" CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if project.dialect == "mysql" else "")
    try:
        await project.execute(
            *([f"CREATE SCHEMA {other[:-1]}"] if other else []),
            f"CREATE TABLE notes (id VARCHAR(36), it {kind}, {reference.format('users')})",
            f"CREATE TABLE {other}remark (id VARCHAR(36), it {kind}, {reference.format('accounts')})",
            f"INSERT INTO notes VALUES ('mine', '{users[0]}')",
            f"INSERT INTO {other}remark VALUES ('mine', '{accounts[-1]}')",
        )
        await write_seeds(tables, replace(request_, replace=True))
        for name in ("notes", f"{other}remark"):
            assert await project.rows(f"SELECT id FROM {name}") == [("mine",)]
        assert await ids(tables, User) == set(users)
    finally:
        if project.dialect == "mysql":
            await project.execute(f"DROP DATABASE IF EXISTS {other[:-1]}")


async def ids(settings: Settings, model: type[Base]) -> set[str]:
    table = Base.metadata.tables[model.__tablename__]
    return set(await execute(settings, lambda connection: connection.scalars(select(table.c.id))))


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("project", ["sqlite"], indirect=True)
async def test_a_failure_tells_of_what_was_removed_before(tables: Settings) -> None:
    """The first batch, whose only user is kept, has only removed rows."""
    await write_seeds(tables, LOAD)
    mine = made(LOAD)["transactions"][0] | {"id": "mine", "transaction_id": "mine", "user_id": made(LOAD)["users"][0]["id"]}
    mine["account_id"] = next(row["id"] for row in made(LOAD)["accounts"] if row["user_id"] == mine["user_id"])
    await execute(tables, lambda connection: connection.execute(insert(Transaction), [mine]))
    gone = made(LOAD)["users"][1]

    async def take_its_email(connection: AsyncConnection) -> None:
        await connection.execute(delete(User).where(User.id == gone["id"]))
        await connection.execute(insert(User), [{"id": "mine", "email": gone["email"]}])

    await execute(tables, take_its_email)
    with pytest.raises(SeedFailed, match=r"The batches before stay, 96 rows that were there are removed, the rest was rolled back"):
        await write_seeds(tables, replace(LOAD, replace=True))
    assert await users(tables) == 2


# What was written, and the seeds of a project.

SEEDS = "from fininfra_db.models import User\n\n\ndef testers(session):\n    session.merge(User(id='tester', email='tester@example.com'))\n"


@pytest.fixture
def with_seeds(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write a module of the project and list seeds in its ``alembic.ini``."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(listed: str) -> None:
        sys.modules.pop("profile_seeds", None)
        (project.root / "profile_seeds.py").write_text(SEEDS, encoding="utf-8")
        ini = project.root / "alembic.ini"
        ini.write_text(f"{ini.read_text(encoding='utf-8')}\nseeds = {listed}\n", encoding="utf-8")

    return write


async def test_the_seeds_of_the_project_run_in_order_and_status_tells_what_was_written(
    project: Project, with_seeds: Callable[[str], None]
) -> None:
    await project.database().setup_and_migrate()
    assert (await project.database().status()).seeds == ()
    with_seeds("household, profile_seeds:testers")
    seeded = await project.database().seed()
    assert [part.seed for part in seeded.parts] == ["household", "profile_seeds:testers"]
    assert (seeded.seed, seeded.inserted) == ("household, profile_seeds:testers", seeded.parts[0].inserted)
    await project.database().seed(LOAD)
    household, testers, load = (await project.database().status()).seeds
    assert (household.name, household.arguments, household.rows) == ("household", {}, seeded.rows)
    assert (testers.name, testers.rows) == ("profile_seeds:testers", None)
    assert load.arguments == {"users": 6, "months": 12, "accounts": 2, "per_account": 10, "as_of": "2025-12-31", "random_seed": 0}
    assert load.rows == {name: len(rows) for name, rows in made(LOAD).items()}
    assert load.written.tzinfo
    assert load.login
    with pytest.raises(OptionsInvalid, match="several seeds"):
        await project.database().seed(SeedRequest(users=3))
    reset = await project.database().reset(seed=SeedRequest())
    assert reset.seeded is not None
    assert [each.name for each in (await project.database().status()).seeds] == ["household", "profile_seeds:testers"]


async def test_after_a_downgrade_to_base_or_a_reset_no_seed_is_told_of_and_a_profile_is_written_again(project: Project) -> None:
    await project.database().setup_and_migrate()
    first = await project.database().seed(LOAD)
    await project.database().downgrade("base")
    await project.database().upgrade()
    assert (await project.database().status()).seeds == ()
    await project.database().seed(LOAD)
    await project.database().reset()
    assert (await project.database().status()).seeds == ()
    assert (await project.database().seed(LOAD)).inserted == first.inserted


async def test_a_seed_that_fails_is_not_told_of(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (project.root / "failing_profile_seeds.py").write_text("def run(session):\n    1 / 0\n", encoding="utf-8")
    sys.modules.pop("failing_profile_seeds", None)
    await project.database().setup_and_migrate()
    with pytest.raises(SeedFailed):
        await project.database().seed("failing_profile_seeds:run")
    assert (await project.database().status()).seeds == ()


@pytest.mark.parametrize("project", ["sqlite"], indirect=True)
async def test_options_are_not_for_functions_of_the_project(project: Project, with_seeds: Callable[[str], None]) -> None:
    await project.database().setup_and_migrate()
    with_seeds("")
    with pytest.raises(OptionsInvalid, match=r"takes no options: --users, --replace"):
        await project.database().seed(SeedRequest("profile_seeds:testers", users=3, replace=True))


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("project", ["sqlite"], indirect=True)
async def test_an_observer_is_told_how_far_it_is(tables: Settings) -> None:
    told: list[Event] = []
    await write_seeds(tables, LOAD, observer=told.append)
    steps = [event for event in told if isinstance(event, Progress)]
    assert {(step.task, step.total) for step in steps} == {("load", 6 * 24)}
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == 6 * 24
