"""Inserts of many rows in one statement, for MySQL and MariaDB.

``LOAD DATA LOCAL`` would be a little quicker, but many servers are set to refuse it, and a driver that allows it lets a server
read the files of the client (MySQL's "Security Considerations for LOAD DATA LOCAL").
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Connection

from fininfra_db.dialects.bulk import Sender, as_sqlalchemy
from fininfra_db.dialects.bulk_plan import Plan, Values

_TOGETHER: Final = 2_500
"""Rows in a statement."""
_OVERHEAD: Final = 64
"""Bytes of a packet that are not the statement, and some more."""


def _quoted(value: str) -> str:
    return f"'{value}'"


_WRITERS: Final[Mapping[type, Callable[[Any], str]]] = {
    str: _quoted,
    int: str,
    bool: lambda value: "1" if value else "0",
    Decimal: lambda value: format(value, "f"),
    date: lambda value: f"'{value}'",
    datetime: lambda value: f"'{value.replace(tzinfo=None) if value.tzinfo else value}'",
}
"""Literals as the driver writes them, of each kind that needs no escaping."""
_PLAIN: Final = re.compile(r"[^'\\\"\x00\x1a\r\n]*").fullmatch


class InsertSender(Sender):
    size = 10_000

    def __init__(self, connection: Connection, plan: Plan) -> None:
        quote = connection.dialect.identifier_preparer
        names = ", ".join(quote.quote(field.column.name) for field in plan.fields)
        self._connection, self._table, self.plan = connection, plan.table, plan
        self._driver: Any = connection.connection.driver_connection
        self._encoding: str = getattr(self._driver, "encoding", "utf8")
        self._insert = f"INSERT INTO {quote.format_table(plan.table)} ({names}) VALUES "
        self._largest = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar() or 0) - len(self._insert) - _OVERHEAD

    def prepare(self, values: Values) -> list[Any]:
        """Literals, as the driver writes them: it keeps bytes that are no text as lone surrogates."""
        literals = [self._literals(column) for column in values]
        return [f"({row})".encode(self._encoding, "surrogateescape") for row in map(",".join, zip(*literals, strict=True))]

    def _literals(self, values: list[Any]) -> list[str]:
        """The driver's own escaping looks at each value; where all are of one kind, that is told once."""
        kinds = set(map(type, values)) - {type(None)}
        write = _WRITERS.get(kinds.pop()) if len(kinds) == 1 else None
        if write is _quoted and not _PLAIN("".join(filter(None, values))):
            write = self._escaped
        if write is None:
            return list(map(self._driver.escape, values))
        return ["NULL" if value is None else write(value) for value in values]

    def _escaped(self, value: str) -> str:
        return f"'{self._driver.escape_string(value)}'"

    async def send(self, items: Sequence[Any]) -> None:
        """In statements that fit into a packet, and not much longer than the server likes best."""
        together: list[bytes] = []
        length = 0
        for item in items:
            if together and (len(together) == _TOGETHER or length + len(item) >= self._largest):
                await self._send(together)
                together, length = [], 0
            together.append(item)
            length += len(item) + 1
        await self._send(together)

    async def _send(self, items: list[bytes]) -> None:
        try:
            await self._driver.query(self._insert.encode(self._encoding) + b",".join(items))
        except self._connection.dialect.loaded_dbapi.Error as error:
            raise as_sqlalchemy(self._connection, self._insert, error) from error
