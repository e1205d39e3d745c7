"""``check-data``: nothing is found in any profile, and each planted fault is found by its rule alone, by its id and not by its value."""

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, func, inspect, select
from sqlalchemy.exc import DBAPIError

from fininfra_db.connections import ensure_database, open_connection, read
from fininfra_db.data.checks import runner
from fininfra_db.data.checks.names import RULE_NAMES
from fininfra_db.data.checks.registry import RULES
from fininfra_db.data.checks.rule import PLACE, Books, Rule
from fininfra_db.data.request import SeedRequest
from fininfra_db.dialects import dialect_of
from fininfra_db.errors import OptionsInvalid, TablesMissing
from fininfra_db.models import Base, User
from fininfra_db.results import DataChecked, RuleChecked
from fininfra_db.security import Keyring, generate_key
from tests.conftest import DATABASES, Project, make_project
from tests.contract.helpers import files_of, use_models

KEYS_OFF = {
    "sqlite": "PRAGMA foreign_keys = OFF",
    "postgresql": "SET session_replication_role = replica",
    "mysql": "SET foreign_key_checks = 0",
}
TRUE, FALSE = "(1 = 1)", "(1 = 0)"
PROFILES = (
    SeedRequest("household"),
    SeedRequest("demo", users=4, months=6, as_of=date(2024, 3, 31)),
    SeedRequest("load", users=3, accounts=2, per_account=40),
)


# Rows as they come from SQL written by hand, which the types of the models never see.


def user(id_: str) -> str:
    return f"INSERT INTO users (id, email) VALUES ('{id_}', '{id_}@example.com')"


def connection(id_: str, owner: str, token: str, item: str = "") -> str:
    return (
        "INSERT INTO bank_connections (id, user_id, access_token, item_id, institution_name) "
        f"VALUES ('{id_}', '{owner}', '{token}', '{item or id_}', 'Bank')"
    )


def account(id_: str, owner: str, parent: str, *, balance: str = "0", currency: str = "USD", deleted: bool = False) -> str:
    when = "'2025-06-01 10:00:00.000000'" if deleted else "NULL"
    return (
        "INSERT INTO accounts (id, user_id, connection_id, account_id, name, type, subtype, balance, currency, deleted_at) "
        f"VALUES ('{id_}', '{owner}', '{parent}', '{id_}', 'Account', 'checking', 'checking', {balance}, '{currency}', {when})"
    )


def transaction(
    id_: str, owner: str, parent: str, amount: str, *, category: str | None = None, pending: bool = False, provider_id: str = ""
) -> str:
    named = f"'{category}'" if category else "NULL"
    return (
        "INSERT INTO transactions (id, user_id, account_id, transaction_id, amount, date, name, category, pending) "
        f"VALUES ('{id_}', '{owner}', '{parent}', '{provider_id or id_}', {amount}, '2025-06-01', 'Purchase', "
        f"{named}, {TRUE if pending else FALSE})"
    )


def budget(id_: str, owner: str, start: str, end: str) -> str:
    return (
        "INSERT INTO budgets (id, user_id, name, type, start_date, end_date, categories) "
        f"VALUES ('{id_}', '{owner}', 'Home', 'monthly', '{start}', '{end}', '{{}}')"
    )


def snapshot(id_: str, owner: str, *, assets: str, liabilities: str, net: str, parts: str, owed: str) -> str:
    return (
        "INSERT INTO net_worth_snapshots (id, user_id, snapshot_date, total_assets, total_liabilities, net_worth, "
        "assets_breakdown, liabilities_breakdown) "
        f"VALUES ('{id_}', '{owner}', '2025-06-01', {assets}, {liabilities}, {net}, '{parts}', '{owed}')"
    )


def document(id_: str, owner: str, filename: str) -> str:
    return f"INSERT INTO documents (id, user_id, filename, document_type, file_path) VALUES ('{id_}', '{owner}', '{filename}', 'w2', 'd')"


def goal(id_: str, owner: str, target_date: str) -> str:
    return (
        "INSERT INTO goals (id, user_id, name, target_amount, target_date, priority) "
        f"VALUES ('{id_}', '{owner}', 'Bike', 900, '{target_date}', 'low')"
    )


@dataclass(frozen=True)
class Planted:
    """One fault: the rows that it takes, where it must be found, and the value that must not be told."""

    rows: tuple[str, ...]
    place: str
    ids: tuple[str, ...]
    value: str
    only_on: str | None = None


