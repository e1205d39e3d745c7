"""What the rules of ``check-data`` are made of where databases differ: decimals, JSON, and what only SQLite lets in."""

from typing import Any, Final

from sqlalchemy import ColumnElement, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import JSON, Boolean, Date, DateTime, Float, Integer, Numeric, String, TypeEngine

_SUM: Final = "(SELECT CASE WHEN count(*) = count({amount}) THEN coalesce({total}, 0) END FROM {entries})"
"""The sum of the entries of an object; NULL when one of them is no amount."""
_DIGITS: Final = "^-?[0-9]{{1,40}}([.][0-9]{{1,40}})?([eE][-+]?[0-9]{{1,2}})?$"
"""How a number is written in JSON, and how Python writes a ``Decimal``; no longer than every database can read it."""

_ESCAPE: Final = r"\\(u[0-9a-fA-F]{{4}}|.)"
"""One escape in a JSON text, whatever it stands for; no amount has one."""
_NO_DATE: Final = (
    "julianday({0}) IS NULL AND {0} IS NOT NULL OR {0} NOT LIKE '____-__-__' "
    "OR (substr({0}, 9, 2) > '28' AND date({0}, '0 days') IS NOT {0})"
)
_NO_INSTANT: Final = (
    "julianday({0}) IS NULL AND {0} IS NOT NULL OR {0} NOT LIKE '____-__-__ __:__:__%' "
    "OR (length({0}) <> 26 AND length({0}) NOT IN (19, 23)) "
    "OR ((substr({0}, 9, 2) > '28' OR substr({0}, 12, 2) > '23') "
    "AND datetime(substr({0}, 1, 19), '0 days') IS NOT substr({0}, 1, 19))"
)
"""SQLite reads many forms, and 30 February; what it writes when it adds no days is a date that there is. That takes it longest,
so only the last days of a month are written again."""


class Spelled(FunctionElement[Any]):
    """Other expressions in a text that is one database's own: ``{0}`` stands for the first of them."""

    inherit_cache = False

    def __init__(self, template: str, *expressions: ColumnElement[Any]) -> None:
        super().__init__(*expressions)
        self.template = template


@compiles(Spelled)
def _compile_spelled(element: Spelled, compiler: SQLCompiler, **options: Any) -> str:
    return element.template.format(*(compiler.process(each, **options) for each in element.clauses))


def _sum(amount: str, entries: str, total: str = "sum({0})") -> str:
    return _SUM.format(amount=amount, total=total.format(amount), entries=entries)


