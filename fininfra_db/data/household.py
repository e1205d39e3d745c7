"""The default seed: a household of two people and their finances in the year 2025.

``household()`` is pure: no clock, no chance, no database. The figures agree with one another, so that whoever reads the
rows can recompute each from the others:

- An amount is positive when money comes into the account and negative when it leaves. Accounts that are owed (credit
  card, student loan) have a negative balance. Providers differ: Plaid's amounts are positive when money leaves
  (https://plaid.com/docs/api/products/transactions/), so turn the sign when a sync is mixed with these rows.
- ``accounts.balance`` is the sum of the account's transactions that are not pending. Its first one, on 1 January, is named
  ``Opening balance``. Changes of market value are transactions too, so this holds for the brokerage account as well.
- The two sides of a movement between two accounts of a user (``Transfer``, ``Card payment``, ``Loan payment``) share date,
  category and ``transaction_id`` and add up to zero.
- A snapshot holds the balances at the end of its day, by ``accounts.type``; what is owed is positive there.
- ``goals.current_amount`` is the balance of one account: ``Emergency fund`` of Maya's savings, ``House down payment`` of
  Daniel's savings, ``Retirement`` of the brokerage account.
- A W-2 holds a year of pay whose net is what was deposited; a 1099 holds the interest that a savings account earned.

All amounts are in US dollars. Withholding for Social Security and Medicare is 6.2 % and 1.45 % of gross pay, the employee's
rates of 2025 (https://www.irs.gov/taxtopics/tc751); the rest of the figures, names and rates are made up.
"""

from calendar import FRIDAY, monthrange
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import cycle
from typing import Any, Final
from uuid import NAMESPACE_DNS, uuid5

from fininfra_db.models import Account, BankConnection, Base, Budget, Document, Goal, NetWorthSnapshot, Transaction, User

Row = dict[str, Any]
Household = dict[type[Base], list[Row]]
"""The rows of each model, parents before children."""

YEAR: Final = 2025
START: Final = date(YEAR, 1, 1)
END: Final = date(YEAR, 12, 31)
MONTH_ENDS: Final = tuple(date(YEAR, month, monthrange(YEAR, month)[1]) for month in range(1, 13))

_UNSETTLED: Final = date(YEAR, 12, 30)
"""Purchases from this day on are pending."""
_OWED: Final = frozenset({"credit", "loan"})
"""The account types that are liabilities."""
_NAMESPACE: Final = uuid5(NAMESPACE_DNS, "household.fininfra-db.example.com")
_ZERO: Final = Decimal("0.00")


@dataclass(frozen=True)
class _Account:
    """An account before its history: what it held, or owed when negative, as the year began."""

    connection: str
    name: str
    type: str
    subtype: str
    opening: Decimal

    @property
    def user(self) -> str:
        return _CONNECTIONS[self.connection][0]


@dataclass(frozen=True)
class _Entry:
    """One movement on an account. ``slug`` tells it from the others of its day."""

    account: str
    day: date
    slug: str
    amount: Decimal
    category: str
    name: str
    merchant: str | None = None
    pending: bool = False

    @property
    def transaction_id(self) -> str:
        return f"{self.day:%Y%m%d}-{self.slug}"


def _monthly(day: int) -> tuple[date, ...]:
    return tuple(date(YEAR, month, day) for month in range(1, 13))


def _every(days: int, first: date) -> tuple[date, ...]:
    return tuple(first + timedelta(days=count) for count in range(0, (END - first).days + 1, days))


def _paydays() -> tuple[date, ...]:
    """The 15th and the last of each month, or the Friday before when that is on a weekend."""
    nominal = (day for month_end in MONTH_ENDS for day in (month_end.replace(day=15), month_end))
    return tuple(day - timedelta(days=max(0, day.weekday() - FRIDAY)) for day in nominal)


_EMAILS: Final = {"maya": "maya.lindqvist@example.com", "daniel": "daniel.reyes@example.org"}
_CONNECTIONS: Final = {
    "harbor": ("maya", "Harbor Street Bank"),
    "northgate": ("maya", "Northgate Student Loans"),
    "prairie": ("daniel", "Prairie Credit Union"),
    "summit": ("daniel", "Summit Brokerage"),
}
_ACCOUNTS: Final = {
    "harbor-checking": _Account("harbor", "Everyday Checking", "checking", "checking", Decimal("5215.38")),
    "harbor-savings": _Account("harbor", "High-Yield Savings", "savings", "savings", Decimal("9800.00")),
    "harbor-card": _Account("harbor", "Harbor Rewards Card", "credit", "credit card", Decimal("-642.17")),
    "northgate-loan": _Account("northgate", "Student Loan", "loan", "student", Decimal("-18450.00")),
    "prairie-checking": _Account("prairie", "Member Checking", "checking", "checking", Decimal("2960.71")),
    "prairie-savings": _Account("prairie", "Share Savings", "savings", "savings", Decimal("14250.00")),
    "summit-brokerage": _Account("summit", "Index Portfolio", "investment", "brokerage", Decimal("31870.25")),
}
# Account: employer, gross pay and income tax withheld on each payday.
_PAY: Final = {
    "harbor-checking": ("Cascade Robotics", Decimal("3800.00"), Decimal("462.40")),
    "prairie-checking": ("Brightwater School District", Decimal("2500.00"), Decimal("228.75")),
}
_INTEREST_RATES: Final = {"harbor-savings": Decimal("0.0360"), "prairie-savings": Decimal("0.0240"), "northgate-loan": Decimal("0.0550")}
"""Interest of a year; a twelfth of it on the balance at each month's end."""
_MARKET_RETURNS: Final = (210, -130, -390, -60, 480, 390, 180, 160, 280, 190, -20, 40)
"""The change of the portfolio's value in each month, in hundredths of a percent."""

