"""What a rule is: a name, a sentence, and queries for the rows that break it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, FromClause, Inspector, Select, Table, case, literal, or_, select, true
from sqlalchemy.types import TypeDecorator, TypeEngine

from fininfra_db.dialects import Dialect
from fininfra_db.security import Keyring

PLACE: Final = "place"
"""What the column is called that says where in its row a fault is, as ``table.column``."""
VALUE: Final = "value"
"""What the column is called that holds what only Python can judge."""

Fault = tuple[str, ColumnElement[bool]]
"""A column, or several separated by commas, and the condition under which they are at fault."""

F = TypeVar("F", bound=FromClause)


@dataclass(frozen=True)
class Books:
    """What the rules look at: the tables of the models, in a database of this ``dialect``, sealed with these keys."""

    dialect: Dialect
    inspector: Inspector
    tables: Sequence[Table]
    keyring: Keyring

    def find(self, name: str, *columns: str) -> Table | None:
        """The table of this name if it has all of these columns: the models may be somebody else's."""
        return next((table for table in self.tables if table.name == name and {*columns} <= {*table.columns.keys()}), None)

    def type_of(self, column: ColumnElement[Any]) -> TypeEngine[Any]:
        """What a column is in this database, below the types of the project."""
        sqlalchemy_dialect = self.inspector.dialect
        kind = column.type.dialect_impl(sqlalchemy_dialect)
        return kind.type_engine(sqlalchemy_dialect) if isinstance(kind, TypeDecorator) else kind


@dataclass(frozen=True)
class Rule:
    """One thing that holds for all rows. ``sentence`` says what is wrong with those for which it does not.

    ``queries`` select them: ``PLACE`` first, then the primary key, see :func:`at_fault`. None is made where the models have no such
    column, or the database sees to it itself. With ``is_fault`` they select rows that the database cannot judge, and last
    the ``VALUE`` that is judged here, with the keys.
    """

    name: str
    sentence: str
    queries: Callable[[Books], Iterable[Select[Any]]]
    is_fault: Callable[[Keyring, Any], bool] | None = None


def ids_of(table: Table) -> list[ColumnElement[Any]]:
    """The primary key, under names that no other column of a query has."""
    return [column.label(f"id_{number}") for number, column in enumerate(table.primary_key.columns)]


def at_fault(table: Table, faults: Sequence[Fault], source: FromClause | None = None) -> Select[Any]:
    """The rows of ``table`` that have one of the faults; ``source`` is what its rows are joined with."""
    place = case(*((condition, literal(f"{table.fullname}.{column}")) for column, condition in faults))
    rows = select(place.label(PLACE), *ids_of(table)).select_from(table if source is None else source)
    return rows.where(or_(*(condition for _, condition in faults)))


def live(table: Table) -> ColumnElement[bool]:
    """Rows that are not soft-deleted: what is deleted is kept as it was, and no book is kept of it."""
    return table.c.deleted_at.is_(None) if "deleted_at" in table.c else true()
