"""The schema as each database enforces it: tenants, cascades, unique keys, names, soft delete, and the session on top of it."""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, delete, event, func, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import joinedload, selectinload

from fininfra_db import get_async_session, get_engine
from fininfra_db.connections import open_connection
from fininfra_db.models import (
    UNUSABLE_PASSWORD,
    Account,
    BankConnection,
    Base,
    Budget,
    Document,
    Goal,
    NetWorthSnapshot,
    Transaction,
    User,
)
from fininfra_db.types import new_id
from tests.conftest import DATABASES, Project, clean_environment, make_project

TABLES = ("users", "bank_connections", "accounts", "transactions", "budgets", "goals", "net_worth_snapshots", "documents")
DAY = date(2026, 1, 31)


# What the tests of the schema and of its types share.


def make_finance(dialect: str, folder: Path, key: str) -> Iterator[Project]:
    """A project at head. Tests share it and keep to users of their own."""
    making = make_project(dialect, folder, key)
    project = next(making)
    asyncio.run(project.database().setup_and_migrate())
    yield project
    next(making, None)


def a_user(**values: Any) -> User:
    return User(**{"id": new_id(), "email": f"{uuid4().hex}@example.com"} | values)


def a_connection(user: User, **values: Any) -> BankConnection:
    given = {"id": new_id(), "user_id": user.id, "access_token": "access-sandbox-1", "item_id": "item", "institution_name": "First Bank"}
    return BankConnection(**given | values)


def an_account(connection: BankConnection, **values: Any) -> Account:
    given = {"id": new_id(), "user_id": connection.user_id, "connection_id": connection.id, "account_id": new_id()}
    return Account(**given | {"name": "Checking", "type": "depository", "subtype": "checking", "balance": Decimal("100.50")} | values)


def a_transaction(account: Account, **values: Any) -> Transaction:
    given = {"id": new_id(), "user_id": account.user_id, "account_id": account.id, "transaction_id": new_id()}
    return Transaction(**given | {"amount": Decimal("-4.20"), "date": DAY, "name": "Coffee"} | values)


def a_budget(user: User, **values: Any) -> Budget:
    given = {"id": new_id(), "user_id": user.id, "name": "January", "type": "monthly", "start_date": DAY}
    return Budget(**given | {"categories": {"Food": 500}} | values)


def a_goal(user: User, **values: Any) -> Goal:
    given = {"id": new_id(), "user_id": user.id, "name": "Holiday", "target_amount": 2000, "target_date": DAY, "priority": "low"}
    return Goal(**given | values)


def a_snapshot(user: User, **values: Any) -> NetWorthSnapshot:
    figures = {"total_assets": 100, "total_liabilities": 40, "net_worth": 60}
    breakdowns = {"assets_breakdown": {"cash": 100}, "liabilities_breakdown": {"card": 40}}
    return NetWorthSnapshot(**{"id": new_id(), "user_id": user.id, "snapshot_date": DAY} | figures | breakdowns | values)


def a_document(user: User, **values: Any) -> Document:
    given = {"id": new_id(), "user_id": user.id, "filename": "w2.pdf", "document_type": "w2", "file_path": "/files/w2.pdf"}
    return Document(**given | values)


def a_household() -> list[Any]:
    """A user with one row in every table, parents first."""
    user = a_user()
    connection = a_connection(user)
    account = an_account(connection)
    return [user, connection, account, a_transaction(account), a_budget(user), a_goal(user), a_snapshot(user), a_document(user)]


async def save(project: Project, *rows: Any) -> None:
    """Write rows in one transaction, in this order."""
    async with get_async_session(project.settings()) as session, session.begin():
        for row in rows:
            session.add(row)
            await session.flush()


async def save_household(project: Project) -> list[Any]:
    rows = a_household()
    await save(project, *rows)
    return rows


async def run(project: Project, statement: str, **values: Any) -> int:
    """Run one statement of SQL as an application would, commit, and return how many rows it touched."""
    async with get_async_session(project.settings()) as session, session.begin():
        return (await session.execute(text(statement), values)).rowcount  # type: ignore[attr-defined,no-any-return]


