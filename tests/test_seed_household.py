"""The default seed: that its figures agree, and that the loader writes all of a seed or nothing, on every database."""

import asyncio
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import String, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fininfra_db.data.household import END, MONTH_ENDS, START, Household, Row, household
from fininfra_db.data.loader import seed_callable, seed_household
from fininfra_db.errors import DatabaseMissing, DatabaseUnreachable, KeyMissing, OptionsInvalid, SeedFailed
from fininfra_db.models import Account, BankConnection, Base, Budget, Document, Goal, NetWorthSnapshot, Transaction, User
from fininfra_db.session import ensure_database, make_engine
from fininfra_db.settings import Settings, load_settings
from fininfra_db.types import EncryptedString
from tests.conftest import Project

SEED: Household = household()
OWED = {"credit", "loan"}
MOVEMENTS = {"Transfer", "Card payment", "Loan payment"}
MAYA_ID = "19c7c7cd-b8e0-57fc-9b76-96ea24e8c068"


# The figures. Each is recomputed here from the rows alone, as a reader of the database would.


def users_by_name() -> dict[str, str]:
    return {user["email"].partition(".")[0]: user["id"] for user in SEED[User]}


def total(transactions: list[Row]) -> Decimal:
    return sum((row["amount"] for row in transactions), Decimal(0))


def posted(account_id: str, day: date = END) -> list[Row]:
    return [row for row in SEED[Transaction] if row["account_id"] == account_id and row["date"] <= day and not row["pending"]]


def test_the_household_is_of_the_size_it_says() -> None:
    assert [len(SEED[model]) for model in (User, BankConnection, Account, NetWorthSnapshot)] == [2, 4, 7, 2 * 12]
    assert len(SEED[Transaction]) > 500
    assert {model for model in SEED if SEED[model]} == {mapper.class_ for mapper in Base.registry.mappers}
    assert {account["type"] for account in SEED[Account]} == {"checking", "savings", "credit", "loan", "investment"}


def test_each_balance_is_the_sum_of_what_was_posted() -> None:
    for account in SEED[Account]:
        assert account["balance"] == total(posted(account["id"])), account["name"]


def test_each_account_begins_with_its_opening_balance() -> None:
    openings = [row for row in SEED[Transaction] if row["name"] == "Opening balance"]
    assert sorted(row["account_id"] for row in openings) == sorted(account["id"] for account in SEED[Account])
    assert {row["date"] for row in openings} == {START}
    for account in SEED[Account]:
        assert posted(account["id"])[0]["name"] == "Opening balance"


def test_pending_purchases_are_at_the_end_and_outside_the_balances() -> None:
    pending = [row for row in SEED[Transaction] if row["pending"]]
    assert len(pending) >= 3
    assert all(row["date"] >= date(2025, 12, 30) and row["amount"] < 0 for row in pending)


def test_every_movement_between_accounts_has_two_sides_that_add_up_to_zero() -> None:
    sides = defaultdict(list)
    for row in SEED[Transaction]:
        if row["category"] in MOVEMENTS:
            sides[row["user_id"], row["date"], row["transaction_id"], row["category"]].append(row)
    assert {category for *_, category in sides} == MOVEMENTS
    for movement, pair in sides.items():
        assert len({row["account_id"] for row in pair}) == len(pair) == 2, movement
        assert total(pair) == 0, movement
        assert all(row["amount"] for row in pair), movement


def test_nobody_is_overdrawn_and_no_debt_is_overpaid() -> None:
    for account in SEED[Account]:
        by_day: dict[date, Decimal] = defaultdict(Decimal)
        for row in posted(account["id"]):
            by_day[row["date"]] += row["amount"]
        balance = Decimal(0)
        for day in sorted(by_day):
            balance += by_day[day]
            assert balance <= 0 if account["type"] in OWED else balance >= 0, (account["name"], day)


