"""COPY, PostgreSQL's way of loading rows, through asyncpg: in binary, with the codecs that an ordinary insert uses."""

from collections.abc import Sequence
from typing import Any, NoReturn

from sqlalchemy import Connection
from sqlalchemy.util import greenlet_spawn

from fininfra_db.dialects.bulk import Plan, Sender, Values, as_sqlalchemy


class CopySender(Sender):
    """Large chunks: nothing reaches the server before the driver has encoded half a megabyte, and meanwhile it has nothing to do."""

    size = 10_000

    def __init__(self, connection: Connection, plan: Plan) -> None:
        self._connection, self._table, self.plan = connection, plan.table, plan
        self._names = [field.column.name for field in plan.fields]

    def prepare(self, values: Values) -> list[Any]:
        return list(zip(*values, strict=True))

    async def send(self, items: Sequence[Any]) -> None:
        from asyncpg import InternalClientError, PostgresError

        driver: Any = self._connection.connection.driver_connection
        try:
            await driver.copy_records_to_table(
                self._table.name, schema_name=self._table.schema, columns=self._names, records=items, timeout=None
            )
        except InternalClientError:  # a type of an extension, for which the driver knows text only
            await self._insert(items)
        except PostgresError as error:
            self._raise(error)
        except Exception:  # what the driver cannot encode; of one row alone, an insert says which value it is
            if len(items) > 1:
                raise
            await self._insert(items)

    async def _insert(self, items: Sequence[Any]) -> None:
        quote = self._connection.dialect.identifier_preparer
        names = ", ".join(map(quote.quote, self._names))
        places = ", ".join(f"${number}" for number in range(1, len(self._names) + 1))
        statement = f"INSERT INTO {quote.format_table(self._table)} ({names}) VALUES ({places})"
        await greenlet_spawn(self._connection.exec_driver_sql, statement, items[0] if len(items) == 1 else list(items))

    def _raise(self, error: BaseException) -> NoReturn:
        """As SQLAlchemy would, had it sent the COPY."""
        raise as_sqlalchemy(self._connection, f"COPY {self._table.name}", error) from error