async def rows_of(project: Project, user: User) -> dict[str, int]:
    """How many rows of each table are this user's, behind the session's back."""
    async with open_connection(project.settings(), "reading") as connection:
        found = {}
        for table in TABLES:
            owner = "id" if table == "users" else "user_id"
            found[table] = await connection.scalar(text(f"SELECT count(*) FROM {table} WHERE {owner} = :user"), {"user": user.id})
        return found


ONE_OF_EACH = dict.fromkeys(TABLES, 1)
NOTHING = dict.fromkeys(TABLES, 0)


@pytest.fixture(scope="module", params=DATABASES)
def finance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, key: str) -> Iterator[Project]:
    """A project at head on each database, shared by this module's tests."""
    yield from make_finance(request.param, tmp_path_factory.mktemp("finance"), key)


# Tenants.


async def test_a_transaction_cannot_be_inserted_on_another_users_account(finance: Project) -> None:
    (mine, *_), (_, _, theirs, *_) = await save_household(finance), await save_household(finance)
    with pytest.raises(IntegrityError):
        await save(finance, a_transaction(theirs, user_id=mine.id))
    assert await rows_of(finance, mine) == ONE_OF_EACH


async def test_an_account_cannot_be_inserted_on_another_users_connection(finance: Project) -> None:
    (mine, *_), (_, theirs, *_) = await save_household(finance), await save_household(finance)
    with pytest.raises(IntegrityError):
        await save(finance, an_account(theirs, user_id=mine.id))
    assert await rows_of(finance, mine) == ONE_OF_EACH


async def test_raw_sql_cannot_insert_a_transaction_on_another_users_account(finance: Project) -> None:
    (mine, *_), (_, _, theirs, *_) = await save_household(finance), await save_household(finance)
    insert = (
        "INSERT INTO transactions (id, user_id, account_id, transaction_id, amount, date, name) "
        "VALUES (:id, :user, :account, 'x', 1, '2026-01-31', 'x')"
    )
    with pytest.raises(IntegrityError):
        await run(finance, insert, id=new_id(), user=mine.id, account=theirs.id)
    assert await run(finance, insert, id=new_id(), user=theirs.user_id, account=theirs.id) == 1
    assert await rows_of(finance, mine) == ONE_OF_EACH


@pytest.mark.parametrize(
    ("table", "place", "change"),
    [
        ("accounts", 2, "connection_id = :their_connection"),
        ("accounts", 2, "user_id = :their_user"),
        ("transactions", 3, "account_id = :their_account"),
        ("transactions", 3, "user_id = :their_user"),
        ("bank_connections", 1, "user_id = :their_user"),
    ],
)
async def test_raw_sql_cannot_move_a_row_to_another_user(finance: Project, table: str, place: int, change: str) -> None:
    mine, theirs = await save_household(finance), await save_household(finance)
    others = {"their_user": theirs[0].id, "their_connection": theirs[1].id, "their_account": theirs[2].id}
    used = {name: value for name, value in others.items() if f":{name}" in change}
    with pytest.raises(IntegrityError):
        await run(finance, f"UPDATE {table} SET {change} WHERE id = :id", id=mine[place].id, **used)
    assert await rows_of(finance, mine[0]) == ONE_OF_EACH


@pytest.mark.parametrize(
    ("place", "attribute", "other"), [(2, "connection_id", 1), (2, "user_id", 0), (3, "account_id", 2), (3, "user_id", 0)]
)
async def test_the_session_cannot_move_a_row_to_another_user(finance: Project, place: int, attribute: str, other: int) -> None:
    mine, theirs = await save_household(finance), await save_household(finance)
    async with get_async_session(finance.settings()) as session:
        row = await session.get_one(type(mine[place]), mine[place].id)
        setattr(row, attribute, theirs[other].id)
        with pytest.raises(IntegrityError):
            await session.commit()


@pytest.mark.parametrize("kind", ["account", "transaction"])
async def test_relationships_that_name_two_users_make_no_row_of_both(finance: Project, kind: str) -> None:
    mine, theirs = await save_household(finance), await save_household(finance)
    async with get_async_session(finance.settings()) as session:
        user = await session.get_one(User, mine[0].id)
        if kind == "account":
            parent: Any = await session.get_one(BankConnection, theirs[1].id)
            row: Any = Account(user=user, connection=parent, account_id="x", name="x", type="x", subtype="x", balance=1)
        else:
            parent = await session.get_one(Account, theirs[2].id)
            row = Transaction(user=user, account=parent, transaction_id="x", amount=1, date=DAY, name="x")
        session.add(row)
        try:
            await session.commit()
        except IntegrityError:
            return
        assert row.user_id == parent.user_id


