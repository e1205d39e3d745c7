"""How models are written into a revision file: neutral between databases, and without the application's code."""

import functools
from typing import Any, Literal

from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import _repr_type
from sqlalchemy import JSON, URL, CheckConstraint, DefaultClause, Dialect
from sqlalchemy.sql import functions
from sqlalchemy.sql.elements import False_, True_
from sqlalchemy.types import TypeDecorator, TypeEngine, to_instance

from fininfra_db.dialects import dialect_of
from fininfra_db.types import Amounts, EncryptedString, Money, UtcDateTime, currency_code, utc_now

_MODULE = "fininfra_db.types"
_OUR_TYPES = (Money, UtcDateTime, EncryptedString)


def render_item(kind: str, item: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Alembic's ``render_item`` hook: the Python text of ``item``, or False for Alembic's own.

    This package's types are named, with their import. A type that an application decorates is written as the type that
    it stores: a revision must go on working when the application's code has moved on.
    """
    if kind == "type" and isinstance(item, TypeDecorator):
        if isinstance(item, _OUR_TYPES):
            return _ours(repr(item), autogen_context)
        if isinstance(item, Amounts):
            return "sa.JSON()"
        return False if type(item).__module__.startswith("sqlalchemy.") else _repr_type(_stored(item), autogen_context)
    if kind == "type" and type(item) is JSON:
        return "sa.JSON()"
    if kind == "server_default" and isinstance(item, DefaultClause):
        return _server_default(item.arg, autogen_context)
    if kind == "check" and isinstance(item, CheckConstraint) and isinstance(item.sqltext, currency_code):
        condition = _ours(f"currency_code({item.sqltext.column!r})", autogen_context)
        return f"sa.CheckConstraint({condition}, name=op.f({str(item.name)!r}))"
    return False


def _stored(decorator: TypeDecorator[Any]) -> TypeEngine[Any]:
    """The type that an application's type stores, with a variant for each database where it chooses another."""
    stored, *others = (decorator.load_dialect_impl(dialect) for dialect in sqlalchemy_dialects())
    for dialect, other in zip(sqlalchemy_dialects()[1:], others, strict=True):
        if repr(other) != repr(stored):
            stored = stored.with_variant(other, dialect.name)
    return stored


@functools.cache
def sqlalchemy_dialects() -> tuple[Dialect, ...]:
    """SQLAlchemy's dialects, SQLite first, made to leave a type as its author names it and not as a driver adapts it."""
    found = tuple(dialect_of(name).offline(URL.create(name)) for name in ("sqlite", "postgresql", "mysql", "mssql"))
    for dialect in found:
        dialect.type_descriptor = to_instance  # type: ignore[method-assign]
    return found


def _server_default(default: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Expressions by name: Alembic would write the words of the database that it happens to be connected to."""
    if isinstance(default, utc_now):
        return _ours("utc_now()", autogen_context)
    if isinstance(default, functions.now):
        return "sa.func.now()"
    if isinstance(default, False_ | True_):
        return "sa.false()" if isinstance(default, False_) else "sa.true()"
    return False


def _ours(text: str, autogen_context: AutogenContext) -> str:
    autogen_context.imports.add(f"import {_MODULE}")
    return f"{_MODULE}.{text}"
