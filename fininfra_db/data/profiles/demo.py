"""The profile ``demo``: people with a salary, a home, a card and a loan, who look like those of a small finance application.

Each person has one currency, which goes round with the number of the person: net worth needs no exchange rate, and every sum is of one
currency. ``accounts.balance`` is the sum of what is posted, whose first row is the opening balance; net worth, its
breakdowns, the goal and the documents are read off the same ledger.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from fininfra_db.data.profiles import words
from fininfra_db.data.profiles.currencies import CURRENCIES
from fininfra_db.data.profiles.ledger import CARD, CHECKING, KINDS, LOAN, SAVINGS, Ledger, Movement
from fininfra_db.data.profiles.plan import Plan, Row, milliseconds, noon
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

_OWED: Final = (CARD, LOAN)
_ROWS_OF_A_MONTH: Final = 34
_TABLES: Final[tuple[type[Base], ...]] = (User, BankConnection, Account, Transaction, Budget, Goal, NetWorthSnapshot, Document)
# Account: subtype and name.
_ACCOUNTS: Final = {
    CHECKING: ("checking", "Everyday Checking"),
    SAVINGS: ("savings", "Rainy Day Savings"),
    CARD: ("credit card", "Rewards Card"),
    LOAN: ("mortgage", "Home Loan"),
}
# Category: thousandths of a month's pay.
_BUDGET: Final = {"Housing": 280, "Food": 160, "Utilities": 50, "Transport": 30, "Subscriptions": 10}

Rows = dict[type[Base], list[Row]]


class Demo(Plan):
    """The rows of the demo."""

    name = "demo"
    version = 1

    @property
    def rows_of_user(self) -> int:
        assert self.request.months is not None
        return 20 + _ROWS_OF_A_MONTH * self.request.months

    def user_id(self, number: int) -> str:
        return self.ids.make(milliseconds(noon(self.start)), number)

    def rows(self, numbers: Sequence[int]) -> Iterator[tuple[type[Base], list[Row]]]:
        people = [_Person(self, number).rows() for number in numbers]
        for model in _TABLES:
            yield model, [row for rows in people for row in rows[model]]


class _Person:
    """One user and everything that is theirs."""

    def __init__(self, plan: Demo, number: int) -> None:
        self._plan, self._number = plan, number
        self._chance = plan.ids.chance(number)
        self._currency = CURRENCIES[number % len(CURRENCIES)]
        self._id = plan.user_id(number)
        self._made = 0
        pick = self._pick
        self._first, self._last = pick(words.FIRST_NAMES), pick(words.LAST_NAMES)
        self._bank, self._lender = pick(words.BANKS), pick(words.LENDERS)
        pay, employer = 300_000 + int(self._chance.random() * 400) * 1000, pick(words.EMPLOYERS)
        self._ledger = Ledger(self._currency, pay, employer, plan.start, plan.as_of, self._chance)

    def rows(self) -> Rows:
        """The rows of every table."""
        email = f"{self._first}.{self._last}+{self._plan.ids.tag}-{self._number}@example.com".lower()
        user = {"id": self._id, "email": email, "hashed_password": UNUSABLE_PASSWORD, "created_at": noon(self._plan.start)}
        bank, lender = self._connection("bank", self._bank), self._connection("lender", self._lender)
        accounts = {kind: self._account(kind, lender if kind == LOAN else bank) for kind in KINDS}
        return {
            User: [user],
            BankConnection: [bank, lender],
            Account: list(accounts.values()),
            Transaction: list(self._transactions({kind: row["id"] for kind, row in accounts.items()})),
            Budget: [self._budget()],
            Goal: [self._goal()],
            NetWorthSnapshot: [self._snapshot(day, held) for day, held in self._ledger.closings.items()],
            Document: list(self._documents()),
        }

    def _owned(self, made: datetime, **values: Any) -> Row:
        """A row of this user. ``made`` is moved by milliseconds, so that no two rows of a user have one instant."""
        self._made += 1
        made += timedelta(milliseconds=self._made)
        return {"id": self._plan.ids.make(milliseconds(made), self._number), "user_id": self._id, "created_at": made, **values}

    def _connection(self, kind: str, institution: str) -> Row:
        token = f"access-sandbox-{self._plan.ids.tag}-{self._number}-{kind}"
        return self._owned(noon(self._plan.start), access_token=token, item_id=f"item-{kind}", institution_name=institution)

    def _account(self, kind: str, connection: Row) -> Row:
        subtype, name = _ACCOUNTS[kind]
        row = self._owned(
            noon(self._plan.start),
            connection_id=connection["id"],
            account_id=kind,
            name=name,
            type=kind,
            subtype=subtype,
            balance=self._amount(self._ledger.balances[kind]),
            currency=self._currency.code,
            updated_at=noon(self._plan.as_of),
        )
        del row["created_at"]  # an account has none
        return row

    def _transactions(self, accounts: Mapping[str, str]) -> Iterator[Row]:
        for movement in self._ledger.movements:
            yield self._owned(
                noon(movement.day),
                account_id=accounts[movement.account],
                transaction_id=f"{movement.day:%Y%m%d}-{movement.slug}",
                amount=self._amount(movement.amount),
                date=movement.day,
                name=movement.name,
                merchant_name=movement.merchant,
                category=movement.category,
                pending=movement.pending,
            )

    def _budget(self) -> Row:
        pay = self._ledger.pay
        categories = {name: str(self._amount(self._currency.minor(pay * part / 1000))) for name, part in _BUDGET.items()}
        start = self._plan.start
        return self._owned(noon(start), name="Every month", type="monthly", start_date=start, end_date=None, categories=categories)

    def _goal(self) -> Row:
        target = self._amount(self._currency.minor(self._ledger.pay * 12))
        saved = self._amount(self._ledger.balances[SAVINGS])
        day = self._plan.as_of + timedelta(days=730)
        amounts = {"target_amount": target, "current_amount": saved}
        return self._owned(noon(self._plan.start), name="Emergency fund", target_date=day, priority="high", **amounts)

    def _snapshot(self, day: date, held: Mapping[str, int]) -> Row:
        assets = {kind: amount for kind, amount in held.items() if kind not in _OWED}
        liabilities = {kind: -amount for kind, amount in held.items() if kind in _OWED}
        owned, owed = sum(assets.values()), sum(liabilities.values())
        return self._owned(
            noon(day),
            snapshot_date=day,
            total_assets=self._amount(owned),
            total_liabilities=self._amount(owed),
            net_worth=self._amount(owned - owed),
            assets_breakdown={kind: str(self._amount(amount)) for kind, amount in assets.items()},
            liabilities_breakdown={kind: str(self._amount(amount)) for kind, amount in liabilities.items()},
        )

    def _documents(self) -> Iterator[Row]:
        """The receipt of the last purchase in a shop, the last payslip, and a lease that nothing was read from yet."""
        for kind, slug in (("receipt", "shopping"), ("payslip", "salary")):
            found = [movement for movement in self._ledger.movements if movement.slug == slug]
            if found:
                yield self._document(kind, found[-1].day, self._read(found[-1]))
        yield self._document("lease", self._plan.start, None)

    def _read(self, movement: Movement) -> dict[str, str]:
        total = str(self._amount(abs(movement.amount)))
        return {"from": movement.merchant or "", "date": movement.day.isoformat(), "total": total, "currency": self._currency.code}

    def _document(self, kind: str, day: date, data: dict[str, str] | None) -> Row:
        filename = f"{kind}-{day.isoformat()}.pdf"
        path = f"documents/{self._id}/{filename}"
        return self._owned(noon(day), filename=filename, document_type=kind, file_path=path, extracted_data=data)

    def _amount(self, minor: int) -> Decimal:
        return self._currency.amount(minor)

    def _pick(self, choices: Sequence[str]) -> str:
        return choices[int(self._chance.random() * len(choices))]
