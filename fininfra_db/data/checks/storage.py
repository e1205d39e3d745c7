"""Rules about what SQLite stores, which keeps whatever it is given. The other databases see to it themselves."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from sqlalchemy import ColumnElement, Select
from sqlalchemy.types import TypeEngine

from fininfra_db.data.checks.rule import Books, Rule, at_fault

_Judge = Callable[[ColumnElement[Any], TypeEngine[Any]], ColumnElement[bool] | None]


def _every_column(books: Books, judge: _Judge) -> Iterator[Select[Any]]:
    """One pass over each table, for all of its columns."""
    for table in books.tables:
        judged = [(column.name, judge(column, books.type_of(column))) for column in table.columns]
        faults = [(name, condition) for name, condition in judged if condition is not None]
        if faults:
            yield at_fault(table, faults)


def _too_long(books: Books) -> Iterator[Select[Any]]:
    return _every_column(books, books.dialect.too_long)


def _malformed(books: Books) -> Iterator[Select[Any]]:
    return _every_column(books, books.dialect.malformed)


LENGTHS: Final = Rule("lengths", "Values are too long for their column on other databases.", _too_long)
STORAGE: Final = Rule(
    "storage", "Values are not of the type of their column, or dates and instants not in the form that compares.", _malformed
)
