"""Column types that keep a value exactly, on every database.

``Money``, ``UtcDateTime`` and ``EncryptedString`` refuse what they cannot keep, before it is sent; nothing is rounded,
shifted or cut in silence. ``Amounts`` is JSON without binary floats. ``utc_now`` and ``currency_code`` are the
expressions that the schema needs and that every database spells differently.
"""

import os
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Final

from sqlalchemy import JSON, DateTime, Dialect, Engine, Numeric, String, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement, Null
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Boolean, TypeDecorator, TypeEngine

from fininfra_db.errors import DecryptionFailed, FininfraDbError, ValueRefused
from fininfra_db.security import Keyring, default_keyring

MONEY_PRECISION: Final = 19
MONEY_SCALE: Final = 4
SQLITE_DIGITS: Final = 15
"""Decimal digits that a binary double, SQLite's only fractional number, gives back unchanged (sqlite.org/floatingpoint.html)."""

_SQLITE_LARGEST: Final = Decimal(2**63 - 1).scaleb(-MONEY_SCALE)
"""What fits SQLite's 64-bit integers in ten-thousandths, in which sums are made."""

_SQLITE_SURE: Final = Decimal(10) ** (SQLITE_DIGITS - MONEY_SCALE)
"""Below it, no amount has more digits than that."""

_MONEY_QUANTUM: Final = Decimal(1).scaleb(-MONEY_SCALE)
_EXACT: Final = Context(prec=2 * MONEY_PRECISION, rounding=ROUND_HALF_EVEN)
"""The arithmetic of this file; the caller's own decimal context may be narrower."""
_NAIVE: Final = len("2024-02-29 12:00:00.000000")
_NUMBERS: Final = (Decimal, int, float)
KEPT: Final = "kept"
"""Set in a column's ``info``: a bulk upsert leaves the value of a row that is there as it is."""
_KEYRING_ATTRIBUTE: Final = "fininfra_db_keyring"


@event.listens_for(Engine, "handle_error")
def _pass_on(context: ExceptionContext) -> BaseException | None:
    """Let an error of this package come out as it is: SQLAlchemy would put it inside a StatementError."""
    error = context.original_exception
    return error if isinstance(error, FininfraDbError) else None


class Money(TypeDecorator[Decimal]):
    """An amount of money: ``NUMERIC(19, 4)``, ``Decimal`` in and out.

    Takes ``Decimal``, ``int``, and a ``float`` whose ``str()`` has at most four decimals. More than four decimals or
    fifteen integer digits, NaN and infinity are refused with ``ValueRefused``; on SQLite, whose numbers are binary
    doubles, so are values of more than fifteen significant digits or beyond 922337203685477.5807. Sums
    read through this type are exact at scale 4 within those bounds.
    """

    impl = Numeric
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(MONEY_PRECISION, MONEY_SCALE)

    def __repr__(self) -> str:
        return "Money()"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Numeric(MONEY_PRECISION, MONEY_SCALE, asdecimal=False))
        return dialect.type_descriptor(Numeric(MONEY_PRECISION, MONEY_SCALE))

    def process_bind_param(self, value: Decimal | int | float | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        amount = exact_money(value)
        if dialect.name != "sqlite":
            return amount
        is_short = -_SQLITE_SURE < amount < _SQLITE_SURE
        if not is_short and (len(amount.normalize(_EXACT).as_tuple().digits) > SQLITE_DIGITS or abs(amount) > _SQLITE_LARGEST):
            raise ValueRefused(
                f"SQLite keeps {SQLITE_DIGITS} significant digits of an amount up to {_SQLITE_LARGEST} exactly, and this one is longer."
            )
        return float(amount)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        if value is None or dialect.name != "sqlite":
            return value  # type: ignore[no-any-return]  # the driver's own Decimal
        amount = Decimal(format(value, f".{SQLITE_DIGITS}g")).quantize(_MONEY_QUANTUM, context=_EXACT)
        if abs(value) >= 10 ** (SQLITE_DIGITS - MONEY_SCALE) and type(value)(amount) != value:
            raise ValueRefused(f"A sum of more than {SQLITE_DIGITS} significant digits is not exact on SQLite.")
        return amount

    def coerce_compared_value(self, op: operators.OperatorType | None, value: Any) -> TypeEngine[Any]:
        """A factor or divisor (``amount * rate``) is a plain number, not an amount of money."""
        return _Factor() if op in (operators.mul, operators.truediv) else self


class _Factor(TypeDecorator[Decimal]):
    """A plain number, by which an amount is multiplied or divided, and what comes of it.

    A ``float`` is taken as it is written, or MySQL would answer with one. SQLite's answer is read to fifteen digits.
    """

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Numeric(asdecimal=False))
        return dialect.type_descriptor(Numeric())

    def process_bind_param(self, value: Decimal | int | float | None, dialect: Dialect) -> Any:
        return Decimal(str(value)) if isinstance(value, float) else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        if isinstance(value, float):
            return Decimal(format(value, f".{SQLITE_DIGITS}g"))
        return None if value is None else Decimal(value)


