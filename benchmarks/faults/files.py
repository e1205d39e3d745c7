"""SQLite files that something is wrong with: no room, no permission, damaged, cut off, or not a database at all.

A run on such a file ends without a traceback, and never with exit 0 unless the schema is right. What cannot be used is
left as it is, and a run on a good file in its place works.
"""

import os
import random
import struct
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Final

from benchmarks.faults import Outcome, child, joined
from benchmarks.faults.databases import SQLITE, Snapshot, differences
from benchmarks.faults.histories import SHOP, STATES
from benchmarks.faults.kills import UP, recovered
from benchmarks.faults.places import Done, Place, place

_BEFORE_LAST: Final = SHOP[-2].name
_PAGE: Final = 4096
_HEADER: Final = 100
"""Bytes of the file's own header, before that of the first page (sqlite.org/fileformat.html)."""


def disk_full(program: str, *, step: int = 1) -> Outcome:
    """Let the file grow to 0, 1, 2... half pages; every ``step``-th. The end is where the run has room enough."""
    with place(program, SQLITE, SHOP) as here:
        here.must(*UP)
        wanted, whole = here.database.snapshot(), here.database.file.stat().st_size
        outcome = Outcome()
        for size in range(0, whole + _PAGE, step * _PAGE // 2):
            here.database.clear()
            done = here.run(*UP, faults=[partial(child.fill_the_disk, size)])
            told = f"no room beyond {size} bytes"
            failures = _bad_end(here, done, wanted, told)
            if not failures:
                failures = list(recovered(here, UP, wanted, told).failures)
            outcome += Outcome.of(failures)
        return outcome


def not_writable(program: str) -> Outcome:
    """A file, or its folder, that may be read only."""
    with place(program, SQLITE, SHOP) as here:
        here.must("upgrade", _BEFORE_LAST)
        content = here.database.file.read_bytes()
        wanted = _complete(here)
        return joined(_try_without_permission(here, content, wanted, *modes) for modes in ((0o444, 0o777), (0o644, 0o555), (0o444, 0o555)))


def _try_without_permission(here: Place, content: bytes, wanted: Snapshot, of_file: int, of_folder: int) -> Outcome:
    _restore(here, content)
    here.database.file.chmod(of_file)
    here.folder.chmod(of_folder)
    told = f"file {of_file:o} in folder {of_folder:o}"
    done = here.run(*UP, faults=[child.obey_permissions])
    failures = _bad_end(here, done, wanted, told, content)
    here.folder.chmod(0o755)
    here.database.file.chmod(0o644)
    return Outcome.of([*failures, *recovered(here, UP, wanted, told).failures])


def damaged(program: str, *, step: int = 1, seed: int = 0) -> Outcome:
    """One bit is not what it was: in turn in each part of each page's structure, and in the file's header; every ``step``-th."""
    chance = random.Random(seed)

    def flips(content: bytes) -> Iterable[tuple[str, bytes]]:
        for start in range(0, len(content), _PAGE):
            header = start + (_HEADER if start == 0 else 0)
            cells = struct.unpack_from(">H", content, header + 3)[0]
            for offset in (
                header,
                header + 3 + chance.randrange(2),
                header + 5 + chance.randrange(2),
                header + 8 + chance.randrange(2 * cells + 1),
            ):
                yield f"a bit of byte {offset}", _flipped(content, offset, chance.randrange(8))
        for offset in (0, 16, 17, 18, 44, 56):
            yield f"a bit of byte {offset}", _flipped(content, offset, chance.randrange(8))

    return _with_files(program, lambda content: islice(flips(content), 0, None, step))


def truncated(program: str) -> Outcome:
    """The file ends early: in its header, in a page, between two pages."""

    def cut(content: bytes) -> Iterable[tuple[str, bytes]]:
        lengths = {0, 1, 50, 100, 512} | {page + part for page in range(_PAGE, len(content), _PAGE) for part in (-1, 0, 1)}
        return ((f"cut to {length} bytes", content[:length]) for length in sorted(lengths))

    return _with_files(program, cut)


def foreign(program: str) -> Outcome:
    """Something else has the database's name."""

    def others(_: bytes) -> Iterable[tuple[str, bytes]]:
        yield "text", b"Dear customer,\n" * 500
        yield "an image", b"\x89PNG\r\n\x1a\n" + os.urandom(9000)
        yield "an archive", b"PK\x03\x04" + os.urandom(9000)
        yield "noise", os.urandom(3 * _PAGE)
        yield "zeros", bytes(3 * _PAGE)
        yield "a header and noise", b"SQLite format 3\x00" + os.urandom(3 * _PAGE - 16)

    return _with_files(program, others)


def _with_files(program: str, others: Callable[[bytes], Iterable[tuple[str, bytes]]]) -> Outcome:
    """Upgrade by one revision with each of other files in the place of the good one."""
    with place(program, SQLITE, SHOP) as here:
        here.must("upgrade", _BEFORE_LAST)
        content = here.database.file.read_bytes()
        wanted = _complete(here)
        outcome = Outcome()
        for told, other in others(content):
            if other != content:
                _restore(here, other)
                done = here.run(*UP)
                outcome += Outcome.of(_bad_end(here, done, wanted, told, other))
        _restore(here, content)
        return outcome + recovered(here, UP, wanted, "the good file is back")


def _complete(here: Place) -> Snapshot:
    here.must(*UP)
    if here.database.versions() != [STATES.name]:
        raise RuntimeError("the undisturbed run did not reach the head")
    return here.database.snapshot()


def _restore(here: Place, content: bytes) -> None:
    """Put a file in the database's place."""
    here.database.drop()
    here.database.file.write_bytes(content)


def _flipped(content: bytes, offset: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[offset] ^= 1 << bit
    return bytes(changed)


def _bad_end(here: Place, done: Done, wanted: Snapshot, told: str, before: bytes | None = None) -> list[str]:
    """What is wrong with how a run on a bad file ended; ``before`` is what has to be left of the file when it failed."""
    if (here.is_ours and done.has_traceback) or done.code is None or done.code < 0:
        return [f"{told}: {done}"]
    if done.code == 0:
        try:
            wrong = [line for line in differences(here.database.snapshot(), wanted) if ": rows " not in line]
        except Exception as error:  # whatever a damaged file makes of a query
            wrong = [f"{type(error).__name__}"]
        return [f"{told}: exit 0, but {'; '.join(wrong)[:300]}"] if wrong else []
    if before is not None and here.database.file.read_bytes() != before:
        return [f"{told}: {done}, and the file was changed"]
    return []
