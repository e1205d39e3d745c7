"""Many rows at once: the same values as an ordinary insert writes, all or nothing, and every row counted."""

import asyncio
import uuid
import warnings
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import (
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    event,
    func,
    insert,
    literal,
    select,
    text,
)
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine

from fininfra_db import Account, BankConnection, Base, Budget, RowRefused, Transaction, User, bulk_insert, bulk_upsert, get_async_session
from fininfra_db.connections import open_connection
from fininfra_db.dialects import target_of
from fininfra_db.dialects.bulk_plan import unique_keys
from fininfra_db.errors import KeyMissing, OptionsInvalid
from fininfra_db.models import UNUSABLE_PASSWORD
from tests.conftest import Project
from tests.contract.helpers import create_empty_database

NOON = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)
TEXTS = ("O'Brien", 'a "quoted" \\ back\tslash\nline', "\\N", "", "Ünïcödé 日本 🙂", "NULL", "100% $1 :name ?")


@asynccontextmanager
async def tables(project: Project):
    """A session on a database with our tables, a user, a connection and an account."""
    await create_empty_database(project)
    async with open_connection(project.settings(), "migration") as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.commit()
    async with get_async_session(project.settings()) as session:
        session.add(User(id="u1", email="ada@example.com"))
        await session.flush()
        session.add(BankConnection(id="c1", user_id="u1", access_token="secret", item_id="i", institution_name="Bank"))
        await session.flush()
        session.add(
            Account(id="a1", user_id="u1", connection_id="c1", account_id="x", name="n", type="t", subtype="s", balance=Decimal("0"))
        )
        await session.commit()
        yield session


def transaction(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"t{number:06d}",
        "user_id": "u1",
        "account_id": "a1",
        "transaction_id": f"p{number:06d}",
        "amount": Decimal(number) / 4,
        "date": date(2024, 2, 29),
        "name": TEXTS[number % len(TEXTS)],
        "merchant_name": None if number % 3 else "Shop",
        "category": None,
        "pending": number % 2 == 0,
        "created_at": NOON,
    } | changes


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


async def stored(session: Any, model: Any) -> list[tuple[Any, ...]]:
    table = model.__table__
    return [tuple(row) for row in await session.execute(select(table).order_by(table.c.id))]


async def test_every_value_is_what_an_ordinary_insert_writes(project: Project) -> None:
    async with tables(project) as session:
        rows = [transaction(number) for number in range(600)]
        await session.execute(insert(Transaction.__table__), rows)
        ordinary, raw = await stored(session, Transaction), (await session.execute(text("SELECT * FROM transactions ORDER BY id"))).all()
        await session.rollback()

        assert await bulk_insert(session, Transaction, iter(rows)) == 600
        await session.commit()
        assert await stored(session, Transaction) == ordinary
        assert (await session.execute(text("SELECT * FROM transactions ORDER BY id"))).all() == raw


async def test_sealed_text_json_and_defaults_are_written_as_always(project: Project) -> None:
    async with tables(project) as session:
        await bulk_insert(session, User, ({"email": f"{number}@example.com"} for number in range(3)))
        users = (await session.scalars(select(User).where(User.id != "u1").order_by(User.id))).all()
        assert [user.hashed_password for user in users] == [UNUSABLE_PASSWORD] * 3
        assert [user.email for user in users] == ["0@example.com", "1@example.com", "2@example.com"]
        assert all(len(user.id) == 36 and user.created_at.tzinfo for user in users)

        token = {"user_id": "u1", "access_token": "Schlüssel", "item_id": "i", "institution_name": "B"}
        await bulk_insert(session, BankConnection, [token | {"id": "c2"}, token | {"id": "c3"}])
        raw = (await session.scalars(text("SELECT access_token FROM bank_connections WHERE id <> 'c1'"))).all()
        assert len(set(raw)) == 2
        assert not any("Schlüssel" in value for value in raw)
        assert set(await session.scalars(select(BankConnection.access_token).where(BankConnection.id != "c1"))) == {"Schlüssel"}

        budget = {"user_id": "u1", "name": "b", "type": "monthly", "start_date": date(2024, 2, 29), "categories": {"ü": Decimal("1.10")}}
        await bulk_insert(session, Budget, [budget])
        found = (await session.scalars(select(Budget))).one()
        assert (found.categories, found.end_date, found.deleted_at) == ({"ü": "1.10"}, None, None)


