"""The column types on real tables: what goes in comes out unchanged, or is refused before it is sent."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import ROUND_DOWN, Context, Decimal, localcontext
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, Table, delete, func, insert, null, select, text, update
from sqlalchemy.exc import DBAPIError

from fininfra_db import get_async_session, get_engine
from fininfra_db.connections import open_connection
from fininfra_db.errors import DecryptionFailed, FininfraDbError, KeyInvalid, KeyMissing, ValueRefused
from fininfra_db.models import Account, BankConnection, Budget, Document, Goal, Transaction, User
from fininfra_db.security import SEALED_BEGINNINGS, generate_key
from fininfra_db.types import Amounts, EncryptedString, Money, UtcDateTime, new_id
from tests.conftest import DATABASES, PRODUCT_VARIABLES, Project
from tests.contract.test_schema import a_budget, a_connection, a_document, a_goal, a_user, make_finance, run, save, save_household

kept = Table(
    "kept",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("amount", Money()),
    Column("instant", UtcDateTime()),
    Column("secret", EncryptedString(500)),
    mysql_charset="utf8mb4",
)
"""One column of each type. Every test empties it first."""

few = settings(max_examples=30, deadline=None)
"""Each example is a list of values, so that these few are some hundreds."""


@pytest.fixture(scope="module", params=DATABASES)
def finance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, key: str) -> Iterator[Project]:
    """A project at head on each database with the table above, shared by this module's tests."""
    for project in make_finance(request.param, tmp_path_factory.mktemp("finance"), key):
        asyncio.run(create_kept(project))
        yield project


async def create_kept(project: Project) -> None:
    async with open_connection(project.settings(), "migration") as connection:
        await connection.run_sync(kept.create)
        await connection.commit()


async def keep(project: Project, column: str, values: Sequence[Any]) -> list[Any]:
    """Write the values, in place of those before, and read them again in the same order."""
    async with get_engine(project.settings()).begin() as connection:
        await connection.execute(delete(kept))
        if values:
            await connection.execute(insert(kept), [{"id": number, column: value} for number, value in enumerate(values)])
    return list(await ask(project, select(kept.c[column]).order_by(kept.c.id)))


async def ask(project: Project, query: Any) -> Sequence[Any]:
    """The first column of what a query finds."""
    async with get_engine(project.settings()).connect() as connection:
        return (await connection.scalars(query)).all()


async def ask_raw(project: Project, column: str) -> list[Any]:
    """A column as the database holds it, past the types."""
    async with open_connection(project.settings(), "reading") as connection:
        return list((await connection.scalars(text(f"SELECT {column} FROM kept ORDER BY id"))).all())


async def refuse(project: Project, column: str, value: Any, error: type[FininfraDbError] = ValueRefused) -> FininfraDbError:
    """Write a value that is refused, make sure that nothing was written, and return the error."""
    await keep(project, column, [])
    with pytest.raises(error) as caught:
        await keep(project, column, [value])
    assert await ask(project, select(func.count()).select_from(kept)) == [0]
    return caught.value


# Money.

WIDEST = Decimal("999999999999999.9999")
SQLITE_WIDEST = Decimal("922337203685477")
"""Whole units whose ten-thousandths fit 64 bits."""


def amounts(digits: int) -> st.SearchStrategy[Decimal]:
    """Amounts of at most this many significant digits and four decimals, over the whole range of ``NUMERIC(19, 4)``."""
    exact = Context(prec=30)
    most = 10**digits - 1
    scales = st.integers(max(0, digits - 15), 4)
    return st.builds(lambda number, scale: exact.scaleb(Decimal(number), -scale), st.integers(-most, most), scales)


NARROW = amounts(15).filter(lambda amount: abs(amount) <= SQLITE_WIDEST)
"""What every database takes; WIDE is what the servers take."""
WIDE = amounts(19)


@few
@given(st.data())
async def test_every_amount_comes_back_unchanged(finance: Project, data: st.DataObject) -> None:
    written = data.draw(st.lists(NARROW if finance.dialect == "sqlite" else WIDE, max_size=30))
    read = await keep(finance, "amount", written)
    assert read == written
    assert all(type(amount) is Decimal and amount.as_tuple().exponent == -4 for amount in read)


EDGES = [Decimal(0), Decimal("-0"), Decimal("0.0001"), Decimal("-0.0001"), Decimal("1E+3"), Decimal("0E+20"), Decimal("1.10000000000")]


