"""The snapshots of a SQLite database as a store: the files of :mod:`fininfra_db.dialects.sqlite_snapshots`."""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.util import greenlet_spawn

from fininfra_db.dialects import sqlite_snapshots
from fininfra_db.dialects.snapshots import Access, Check, Facts, Kept, Look, Settle, SnapshotStore, require_found
from fininfra_db.dialects.threads import in_thread
from fininfra_db.errors import DatabaseUnreachable
from fininfra_db.events import Snapshot
from fininfra_db.results import Restored

if TYPE_CHECKING:
    from sqlalchemy import Connection


class SqliteSnapshots(SnapshotStore):
    """Copies beside the file."""

    def __init__(self, file: Path, access: Access) -> None:
        super().__init__(f"SQLite database {file}")
        self._file, self._access = file, access

    def inventory(self, connection: "Connection") -> tuple[str, ...]:
        return tuple(connection.scalars(text("SELECT type || ' ' || name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY 1")))

    async def kept(self) -> tuple[Kept, ...]:
        return sqlite_snapshots.find(self._file)

    async def named(self, name: str) -> Kept:
        """By its name, or that of its file."""
        return require_found(sqlite_snapshots.name_of(self._file, name), sqlite_snapshots.kept_by_name(self._file), self.where)

    async def save(self, name: str, look: Look) -> Snapshot:
        """The copy is made by a second connection while the first one holds the write lock."""

        def work(connection: "Connection") -> Snapshot:
            facts: Facts = look(connection)
            return in_thread(lambda stop: sqlite_snapshots.save(self._file, name, facts, stop))

        async with self._access.locked() as connection:
            return await connection.run_sync(work)

    async def restore(self, kept: Kept, check: Check, *, settle: Settle | None = None, keep: bool = True) -> Restored:
        """What is written between the check and the lock that keeps everybody off is in the snapshot that is kept."""
        with suppress(DatabaseUnreachable):  # missing or damaged: it has nothing to say
            async with self._access.locked() as connection:
                await connection.run_sync(check)
        name = kept.snapshot.name
        restore = partial(sqlite_snapshots.restore, self._file, name, self._access.timeout, keep=keep)
        if settle is None:
            return await greenlet_spawn(in_thread, restore)
        with sqlite_snapshots.copied(self._file, name) as copy:
            async with self._access.open(str(copy)) as connection:
                await connection.run_sync(_settled, settle)
            return await greenlet_spawn(in_thread, partial(restore, source=copy))

    async def delete(self, kept: Kept, check: Check | None = None) -> None:
        if check is not None:
            with suppress(DatabaseUnreachable):
                async with self._access.locked() as connection:
                    await connection.run_sync(check)
        sqlite_snapshots.delete(self._file, kept.snapshot.name)


def _settled(connection: "Connection", settle: Settle) -> None:
    settle(connection)
    connection.commit()
