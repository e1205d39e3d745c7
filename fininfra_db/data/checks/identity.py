"""The rule about what a provider calls its rows: nothing of a user is there twice."""

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Select, Table, and_, func, literal, select

from fininfra_db.data.checks.rule import PLACE, Books, Rule, ids_of

_PROVIDER_KEYS: Final = (
    ("bank_connections", ("user_id", "item_id")),
    ("accounts", ("user_id", "connection_id", "account_id")),
    ("transactions", ("user_id", "account_id", "transaction_id")),
)
"""What names one thing at a provider. Two connections may each have an account of the same name, and the two sides of a transfer
one transaction id; so these are the unique keys of the models, and the item that a connection stands for."""


def _duplicates(books: Books) -> Iterator[Select[Any]]:
    for name, columns in _PROVIDER_KEYS:
        table = books.find(name, *columns)
        if table is not None and not _is_proven(books, table, columns):
            yield _repeated(table, columns)


def _is_proven(books: Books, table: Table, columns: tuple[str, ...]) -> bool:
    """A unique key that the database has is never off: it proves more than a look at the rows, and takes no time."""
    keys = [key["column_names"] for key in books.inspector.get_unique_constraints(table.name, table.schema)]
    keys.append(books.inspector.get_pk_constraint(table.name, table.schema)["constrained_columns"])
    return any(key and {*key} <= {table.c[column].name for column in columns} for key in keys)


def _repeated(table: Table, names: tuple[str, ...]) -> Select[Any]:
    columns = [table.c[name] for name in names]
    groups = select(*columns).where(*(column.is_not(None) for column in columns)).group_by(*columns).having(func.count() > 1).subquery()
    same = and_(*(column == groups.c[name] for column, name in zip(columns, names, strict=True)))
    place = literal(f"{table.fullname}.{', '.join(names)}").label(PLACE)
    return select(place, *ids_of(table)).select_from(table.join(groups, same))


DUPLICATES: Final = Rule("duplicates", "Rows of one user have the same id of the provider.", _duplicates)