# Account, slug, days, amounts in turn, merchant, category.
_RULES: Final[tuple[tuple[str, str, tuple[date, ...], tuple[str, ...], str, str], ...]] = (
    ("harbor-checking", "rent", _monthly(1), ("-2450.00",), "Alder Court Apartments", "Housing"),
    ("harbor-checking", "power", _monthly(8), ("-118.42", "-96.77", "-61.15", "-84.90"), "Tidewater Power", "Utilities"),
    ("harbor-checking", "internet", _monthly(17), ("-65.00",), "Fernhill Fiber", "Utilities"),
    ("harbor-checking", "dentist", (date(YEAR, 10, 14),), ("-145.00",), "Maple Dental", "Health"),
    ("harbor-card", "groceries", _every(7, date(YEAR, 1, 7)), ("-112.36", "-96.08", "-131.54", "-88.27"), "Kestrel Market", "Food"),
    ("harbor-card", "dinner", _every(14, date(YEAR, 1, 15)), ("-46.20", "-58.75", "-39.90"), "Café Lumière", "Food"),
    ("harbor-card", "transit", _monthly(2), ("-99.00",), "Bayline Transit Pass", "Transport"),
    ("harbor-card", "gym", _monthly(5), ("-39.00",), "Ironwood Gym", "Health"),
    ("harbor-card", "streaming", _monthly(6), ("-15.49",), "Northlight Streaming", "Subscriptions"),
    ("harbor-card", "music", _monthly(14), ("-10.99",) * 8 + ("-11.99",) * 4, "Wavelength Music", "Subscriptions"),
    ("harbor-card", "laptop", (date(YEAR, 3, 22),), ("-1249.00",), "Halden Electronics", "Shopping"),
    ("harbor-card", "flights", (date(YEAR, 6, 7),), ("-612.40",), "Skylark Airlines", "Travel"),
    ("harbor-card", "headphones", (date(YEAR, 8, 9),), ("-189.95",), "Halden Electronics", "Shopping"),
    ("harbor-card", "headphones-refund", (date(YEAR, 8, 16),), ("189.95",), "Halden Electronics", "Shopping"),
    ("prairie-checking", "childcare", _monthly(1), ("-1150.00",), "Little Otters Childcare", "Childcare"),
    ("prairie-checking", "groceries", _every(7, date(YEAR, 1, 3)), ("-71.83", "-64.19", "-82.40", "-58.66"), "Green Gate Grocers", "Food"),
    ("prairie-checking", "fuel", _every(14, date(YEAR, 1, 14)), ("-44.10", "-47.85", "-41.36"), "Halcyon Fuel", "Transport"),
    ("prairie-checking", "water", _monthly(9), ("-52.60", "-49.95", "-55.15"), "Millbrook Water", "Utilities"),
    ("prairie-checking", "phone", _monthly(11), ("-85.00",), "Larkspur Mobile", "Utilities"),
    ("prairie-checking", "insurance", _monthly(20), ("-118.40",), "Beacon Auto Insurance", "Transport"),
    ("prairie-checking", "books", _monthly(23), ("-27.50", "-18.95"), "Paper Lantern Books", "Shopping"),
    ("summit-brokerage", "dividend", _monthly(22)[2::3], ("96.40", "101.15", "108.72", "134.06"), "Meridian Index Fund", "Dividend"),
)
# Slug, from, to, days, amount, category.
_TRANSFERS: Final = (
    ("save", "harbor-checking", "harbor-savings", _monthly(3), Decimal("1200.00"), "Transfer"),
    ("loan-payment", "harbor-checking", "northgate-loan", _monthly(12), Decimal("340.00"), "Loan payment"),
    ("save", "prairie-checking", "prairie-savings", _monthly(4), Decimal("900.00"), "Transfer"),
    ("invest", "prairie-checking", "summit-brokerage", _monthly(16), Decimal("500.00"), "Transfer"),
)
# User, name, type, end, categories.
_BUDGETS: Final[tuple[tuple[str, str, str, date | None, Mapping[str, int | str]], ...]] = (
    ("maya", "Home and everyday", "monthly", None, {"Housing": 2450, "Food": 550, "Utilities": "153.50", "Transport": 99, "Health": 39}),
    ("maya", "Travel and shopping", "annual", END, {"Travel": 800, "Shopping": "1500.00", "Subscriptions": "321.76"}),
    ("daniel", "Family", "monthly", END, {"Childcare": 1150, "Food": 320, "Transport": "220.00", "Utilities": 140, "Shopping": 30}),
)
# Name, account, target, target date, priority.
_GOALS: Final = (
    ("Emergency fund", "harbor-savings", Decimal("30000.00"), date(2026, 9, 30), "high"),
    ("House down payment", "prairie-savings", Decimal("60000.00"), date(2028, 6, 30), "medium"),
    ("Retirement", "summit-brokerage", Decimal("850000.00"), date(2052, 12, 31), "low"),
)