class Judging:
    """How a database compares amounts and adds up JSON, and whether a stored value is what its column says."""

    def exact(self, amount: ColumnElement[Any]) -> ColumnElement[Any]:
        """An amount of money that can be added and compared exactly; all of one database are in the same unit."""
        return amount

    def exact_sum(self, amount: ColumnElement[Any]) -> ColumnElement[Any]:
        """The sum of the amounts of a group, in the unit of ``exact()``."""
        return func.sum(self.exact(amount))

    def has_more_decimals(self, amount: ColumnElement[Any], digits: ColumnElement[int]) -> ColumnElement[bool]:
        """Whether an amount of money has more than so many decimals, up to 4."""
        return amount != func.round(amount, digits)

    def json_total(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """The sum of the amounts in a JSON object of numbers and decimal strings, in the unit of ``exact()``.

        NULL when an entry is neither. What is no object, NULL included, has no entries, and so adds up to 0.
        """
        raise NotImplementedError

    def too_long(self, column: ColumnElement[Any], kind: TypeEngine[Any]) -> ColumnElement[bool] | None:
        """Whether a value is longer than its column; None where there can be no such value."""
        return None

    def malformed(self, column: ColumnElement[Any], kind: TypeEngine[Any]) -> ColumnElement[bool] | None:
        """Whether a value is not of the type of its column; None where there can be no such value."""
        return None


class PostgresqlJudging(Judging):
    def json_total(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """As ``json``, which is never more than text: ``jsonb`` refuses numbers and characters that ``json`` has kept."""
        json = f"CAST(regexp_replace(CAST({{0}} AS text), '{_ESCAPE}', '?', 'g') AS json)"
        entries = f"json_each_text(CASE WHEN json_typeof({json}) = 'object' THEN {json} END) AS entries (name, entry)"
        return Spelled(_sum(f"CASE WHEN entry ~ '{_DIGITS}' THEN CAST(entry AS numeric) END", entries), column)


class MysqlJudging(Judging):
    def json_total(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        amount = f"CASE WHEN entries.entry REGEXP '{_DIGITS}' THEN CAST(entries.entry AS DECIMAL(65, 20)) END"
        json = "CASE WHEN JSON_TYPE({0}) = 'OBJECT' THEN {0} ELSE '{{}}' END"
        entries = f"JSON_TABLE({json}, '$.*' COLUMNS (entry VARCHAR(255) PATH '$')) AS entries"
        return Spelled(_sum(amount, entries), column)


class MssqlJudging(Judging):
    def json_total(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        entries = "OPENJSON(CASE WHEN ISJSON({0}) = 1 THEN {0} ELSE '{{}}' END) AS entries"
        return Spelled(_sum("TRY_CAST(entries.value AS DECIMAL(28, 10))", entries), column)


class SqliteJudging(Judging):
    """SQLite's numbers are binary, and its columns keep whatever they are given.

    An amount that 64 bits do not hold in ten-thousandths is NULL here.
    """

    _UNITS: Final = (
        "CASE WHEN abs({0}) < 1e11 THEN CAST(round({0} * 10000) AS INTEGER) WHEN abs({0}) < 922337203685478 THEN "
        "CAST({0} AS INTEGER) * 10000 "
        "+ CAST(round(round({0} - CAST({0} AS INTEGER), 15 - length(CAST(abs({0}) AS INTEGER))) * 10000) AS INTEGER) END"
    )
    """A product of more than 15 digits would not be exact, so the whole part of a large amount is taken apart from its decimals."""
    _TOTAL: Final = "(sum(({0}) / 1000000000) * 1000000000 + sum(({0}) % 1000000000))"
    """A sum of whole units ends the query when it overflows, and these two do not; a sum beyond 64 bits is no integer then."""

    def exact(self, amount: ColumnElement[Any]) -> ColumnElement[Any]:
        return Spelled(f"({self._UNITS})", amount)

    def exact_sum(self, amount: ColumnElement[Any]) -> ColumnElement[Any]:
        return Spelled(self._TOTAL.format(self._UNITS), amount)

    def has_more_decimals(self, amount: ColumnElement[Any], digits: ColumnElement[int]) -> ColumnElement[bool]:
        step = "CASE {1} WHEN 0 THEN 10000 WHEN 1 THEN 1000 WHEN 2 THEN 100 WHEN 3 THEN 10 ELSE 1 END"
        return Spelled(f"(({self._UNITS}) % {step} <> 0)", amount, digits)

    def json_total(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        is_number = "type IN ('integer', 'real') OR (type = 'text' AND json_valid(value) AND value NOT GLOB '*[^-+.0-9eE]*')"
        amount = f"CASE WHEN {is_number} THEN {self._UNITS.format('(value + 0.0)')} END"
        entries = "json_each(CASE WHEN json_valid({0}) THEN CASE json_type({0}) WHEN 'object' THEN {0} END END)"
        return Spelled(_sum(amount, entries, self._TOTAL), column)

    def too_long(self, column: ColumnElement[Any], kind: TypeEngine[Any]) -> ColumnElement[bool] | None:
        """A text of so many bytes or fewer cannot have more characters, and bytes are counted at once."""
        match kind:
            case String(length=int(length)):
                template = f"length(CAST({{0}} AS BLOB)) > {length} AND (length({{0}}) > {length} OR instr({{0}}, char(0)) > 0)"
            case Float():
                return None
            case Numeric(precision=int(precision), scale=int(scale)) if scale < 9:
                finer = f"abs({{0}}) < 1e6 AND CAST(round({{0}} * 1e9) AS INTEGER) % {10 ** (9 - scale)} <> 0"
                template = f"abs({{0}}) >= 1e{precision - scale} OR ({finer})"
            case _:
                return None
        return Spelled(f"({template})", column)

    def malformed(self, column: ColumnElement[Any], kind: TypeEngine[Any]) -> ColumnElement[bool] | None:
        """By the order of SQLite's kinds of values: numbers come before texts, and texts before bytes.

        Instants are compared as texts, so all of them must be written in one way: the one of SQLAlchemy.
        """
        match kind:
            case Boolean():
                template = "{0} NOT IN (0, 1)"
            case Integer():
                template = "typeof({0}) NOT IN ('integer', 'null')"
            case Numeric():
                template = "{0} >= ''"
            case DateTime():
                template = _NO_INSTANT
            case Date():
                template = _NO_DATE
            case JSON():
                template = "{0} IS NOT NULL AND NOT json_valid({0})"
            case String():
                template = "{0} >= x''"
            case _:
                return None
        return Spelled(f"({template})", column)
