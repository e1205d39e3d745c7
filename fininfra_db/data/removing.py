"""Removing the rows of a seed, and none of anybody else's.

What hangs below a row is known from the foreign keys of the database itself: it may have tables that no model tells of, also in
other schemas, and their rows would go with ours or stand in their way.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, FromClause, Table, and_, delete, inspect, literal_column, not_, select, table, true

from fininfra_db.data.rows import table_of
from fininfra_db.dialects import dialect_of
from fininfra_db.models import Base, User

Owned = Callable[[Any], ColumnElement[bool]]
"""Says of a table, or of one by another name, which rows are a seed's."""

_BELOW: Final = "fininfra_below"
_USERS_AT_ONCE: Final = 500


@dataclass(frozen=True)
class _Reference:
    """A foreign key of the database: from ``child``, which has another name here, to the table ``parent``."""

    child: FromClause
    parent: Table
    is_of_seed: bool
    columns: tuple[tuple[str, str], ...]


class Removal:
    """Removes rows of ``models``, which come parents before children, that ``is_ours`` says."""

    def __init__(self, connection: Connection, models: Iterable[type[Base]], is_ours: Owned) -> None:
        self._connection, self._is_ours = connection, is_ours
        self._tables = [table_of(model) for model in models]
        self._references = list(_references(connection, self._tables))

    def remove(self) -> int:
        """Remove every such row but those that one of somebody else hangs below; how many there were."""
        return self._remove()

    def remove_users(self, pattern: str) -> int:
        """Remove the users with an id LIKE ``pattern`` and what is theirs; how many rows there were.

        A user below whom a row of somebody else hangs stays whole, so that its figures still agree.
        """
        removed, last = 0, ""
        page = select(User.id).where(User.id.like(pattern)).order_by(User.id).limit(_USERS_AT_ONCE)
        while users := list(self._connection.scalars(page.where(User.id > last))):
            gone = sorted(set(users) - self._shared(users))
            removed += self._remove(gone) if gone else 0
            last = users[-1]
        return removed

    def _remove(self, users: Sequence[str] | None = None) -> int:
        """Remove what is of these ``users``, or of all."""
        removed = 0
        for each in reversed(self._tables):
            nothing_below = [not_(self._below(key)) for key in self._references if key.parent is each]
            is_meant = self._is_ours(each) if users is None else and_(_owner(each).in_(users), self._is_ours(each))
            removed += self._connection.execute(delete(each).where(is_meant, *nothing_below)).rowcount
        return removed

    def _shared(self, users: Sequence[str]) -> set[str]:
        """Those of the ``users`` below whose rows hangs one that is somebody else's."""
        shared: set[str] = set()
        for key in self._references:
            owner = _owner(key.parent)
            is_theirs = not_(and_(self._is_ours(key.child), _owner(key.child) == owner)) if key.is_of_seed else true()
            found = select(owner).where(owner.in_(users), self._is_ours(key.parent), self._below(key, is_theirs)).distinct()
            shared.update(self._connection.scalars(found))
        return shared

    def _below(self, key: _Reference, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
        """Whether a row has one below it by this foreign key."""
        preparer = self._connection.dialect.identifier_preparer

        def column(of: str, name: str) -> ColumnElement[Any]:
            """By its name: the models need not have it."""
            return literal_column(f"{of}.{preparer.quote(name)}")

        parent = preparer.format_table(key.parent)
        is_child = (column(_BELOW, own) == column(parent, theirs) for own, theirs in key.columns)
        return select(literal_column("1")).select_from(key.child).where(*is_child, *conditions).correlate(key.parent).exists()


def _owner(of: FromClause) -> ColumnElement[str]:
    """The column with the user that a row belongs to."""
    return of.c.get("user_id", of.c.id)


def _references(connection: Connection, tables: Sequence[Table]) -> Iterator[_Reference]:
    """Every foreign key of the database to one of ``tables``."""
    inspector, known = inspect(connection), {each.name: each for each in tables}
    ours = (None, inspector.default_schema_name)
    for schema in dialect_of(connection.dialect.name).referencing_schemas(connection):
        for (_, name), keys in inspector.get_multi_foreign_keys(schema=schema).items():
            is_of_seed = schema is None and name in known
            child = (known[name] if is_of_seed else table(name, schema=schema)).alias(_BELOW)
            for key in keys:
                parent = known.get(key["referred_table"].lower())  # SQLite keeps it as somebody has written it
                if parent is not None and key["referred_schema"] in ours:
                    columns = zip(key["constrained_columns"], key["referred_columns"], strict=True)
                    yield _Reference(child, parent, is_of_seed, tuple(columns))