def household() -> Household:
    """The rows of the seed, the same in every call and every process."""
    entries = _ledger()
    return {
        User: [{"id": _id(User, user), "email": email, "created_at": _noon(START)} for user, email in _EMAILS.items()],
        BankConnection: [_connection(key, *connection) for key, connection in _CONNECTIONS.items()],
        Account: [_account(key, account, entries) for key, account in _ACCOUNTS.items()],
        Transaction: [_transaction(entry) for entry in entries],
        Budget: [_budget(*plan) for plan in _BUDGETS],
        Goal: [_goal(*goal, entries) for goal in _GOALS],
        NetWorthSnapshot: [_snapshot(user, day, entries) for user in _EMAILS for day in MONTH_ENDS],
        Document: list(_documents(entries)),
    }


def _ledger() -> list[_Entry]:
    """Every movement of the year, by day."""
    entries = [_Entry(key, START, "opening", account.opening, "Opening balance", "Opening balance") for key, account in _ACCOUNTS.items()]
    for key, (employer, gross, income_tax) in _PAY.items():
        net = gross - sum(_withheld(gross, income_tax).values())
        entries += [_Entry(key, day, "salary", net, "Income", "Payroll deposit", employer) for day in _paydays()]
    for key, slug, days, amounts, merchant, category in _RULES:
        entries += [
            _Entry(key, day, slug, Decimal(amount), category, merchant.upper(), merchant, pending=day >= _UNSETTLED)
            for day, amount in zip(days, cycle(amounts), strict=False)
        ]
    for slug, source, destination, days, moved, category in _TRANSFERS:
        entries += [side for day in days for side in _move(slug, source, destination, day, moved, category)]
    for month_end, market_return in zip(MONTH_ENDS, _MARKET_RETURNS, strict=True):
        entries = [*entries, *_from_balances(entries, month_end, market_return)]
    return sorted(entries, key=lambda entry: entry.day)


def _from_balances(entries: list[_Entry], month_end: date, market_return: int) -> Iterator[_Entry]:
    """What follows from the balances of a month: the card's statement of the 1st, paid on the 21st, interest and market value."""
    statement = _balance(entries, "harbor-card", month_end.replace(day=1))
    yield from _move("card-payment", "harbor-checking", "harbor-card", month_end.replace(day=21), -statement, "Card payment")
    for key, rate in _INTEREST_RATES.items():
        yield _Entry(key, month_end, "interest", _cents(_balance(entries, key, month_end) * rate / 12), "Interest", "Interest")
    change = _cents(_balance(entries, "summit-brokerage", month_end) * market_return / 10_000)
    yield _Entry("summit-brokerage", month_end, "market-value", change, "Market value", "Change in market value")


def _move(slug: str, source: str, destination: str, day: date, amount: Decimal, category: str) -> tuple[_Entry, _Entry]:
    """Both sides of a movement between two accounts of one user."""
    return _Entry(source, day, slug, -amount, category, category), _Entry(destination, day, slug, amount, category, category)


def _withheld(gross: Decimal, income_tax: Decimal) -> dict[str, Decimal]:
    """What is kept from one payday's gross pay."""
    return {
        "federal_income_tax": income_tax,
        "social_security_tax": _cents(gross * Decimal("0.062")),
        "medicare_tax": _cents(gross * Decimal("0.0145")),
    }


def _balance(entries: list[_Entry], account: str, day: date) -> Decimal:
    """What the account holds at the end of ``day``."""
    return sum((entry.amount for entry in entries if entry.account == account and entry.day <= day and not entry.pending), _ZERO)


def _cents(amount: Decimal) -> Decimal:
    return amount.quantize(_ZERO, ROUND_HALF_EVEN)


