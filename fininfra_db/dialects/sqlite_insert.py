"""Inserts of many rows in one statement, for SQLite.

Its driver lets go of Python's lock while a statement runs: with many rows in each, the next are prepared meanwhile.
"""

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.util import greenlet_spawn

from fininfra_db.dialects.bulk import Plan, Sender, Values

_PARAMETERS: Final = 32_766 if sqlite3.sqlite_version_info >= (3, 32) else 999
"""The most parameters of a statement (sqlite.org/limits.html)."""


class InsertSender(Sender):
    def __init__(self, connection: Connection, plan: Plan) -> None:
        quote = connection.dialect.identifier_preparer
        names = ", ".join(quote.quote(field.column.name) for field in plan.fields)
        self._connection = connection
        self._insert = f"INSERT INTO {quote.format_table(plan.table)} ({names}) VALUES "
        self._places = f"({', '.join('?' * len(plan.fields))})"
        self.size = _PARAMETERS // len(plan.fields)

    def prepare(self, values: Values) -> list[Any]:
        return list(zip(*values, strict=True))

    async def send(self, items: Sequence[Any]) -> None:
        statement = self._insert + ", ".join([self._places] * len(items))
        await greenlet_spawn(self._connection.exec_driver_sql, statement, tuple(chain.from_iterable(items)))