def faults(sealed: str, foreign: str) -> dict[str, Planted]:
    """One fault for each rule. ``sealed`` is a token of the project's key, ``foreign`` one of another key."""
    plain = "access-sandbox-in-the-open"
    return {
        "cross-users": Planted((transaction("t-cross", "u-other", "a-mine", "66.61"),), "transactions.account_id", ("t-cross",), "u-other"),
        "orphans": Planted((transaction("t-lost", "u-mine", "a-gone", "66.62"),), "transactions.account_id", ("t-lost",), "a-gone"),
        "duplicates": Planted(
            (connection("c-one", "u-mine", sealed, "item-66"), connection("c-two", "u-mine", sealed, "item-66")),
            "bank_connections.user_id, item_id",
            ("c-one", "c-two"),
            "item-66",
        ),
        "currency": Planted((account("a-unknown", "u-mine", "c-mine", currency="ZZQ"),), "accounts.currency", ("a-unknown",), "ZZQ"),
        "scale": Planted(
            (account("a-yen", "u-mine", "c-mine", currency="JPY"), transaction("t-sen", "u-mine", "a-yen", "7654.5")),
            "transactions.amount",
            ("t-sen",),
            "7654",
        ),
        "balances": Planted(
            (
                account("a-off", "u-mine", "c-mine", balance="4321.99"),
                transaction("t-opening", "u-mine", "a-off", "4321.90", category="Opening balance"),
                transaction("t-pending", "u-mine", "a-off", "0.09", pending=True),
            ),
            "accounts.balance",
            ("a-off",),
            "4321",
        ),
        "net-worth": Planted(
            (snapshot("s-net", "u-mine", assets="10", liabilities="3", net="7777.01", parts='{"cash": 10}', owed='{"card": "3.00"}'),),
            "net_worth_snapshots.net_worth",
            ("s-net",),
            "7777",
        ),
        "breakdowns": Planted(
            (snapshot("s-sum", "u-mine", assets="10", liabilities="3", net="7", parts='{"cash": 8888, "x": "0.1"}', owed='{"card": 3}'),),
            "net_worth_snapshots.assets_breakdown",
            ("s-sum",),
            "8888",
        ),
        "budgets": Planted((budget("b-back", "u-mine", "2025-06-02", "2025-06-01"),), "budgets.end_date", ("b-back",), "2025-06-01"),
        "plaintext": Planted((connection("c-open", "u-mine", plain),), "bank_connections.access_token", ("c-open",), plain),
        "unreadable": Planted((connection("c-other", "u-mine", foreign),), "bank_connections.access_token", ("c-other",), foreign),
        "lengths": Planted((document("d-long", "u-mine", "w" * 256),), "documents.filename", ("d-long",), "w" * 20, "sqlite"),
        "storage": Planted((goal("g-some-day", "u-mine", "2025-02-30"),), "goals.target_date", ("g-some-day",), "2025-02-30", "sqlite"),
    }


BASIS = (user("u-mine"), user("u-other"))


async def make_tables(project: Project) -> None:
    await ensure_database(project.settings())
    await project.database().create_tables()


async def plant(project: Project, *statements: str) -> None:
    """Write rows behind the back of every key."""
    await project.execute(KEYS_OFF[project.dialect], *statements)


def sealed_with(project: Project) -> str:
    return Keyring(project.environ["FININFRA_DB_KEYS"]).encrypt("access-sandbox-sealed")


def found(checked: DataChecked) -> dict[str, list[tuple[str, int, tuple[str, ...]]]]:
    """What each broken rule found: place, count, ids."""
    return {each.rule: [(rows.place, rows.count, rows.ids) for rows in each.faults] for each in checked.rules if each.count}


@dataclass(frozen=True)
class Faulty:
    """A database with every fault, looked at once, and what was planted."""

    dialect: str
    clean: DataChecked
    checked: DataChecked
    planted: dict[str, Planted]

    def rule(self, name: str) -> RuleChecked:
        return next(each for each in self.checked.rules if each.rule == name)


@pytest.fixture(scope="module", params=DATABASES)
def faulty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """Every profile as it is, and with one fault for each rule."""
    for project in make_project(request.param, tmp_path_factory.mktemp("faulty"), generate_key()):

        async def look(project: Project = project) -> Faulty:
            await make_tables(project)
            for request in PROFILES:
                await project.database().seed(request)
            clean = await project.database().check_data()
            sealed = sealed_with(project)
            planted = faults(sealed, Keyring(generate_key()).encrypt("access-sandbox-foreign"))
            rows = [row for each in planted.values() if each.only_on in (None, project.dialect) for row in each.rows]
            mine = (connection("c-mine", "u-mine", sealed), account("a-mine", "u-mine", "c-mine"))
            await plant(project, *BASIS, *mine, *rows)
            return Faulty(project.dialect, clean, await project.database().check_data(), planted)

        yield asyncio.run(look())


