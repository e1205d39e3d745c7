"""What sealed columns hold: which there are, which key opens each value, and what is to be done about it."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sqlalchemy import Connection, func, select

from fininfra_db.dialects import Dialect
from fininfra_db.dialects.swapping import Key, Slot, Swap
from fininfra_db.errors import ConfigurationError
from fininfra_db.migrate.config import load_metadata
from fininfra_db.results import Finding, Rows, SealedColumn
from fininfra_db.security import Keyring, Verdict, looks_sealed
from fininfra_db.settings import KEYS_VARIABLE, Settings
from fininfra_db.types import sealed_length

Way = Literal["look", "rotate", "encrypt"]
"""To look only, to seal with the first key what was sealed with another one, or to seal what is plaintext."""

PAGE: Final = 2000
"""Rows that are read at once, and written in one transaction."""
_SHOWN: Final = 10
"""So many rows of a kind are named; the rest is counted."""


def sealed_slots(settings: Settings) -> list[Slot]:
    """Every sealed column of the models. Raises ``ConfigurationError`` where its rows cannot be told apart by a primary key."""
    found = [
        Slot(table, column)
        for metadata in load_metadata(settings)
        for table in metadata.sorted_tables
        for column in table.columns
        if sealed_length(column.type) is not None
    ]
    for slot in found:
        if not slot.names or slot.column.name in slot.names:
            raise ConfigurationError(
                f"{name_of(slot)} is sealed, and its table has no primary key beside it, by which rows can be told apart. "
                "Nothing was changed.",
                "Give the table a primary key that is not sealed.",
            )
    return found


def name_of(slot: Slot) -> str:
    """A column in words."""
    return f"{slot.table.fullname}.{slot.column.name}"


def id_of(key: Key) -> str:
    """A primary key as text."""
    return ", ".join(part.hex() if isinstance(part, bytes) else str(part) for part in key)


@dataclass(frozen=True)
class Page:
    """Rows in the order of their primary key, each with its value as it is stored, and where the next page begins."""

    rows: Sequence[tuple[Key, str]]
    last: Key | None


def read_page(connection: Connection, dialect: Dialect, slot: Slot, after: Key | None) -> Page:
    """The next rows with a value, behind the primary key ``after``, or the first ones."""
    query = select(*slot.key, slot.value).where(slot.value.is_not(None)).order_by(*slot.key).limit(PAGE)
    if after is not None:
        query = query.where(slot.after(after, row_comparison=dialect.features.row_comparison))
    rows = [(row[:-1], row[-1]) for row in connection.execute(query).all()]
    return Page(rows, rows[-1][0] if rows else after)


@dataclass
class Seen:
    """A kind of rows while they are counted."""

    count: int = 0
    ids: list[str] = field(default_factory=list)

    def add(self, key: Key) -> None:
        self.count += 1
        if len(self.ids) < _SHOWN:
            self.ids.append(id_of(key))

    def done(self) -> Rows:
        return Rows(self.count, tuple(self.ids))


class Tally:
    """Counts the rows of one column by what became of them."""

    def __init__(self, slot: Slot, keyring: Keyring) -> None:
        self.slot = slot
        self.total = self.nulls = self.judged = self.changed = 0
        self._fingerprints = keyring.fingerprints
        self._length = sealed_length(slot.column.type) or 0
        self._under: Counter[int] = Counter()
        self._plaintext, self._unopened, self._too_long = Seen(), Seen(), Seen()

    def count(self, connection: Connection) -> None:
        """Ask how many rows there are, and how many have no value."""
        self.total, values = connection.execute(select(func.count(), func.count(self.slot.value)).select_from(self.slot.rows)).one()
        self.nulls = self.total - values

    def take(self, key: Key, value: str, verdict: Verdict) -> Swap | None:
        """What is to be written to a row. It is counted when it ``was_written``, for somebody else may be faster; any other row now."""
        self.judged += 1
        number, sealed = verdict
        if sealed is not None and len(sealed) <= self._length:
            return Swap(key, value, sealed)
        if sealed is not None:
            self._too_long.add(key)
        self.leave(key, value, number)
        return None

    def leave(self, key: Key, value: str, number: int | None) -> None:
        """A row stays as it is."""
        if number is not None:
            self._under[number] += 1
        elif looks_sealed(value):
            self._unopened.add(key)
        else:
            self._plaintext.add(key)

    def was_written(self, rows: int) -> None:
        """So many rows are sealed with the first key now."""
        self.changed += rows
        self._under[0] += rows

    def done(self) -> SealedColumn:
        """What was counted."""
        return SealedColumn(
            table=self.slot.table.fullname,
            column=self.slot.column.name,
            rows=self.total,
            nulls=self.nulls,
            keys={name: self._under[number] for number, name in enumerate(self._fingerprints)},
            plaintext=self._plaintext.done(),
            unopened=self._unopened.done(),
            too_long=self._too_long.done(),
            changed=self.changed,
        )


def survey(connection: Connection, dialect: Dialect, tallies: Sequence[Tally], examine: Callable[[str], Verdict]) -> None:
    """Look at every row of every column. No transaction lasts longer than a page. A row that would be written counts as changed."""
    for tally in tallies:
        tally.count(connection)
        page = read_page(connection, dialect, tally.slot, None)
        while page.rows:
            connection.rollback()
            for key, value in page.rows:
                verdict = examine(value)
                if tally.take(key, value, verdict) is not None:
                    tally.changed += 1
                    tally.leave(key, value, verdict[0])
            page = read_page(connection, dialect, tally.slot, page.last)
        connection.rollback()


def find_work(columns: Sequence[SealedColumn], way: Way) -> Iterator[Finding]:
    """What is left to be done after one of the ways."""
    if spots := _spots(columns, "unopened"):
        yield Finding(
            "unopened",
            f"Rows that no configured key opens: {spots}. They were left as they are.",
            f"Add the key that sealed them to the end of {KEYS_VARIABLE} and run this again. A value that was altered is lost.",
        )
    if (spots := _spots(columns, "plaintext")) and way != "encrypt":
        yield Finding("plaintext", f"Rows that are not sealed: {spots}.", "Seal them with 'fininfra-db keys encrypt'.")
    if spots := _spots(columns, "too_long"):
        yield Finding(
            "too-long",
            f"Rows that do not fit into their column when they are sealed: {spots}. They were left as they are.",
            "Widen the column with a revision, or shorten the values.",
        )
    old = [(each, sum(list(each.keys.values())[1:])) for each in columns]
    if way == "look" and any(count for _, count in old):
        spots = "; ".join(f"{each.table}.{each.column} {count:,}" for each, count in old if count)
        yield Finding("old-key", f"Rows that are not under the first key: {spots}.", "Seal them with it: 'fininfra-db keys rotate'.")


def _spots(columns: Sequence[SealedColumn], kind: str) -> str:
    """How many rows of a kind there are in each column, and the first of them."""
    found: list[tuple[SealedColumn, Any]] = [(each, getattr(each, kind)) for each in columns]
    return "; ".join(
        f"{each.table}.{each.column} {rows.count:,} ({' | '.join(rows.ids)}{' | ...' if rows.count > len(rows.ids) else ''})"
        for each, rows in found
        if rows.count
    )
