"""The life of keys: which rows are under which key, sealing them all with the first one, and sealing what is plaintext.

A run goes through each sealed column by primary key, a page at a time, one transaction for each. It keeps no place of its own: a
row says by itself which key sealed it, so whatever ends a run, the next one finds what is left. Others may write meanwhile: a
value is replaced only while it is still what was read, and looked at again when it is not.
"""

import asyncio
import random
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fininfra_db.connections import migration_lock, open_connection, read
from fininfra_db.data.sealed import Page, Tally, Way, find_work, id_of, name_of, read_page, sealed_slots, survey
from fininfra_db.data.worker import Examine, examiner, worker
from fininfra_db.dialects import target_of
from fininfra_db.dialects.base import first_line
from fininfra_db.dialects.swapping import Key, Swap
from fininfra_db.errors import DatabaseFailed, FininfraDbError, ResealingFailed
from fininfra_db.events import Observer, Progress
from fininfra_db.results import KeysStatus, Resealed, SealedColumn
from fininfra_db.security import keyring_of
from fininfra_db.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

A = TypeVar("A")
B = TypeVar("B")

_TRIES: Final = 5
"""How often a batch is tried that does not get the locks of its rows."""
_UPGRADE_FIRST: Final = "If the models are ahead of the database, run 'fininfra-db upgrade' first."


async def keys_status(settings: Settings) -> KeysStatus:
    """Which key each row is under. Nothing is written. Raises ``KeyMissing``, ``KeyInvalid``, ``DatabaseUnreachable``."""
    columns = await _look(settings, "look")
    return KeysStatus(keys=keyring_of(settings).fingerprints, columns=columns, findings=tuple(find_work(columns, "look")))


async def reseal(settings: Settings, way: Way, *, dry_run: bool = False, observer: Observer | None = None) -> Resealed:
    """Seal with the first key what another one sealed (``rotate``), or what is plaintext (``encrypt``).

    A ``dry_run`` does the same and writes nothing. Rows that no key opens, or that would not fit, are left as they are and
    found. Each row is opened again before it is written, and read back before it is committed.
    Raises ``ResealingFailed``, ``KeyMissing``, ``KeyInvalid``, ``LockNotObtained``, ``DatabaseUnreachable``; what was committed
    before stays, and the next run carries on.
    """
    columns = await (_look(settings, way) if dry_run else _Run(settings, way, observer).run())
    keys = keyring_of(settings).fingerprints
    return Resealed(way=way, dry_run=dry_run, keys=keys, columns=columns, findings=tuple(find_work(columns, way)))


async def _look(settings: Settings, way: Way) -> tuple[SealedColumn, ...]:
    slots, keyring, dialect = sealed_slots(settings), keyring_of(settings), target_of(settings).dialect
    examine = examiner(keyring, way)  # without a key nothing is contacted

    def look(connection: Connection) -> tuple[SealedColumn, ...]:
        tallies = [Tally(slot, keyring) for slot in slots]
        survey(connection, dialect, tallies, examine)
        return tuple(tally.done() for tally in tallies)

    try:
        return await read(settings, look, takes_long=True)
    except SQLAlchemyError as error:
        raise DatabaseFailed(
            settings.redact(f"The sealed columns cannot be read: {first_line(error).rstrip('.')}. Nothing was changed."), _UPGRADE_FIRST
        ) from error


