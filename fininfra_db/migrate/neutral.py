"""A generated revision in words of every database, where Alembic writes those of the one that it was compared with.

What a revision does not change is written as the models have it: MySQL is told the whole column again, and microseconds
or a default would be lost. What only the database knows, a downgrade's columns, is written in SQLAlchemy's generic types:
PostgreSQL has no ``DATETIME``.
"""

import functools
import re
from collections.abc import Iterable
from typing import Any, Final

from alembic.operations import ops
from sqlalchemy import CHAR, Boolean, Column, DefaultClause, MetaData, TextClause, false, func, text, true
from sqlalchemy.types import TypeEngine

from fininfra_db.migrate.rendering import sqlalchemy_dialects
from fininfra_db.types import utc_now

NAMES_OF_NOW: Final = ("now", "current_timestamp", "getdate")
"""What databases call ``now()``, without parentheses."""

QUOTED: Final = re.compile(r"'((?:[^']|'')*)'(?:::.*)?")
"""A text as a default, on PostgreSQL with its type."""


def neutralize(script: ops.MigrationScript, models: Iterable[MetaData]) -> None:
    """Rewrite the operations of ``script`` in place."""
    columns = {(table.schema, table.name, column.name): column for each in models for table in each.tables.values() for column in table.c}
    for operation in operations_of([*script.upgrade_ops_list, *script.downgrade_ops_list]):
        if isinstance(operation, ops.AlterColumnOp):
            _keep(operation, columns.get((operation.schema, operation.table_name, operation.column_name)))
    for operation in operations_of(script.downgrade_ops_list):
        if isinstance(operation, ops.AlterColumnOp):
            operation.modify_type = operation.modify_type and _generic_type(operation.modify_type)
            operation.modify_server_default = _generic_default(operation.modify_server_default, operation.modify_type)
        elif isinstance(operation, ops.AddColumnOp):
            _generalize(operation.column)
        elif isinstance(operation, ops.CreateTableOp):
            for column in (item for item in operation.columns if isinstance(item, Column)):
                _generalize(column)


def operations_of(containers: Iterable[ops.OpContainer]) -> list[ops.MigrateOperation]:
    """The single operations in containers of containers."""
    found: list[ops.MigrateOperation] = []
    for container in containers:
        for operation in container.ops:
            found += operations_of([operation]) if isinstance(operation, ops.OpContainer) else [operation]
    return found


def _keep(operation: ops.AlterColumnOp, column: Column[Any] | None) -> None:
    if column is None:
        return
    if operation.modify_type is None:
        operation.existing_type = column.type
    if operation.modify_server_default is False and isinstance(column.server_default, DefaultClause):
        operation.existing_server_default = column.server_default


def _generalize(column: Column[Any]) -> None:
    column.type = _generic_type(column.type)
    column.server_default = _generic_default(column.server_default, column.type)


def _generic_type(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    if isinstance(type_, CHAR):  # would become a VARCHAR, and is one of every database
        return type_
    try:
        generic = type_.as_generic()
    except NotImplementedError:
        return type_
    if hasattr(generic, "collation"):
        generic.collation = None
    return generic


def _generic_default(default: Any, type_: TypeEngine[Any] | None) -> Any:
    if not isinstance(default, DefaultClause) or not isinstance(default.arg, TextClause):
        return default
    words = default.arg.text
    bare = _bare(words)
    if bare in NAMES_OF_NOW:
        return DefaultClause(func.now())
    if bare in _spellings_of_utc_now():
        return DefaultClause(utc_now())
    if isinstance(type_, Boolean) and bare in ("0", "1", "false", "true"):
        return DefaultClause(true() if bare in ("1", "true") else false())
    quoted = QUOTED.fullmatch(words)
    return DefaultClause(text(f"'{quoted[1]}'")) if quoted else default


@functools.cache
def _spellings_of_utc_now() -> set[str]:
    return {_bare(str(utc_now().compile(dialect=dialect))) for dialect in sqlalchemy_dialects()}


def _bare(words: str) -> str:
    return re.sub(r"[()\s]", "", words).lower()