async def test_a_row_can_be_moved_within_one_user(finance: Project) -> None:
    user, connection, account, *_ = await save_household(finance)
    other = a_connection(user)
    await save(finance, other)
    assert await run(finance, "UPDATE accounts SET connection_id = :other WHERE id = :id", other=other.id, id=account.id) == 1
    assert connection.id != other.id


# Cascades.


async def test_deleting_a_user_that_was_not_loaded_any_deeper_deletes_everything_below(finance: Project) -> None:
    (user, *_), (other, *_) = await save_household(finance), await save_household(finance)
    async with get_async_session(finance.settings()) as session:
        await session.delete(await session.get_one(User, user.id))
        await session.commit()
    assert await rows_of(finance, user) == NOTHING
    assert await rows_of(finance, other) == ONE_OF_EACH


async def test_deleting_a_user_loads_nothing_below_and_leaves_it_to_the_database(finance: Project) -> None:
    user, *_ = await save_household(finance)
    statements: list[str] = []
    async with get_async_session(finance.settings()) as session:
        found = await session.get_one(User, user.id)
        event.listen(get_engine(finance.settings()).sync_engine, "before_cursor_execute", lambda *details: statements.append(details[2]))
        await session.delete(found)
        await session.flush()
    assert [statement.split()[:3] for statement in statements] == [["DELETE", "FROM", "users"]]


async def test_deleting_a_user_with_everything_loaded_deletes_everything_below(finance: Project) -> None:
    (user, *_), (other, *_) = await save_household(finance), await save_household(finance)
    loading = [selectinload(getattr(User, name)) for name in User.__mapper__.relationships.keys()]  # noqa: SIM118
    deep = selectinload(User.bank_connections).selectinload(BankConnection.accounts).selectinload(Account.transactions)
    async with get_async_session(finance.settings()) as session:
        found = (await session.scalars(select(User).where(User.id == user.id).options(*loading, deep))).one()
        assert found.bank_connections[0].accounts[0].transactions
        await session.delete(found)
        await session.commit()
    assert await rows_of(finance, user) == NOTHING
    assert await rows_of(finance, other) == ONE_OF_EACH


async def test_deleting_a_user_by_sql_deletes_everything_below(finance: Project) -> None:
    (user, *_), (other, *_) = await save_household(finance), await save_household(finance)
    assert await run(finance, "DELETE FROM users WHERE id = :id", id=user.id) == 1
    assert await rows_of(finance, user) == NOTHING
    assert await rows_of(finance, other) == ONE_OF_EACH


async def test_deleting_a_user_by_statement_deletes_everything_below(finance: Project) -> None:
    (user, *_), (other, *_) = await save_household(finance), await save_household(finance)
    async with get_async_session(finance.settings()) as session, session.begin():
        await session.execute(delete(User).where(User.id == user.id))
    assert await rows_of(finance, user) == NOTHING
    assert await rows_of(finance, other) == ONE_OF_EACH


async def test_soft_deleted_rows_go_with_their_user_too(finance: Project) -> None:
    rows = a_household()
    for row in rows:
        if hasattr(row, "deleted_at"):
            row.deleted_at = datetime.now(UTC)
    await save(finance, *rows)
    async with get_async_session(finance.settings()) as session:
        user = (await session.scalars(select(User).where(User.id == rows[0].id).options(selectinload(User.accounts)))).one()
        assert user.accounts == []
        await session.delete(user)
        await session.commit()
    assert await rows_of(finance, rows[0]) == NOTHING


