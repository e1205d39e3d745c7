"""Snapshots of a SQLite database: verified copies that are kept beside its file.

A copy is made with SQLite's backup interface under SQLite's own locks (a copy of the file alone would miss the -wal, or
catch it half written), is readable by its owner only, and has its name only once it is complete, checked and on the disk.
"""

import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Final
from urllib.parse import quote

from fininfra_db.errors import LockNotObtained, SnapshotFailed, SnapshotNotFound
from fininfra_db.events import Snapshot
from fininfra_db.results import Restored

KEPT: Final = 3
"""How many automatic snapshots are kept."""

_MARK: Final = ".snapshot-"
_NAME: Final = re.compile(r"(?P<taken>\d{8}T\d{6}\.\d{3})Z-(?P<revision>[^-]+)")
_TIME: Final = "%Y%m%dT%H%M%S.%f"
_NO_REVISION: Final = "none"
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")
_PAGES: Final = 1000
"""Pages copied between two looks at whether the copy is still wanted."""
_STALE: Final = 3600.0
"""Seconds after which a copy that was begun and not finished is taken for one whose process was killed."""
_UNREADABLE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class _Unreadable(Exception):
    """What is in a file is not, or not any more, a SQLite database."""


def take(file: Path, versions: Collection[str], stop: Event) -> Snapshot:
    """Copy a database that is at the revisions ``versions``. A transaction that is open on it is not in the copy.

    Raises ``SnapshotFailed``, and then nothing is left behind.
    """
    try:
        with closing(_connect(file, "mode=ro")) as source:
            return _take(source, file, versions, stop)
    except (OSError, sqlite3.Error, _Unreadable) as error:
        raise SnapshotFailed(
            f"No snapshot of {file} could be made: {_words(error)}. The migration did not begin; nothing was changed.",
            "Make room or mend what is wrong, or migrate without a snapshot: --no-snapshot.",
        ) from None


def find(file: Path) -> tuple[Snapshot, ...]:
    """The snapshots of a database, the newest first."""
    found = []
    with suppress(FileNotFoundError), os.scandir(file.parent) as entries:
        for entry in entries:
            marked, name = entry.name[: len(file.name) + len(_MARK)], entry.name[len(file.name) + len(_MARK) :]
            if marked == f"{file.name}{_MARK}" and (match := _NAME.fullmatch(name)):
                found.append(_snapshot(file, match, entry.stat().st_size))
    return tuple(sorted(found, key=lambda snapshot: snapshot.name, reverse=True))


def prune(file: Path, *, spare: Snapshot) -> None:
    """Delete all automatic snapshots but the last three; ``spare`` is not deleted, whatever the clock says."""
    older = [snapshot for snapshot in find(file) if snapshot.name != spare.name]
    for snapshot in older[KEPT - 1 :]:
        snapshot.path.unlink(missing_ok=True)
    for partial in file.parent.iterdir():
        if partial.name.startswith(f".{file.name}{_MARK}") and time.time() - partial.stat().st_mtime > _STALE:
            partial.unlink(missing_ok=True)


def restore(file: Path, name: str, timeout: float, stop: Event) -> Restored:
    """Make a database what it was in a snapshot, in one transaction. What it is now is kept as a snapshot too.

    A file that is damaged is moved aside instead, as it is. ``timeout`` is in seconds, for others to let go of the database.
    Raises ``SnapshotNotFound``, ``SnapshotFailed`` or ``LockNotObtained``; the database is then as it was.
    """
    snapshot = named(file, name)
    try:
        _verify(snapshot.path, stop)
        if not file.exists():
            return Restored(snapshot=snapshot, moved=_replace(file, snapshot.path))
        try:
            with _locked(file, timeout, stop) as live:
                kept = _take(live, file, _versions(live), stop)
                with closing(_connect(snapshot.path, "immutable=1")) as source:
                    _copy(source, live, stop)
        except _Unreadable:
            return Restored(snapshot=snapshot, moved=_replace(file, snapshot.path))
    except _Unreadable as error:
        raise SnapshotFailed(
            f"The snapshot {snapshot.name} is damaged: {error}. Nothing was changed.", "Choose another: fininfra-db snapshot list"
        ) from None
    except (OSError, sqlite3.Error) as error:
        raise SnapshotFailed(
            f"The snapshot {snapshot.name} was not restored: {_words(error)}. {file} is as it was.",
            "Make room or mend what is wrong, and run the command again.",
        ) from None
    return Restored(snapshot=snapshot, kept=kept)


def named(file: Path, name: str) -> Snapshot:
    """The snapshot of a database that is called ``name``. Raises ``SnapshotNotFound``."""
    found = {snapshot.name: snapshot for snapshot in find(file)}
    wanted = name.rpartition(_MARK)[2]
    if wanted not in found:
        raise SnapshotNotFound(
            f"There is no snapshot {name!r} of {file}. Nothing was changed.",
            f"There are: {', '.join(found)}." if found else "There are none.",
        )
    return found[wanted]