@pytest.mark.parametrize("amount", EDGES, ids=str)
async def test_an_awkwardly_written_amount_comes_back_as_the_same_number(finance: Project, amount: Decimal) -> None:
    assert await keep(finance, "amount", [amount]) == [amount]


@few
@given(st.lists(st.integers(-int(SQLITE_WIDEST), int(SQLITE_WIDEST)), max_size=30))
async def test_every_whole_amount_comes_back_unchanged(finance: Project, written: list[int]) -> None:
    assert await keep(finance, "amount", written) == written


@few
@given(st.lists(st.integers(-(10**12), 10**12).map(lambda number: number / 10_000), max_size=30))
async def test_a_float_that_is_exact_at_four_decimals_is_taken_as_it_is_written(finance: Project, written: list[float]) -> None:
    assert await keep(finance, "amount", written) == [Decimal(str(number)) for number in written]


async def test_null_is_no_amount(finance: Project) -> None:
    assert await keep(finance, "amount", [None, Decimal(1)]) == [None, Decimal(1)]


REFUSED_AMOUNTS = {
    "five decimals": Decimal("0.00001"),
    "five decimals of many": Decimal("12345.67891"),
    "a tiny number": Decimal("1E-999999"),
    "sixteen whole digits": Decimal(10) ** 15,
    "sixteen whole digits, negative": -(10**15),
    "too wide and too fine": Decimal("1234567890123456.12345"),
    "an int longer than Python spells": 10**5000,
    "not a number": Decimal("NaN"),
    "a signalling not a number": Decimal("sNaN"),
    "infinity": Decimal("Infinity"),
    "minus infinity": Decimal("-Infinity"),
    "float nan": float("nan"),
    "float inf": float("inf"),
    "an inexact float": 0.1 + 0.2,
    "a third": 1 / 3,
    "a fine float": 0.00001,
    "a wide float": 1e15,
    "true": True,
    "false": False,
    "text": "1.00",
    "bytes": b"1.00",
    "a complex number": 1 + 0j,
    "a fraction": Fraction(1, 2),
}


@pytest.mark.parametrize("kind", REFUSED_AMOUNTS)
async def test_what_is_no_exact_amount_is_refused(finance: Project, kind: str) -> None:
    await refuse(finance, "amount", REFUSED_AMOUNTS[kind])


@few
@given(st.builds(lambda number, last: Decimal(10 * number + last).scaleb(-4), st.integers(10**14, 10**18 - 1), st.integers(1, 9)))
@example(WIDEST)
@example(Decimal("123456789012.3456"))
@example(SQLITE_WIDEST + 1)
@example(-SQLITE_WIDEST - 1)
async def test_sqlite_refuses_what_its_numbers_do_not_keep_and_the_others_keep_it(finance: Project, amount: Decimal) -> None:
    if finance.dialect == "sqlite":
        assert "15 significant digits" in (await refuse(finance, "amount", amount)).message
    else:
        assert await keep(finance, "amount", [amount]) == [amount]


async def test_the_callers_decimal_context_neither_cuts_nor_stops_an_amount(finance: Project) -> None:
    amount = Decimal("12345678901.1234")
    with localcontext(Context(prec=3, rounding=ROUND_DOWN)):
        assert await keep(finance, "amount", [amount]) == [amount]
        await refuse(finance, "amount", Decimal("12345678901.12345"))


async def test_a_thousand_dimes_are_a_hundred(finance: Project) -> None:
    await keep(finance, "amount", [Decimal("0.10")] * 1000)
    assert await ask(finance, select(func.sum(kept.c.amount))) == [Decimal(100)]


@few
@given(st.lists(st.integers(-(10**10), 10**10).map(lambda number: Decimal(number).scaleb(-4)), min_size=1, max_size=300))
async def test_sums_and_extremes_are_exact(finance: Project, written: list[Decimal]) -> None:
    await keep(finance, "amount", written)
    for function, expected in ((func.sum, sum(written)), (func.min, min(written)), (func.max, max(written))):
        assert await ask(finance, select(function(kept.c.amount))) == [expected]
    assert await ask(finance, select(func.sum(kept.c.amount).over())) == [sum(written)] * len(written)


async def test_thousands_of_large_amounts_add_up_to_the_last_digit(finance: Project) -> None:
    written = [Decimal(99_999_999_999 - 7_919 * number).scaleb(-4) for number in range(5000)]
    await keep(finance, "amount", written)
    assert await ask(finance, select(func.sum(kept.c.amount))) == [sum(written)]