@pytest.mark.parametrize("loaded", [False, True])
async def test_deleting_a_connection_deletes_its_accounts_and_their_transactions(finance: Project, loaded: bool) -> None:
    user, connection, *_ = await save_household(finance)
    loading = [selectinload(BankConnection.accounts).selectinload(Account.transactions)] if loaded else []
    async with get_async_session(finance.settings()) as session:
        await session.delete(
            (await session.scalars(select(BankConnection).where(BankConnection.id == connection.id).options(*loading))).one()
        )
        await session.commit()
    assert await rows_of(finance, user) == ONE_OF_EACH | {"bank_connections": 0, "accounts": 0, "transactions": 0}


async def test_deleting_an_account_deletes_its_transactions_only(finance: Project) -> None:
    user, connection, account, *_ = await save_household(finance)
    sibling = an_account(connection)
    await save(finance, sibling, a_transaction(sibling))
    await run(finance, "DELETE FROM accounts WHERE id = :id", id=account.id)
    assert await rows_of(finance, user) == ONE_OF_EACH
    assert await run(finance, "DELETE FROM transactions WHERE account_id = :id", id=sibling.id) == 1


# Unique keys and checks.


async def test_a_transaction_of_the_provider_is_stored_once_for_an_account(finance: Project) -> None:
    user, connection, account, transaction, *_ = await save_household(finance)
    with pytest.raises(IntegrityError):
        await save(finance, a_transaction(account, transaction_id=transaction.transaction_id))
    other = an_account(connection)
    await save(finance, other, a_transaction(other, transaction_id=transaction.transaction_id))
    assert (await rows_of(finance, user))["transactions"] == 2


async def test_an_account_of_the_provider_is_stored_once_for_a_connection(finance: Project) -> None:
    user, connection, account, *_ = await save_household(finance)
    with pytest.raises(IntegrityError):
        await save(finance, an_account(connection, account_id=account.account_id))
    other = a_connection(user)
    await save(finance, other, an_account(other, account_id=account.account_id))
    assert (await rows_of(finance, user))["accounts"] == 2


async def test_provider_ids_that_differ_in_case_are_two(finance: Project) -> None:
    user, connection, account, *_ = await save_household(finance)
    await save(finance, a_transaction(account, transaction_id="aB"), a_transaction(account, transaction_id="Ab"))
    await save(finance, an_account(connection, account_id="aB"), an_account(connection, account_id="Ab"))
    assert await rows_of(finance, user) == ONE_OF_EACH | {"transactions": 3, "accounts": 3}
    async with get_async_session(finance.settings()) as session:
        found = (await session.scalars(select(Transaction).where(Transaction.user_id == user.id, Transaction.transaction_id == "aB"))).all()
        assert [row.transaction_id for row in found] == ["aB"]


async def test_an_email_belongs_to_one_user(finance: Project) -> None:
    user = a_user()
    await save(finance, user)
    with pytest.raises(IntegrityError):
        await save(finance, a_user(email=user.email))


async def test_any_short_text_is_an_id(finance: Project) -> None:
    ids = [f"user_{uuid4().hex[:8]}", f"Ünï {uuid4().hex[:8]}", "x" * 4 + uuid4().hex]
    await save(finance, *(a_user(id=name) for name in ids))
    async with get_async_session(finance.settings()) as session:
        assert {user.id for user in await session.scalars(select(User).where(User.id.in_(ids)))} == set(ids)


@pytest.mark.parametrize("currency", ["USD", "JPY", "AAA", "ZZZ"])
async def test_a_currency_of_three_capital_letters_is_taken(finance: Project, currency: str) -> None:
    _, connection, *_ = await save_household(finance)
    await save(finance, an_account(connection, currency=currency))


@pytest.mark.parametrize("currency", ["usd", "Usd", "US", "", "U1D", "US ", " US", "US\n", "$US", "ÜSD", "US_"])
async def test_any_other_currency_is_refused(finance: Project, currency: str) -> None:
    user, connection, account, *_ = await save_household(finance)
    with pytest.raises(DBAPIError, match="ck_accounts_currency"):
        await save(finance, an_account(connection, currency=currency))
    with pytest.raises(DBAPIError, match="ck_accounts_currency"):
        await run(finance, "UPDATE accounts SET currency = :currency WHERE id = :id", currency=currency, id=account.id)
    assert await rows_of(finance, user) == ONE_OF_EACH


async def test_the_guides_user_needs_no_password_and_gets_one_that_opens_nothing(finance: Project) -> None:
    user = a_user()
    await save(finance, user)
    assert user.hashed_password == UNUSABLE_PASSWORD


