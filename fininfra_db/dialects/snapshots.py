"""Snapshots: named copies of a database that are kept, and brought back. What is common to every kind of database.

A copy is made under a name of its own that says whose it is and that it is not done, and gets its name and its label in one
step when it is. To bring one back, it is copied again, and the copy takes the place of the database in one step. So whatever
is killed leaves the database as it was or as it should be, and copies that the next run recognises and removes.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection

from fininfra_db.dialects.lifted import Lifted
from fininfra_db.errors import OptionsInvalid, SnapshotExists, SnapshotNotFound
from fininfra_db.events import Observer, Snapshot
from fininfra_db.results import Restored

KEPT: Final = 3
"""How many automatic snapshots are kept."""
LONGEST_NAME: Final = 40
CACHE_PREFIX: Final = "cache-"
"""What the names of the copies begin with that ``reset`` keeps for the next one."""

AUTOMATIC: Final = re.compile(r"(?P<taken>\d{8}T\d{6}\.\d{3})Z-(?P<revision>[^-]+)")
NAMED: Final = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{LONGEST_NAME - 1}}}")
"""Names that mean the same on every file system and server; an automatic one holds a dot, and is none of them."""
_TIME: Final = "%Y%m%dT%H%M%S.%f"
_NO_REVISION: Final = "none"
_FORMAT: Final = 1


@dataclass(frozen=True)
class Facts:
    """What a label says of a database: the revisions that it is at, the seeds in it, its server.

    ``notes`` are for whoever made the copy; they are not shown.
    """

    versions: tuple[str, ...] = ()
    seed: str | None = None
    server: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def revision(self) -> str | None:
        """The revisions as one word; None at none."""
        return "+".join(sorted(self.versions)) or None


@dataclass(frozen=True)
class Kept:
    """A snapshot, and the notes of whoever made it."""

    snapshot: Snapshot
    notes: Mapping[str, Any] = field(default_factory=dict)


Look = Callable[[Connection], Facts]
"""Reads what the label says, under the migration lock; raises what keeps the copy from being made."""
Check = Callable[[Connection], Facts]
"""The same for a database that is about to be replaced; raises to leave it as it is."""
Settle = Callable[[Connection], None]
"""Writes what belongs to the place into a copy that is about to take it."""


@dataclass(frozen=True)
class Access:
    """The ways of a store to its database and server.

    ``locked`` opens the one connection of a run that may have no second: it holds the migration lock itself. ``open`` opens
    another one, to the database of this name. ``timeout`` is how long, in seconds, others are waited for, and ``lock_timeout``
    those who hold a lock; None where none is to be taken.
    """

    locked: Callable[[], AbstractAsyncContextManager[Lifted]]
    open: Callable[[str], AbstractAsyncContextManager[Lifted]]
    timeout: float
    lock_timeout: float | None = None
    observer: Observer | None = None


class SnapshotStore(ABC):
    """The snapshots of one database."""

    def __init__(self, where: str) -> None:
        self.where = where
        """The database in words."""

    @abstractmethod
    def inventory(self, connection: Connection) -> tuple[str, ...]:
        """The names of everything in the database of ``connection`` that a copy would bring along, or leave behind."""

    def rights(self, connection: Connection) -> tuple[str, ...]:
        """Who may do what in the database of ``connection``, as far as a copy brings that along and tables do not."""
        return ()

    @abstractmethod
    async def kept(self) -> tuple[Kept, ...]:
        """The snapshots that are complete, the newest first. Nothing is written."""

    @abstractmethod
    async def save(self, name: str, look: Look) -> Snapshot:
        """Copy the database. Raises ``SnapshotExists``, ``SnapshotFailed`` or ``LockNotObtained``; then nothing is left behind."""

    @abstractmethod
    async def restore(self, kept: Kept, check: Check, *, settle: Settle | None = None, keep: bool = True) -> Restored:
        """Put a copy of a snapshot in the place of the database. With ``keep``, what is there becomes an automatic snapshot.

        Raises ``SnapshotFailed`` or ``LockNotObtained``; the database is then as it was.
        """

    @abstractmethod
    async def delete(self, kept: Kept, check: Check | None = None) -> None:
        """Remove a snapshot. Raises ``SnapshotFailed``."""

    async def named(self, name: str) -> Kept:
        """The snapshot of this name. Raises ``SnapshotNotFound``."""
        found = {each.snapshot.name: each for each in await self.kept()}
        return require_found(name, found, self.where)

    async def prune(self, pattern: re.Pattern[str], *, spare: Collection[str], keep: int = KEPT) -> None:
        """Remove the oldest of the snapshots whose names match ``pattern``; those of ``spare`` stay and count."""
        matching = [each for each in await self.kept() if pattern.match(each.snapshot.name)]
        removable = [each for each in matching if each.snapshot.name not in spare]
        for each in removable[max(0, keep - (len(matching) - len(removable))) :]:
            await self.delete(each)


def require_found(name: str, found: Mapping[str, Kept], where: str) -> Kept:
    """The snapshot of this name among those ``found``. Raises ``SnapshotNotFound``."""
    if name not in found:
        raise SnapshotNotFound(
            f"There is no snapshot {name!r} of {where}. Nothing was changed.",
            f"There are: {', '.join(found)}." if found else "There are none.",
        )
    return found[name]


def exists(name: str, where: str) -> SnapshotExists:
    """The error for a name that is taken."""
    return SnapshotExists(
        f"There is a snapshot {name!r} of {where} already. Nothing was changed.",
        f"Choose another name, or remove that one first: fininfra-db snapshot delete {name}",
    )


def parse_name(name: str | None) -> str:
    """The name that a person gave to a snapshot, or one made of the time. Raises ``OptionsInvalid``."""
    if name is None:
        return f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if not NAMED.fullmatch(name) or name.startswith(CACHE_PREFIX):
        raise OptionsInvalid(
            f"{name!r} cannot be the name of a snapshot. Nothing was changed.",
            f"A name is made of small letters, digits, '-' and '_', up to {LONGEST_NAME}, and does not begin with '{CACHE_PREFIX}'.",
        )
    return name


def automatic_name(revision: str | None) -> str:
    """A name for what nobody named: when, and at which revision."""
    word = re.sub(r"[^\w.+]", "_", revision or "")[:64]
    return f"{datetime.now(UTC).strftime(_TIME)[:-3]}Z-{word or _NO_REVISION}"


def parse_automatic(name: str) -> tuple[datetime, str | None] | None:
    """When a snapshot of this name was taken, and the revision in it; None for another kind of name."""
    match = AUTOMATIC.fullmatch(name)
    if match is None:
        return None
    return datetime.strptime(match["taken"], _TIME).replace(tzinfo=UTC), None if match["revision"] == _NO_REVISION else match["revision"]


def write_label(name: str, of: str, facts: Facts) -> str:
    """The label of a copy, as text that is kept with it. ``of`` is the database that it is a copy of."""
    taken = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps(
        {
            "fininfra_snapshot": _FORMAT,
            "name": name,
            "of": of,
            "taken": taken,
            "revision": facts.revision,
            "seed": facts.seed,
            "server": facts.server,
            "notes": dict(facts.notes),
        }
    )


def read_label(text: str | None, of: str, size: int, **place: Any) -> Kept | None:
    """The snapshot that a label tells of; None when the text is no label, or that of a copy of another database."""
    try:
        label = json.loads(text or "")
        if label["fininfra_snapshot"] != _FORMAT or label["of"] != of:
            return None
        snapshot = Snapshot(
            name=str(label["name"]),
            taken=datetime.fromisoformat(label["taken"]),
            revision=label["revision"],
            size=size,
            seed=label["seed"],
            server=label["server"],
            **place,
        )
        return Kept(snapshot, label["notes"])
    except (ValueError, KeyError, TypeError):
        return None


def newest_first(found: list[Kept]) -> tuple[Kept, ...]:
    """Sorted by when they were taken."""
    return tuple(sorted(found, key=lambda kept: (kept.snapshot.taken, kept.snapshot.name), reverse=True))