async def test_sums_of_every_shape_are_exact(finance: Project) -> None:
    written = [Decimal("0.10"), Decimal("0.10"), Decimal("0.20"), Decimal("-1000000.0001")]
    await keep(finance, "amount", written)
    total, positive, odd = func.sum(kept.c.amount), kept.c.amount > 0, kept.c.id % 2
    assert await ask(finance, select(func.sum(kept.c.amount.distinct()))) == [sum(set(written))]
    assert await ask(finance, select(total).where(positive)) == [Decimal("0.40")]
    assert await ask(finance, select(total).group_by(odd).order_by(odd)) == [Decimal("0.30"), Decimal("-999999.9001")]
    assert await ask(finance, select(total.over(partition_by=odd)).order_by(kept.c.id).limit(1)) == [Decimal("0.30")]
    assert await ask(finance, select(total.label("total")).order_by(text("total"))) == [sum(written)]
    assert await ask(finance, select(func.sum(-kept.c.amount))) == [-sum(written)]
    assert await ask(finance, select(func.coalesce(total, 0))) == [sum(written)]
    assert await ask(finance, select(total).having(total == sum(written))) == [sum(written)]
    if finance.dialect != "mysql":  # which has no FILTER
        assert await ask(finance, select(total.filter(positive))) == [Decimal("0.40")]
        assert await ask(finance, select(total.filter(positive).over()).limit(1)) == [Decimal("0.40")]


async def test_a_sum_of_nothing_is_null(finance: Project) -> None:
    await keep(finance, "amount", [])
    assert await ask(finance, select(func.sum(kept.c.amount))) == [None]


@pytest.mark.parametrize(
    "written",
    [["123456789012.345", "0.0001"], ["99999999999999.9", "0.05"], ["-999999999999.123", "-0.0004"], ["900000000000000"] * 2],
    ids=["one digit more", "beyond cents", "negative", "beyond 64 bits"],
)
async def test_a_sum_that_sqlite_cannot_hold_is_refused_and_exact_elsewhere(finance: Project, written: list[str]) -> None:
    await keep(finance, "amount", [Decimal(amount) for amount in written])
    query = select(func.sum(kept.c.amount))
    if finance.dialect == "sqlite":
        with pytest.raises((ValueRefused, DBAPIError), match=r"15 significant digits|integer overflow"):
            await ask(finance, query)
    else:
        assert await ask(finance, query) == [sum(map(Decimal, written))]


@pytest.mark.parametrize("written", [[str(SQLITE_WIDEST)], ["99999999999.9999"], ["123456789012.1", "0.2", "0.3"], ["100000000000.01"] * 9])
async def test_a_sum_of_fifteen_digits_is_exact_everywhere(finance: Project, written: list[str]) -> None:
    await keep(finance, "amount", [Decimal(amount) for amount in written])
    assert await ask(finance, select(func.sum(kept.c.amount))) == [sum(map(Decimal, written))]


@few
@given(st.integers(-(10**8), 10**8), st.integers(0, 10_000))
async def test_an_amount_times_a_rate_is_the_product(finance: Project, cents: int, rate: int) -> None:
    amount, factor = Decimal(cents) / 100, Decimal(rate) / 100
    await keep(finance, "amount", [amount])
    assert await ask(finance, select(kept.c.amount * factor)) == [amount * factor]
    assert await ask(finance, select(factor * kept.c.amount)) == [amount * factor]
    assert await ask(finance, select(kept.c.amount * 3)) == [amount * 3]


@pytest.mark.parametrize("rate", [Decimal("0.082625"), Decimal("1.0000001"), 0.0825])
async def test_a_rate_may_have_any_number_of_decimals(finance: Project, rate: Decimal | float) -> None:
    await keep(finance, "amount", [Decimal("80.00")])
    assert await ask(finance, select(kept.c.amount * rate)) == [80 * Decimal(str(rate))]


async def test_an_amount_can_be_divided(finance: Project) -> None:
    await keep(finance, "amount", [Decimal("100.10"), Decimal(0)])
    quotients = await ask(finance, select(kept.c.amount / 4).order_by(kept.c.id))
    assert quotients == [Decimal("25.0250"), 0]
    assert {type(quotient) for quotient in quotients} == {Decimal}


