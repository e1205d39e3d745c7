"""The profile ``load``: many users, each with the same number of accounts, each with the same number of plain transactions.

It is made to be written as quickly as a database takes rows. All rows of a user come at the instant of one first sync, the users
one after the other, so that the rows go into every index in its order or close to it. The transactions are taken from a small
table that chance has filled once; an account begins at a place of its own in it. Sums come from the table too: the balance of an account
is its opening balance and what follows, without adding up a row.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from fininfra_db.data.profiles import words
from fininfra_db.data.profiles.plan import Plan, Row, milliseconds, noon
from fininfra_db.data.request import SeedRequest
from fininfra_db.models import UNUSABLE_PASSWORD, Account, BankConnection, Base, Transaction, User

_PERIOD: Final = 251
"""The length of the table: a prime, so that accounts do not march in step."""
_OPENING: Final = Decimal("1000.00")
_KINDS: Final = (
    ("Food", words.GROCERS, -1),
    ("Food", words.CAFES, -1),
    ("Transport", words.FUEL, -1),
    ("Shopping", words.SHOPS, -1),
    ("Utilities", words.POWER, -1),
    ("Income", words.EMPLOYERS, 1),
)
_AT_ONE_INSTANT: Final = 20
"""Bits of the counter in an id."""


class Load(Plan):
    """The rows of the load."""

    name = "load"
    version = 1

    def __init__(self, request: SeedRequest) -> None:
        super().__init__(request)
        assert request.accounts is not None
        assert request.per_account is not None
        self._accounts, self._per_account = request.accounts, request.per_account
        self._days = [self.start + timedelta(count) for count in range((self.as_of - self.start).days + 1)]
        self._step = 1000 + (self.rows_of_user >> _AT_ONE_INSTANT)
        self._table = self._make_table()
        self._sums = [Decimal("0.00")]
        for _, _, _, amount in self._table * 2:
            self._sums.append(self._sums[-1] + amount)

    @property
    def rows_of_user(self) -> int:
        return 2 + self._accounts * (1 + self._per_account)

    def user_id(self, number: int) -> str:
        return self.ids.make(self._time_of(number), 0)

    def rows(self, numbers: Sequence[int]) -> Iterator[tuple[type[Base], Iterable[Row]]]:
        yield User, (self._user(number) for number in numbers)
        yield BankConnection, (self._connection(number) for number in numbers)
        yield Account, (self._account(number, count) for number in numbers for count in range(self._accounts))
        yield Transaction, self._transactions(numbers)

    def _make_table(self) -> list[tuple[str, str, str, Decimal]]:
        """Name, merchant, category and amount of what an account does in turn."""
        chance, table = self.ids.chance(0), []
        for _ in range(_PERIOD):
            category, merchants, sign = _KINDS[int(chance.random() * len(_KINDS))]
            merchant = merchants[int(chance.random() * len(merchants))]
            table.append((merchant.upper(), merchant, category, Decimal(f"{sign * (100 + int(chance.random() * 20_000))}e-2")))
        return table

    def _time_of(self, number: int) -> int:
        return milliseconds(noon(self.as_of)) + number * self._step

    def _instant_of(self, number: int) -> datetime:
        return noon(self.as_of) + timedelta(milliseconds=number * self._step)

    def _place(self, number: int, count: int) -> int:
        """Where in the table an account begins."""
        return (number * self._accounts + count) * 7 % _PERIOD

    def _user(self, number: int) -> Row:
        email = f"load+{self.ids.tag}-{number}@example.com"
        return {
            "id": self.user_id(number),
            "email": email,
            "hashed_password": UNUSABLE_PASSWORD,
            "created_at": self._instant_of(number),
        }

    def _connection(self, number: int) -> Row:
        return {
            "id": self.user_id(number),
            "user_id": self.user_id(number),
            "access_token": f"access-sandbox-{self.ids.tag}-{number}",
            "item_id": f"item-{number}",
            "institution_name": words.BANKS[number % len(words.BANKS)],
            "created_at": self._instant_of(number),
        }

    def _account(self, number: int, count: int) -> Row:
        return {
            "id": self.ids.make(self._time_of(number), count),
            "user_id": self.user_id(number),
            "connection_id": self.user_id(number),
            "account_id": f"account-{count}",
            "name": f"Account {count + 1}",
            "type": "checking",
            "subtype": "checking",
            "balance": self._balance(self._place(number, count)),
            "currency": "USD",
            "updated_at": self._instant_of(number),
        }

    def _balance(self, place: int) -> Decimal:
        rounds, rest = divmod(self._per_account - 1, _PERIOD)
        return _OPENING + rounds * self._sums[_PERIOD] + self._sums[place + rest] - self._sums[place]

    def _transactions(self, numbers: Sequence[int]) -> Iterator[Row]:
        for number in numbers:
            made = 0
            for count in range(self._accounts):
                yield from self._transactions_of(number, count, made)
                made += self._per_account

    def _transactions_of(self, number: int, count: int, made: int) -> Iterator[Row]:
        """The rows of one account; ``made`` are those of the user before them. This is where the time goes."""
        user_id, instant, time = self.user_id(number), self._instant_of(number), self._time_of(number)
        account_id = self.ids.make(time, count)
        place, table, days, size, mark = self._place(number, count), self._table, self._days, self._per_account, self.ids.mark
        span = len(days)
        begin = ("Opening balance", None, "Opening balance", _OPENING)
        for index in range(size):
            serial = made + index
            if not (serial & 0xFFFF) or not index:
                head = self.ids.before(time + (serial >> _AT_ONE_INSTANT)) + f"{serial >> 16 & 0xF:x}-"
            name, merchant, category, amount = table[(place + index - 1) % _PERIOD] if index else begin
            yield {
                "id": f"{head}{serial & 0xFFFF:04x}{mark}",
                "user_id": user_id,
                "account_id": account_id,
                "transaction_id": f"load-{index:09d}",
                "amount": amount,
                "date": days[index * span // size],
                "name": name,
                "merchant_name": merchant,
                "category": category,
                "pending": False,
                "created_at": instant,
            }