def _noon(day: date) -> datetime:
    return datetime.combine(day, time(12), UTC)


def _id(model: type[Base], *natural_key: str) -> str:
    return str(uuid5(_NAMESPACE, "/".join((model.__tablename__, *natural_key))))


def _owned(model: type[Base], user: str, natural_key: str, day: date, **values: Any) -> Row:
    """A row of a user, made at noon of ``day``."""
    return {"id": _id(model, user, natural_key), "user_id": _id(User, user), "created_at": _noon(day), **values}


def _connection(key: str, user: str, institution: str) -> Row:
    token = f"access-sandbox-{_id(BankConnection, user, key, 'token')}"
    return _owned(BankConnection, user, key, START, access_token=token, item_id=f"item-{key}", institution_name=institution)


def _account(key: str, account: _Account, entries: list[_Entry]) -> Row:
    return {
        "id": _id(Account, account.user, key),
        "user_id": _id(User, account.user),
        "connection_id": _id(BankConnection, account.user, account.connection),
        "account_id": key,
        "name": account.name,
        "type": account.type,
        "subtype": account.subtype,
        "balance": _balance(entries, key, END),
        "currency": "USD",
        "updated_at": _noon(END),
    }


def _transaction(entry: _Entry) -> Row:
    user = _ACCOUNTS[entry.account].user
    return _owned(
        Transaction,
        user,
        f"{entry.account}/{entry.transaction_id}",
        entry.day,
        account_id=_id(Account, user, entry.account),
        transaction_id=entry.transaction_id,
        amount=entry.amount,
        date=entry.day,
        name=entry.name,
        merchant_name=entry.merchant,
        category=entry.category,
        pending=entry.pending,
    )


def _budget(user: str, name: str, kind: str, end: date | None, categories: Mapping[str, int | str]) -> Row:
    return _owned(Budget, user, name, START, name=name, type=kind, start_date=START, end_date=end, categories=dict(categories))


def _goal(name: str, account: str, target: Decimal, target_date: date, priority: str, entries: list[_Entry]) -> Row:
    amounts = {"target_amount": target, "current_amount": _balance(entries, account, END)}
    return _owned(Goal, _ACCOUNTS[account].user, name, START, name=name, target_date=target_date, priority=priority, **amounts)


def _snapshot(user: str, day: date, entries: list[_Entry]) -> Row:
    assets: dict[str, Decimal] = {}
    liabilities: dict[str, Decimal] = {}
    for key, account in _ACCOUNTS.items():
        if account.user == user:
            side, sign = (liabilities, -1) if account.type in _OWED else (assets, 1)
            side[account.type] = side.get(account.type, _ZERO) + sign * _balance(entries, key, day)
    total_assets, total_liabilities = sum(assets.values(), _ZERO), sum(liabilities.values(), _ZERO)
    return _owned(
        NetWorthSnapshot,
        user,
        day.isoformat(),
        day,
        snapshot_date=day,
        total_assets=total_assets,
        total_liabilities=total_liabilities,
        net_worth=total_assets - total_liabilities,
        assets_breakdown={kind: str(amount) for kind, amount in assets.items()},
        liabilities_breakdown={kind: str(amount) for kind, amount in liabilities.items()},
    )


def _documents(entries: list[_Entry]) -> Iterator[Row]:
    """The tax forms of the year, which come in January; a receipt; and a scan that nothing was read from yet."""
    forms = date(YEAR + 1, 1, 20)
    for key, (employer, gross, income_tax) in _PAY.items():
        boxes = {"wages": gross, **_withheld(gross, income_tax)}
        year = {box: str(amount * len(_paydays())) for box, amount in boxes.items()}
        yield _document(_ACCOUNTS[key].user, "w2", f"w2-{YEAR}.pdf", forms, {"tax_year": YEAR, "employer": employer, **year})
    for key in ("harbor-savings", "prairie-savings"):
        user, payer = _CONNECTIONS[_ACCOUNTS[key].connection]
        interest = sum(entry.amount for entry in entries if entry.account == key and entry.category == "Interest")
        yield _document(user, "1099", f"1099-int-{YEAR}.pdf", forms, {"tax_year": YEAR, "payer": payer, "interest_income": str(interest)})
    laptop = next(entry for entry in entries if entry.slug == "laptop")
    receipt = {"merchant": laptop.merchant, "date": laptop.day.isoformat(), "total": str(-laptop.amount)}
    yield _document("maya", "receipt", "laptop-receipt.jpg", laptop.day, receipt)
    yield _document("maya", "lease", "alder-court-lease.pdf", START, None)


def _document(user: str, kind: str, filename: str, day: date, data: dict[str, Any] | None) -> Row:
    path = f"documents/{user}/{filename}"
    return _owned(Document, user, path, day, filename=filename, document_type=kind, file_path=path, extracted_data=data)
