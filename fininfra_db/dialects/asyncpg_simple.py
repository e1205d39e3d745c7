"""PostgreSQL's simple protocol for statements without parameters: one round trip, where a prepared statement takes two.

A migration runs each of its statements once, so nothing is gained by preparing them. SQLAlchemy's dialect prepares every
one, and has no public way around it: this reaches into its cursor, and does as ``_prepare_and_execute`` there does.
"""

import re
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.util import await_only

_SIMPLE: Final = re.compile(r"\s*(CREATE|ALTER|DROP|UPDATE|DELETE)\b(?!.*\bRETURNING\b)", re.IGNORECASE | re.DOTALL)
_COUNT: Final = re.compile(r"(?:UPDATE|DELETE) (\d+)")


def execute_simply(engine: Engine) -> None:
    """Let an engine on asyncpg run statements that have no parameters and return no rows without preparing them."""
    prepared = engine.dialect.do_execute

    def do_execute(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        if parameters or not _SIMPLE.match(statement):
            prepared(cursor, statement, parameters, context)
        else:
            await_only(_execute(cursor, statement))

    engine.dialect.do_execute = do_execute  # type: ignore[method-assign]


async def _execute(cursor: Any, statement: str) -> None:
    connection = cursor._adapt_connection
    async with connection._execute_mutex:
        if connection._transaction is None:
            await connection._start_transaction()
        try:
            status = await connection._connection.execute(statement)
        except Exception as error:  # whatever it is, SQLAlchemy translates it
            cursor._handle_exception(error)
        count = _COUNT.fullmatch(status)
        cursor._description, cursor._rowcount = None, int(count[1]) if count else -1
