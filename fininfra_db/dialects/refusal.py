"""The row that was refused, in words: its index, its column where it is known, and never its value."""

import re
from typing import Final

from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.schema import PrimaryKeyConstraint

from fininfra_db.dialects.wording import first_line
from fininfra_db.errors import FininfraDbError, RowRefused

_COLUMN: Final = re.compile(r"""[Cc]olumn ["'`]?(?P<named>\w+)|constraint failed: \w+\.(?P<failed>\w+)$|[Ff]ield '(?P<field>\w+)'""")
"""Where drivers name the one column that an error is about."""


def refused_by_type(table: Table, index: int, column: str, error: Exception) -> RowRefused:
    """For a value that the type of its column does not take. Only the types of this package are known to keep it to themselves."""
    reason = error.message if isinstance(error, FininfraDbError) else f"The type of the column does not take it ({type(error).__name__})."
    return RowRefused(table.name, index, column, reason)


def refused_by_database(table: Table, index: int, error: Exception) -> RowRefused:
    """For what the database, or its driver, says of one row."""
    if isinstance(error, RowRefused):
        return RowRefused(table.name, index, error.column, error.reason)
    cause = error.orig if isinstance(error, StatementError) else error
    if isinstance(cause, FininfraDbError):
        return RowRefused(table.name, index, None, cause.message)
    if not isinstance(error, DBAPIError):
        return RowRefused(table.name, index, None, f"The driver does not take one of its values ({type(cause).__name__}).")
    line = first_line(error)
    return RowRefused(table.name, index, _column(table, line, getattr(cause, "__cause__", None)), f"{line.rstrip('.')}.")


def _column(table: Table, line: str, cause: BaseException | None) -> str | None:
    """The column that a message is about: named in it, or in what PostgreSQL says beside it, or the only one of a constraint."""
    for text in (line, getattr(cause, "context", None)):  # PostgreSQL tells of a COPY where in it the trouble was
        found = _COLUMN.search(text or "")
        if found is not None and (name := found["named"] or found["failed"] or found["field"]) in table.columns:
            return name
    for constraint in table.constraints:
        name = "PRIMARY" if isinstance(constraint, PrimaryKeyConstraint) and "PRIMARY" in line else constraint.name
        if isinstance(name, str) and re.search(rf"\b{re.escape(name)}\b", line):
            columns = list(getattr(constraint, "columns", ()))
            return columns[0].name if len(columns) == 1 else None
    return None
