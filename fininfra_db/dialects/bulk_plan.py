"""How the rows of one bulk load become what the driver takes: decided once for all of them, and done by the column."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import lru_cache
from inspect import signature
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Boolean, Column, Date, Index, Table, UniqueConstraint
from sqlalchemy import Dialect as SqlalchemyDialect

from fininfra_db.dialects.refusal import refused_by_type
from fininfra_db.errors import ConfigurationError, OptionsInvalid, RowRefused
from fininfra_db.types import Money, UtcDateTime

Row = Mapping[str, Any]
Values = list[list[Any]]
"""Of some rows, the values of each column, as the driver takes them."""

_REPEATED: Final = (Boolean, Date, Money, UtcDateTime)
"""Types of which the same values come again and again, and are slow to write."""
_REPEATED_VALUES: Final = 4096
"""So many of them are remembered."""


@dataclass(frozen=True)
class Field:
    """One column: where its values come from, and what makes the driver's value of one."""

    column: Column[Any]
    make: Callable[[], Any] | None
    process: Callable[[Any], Any] | None

    def values(self, rows: Sequence[Row]) -> list[Any]:
        key = self.column.key
        given = [row[key] for row in rows] if self.make is None else [self.make() for _ in rows]
        return given if self.process is None else list(map(self.process, given))

    def first_refused(self, rows: Sequence[Row]) -> int:
        """The index of the first row whose value ``values()`` cannot make."""
        for index in range(len(rows)):
            try:
                self.values(rows[index : index + 1])
            except Exception:  # a type may be anybody's, and raise anything
                return index
        return 0


@dataclass(frozen=True)
class Plan:
    """The columns of a call: those that the rows give, and those that have a default in Python."""

    table: Table
    fields: tuple[Field, ...]
    given: frozenset[str]

    def values(self, rows: Sequence[Row], indexes: Sequence[int]) -> Values:
        """Of rows, which have these ``indexes`` in the input. Raises ``RowRefused``, or what is wrong with the configuration."""
        for index, row in zip(indexes, rows, strict=True):
            if len(row) != len(self.given):
                raise self._other_keys(row, index)
        return [self._values(field, rows, indexes) for field in self.fields]

    def _values(self, field: Field, rows: Sequence[Row], indexes: Sequence[int]) -> list[Any]:
        try:
            return field.values(rows)
        except ConfigurationError:
            raise
        except Exception as error:  # a type may be anybody's, and raise anything
            place = field.first_refused(rows)
            if field.make is None and field.column.key not in rows[place]:
                raise self._other_keys(rows[place], indexes[place]) from None
            raise refused_by_type(self.table, indexes[place], field.column.name, error) from None

    def _other_keys(self, row: Row, index: int) -> RowRefused:
        odd = sorted(self.given.symmetric_difference(row))
        return RowRefused(self.table.name, index, odd[0] if len(odd) == 1 else None, "It has not the keys that the first row has.")

    def neighbours(self) -> Callable[[Row], Any] | None:
        """What to sort rows by, so that the entries of a chunk lie together in the indexes; None where the order has to stay.

        The columns of a unique key beside the primary one. The order stays where the database numbers the rows itself, and
        where a row may need another one of the table to be there before it.
        """
        made_here = {field.column.key for field in self.fields}
        numbered = any(column.key not in made_here for column in self.table.primary_key)
        nested = any(key.column.table is self.table for key in self.table.foreign_keys)
        keys = [] if numbered or nested else [key for key in unique_keys(self.table) if self.given.issuperset(key)]
        return itemgetter(*keys[0]) if keys else None


def unique_keys(table: Table) -> list[tuple[str, ...]]:
    """The unique keys of a table but the primary one, and those that hold all of it, as keys of columns; the widest first."""
    constraints = [each.columns for each in table.constraints if isinstance(each, UniqueConstraint)]
    indexes = [each.columns for each in table.indexes if each.unique and _holds_for_all_rows(each)]
    primary = {column.key for column in table.primary_key}
    keys = {tuple(str(column.key) for column in columns) for columns in (*constraints, *indexes)}
    return sorted((key for key in keys if not primary.issubset(key)), key=lambda key: (-len(key), key))


def _holds_for_all_rows(index: Index) -> bool:
    """Whether an index is about columns alone, and not about some of the rows only on any database."""
    partial = any(name.endswith("_where") and value is not None for name, value in index.dialect_kwargs.items())
    return not partial and all(isinstance(each, Column) for each in index.expressions)


def plan_of(table: Table, first: Row, dialect: SqlalchemyDialect) -> Plan | None:
    """The plan for rows with the keys of the ``first``; None when a column takes more than a value, such as an expression.

    Raises ``OptionsInvalid`` for a key that is no column.
    """
    unknown = sorted(str(key) for key in first if key not in table.columns)
    if unknown:
        raise OptionsInvalid(f"The table {table.name} has no column {unknown[0]!r}. Nothing was written.", "Correct the keys of the rows.")
    fields = []
    for column in table.columns:
        make = None
        if column.key not in first:
            if column.default is None:
                continue
            make = _maker(column.default)
            if make is None:
                return None
        if column.type._has_bind_expression:
            return None
        fields.append(Field(column, make, _processor(column, dialect)))
    return Plan(table, tuple(fields), frozenset(first))


def _maker(default: Any) -> Callable[[], Any] | None:
    """What makes a column's default, None when it is made in SQL or from the other values of the row."""
    if default.is_scalar:
        return lambda: default.arg
    function = getattr(default.arg, "__wrapped__", None) if default.is_callable else None  # SQLAlchemy wraps what takes no context
    if function is None:
        return None
    try:
        signature(function).bind()
    except (TypeError, ValueError):
        return None
    return function  # type: ignore[no-any-return]


def _processor(column: Column[Any], dialect: SqlalchemyDialect) -> Callable[[Any], Any] | None:
    """What an ordinary insert applies to a value."""
    process = column.type.dialect_impl(dialect).bind_processor(dialect)
    if process is None or not isinstance(column.type, _REPEATED):
        return process
    remembered = lru_cache(_REPEATED_VALUES, typed=True)(process)
    if not isinstance(column.type, UtcDateTime):
        return remembered
    # Of an hour that a zone has twice, the two are equal: only what is in UTC is remembered.
    return lambda value: (remembered if getattr(value, "tzinfo", None) is UTC else process)(value)
