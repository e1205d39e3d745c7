"""What drivers say, fit to be shown: their first line, without the values of rows.

The lines after the first (``DETAIL: Key (email)=(...)``) hold values on PostgreSQL. The first line does so for wrong data on
PostgreSQL (SQLSTATE class 22), and on MySQL and SQL Server for a key that is there already: these are masked, and the
names of tables, columns and keys stay. What a trigger or function raises in words of its own is left as it is.
"""

import re
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fininfra_db.redaction import MASK

_DATA_EXCEPTION: Final = "22"
_QUERY_ARGUMENT: Final = re.compile(r"(?P<before>query argument \$\d+: ).* \((?P<reason>.*)\)$")
_POSTGRESQL_VALUE: Final = re.compile(r"""["'«»„“「].*["'«»“”」](?= is out of range)|["'«»„“「].*""")

_MYSQL_SHOWS_VALUES: Final = frozenset({1062, 1292, 1366, 1367, 1411, 1525, 1586, 1690, 3140, 3141, 4037, 4038})
"""Error numbers of MySQL and MariaDB whose message quotes a value: a duplicate key, and texts that are no number, date or JSON."""
_MYSQL_VALUE: Final = re.compile(r"""\\?['"].*\\?['"](?P<after> for (?:key|column) .*| at row \d+.*)|\\?['"].*""")

_MSSQL_VALUES: Final = re.compile(r"(?<=duplicate key value is )\(.*?\)(?=\.)|(?<= value )'.*?'(?= to )|(?<=Truncated value: )'.*'")


def first_line(error: BaseException) -> str:
    """What the driver says, without the lines after the first and without the values of rows."""
    cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(error, SQLAlchemyError) and not isinstance(error, DBAPIError):
        cause = error
    text = str(cause) or type(cause).__name__
    if text.startswith("<class "):
        text = text.partition(">: ")[2] or text
    line = text.splitlines()[0].strip()
    return _without_values(line, cause) if isinstance(error, DBAPIError) else line


def in_words(error: BaseException) -> str:
    """An error of any kind in one line: its class, and the first line of what it says."""
    return f"{type(error).__name__}: {first_line(error)}"


def _without_values(line: str, cause: BaseException | None) -> str:
    sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if isinstance(sqlstate, str) and sqlstate.startswith(_DATA_EXCEPTION):
        argument = _QUERY_ARGUMENT.search(line)
        if argument:
            reason = re.sub(r"'.*'", MASK, argument["reason"])
            return f"{line[: argument.end('before')]}{MASK} ({reason})"
        return _POSTGRESQL_VALUE.sub(MASK, line)
    number = next(iter(getattr(cause, "args", ())), None)
    if number in _MYSQL_SHOWS_VALUES:
        opening, comma, message = line.partition(", ")  # the driver shows a pair: the number, and the message in quotes
        return f"{opening}{comma}{message[:1]}{_MYSQL_VALUE.sub(_masked, message[1:-2])}{message[-2:]}"
    return _MSSQL_VALUES.sub(MASK, line)


def _masked(match: re.Match[str]) -> str:
    return MASK + (match["after"] or "")


def sqlstate(error: BaseException) -> str | None:
    """The five letters and digits by which SQL tells errors apart; None for an error that has none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)


def error_number(error: BaseException) -> int | None:
    """The number by which MySQL and MariaDB tell errors apart; None for an error that has none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return next(iter(getattr(cause, "args", ())), None)