def exact_money(value: Decimal | int | float) -> Decimal:
    """``value`` as a ``Decimal`` of scale 4, or ``ValueRefused`` when it is not exactly one that NUMERIC(19, 4) holds."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise ValueRefused(f"An amount of money is a Decimal, an int or an exact float, not {type(value).__name__}.")
    amount = value if isinstance(value, Decimal) else Decimal(str(value) if isinstance(value, float) else value)
    if not amount.is_finite():
        raise ValueRefused("An amount of money is a finite number.")
    if amount and amount.adjusted() >= MONEY_PRECISION - MONEY_SCALE:
        raise ValueRefused(f"An amount of money has at most {MONEY_PRECISION - MONEY_SCALE} digits before the point.")
    quantized = amount.quantize(_MONEY_QUANTUM, context=_EXACT)
    if quantized != amount:
        raise ValueRefused(f"An amount of money has at most {MONEY_SCALE} decimals. Round it first, in the way your books ask for.")
    return quantized


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: an aware ``datetime`` in, the same instant in UTC out, to the microsecond on every database.

    A naive ``datetime`` says no instant and is refused with ``ValueRefused``.
    """

    impl = DateTime
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(timezone=True)

    def __repr__(self) -> str:
        return "UtcDateTime()"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            from sqlalchemy.dialects import mysql

            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        if dialect.name == "mssql":
            from sqlalchemy.dialects import mssql

            return dialect.type_descriptor(mssql.DATETIME2(precision=6))  # type: ignore[no-untyped-call]
        return dialect.type_descriptor(DateTime(timezone=True))

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        """On SQLite the text that SQLAlchemy would write, in a fraction of the time: many rows may be on their way."""
        if dialect.name != "sqlite":
            return super().bind_processor(dialect)
        return lambda value: None if value is None else _in_utc(value).isoformat(" ", "microseconds")[:_NAIVE]

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        instant = _in_utc(value)
        return instant if dialect.name == "postgresql" else instant.replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)  # type: ignore[no-any-return]


def _in_utc(value: datetime) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ValueRefused("An instant is a datetime with a time zone: use datetime.now(UTC), or .replace(tzinfo=...).")
    try:
        return value if value.tzinfo is UTC else value.astimezone(UTC)
    except OverflowError:
        raise ValueRefused("This instant is outside the years 1 to 9999 in UTC.") from None