# Names and indexes, as the database tells them.


async def look(project: Project, question: Any) -> Any:
    async with open_connection(project.settings(), "reading") as connection:
        return await connection.run_sync(question)


async def constraints(project: Project) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """For each table of ours its primary key, foreign keys, unique keys, checks and indexes, as the database tells them."""

    def ask(connection: Connection) -> dict[str, dict[str, list[dict[str, Any]]]]:
        inspector = inspect(connection)
        return {
            table: {
                "pk": [dict(inspector.get_pk_constraint(table))],
                "fk": [dict(found) for found in inspector.get_foreign_keys(table)],
                "uq": [dict(found) for found in inspector.get_unique_constraints(table)],
                "ck": [dict(found) for found in inspector.get_check_constraints(table) if "json_valid" not in found["sqltext"]],
                "ix": [dict(found) for found in inspector.get_indexes(table) if not found.get("duplicates_constraint")],
            }
            for table in TABLES
        }

    found: dict[str, dict[str, list[dict[str, Any]]]] = await look(project, ask)
    return found


FOREIGN_KEYS = {
    "users": [],
    "bank_connections": [(["user_id"], "users")],
    "accounts": [(["user_id"], "users"), (["user_id", "connection_id"], "bank_connections")],
    "transactions": [(["user_id"], "users"), (["user_id", "account_id"], "accounts")],
    "budgets": [(["user_id"], "users")],
    "goals": [(["user_id"], "users")],
    "net_worth_snapshots": [(["user_id"], "users")],
    "documents": [(["user_id"], "users")],
}
UNIQUE_KEYS = {
    "users": [["email"]],
    "bank_connections": [["user_id", "id"]],
    "accounts": [["user_id", "connection_id", "account_id"], ["user_id", "id"]],
    "transactions": [["user_id", "account_id", "transaction_id"]],
    "budgets": [],
    "goals": [],
    "net_worth_snapshots": [],
    "documents": [],
}


async def test_the_foreign_keys_are_these_and_all_cascade(finance: Project) -> None:
    for table, found in (await constraints(finance)).items():
        keys = sorted((key["constrained_columns"], key["referred_table"]) for key in found["fk"])
        assert keys == FOREIGN_KEYS[table], table
        assert {key["options"].get("ondelete") for key in found["fk"]} <= {"CASCADE"}, table


async def test_every_foreign_key_has_an_index_that_starts_with_its_columns(finance: Project) -> None:
    for table, found in (await constraints(finance)).items():
        indexed = [key["column_names"] for key in (*found["uq"], *found["ix"])] + [key["constrained_columns"] for key in found["pk"]]
        for columns, _ in FOREIGN_KEYS[table]:
            assert [index for index in indexed if index[: len(columns)] == columns], f"{table} {columns} in {indexed}"


async def test_every_unique_key_but_email_starts_with_the_user(finance: Project) -> None:
    for table, found in (await constraints(finance)).items():
        unique = [key["column_names"] for key in found["uq"]]
        assert sorted(unique) == UNIQUE_KEYS[table], table
        assert all(columns[0] == "user_id" for columns in unique if columns != ["email"])
        assert [key["constrained_columns"] for key in found["pk"]] == [["id"]], table


async def test_the_guides_indexes_are_there_by_name(finance: Project) -> None:
    indexes = {index["name"]: index["column_names"] for index in (await constraints(finance))["transactions"]["ix"]}
    assert indexes["ix_transactions_user_date"] == ["user_id", "date"]
    assert indexes["ix_transactions_account"] == ["account_id"]


async def test_every_constraint_is_named_as_the_convention_says(finance: Project) -> None:
    for table, found in (await constraints(finance)).items():
        expected = {f"fk_{table}_{'_'.join(columns)}_{referred}" for columns, referred in FOREIGN_KEYS[table]}
        assert {key["name"] for key in found["fk"]} == expected
        assert {key["name"] for key in found["uq"]} == {f"uq_{table}_{'_'.join(columns)}" for columns in UNIQUE_KEYS[table]}
        assert {key["name"] for key in found["ck"]} == ({"ck_accounts_currency"} if table == "accounts" else set())
        if finance.dialect != "mysql":  # which calls every primary key PRIMARY
            assert {key["name"] for key in found["pk"]} == {f"pk_{table}"}
        plain = {index["name"]: index["column_names"] for index in found["ix"] if not index["unique"]}
        own = {"ix_transactions_user_date", "ix_transactions_account"}
        assert all(name in own or name == f"ix_{table}_{'_'.join(columns)}" for name, columns in plain.items()), plain