async def _together(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Both at once; when one fails, the other is cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as errors:  # of two that fail at once, either explains the end of the run
        raise errors.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()


class _Run:
    """One run over every sealed column."""

    def __init__(self, settings: Settings, way: Way, observer: Observer | None) -> None:
        self._settings, self._way, self._observer = settings, way, observer
        self._dialect = target_of(settings).dialect
        self._keyring = keyring_of(settings)
        self._tallies = [Tally(slot, self._keyring) for slot in sealed_slots(settings)]

    async def run(self) -> tuple[SealedColumn, ...]:
        settings = self._settings
        with self._telling_what_is_done():
            async with (
                migration_lock(settings, self._observer) as lock,
                lock.kept(),
                open_connection(settings, "seeding") as connection,
                worker(self._keyring, self._way) as examine,
            ):
                for tally in self._tallies:
                    await self._go_through(connection, tally, examine)
        return tuple(tally.done() for tally in self._tallies)

    async def _go_through(self, connection: "AsyncConnection", tally: Tally, examine: Examine) -> None:
        """While one page is examined, the one before is written and the next one is read."""
        await connection.run_sync(tally.count)
        page, swaps = await self._write_and_read(connection, tally, [], None), list[Swap]()
        while swaps or page.rows:
            written, examined = self._write_and_read(connection, tally, swaps, page.last), examine([value for _, value in page.rows])
            following, verdicts = await _together(written, examined)
            taken = (tally.take(key, value, verdict) for (key, value), verdict in zip(page.rows, verdicts, strict=True))
            page, swaps = following, [swap for swap in taken if swap is not None]
            if self._observer:
                self._observer(Progress(name_of(tally.slot), tally.judged, tally.total - tally.nulls))

    async def _write_and_read(self, connection: "AsyncConnection", tally: Tally, swaps: list[Swap], after: Key | None) -> Page:
        """One transaction: write ``swaps``, and read the rows that come next; those that somebody else has changed come again."""

        def work(sync: Connection) -> tuple[int, Page]:
            lost = self._write(sync, tally, swaps) if swaps else []
            page = read_page(sync, self._dialect, tally.slot, after)
            again = [(key, value) for key, value in lost if value is not None]
            return len(lost), Page([*again, *page.rows], page.last)

        for attempt in range(1, _TRIES + 1):
            try:
                lost, page = await connection.run_sync(work)
                await connection.commit()
            except DBAPIError as error:
                if attempt == _TRIES or not self._dialect.gave_up_waiting(error):
                    raise
                await connection.rollback()
                await asyncio.sleep(random.uniform(0.1, 0.5) * attempt)
            else:
                tally.was_written(len(swaps) - lost)
                return page
        raise AssertionError("the last try returns or raises")

    def _write(self, connection: Connection, tally: Tally, swaps: Sequence[Swap]) -> list[tuple[Key, str | None]]:
        """Write, and see that what is stored is what was written. Returns the rows that were not, as others have left them."""
        stored = self._dialect.swap(connection, tally.slot, swaps)
        lost = []
        for swap in swaps:
            found = stored.get(swap.key)
            if found == swap.new:
                continue
            row = select(tally.slot.value).where(tally.slot.at(swap.key)).with_for_update()
            value = connection.scalar(row) if found is None else found
            if found is not None or value == swap.old:
                raise ResealingFailed(
                    f"{name_of(tally.slot)} of the row {id_of(swap.key)} is not what was written to it, and its batch was rolled back.",
                    "Look for a trigger that changes the column, and for a difference between the column and its model.",
                )
            lost.append((swap.key, value))
        return lost

    @contextmanager
    def _telling_what_is_done(self) -> Iterator[None]:
        """Whatever ends a run says what stays of it."""
        try:
            yield
        except FininfraDbError as error:
            if self._changed:
                error.add(self._state)
            raise
        except SQLAlchemyError as error:
            reason = self._settings.redact(first_line(error).rstrip("."))
            raise ResealingFailed(f"The database refused a statement: {reason}. {self._state}", _UPGRADE_FIRST) from error
        except (asyncio.CancelledError, KeyboardInterrupt) as error:
            error.add_note(self._state)
            raise

    @property
    def _changed(self) -> int:
        return sum(tally.changed for tally in self._tallies)

    @property
    def _state(self) -> str:
        if not self._changed:
            return "Nothing was changed."
        rows = f"{self._changed:,} row{' is' if self._changed == 1 else 's are'}"
        return f"{rows} sealed with the first key and committed; the last batch was rolled back. Run the command again: it carries on."
