"""Inserts into SQLite, through its driver's ``executemany``.

A statement of many rows would be no quicker: so that it can fail in the middle, SQLite copies each page that it changes. And
nothing is prepared meanwhile: the driver asks for Python's lock after each row, and would wait for it every time.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from fininfra_db.dialects.bulk import Sender, as_sqlalchemy
from fininfra_db.dialects.bulk_plan import Plan, Values


class ManySender(Sender):
    size = 20_000
    overlaps = False

    def __init__(self, connection: Connection, plan: Plan) -> None:
        quote = connection.dialect.identifier_preparer
        names = ", ".join(quote.quote(field.column.name) for field in plan.fields)
        self._connection, self.plan = connection, plan
        self._insert = f"INSERT INTO {quote.format_table(plan.table)} ({names}) VALUES ({', '.join('?' * len(plan.fields))})"

    def prepare(self, values: Values) -> list[Any]:
        return list(zip(*values, strict=True))

    async def send(self, items: Sequence[Any]) -> None:
        driver: Any = self._connection.connection.driver_connection
        try:
            await driver.executemany(self._insert, items)
        except sqlite3.Error as error:
            raise as_sqlalchemy(self._connection, self._insert, error) from error
