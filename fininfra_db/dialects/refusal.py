"""The row that was refused, in words: its index, its column where it is known, and never its value."""

import re
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.schema import PrimaryKeyConstraint

from fininfra_db.dialects.wording import first_line
from fininfra_db.errors import FininfraDbError, RowRefused

_COLUMN: Final = re.compile(r"""[Cc]olumn (?:["'`]?\w+["'`]?\.)*["'`]?(?P<named>\w+)|constraint failed: \w+\.(?P<failed>\w+)$""")
"""Where drivers name the one column that an error is about."""
_ARGUMENT: Final = re.compile(r"query argument \$(?P<number>\d+)")


def refused_by_type(table: Table, index: int, column: str, error: Exception) -> RowRefused:
    """For a value that the type of its column does not take. Only the types of this package are known to keep it to themselves."""
    reason = error.message if isinstance(error, FininfraDbError) else f"The type of the column does not take it ({type(error).__name__})."
    return RowRefused(table.name, index, column, reason)


def refused_by_database(table: Table, index: int, error: Exception, names: Sequence[str]) -> RowRefused:
    """For what the database, or its driver, says of one row. ``names`` are the columns of the statement, in its order."""
    cause = error.orig if isinstance(error, StatementError) else error
    if isinstance(cause, RowRefused):
        return RowRefused(table.name, index, cause.column, cause.reason)
    if isinstance(cause, FininfraDbError):
        return RowRefused(table.name, index, None, cause.message)
    if not isinstance(error, DBAPIError):
        return RowRefused(table.name, index, None, f"The driver does not take one of its values ({type(cause).__name__}).")
    line = first_line(error)
    return RowRefused(table.name, index, _column(table, line, getattr(cause, "__cause__", None), names), f"{line.rstrip('.')}.")


def _column(table: Table, line: str, cause: BaseException | None, names: Sequence[str]) -> str | None:
    """The column that a message is about: named or numbered in it, or the only one of a constraint that is."""
    for text in (line, getattr(cause, "context", None)):  # PostgreSQL tells of a COPY where in it the trouble was
        found = _COLUMN.search(text or "")
        if found is not None and (name := found["named"] or found["failed"]) in table.columns:
            return name
    numbered = _ARGUMENT.search(line)
    if numbered and names:
        return names[int(numbered["number"]) - 1]
    for constraint in table.constraints:
        name = "PRIMARY" if isinstance(constraint, PrimaryKeyConstraint) and "PRIMARY" in line else constraint.name
        if isinstance(name, str) and re.search(rf"\b{re.escape(name)}\b", line):
            columns = list(getattr(constraint, "columns", ()))
            return columns[0].name if len(columns) == 1 else None
    return None
