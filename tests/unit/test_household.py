"""The default seed: that its figures agree with one another."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import String

from fininfra_db.data.household import END, MONTH_ENDS, START, Household, Row, household
from fininfra_db.models import Account, BankConnection, Base, Budget, Document, Goal, NetWorthSnapshot, Transaction, User
from fininfra_db.types import EncryptedString
from tests.unit.processes import printed_in_two_places

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
    assert printed_in_two_places(program) == {sha256(repr(SEED).encode()).hexdigest()}


def test_ids_stay_the_same_from_release_to_release() -> None:
    assert users_by_name()["maya"] == MAYA_ID