async def test_amounts_add_up_in_sql(finance: Project) -> None:
    await keep(finance, "amount", [Decimal("0.10")])
    assert await ask(finance, select(kept.c.amount + Decimal("0.20"))) == [Decimal("0.30")]
    assert await ask(finance, select(kept.c.amount - kept.c.amount)) == [Decimal(0)]


@few
@given(st.lists(NARROW, min_size=1, max_size=30), st.data())
async def test_amounts_compare_and_sort_as_numbers(finance: Project, written: list[Decimal], data: st.DataObject) -> None:
    pivot = data.draw(st.sampled_from(written))
    await keep(finance, "amount", written)
    assert await ask(finance, select(kept.c.amount).order_by(kept.c.amount)) == sorted(written)
    assert sorted(await ask(finance, select(kept.c.amount).where(kept.c.amount < pivot))) == sorted(a for a in written if a < pivot)
    assert await ask(finance, select(func.count()).where(kept.c.amount == pivot)) == [written.count(pivot)]
    assert await ask(finance, select(func.count()).where(kept.c.amount.in_([pivot]))) == [written.count(pivot)]


@pytest.mark.parametrize("other", ["1.00", 0.1 + 0.2, Decimal("0.00001"), True], ids=str)
async def test_an_amount_is_not_compared_with_what_is_none(finance: Project, other: Any) -> None:
    with pytest.raises(ValueRefused):
        await ask(finance, select(kept.c.id).where(kept.c.amount == other))


# Instants.

ZONES: list[tzinfo] = [
    UTC,
    ZoneInfo("America/New_York"),
    ZoneInfo("Europe/London"),
    ZoneInfo("Australia/Lord_Howe"),  # half an hour of daylight saving
    ZoneInfo("Asia/Kathmandu"),
    ZoneInfo("Pacific/Apia"),  # left out a whole day
    ZoneInfo("Africa/Monrovia"),  # had seconds in its offset
    timezone(timedelta(hours=14)),
    timezone(timedelta(hours=-12)),
    timezone(timedelta(hours=-3, minutes=-30, seconds=-52)),
]
INSTANTS = st.builds(
    lambda instant, fold: instant.replace(fold=fold),
    st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=st.sampled_from(ZONES)),
    st.integers(0, 1),
)
"""Aware instants in many zones, those that happen twice or never among them."""


@few
@given(st.lists(INSTANTS, max_size=30))
async def test_every_instant_comes_back_as_the_same_instant_in_utc(finance: Project, written: list[datetime]) -> None:
    read = await keep(finance, "instant", written)
    assert read == [instant.astimezone(UTC) for instant in written]
    assert all(instant.tzinfo is UTC for instant in read)


@pytest.mark.parametrize(
    "instant",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(1, 1, 1, 14, tzinfo=timezone(timedelta(hours=14))),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC),
        datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
        datetime(2026, 3, 8, 2, 30, tzinfo=ZoneInfo("America/New_York")),
    ],
    ids=str,
)
async def test_the_edges_of_time_come_back_to_the_microsecond(finance: Project, instant: datetime) -> None:
    assert await keep(finance, "instant", [instant]) == [instant.astimezone(UTC)]


async def test_the_hour_that_happens_twice_is_two_hours(finance: Project) -> None:
    first = datetime(2026, 11, 1, 1, 30, tzinfo=ZoneInfo("America/New_York"))
    read = await keep(finance, "instant", [first, first.replace(fold=1)])
    assert read == [datetime(2026, 11, 1, 5, 30, tzinfo=UTC), datetime(2026, 11, 1, 6, 30, tzinfo=UTC)]


@few
@given(st.lists(INSTANTS, min_size=1, max_size=30), st.data())
async def test_instants_compare_and_sort_as_in_python(finance: Project, written: list[datetime], data: st.DataObject) -> None:
    instants = [instant.astimezone(UTC) for instant in written]
    pivot = data.draw(st.sampled_from(written))
    await keep(finance, "instant", written)
    assert await ask(finance, select(kept.c.instant).order_by(kept.c.instant)) == sorted(instants)
    earlier = select(kept.c.instant).where(kept.c.instant <= pivot)
    assert sorted(await ask(finance, earlier)) == sorted(instant for instant in instants if instant <= pivot.astimezone(UTC))
    assert await ask(finance, select(func.max(kept.c.instant))) == [max(instants)]


async def test_null_is_no_instant(finance: Project) -> None:
    assert await keep(finance, "instant", [None, datetime(2026, 1, 31, tzinfo=UTC)]) == [None, datetime(2026, 1, 31, tzinfo=UTC)]


