"""What is told while a run goes on, and what is asked: frozen data for observers, and for whoever confirms."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

_TABLES_SHOWN: Final = 12
"""More tables than this make nobody wiser; the rest is counted."""


@dataclass(frozen=True)
class Step:
    """One revision that was applied (``up``) or reverted (``down``). ``seconds`` is the time its code took."""

    revision: str
    message: str
    direction: str
    seconds: float


@dataclass(frozen=True)
class Holder:
    """Who holds the migration lock, as far as the database tells: program, host, process and since when (UTC)."""

    program: str | None = None
    host: str | None = None
    pid: int | None = None
    since: datetime | None = None

    def __str__(self) -> str:
        """The holder in words, for messages."""
        who = self.program or "another writer"
        where = f" on {self.host}" if self.host else ""
        process = f" (pid {self.pid})" if self.pid else ""
        since = f" since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        return f"{who}{where}{process}{since}"


@dataclass(frozen=True)
class Waiting:
    """Told to an observer: the lock is held by somebody else, and this run waits for up to ``seconds``."""

    holder: Holder | None
    seconds: float


@dataclass(frozen=True)
class Retrying:
    """Told to an observer: ``revision`` did not get the lock of a table and runs again after ``seconds``; ``blockers`` held it."""

    revision: str
    attempt: int
    seconds: float
    blockers: tuple[str, ...] = ()


@dataclass(frozen=True)
class BlastRadius:
    """What is at stake in a database before data may be lost. Told to an observer, and put to the person who is asked.

    ``database`` is the name that the database itself gives, ``url`` has no password and ``source`` says who gave it.
    ``environment`` is the marker in the database. ``rows`` counts the rows of each table that has some, the most first;
    ``unread`` are tables that this login may not read, or that a migration holds. ``newest_write`` is the latest
    ``created_at`` or ``updated_at``.
    """

    database: str
    url: str
    source: str
    environment: str | None = None
    rows: dict[str, int] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    newest_write: datetime | None = None

    def __str__(self) -> str:
        """The rows in words: ``1,234 rows: transactions 1,000, ...; newest write ...``."""
        if not self.rows and not self.unread:
            return "no rows"
        counts = list(self.rows.items())
        shown = [f"{table} {count:,}" for table, count in counts[:_TABLES_SHOWN]]
        if rest := counts[_TABLES_SHOWN:]:
            shown.append(f"{sum(count for _, count in rest):,} in {len(rest)} more tables")
        total = sum(self.rows.values())
        words = [f"{total:,} row{'' if total == 1 else 's'}{': ' if shown else ''}{', '.join(shown)}"]
        if self.unread:
            words.append(f"not readable: {', '.join(self.unread)}")
        if self.newest_write:
            words.append(f"newest write {self.newest_write:%Y-%m-%d %H:%M:%S} UTC")
        return "; ".join(words)


@dataclass(frozen=True)
class Dropped:
    """What a reset has dropped. Told to an observer when it is interrupted before everything is made again."""

    tables: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    snapshot: "Snapshot | None" = None

    def __str__(self) -> str:
        """The names in words."""
        types = f"the type{'' if len(self.types) == 1 else 's'} {', '.join(self.types)}" if self.types else ""
        return " and ".join(part for part in (", ".join(self.tables), types) if part) or "nothing"


@dataclass(frozen=True)
class Progress:
    """Told to an observer while many rows are worked on: ``done`` of about ``total``, for the work that ``task`` names."""

    task: str
    done: int
    total: int


Event = Step | Waiting | Retrying | BlastRadius | Dropped | Progress
"""What an observer of a run is told while it goes on."""

Observer = Callable[[Event], None]


@dataclass(frozen=True)
class Question:
    """What is put to a person before data may be lost.

    ``command`` is the verb, ``consequence`` what it does, as a sentence without its end. ``reason`` says why the name of the
    database is asked for; None when a plain yes will do.
    """

    command: str
    consequence: str
    reason: str | None
    blast_radius: BlastRadius


Confirm = Callable[[Question], str | None]
"""Asks a person. Returns the name of the database as the person gave it; a plain yes stands for the right one, None is a no."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of a database. ``taken`` is in UTC, ``revision`` where it was (None: at none), ``size`` in bytes.

    ``seed`` names the seeds in it, ``server`` is the version of the server that it was taken on; None where nobody noted it.
    The copy is the file ``path``, or on a server the ``database`` of this name.
    """

    name: str
    taken: datetime
    revision: str | None
    size: int
    path: Path | None = None
    database: str | None = None
    seed: str | None = None
    server: str | None = None