async def test_the_tables_are_these(finance: Project) -> None:
    found = await look(finance, lambda connection: set(inspect(connection).get_table_names()))
    assert {name for name in found if not name.startswith("fininfra_")} == {*TABLES, "alembic_version"}
    assert {table.name for table in Base.metadata.sorted_tables} == set(TABLES)


# Relationships.


async def test_the_guides_tree_loads_from_the_top(finance: Project) -> None:
    user, connection, *_ = await save_household(finance)
    accounts = [an_account(connection), an_account(connection)]
    await save(finance, *accounts, *(a_transaction(account) for account in accounts for _ in range(3)))
    async with get_async_session(finance.settings()) as session:
        query = select(User).where(User.id == user.id).options(selectinload(User.accounts).selectinload(Account.transactions))
        found = (await session.scalars(query)).one()
    below = {account.id: {transaction.account_id for transaction in account.transactions} for account in found.accounts}
    assert below == {account_id: {account_id} for account_id in below}
    assert sorted(len(account.transactions) for account in found.accounts) == [1, 3, 3]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("bank_connections", 1),
        ("accounts", 2),
        ("transactions", 3),
        ("budgets", 4),
        ("goals", 5),
        ("net_worth_snapshots", 6),
        ("documents", 7),
    ],
)
async def test_each_row_is_reached_from_its_user_and_back(finance: Project, name: str, place: int) -> None:
    rows = await save_household(finance)
    async with get_async_session(finance.settings()) as session:
        found = (await session.scalars(select(User).where(User.id == rows[0].id).options(selectinload(getattr(User, name))))).one()
        (below,) = getattr(found, name)
        assert below.id == rows[place].id
    async with get_async_session(finance.settings()) as session:
        model = type(rows[place])
        row = (await session.scalars(select(model).where(model.id == rows[place].id).options(joinedload(model.user)))).one()
        assert row.user.id == rows[0].id


@pytest.mark.filterwarnings("error")
async def test_a_tree_of_objects_is_written_without_naming_an_id(finance: Project) -> None:
    transaction = Transaction(transaction_id="t", amount=Decimal("-1.10"), date=DAY, name="Tea")
    account = Account(account_id="a", name="Cash", type="depository", subtype="cash", balance=5, transactions=[transaction])
    connection = BankConnection(access_token="token", item_id="i", institution_name="Bank", accounts=[account])
    user = User(email=f"{uuid4().hex}@example.com", bank_connections=[connection])
    async with get_async_session(finance.settings()) as session, session.begin():
        session.add(user)
    assert {row.user_id for row in (connection, account, transaction)} == {user.id}
    assert await rows_of(finance, user) == NOTHING | {"users": 1, "bank_connections": 1, "accounts": 1, "transactions": 1}


# Soft delete.

SOFT_DELETED = [(Account, 2), (Budget, 4), (Goal, 5), (Document, 7)]


async def soft_delete(project: Project, *rows: Any) -> None:
    async with get_async_session(project.settings()) as session, session.begin():
        for row in rows:
            (await session.get_one(type(row), row.id)).deleted_at = datetime.now(UTC)


def test_the_models_with_soft_delete_are_the_guides_four() -> None:
    assert {mapper.class_ for mapper in Base.registry.mappers if "deleted_at" in mapper.columns} == {model for model, _ in SOFT_DELETED}


