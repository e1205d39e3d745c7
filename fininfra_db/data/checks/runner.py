"""Running the rules on one connection for reading, and telling what they found: how many rows, where, and some of their ids."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Inspector, Select, String, Table, and_, func, inspect, or_, select, type_coerce
from sqlalchemy.exc import NoSuchTableError

from fininfra_db.connections import read
from fininfra_db.data.checks.registry import rules_named
from fininfra_db.data.checks.rule import Books, Rule
from fininfra_db.dialects import target_of
from fininfra_db.errors import TablesMissing
from fininfra_db.migrate.config import load_metadata
from fininfra_db.results import DataChecked, FaultyRows, Finding, RuleChecked
from fininfra_db.security import Keyring, keyring_of
from fininfra_db.settings import KEYS_VARIABLE, Settings

_SAMPLES: Final = 5
"""Ids that are told of each place."""
_PAGE: Final = 1000
"""Rows that are judged here at once."""
_LONGEST_ID: Final = 60
_NOTHING_TO_LOOK_AT: Final = "the models have no such column, or the database sees to it itself"
_NO_KEY: Final = "no key is configured"


async def check_data(settings: Settings, names: Sequence[str] = ()) -> DataChecked:
    """Look for rows that break the rules of these names, or any rule. Nothing is written.

    Raises ``OptionsInvalid`` for a name that is no rule's, ``TablesMissing`` when the database lacks what the models have,
    ``KeyInvalid``, ``DatabaseUnreachable``.
    """
    rules = rules_named(names)
    tables = [table for metadata in load_metadata(settings) for table in metadata.sorted_tables]
    dialect, keyring = target_of(settings).dialect, keyring_of(settings)

    def look(connection: Connection) -> tuple[RuleChecked, ...]:
        inspector = inspect(connection)
        _refuse_missing(inspector, tables)
        books = Books(dialect, inspector, tables, keyring)
        return tuple(run_rule(connection, books, rule) for rule in rules)

    checked = await read(settings, look, takes_long=True)
    unopened = [each.rule for each in checked if each.reason == _NO_KEY]
    warnings = (f"Whether sealed values can be opened was not checked: set {KEYS_VARIABLE}.",) if unopened else ()
    return DataChecked(rules=checked, findings=tuple(map(_finding, filter(lambda each: each.count, checked))), warnings=warnings)


def run_rule(connection: Connection, books: Books, rule: Rule) -> RuleChecked:
    """What one rule finds."""
    started = perf_counter()
    queries = list(rule.queries(books))
    reason = None if queries else _NOTHING_TO_LOOK_AT
    found: list[FaultyRows] = []
    if rule.is_fault is None:
        found = [rows for query in queries for rows in _judged_there(connection, query)]
    elif queries and not books.keyring:
        reason = _NO_KEY
    else:
        found = [rows for query in queries for rows in _judged_here(connection, query, books.keyring, rule)]
    return RuleChecked(
        rule=rule.name,
        sentence=rule.sentence,
        seconds=perf_counter() - started,
        reason=reason,
        count=sum(rows.count for rows in found),
        faults=tuple(found),
    )


def _refuse_missing(inspector: Inspector, tables: Sequence[Table]) -> None:
    """The tables and columns that the rules will ask for must be there, or each of them would fail in the database's words."""
    missing = [name for table in tables for name in _missing(inspector, table)]
    if missing:
        raise TablesMissing(
            f"The database lacks what the models have: {', '.join(missing)}. Nothing was checked.",
            "Run 'fininfra-db upgrade'. If nothing is pending, 'fininfra-db check' tells what the revisions lack.",
        )


def _missing(inspector: Inspector, table: Table) -> list[str]:
    try:
        present = {column["name"] for column in inspector.get_columns(table.name, table.schema)}
    except NoSuchTableError:
        return [table.fullname]
    return [f"{table.fullname}.{column.name}" for column in table.columns if column.name not in present]


def _judged_there(connection: Connection, query: Select[Any]) -> Iterator[FaultyRows]:
    """The rows that a query finds, counted by the database, with the first few of each place."""
    rows = query.subquery()
    place, *key = rows.c
    ids = [type_coerce(part, String()).label(part.name) for part in key]  # as they are stored: SQLite keeps what no type reads
    numbered = select(
        place,
        *ids,
        func.count().over(partition_by=place).label("total"),
        func.row_number().over(partition_by=place, order_by=ids or [place]).label("number"),
    ).subquery()
    where, *_, number = numbered.c
    samples = connection.execute(select(numbered).where(number <= _SAMPLES).order_by(where, number))
    found: dict[str, FaultyRows] = {}
    for named, *id_, total, _ in samples:
        before = found.get(named)
        found[named] = FaultyRows(named, total, (*(before.ids if before else ()), *_as_ids(id_)))
    yield from found.values()


def _judged_here(connection: Connection, query: Select[Any], keyring: Keyring, rule: Rule) -> Iterator[FaultyRows]:
    """The same for values that the database cannot judge: a page of rows at a time, in the order of the primary key."""
    assert rule.is_fault is not None
    _, *key, _ = query.selected_columns
    count, where = 0, ""
    ids: list[str] = []
    for place, *key_values, value in _pages(connection, query, key):
        if rule.is_fault(keyring, value):
            where, count = place, count + 1
            ids += _as_ids(key_values) if len(ids) < _SAMPLES else []
    if count:
        yield FaultyRows(where, count, tuple(ids))


def _pages(connection: Connection, query: Select[Any], key: Sequence[ColumnElement[Any]]) -> Iterator[Sequence[Any]]:
    if not key:  # rows that cannot be told apart come all at once
        yield from connection.execute(query)
        return
    first = query.order_by(*key).limit(_PAGE)
    page = connection.execute(first).all()
    while page:
        yield from page
        page = connection.execute(first.where(_after(key, page[-1][1:-1]))).all()


def _after(key: Sequence[ColumnElement[Any]], last: Sequence[Any]) -> ColumnElement[bool]:
    """Rows that come later in the order of the key; not every database compares rows as a whole."""
    return or_(
        *(
            and_(*(column == value for column, value in zip(key[:number], last, strict=False)), column > last[number])
            for number, column in enumerate(key)
        )
    )


def _as_ids(key: Sequence[Any]) -> tuple[str, ...]:
    return (", ".join(part.hex() if isinstance(part, bytes) else str(part) for part in key),) if key else ()


def _finding(checked: RuleChecked) -> Finding:
    places = "; ".join(f"{rows.place} {rows.count:,}{_in_brackets(rows)}" for rows in checked.faults)
    return Finding(
        checked.rule,
        f"{checked.rule}: {checked.sentence.removesuffix('.')}: {places}.",
        f"Look at the rows by their id; 'fininfra-db check-data {checked.rule}' looks again.",
    )


def _in_brackets(rows: FaultyRows) -> str:
    """The ids, whatever they hold: they are somebody else's text."""
    shown = [each if len(each) <= _LONGEST_ID else f"{each[:_LONGEST_ID]}..." for each in rows.ids]
    printable = ["".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in each) for each in shown]
    more = ["..."] if rows.count > len(rows.ids) else []
    return f" ({' | '.join([*printable, *more])})" if printable else ""
