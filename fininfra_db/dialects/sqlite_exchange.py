"""Exchanging the file of a SQLite database for another one, which takes a fifth of the time of writing its pages.

It may be done only while nobody has the file open: who has would go on with the old one. SQLite's own locks do not tell, since a
connection between two transactions holds none. Linux does: it grants a write lease on a file only while no other descriptor refers
to it, whichever process has it, and a process that opens it meanwhile waits (fcntl(2), "Leases").
"""

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

from fininfra_db.dialects.sqlite_files import is_open_here

try:
    from fcntl import F_GETLEASE, F_SETLEASE, F_SETSIG, F_WRLCK, fcntl

    _HAS_LEASES = True
except ImportError:  # not Linux
    _HAS_LEASES = False

SIDE_FILES: Final = ("-wal", "-shm", "-journal")


def exchange(file: Path, new: Path, kept: Path | None) -> bool:
    """Put ``new`` in the place of ``file``, which gets the name ``kept`` or goes. In one step.

    False, and nothing has changed, where others may have the file open, or something belongs to it that would be left behind.
    """
    if not _HAS_LEASES or not is_plain(file):
        return False
    try:
        descriptor = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl(descriptor, F_SETSIG, signal.SIGURG)  # told of who waits by a signal that ends nothing
        fcntl(descriptor, F_SETLEASE, F_WRLCK)
        return _is_alone(file) and _exchange(descriptor, file, new, kept)
    except OSError:  # somebody has it open, or this file system grants no leases
        return False
    finally:
        os.close(descriptor)


def _exchange(descriptor: int, file: Path, new: Path, kept: Path | None) -> bool:
    status = os.fstat(descriptor)
    shutil.copymode(file, new)
    os.chown(new, status.st_uid, status.st_gid)
    if kept is None:
        return _put(descriptor, file, new)
    os.link(file, kept)  # it has its name before it is needed; until then it is a second name of the database, and no snapshot
    try:
        return _put(descriptor, file, new)
    finally:  # whatever ended it, an interruption after the exchange too: then this is the only name of what was there
        if kept.samefile(file):
            kept.unlink()
        else:
            with suppress(OSError):  # it stays as readable as the database was; the exchange is done
                kept.chmod(0o600)


def _put(descriptor: int, file: Path, new: Path) -> bool:
    """The exchange itself; not while somebody opens the file just now."""
    if fcntl(descriptor, F_GETLEASE) != F_WRLCK:
        return False
    new.replace(file)
    return True


def is_plain(file: Path) -> bool:
    """Whether this is a database in one file, with one name, which this process does not have open."""
    return _is_alone(file) and not is_open_here(file)


def _is_alone(file: Path) -> bool:
    return file.stat().st_nlink == 1 and not any(file.with_name(file.name + suffix).exists() for suffix in SIDE_FILES)
