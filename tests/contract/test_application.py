"""How an application tests itself with the fixtures of the pytest plugin: on a seeded database of its own, of which nothing stays."""

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from fininfra_db import Database, Transaction, bulk_insert, bulk_upsert
from fininfra_db.errors import RowRefused

pytestmark = pytest.mark.fininfra(seed="household")
COUNT = select(func.count()).select_from(Transaction)
WRITTEN = 532


async def provided(session: AsyncSession) -> list[dict[str, Any]]:
    """What a provider tells of one account: a transaction as it was, one with another amount, and a new one."""
    query = select(Transaction).where(Transaction.category == "Food").order_by(Transaction.id).limit(2)
    same, other = (await session.scalars(query)).all()
    rows = [
        {
            "user_id": each.user_id,
            "account_id": each.account_id,
            "transaction_id": each.transaction_id,
            "amount": each.amount,
            "date": each.date,
            "name": each.name,
        }
        for each in (same, other)
    ]
    rows[1]["amount"] = other.amount - Decimal("0.01")
    return [*rows, rows[0] | {"transaction_id": "new"}]


async def test_syncing_again_finds_the_rows(fininfra_session: AsyncSession) -> None:
    rows = await provided(fininfra_session)
    done = await bulk_upsert(fininfra_session, Transaction, rows)
    assert (done.inserted, done.updated, done.unchanged) == (1, 1, 1)
    await fininfra_session.commit()
    assert await fininfra_session.scalar(COUNT) == WRITTEN + 1


async def test_nothing_stays_of_another_test(fininfra_session: AsyncSession) -> None:
    assert await fininfra_session.scalar(COUNT) == WRITTEN


async def test_a_refused_row_leaves_the_session_as_it_was(fininfra_session: AsyncSession) -> None:
    rows = await provided(fininfra_session)
    with pytest.raises(RowRefused, match="Row 0"):
        await bulk_insert(fininfra_session, Transaction, rows)
    assert await fininfra_session.scalar(COUNT) == WRITTEN


async def test_a_private_database_can_be_changed_as_a_whole(fininfra_database: Database) -> None:
    await fininfra_database.reset(use_cache=False)
    assert (await fininfra_database.check_data()).findings == ()
    assert (await fininfra_database.status()).seeds == ()
