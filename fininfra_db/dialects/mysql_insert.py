"""Inserts of many rows in one statement, for MySQL and MariaDB.

``LOAD DATA LOCAL`` would be a little quicker, but many servers are set to refuse it, and a driver that allows it lets a server
read the files of the client (MySQL's "Security Considerations for LOAD DATA LOCAL").
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection

from fininfra_db.dialects.bulk import Plan, Sender, Values, as_sqlalchemy

_OVERHEAD: Final = 64
"""Bytes of a packet that are not the statement, and some more."""


class InsertSender(Sender):
    size = 1000

    def __init__(self, connection: Connection, plan: Plan) -> None:
        quote = connection.dialect.identifier_preparer
        names = ", ".join(quote.quote(field.column.name) for field in plan.fields)
        self._connection, self._table = connection, plan.table
        self._insert = f"INSERT INTO {quote.format_table(plan.table)} ({names}) VALUES "
        self._largest = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar() or 0) - len(self._insert) - _OVERHEAD
        self._driver: Any = connection.connection.driver_connection

    def prepare(self, values: Values) -> list[Any]:
        """Literals, as the driver writes them."""
        literals = [list(map(self._driver.escape, column)) for column in values]
        return [f"({row})".encode() for row in map(",".join, zip(*literals, strict=True))]

    async def send(self, items: Sequence[Any]) -> None:
        statement: list[bytes] = []
        length = 0
        for item in items:
            if statement and length + len(item) >= self._largest:
                await self._send(statement)
                statement, length = [], 0
            statement.append(item)
            length += len(item) + 1
        await self._send(statement)

    async def _send(self, items: list[bytes]) -> None:
        try:
            await self._driver.query(self._insert.encode() + b",".join(items))
        except self._connection.dialect.loaded_dbapi.Error as error:
            raise as_sqlalchemy(self._connection, self._insert, error) from error
