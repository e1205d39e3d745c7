"""Rules about where rows hang: below a row that is there, and below one of the same user.

Foreign keys keep both, where they are on: SQLite files are written with keys off, and a dump is restored with triggers or
``foreign_key_checks`` off. So the rows are looked at, whatever keys the database has.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    ForeignKeyConstraint,
    FromClause,
    PrimaryKeyConstraint,
    Select,
    Table,
    UniqueConstraint,
    and_,
    func,
)

from fininfra_db.data.checks.rule import Books, Fault, Rule, at_fault

_OWNER: Final = "user_id"
"""The column that says whose a row is."""


@dataclass(frozen=True)
class _Link:
    """One foreign key, by the columns that say which row is meant.

    ``user_id`` is none of them where the others suffice: whose the row is has to agree, whether the key says so or not.
    """

    constraint: ForeignKeyConstraint
    child: Table

    @property
    def columns(self) -> str:
        return ", ".join(element.parent.name for element in self._elements)

    @property
    def has_owners(self) -> bool:
        """Whether both sides say whose they are, beside which row is meant."""
        both = _OWNER in self.child.c and _OWNER in self.constraint.referred_table.c
        return both and all(element.column.name != _OWNER for element in self._elements)

    @property
    def _elements(self) -> list[Any]:
        elements = list(self.constraint.elements)
        others = [each for each in elements if not (each.parent.name == each.column.name == _OWNER)]
        return others if _is_unique(self.constraint.referred_table, {each.column.name for each in others}) else elements

    def matches(self, parent: FromClause) -> ColumnElement[bool]:
        return and_(*(element.parent == parent.c[element.column.key] for element in self._elements))

    def is_broken(self, parent: FromClause) -> ColumnElement[bool]:
        """Whether a row points at something and the outer join found no ``parent``."""
        pointing = (element.parent.is_not(None) for element in self._elements)
        return and_(*pointing, parent.c[self._elements[0].column.key].is_(None))


def _links(table: Table) -> list[_Link]:
    return [_Link(key, table) for key in sorted(table.foreign_key_constraints, key=lambda key: tuple(key.column_keys))]


def _is_unique(table: Table, names: set[str]) -> bool:
    """Whether these columns tell rows of the table apart."""
    constraints = [each for each in table.constraints if isinstance(each, PrimaryKeyConstraint | UniqueConstraint)]
    keys = [each.columns for each in constraints] + [each.columns for each in table.indexes if each.unique]
    return any(len(key) and {column.name for column in key} <= names for key in keys)


def _orphans(books: Books) -> Iterator[Select[Any]]:
    """One pass over each table, however many keys it has."""
    for table in books.tables:
        source: FromClause = table
        faults: list[Fault] = []
        for link in _links(table):
            parent = link.constraint.referred_table.alias()
            source = source.outerjoin(parent, link.matches(parent))
            faults.append((link.columns, link.is_broken(parent)))
        if faults:
            yield at_fault(table, faults, source)


def _cross_users(books: Books) -> Iterator[Select[Any]]:
    """The same pass. An inner join would be begun at the parents, and jump to and fro in the children."""
    for table in books.tables:
        source: FromClause = table
        faults: list[Fault] = []
        for link in filter(lambda link: link.has_owners, _links(table)):
            owner, parent = table.c[_OWNER], link.constraint.referred_table.alias()
            source = source.outerjoin(parent, link.matches(parent))
            faults.append((link.columns, func.coalesce(parent.c[_OWNER], owner) != owner))
        if faults:
            yield at_fault(table, faults, source)


CROSS_USERS: Final = Rule("cross-users", "Rows hang below a row of another user.", _cross_users)
ORPHANS: Final = Rule("orphans", "Rows point at a row that is not there.", _orphans)
