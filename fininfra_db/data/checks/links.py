"""Rules about where rows hang: below a row that is there, and below one of the same user.

Foreign keys keep both, where they are on: SQLite files are written with keys off, and a dump is restored with triggers or
``foreign_key_checks`` off. So the rows are looked at, whatever keys the database has.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, ForeignKeyConstraint, FromClause, Select, Table, and_, func, select

from fininfra_db.data.checks.rule import Books, Fault, Rule, at_fault

_OWNER: Final = "user_id"
"""The column that says whose a row is."""


@dataclass(frozen=True)
class _Link:
    """One foreign key, without the column that says whose the row is: that one has to agree, whether the key says so or not."""

    constraint: ForeignKeyConstraint
    child: Table

    @property
    def columns(self) -> str:
        return ", ".join(element.parent.name for element in self._elements)

    @property
    def has_owners(self) -> bool:
        return _OWNER in self.child.c and _OWNER in self.constraint.referred_table.c

    @property
    def _elements(self) -> list[Any]:
        elements = list(self.constraint.elements)
        rest = [each for each in elements if not (each.parent.name == each.column.name == _OWNER)]
        return rest or elements

    def pairs(self, parent: FromClause) -> list[tuple[Column[Any], ColumnElement[Any]]]:
        """Each column of the child and the one of ``parent`` that it equals."""
        return [(element.parent, parent.c[element.column.key]) for element in self._elements]

    def matches(self, parent: FromClause) -> ColumnElement[bool]:
        return and_(*(ours == theirs for ours, theirs in self.pairs(parent)))

    def is_broken(self, parent: FromClause) -> ColumnElement[bool]:
        """Whether a row points at something and the outer join found no ``parent``."""
        pairs = self.pairs(parent)
        return and_(*(ours.is_not(None) for ours, _ in pairs), pairs[0][1].is_(None))


def _links(table: Table) -> list[_Link]:
    return [_Link(key, table) for key in sorted(table.foreign_key_constraints, key=lambda key: tuple(key.column_keys))]


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
    """Rows without a parent of the same user, few or none, are looked at again: is there one of another user?"""
    for table in books.tables:
        source: FromClause = table
        faults: list[Fault] = []
        for link in filter(lambda link: link.has_owners, _links(table)):
            owner, parent, other = table.c[_OWNER], link.constraint.referred_table.alias(), link.constraint.referred_table.alias()
            source = source.outerjoin(parent, and_(link.matches(parent), parent.c[_OWNER] == owner))
            others = select(func.count()).where(link.matches(other), other.c[_OWNER] != owner).select_from(other)
            faults.append((link.columns, and_(link.is_broken(parent), others.correlate(table).scalar_subquery() > 0)))
        if faults:
            yield at_fault(table, faults, source)


CROSS_USERS: Final = Rule("cross-users", "Rows hang below a row of another user.", _cross_users)
ORPHANS: Final = Rule("orphans", "Rows point at a row that is not there.", _orphans)
