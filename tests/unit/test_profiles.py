"""The seed profiles: that their figures agree, and that the same arguments give the same rows everywhere."""

import re
from calendar import monthrange
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from itertools import islice, pairwise
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Date, String

from fininfra_db.data.profiles import PROFILES, plan_of
from fininfra_db.data.profiles.currencies import CURRENCIES
from fininfra_db.data.request import SeedRequest
from fininfra_db.errors import OptionsInvalid
from fininfra_db.models import Account, BankConnection, Base, Budget, Document, Goal, NetWorthSnapshot, Transaction, User
from fininfra_db.types import EncryptedString
from tests.unit.processes import printed_in_two_places
from tests.unit.test_household import leaves

Rows = dict[type[Base], list[dict[str, Any]]]
OWED = {"credit", "loan"}
MOVEMENTS = {"Transfer", "Card payment", "Loan payment"}
DECIMALS = {"USD": 2, "EUR": 2, "JPY": 0, "KWD": 3, "GBP": 2, "INR": 2, "CLP": 0, "TND": 3}
"""ISO 4217."""


def made(request: SeedRequest) -> Rows:
    plan = plan_of(request)
    rows: Rows = defaultdict(list)
    for numbers in plan.batches():
        for model, each in plan.rows(numbers):
            rows[model] += each
    return dict(rows)


DEMOS = {
    "the default": made(SeedRequest("demo", users=24)),
    "ends in a month": made(SeedRequest("demo", users=9, months=5, as_of=date(2024, 3, 14), random_seed=7)),
    "one short month": made(SeedRequest("demo", users=9, months=1, as_of=date(2023, 2, 1))),
}
LOAD = made(SeedRequest("load", users=7, months=3, accounts=3, per_account=300))


@pytest.fixture(params=DEMOS)
def demo(request: pytest.FixtureRequest) -> Rows:
    return DEMOS[request.param]


@pytest.fixture(params=[*DEMOS, "load"])
def rows(request: pytest.FixtureRequest) -> Rows:
    return LOAD if request.param == "load" else DEMOS[request.param]


