"""The processes that ``benchmarks.seed`` starts: one database made, and loaded with bulk inserts or through the ORM.

    python -m benchmarks.seeding parents|bulk|orm URL ROWS [FILE]

``parents`` makes the tables and what transactions hang on, ``bulk`` loads generated transactions, ``orm`` adds those of FILE, a
CSV file as ``bulk`` has written them.
"""

import asyncio
import csv
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final

from fininfra_db import Account, BankConnection, Transaction, User, bulk_insert, get_async_session
from fininfra_db.database import Database
from fininfra_db.security import generate_key
from fininfra_db.settings import Settings, load_settings

PER_USER: Final = 1000
ACCOUNTS: Final = 4
_DAYS: Final = 700
_FIRST: Final = date(2023, 1, 1)
_MERCHANTS: Final = ("Corner Market", "Café Zürich", "Rent", "Salary", "Streaming", "O'Neill's", "Petrol", "Books & More", "Pharmacy")
_CATEGORIES: Final = ("groceries", "coffee", "rent", "income", "subscriptions", "pub", "fuel", "shopping", None)
_BATCH: Final = 1000


def transactions(count: int) -> Iterator[dict[str, Any]]:
    """Day after day, each user has a transaction in turn: the order in which history comes in, and that of the ids."""
    random = Random(0)
    users = max(1, count // PER_USER)
    for number in range(count):
        user, place = number % users, number // users
        day = _FIRST + timedelta(days=place * _DAYS // PER_USER)
        merchant = random.randrange(len(_MERCHANTS))
        yield {
            "id": f"{number:08x}-0000-7000-8000-{random.getrandbits(48):012x}",
            "user_id": user_id(user),
            "account_id": account_id(user, random.randrange(ACCOUNTS)),
            "transaction_id": f"txn_{random.getrandbits(80):020x}",
            "amount": Decimal(random.randrange(-50_000, 50_000)).scaleb(-2),
            "date": day,
            "name": f"{_MERCHANTS[merchant]} {number % 97}",
            "merchant_name": _MERCHANTS[merchant] if number % 3 else None,
            "category": _CATEGORIES[merchant],
            "pending": place > PER_USER - 5,
            "created_at": datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=number % 86_400),
        }


def user_id(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012x}"


def account_id(user: int, number: int) -> str:
    return f"00000000-0000-7000-9{number:03x}-{user:012x}"


async def make_parents(settings: Settings, count: int) -> None:
    """The tables, users, connections and accounts."""
    await Database(settings).setup_and_migrate()
    users = range(max(1, count // PER_USER))
    link = {"access_token": "token", "item_id": "item", "institution_name": "Bank"}
    account = {"account_id": "", "name": "Account", "type": "checking", "subtype": "checking", "balance": Decimal(0)}
    async with get_async_session(settings) as session:
        await bulk_insert(session, User, ({"id": user_id(user), "email": f"{user}@example.com"} for user in users))
        await bulk_insert(session, BankConnection, (link | {"id": user_id(user), "user_id": user_id(user)} for user in users))
        rows = (
            account | {"id": account_id(user, each), "user_id": user_id(user), "connection_id": user_id(user), "account_id": str(each)}
            for user in users
            for each in range(ACCOUNTS)
        )
        await bulk_insert(session, Account, rows)
        await session.commit()


async def load_in_bulk(settings: Settings, count: int) -> None:
    async with get_async_session(settings) as session:
        await bulk_insert(session, Transaction, transactions(count))
        await session.commit()


async def add_all(settings: Settings, path: str) -> None:
    """As somebody would who does not know of bulk inserts: a batch of objects at a time, one transaction."""
    async with get_async_session(settings) as session:
        with open(path, newline="", encoding="utf-8") as file:  # noqa: ASYNC230 - nothing else runs here
            batch = []
            for row in csv.DictReader(file):
                values: dict[str, Any] = {name: value or None for name, value in row.items()}
                values["amount"], values["date"] = Decimal(row["amount"]), date.fromisoformat(row["date"])
                values["pending"] = row["pending"] in ("1", "t")
                values["created_at"] = datetime.fromisoformat(row["created_at"]).replace(tzinfo=UTC)
                batch.append(Transaction(**values))
                if len(batch) == _BATCH:
                    await _flush(session, batch)
            await _flush(session, batch)
        await session.commit()


async def _flush(session: Any, batch: list[Transaction]) -> None:
    session.add_all(batch)
    await session.flush()
    session.expunge_all()
    batch.clear()


def main() -> None:
    """Do what the first argument says."""
    work, url, count, *file = sys.argv[1:]
    settings = load_settings(sql_url=url, environ={"FININFRA_DB_KEYS": generate_key()})
    if work == "parents":
        asyncio.run(make_parents(settings, int(count)))
    elif work == "bulk":
        asyncio.run(load_in_bulk(settings, int(count)))
    else:
        asyncio.run(add_all(settings, *file))


if __name__ == "__main__":
    main()