class Nowhere(tzinfo):
    """A zone that does not say its offset."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


REFUSED_INSTANTS = {
    "naive": datetime(2026, 1, 31, 12),
    "without an offset": datetime(2026, 1, 31, 12, tzinfo=Nowhere()),
    "a day": date(2026, 1, 31),
    "text": "2026-01-31T12:00:00Z",
    "seconds": 1_769_860_800,
    "before year 1": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    "after year 9999": datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-1))),
}


@pytest.mark.parametrize("kind", REFUSED_INSTANTS)
async def test_what_is_no_instant_is_refused(finance: Project, kind: str) -> None:
    await refuse(finance, "instant", REFUSED_INSTANTS[kind])


async def test_an_instant_is_not_compared_with_a_naive_time(finance: Project) -> None:
    with pytest.raises(ValueRefused):
        await ask(finance, select(kept.c.id).where(kept.c.instant < datetime(2026, 1, 31)))


IN_ANOTHER_ZONE = {"sqlite": "SELECT 1", "postgresql": "SET TIME ZONE 'Asia/Tokyo'", "mysql": "SET time_zone = '+09:00'"}


async def test_the_time_zone_of_the_server_session_changes_nothing(finance: Project) -> None:
    instant, user = datetime(2026, 1, 31, 23, 59, 59, 123_456, tzinfo=UTC), new_id()
    async with get_async_session(finance.settings()) as session:
        await session.execute(text(IN_ANOTHER_ZONE[finance.dialect]))
        await session.execute(delete(kept))
        await session.execute(insert(kept), {"id": 0, "instant": instant})
        await session.execute(text("INSERT INTO users (id, email) VALUES (:id, :id)"), {"id": user})
        assert await session.scalar(select(kept.c.instant)) == instant
        created = await session.scalar(select(User.created_at).where(User.id == user))
        await session.commit()
    assert await ask(finance, select(kept.c.instant)) == [instant]
    assert created is not None
    assert abs(created - datetime.now(UTC)) < timedelta(seconds=10)


# Sealed text.

TOKEN = "access-sandbox-8ab976e6-64bc-4b38-98f7-731e7a349970"
LONGEST = 303
"""Bytes of plaintext that a column of 500 characters holds."""

TEXTS = st.text(max_size=LONGEST).filter(lambda plain: len(plain.encode()) <= LONGEST and not plain.startswith(SEALED_BEGINNINGS[0]))
"""But for what every token begins with: Hypothesis offers the constants of the program too."""


@few
@given(st.lists(TEXTS, max_size=5))
async def test_every_text_comes_back_unchanged_and_is_not_in_the_database(finance: Project, written: list[str]) -> None:
    assert await keep(finance, "secret", written) == written
    for plain, sealed in zip(written, await ask_raw(finance, "secret"), strict=True):
        assert len(sealed) <= 500
        assert len(plain) < 6 or plain not in sealed


async def test_the_token_of_the_guide_is_sealed_differently_each_time(finance: Project) -> None:
    await keep(finance, "secret", [TOKEN] * 5)
    sealed = await ask_raw(finance, "secret")
    assert len(set(sealed)) == 5
    assert not [text for text in sealed if TOKEN in text or TOKEN[15:30] in text]


@pytest.mark.parametrize("plain", ["a" * LONGEST, "é" * 151, "日" * 101, "\0" * LONGEST], ids=["ASCII", "two bytes", "three bytes", "NUL"])
async def test_the_longest_text_fits(finance: Project, plain: str) -> None:
    assert await keep(finance, "secret", [plain]) == [plain]


@pytest.mark.parametrize("plain", ["a" * (LONGEST + 1), "é" * 152, "日" * 102], ids=["ASCII", "two bytes", "three bytes"])
async def test_one_character_more_is_refused_and_never_cut(finance: Project, plain: str) -> None:
    error = await refuse(finance, "secret", plain)
    assert "500" in error.message
    assert plain not in error.message


@pytest.mark.parametrize("value", [b"bytes", 5, True, "half a pair \ud800"], ids=["bytes", "a number", "a truth", "half a surrogate pair"])
async def test_what_is_no_text_is_refused(finance: Project, value: Any) -> None:
    await refuse(finance, "secret", value)


async def test_null_is_not_sealed(finance: Project) -> None:
    assert await keep(finance, "secret", [None, ""]) == [None, ""]
    raw = await ask_raw(finance, "secret")
    assert raw[0] is None
    assert raw[1]


async def test_a_sealed_column_can_be_tested_for_null(finance: Project) -> None:
    await keep(finance, "secret", [TOKEN, None])
    empty = [kept.c.secret.is_(None), kept.c.secret == None, kept.c.secret.is_(null()), kept.c.secret == null()]  # noqa: E711
    full = [kept.c.secret.is_not(None), kept.c.secret != None, kept.c.secret.is_not(null())]  # noqa: E711
    for condition, numbers in [(each, [1]) for each in empty] + [(each, [0]) for each in full]:
        assert await ask(finance, select(kept.c.id).where(condition)) == numbers
    assert await ask(finance, select(func.count(kept.c.secret))) == [1]


@pytest.mark.parametrize(
    "compare",
    [
        lambda column: column == TOKEN,
        lambda column: column != TOKEN,
        lambda column: column < TOKEN,
        lambda column: column.in_([TOKEN]),
        lambda column: column.not_in([TOKEN]),
        lambda column: column.like("access%"),
        lambda column: column.startswith("access"),
        lambda column: column.contains("access"),
        lambda column: column + "x",
        lambda column: column.is_distinct_from(TOKEN),
        lambda column: column.between("a", "b"),
        lambda column: column.desc(),
        lambda column: column != column,
        lambda column: column == kept.c.id,
    ],
    ids=["eq", "ne", "lt", "in", "not in", "like", "startswith", "contains", "concat", "distinct", "between", "desc", "itself", "another"],
)
def test_a_sealed_column_cannot_be_compared(compare: Any) -> None:
    for column in (kept.c.secret, BankConnection.access_token):
        with pytest.raises(ValueRefused, match="NULL only"):
            compare(column)


@pytest.mark.parametrize("synchronize", ["auto", "fetch", "evaluate", False])
async def test_a_sealed_column_is_updated_in_bulk(finance: Project, synchronize: Any) -> None:
    _, connection, *_ = await save_household(finance)
    async with get_async_session(finance.settings()) as session:
        held = await session.get_one(BankConnection, connection.id)
        change = update(BankConnection).where(BankConnection.id == connection.id).values(access_token="new")
        await session.execute(change, execution_options={"synchronize_session": synchronize})
        await session.commit()
        await session.refresh(held)
        assert held.access_token == "new"


async def test_the_wrong_key_opens_nothing_but_everything_else_works(finance: Project) -> None:
    _, connection, *_ = await save_household(finance)
    async with get_async_session(finance.settings(FININFRA_DB_KEYS=generate_key())) as session:
        assert await session.scalar(select(BankConnection.item_id).where(BankConnection.id == connection.id)) == connection.item_id
        with pytest.raises(DecryptionFailed) as caught:
            await session.scalar(select(BankConnection).where(BankConnection.id == connection.id))
    assert connection.access_token not in str(caught.value)


async def test_a_second_key_opens_what_it_sealed_before(finance: Project) -> None:
    _, connection, *_ = await save_household(finance)
    rotated = f"{generate_key()},{finance.environ['FININFRA_DB_KEYS']}"
    async with get_async_session(finance.settings(FININFRA_DB_KEYS=rotated)) as session:
        found = await session.get_one(BankConnection, connection.id)
        assert found.access_token == connection.access_token


@pytest.mark.parametrize(("keys", "error"), [("", KeyMissing), ("secret", KeyInvalid)], ids=["no key", "a malformed key"])
async def test_without_a_good_key_everything_works_but_sealed_columns(
    finance: Project, keys: str, error: type[FininfraDbError], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PRODUCT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    user, connection, account, *_ = await save_household(finance)
    keyless = finance.settings(FININFRA_DB_KEYS=keys)
    async with get_async_session(keyless) as session:
        assert (await session.get_one(Account, account.id)).balance == account.balance
        assert await session.scalar(select(BankConnection.item_id).where(BankConnection.id == connection.id)) == connection.item_id
        with pytest.raises(error):
            await session.scalar(select(BankConnection.access_token).where(BankConnection.id == connection.id))
    async with get_async_session(keyless) as session:
        session.add(a_connection(user))
        with pytest.raises(error):
            await session.commit()
    async with get_async_session(keyless) as session:
        with pytest.raises(error):
            await session.execute(update(BankConnection).where(BankConnection.id == connection.id).values(access_token="new"))
    assert (await rows(finance, "SELECT count(*) FROM bank_connections WHERE user_id = :id", id=user.id)) == [(1,)]


async def test_settings_without_keys_do_not_borrow_the_keys_of_the_process(finance: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    user = a_user()
    await save(finance, user)
    monkeypatch.setenv("FININFRA_DB_KEYS", generate_key())
    async with get_async_session(finance.settings(FININFRA_DB_KEYS="")) as session:
        session.add(a_connection(user))
        with pytest.raises(KeyMissing):
            await session.commit()


async def test_altered_ciphertext_is_an_error_and_never_garbage(finance: Project) -> None:
    _, connection, *_ = await save_household(finance)
    await run(finance, "UPDATE bank_connections SET access_token = 'access-sandbox-in-the-clear' WHERE id = :id", id=connection.id)
    async with get_async_session(finance.settings()) as session:
        with pytest.raises(DecryptionFailed):
            await session.get(BankConnection, connection.id)


def test_the_types_show_nothing_but_what_a_migration_needs() -> None:
    shown = [repr(each) for each in (Money(), UtcDateTime(), EncryptedString(500), Amounts())]
    assert shown == ["Money()", "UtcDateTime()", "EncryptedString(500)", "JSON()"]


# Amounts in JSON.

LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9)
CATEGORIES = st.dictionaries(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=10),
    st.recursive(LEAVES.filter(lambda leaf: leaf is None or "\0" not in str(leaf)) | DECIMALS, lambda inner: st.lists(inner, max_size=3)),
    max_size=5,
)


async def rows(project: Project, query: str, **values: Any) -> list[tuple[Any, ...]]:
    async with open_connection(project.settings(), "reading") as connection:
        return [tuple(row) for row in await connection.execute(text(query), values)]


async def stored(project: Project, budget: Budget) -> Any:
    """The categories of a budget as the database holds them."""
    ((found,),) = await rows(project, "SELECT categories FROM budgets WHERE id = :id", id=budget.id)
    return json.loads(found) if isinstance(found, str) else found


async def save_budget(project: Project, **values: Any) -> Budget:
    user = a_user()
    budget = a_budget(user, **values)
    await save(project, user, budget)
    return budget


def as_stored(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    return [as_stored(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=20, deadline=None)
@given(CATEGORIES)
async def test_amounts_in_json_come_back_with_decimals_as_strings(finance: Project, categories: dict[str, Any]) -> None:
    expected = {name: as_stored(value) for name, value in categories.items()}
    budget = await save_budget(finance, categories=categories)
    assert await stored(finance, budget) == expected
    async with get_async_session(finance.settings()) as session:
        assert dict((await session.get_one(Budget, budget.id)).categories) == expected


@pytest.mark.parametrize(
    "categories",
    [{"Food": 12.5}, {"Food": {"Out": [1, {"Tips": 0.5}]}}, {"Food": (1, 2.0)}, {"Food": float("nan")}],
    ids=["a float", "deep inside", "in a tuple", "nan"],
)
async def test_a_float_in_json_is_refused_wherever_it_is(finance: Project, categories: dict[str, Any]) -> None:
    user = a_user()
    with pytest.raises(ValueRefused, match="never a float"):
        await save(finance, user, a_budget(user, categories=categories))
    assert await rows(finance, "SELECT count(*) FROM users WHERE id = :id", id=user.id) == [(0,)]


async def test_changes_in_place_are_saved(finance: Project) -> None:
    budget = await save_budget(finance, categories={"Food": 500, "Rent": 900, "Fun": 1})
    async with get_async_session(finance.settings()) as session, session.begin():
        found = await session.get_one(Budget, budget.id)
        found.categories["Food"] = Decimal("512.50")
        found.categories.update(Transport=200)
        del found.categories["Fun"]
    assert await stored(finance, budget) == {"Food": "512.50", "Rent": 900, "Transport": 200}


async def test_a_float_put_in_place_is_refused_and_nothing_changes(finance: Project) -> None:
    budget = await save_budget(finance, categories={"Food": 500})
    async with get_async_session(finance.settings()) as session:
        found = await session.get_one(Budget, budget.id)
        found.categories["Food"] = 500.5
        with pytest.raises(ValueRefused):
            await session.commit()
    assert await stored(finance, budget) == {"Food": 500}


async def test_a_category_can_be_asked_for_in_sql(finance: Project) -> None:
    budget = await save_budget(finance, categories={"Food": Decimal("12.50"), "Car": {"Fuel": 30}})
    async with get_async_session(finance.settings()) as session:
        query = select(Budget.categories["Food"].as_string(), Budget.categories[("Car", "Fuel")].as_integer())
        assert tuple((await session.execute(query.where(Budget.id == budget.id))).one()) == ("12.50", 30)


async def test_what_was_read_from_a_document_may_hold_floats_and_changes_in_place(finance: Project) -> None:
    user = a_user()
    document, empty = a_document(user, extracted_data={"confidence": 0.98}), a_document(user, extracted_data=None)
    await save(finance, user, document, empty)
    async with get_async_session(finance.settings()) as session, session.begin():
        found = await session.get_one(Document, document.id)
        assert found.extracted_data == {"confidence": 0.98}
        found.extracted_data["employer"] = "ACME"
    async with get_async_session(finance.settings()) as session:
        assert (await session.get_one(Document, document.id)).extracted_data == {"confidence": 0.98, "employer": "ACME"}
        assert (await session.scalars(select(Document.id).where(Document.user_id == user.id, Document.extracted_data.is_(None)))).all() == [
            empty.id
        ]


# Defaults of the server and of the session.


async def test_a_row_made_by_sql_gets_the_defaults_that_python_would_give_it(finance: Project) -> None:
    user, connection, account, transaction, goal = (new_id() for _ in range(5))
    before = datetime.now(UTC)
    for statement in (
        f"INSERT INTO users (id, email) VALUES ('{user}', '{user}')",
        "INSERT INTO bank_connections (id, user_id, access_token, item_id, institution_name) "
        f"VALUES ('{connection}', '{user}', 'sealed elsewhere', 'item', 'Bank')",
        "INSERT INTO accounts (id, user_id, connection_id, account_id, name, type, subtype, balance) "
        f"VALUES ('{account}', '{user}', '{connection}', 'a', 'Cash', 'depository', 'cash', 12.5)",
        "INSERT INTO transactions (id, user_id, account_id, transaction_id, amount, date, name) "
        f"VALUES ('{transaction}', '{user}', '{account}', 't', -1.25, '2026-01-31', 'Tea')",
        "INSERT INTO goals (id, user_id, name, target_amount, target_date, priority) "
        f"VALUES ('{goal}', '{user}', 'Holiday', 2000, '2026-12-31', 'low')",
    ):
        assert await run(finance, statement) == 1
    async with get_async_session(finance.settings()) as session:
        made = await session.get_one(User, user)
        held = await session.get_one(Account, account)
        moved = await session.get_one(Transaction, transaction)
        wanted = await session.get_one(Goal, goal)
        linked = await session.scalar(select(BankConnection.created_at).where(BankConnection.id == connection))
    assert (made.hashed_password, held.currency, held.balance) == ("!", "USD", Decimal("12.5"))
    assert (moved.pending, moved.amount, wanted.current_amount) == (False, Decimal("-1.25"), Decimal(0))
    for instant in (made.created_at, linked, held.updated_at, moved.created_at, wanted.created_at):
        assert instant is not None
        assert instant.tzinfo is UTC
        assert abs(instant - before) < timedelta(seconds=10)


async def test_instants_of_the_server_and_of_python_are_of_one_form(finance: Project) -> None:
    by_python, by_server = a_user(), new_id()
    await save(finance, by_python)
    await run(finance, "INSERT INTO users (id, email) VALUES (:id, :id)", id=by_server)
    found = await rows(finance, "SELECT id FROM users WHERE id IN (:a, :b) ORDER BY created_at", a=by_python.id, b=by_server)
    assert found == [(by_python.id,), (by_server,)]


async def test_an_update_of_an_account_renews_updated_at(finance: Project) -> None:
    _, _, account, *_ = await save_household(finance)
    async with get_async_session(finance.settings()) as session, session.begin():
        found = await session.get_one(Account, account.id)
        before, found.balance = found.updated_at, Decimal("7.77")
    assert found.updated_at > before
    async with get_async_session(finance.settings()) as session:
        assert (await session.get_one(Account, account.id)).updated_at == found.updated_at


async def test_ids_made_in_turn_sort_in_turn(finance: Project) -> None:
    user = a_user()
    goals = [a_goal(user, id=new_id()) for _ in range(50)]
    await save(finance, user, *reversed(goals))
    found = await rows(finance, "SELECT id FROM goals WHERE user_id = :id ORDER BY id", id=user.id)
    assert [goal for (goal,) in found] == [goal.id for goal in goals]
