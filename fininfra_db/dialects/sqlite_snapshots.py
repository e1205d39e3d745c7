"""Snapshots of a SQLite database: verified copies that are kept beside its file.

A copy is made with SQLite's backup interface under SQLite's own locks (a copy of the file alone would miss the -wal, or
catch it half written), is readable by its owner only, and has its name only once it is complete, checked and on the disk.
"""

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import BinaryIO, Final
from urllib.parse import quote

from fininfra_db.dialects.snapshots import (
    AUTOMATIC,
    CACHE_PREFIX,
    KEPT,
    Facts,
    Kept,
    automatic_name,
    exists,
    newest_first,
    parse_automatic,
    read_label,
    require_found,
    write_label,
)
from fininfra_db.dialects.sqlite_exchange import SIDE_FILES, exchange, is_plain
from fininfra_db.errors import DatabaseInUse, SnapshotFailed
from fininfra_db.events import Snapshot
from fininfra_db.results import Restored

_MARK: Final = ".snapshot-"
_LABEL: Final = ".json"
"""What the name of a label ends with: a file beside the copy, which a named snapshot has. No name of a snapshot holds a dot."""
_PAGES: Final = 1000
"""Pages copied between two looks at whether the copy is still wanted."""
_BYTES: Final = 1 << 20
_CHECKED: Final = "checked"
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
        with closing(_connect(file, "mode=ro")) as source, _copy_of(source, file, stop) as copy:
            return _publish_automatic(copy, file, versions)
    except (OSError, sqlite3.Error, _Unreadable) as error:
        raise SnapshotFailed(
            f"No snapshot of {file} could be made: {_words(error)}. The migration did not begin; nothing was changed.",
            "Make room or mend what is wrong, or migrate without a snapshot: --no-snapshot.",
        ) from None


def save(file: Path, name: str, facts: Facts, stop: Event) -> Snapshot:
    """Copy a database as ``take()`` does, under a name and with a label. Raises ``SnapshotExists`` or ``SnapshotFailed``."""
    place = path_of(file, name)
    if name in kept_by_name(file):
        raise exists(name, f"SQLite database {file}")
    try:
        _require_free(file, name)
        with closing(_connect(file, "mode=ro")) as source, _copy_of(source, file, stop) as copy:
            with _partial(file) as label:
                label.write_text(write_label(name, file.name, _as_checked(facts, copy)), encoding="utf-8")
                _sync(label)
                _require_free(file, name)
                label.replace(_label_of(place))
            try:
                _publish(copy, place)
            except BaseException:  # a label beside what is there instead would make that a snapshot
                _label_of(place).unlink(missing_ok=True)
                raise
    except FileExistsError:
        raise SnapshotFailed(
            f"No snapshot {name!r} of {file} could be made: {place} is there already, and is no snapshot.", "Choose another name."
        ) from None
    except (OSError, sqlite3.Error, _Unreadable) as error:
        raise SnapshotFailed(
            f"No snapshot of {file} could be made: {_words(error)}. Nothing was changed.", "Make room or mend what is wrong."
        ) from None
    return kept_by_name(file)[name].snapshot


def delete(file: Path, name: str) -> None:
    """Remove a snapshot and its label. Raises ``SnapshotFailed``."""
    place = path_of(file, name)
    try:
        place.unlink(missing_ok=True)
        _label_of(place).unlink(missing_ok=True)
    except OSError as error:
        hint = "Check the permissions of the folder."
        raise SnapshotFailed(f"The snapshot {name} could not be deleted: {_words(error)}.", hint) from None


def find(file: Path) -> tuple[Kept, ...]:
    """The snapshots of a database, the newest first."""
    found: list[Kept] = []
    with suppress(FileNotFoundError), os.scandir(file.parent) as entries:
        for entry in entries:
            start = f"{file.name}{_MARK}"
            if entry.name.startswith(start) and not entry.name.endswith(_LABEL) and not _is_same(file, Path(entry.path)):
                with suppress(FileNotFoundError):  # it went meanwhile, or is a link that leads nowhere
                    kept = _recognised(file, entry.name.removeprefix(start), entry.stat().st_size)
                    found += [kept] if kept else []
    return newest_first(found)


def _is_same(file: Path, other: Path) -> bool:
    """Whether this is the database itself under a second name, which an exchange that was killed has left."""
    try:
        return other.samefile(file)
    except OSError:
        return False