def _snapshot(file: Path, match: re.Match[str], size: int) -> Snapshot:
    revision = match["revision"]
    return Snapshot(
        name=match[0],
        taken=datetime.strptime(match["taken"], _TIME).replace(tzinfo=UTC),
        revision=None if revision == _NO_REVISION else revision,
        size=size,
        path=file.with_name(f"{file.name}{_MARK}{match[0]}"),
    )


def _take(source: sqlite3.Connection, file: Path, versions: Collection[str], stop: Event) -> Snapshot:
    """Copy ``source`` under a hidden name, check the copy, and only then call it a snapshot."""
    with _partial(file) as partial:
        with _raising_unreadable(), closing(_connect(partial, "mode=rw")) as copy:
            copy.execute("PRAGMA journal_mode=OFF")  # nobody needs half a copy back
            _copy(source, copy, stop)
        _verify(partial, stop)
        _sync(partial)
        while True:
            match = _NAME.fullmatch(_new_name(versions))
            assert match is not None
            with suppress(FileExistsError):
                return _publish(partial, _snapshot(file, match, partial.stat().st_size))


def _new_name(versions: Collection[str]) -> str:
    revision = re.sub(r"[^\w.+]", "_", "+".join(sorted(versions)))[:64]
    return f"{datetime.now(UTC).strftime(_TIME)[:-3]}Z-{revision or _NO_REVISION}"


def _publish(partial: Path, snapshot: Snapshot) -> Snapshot:
    if snapshot.path.exists():
        raise FileExistsError
    partial.rename(snapshot.path)
    _sync(snapshot.path.parent)
    return snapshot


@contextmanager
def _partial(file: Path) -> Iterator[Path]:
    """A new, hidden file beside the database, with mode 0600 from its first byte; gone at the end unless it was renamed."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}{_MARK}", dir=file.parent)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, stop: Event) -> None:
    def look(_status: int, _remaining: int, _total: int) -> None:
        if stop.is_set():
            raise InterruptedError("interrupted")

    source.backup(target, pages=_PAGES, progress=look)


def _verify(copy: Path, stop: Event) -> None:
    """Raise ``_Unreadable`` unless SQLite finds nothing wrong with a file that nobody writes."""
    with _raising_unreadable(), closing(_connect(copy, "immutable=1")) as connection:
        connection.set_progress_handler(stop.is_set, 100_000)
        (problem,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if problem != "ok":
        raise _Unreadable(problem.splitlines()[-1])


@contextmanager
def _raising_unreadable() -> Iterator[None]:
    """Tell a file that is damaged from a disk that is full."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNREADABLE:
            raise _Unreadable(str(error)) from None
        raise


@contextmanager
def _locked(file: Path, timeout: float, stop: Event) -> Iterator[sqlite3.Connection]:
    """A connection that nobody else can read or write beside, from one transaction to the next.

    The backup interface begins a transaction of its own in the database that it writes, so what is copied away before
    must not change between the two. In WAL mode no other connection may be open at all.
    """
    if file.stat().st_size == 0:
        raise _Unreadable("the file is empty")
    with closing(_connect(file, "mode=rw")) as connection, _raising_unreadable():
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        deadline = time.monotonic() + timeout
        while not _try_lock(connection):
            if time.monotonic() >= deadline or stop.is_set():
                raise LockNotObtained(
                    f"SQLite database {file} is in use by another program, and went on being used. Nothing was changed.",
                    "Stop the programs that have it open and run the command again.",
                )
            time.sleep(0.05)
        yield connection


def _try_lock(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return False
        raise
    connection.execute("COMMIT")
    return True


def _replace(file: Path, snapshot: Path) -> Path | None:
    """Put a copy of a snapshot in the place of a file that SQLite cannot read, in one step. Returns where that file is now.

    Its -wal and -journal go with it: beside another database they would be played into it.
    """
    aside = file.with_name(f"{file.name}.damaged-{datetime.now(UTC).strftime(_TIME)[:-3]}Z")
    with _partial(file) as partial:
        shutil.copyfile(snapshot, partial)
        if file.exists():
            shutil.copymode(file, partial)
            try:
                os.link(file, aside)
            except OSError:  # a file system without links: for a moment there is no file
                file.rename(aside)
        _sync(partial)
        for suffix in _SIDE_FILES:
            with suppress(FileNotFoundError):
                file.with_name(file.name + suffix).rename(aside.with_name(aside.name + suffix))
        partial.replace(file)
        _sync(file.parent)
    return aside if aside.exists() else None


def _versions(connection: sqlite3.Connection) -> tuple[str, ...]:
    with suppress(sqlite3.OperationalError):  # there is no such table
        return tuple(row[0] for row in connection.execute("SELECT version_num FROM alembic_version"))
    return ()


def _connect(file: Path, options: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(file))}?{options}", uri=True, timeout=0, isolation_level=None)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).rstrip(".")