def test_nothing_is_wrong_with_any_profile(faulty: Faulty) -> None:
    assert faulty.clean.findings == ()
    assert faulty.clean.warnings == ()
    assert [each.rule for each in faulty.clean.rules] == list(RULE_NAMES)
    left_to_the_database = {each.rule for each in faulty.clean.rules if each.reason is not None}
    assert left_to_the_database == (set() if faulty.dialect == "sqlite" else {"lengths", "storage"})


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_each_rule_finds_its_fault_and_nothing_else(faulty: Faulty, rule: str) -> None:
    fault, looked = faulty.planted[rule], faulty.rule(rule)
    if fault.only_on not in (None, faulty.dialect):
        assert looked.reason is not None
        return
    (rows,) = looked.faults
    assert (rows.place, rows.count, rows.ids) == (fault.place, len(fault.ids), fault.ids)
    (finding,) = (each for each in faulty.checked.findings if each.code == rule)
    assert finding.message.startswith(f"{rule}: {RULES[rule].sentence.removesuffix('.')}: {fault.place} {len(fault.ids)} (")
    assert all(id_ in finding.message for id_ in fault.ids)
    assert fault.value not in json.dumps([dataclasses.asdict(finding), dataclasses.asdict(looked)])


def test_one_finding_for_each_broken_rule(faulty: Faulty) -> None:
    planted = [name for name in RULE_NAMES if faulty.planted[name].only_on in (None, faulty.dialect)]
    assert [finding.code for finding in faulty.checked.findings] == planted


def test_the_registry_has_every_name_and_the_names_are_those_of_the_rules() -> None:
    assert tuple(RULES) == RULE_NAMES
    assert [rule.name for rule in RULES.values()] == list(RULE_NAMES)


# One rule and its neighbours at a time, on every database.


@pytest.fixture
def empty(project: Project) -> Project:
    """The tables of the models, and no row."""
    asyncio.run(make_tables(project))
    return project


async def look_again(project: Project, *rules: str) -> dict[str, list[tuple[str, int, tuple[str, ...]]]]:
    return found(await project.database().check_data(*rules))


async def test_odd_rows_are_no_faults_and_faults_among_them_are_found(empty: Project) -> None:
    """One database for many rows: those with an ``x-`` are at fault."""
    assert (await empty.database().check_data()).findings == ()
    sealed = sealed_with(empty)
    owned = [account(f"a-{name}", "u", "c", balance=balance) for name, balance in (("pending", "5"), ("null", "7"), ("odd", "0.3"))]
    await plant(
        empty,
        user("u"),
        user("v"),
        connection("c", "u", sealed),
        *owned,
        # an opening that is pending is not known; neither is one without a category, or in words of somebody's own
        transaction("t-1", "u", "a-pending", "1", category="Opening balance", pending=True),
        transaction("t-2", "u", "a-null", "1"),
        transaction("t-3", "u", "a-null", "1", category="opening Balance"),
        # binary fractions that add up to three tenths
        transaction("t-4", "u", "a-odd", "0.1", category="Opening balance"),
        transaction("t-5", "u", "a-odd", "0.2"),
        # of a deleted account no book is kept
        account("a-deleted", "u", "c", balance="5.001", currency="HRK", deleted=True),
        transaction("t-6", "u", "a-deleted", "1.005", category="Opening balance"),
        # three decimals, four, none, and those that have no unit
        account("a-kwd", "u", "c", balance="-1.005", currency="KWD"),
        account("a-clf", "u", "c", balance="1.0005", currency="CLF"),
        account("a-xau", "u", "c", balance="1.0005", currency="XAU"),
        transaction("t-7", "u", "a-kwd", "1.005"),
        transaction("x-kwd", "u", "a-kwd", "1.0005"),
        transaction("x-usd", "u", "a-null", "-1.005"),
        account("x-krw", "u", "c", balance="0.5", currency="KRW"),
        # one provider id in two accounts, as the two sides of a transfer have
        transaction("t-8", "u", "a-null", "1", provider_id="move"),
        transaction("t-9", "u", "a-kwd", "1", provider_id="move"),
        # amounts in JSON: as Python writes decimals, as integers, negative, and none at all
        snapshot("s-1", "u", assets="1001.5", liabilities="-2", net="1003.5", parts='{"a": "1E+3", "b": "1.50"}', owed='{"c": -2}'),
        snapshot("s-2", "u", assets="0", liabilities="0", net="0", parts="{}", owed='{"a": "0E-4"}'),
        snapshot("x-null", "u", assets="1", liabilities="0", net="1", parts='{"a": 1, "b": null}', owed="{}"),
        snapshot("x-word", "u", assets="0", liabilities="0", net="0", parts="{}", owed='{"a": "none"}'),
        snapshot("x-deep", "u", assets="1", liabilities="0", net="1", parts='{"a": {"b": 1}}', owed="{}"),
        snapshot("x-list", "u", assets="1", liabilities="0", net="1", parts="[1]", owed="{}"),
        snapshot("x-tiny", "u", assets="0.3001", liabilities="0", net="0.3", parts='{"a": "0.1", "b": "0.2001"}', owed="{}"),
        budget("b-1", "u", "2025-06-01", "2025-06-01"),
        # a transaction of another user, in an account that is nobody's
        transaction("x-nobody", "w", "a-kwd", "1"),
    )
    assert await look_again(empty) == {
        "cross-users": [("transactions.account_id", 1, ("x-nobody",))],
        "orphans": [("transactions.user_id", 1, ("x-nobody",))],
        "scale": [("accounts.balance", 1, ("x-krw",)), ("transactions.amount", 2, ("x-kwd", "x-usd"))],
        "net-worth": [("net_worth_snapshots.net_worth", 1, ("x-tiny",))],
        "breakdowns": [
            ("net_worth_snapshots.assets_breakdown", 3, ("x-deep", "x-list", "x-null")),
            ("net_worth_snapshots.liabilities_breakdown", 1, ("x-word",)),
        ],
    }