async def test_what_the_session_holds_is_there_first_and_all_goes_with_its_transaction(project: Project) -> None:
    async with tables(project) as session:
        session.add(User(id="u2", email="grace@example.com"))
        budget = {"user_id": "u2", "name": "b", "type": "monthly", "start_date": date(2024, 1, 1), "categories": {}}
        assert await bulk_insert(session, Budget, [budget]) == 1
        await session.rollback()
        assert await session.scalar(select(func.count()).select_from(Budget)) == 0
        assert await session.get(User, "u2") is None


async def test_no_rows_are_no_work(project: Project) -> None:
    async with tables(project) as session:
        assert await bulk_insert(session, Transaction, iter(())) == 0
        counts = await bulk_upsert(session, Transaction, [])
        assert (counts.inserted, counts.updated, counts.unchanged) == (0, 0, 0)


FAULTS = {
    "type": ({"amount": Decimal("1.23456")}, "amount"),
    "foreign type": ({"date": "29 February"}, "date"),
    "null": ({"name": None}, "name"),
    "parent": ({"account_id": "nobody"}, None),
    "duplicate": ({"transaction_id": "p000007"}, None),
    "duplicate id": ({"id": "t000007"}, "id"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_bad_row_is_named_and_nothing_is_written(project: Project, fault: str) -> None:
    changes, column = FAULTS[fault]
    async with tables(project) as session:
        await bulk_insert(session, Transaction, [transaction(900_000)])
        rows = [transaction(number) | (changes if number == 1234 else {}) for number in range(1500)]
        with pytest.raises(RowRefused) as refused:
            await bulk_insert(session, Transaction, rows)
        assert refused.value.index == 1234 or (fault.startswith("duplicate") and refused.value.index == 7)
        if not (fault == "duplicate id" and project.dialect == "sqlite" and refused.value.column is None):
            assert refused.value.column == column
        assert "nobody" not in str(refused.value)
        assert "29 February" not in str(refused.value)
        assert "p000007" not in str(refused.value)
        await session.commit()
        assert await session.scalar(select(func.count()).select_from(Transaction)) == 1, "the caller's own work stays"


async def test_a_text_that_is_too_long_is_named(server_project: Project) -> None:
    """On SQLite no text is."""
    async with tables(server_project) as session:
        with pytest.raises(RowRefused) as refused:
            await bulk_insert(session, Transaction, [transaction(number, name="é" * (250 + number)) for number in range(20)])
        assert (refused.value.index, refused.value.column) == (6, "name")
        assert "éé" not in str(refused.value)


async def test_a_check_that_fails_is_named(project: Project) -> None:
    async with tables(project) as session:
        account = {"user_id": "u1", "connection_id": "c1", "name": "n", "type": "t", "subtype": "s", "balance": 1, "currency": "EUR"}
        rows = [account | {"account_id": str(number)} for number in range(5)]
        rows[3]["currency"] = "eur"
        with pytest.raises(RowRefused, match="currency") as refused:
            await bulk_insert(session, Account, rows)
        assert refused.value.index == 3


async def test_rows_that_do_not_fit_the_first_are_refused(project: Project) -> None:
    async with tables(project) as session:
        for odd in (without(transaction(1), "category"), transaction(1) | {"more": 1}):
            with pytest.raises(RowRefused) as refused:
                await bulk_insert(session, Transaction, [transaction(0), odd])
            assert refused.value.index == 1
        with pytest.raises(OptionsInvalid, match="colour"):
            await bulk_insert(session, Transaction, [transaction(0) | {"colour": "red"}])


async def test_a_missing_key_is_no_fault_of_a_row(project: Project) -> None:
    async with tables(project) as session:
        await session.commit()
        row = {"user_id": "u1", "access_token": "s", "item_id": "i", "institution_name": "B"}
        async with get_async_session(project.settings(FININFRA_DB_KEYS="")) as bare:
            with pytest.raises(KeyMissing):
                await bulk_insert(bare, BankConnection, [row])


async def test_an_error_of_the_source_comes_out_and_nothing_is_written(project: Project) -> None:
    def source() -> Iterator[dict[str, Any]]:
        yield from (transaction(number) for number in range(25_000))
        raise LookupError("the file ended")

    async with tables(project) as session:
        with pytest.raises(LookupError, match="the file ended"):
            await bulk_insert(session, Transaction, source())
        assert await session.scalar(select(func.count()).select_from(Transaction)) == 0


async def test_a_load_can_be_cancelled(project: Project) -> None:
    async with tables(project) as session:
        started = asyncio.Event()

        def source() -> Iterator[dict[str, Any]]:
            for number in range(1_000_000):
                if number == 12_000:
                    started.set()
                yield transaction(number)

        task = asyncio.create_task(bulk_insert(session, Transaction, source()))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with get_async_session(project.settings()) as session:
        assert await session.scalar(select(func.count()).select_from(Transaction)) == 0


async def test_an_upsert_inserts_updates_and_leaves_alone(project: Project) -> None:
    async with tables(project) as session:
        await bulk_insert(session, Transaction, [transaction(number) for number in range(10)])
        rows = [without(transaction(number), "id") for number in range(5, 15)]
        rows[0]["amount"] += 1
        rows[1]["category"] = "food"
        rows[2] |= {"created_at": datetime(2030, 1, 1, tzinfo=UTC)}
        counts = await bulk_upsert(session, Transaction, rows)
        assert (counts.inserted, counts.updated, counts.unchanged) == (5, 2, 3)
        found = {row.transaction_id: row for row in await session.scalars(select(Transaction))}
        assert len(found) == 15
        assert (found["p000005"].id, found["p000005"].amount) == ("t000005", Decimal("2.25"))
        assert (found["p000006"].category, found["p000007"].created_at) == ("food", NOON)
        again = await bulk_upsert(session, Transaction, rows)
        assert (again.inserted, again.updated, again.unchanged) == (0, 0, 10)


async def test_the_last_row_of_a_key_wins_and_each_is_counted(project: Project) -> None:
    async with tables(project) as session:
        rows = [without(transaction(1, amount=amount), "id") for amount in (1, 2, 2, 3)]
        counts = await bulk_upsert(session, Transaction, [*rows, without(transaction(2), "id")])
        assert (counts.inserted, counts.updated, counts.unchanged) == (2, 2, 1)
        assert await session.scalar(select(Transaction.amount).where(Transaction.transaction_id == "p000001")) == 3


async def test_updated_at_changes_for_rows_that_changed_only(project: Project) -> None:
    async with tables(project) as session:
        account = {"user_id": "u1", "connection_id": "c1", "type": "t", "subtype": "s", "balance": Decimal(1), "updated_at": NOON}
        await bulk_insert(session, Account, [account | {"account_id": name, "name": name} for name in ("same", "other")])
        rows = [without(account, "updated_at") | {"account_id": name, "name": "same"} for name in ("same", "other")]
        counts = await bulk_upsert(session, Account, rows)
        assert (counts.inserted, counts.updated, counts.unchanged) == (0, 1, 1)
        moments = dict((await session.execute(select(Account.account_id, Account.updated_at))).all())
        assert moments["same"] == NOON
        assert moments["other"] > NOON
        counts = await bulk_upsert(session, Account, [row | {"updated_at": datetime(2030, 1, 1, tzinfo=UTC)} for row in rows])
        assert counts.unchanged == 2, "a later moment alone is no change"


async def test_sealed_text_and_json_are_compared_by_what_they_say(project: Project) -> None:
    async with tables(project) as session:
        row = {"id": "c1", "user_id": "u1", "access_token": "secret", "item_id": "i", "institution_name": "Bank"}
        before = await session.scalar(text("SELECT access_token FROM bank_connections"))
        assert (await bulk_upsert(session, BankConnection, [row])).unchanged == 1
        assert (await bulk_upsert(session, BankConnection, [row | {"institution_name": "Other"}])).updated == 1
        assert await session.scalar(text("SELECT access_token FROM bank_connections")) == before
        assert (await bulk_upsert(session, BankConnection, [row | {"access_token": "new"}])).updated == 1
        assert await session.scalar(select(BankConnection.access_token)) == "new"

        budget = {"id": "b", "user_id": "u1", "name": "b", "type": "m", "start_date": date(2024, 1, 1), "categories": {"a": "1.10"}}
        assert (await bulk_upsert(session, Budget, [budget])).inserted == 1
        assert (await bulk_upsert(session, Budget, [budget])).unchanged == 1
        assert (await bulk_upsert(session, Budget, [budget | {"categories": {"a": "1.20"}}])).updated == 1


async def test_no_other_unique_key_than_the_chosen_one_decides(project: Project) -> None:
    async with tables(project) as session:
        users = [{"id": "u2", "email": "grace@example.com"}, {"id": "u1", "email": "joan@example.com"}]
        with pytest.raises(RowRefused) as refused:
            await bulk_upsert(session, User, users)
        assert refused.value.index == 1
        counts = await bulk_upsert(session, User, users, key=["id"])
        assert (counts.inserted, counts.updated) == (1, 1)
        assert await session.scalar(select(User.email).where(User.id == "u1")) == "joan@example.com"


async def test_an_upsert_names_the_row_that_it_cannot_write_and_the_key_that_it_cannot_use(project: Project) -> None:
    async with tables(project) as session:
        rows = [without(transaction(number), "id") for number in range(50)]
        with pytest.raises(RowRefused) as refused:
            await bulk_upsert(session, Transaction, [*rows, rows[3] | {"account_id": "nobody"}])
        assert refused.value.index == 50
        with pytest.raises(RowRefused) as refused:
            await bulk_upsert(session, Transaction, [*rows, rows[3] | {"transaction_id": None}])
        assert (refused.value.index, refused.value.column) == (50, "transaction_id")
        for key in (["name"], ["nothing"]):
            with pytest.raises(OptionsInvalid):
                await bulk_upsert(session, Transaction, rows, key=key)
        assert await session.scalar(select(func.count()).select_from(Transaction)) == 0
        assert (await bulk_upsert(session, Transaction, rows)).inserted == 50


class Loud(TypeDecorator[str]):
    """A type that writes an expression, not a value."""

    impl = String
    cache_ok = True

    def bind_expression(self, bindparam: Any) -> Any:
        return func.upper(bindparam, type_=self)


async def test_what_takes_more_than_a_value_is_inserted_in_the_ordinary_way(project: Project) -> None:
    await create_empty_database(project)
    notes = Table(
        "notes",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("body", Loud(20), nullable=False),
        Column("made", Integer, default=literal(40) + 2),
        Column("length", Integer, default=lambda context: len(context.get_current_parameters()["body"])),
    )
    dialect = target_of(project.settings()).dialect
    async with open_connection(project.settings(), "migration") as connection:
        await connection.run_sync(notes.create)
        rows = [{"body": f"note {number}"} for number in range(1200)]
        assert await connection.run_sync(dialect.bulk_insert, notes, rows) == 1200
        found = (await connection.execute(select(notes).order_by(notes.c.id))).all()
        assert [row.body for row in found] == [row["body"].upper() for row in rows], "numbered in their order"
        assert {(row.made, row.length - len(row.body)) for row in found} == {(42, 0)}
        with pytest.raises(RowRefused) as refused:
            await connection.run_sync(dialect.bulk_insert, notes, [*rows, {"body": None}])
        assert refused.value.index == 1200
        with pytest.raises(OptionsInvalid, match="SQL"):
            await connection.run_sync(dialect.bulk_upsert, notes, rows)


async def table_on(connection: Any, *columns: Any, **more: Any) -> Table:
    """A table beside ours, in a database that has none."""
    table = Table("things", MetaData(), *columns, **more)
    await connection.run_sync(table.create)
    return table


async def test_the_hour_that_comes_twice_is_two_hours(project: Project) -> None:
    async with tables(project) as session:
        first = datetime(2025, 11, 2, 1, 30, tzinfo=ZoneInfo("America/New_York"))
        moments = [first, first.replace(fold=1), first.astimezone(UTC), first.replace(fold=1).astimezone(UTC)]
        await bulk_insert(session, Transaction, [transaction(number, created_at=moment) for number, moment in enumerate(moments)])
        found = (await session.scalars(select(Transaction.created_at).order_by(Transaction.id))).all()
        assert [moment.hour for moment in found] == [5, 6, 5, 6]


@pytest.mark.parametrize(
    ("project", "collation"),
    [("sqlite", None), ("sqlite", "NOCASE"), ("postgresql", None), ("mysql", None), ("mysql", "utf8mb4_general_ci")],
    indirect=["project"],
)
async def test_a_change_that_a_collation_does_not_see_is_one(project: Project, collation: str | None) -> None:
    await create_empty_database(project)
    dialect = target_of(project.settings()).dialect
    async with open_connection(project.settings(), "migration") as connection:
        things = await table_on(connection, Column("id", Integer, primary_key=True), Column("name", String(20, collation)))
        for name, changes in (("Kz", 1), ("Kz", 0), ("Kz ", 1), ("kz", 1), (None, 1)):
            counts = await connection.run_sync(dialect.bulk_upsert, things, [{"id": 1, "name": name}])
            assert counts.inserted + counts.updated == changes
            assert await connection.scalar(select(things.c.name)) == name


@pytest.mark.parametrize(("project", "collation"), [("sqlite", "NOCASE"), ("mysql", "utf8mb4_general_ci")], indirect=["project"])
async def test_keys_that_are_equal_to_a_collation_have_a_round_each(project: Project, collation: str) -> None:
    await create_empty_database(project)
    dialect = target_of(project.settings()).dialect
    async with open_connection(project.settings(), "migration") as connection:
        key = Column("name", String(20, collation), primary_key=True)
        things = await table_on(connection, key, Column("size", Integer))
        names = [*map(str, range(40)), "Kz", "kz", "T1", "t1", *map(str, range(20)), "KZ"]
        rows = [{"name": name, "size": size} for size, name in enumerate(names)]
        for inserted, updated in ((42, 23), (0, 45)):
            counts = await connection.run_sync(dialect.bulk_upsert, things, rows)
            assert (counts.inserted, counts.updated, counts.unchanged) == (inserted, updated, 65 - inserted - updated)
            found = dict((await connection.execute(select(things.c.name, things.c.size))).all())
            assert (found["Kz"], found["T1"], found["0"], found["39"], len(found)) == (64, 43, 44, 39, 42)
        with pytest.raises(RowRefused) as refused:
            await connection.run_sync(dialect.bulk_insert, things, [{"name": name, "size": 0} for name in ("new", "NEW")])
        assert "NEW" not in str(refused.value)


async def test_an_index_of_some_rows_or_of_an_expression_is_no_key(project: Project) -> None:
    await create_empty_database(project)
    dialect = target_of(project.settings()).dialect
    columns = Column("id", Integer, primary_key=True), Column("name", String(20)), Column("gone", Integer)
    partial = Index("some", columns[1], unique=True, postgresql_where=columns[2].is_(None), sqlite_where=columns[2].is_(None))
    lower = Index("lowered", func.lower(columns[1]), unique=True)
    assert unique_keys(Table("things", MetaData(), *columns, partial, lower)) == []
    async with open_connection(project.settings(), "migration") as connection:
        things = await table_on(connection, *[column._copy() for column in columns])
        rows = [{"id": number, "name": "x", "gone": number} for number in (1, 2, 3)]
        assert (await connection.run_sync(dialect.bulk_upsert, things, rows)).inserted == 3


async def test_bytes_are_written_and_a_text_that_is_none_is_named(project: Project) -> None:
    await create_empty_database(project)
    dialect = target_of(project.settings()).dialect
    async with open_connection(project.settings(), "migration") as connection:
        things = await table_on(connection, Column("id", Integer, primary_key=True), Column("raw", LargeBinary), Column("name", String(20)))
        rows = [{"id": number, "raw": bytes(range(256)), "name": "x"} for number in range(1, 301)]
        assert await connection.run_sync(dialect.bulk_insert, things, rows) == 300
        assert set(await connection.scalars(select(things.c.raw))) == {bytes(range(256))}
        for name in ("\ud800", "\udc80"):
            odd = [*(row | {"id": row["id"] + 300} for row in rows), {"id": 900, "raw": b"", "name": name}]
            for load in (dialect.bulk_insert, dialect.bulk_upsert):
                with pytest.raises(RowRefused) as refused:
                    await connection.run_sync(load, things, odd)
                assert (refused.value.index, refused.value.table) == (300, "things")


async def test_row_level_security_is_no_fault_of_a_row(postgresql_project: Project) -> None:
    await create_empty_database(postgresql_project)
    dialect = target_of(postgresql_project.settings()).dialect
    role = f"fininfra_test_{uuid.uuid4().hex[:12]}"
    async with open_connection(postgresql_project.settings(), "migration") as connection:  # all of it is rolled back
        things = await table_on(connection, Column("id", Integer, primary_key=True), Column("size", Integer))
        for statement in (
            f"CREATE ROLE {role}",
            f"GRANT ALL ON things TO {role}",
            "ALTER TABLE things ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY small ON things USING (size < 100)",
            f"SET LOCAL ROLE {role}",
        ):
            await connection.execute(text(statement))
        rows = [{"id": number, "size": number} for number in range(100)]
        assert await connection.run_sync(dialect.bulk_insert, things, rows) == 100
        assert (await connection.run_sync(dialect.bulk_upsert, things, [{"id": 1, "size": 2}])).updated == 1


async def test_an_interruption_between_two_chunks_leaves_no_savepoint(project: Project) -> None:
    async with tables(project) as session:
        connection = (await session.connection()).sync_connection

        @event.listens_for(connection, "release_savepoint")
        def interrupt(*_: Any) -> None:
            raise asyncio.CancelledError

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(asyncio.CancelledError):
                await bulk_insert(session, Transaction, [transaction(1)])


async def test_many_sealed_texts_are_kept_in_few_statements(project: Project) -> None:
    async with tables(project) as session:
        token = {"user_id": "u1", "access_token": "s", "item_id": "i", "institution_name": "B"}
        rows = [token | {"id": f"b{number}"} for number in range(1100)]
        await bulk_insert(session, BankConnection, rows)
        before = (await session.execute(text("SELECT id, access_token FROM bank_connections ORDER BY id"))).all()
        statements: list[str] = []
        connection = (await session.connection()).sync_connection
        event.listen(connection, "before_cursor_execute", lambda _c, _u, sql, *_: statements.append(sql))
        assert (await bulk_upsert(session, BankConnection, rows, key=["id"])).unchanged == 1100
        assert (await session.execute(text("SELECT id, access_token FROM bank_connections ORDER BY id"))).all() == before
        assert sum(sql.startswith("UPDATE fininfra_stage") for sql in statements) == 3


async def test_an_error_that_is_no_rows_fault_shows_no_values(server_project: Project) -> None:
    """On an engine of the application's own, which would show them."""
    await create_empty_database(server_project)
    absent = Table("absent", MetaData(), Column("id", Integer, primary_key=True), Column("body", Loud(20)))
    engine = create_async_engine(server_project.url)
    async with engine.connect() as connection:
        with pytest.raises(ProgrammingError) as raised:
            await connection.run_sync(target_of(server_project.settings()).dialect.bulk_insert, absent, [{"id": 1, "body": "private"}])
    await engine.dispose()
    assert "private" not in str(raised.value)