@pytest.mark.parametrize("name", ["maya", "daniel"])
def test_each_snapshot_is_the_ledger_at_its_day(name: str) -> None:
    user_id = users_by_name()[name]
    snapshots = [row for row in SEED[NetWorthSnapshot] if row["user_id"] == user_id]
    assert tuple(row["snapshot_date"] for row in snapshots) == MONTH_ENDS
    for snapshot in snapshots:
        held: dict[str, Decimal] = defaultdict(Decimal)
        for account in SEED[Account]:
            if account["user_id"] == user_id:
                held[account["type"]] += total(posted(account["id"], snapshot["snapshot_date"]))
        assets = {kind: amount for kind, amount in held.items() if kind not in OWED}
        liabilities = {kind: -amount for kind, amount in held.items() if kind in OWED}
        for amounts, breakdown, whole in (
            (assets, "assets_breakdown", "total_assets"),
            (liabilities, "liabilities_breakdown", "total_liabilities"),
        ):
            assert {kind: Decimal(text) for kind, text in snapshot[breakdown].items()} == amounts
            assert all(re.fullmatch(r"\d+\.\d\d", text) for text in snapshot[breakdown].values())
            assert snapshot[whole] == sum(amounts.values())
        assert snapshot["net_worth"] == snapshot["total_assets"] - snapshot["total_liabilities"]


def test_the_last_snapshots_are_the_balances() -> None:
    worth = sum(row["net_worth"] for row in SEED[NetWorthSnapshot] if row["snapshot_date"] == END)
    assert worth == sum(account["balance"] for account in SEED[Account])


def test_goals_are_as_far_as_the_accounts_they_stand_for() -> None:
    balances = {account["name"]: account["balance"] for account in SEED[Account]}
    reached = {goal["name"]: goal["current_amount"] for goal in SEED[Goal]}
    assert reached == {
        "Emergency fund": balances["High-Yield Savings"],
        "House down payment": balances["Share Savings"],
        "Retirement": balances["Index Portfolio"],
    }


def test_budgets_plan_what_is_spent() -> None:
    for budget in SEED[Budget]:
        spent = {row["category"] for row in SEED[Transaction] if row["user_id"] == budget["user_id"] and row["amount"] < 0}
        assert set(budget["categories"]) <= spent, budget["name"]
        assert all(Decimal(amount) > 0 for amount in budget["categories"].values())


def test_a_refund_gives_back_what_was_paid_on_the_same_account() -> None:
    [refund] = [row for row in SEED[Transaction] if row["transaction_id"].endswith("-refund")]
    paid = [row for row in posted(refund["account_id"]) if row["merchant_name"] == refund["merchant_name"]]
    assert any(row["amount"] == -refund["amount"] < 0 and row["date"] < refund["date"] for row in paid)


@pytest.mark.parametrize("name", ["maya", "daniel"])
def test_tax_forms_agree_with_what_was_deposited(name: str) -> None:
    user_id = users_by_name()[name]
    forms = {row["document_type"]: row["extracted_data"] for row in SEED[Document] if row["user_id"] == user_id}
    w2 = forms["w2"]
    withheld = sum(Decimal(w2[box]) for box in ("federal_income_tax", "social_security_tax", "medicare_tax"))
    deposits = [row for row in SEED[Transaction] if row["user_id"] == user_id and row["category"] == "Income"]
    assert len(deposits) == 24
    assert total(deposits) == Decimal(w2["wages"]) - withheld
    assert Decimal(w2["social_security_tax"]) == Decimal(w2["wages"]) * Decimal("0.062")
    assert Decimal(w2["medicare_tax"]) == Decimal(w2["wages"]) * Decimal("0.0145")
    [savings] = [row["id"] for row in SEED[Account] if row["user_id"] == user_id and row["type"] == "savings"]
    earned = [row for row in posted(savings) if row["category"] == "Interest"]
    assert len(earned) == 12
    assert Decimal(forms["1099"]["interest_income"]) == total(earned)


def test_salaries_come_on_working_days() -> None:
    days = {row["date"] for row in SEED[Transaction] if row["category"] == "Income"}
    assert len(days) == 24
    assert all(day.weekday() < 5 for day in days)
    assert date(2025, 2, 14) in days  # the 15th was a Saturday
    assert date(2025, 11, 28) in days  # the 30th was a Sunday