OWN_MODELS = """
from sqlalchemy import ForeignKey, ForeignKeyConstraint, Integer, MetaData, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, mapped_column

from fininfra_db import EncryptedString, Money


class Base(DeclarativeBase):
    metadata = MetaData()


class Folder(Base):
    __tablename__ = "folders"
    id = mapped_column(Integer, primary_key=True)
    user_id = mapped_column(String(36))
    parent_id = mapped_column(ForeignKey("folders.id"))


class Label(Base):
    __tablename__ = "labels"
    user_id = mapped_column(String(36), primary_key=True)
    name = mapped_column(String(20), primary_key=True)


class Secret(Base):
    __tablename__ = "secrets"
    shelf = mapped_column(Integer, primary_key=True)
    place = mapped_column(Integer, primary_key=True)
    folder_id = mapped_column(ForeignKey("folders.id"))
    user_id = mapped_column(String(36))
    label = mapped_column(String(20))
    text = mapped_column(EncryptedString(500))
    price = mapped_column(Money())
    currency = mapped_column(String(3))
    __table_args__ = (ForeignKeyConstraint(["user_id", "label"], ["labels.user_id", "labels.name"]),)
"""


async def test_models_of_the_project_s_own_are_looked_at(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tables, a key to itself, keys of several columns, one of which says whose a row is, and rows that are everybody's."""
    await use_models(project, OWN_MODELS)
    await make_tables(project)
    sealed, foreign = sealed_with(project), Keyring(generate_key()).encrypt("x")
    values = "INSERT INTO secrets (shelf, place, folder_id, user_id, label, text, price, currency) VALUES"
    await plant(
        project,
        "INSERT INTO labels (user_id, name) VALUES ('u', 'home'), ('v', 'work'), ('u', 'work')",
        "INSERT INTO folders (id, user_id, parent_id) VALUES (1, 'u', NULL), (2, 'v', NULL), (3, NULL, 1), (4, 'u', 9), (5, 'u', 2)",
        f"{values} (1, 1, 1, 'u', 'home', '{sealed}', 1.5, 'USD')",
        f"{values} (1, 2, 3, 'u', 'work', '{foreign}', 1.5, 'JPY')",
        f"{values} (2, 1, 2, 'u', NULL, NULL, NULL, NULL)",
        f"{values} (2, 2, NULL, 'v', 'home', 'plain', 1.5, 'EUR')",
        f"{values} (2, 3, NULL, NULL, 'nowhere', '{foreign}', 1.5, 'EUR')",
    )
    monkeypatch.setattr(runner, "_PAGE", 1)
    checked = await project.database().check_data()
    assert found(checked) == {
        "cross-users": [("folders.parent_id", 1, ("5",)), ("secrets.folder_id", 1, ("2, 1",))],
        "orphans": [("folders.parent_id", 1, ("4",)), ("secrets.user_id, label", 1, ("2, 2",))],
        "scale": [("secrets.price", 1, ("1, 2",))],
        "plaintext": [("secrets.text", 1, ("2, 2",))],
        "unreadable": [("secrets.text", 2, ("1, 2", "2, 3"))],
    }
    assert {each.rule for each in checked.rules if each.reason} >= {"duplicates", "balances", "net-worth", "breakdowns", "budgets"}


ODD_NAMES = """
import enum

from sqlalchemy import Enum, ForeignKey, Integer, MetaData, String
from sqlalchemy.orm import DeclarativeBase, mapped_column

from fininfra_db import EncryptedString, Money


class Base(DeclarativeBase):
    metadata = MetaData()


class Code(enum.Enum):
    JPY = 1
    ZZQ = 2


class Currency(Base):
    __tablename__ = "currencies"
    id = mapped_column(Integer, primary_key=True)


class Price(Base):
    __tablename__ = "prices"
    number = mapped_column(Integer, primary_key=True)
    total = mapped_column(String(20), primary_key=True)
    place = mapped_column(String(20), primary_key=True)
    value = mapped_column(EncryptedString(500))
    amount = mapped_column(Money())
    currency = mapped_column(Enum(Code))


class Offer(Base):
    __tablename__ = "offers"
    id_1 = mapped_column(Integer, primary_key=True)
    id_0 = mapped_column(Integer, primary_key=True)
    amount = mapped_column(Money())
    currency = mapped_column(ForeignKey("currencies.id"))
"""


async def test_columns_are_named_and_typed_as_the_project_likes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are named as the columns of a rule's own queries, and a currency that is an enumeration or another row."""
    await use_models(project, ODD_NAMES)
    await make_tables(project)
    sealed, foreign = sealed_with(project), Keyring(generate_key()).encrypt("x")
    await plant(
        project,
        "INSERT INTO currencies (id) VALUES (392)",
        "INSERT INTO prices (number, total, place, value, amount, currency) VALUES "
        f"(1, 't', 'p', '{sealed}', 1, 'JPY'), (1, 't', 'q', '{foreign}', 1, 'ZZQ'), (2, 't', 'p', 'plain', 1.5, 'JPY')",
        "INSERT INTO offers (id_1, id_0, amount, currency) VALUES (1, 2, 1.5, 392), (2, 1, 1.5, 9)",
    )
    monkeypatch.setattr(runner, "_PAGE", 1)
    assert await look_again(project) == {
        "orphans": [("offers.currency", 1, ("2, 1",))],
        "currency": [("prices.currency", 1, ("1, t, q",))],
        "scale": [("prices.amount", 1, ("2, t, p",))],
        "plaintext": [("prices.value", 1, ("2, t, p",))],
        "unreadable": [("prices.value", 1, ("1, t, q",))],
    }


async def test_breakdowns_that_no_program_of_ours_wrote_end_nothing(empty: Project) -> None:
    """Those with an ``x-`` are at fault; the others are nothing, or say an amount in a way of their own."""
    written = {
        "a-null": ("null", 0),
        "a-list": ("[]", 0),
        "a-text": ('"1"', 0),
        "a-letters": (r'{"\ud83d\ude00": 1, "a\\u00e9\"": "2"}', 3),
        "a-large": ('{"a": "200000000000000", "b": 1E+14}', 300_000_000_000_000),
        "x-exponent": ('{"a": "1e200000"}', 1),
        "x-exponent-of-a-number": ('{"a": 1e300}', 1),
        "x-digits": ('{"a": "' + "9" * 200 + '"}', 1),
        "x-nan": ('{"a": "NaN"}', 1),
        "x-true": ('{"a": true}', 1),
        "x-list-in-it": ('{"a": [1]}', 1),
    }
    if empty.dialect == "postgresql":  # which keeps JSON as it comes
        written |= {"a-zero": (r'{"\u0000\ud800": 1}', 1), "x-number": ('{"a": 1e200000}', 1)}
    escaped = {"\\": "\\\\"} if empty.dialect == "mysql" else {}
    rows: list[str] = []
    for id_, (parts, total) in written.items():
        row = snapshot(id_, "u", assets=str(total), liabilities="0", net=str(total), parts=parts, owed="{}")
        rows.append(row.translate(str.maketrans(escaped)).replace(":", r"\:"))
    await plant(empty, user("u"), *rows)
    wrong = sorted(id_ for id_ in written if id_.startswith("x-"))
    assert await look_again(empty) == {"breakdowns": [("net_worth_snapshots.assets_breakdown", len(wrong), tuple(wrong[:5]))]}


async def test_many_rows_are_counted_and_a_few_are_named(empty: Project) -> None:
    await plant(empty, user("u"), *(budget(f"b-{number}", "u", "2025-06-02", "2025-06-01") for number in range(7)))
    checked = await empty.database().check_data("budgets")
    assert found(checked) == {"budgets": [("budgets.end_date", 7, ("b-0", "b-1", "b-2", "b-3", "b-4"))]}
    assert "budgets.end_date 7 (b-0 | b-1 | b-2 | b-3 | b-4 | ...)" in checked.findings[0].message


async def test_without_keys_the_form_of_tokens_is_looked_at_and_the_rest_is_named(empty: Project) -> None:
    await plant(empty, user("u"), connection("c-open", "u", "in the open"))
    checked = await empty.database(FININFRA_DB_KEYS="").check_data("plaintext", "unreadable")
    assert found(checked) == {"plaintext": [("bank_connections.access_token", 1, ("c-open",))]}
    assert checked.rules[1].reason == "no key is configured"
    assert "FININFRA_DB_KEYS" in checked.warnings[0]


async def test_a_database_that_was_not_migrated_is_told_with_the_next_command(project: Project) -> None:
    await ensure_database(project.settings())
    async with open_connection(project.settings(), "migration"):
        pass
    with pytest.raises(TablesMissing, match=r"accounts, .*Nothing was checked") as caught:
        await project.database().check_data()
    assert "fininfra-db upgrade" in (caught.value.hint or "")
    assert caught.value.exit_code == 3


async def test_a_column_that_a_pending_revision_adds_is_told(empty: Project) -> None:
    await empty.execute("ALTER TABLE goals DROP COLUMN priority")
    with pytest.raises(TablesMissing, match=r"goals\.priority"):
        await empty.database().check_data("orphans")


async def test_a_rule_cannot_write(postgresql_project: Project) -> None:
    """Not even by a query that would: the transaction is for reading. (On SQLite the file is, and MariaDB has no such query.)"""
    await make_tables(postgresql_project)
    await postgresql_project.execute("CREATE SEQUENCE numbers", user("u"))
    rule = Rule("writing", "A row.", lambda _: [select(User.id.label(PLACE), User.id).where(func.nextval("numbers") > 0)])

    def run(sync: Connection) -> RuleChecked:
        return runner.run_rule(sync, Books(dialect_of("postgresql"), inspect(sync), [], Keyring(None)), rule)

    with pytest.raises(DBAPIError, match="read-only transaction"):
        await read(postgresql_project.settings(), run)


# What does not depend on the database.


@pytest.fixture
def books(sqlite_project: Project) -> Project:
    asyncio.run(make_tables(sqlite_project))
    return sqlite_project


async def test_not_a_byte_is_written(books: Project) -> None:
    await plant(books, user("u"), budget("b", "u", "2025-06-02", "2025-06-01"))
    before = files_of(books.root)
    assert (await books.database().check_data()).findings
    assert files_of(books.root) == before


async def test_a_file_without_the_unique_key_may_hold_a_transaction_twice(books: Project) -> None:
    """As one that another program made. Where the key is there, it is the proof."""
    await books.execute("DROP TABLE transactions")
    await books.execute(
        "CREATE TABLE transactions (id TEXT, user_id TEXT, account_id TEXT, transaction_id TEXT, amount NUMERIC, date DATE, name TEXT, "
        "merchant_name TEXT, category TEXT, pending BOOLEAN, created_at DATETIME DEFAULT '2025-06-01 00:00:00')"
    )
    rows = [transaction(f"t-{number}", "u", "a", "1", provider_id=provider) for number, provider in enumerate(("p", "q", "p", "r"))]
    await plant(books, user("u"), connection("c", "u", sealed_with(books)), account("a", "u", "c"), *rows)
    assert await look_again(books) == {"duplicates": [("transactions.user_id, account_id, transaction_id", 2, ("t-0", "t-2"))]}


async def test_what_sqlite_keeps_and_others_would_not(books: Project) -> None:
    long, wide = "é" * 36, "é" * 37
    await plant(
        books,
        *(f"INSERT INTO users (id, email, created_at) VALUES ('u-{n}', 'u-{n}', '{when}')" for n, when in enumerate(INSTANTS)),
        f"INSERT INTO users (id, email) VALUES ('{long}', 'a'), ('{wide}', 'b'), ('u-hidden', 'c' || char(0) || '{'d' * 300}')",
        "INSERT INTO users (id, email, hashed_password) VALUES ('u-bytes', x'00ff', 12)",
        connection("c", "u-0", sealed_with(books)),
        account("a", "u-0", "c"),
        account("a-words", "u-0", "c", balance="'a lot'"),
        account("a-huge", "u-0", "c", balance="1e15"),
        account("a-endless", "u-0", "c", balance="9e999"),
        account("a-fine", "u-0", "c", balance="1.00001"),
        account("a-sum", "u-0", "c", balance="0.1 + 0.2"),
        transaction("t", "u-0", "a-huge", "1e300", category="Opening balance"),
        transaction("t-maybe", "u-0", "a", "1").replace(FALSE, "7"),
        "INSERT INTO budgets (id, user_id, name, type, start_date, categories) VALUES ('b', 'u-0', 'b', 'b', 20250601, '{}')",
        snapshot("s", "u-0", assets="1", liabilities="0", net="1", parts='{"a"', owed="{}"),
    )
    assert await look_again(books, "breakdowns", "balances", "lengths", "storage") == {
        "breakdowns": [("net_worth_snapshots.assets_breakdown", 1, ("s",))],
        "lengths": [
            ("users.email", 1, ("u-hidden",)),
            ("users.id", 1, (wide,)),
            ("accounts.balance", 3, ("a-endless", "a-fine", "a-huge")),
            ("transactions.amount", 1, ("t",)),
        ],
        "storage": [
            ("users.created_at", 5, ("u-2", "u-3", "u-4", "u-5", "u-6")),
            ("users.email", 1, ("u-bytes",)),
            ("budgets.start_date", 1, ("b",)),
            ("net_worth_snapshots.assets_breakdown", 1, ("s",)),
            ("accounts.balance", 1, ("a-words",)),
            ("transactions.pending", 1, ("t-maybe",)),
        ],
    }


async def test_large_amounts_are_added_exactly(books: Project) -> None:
    """Up to what the type takes; a sum that is longer than any number of SQLite is not the balance, and ends nothing."""
    largest = 922337203685477
    opening = "Opening balance"
    await plant(
        books,
        user("u"),
        connection("c", "u", sealed_with(books)),
        account("a-sound", "u", "c", balance="70000000000001"),
        transaction("t-1", "u", "a-sound", "150000000000001", category=opening),
        transaction("t-2", "u", "a-sound", "-80000000000000"),
        account("a-cents", "u", "c", balance="5000000000000.02"),
        transaction("t-3", "u", "a-cents", "5000000000000.03", category=opening),
        transaction("t-4", "u", "a-cents", "-0.01"),
        account("a-largest", "u", "c", balance=str(largest)),
        *(transaction(f"t-5{n}", "u", "a-largest", f"{sign}{largest}", category=opening) for n, sign in enumerate(["", "", "-"])),
        account("x-one", "u", "c", balance="150000000000000"),
        transaction("t-6", "u", "x-one", "150000000000001", category=opening),
        account("x-sum", "u", "c", balance="900000000000000"),
        *(transaction(f"t-7{n}", "u", "x-sum", "99000000000000", category=opening) for n in range(10)),
        account("x-decimals", "u", "c", balance="5000000000000.02", currency="JPY"),
        snapshot("s", "u", assets="200000000000000", liabilities="0", net="200000000000000", parts='{"a": "2E+14"}', owed="{}"),
        snapshot("x-far", "u", assets=str(largest), liabilities=f"-{largest}", net="0", parts=f'{{"a": {largest}}}', owed='{"a": 9e14}'),
    )
    assert await look_again(books) == {
        "scale": [("accounts.balance", 1, ("x-decimals",))],
        "balances": [("accounts.balance", 2, ("x-one", "x-sum"))],
        "net-worth": [("net_worth_snapshots.net_worth", 1, ("x-far",))],
        "breakdowns": [("net_worth_snapshots.liabilities_breakdown", 1, ("x-far",))],
    }


async def test_bytes_and_nothing_end_no_rule(books: Project) -> None:
    """SQLite has them in any column, and in a primary key too."""
    token = sealed_with(books)
    hexed = token.encode().hex()
    await plant(
        books,
        "INSERT INTO users (id, email) VALUES (x'00ff', x'01')",
        connection("c", "u", token).replace(f"'{token}'", f"x'{hexed}'"),
        account("a", "u", "c", balance="x'31'"),
        budget("b", "u", "2025-06-01", "2025-06-01").replace("'2025-06-01'", "x'00'"),
        snapshot("s", "u", assets="x'31'", liabilities="x'30'", net="'many'", parts="", owed="").replace("''", "x'00'"),
    )
    checked = found(await books.database().check_data())
    assert checked["storage"][0] == ("users.id", 1, ("00ff",))
    assert (checked.get("plaintext") or checked.get("unreadable")) == [("bank_connections.access_token", 1, ("c",))]


ODD_KEYS = """
import enum

from sqlalchemy import Date, Enum, ForeignKey, MetaData, Uuid
from sqlalchemy.orm import DeclarativeBase, mapped_column

from fininfra_db import UtcDateTime


class Base(DeclarativeBase):
    metadata = MetaData()


class Code(enum.Enum):
    EUR = 1


class Rate(Base):
    __tablename__ = "rates"
    code = mapped_column(Enum(Code), primary_key=True)
    day = mapped_column(Date, primary_key=True)
    at = mapped_column(UtcDateTime(), primary_key=True)
    mark = mapped_column(Uuid, primary_key=True)
"""


async def test_ids_that_python_cannot_read_are_told_as_they_are_stored(sqlite_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    await use_models(sqlite_project, ODD_KEYS)
    await make_tables(sqlite_project)
    await plant(sqlite_project, "INSERT INTO rates (code, day, at, mark) VALUES ('EUX', 'today', 'now', 'z')")
    checked = found(await sqlite_project.database().check_data("storage"))
    assert checked == {"storage": [("rates.day", 1, ("EUX, today, now, z",))]}


async def test_amounts_that_are_no_numbers_end_no_rule(postgresql_project: Project) -> None:
    await make_tables(postgresql_project)
    await plant(
        postgresql_project,
        user("u"),
        connection("c", "u", sealed_with(postgresql_project)),
        account("a", "u", "c", balance="5"),
        account("b", "u", "c", balance="'NaN'"),
        transaction("t", "u", "a", "'NaN'", category="Opening balance"),
        snapshot("s", "u", assets="'NaN'", liabilities="0", net="1", parts="{}", owed="{}"),
    )
    assert await look_again(postgresql_project) == {
        "balances": [("accounts.balance", 1, ("a",))],
        "net-worth": [("net_worth_snapshots.net_worth", 1, ("s",))],
        "breakdowns": [("net_worth_snapshots.assets_breakdown", 1, ("s",))],
    }


INSTANTS = (
    "2025-06-01 10:00:00.999999",
    "2024-02-29 23:59:59",
    "2025-02-29 10:00:00",
    "2025-06-01T10:00:00.000000",
    "2025-06-01 10:00:00+02:00",
    "yesterday",
    "2025-06-01",
)


async def test_an_id_is_shown_as_text_that_can_be_printed(books: Project) -> None:
    await plant(books, user("u"), budget("b\x1b[31m\n", "u", "2025-06-02", "2025-06-01"))
    checked = await books.database().check_data("budgets")
    assert "(b\\x1b[31m\\x0a)" in checked.findings[0].message
    assert checked.rules[0].faults[0].ids == ("b\x1b[31m\n",)


async def test_rules_run_in_their_order_and_once(books: Project) -> None:
    checked = await books.database().check_data("budgets", "orphans", "budgets")
    assert [each.rule for each in checked.rules] == ["orphans", "budgets"]


async def test_an_unknown_rule_is_answered_with_those_that_are_meant(books: Project) -> None:
    with pytest.raises(OptionsInvalid, match="no rule orphan") as caught:
        await books.database().check_data("orphan")
    assert (caught.value.hint or "").startswith("Did you mean orphans? The rules: cross-users, ")


def test_every_query_can_be_written_for_sql_server(tmp_path: Path) -> None:
    """There is none here to run them on."""
    mssql = dialect_of("mssql")
    engine = create_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    Base.metadata.create_all(engine)
    with engine.connect() as sync:
        made = Books(mssql, inspect(sync), Base.metadata.sorted_tables, Keyring(None))
        texts = {
            rule.name: [str(query.compile(dialect=mssql.offline(None))) for query in rule.queries(made)]  # type: ignore[arg-type]
            for rule in RULES.values()
        }
    assert {name for name, queries in texts.items() if not queries} == {"lengths", "storage"}
    assert "FROM OPENJSON(CASE WHEN ISJSON(net_worth_snapshots.assets_breakdown) = 1" in texts["breakdowns"][0]
    assert "LEN(bank_connections.access_token)" in texts["plaintext"][0]


async def test_a_database_ahead_of_the_checkout_is_the_finding(books: Project) -> None:
    """The models of an old checkout would find fault with rows that newer ones have made."""
    await books.database().init()
    await books.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))", "INSERT INTO alembic_version VALUES ('ffff9999')")
    checked = await books.database().check_data()
    assert [finding.code for finding in checked.findings] == ["database-ahead"]
    assert checked.rules == ()
