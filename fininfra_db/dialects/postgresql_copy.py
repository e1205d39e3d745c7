"""COPY, PostgreSQL's way of loading rows, through asyncpg: in binary, with the codecs that an ordinary insert uses."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import await_only, greenlet_spawn

from fininfra_db.dialects.bulk import Sender, as_sqlalchemy
from fininfra_db.dialects.bulk_plan import Plan, Values
from fininfra_db.dialects.wording import sqlstate

_NOT_SUPPORTED: Final = "0A000"


class CopySender(Sender):
    """Large chunks: nothing reaches the server before the driver has encoded half a megabyte, and meanwhile it has nothing to do."""

    size = 10_000

    def __init__(self, connection: Connection, plan: Plan) -> None:
        self._connection, self._table, self.plan = connection, plan.table, plan
        self._names = [field.column.name for field in plan.fields]

    def prepare(self, values: Values) -> list[Any]:
        return list(zip(*values, strict=True))

    def can_send(self) -> bool:
        """Whether COPY will do.

        The driver has no binary codec for types of an extension, and the server copies nothing into a table with row-level security.
        """
        from asyncpg import InternalClientError

        try:
            with self._connection.begin_nested():
                await_only(self.send(()))
        except InternalClientError:
            return False
        except DBAPIError as error:
            if sqlstate(error) == _NOT_SUPPORTED:
                return False
            raise
        return True

    async def send(self, items: Sequence[Any]) -> None:
        from asyncpg import PostgresError

        driver: Any = self._connection.connection.driver_connection
        try:
            await driver.copy_records_to_table(self._table.name, schema_name=self._table.schema, columns=self._names, records=items)
        except PostgresError as error:
            raise as_sqlalchemy(self._connection, f"COPY {self._table.name}", error) from error

    async def send_alone(self, item: Any) -> None:
        """By an insert: of a value that the driver cannot encode it says which one that is."""
        quote = self._connection.dialect.identifier_preparer
        names = ", ".join(map(quote.quote, self._names))
        places = ", ".join(f"${number}" for number in range(1, len(self._names) + 1))
        statement = f"INSERT INTO {quote.format_table(self._table)} ({names}) VALUES ({places})"
        await greenlet_spawn(self._connection.exec_driver_sql, statement, item)
