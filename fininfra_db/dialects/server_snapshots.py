"""The snapshots of a database on a server: each is a database of its own beside it, with a label.

Here is what the servers have in common: the names, the order of the steps, and what is removed when one of them fails.
"""

import asyncio
import re
import secrets
from abc import abstractmethod
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sqlalchemy import URL, Connection
from sqlalchemy.exc import SQLAlchemyError

from fininfra_db.dialects.lifted import Lifted
from fininfra_db.dialects.snapshots import (
    Access,
    Check,
    Facts,
    Kept,
    Look,
    Settle,
    SnapshotStore,
    automatic_name,
    exists,
    newest_first,
    read_label,
    write_label,
)
from fininfra_db.dialects.wording import first_line
from fininfra_db.errors import DatabaseMissing, SnapshotFailed
from fininfra_db.events import Snapshot
from fininfra_db.results import Restored

if TYPE_CHECKING:
    from fininfra_db.dialects.base import Dialect

_DIGEST: Final = 12
_LONG_ENOUGH: Final = 0.02
"""Seconds in which a server has received a statement."""


@dataclass(frozen=True)
class Labelled:
    """A database of the server that has a label, and its size in bytes."""

    database: str
    label: str
    size: int


class ServerSnapshots(SnapshotStore):
    """Copies beside the database. ``source`` is its name."""

    longest: ClassVar[int]
    """Bytes that the name of a database may have."""

    def __init__(self, dialect: "Dialect", url: URL, access: Access) -> None:
        super().__init__(dialect.describe(url))
        self.url = url
        self.source = url.database or ""
        self.dialect, self.access = dialect, access
        self._mine = sha256(self.source.encode()).hexdigest()[:_DIGEST]
        self._partial = re.compile(rf".*_partial_{self._mine}_[0-9a-f]{{{_DIGEST}}}")

    # What each server does in its own way.

    @abstractmethod
    def labelled(self, connection: Connection) -> list[Labelled]:
        """Every database with a label."""

    @abstractmethod
    def databases(self, connection: Connection) -> Collection[str]:
        """The names of the databases of the server, but those without anything in them that a killed run may have left."""

    @abstractmethod
    async def copy(self, held: Lifted, source: str, target: str) -> None:
        """Make the new database ``target`` a copy of ``source``. Raises ``LockNotObtained`` where somebody keeps it from that."""

    @abstractmethod
    async def publish(self, held: Lifted, partial: str, place: str, label: str) -> None:
        """Give a complete copy its name and its label, in one step."""

    @abstractmethod
    async def dress(self, held: Lifted, copy: str) -> None:
        """Give a copy that will take the place of the database what belongs to the place: owner, rights, settings."""

    @abstractmethod
    async def swap(self, held: Lifted, new: str, old: str, label: str | None) -> None:
        """Put ``new`` in the place of the database, which becomes ``old``, with this label; in one step. It may close ``held``.

        Without a label nobody wants what was there, and it is dropped.
        """

    @abstractmethod
    def drop(self, connection: Connection, name: str, *, force: bool = False) -> None:
        """Drop a copy; with ``force``, whoever is connected to it loses the connection."""

    @abstractmethod
    def is_in_use(self, connection: Connection, name: str) -> bool:
        """Whether somebody else is connected to a database."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Be the only command at the copies of this database, where the migration lock is not kept throughout.

        Raises ``LockNotObtained``.
        """
        yield

    def prepare_to_leave(self, connection: Connection) -> None:
        """Tell a session to go on with its statement when its client has left."""

    def leave(self, driver_connection: Any) -> None:
        """Close the driver's connection at once, whatever it is doing, without telling the server to stop that."""
        driver_connection.close()

    @abstractmethod
    def hint(self, error: BaseException) -> str | None:
        """What to do about an error of the server; None when nobody knows."""

    # What they have in common.

    async def kept(self) -> tuple[Kept, ...]:
        async with self._anywhere() as connection:
            labelled = await connection.run_sync(self.labelled)
        found = [read_label(each.label, self.source, each.size, database=each.database) for each in labelled]
        return newest_first([kept for kept in found if kept and kept.snapshot.database == self.place_of(kept.snapshot.name)])

    async def save(self, name: str, look: Look) -> Snapshot:
        place = self.place_of(name)
        with self._failing("No snapshot was made"):
            async with self.turn(), self.access.locked() as held:
                facts: Facts = await held.run_sync(look)
                await self._sweep(held)
                if place in await held.run_sync(self.databases):
                    raise exists(name, self.where)
                partial = self.partial_name()
                async with self._dropped_on_failure(partial):
                    await self.copy(held, self.source, partial)
                    await self.publish(held, partial, place, write_label(name, self.source, facts))
        return (await self.named(name)).snapshot

    async def restore(self, kept: Kept, check: Check, *, settle: Settle | None = None, keep: bool = True) -> Restored:
        """What is written between the end of the lock and the swap is in the snapshot that is kept."""
        assert kept.snapshot.database is not None
        name = None
        with self._failing(f"The snapshot {kept.snapshot.name} was not restored"):
            async with self.turn(), self._held(check) as (held, facts):
                if keep:
                    await self._sweep(held)
                new = self.partial_name()
                async with self._dropped_on_failure(new):
                    await self.copy(held, kept.snapshot.database, new)
                    if settle is not None:
                        await self._settle(new, settle)
                    if facts is None:
                        await self.publish(held, new, self.source, "")
                        return Restored(snapshot=kept.snapshot)
                    await self.dress(held, new)
                    name = automatic_name(facts.revision) if keep else None
                    before = self.place_of(name) if name else self.partial_name()
                    await self.swap(held, new, before, write_label(name, self.source, facts) if name else None)
        if name is None:
            return Restored(snapshot=kept.snapshot)
        return Restored(snapshot=kept.snapshot, kept=(await self.named(name)).snapshot)

    async def delete(self, kept: Kept, check: Check | None = None) -> None:
        with self._failing(f"The snapshot {kept.snapshot.name} was not deleted"):
            async with self.turn(), self._held(check or _anything) as (held, _):
                await self._sweep(held)
                await held.run_sync(self.drop, kept.snapshot.database or "")

    def place_of(self, name: str) -> str:
        """The database that a snapshot is, named after the one that it is of."""
        whole = f"{self.source}_snapshot_{re.sub(r'[^a-z0-9_-]', '_', name.lower())}"
        return self._cut(whole, f"_snapshot_{sha256(whole.encode()).hexdigest()[:_DIGEST]}")

    def may_be_mine(self, database: str) -> bool:
        """Whether a database is called as a snapshot of this one may be."""
        return "_snapshot_" in database and database.lower().startswith(self._beginning(f"_snapshot_{'0' * _DIGEST}").lower())

    def partial_name(self) -> str:
        """A new name for a copy that is not complete, or is on its way out; the next run removes what has such a name."""
        end = f"_partial_{self._mine}_{secrets.token_hex(_DIGEST // 2)}"
        return self._cut(f"{self.source}{end}", end)

    def _cut(self, whole: str, end: str) -> str:
        """``whole``, or where it is too long as much of its beginning as there is room for, and ``end``."""
        if len(whole.encode()) <= self.longest:
            return whole
        return self._beginning(end) + end

    def _beginning(self, end: str) -> str:
        """As much of the name of the database as there is room for before ``end``."""
        return self.source.encode()[: self.longest - len(end)].decode(errors="ignore")

    @asynccontextmanager
    async def _held(self, check: Check) -> AsyncIterator[tuple[Lifted, Facts | None]]:
        """The connection that holds the migration lock, and what ``check`` returned; another one and None where no database is."""
        async with AsyncExitStack() as stack:
            try:
                held = await stack.enter_async_context(self.access.locked())
            except DatabaseMissing:
                yield await stack.enter_async_context(self._server()), None
                return
            yield held, await held.run_sync(check)

    @asynccontextmanager
    async def _anywhere(self) -> AsyncIterator[Lifted]:
        """A connection to the server, through the database if it is there."""
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self.access.open(self.source))
            except DatabaseMissing:
                connection = await stack.enter_async_context(self._server())
            yield connection

    def _server(self) -> AbstractAsyncContextManager[Lifted]:
        return self.access.open(self.dialect.maintenance_database or "")

    @asynccontextmanager
    async def _dropped_on_failure(self, partial: str) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:  # an interruption too: what was begun is not left behind, if the server still listens
            await self.discard(partial)
            raise

    async def discard(self, name: str) -> None:
        """Have the server drop a copy, without waiting for the end of it: the disk may take a second.

        A server goes on with what it has begun when its client leaves. What it could not drop is dropped by a later run.
        """
        with suppress(Exception):  # whatever keeps it from that, this run has another end to come to
            async with self._server() as connection:
                await self._drop_unwatched(connection, name)

    async def _drop_unwatched(self, connection: Lifted, name: str) -> None:
        """The same on a connection, which is closed."""
        with suppress(Exception):  # as above
            await connection.run_sync(self.prepare_to_leave)
            driver_connection = await connection.run_sync(lambda sync: sync.connection.driver_connection)
            dropping = asyncio.create_task(connection.run_sync(self.drop, name))
            await asyncio.wait({dropping}, timeout=_LONG_ENOUGH)
            if not dropping.done():
                self.leave(driver_connection)
            await dropping

    async def _sweep(self, held: Lifted) -> None:
        """Drop what killed runs have left: whoever made it held the lock that is held now."""
        for name in await held.run_sync(self._leftovers):
            with suppress(SQLAlchemyError):  # somebody looks at it: it is dropped another time
                await held.run_sync(self.drop, name)

    def _leftovers(self, connection: Connection) -> list[str]:
        return [name for name in self.databases(connection) if self._partial.fullmatch(name)]

    async def _settle(self, database: str, settle: Settle) -> None:
        async with self.access.open(database) as connection:
            await connection.run_sync(_settled, settle)

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise SnapshotFailed(
                f"{what}: {first_line(error).rstrip('.')}. {self.where} is as it was.",
                self.hint(error) or "Mend what is wrong, and run the command again.",
            ) from error


def _settled(connection: Connection, settle: Settle) -> None:
    settle(connection)
    connection.commit()


def _anything(_connection: Connection) -> Facts:
    """A check that lets everything pass."""
    return Facts()