def by(rows: list[dict[str, Any]], *names: str) -> dict[Any, list[dict[str, Any]]]:
    """Rows in groups that share these values."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names) if len(names) > 1 else row[names[0]]].append(row)
    return groups


def total(transactions: list[dict[str, Any]]) -> Decimal:
    return sum((row["amount"] for row in transactions), Decimal(0))


def posted(transactions: list[dict[str, Any]], day: date = date.max) -> list[dict[str, Any]]:
    return [row for row in transactions if row["date"] <= day and not row["pending"]]


# The figures.


def test_each_balance_is_the_opening_balance_and_what_was_posted(rows: Rows) -> None:
    ledger = by(rows[Transaction], "account_id")
    for account in rows[Account]:
        first, *rest = ledger[account["id"]]
        assert first["category"] == first["name"] == "Opening balance"
        assert not any(row["category"] == "Opening balance" for row in rest)
        assert first["date"] == min(row["date"] for row in ledger[account["id"]])
        assert account["balance"] == total(posted(ledger[account["id"]])), account


def test_net_worth_is_assets_minus_liabilities_of_the_ledger_on_that_day(demo: Rows) -> None:
    ledger, accounts = by(demo[Transaction], "account_id"), by(demo[Account], "user_id")
    for snapshot in demo[NetWorthSnapshot]:
        held = {each["type"]: total(posted(ledger[each["id"]], snapshot["snapshot_date"])) for each in accounts[snapshot["user_id"]]}
        assets = {kind: amount for kind, amount in held.items() if kind not in OWED}
        liabilities = {kind: -amount for kind, amount in held.items() if kind in OWED}
        assert {kind: Decimal(text) for kind, text in snapshot["assets_breakdown"].items()} == assets
        assert {kind: Decimal(text) for kind, text in snapshot["liabilities_breakdown"].items()} == liabilities
        assert snapshot["total_assets"] == sum(assets.values())
        assert snapshot["total_liabilities"] == sum(liabilities.values())
        assert snapshot["net_worth"] == snapshot["total_assets"] - snapshot["total_liabilities"]


def test_there_is_a_snapshot_of_each_month_end_and_of_the_last_day() -> None:
    days = {snapshot["snapshot_date"] for snapshot in DEMOS["ends in a month"][NetWorthSnapshot]}
    assert days == {date(2023, 11, 30), date(2023, 12, 31), date(2024, 1, 31), date(2024, 2, 29), date(2024, 3, 14)}


def test_every_movement_between_accounts_has_two_sides_that_add_up_to_zero(demo: Rows) -> None:
    moves = by([row for row in demo[Transaction] if row["category"] in MOVEMENTS], "user_id", "date", "transaction_id")
    for sides in moves.values():
        assert len({side["account_id"] for side in sides}) == len(sides) == 2
        assert total(sides) == 0
        assert all(side["amount"] for side in sides)
    assert moves or demo is DEMOS["one short month"]


def test_nobody_is_overdrawn_and_no_debt_is_overpaid(demo: Rows) -> None:
    ledger = by(demo[Transaction], "account_id")
    for account in demo[Account]:
        held = Decimal(0)
        for _, of_day in sorted(by(posted(ledger[account["id"]]), "date").items()):
            held += total(of_day)
            assert held <= 0 if account["type"] in OWED else held >= 0, account


def test_a_dinner_is_pending_first_and_then_posted_with_the_tip() -> None:
    demo = DEMOS["the default"]
    known = {(row["account_id"], row["transaction_id"].partition("-")[2]): row for row in demo[Transaction]}
    pairs = [
        (row, known.get((account, slug.removesuffix("-pending")))) for (account, slug), row in known.items() if slug.endswith("-pending")
    ]
    whole = [(first, second) for first, second in pairs if second]
    assert len(whole) > 100
    for first, second in whole:
        assert first["pending"]
        assert not second["pending"]
        assert second["date"] - first["date"] == timedelta(days=2)
        assert first["merchant_name"] == second["merchant_name"]
        assert second["amount"] < first["amount"] < 0
    assert all(first["date"] > date(2025, 12, 29) for first, second in pairs if not second)


def test_the_last_purchases_with_a_card_are_pending(demo: Rows) -> None:
    last = max(row["date"] for row in demo[Transaction])
    cards = {account["id"] for account in demo[Account] if account["type"] == "credit"}
    bought = [
        row for row in demo[Transaction] if row["account_id"] in cards and row["merchant_name"] and "dinner" not in row["transaction_id"]
    ]
    assert {row["pending"] for row in bought if row["date"] > last - timedelta(days=2)} <= {True}
    assert {row["pending"] for row in bought if row["date"] <= last - timedelta(days=2)} <= {False}


def test_every_refund_is_of_a_shop_where_something_was_bought_before() -> None:
    demo = DEMOS["the default"]
    refunds = [row for row in demo[Transaction] if row["transaction_id"].endswith("-refund")]
    assert len(refunds) > 24
    for refund in refunds:
        assert refund["amount"] > 0
        bought = [row for row in demo[Transaction] if row["user_id"] == refund["user_id"] and row["transaction_id"].endswith("-shopping")]
        assert any(row["date"] < refund["date"] for row in bought)


def test_budgets_goals_and_documents_agree_with_the_rest(demo: Rows) -> None:
    savings = {row["user_id"]: row["balance"] for row in demo[Account] if row["type"] == "savings"}
    salaries = by([row for row in demo[Transaction] if row["category"] == "Income"], "user_id")
    for goal in demo[Goal]:
        assert goal["current_amount"] == savings[goal["user_id"]]
    for budget in demo[Budget]:
        planned = sum(Decimal(text) for text in budget["categories"].values())
        assert planned > 0
        assert all(planned < salary["amount"] for salary in salaries[budget["user_id"]])
    amounts = {(row["user_id"], row["date"].isoformat(), str(abs(row["amount"]))) for row in demo[Transaction]}
    for document in demo[Document]:
        read = document["extracted_data"]
        assert read is None or (document["user_id"], read["date"], read["total"]) in amounts


# Currencies and days.


def test_every_amount_has_the_decimals_of_its_currency(rows: Rows) -> None:
    currency = {account["id"]: account["currency"] for account in rows[Account]}
    of_user = {account["user_id"]: account["currency"] for account in rows[Account]}
    amounts = [(currency[row["account_id"]], row["amount"]) for row in rows[Transaction]]
    amounts += [(row["currency"], row["balance"]) for row in rows[Account]]
    for row in rows.get(NetWorthSnapshot, []):
        amounts += [(of_user[row["user_id"]], row[name]) for name in ("total_assets", "total_liabilities", "net_worth")]
        amounts += [(of_user[row["user_id"]], Decimal(text)) for text in (*row["assets_breakdown"].values(),)]
    for row in rows.get(Budget, []):
        amounts += [(of_user[row["user_id"]], Decimal(text)) for text in row["categories"].values()]
    assert {(code, -amount.as_tuple().exponent) for code, amount in amounts} <= set(DECIMALS.items())


def test_the_currencies_go_round_and_each_person_has_one() -> None:
    assert {each.code: each.decimals for each in CURRENCIES} == DECIMALS
    codes = [{row["currency"] for row in accounts} for accounts in by(DEMOS["the default"][Account], "user_id").values()]
    assert codes == [{each.code} for each in CURRENCIES] * 3


def test_what_falls_on_a_day_that_a_month_lacks_is_on_its_last() -> None:
    demo = DEMOS["the default"]
    ends = {date(year, month, monthrange(year, month)[1]) for year in (2024, 2025) for month in range(1, 13)}
    assert {row["date"] for row in demo[Transaction] if row["transaction_id"].endswith("-phone")} == ends
    streamed = {row["date"] for row in demo[Transaction] if row["transaction_id"].endswith("-streaming")}
    assert {day for day in streamed if day.month == 2} == {date(2024, 2, 29), date(2025, 2, 28)}
    salaries = {row["date"] for row in demo[Transaction] if row["transaction_id"].endswith("-salary")}
    assert all(day.weekday() < 5 and any(0 <= (end - day).days <= 2 for end in ends) for day in salaries)


def test_a_last_day_that_is_a_leap_day() -> None:
    rows = made(SeedRequest("demo", users=2, months=12, as_of=date(2024, 2, 29)))
    assert min(row["date"] for row in rows[Transaction]) == date(2023, 3, 1)
    assert max(row["date"] for row in rows[Transaction]) == date(2024, 2, 29)


def test_every_instant_is_aware_and_on_the_day_of_its_row_wherever_clocks_were_turned(demo: Rows) -> None:
    for row in demo[Transaction]:
        assert row["created_at"].utcoffset() == timedelta(0)
        assert (row["created_at"] + timedelta(hours=11)).date() == (row["created_at"] - timedelta(hours=12)).date() == row["date"]


# Rows and ids.


def test_every_row_belongs_to_one_user_all_the_way(rows: Rows) -> None:
    owner = {user["id"]: user["id"] for user in rows[User]}
    for model in (BankConnection, Account, Transaction, Budget, Goal, NetWorthSnapshot, Document):
        for row in rows.get(model, []):
            above = [row[name] for name in ("user_id", "connection_id") if name in row]
            above += [row["account_id"]] if model is Transaction else []
            assert {owner[each] for each in above} == {row["user_id"]}
            owner[row["id"]] = row["user_id"]


def test_nothing_is_there_twice(rows: Rows) -> None:
    for each in rows.values():
        assert len({row["id"] for row in each}) == len(each)
    for model, key in ((Transaction, ("user_id", "account_id", "transaction_id")), (Account, ("user_id", "connection_id", "account_id"))):
        assert all(len(same) == 1 for same in by(rows[model], *key).values())
    assert len({user["email"] for user in rows[User]}) == len(rows[User])


def test_every_value_fits_its_column_and_all_rows_of_a_table_have_the_same(rows: Rows) -> None:
    for model, each in rows.items():
        columns = Base.metadata.tables[model.__tablename__].columns
        assert len({tuple(row) for row in each}) == 1
        for row in each:
            assert {column.name for column in columns if not column.nullable} <= set(row) <= set(columns.keys())
            for name, value in row.items():
                kind = columns[name].type
                if isinstance(kind, EncryptedString):
                    assert len(value.encode()) <= 303
                elif isinstance(kind, String) and value is not None:
                    assert len(value) <= (kind.length or 0), (name, value)
                elif isinstance(kind, Date) and value is not None:
                    assert type(value) is date
            assert not [leaf for leaf in leaves(row) if isinstance(leaf, float)]


def test_addresses_and_secrets_are_fake(rows: Rows) -> None:
    assert all(re.fullmatch(r"[a-z.]+\+[0-9a-f]{5}-\d+@example\.(com|org)", user["email"]) for user in rows[User])
    assert all(row["access_token"].startswith("access-sandbox-") for row in rows[BankConnection])


def test_ids_are_uuids_of_version_7_with_the_instant_of_their_row(rows: Rows) -> None:
    for each in rows.values():
        for row in each:
            parsed = UUID(row["id"])
            assert (parsed.version, str(parsed)) == (7, row["id"])
            if "created_at" in row:
                since = row["created_at"] - datetime(1970, 1, 1, tzinfo=UTC)
                assert parsed.int >> 80 == since // timedelta(milliseconds=1)


def test_the_rows_of_load_come_in_the_order_of_their_ids() -> None:
    for each in LOAD.values():
        assert all(first["id"] < second["id"] for first, second in pairwise(each))


def test_ids_go_on_beyond_what_the_counter_of_one_instant_holds() -> None:
    plan = plan_of(SeedRequest("load", users=2, accounts=1, per_account=3_000_000))
    *_, (_, transactions) = plan.rows([0])
    around = [row["id"] for row in islice(transactions, (1 << 20) - 3, (1 << 20) + 3)]
    assert around == sorted({*around})
    assert max(around) < plan.user_id(1)


# The same everywhere, and other rows for other arguments.


def digest(rows: Rows) -> str:
    return sha256(repr([(model.__tablename__, each) for model, each in rows.items()]).encode()).hexdigest()


def test_two_processes_give_the_same_rows() -> None:
    program = (
        "from tests.unit.test_profiles import *\n"
        "print(digest(made(SeedRequest('demo', users=3, months=2))), digest(made(SeedRequest('load', users=2, per_account=9))))"
    )
    demo, load = made(SeedRequest("demo", users=3, months=2)), made(SeedRequest("load", users=2, per_account=9))
    assert printed_in_two_places(program) == {f"{digest(demo)} {digest(load)}"}


def test_rows_stay_the_same_from_release_to_release() -> None:
    """When this fails, the profile's ``version`` has to count up."""
    assert digest(made(SeedRequest("demo", users=2, months=2)))[:16] == "030404adb6912748"
    assert digest(made(SeedRequest("load", users=2, per_account=9)))[:16] == "7fe218880489500b"