def test_the_receipt_is_of_a_purchase() -> None:
    [receipt] = [row["extracted_data"] for row in SEED[Document] if row["document_type"] == "receipt"]
    bought = {(row["merchant_name"], row["date"].isoformat(), str(-row["amount"])) for row in SEED[Transaction]}
    assert (receipt["merchant"], receipt["date"], receipt["total"]) in bought


# The rows: what the schema and the databases ask of them.


def test_ids_and_natural_keys_are_unique() -> None:
    ids = [row["id"] for found in SEED.values() for row in found]
    keys = [("transaction", row["user_id"], row["account_id"], row["transaction_id"]) for row in SEED[Transaction]]
    accounts = [("account", row["user_id"], row["connection_id"], row["account_id"]) for row in SEED[Account]]
    emails = [row["email"] for row in SEED[User]]
    repeated = [key for key, count in Counter([*ids, *keys, *accounts, *emails]).items() if count > 1]
    assert repeated == []


def test_parents_come_first_and_belong_to_the_same_user() -> None:
    owner: dict[str, str] = {}
    for model, found in SEED.items():
        for row in found:
            user_id = row["id"] if model is User else row["user_id"]
            parents = [row[name] for name in ("user_id", "connection_id") if name in row]
            parents += [row["account_id"]] if model is Transaction else []
            assert all(owner[parent] == user_id for parent in parents), row
            owner[row["id"]] = user_id


def test_every_value_fits_its_column() -> None:
    for model, found in SEED.items():
        columns = Base.metadata.tables[model.__tablename__].columns
        for row in found:
            assert set(row) <= set(columns.keys()), model
            for name, value in row.items():
                column_type = columns[name].type
                if isinstance(column_type, EncryptedString):
                    assert len(value.encode()) <= 303
                elif isinstance(column_type, String) and value is not None:
                    assert len(value) <= (column_type.length or 0), (model, name, value)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def test_money_is_decimal_to_the_cent_and_instants_are_aware() -> None:
    values = [value for found in SEED.values() for value in leaves(found)]
    assert not [value for value in values if isinstance(value, float)]
    assert {value.as_tuple().exponent for value in values if isinstance(value, Decimal)} == {-2}
    assert all(value.utcoffset() is not None for value in values if isinstance(value, datetime))
    for row in SEED[Document]:
        data = row["extracted_data"] or {}
        assert all(isinstance(value, str) for key, value in data.items() if key != "tax_year")


def test_the_year_is_fixed_and_secrets_and_addresses_are_fake() -> None:
    assert {row["date"].year for row in SEED[Transaction]} == {2025}
    assert all(re.search(r"@example\.(com|org)$", row["email"]) for row in SEED[User])
    assert all(row["access_token"].startswith("access-sandbox-") for row in SEED[BankConnection])
    assert all("hashed_password" not in row for row in SEED[User])


def test_two_calls_give_equal_rows_that_are_not_shared() -> None:
    first, second = household(), household()
    assert first == second
    first[Budget][0]["categories"]["Food"] = 0
    assert first != second == household()


def test_two_processes_give_the_same_rows() -> None:
    program = "import hashlib, fininfra_db.data.household as h; print(hashlib.sha256(repr(h.household()).encode()).hexdigest())"
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "TZ": zone, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed, zone in (("1", "Asia/Tokyo"), ("2", "America/Los_Angeles"))
    }
    assert seen == {sha256(repr(SEED).encode()).hexdigest()}


def test_ids_stay_the_same_from_release_to_release() -> None:
    assert users_by_name()["maya"] == MAYA_ID


# The loader, on each database.


@pytest_asyncio.fixture
async def tables(project: Project) -> Settings:
    """A database that has the tables of the models and no row."""
    settings = project.settings()
    await ensure_database(settings)
    engine = make_engine(settings, "migration")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()
    return settings


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

    return await execute(settings, read)


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


def test_each_run_may_have_an_event_loop_of_its_own(project: Project, module: str) -> None:
    asyncio.run(project.database().create_tables())
    assert asyncio.run(seed_household(project.settings())).inserted > 500
    asyncio.run(seed_callable(project.settings(), f"{module}:synchronous"))
    assert asyncio.run(seed_household(project.settings())).inserted == 0


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