class EncryptedString(TypeDecorator[str]):
    """Text that is sealed before it reaches the database and opened when it is read.

    ``length`` is the width of the column, which holds the sealed text: 500 characters hold 303 bytes of plaintext.
    Longer values are refused with ``ValueRefused`` on every database. The keys are those of the engine's settings,
    see :func:`use_keyring`. Sealing the same text twice gives two different values, so a sealed column cannot be
    compared, ordered or searched; it can be tested for NULL.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)

    def __repr__(self) -> str:
        return f"EncryptedString({self.impl_instance.length})"  # type: ignore[attr-defined]

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str):
            raise ValueRefused(f"A sealed column holds text, not {type(value).__name__}.")
        sealed = _keyring(dialect).encrypt(value)
        length: int = self.impl_instance.length  # type: ignore[attr-defined]
        if len(sealed) > length:
            raise ValueRefused(f"This text is {len(sealed)} characters long when sealed, and the column holds {length}.")
        return sealed

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else _keyring(dialect).decrypt(value)

    def seals_same(self, one: str | None, other: str | None, dialect: Dialect) -> bool:
        """Whether two sealed values hold the same text. One that no key opens is like no other."""
        keyring = _keyring(dialect)
        try:
            return None not in (one, other) and keyring.decrypt(str(one)) == keyring.decrypt(str(other))
        except DecryptionFailed:
            return False

    class Comparator(TypeDecorator.Comparator[str]):
        def operate(self, op: operators.OperatorType, *other: Any, **kwargs: Any) -> ColumnElement[Any]:
            is_null_test = op in (operators.eq, operators.ne, operators.is_, operators.is_not) and isinstance(other[0], Null | None)
            is_lookup = op is operators.eq and isinstance(other[0], ColumnElement) and hash(other[0]) == hash(self.expr)
            if not (is_null_test or is_lookup):  # SQLAlchemy finds columns in dictionaries, an UPDATE's among them, by their hash and ==
                raise ValueRefused("A sealed column can be tested for NULL only: the same text is sealed differently each time.")
            return super().operate(op, *other, **kwargs)

    comparator_factory: Any = Comparator


def sealed_length(kind: TypeEngine[Any]) -> int | None:
    """The width of a sealed column; None for a type that does not seal. A type that is made of a sealed one seals too."""
    while isinstance(kind, TypeDecorator):
        if isinstance(kind, EncryptedString):
            return int(kind.impl_instance.length)  # type: ignore[attr-defined]
        kind = kind.impl_instance
    return None


class Amounts(TypeDecorator[dict[str, Any]]):
    """JSON that holds amounts: integers and decimal strings, never binary floats.

    A ``Decimal`` is stored as its string. A ``float``, however deep, is refused with ``ValueRefused``.
    """

    impl = JSON
    cache_ok = True

    def __repr__(self) -> str:
        return "JSON()"

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return _without_floats(value)


def _without_floats(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueRefused("An amount in JSON is a string or an integer, never a float: write '12.34' or Decimal('12.34').")
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _without_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_floats(item) for item in value]
    return value


def use_keyring(dialect: Dialect, keyring: Keyring) -> None:
    """Make the sealed columns of one engine (its ``dialect``) use ``keyring``."""
    setattr(dialect, _KEYRING_ATTRIBUTE, keyring)


def _keyring(dialect: Dialect) -> Keyring:
    keyring: Keyring | None = getattr(dialect, _KEYRING_ATTRIBUTE, None)
    return default_keyring() if keyring is None else keyring


def new_id() -> str:
    """A new time-ordered identifier: a UUID of version 7 (RFC 9562, method 3) as 36 characters of text.

    48 bits of milliseconds and 12 bits of the fraction below them, so that ids made in turn sort in turn.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") >> 2
    return str(uuid.UUID(int=(milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | random))


class utc_now(FunctionElement[datetime]):  # noqa: N801 - used like sqlalchemy's func.now
    """The database's current instant in UTC, as the default of a ``UtcDateTime`` column."""

    type = UtcDateTime()
    inherit_cache = True


_UTC_NOW: Final[Mapping[str, str]] = {
    "default": "CURRENT_TIMESTAMP",
    "sqlite": "(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')",
    "mysql": "(UTC_TIMESTAMP(6))",
    "mariadb": "(UTC_TIMESTAMP(6))",
    "mssql": "(SYSUTCDATETIME())",
}


class currency_code(ColumnElement[bool]):  # noqa: N801 - used like a SQL function
    """Whether a column holds three capital letters, as ISO 4217 codes are; the condition of a CHECK constraint."""

    inherit_cache = True
    type = Boolean()

    def __init__(self, column: str) -> None:
        self.column = column


_CURRENCY_CODE: Final[Mapping[str, str]] = {
    "default": "{column} ~ '^[A-Z]{{3}}$'",
    "sqlite": "{column} GLOB '[A-Z][A-Z][A-Z]'",
    "mysql": "{column} COLLATE utf8mb4_bin REGEXP '^[A-Z]{{3}}$'",
    "mariadb": "{column} COLLATE utf8mb4_bin REGEXP '^[A-Z]{{3}}$'",
    "mssql": "{column} COLLATE Latin1_General_BIN LIKE '[A-Z][A-Z][A-Z]'",
}


def _spelling(spellings: Mapping[str, str]) -> Callable[[Any, SQLCompiler], str]:
    return lambda _element, compiler, **_: spellings.get(compiler.dialect.name, spellings["default"])


compiles(utc_now)(_spelling(_UTC_NOW))


@compiles(currency_code)
def _compile_currency_code(element: currency_code, compiler: SQLCompiler, **_: Any) -> str:
    template = _spelling(_CURRENCY_CODE)(element, compiler)
    return template.format(column=compiler.preparer.quote(element.column))


def now() -> datetime:
    """This machine's current instant in UTC, the default of ``UtcDateTime`` columns for rows made in Python."""
    return datetime.now(UTC)
