"""Rules about sealed columns: what is in them is ciphertext, and one of the keys opens it."""

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Select, String, and_, func, literal, not_, or_, select, type_coerce

from fininfra_db.data.checks.rule import PLACE, VALUE, Books, Rule, at_fault, ids_of
from fininfra_db.errors import DecryptionFailed
from fininfra_db.security import SEALED_BEGINNINGS, Keyring
from fininfra_db.types import sealed_length

_SHORTEST: Final = 100
"""Characters of a token that holds nothing."""


def _sealed_columns(books: Books) -> list[Column[Any]]:
    return [column for table in books.tables for column in table.columns if sealed_length(column.type) is not None]


def _is_token(stored: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a stored text has the outward form of a token (https://github.com/fernet/spec)."""
    length = func.char_length(stored)
    return and_(or_(*map(stored.startswith, SEALED_BEGINNINGS)), length >= _SHORTEST, length % 4 == 0)


def _stored(column: Column[Any]) -> ColumnElement[str]:
    """The sealed text itself."""
    return type_coerce(column, String())


def _plaintext(books: Books) -> Iterator[Select[Any]]:
    for column in _sealed_columns(books):
        yield at_fault(column.table, [(column.name, not_(_is_token(_stored(column))))])


def _tokens(books: Books) -> Iterator[Select[Any]]:
    for column in _sealed_columns(books):
        table, stored = column.table, _stored(column)
        place = literal(f"{table.fullname}.{column.name}").label(PLACE)
        yield select(place, *ids_of(table), stored.label(VALUE)).where(_is_token(stored))


def _does_not_open(keyring: Keyring, sealed: str | bytes) -> bool:
    """SQLite has bytes in any column, and some of its builds find that they begin like a text."""
    try:
        keyring.decrypt(sealed if isinstance(sealed, str) else "")
    except DecryptionFailed:
        return True
    return False


PLAINTEXT: Final = Rule("plaintext", "Sealed columns hold what is not ciphertext.", _plaintext)
UNREADABLE: Final = Rule("unreadable", "Sealed values are opened by none of the configured keys.", _tokens, _does_not_open)