@pytest.mark.parametrize("name", ["demo", "load"])
def test_more_users_are_added_to_the_same_ones(name: str) -> None:
    few, many = made(SeedRequest(name, users=2, months=1)), made(SeedRequest(name, users=5, months=1))
    assert all(many[model][: len(each)] == each for model, each in few.items())


@pytest.mark.parametrize("other", [{"months": 2}, {"as_of": date(2025, 12, 30)}, {"random_seed": 1}])
@pytest.mark.parametrize("name", ["demo", "load"])
def test_other_arguments_give_rows_that_are_not_in_the_way(name: str, other: dict[str, Any]) -> None:
    rows, others = made(SeedRequest(name, users=2, months=1)), made(SeedRequest(name, **{"users": 2, "months": 1} | other))
    for model, each in rows.items():
        assert not {row["id"] for row in each} & {row["id"] for row in others[model]}
    assert not {user["email"] for user in rows[User]} & {user["email"] for user in others[User]}


@pytest.mark.parametrize("name", ["demo", "load"])
def test_rows_are_made_as_they_are_taken(name: str) -> None:
    plan = plan_of(SeedRequest(name, users=1 << 20))
    first = next(iter(plan.batches()))
    for _, each in plan.rows(first[:1]):
        assert next(iter(each))


def test_load_makes_as_many_transactions_as_it_says() -> None:
    assert len(LOAD[Transaction]) == 7 * 3 * 300
    assert all(len(each) == 300 for each in by(LOAD[Transaction], "account_id").values())
    assert {row["date"] for row in LOAD[Transaction]} == {date(2025, 10, 1) + timedelta(days=count) for count in range(92)}


# Arguments.


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (SeedRequest("household", users=1), "does not take --users"),
        (SeedRequest("household", random_seed=1, as_of=date(2025, 1, 1)), "does not take --as-of, --random-seed"),
        (SeedRequest("demo", accounts=1, per_account=2), "does not take --accounts, --per-account"),
        (SeedRequest("demo", users=0), "--users is 0"),
        (SeedRequest("demo", users=(1 << 20) + 1), "goes from 1 to 1,048,576"),
        (SeedRequest("demo", months=673), "673 months up to 2025-12-31 begin before 1970"),
        (SeedRequest("demo", as_of=date(9999, 1, 1)), "--as-of is 9999-01-01, and goes up to 2999"),
        (SeedRequest("load", per_account=0), "--per-account is 0"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(request_: SeedRequest, says: str) -> None:
    with pytest.raises(OptionsInvalid, match=says):
        PROFILES[request_.name or ""].complete(request_)


def test_the_earliest_months_can_be_made() -> None:
    rows = made(SeedRequest("demo", users=1, months=672))
    assert rows[Transaction][0]["date"] == date(1970, 1, 1)
