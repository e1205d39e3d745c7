"""The history of one person of the demo: every movement on every account, and what the accounts hold at each month's end.

Pure: chance comes in, and nothing else. Amounts are whole minor units of the person's one currency, positive when money comes in.

- Salary comes on the last working day of the month, rent goes on the first. What falls on a day that a month does not have
  is on its last: the phone is paid on the 31st, the 30th, the 28th, and on the 29th of a leap year's February.
- The two sides of a movement between two accounts share day, category and ``slug``, and add up to zero.
- A card's purchases of the last two days are pending: no balance counts them.
- A dinner is seen twice, as providers show it: on the evening, pending, without the tip; and two days later as it is posted. The
  pending row stays, as with a provider whose removals nobody has processed; its ``slug`` is that of the other with ``-pending``.
- Every third purchase in a shop is sent back, and the money returns six days later.
"""

from calendar import FRIDAY, monthrange
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random
from typing import Final

from fininfra_db.data.profiles import words
from fininfra_db.data.profiles.currencies import Currency

CHECKING: Final = "checking"
SAVINGS: Final = "savings"
CARD: Final = "credit"
LOAN: Final = "loan"
KINDS: Final = (CHECKING, SAVINGS, CARD, LOAN)
"""The accounts of a person, which are called by their type."""

OPENING: Final = "Opening balance"
_UNSETTLED: Final = 2
"""Days until a purchase with a card is posted."""
_RETURNED_AFTER: Final = 6
_STATEMENT_PAID_ON: Final = 21
_LOAN_PAID_ON: Final = 12

# Account, slug, day of the month, thousandths of the pay, how far they vary in percent, category, who is paid.
_MONTHLY: Final = (
    (CHECKING, "rent", 1, 280, 0, "Housing", words.LANDLORDS),
    (CHECKING, "power", 8, 20, 35, "Utilities", words.POWER),
    (CHECKING, "internet", 17, 13, 0, "Utilities", words.INTERNET),
    (CHECKING, "phone", 31, 11, 0, "Utilities", words.PHONES),
    (CARD, "gym", 5, 9, 0, "Health", words.GYMS),
    (CARD, "music", 14, 3, 0, "Subscriptions", words.MUSIC),
    (CARD, "streaming", 29, 4, 0, "Subscriptions", words.STREAMING),
)
# Account, slug, every so many days, thousandths of the pay, how far they vary in percent, category, who is paid.
_OFTEN: Final = (
    (CARD, "groceries", 4, 15, 40, "Food", words.GROCERS),
    (CARD, "coffee", 5, 2, 30, "Food", words.CAFES),
    (CARD, "travel", 11, 10, 25, "Transport", words.FUEL),
)
_DINNERS: Final = (17, 14)
_PURCHASES: Final = (23, 30)
"""Days between two, and thousandths of the pay."""


@dataclass(frozen=True, slots=True)
class Movement:
    """One row of the ledger. ``slug`` tells it from the others of its day and account."""

    account: str
    day: date
    slug: str
    amount: int
    category: str
    name: str
    merchant: str | None = None
    pending: bool = False