@pytest.mark.parametrize(("model", "place"), SOFT_DELETED)
async def test_queries_leave_deleted_rows_out_until_they_are_asked_for(finance: Project, model: Any, place: int) -> None:
    rows = await save_household(finance)
    row, query = rows[place], select(model).where(model.id == rows[place].id)
    await soft_delete(finance, row)
    async with get_async_session(finance.settings()) as session:
        assert (await session.scalars(query)).all() == []
        assert (await session.execute(select(model.id, model.deleted_at).where(model.id == row.id))).all() == []
        assert await session.scalar(select(func.count()).select_from(model).where(model.id == row.id)) == 0
        assert await session.get(model, row.id) is None
    async with get_async_session(finance.settings()) as session:
        found = (await session.scalars(query.execution_options(include_deleted=True))).one()
        assert found.deleted_at is not None
        assert (
            await session.scalar(select(func.count()).select_from(model).where(model.id == row.id).execution_options(include_deleted=True))
            == 1
        )
    assert await rows_of(finance, rows[0]) == ONE_OF_EACH


@pytest.mark.parametrize("loading", [selectinload, joinedload])
@pytest.mark.parametrize(("model", "place"), SOFT_DELETED)
async def test_relationships_leave_deleted_rows_out_until_they_are_asked_for(
    finance: Project, model: Any, place: int, loading: Any
) -> None:
    rows = await save_household(finance)
    await soft_delete(finance, rows[place])
    query = select(User).where(User.id == rows[0].id).options(loading(getattr(User, model.__tablename__)))
    async with get_async_session(finance.settings()) as session:
        assert getattr((await session.scalars(query)).unique().one(), model.__tablename__) == []
    async with get_async_session(finance.settings()) as session:
        found = (await session.scalars(query.execution_options(include_deleted=True))).unique().one()
        assert [row.id for row in getattr(found, model.__tablename__)] == [rows[place].id]


async def test_joins_leave_deleted_rows_out_until_they_are_asked_for(finance: Project) -> None:
    user, _, account, transaction, *_ = await save_household(finance)
    await soft_delete(finance, account)
    query = select(Transaction.id, Account.name).join(Transaction.account).where(Transaction.user_id == user.id)
    outer = select(Transaction.id, Account.name).outerjoin(Transaction.account).where(Transaction.user_id == user.id)
    async with get_async_session(finance.settings()) as session:
        assert (await session.execute(query)).all() == []
        unmatched: tuple[str, str | None] = (transaction.id, None)
        assert [tuple(row) for row in await session.execute(outer)] == [unmatched]
        assert (await session.execute(query.execution_options(include_deleted=True))).all() == [(transaction.id, account.name)]


async def test_subqueries_leave_deleted_rows_out_too(finance: Project) -> None:
    user, _, account, transaction, *_ = await save_household(finance)
    await soft_delete(finance, account)
    living = select(Account.id).where(Account.user_id == user.id)
    query = select(Transaction.id).where(Transaction.account_id.in_(living))
    async with get_async_session(finance.settings()) as session:
        assert (await session.scalars(query)).all() == []
        assert (await session.scalars(query.execution_options(include_deleted=True))).all() == [transaction.id]


async def test_a_deleted_row_in_hand_can_be_refreshed_and_restored(finance: Project) -> None:
    _, _, account, *_ = await save_household(finance)
    await soft_delete(finance, account)
    async with get_async_session(finance.settings()) as session:
        found = (await session.scalars(select(Account).where(Account.id == account.id).execution_options(include_deleted=True))).one()
        await session.refresh(found)
        found.deleted_at = None
        await session.commit()
        assert (await session.scalars(select(Account).where(Account.id == account.id))).one() is found


async def test_deleting_softly_touches_no_other_row(finance: Project) -> None:
    user, connection, account, *_ = await save_household(finance)
    sibling = an_account(connection)
    await save(finance, sibling)
    await soft_delete(finance, account)
    async with get_async_session(finance.settings()) as session:
        assert (await session.scalars(select(Account.id).where(Account.user_id == user.id))).all() == [sibling.id]


# The session.


async def test_what_is_not_committed_is_rolled_back(finance: Project) -> None:
    user = a_user()
    async with get_async_session(finance.settings()) as session:
        session.add(user)
        await session.flush()
        assert await session.get(User, user.id) is user
    assert await rows_of(finance, user) == NOTHING


async def test_begin_commits_at_its_end(finance: Project) -> None:
    user = a_user()
    async with get_async_session(finance.settings()) as session, session.begin():
        session.add(user)
    assert (await rows_of(finance, user))["users"] == 1


