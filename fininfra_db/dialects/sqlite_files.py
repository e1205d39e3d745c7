"""The file of a SQLite database, looked at without SQLite."""

import os
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from sqlalchemy import URL

MAGIC: Final = b"SQLite format 3\x00"
"""The first bytes of every SQLite database (sqlite.org/fileformat.html)."""
_WAL_OFFSET: Final = 18
_WAL: Final = b"\x02"
"""The byte of the header that says how the file is written; 2 is WAL."""
_DESCRIPTORS: Final = ("/proc/self/fd", "/dev/fd")


def is_file(url: URL) -> bool:
    """Whether the URL names a file by its path: not one in memory, nor by a ``file:`` URI, which says by itself how to open it."""
    return bool(url.database) and url.database != ":memory:" and not str(url.database).startswith("file:")


def file_of(url: URL) -> Path:
    """The path of the database's file, by whichever spelling."""
    name = url.database or ""
    return Path(unquote(name.removeprefix("file:").partition("?")[0]) if name.startswith("file:") else name)


def is_closed_wal(path: Path) -> bool:
    """Whether this is a database in WAL mode that nobody has open: only its file is left, and reading it would make two more."""
    if path.with_name(f"{path.name}-wal").exists():
        return False
    try:
        start = read_start(path, _WAL_OFFSET + 1)
    except OSError:
        return False
    return start is not None and start[_WAL_OFFSET:] == _WAL


def read_start(path: Path, size: int) -> bytes | None:
    """The first bytes of a file; None when this process has it open already, as through SQLite. Raises ``OSError``.

    Closing a descriptor takes away every lock that the process has on the file, whichever descriptor they were taken
    with (sqlite.org/howtocorrupt.html, 2.2): another process could then write into an open transaction.
    """
    if is_open_here(path):
        return None
    with path.open("rb") as file:
        return file.read(size)


def is_open_here(path: Path) -> bool:
    """Whether a descriptor of this process refers to the file; yes where descriptors work so and cannot be listed."""
    if os.name != "posix":
        return False
    wanted = path.stat()
    for folder in _DESCRIPTORS:
        try:
            descriptors = [int(name) for name in os.listdir(folder)]
        except OSError:
            continue
        return any(_refers_to(descriptor, wanted) for descriptor in descriptors)
    return True


def _refers_to(descriptor: int, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), wanted)
    except OSError:  # the descriptor with which the folder was listed
        return False
