"""Fewer round trips to PostgreSQL, in the simple protocol: for the transactions of a migration, which are many and short.

A migration runs each of its statements once, so nothing is gained by preparing them; and the simple protocol takes several
in one message. BEGIN goes out with the first statement of a transaction, and what nobody reads before the end with COMMIT.
SQLAlchemy's dialect prepares every statement, and has no public way around it: this reaches into its cursor, and does as
``_prepare_and_execute`` there does.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Engine, Table
from sqlalchemy.types import TypeEngine
from sqlalchemy.util import await_only

_BEGIN: Final = "BEGIN"
_SIMPLE: Final = re.compile(
    r"\s*(CREATE|ALTER|DROP|COMMENT|INSERT|UPDATE|DELETE)\b(?!.*\bRETURNING\b)(?!.*;\s*\S)", re.IGNORECASE | re.DOTALL
)
"""One statement without rows: several in one text are refused by the server when they are prepared, and must be, for one may be COMMIT."""
_COUNT: Final = re.compile(r"(?:UPDATE|DELETE|INSERT \d+) (\d+)")


def execute_simply(engine: Engine) -> None:
    """Let an engine on asyncpg run statements that have no parameters and return no rows without preparing them."""
    execute, executemany = engine.dialect.do_execute, engine.dialect.do_executemany

    def do_execute(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        if parameters or not _SIMPLE.match(statement):
            await_only(_begin(cursor))
            execute(cursor, statement, parameters, context)
        else:
            await_only(_execute(cursor, statement))

    def do_executemany(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        await_only(_begin(cursor))
        executemany(cursor, statement, parameters, context)

    engine.dialect.do_execute = do_execute  # type: ignore[method-assign]
    engine.dialect.do_executemany = do_executemany  # type: ignore[method-assign]


def insert_with_commit(connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> bool:
    """Insert rows at the latest with the COMMIT of the open transaction; whether it is one that can wait.

    Any other statement sends them first. They have to be literals, as the simple protocol has no parameters.
    """
    transaction = getattr(connection.connection.dbapi_connection, "_transaction", None)
    if not isinstance(transaction, _Transaction):
        return False
    insert, literals = _insert_into(table, connection.dialect)
    for row in rows:
        transaction.waiting.append(f"{insert} VALUES ({', '.join([literal(row[name]) for name, literal in literals])})")
    return True


@lru_cache(maxsize=1)
def _insert_into(table: Table, dialect: Dialect) -> tuple[str, list[tuple[str, Callable[[Any], str]]]]:
    """An INSERT of all columns without its values, and what makes a literal of the value of each."""
    quote = dialect.identifier_preparer
    names = ", ".join(quote.quote(column.name) for column in table.columns)
    literals = [(column.name, _literals_of(column.type, dialect)) for column in table.columns]
    return f"INSERT INTO {quote.format_table(table)} ({names})", literals


def _literals_of(kind: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], str]:
    process = kind.dialect_impl(dialect).literal_processor(dialect)
    assert process is not None, kind

    def literal(value: Any) -> str:
        if value is None:
            return "NULL"
        text = process(value)
        return text if "\\" not in text else "E" + text.replace("\\", "\\\\")  # read alike whatever standard_conforming_strings is

    return literal


class _Transaction:
    """Stands where SQLAlchemy keeps asyncpg's own transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.waiting = [_BEGIN]
        """Statements to be sent with the next one."""

    async def send(self, *statements: str) -> str:
        """Run the statements that wait, and these; what the server says of the last one."""
        waiting, self.waiting = self.waiting, []
        try:
            return str(await self._connection.execute(";\n".join([*waiting, *statements])))
        except Exception:  # whatever it is, it is raised again
            if not self._is_open:  # of a message that cannot be parsed nothing is run, not even BEGIN
                self.waiting = waiting
            raise

    @property
    def _is_open(self) -> bool:
        return not self._connection.is_closed() and bool(self._connection.is_in_transaction())

    async def commit(self) -> None:
        if self.waiting[:1] == [_BEGIN]:
            return
        try:
            await self.send("COMMIT")
        except Exception:  # whatever it is, it is raised again; a connection that was given up is not asked for anything
            await self.rollback()
            raise

    async def rollback(self) -> None:
        self.waiting.clear()
        if self._is_open:
            await self._connection.execute("ROLLBACK")


def _transaction_of(cursor: Any) -> _Transaction | None:
    """The transaction that a statement is in; a new one that waits for it. None in AUTOCOMMIT, and for one that is not plain."""
    adapter = cursor._adapt_connection
    if adapter._transaction is None and not (adapter.isolation_level or adapter.readonly or adapter.deferrable):
        adapter._transaction = _Transaction(adapter._connection)
    return adapter._transaction if isinstance(adapter._transaction, _Transaction) else None


async def _begin(cursor: Any) -> None:
    """Send what waits, before a statement that has to go by itself."""
    async with cursor._adapt_connection._execute_mutex:
        transaction = _transaction_of(cursor)
        try:
            if transaction is not None and transaction.waiting:
                await transaction.send()
        except Exception as error:  # whatever it is, SQLAlchemy translates it
            cursor._handle_exception(error)


async def _execute(cursor: Any, statement: str) -> None:
    adapter = cursor._adapt_connection
    async with adapter._execute_mutex:
        transaction = _transaction_of(cursor)
        if adapter._transaction is None:
            await adapter._start_transaction()
        try:
            status = await (transaction.send if transaction else adapter._connection.execute)(statement)
        except Exception as error:  # whatever it is, SQLAlchemy translates it
            cursor._handle_exception(error)
        count = _COUNT.fullmatch(status)
        cursor._description, cursor._rowcount = None, int(count[1]) if count else -1