@dataclass
class Ledger:
    """What one person does with money. ``pay`` is a month's, in US cents before it is turned into ``currency``."""

    currency: Currency
    pay: int
    employer: str
    start: date
    end: date
    chance: Random
    movements: list[Movement] = field(default_factory=list)
    closings: dict[date, dict[str, int]] = field(default_factory=dict)
    """What each account holds at the end of each month, and of the last day."""
    balances: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the history. What follows from balances is made month by month."""
        by_month: dict[tuple[int, int], list[Movement]] = defaultdict(list)
        for movement in (*self._openings(), *self._monthly(), *self._often(), *self._dinners(), *self._purchases()):
            if movement.day <= self.end:
                by_month[movement.day.year, movement.day.month].append(movement)
        self.balances = dict.fromkeys(KINDS, 0)
        for last in self._month_ends():
            self._close(last, sorted(by_month[last.year, last.month], key=lambda movement: movement.day))
        self.closings.setdefault(self.end, dict(self.balances))

    def _close(self, last: date, movements: list[Movement]) -> None:
        statement = self.balances[CARD] + _posted(movements, CARD, last.replace(day=1))
        if statement < 0:
            movements += self._move("card-payment", CHECKING, CARD, last.replace(day=_STATEMENT_PAID_ON), -statement, "Card payment")
        owed = -self.balances[LOAN] - _posted(movements, LOAN, last.replace(day=_LOAN_PAID_ON))
        payment = min(self._share(80), owed)
        if payment > 0:
            movements += self._move("loan-payment", CHECKING, LOAN, last.replace(day=_LOAN_PAID_ON), payment, "Loan payment")
        for account, rate in ((SAVINGS, 0.03125), (LOAN, 0.0625)):
            interest = round((self.balances[account] + _posted(movements, account, last)) * rate / 12)
            if interest and last <= self.end:
                movements.append(Movement(account, last, "interest", interest, "Interest", "Interest"))
        for movement in movements:
            if not movement.pending:
                self.balances[movement.account] += movement.amount
        if last <= self.end:
            self.closings[last] = dict(self.balances)
        self.movements += sorted(movements, key=lambda movement: movement.day)

    def _openings(self) -> Iterator[Movement]:
        opening = {CHECKING: 1500, SAVINGS: 2000 + self._upto(4000), CARD: -100 - self._upto(150), LOAN: -3000 - self._upto(9000)}
        for account, thousandths in opening.items():
            yield Movement(account, self.start, "opening", self._share(thousandths), OPENING, OPENING)

    def _monthly(self) -> Iterator[Movement]:
        for account, slug, day_of_month, thousandths, spread, category, payees in _MONTHLY:
            payee, price = self._one_of(payees), self._share(thousandths)
            for last in self._month_ends():
                day = last.replace(day=min(day_of_month, last.day))
                yield self._purchase(account, day, slug, self._varied(price, spread), category, payee)
        for last in self._month_ends():
            yield Movement(CHECKING, _working_day(last), "salary", self._share(1000), "Income", "Payroll deposit", self.employer)
            yield from self._move("save", CHECKING, SAVINGS, last.replace(day=3), self._share(90), "Transfer")

    def _often(self) -> Iterator[Movement]:
        for account, slug, days, thousandths, spread, category, payees in _OFTEN:
            for day in self._every(days):
                yield self._purchase(account, day, slug, self._varied(self._share(thousandths), spread), category, self._one_of(payees))

    def _dinners(self) -> Iterator[Movement]:
        days, thousandths = _DINNERS
        for day in self._every(days):
            price, place = self._varied(self._share(thousandths), 30), self._one_of(words.RESTAURANTS)
            slug, posted = f"dinner-{day:%m%d}", day + timedelta(_UNSETTLED)
            yield Movement(CARD, day, f"{slug}-pending", -price, "Food", place.upper(), place, pending=True)
            yield Movement(CARD, posted, slug, -price - price * 15 // 100, "Food", place.upper(), place)

    def _purchases(self) -> Iterator[Movement]:
        days, thousandths = _PURCHASES
        for count, day in enumerate(self._every(days)):
            price, shop = self._varied(self._share(thousandths), 60), self._one_of(words.SHOPS)
            yield self._purchase(CARD, day, "shopping", price, "Shopping", shop)
            if count % 3 == 1:
                yield self._purchase(CARD, day + timedelta(_RETURNED_AFTER), "refund", -price, "Shopping", shop)

    def _purchase(self, account: str, day: date, slug: str, price: int, category: str, payee: str) -> Movement:
        pending = account == CARD and day > self.end - timedelta(_UNSETTLED)
        return Movement(account, day, slug, -price, category, payee.upper(), payee, pending)

    def _move(self, slug: str, source: str, target: str, day: date, amount: int, category: str) -> Sequence[Movement]:
        """Both sides of a movement between two accounts; none after the last day."""
        sides = ((source, -amount), (target, amount)) if day <= self.end else ()
        return [Movement(account, day, slug, side, category, category) for account, side in sides]

    def _month_ends(self) -> Iterator[date]:
        day = self.start
        while day <= self.end:
            last = day.replace(day=monthrange(day.year, day.month)[1])
            yield last
            day = last + timedelta(1)

    def _every(self, days: int) -> Iterator[date]:
        first = self.start + timedelta(self._upto(days))
        return (first + timedelta(count) for count in range(0, (self.end - first).days + 1, days))

    def _share(self, thousandths: int) -> int:
        """A part of the monthly pay."""
        return self.currency.minor(self.pay * thousandths / 1000)

    def _varied(self, price: int, percent: int) -> int:
        return max(1, price * (100 - percent + self._upto(2 * percent + 1)) // 100) if percent else price

    def _upto(self, limit: int) -> int:
        """A whole number from 0 to below ``limit``."""
        return int(self.chance.random() * limit)

    def _one_of(self, choices: Sequence[str]) -> str:
        return choices[self._upto(len(choices))]


def _posted(movements: list[Movement], account: str, day: date) -> int:
    """What is posted on an account until the end of ``day``, among these movements."""
    return sum(each.amount for each in movements if each.account == account and each.day <= day and not each.pending)


def _working_day(last: date) -> date:
    return last - timedelta(max(0, last.weekday() - FRIDAY))