def _forget_second_names(file: Path) -> None:
    """Remove them. The caller keeps everybody else off the file, so that no exchange is at work."""
    start = f"{file.name}{_MARK}"
    for other in list(file.parent.iterdir()):
        if other.name.startswith(start) and not other.is_symlink() and _is_same(file, other):
            other.unlink()


def kept_by_name(file: Path) -> dict[str, Kept]:
    """The snapshots of a database by their names."""
    return {kept.snapshot.name: kept for kept in find(file)}


def path_of(file: Path, name: str) -> Path:
    """Where the snapshot of this name is, or would be."""
    return file.with_name(f"{file.name}{_MARK}{name}")


def _recognised(file: Path, name: str, size: int) -> Kept | None:
    """A file beside the database as a snapshot: by the form of its name, or by its label; None when it is somebody else's."""
    automatic = _automatic(file, name, size)
    return Kept(automatic) if automatic else _labelled(file, name, size)


def _automatic(file: Path, name: str, size: int) -> Snapshot | None:
    """The snapshot of a name that says when it was taken."""
    parsed = parse_automatic(name)
    return Snapshot(name=name, taken=parsed[0], revision=parsed[1], size=size, path=path_of(file, name)) if parsed else None


def _labelled(file: Path, name: str, size: int) -> Kept | None:
    """The snapshot that the label for this name tells of."""
    place = path_of(file, name)
    try:
        label = _label_of(place).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    kept = read_label(label, file.name, size, path=place)
    return kept if kept and kept.snapshot.name == name else None


def _require_free(file: Path, name: str) -> None:
    """Raise ``FileExistsError`` where something is in the place of a snapshot or its label; a label alone is what a kill has left."""
    place = path_of(file, name)
    label = _label_of(place)
    if os.path.lexists(place) or (os.path.lexists(label) and _labelled(file, name, 0) is None):
        raise FileExistsError


def _label_of(place: Path) -> Path:
    return place.with_name(place.name + _LABEL)


def prune(file: Path, *, spare: Snapshot) -> None:
    """Delete all automatic snapshots but the last three; ``spare`` is not deleted, whatever the clock says."""
    names = [kept.snapshot.name for kept in find(file)]
    older = [name for name in names if name != spare.name and AUTOMATIC.fullmatch(name)]
    for name in older[KEPT - 1 :]:
        path_of(file, name).unlink(missing_ok=True)
    for partial in file.parent.iterdir():
        if partial.name.startswith(f".{file.name}{_MARK}") and time.time() - partial.stat().st_mtime > _STALE:
            partial.unlink(missing_ok=True)


def restore(file: Path, name: str, timeout: float, stop: Event, *, source: Path | None = None, keep: bool = True) -> Restored:
    """Make a database what it was in a snapshot, in one transaction. What it is now is kept as a snapshot too, if ``keep``.

    A file that is damaged is moved aside instead, as it is. ``timeout`` is in seconds, for others to let go of the database.
    ``source`` is a copy of the snapshot to take instead. Raises ``SnapshotNotFound``, ``SnapshotFailed`` or
    ``DatabaseInUse``; the database is then as it was.
    """
    snapshot = named(file, name)
    source = source or path_of(file, name)
    kept = None
    try:
        if not _was_checked(file, snapshot):
            _verify(source, stop)
        if not file.exists():
            return Restored(snapshot=snapshot, moved=_replace(file, source))
        try:
            is_done, kept = _exchanged(file, source, stop, keep=keep)
            if is_done:
                return Restored(snapshot=snapshot, kept=kept)
            with file.open("rb") as content, _locked(file, timeout, stop) as live:  # closed in this order: see _same_bytes()
                _forget_second_names(file)
                if keep:
                    with _copy_of(live, file, stop, content) as copy:
                        kept = _publish_automatic(copy, file, _versions(live))
                with closing(_connect(source, "immutable=1")) as before:
                    _copy(before, live, stop)
        except _Unreadable:
            return Restored(snapshot=snapshot, moved=_replace(file, source))
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
    """The snapshot of a database that is called ``name``, or whose file is. Raises ``SnapshotNotFound``."""
    return require_found(name_of(file, name), kept_by_name(file), str(file)).snapshot


def name_of(file: Path, word: str) -> str:
    """The name of a snapshot, of which ``word`` is that or the file; the file of another database is the name of none."""
    beside, mark, name = word.rpartition(_MARK)
    if not mark:
        return word
    path = Path(beside)
    is_here = path.name == beside or path.parent.resolve() == file.parent.resolve()
    return name if is_here and path.name == file.name else word