async def test_begin_takes_everything_back_after_an_error(finance: Project) -> None:
    user = a_user()

    async def fail_in_between() -> None:
        async with get_async_session(finance.settings()) as session, session.begin():
            session.add(user)
            await session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_in_between()
    assert await rows_of(finance, user) == NOTHING


async def test_one_refused_row_takes_the_whole_transaction_back(finance: Project) -> None:
    user, other = a_user(), a_user()
    with pytest.raises(IntegrityError):
        await save(finance, user, other, a_user(email=user.email))
    assert await rows_of(finance, user) == await rows_of(finance, other) == NOTHING


async def test_objects_are_readable_after_commit_and_after_the_session(finance: Project) -> None:
    rows = a_household()
    async with get_async_session(finance.settings()) as session:
        session.add_all(rows)
        await session.commit()
        assert rows[0].created_at.tzinfo is UTC
    assert (rows[2].currency, rows[2].balance, rows[3].pending, rows[5].current_amount) == ("USD", Decimal("100.50"), False, Decimal(0))
    assert rows[1].access_token == "access-sandbox-1"


async def test_a_session_sees_its_own_writes_and_others_see_them_after_commit(finance: Project) -> None:
    user = a_user()
    async with get_async_session(finance.settings()) as writing:
        writing.add(user)
        await writing.flush()
        assert (await writing.scalars(select(User.email).where(User.id == user.id))).all() == [user.email]
        await writing.commit()
        async with get_async_session(finance.settings()) as reading:
            assert (await reading.scalars(select(User.email).where(User.id == user.id))).all() == [user.email]


async def test_the_session_is_sqlalchemys_own_kind(finance: Project) -> None:
    async with get_async_session(finance.settings()) as session:
        assert isinstance(session, AsyncSession)


async def test_foreign_keys_are_enforced_on_every_connection_of_the_pool(finance: Project) -> None:
    async def orphan() -> None:
        with pytest.raises(IntegrityError):
            await save(finance, an_account(a_connection(a_user())))

    await asyncio.gather(*(orphan() for _ in range(4)))


# The engine.


async def test_there_is_one_engine_for_a_loop_and_another_for_another_loop(finance: Project) -> None:
    async def engine() -> AsyncEngine:
        return get_engine(finance.settings())

    with ThreadPoolExecutor(1) as threads:
        elsewhere = await asyncio.get_running_loop().run_in_executor(threads, lambda: asyncio.run(engine()))
    assert await engine() is get_engine(finance.settings())
    assert elsewhere is not get_engine(finance.settings())


async def test_engines_of_two_settings_are_two(finance: Project) -> None:
    assert get_engine(finance.settings()) is not get_engine(finance.settings(FININFRA_DB_KEYS=""))


SCRIPTS = {
    "asyncio.run": """
        async def main():
            async with get_async_session() as session:
                assert (await session.scalars(select(User).where(User.email == "nobody"))).one_or_none() is None
        asyncio.run(main())
        asyncio.run(main())
    """,
    "several sessions at once": """
        async def one(number):
            async with get_async_session() as session:
                await session.scalar(select(func.count()).select_from(User))
        async def main():
            await asyncio.gather(*(one(number) for number in range(4)))
        asyncio.run(main())
    """,
    "a session left open": """
        async def main():
            await get_async_session().__aenter__()
        asyncio.run(main())
    """,
    "an exception in between": """
        async def main():
            async with get_async_session() as session, session.begin():
                session.add(User(email="nobody"))
                await session.flush()
                raise ZeroDivisionError
        try:
            asyncio.run(main())
        except ZeroDivisionError:
            pass
    """,
    "an engine of one's own": """
        async def main():
            engine = get_engine()
            async with engine.connect() as connection:
                assert await connection.scalar(select(func.count()).select_from(User)) is not None
        asyncio.run(main())
    """,
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_ends_by_itself_and_quietly(finance: Project, script: str) -> None:
    lines = "import asyncio\nfrom sqlalchemy import func, select\nfrom fininfra_db import User, get_async_session, get_engine\n"
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", lines + textwrap.dedent(SCRIPTS[script])],
        cwd=finance.root,
        env=clean_environment() | finance.environ | {"SQL_URL": finance.url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