def _exchanged(file: Path, source: Path, stop: Event, *, keep: bool) -> tuple[bool, Snapshot | None]:
    """Exchange a database for a copy of a snapshot where that can be done; whether it was, and the snapshot that it is now.

    Raises ``_Unreadable`` when the database is damaged.
    """
    if file.stat().st_size == 0:
        raise _Unreadable("the file is empty")
    if not is_plain(file):
        return False, None
    with _partial(file) as new, ThreadPoolExecutor(1) as beside:
        checked = beside.submit(_verify, file, stop, "mode=ro") if keep else None
        shutil.copyfile(source, new)
        _sync(new)
        if checked is not None:
            checked.result()
        with _raising_unreadable(), closing(_connect(file, "mode=ro")) as live:
            kept = _automatic(file, automatic_name("+".join(sorted(_versions(live)))), file.stat().st_size) if keep else None
        if not exchange(file, new, kept.path if kept else None):
            return False, None
        with suppress(OSError):  # it is done, and what keeps it from the disk must not say otherwise
            _sync(file.parent)
        return True, kept


def _as_checked(facts: Facts, copy: Path) -> Facts:
    """The facts, with what tells a copy that was not touched since it was checked."""
    return replace(facts, notes={**facts.notes, _CHECKED: _stamp(copy)})


def _was_checked(file: Path, snapshot: Snapshot) -> bool:
    """Whether a copy of this program's own making is as it was when it was checked. Those that a person asks for are checked again."""
    kept = kept_by_name(file)[snapshot.name]
    return snapshot.name.startswith(CACHE_PREFIX) and kept.notes.get(_CHECKED) == _stamp(path_of(file, snapshot.name))


def _stamp(copy: Path) -> list[int]:
    status = copy.stat()
    return [status.st_size, status.st_mtime_ns]


@contextmanager
def copied(file: Path, name: str) -> Iterator[Path]:
    """A copy of a snapshot that may be written, for as long as the block runs."""
    with _partial(file) as partial:
        shutil.copyfile(path_of(file, name), partial)
        yield partial


@contextmanager
def _copy_of(source: sqlite3.Connection, file: Path, stop: Event, content: BinaryIO | None = None) -> Iterator[Path]:
    """A checked copy of ``source`` under a hidden name beside ``file``, gone at the end of the block unless it was published.

    ``content`` is the file, where ``source`` keeps everybody else off it.
    """
    with _partial(file) as partial:
        if content is None or not _same_bytes(source, content, partial):
            with _raising_unreadable(), closing(_connect(partial, "mode=rw")) as copy:
                copy.execute("PRAGMA journal_mode=OFF")  # nobody needs half a copy back
                _copy(source, copy, stop)
        _verify(partial, stop)
        _sync(partial)
        yield partial


def _same_bytes(source: sqlite3.Connection, content: BinaryIO, copy: Path) -> bool:
    """Copy the bytes of a file that nobody else can read or write, five times as quick as page by page.

    Not in WAL mode, where a part of the database is in another file. ``content`` stays open as long as ``source``: to close
    a descriptor takes away every lock that the process has on the file (sqlite.org/howtocorrupt.html, 2.2).
    """
    if source.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        return False
    with copy.open("wb") as target:
        shutil.copyfileobj(content, target, _BYTES)
    return True


def _publish_automatic(copy: Path, file: Path, versions: Collection[str]) -> Snapshot:
    """Call a copy a snapshot, under a name that is not taken."""
    while True:
        name = automatic_name("+".join(sorted(versions)))
        with suppress(FileExistsError):
            _publish(copy, path_of(file, name))
            return kept_by_name(file)[name].snapshot


def _publish(copy: Path, place: Path) -> None:
    if place.exists():
        raise FileExistsError
    copy.rename(place)
    _sync(place.parent)


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


def _verify(copy: Path, stop: Event, options: str = "immutable=1") -> None:
    """Raise ``_Unreadable`` unless SQLite finds nothing wrong with a file, which by default nobody writes."""
    with _raising_unreadable(), closing(_connect(copy, options)) as connection:
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
                raise DatabaseInUse(
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
    aside = file.with_name(f"{file.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}Z")
    with _partial(file) as partial:
        shutil.copyfile(snapshot, partial)
        if file.exists():
            shutil.copymode(file, partial)
            try:
                os.link(file, aside)
            except OSError:  # a file system without links: for a moment there is no file
                file.rename(aside)
        _sync(partial)
        for suffix in SIDE_FILES:
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
