"""What operations return: frozen data, no behaviour beyond reading themselves.

The text and the JSON of the command line are two views of these objects. ``findings`` is what a check found:
the command line ends with exit code 3 when there is one.
"""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fininfra_db.events import BlastRadius, Holder, Snapshot, Step


@dataclass(frozen=True)
class Finding:
    """One thing that needs work: a stable ``code``, what it is, and the next command."""

    code: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """Common to every result. ``warnings`` never change an exit code, ``findings`` do."""

    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Applied:
    """What the ledger knows of a revision that is applied.

    When it began, the time that it took, who logged in to the database, from which host, and whether its file was edited since.
    """

    started: datetime
    seconds: float | None = None
    login: str | None = None
    host: str | None = None
    edited: bool = False

    @property
    def by(self) -> str:
        """Who applied it, as ``login@host``."""
        return f"{self.login or '?'}@{self.host or '?'}"


@dataclass(frozen=True)
class RevisionInfo:
    """One revision file, as its header states it. ``created`` is the text of its ``Create Date`` line.

    ``applied`` is what the ledger knows, where it was asked.
    """

    revision: str
    down_revisions: tuple[str, ...]
    message: str
    path: Path
    depends_on: tuple[str, ...] = ()
    branch_labels: tuple[str, ...] = ()
    created: str | None = None
    is_head: bool = False
    is_current: bool | None = None
    applied: Applied | None = None


@dataclass(frozen=True)
class Entry:
    """One row of the ledger: one run of one revision, in one direction.

    ``direction`` is ``up`` or ``down``. ``outcome`` is ``done``, ``running`` (ended in the middle, when nobody holds the lock),
    ``failed`` (nothing of it remains) or ``settled`` by ``repair``. ``statement`` is the number of the statement that was begun
    last, and ``statement_sql`` its text. ``checksum`` is that of the revision's code without its comments.
    ``version_table`` tells projects that share a database apart.
    """

    id: str
    revision: str
    direction: str
    outcome: str
    started: datetime
    seconds: float | None = None
    statement: int = 0
    statement_sql: str | None = None
    digest: str | None = None
    checksum: str | None = None
    version_table: str = "alembic_version"
    login: str | None = None
    host: str | None = None
    pid: int | None = None
    tool_version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Initialized(Result):
    """``written`` are the paths that were created or gained a line; empty when there was nothing to do."""

    written: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Revised(Result):
    """The revision files written; when there are none, ``reason`` says why."""

    paths: tuple[Path, ...] = ()
    revisions: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Migrated(Result):
    """A run of upgrade or downgrade: where the database was, where it is now, and each step between.

    ``blast_radius`` is what was there before a downgrade, ``snapshot`` the copy of before; None when none was taken.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    snapshot: Snapshot | None = None
    blast_radius: BlastRadius | None = None


@dataclass(frozen=True, kw_only=True)
class Repaired(Result):
    """``settled`` is the row that told of the unfinished revision, as it was; None when there was none.

    ``way`` is how: ``resume``, ``mark-applied`` or ``mark-rolled-back``. ``steps`` were run now, by the first alone.
    """

    way: str
    settled: Entry | None = None
    steps: tuple[Step, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Script(Result):
    """SQL that was rendered instead of executed."""

    sql: str


@dataclass(frozen=True, kw_only=True)
class Current(Result):
    """The revisions that the database is at. ``unknown`` are those that this checkout does not have."""

    revisions: tuple[RevisionInfo, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Revisions(Result):
    """Revisions of the history, newest first."""

    revisions: tuple[RevisionInfo, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shown(Revisions):
    """Revisions that were asked for by name, to be shown in full."""


@dataclass(frozen=True, kw_only=True)
class Stamped(Result):
    """The version table was written without running a revision."""

    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Checked(Result):
    """``pending`` revisions to apply, and ``drift``: each difference between the models and the database."""

    pending: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()


@dataclass(frozen=True)
class RevisionState:
    """One revision in a database: ``applied``, ``pending``, ``missing`` (no file here), ``edited`` since, or ``unknown``."""

    revision: str
    message: str
    state: str
    applied: Applied | None = None


@dataclass(frozen=True)
class SeedRecord:
    """One seed that was written: with which ``arguments``, how many ``rows`` of each table (None: nobody counted), when and by whom."""

    name: str
    arguments: dict[str, Any]
    rows: dict[str, int] | None
    written: datetime
    login: str | None = None
    host: str | None = None
    tool_version: str | None = None

    @property
    def by(self) -> str:
        """Who wrote it, as ``login@host``."""
        return f"{self.login or '?'}@{self.host or '?'}"


@dataclass(frozen=True, kw_only=True)
class Status(Result):
    """A database before a deployment. ``size`` is in bytes; None when the server does not tell. ``environment`` is its marker.

    ``versions`` are the rows of the version table. ``applied`` counts the edited ones in. ``unfinished`` are runs that ended
    in the middle, ``holder`` is who holds the migration lock now, ``seeds`` are those that were written.
    """

    database: str
    server: str
    size: int | None = None
    environment: str | None = None
    versions: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    applied: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    revisions: tuple[RevisionState, ...] = ()
    unfinished: tuple[Entry, ...] = ()
    holder: Holder | None = None
    seeds: tuple[SeedRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Waited(Result):
    """``waited_for``, the ``server`` or ``head``, is there unless there are findings; after ``seconds`` and so many ``tries``."""

    waited_for: str
    seconds: float
    tries: int


@dataclass(frozen=True, kw_only=True)
class SetUp(Result):
    """What setup-and-migrate did, as the results of the verbs that it is made of."""

    initialized: Initialized
    database_created: bool
    revised: Revised
    migrated: Migrated


@dataclass(frozen=True, kw_only=True)
class Seeded(Result):
    """``rows`` counts the rows that each table holds of this seed; ``inserted`` how many of them are new.

    Of several seeds, ``parts`` are the results of each, and the rest is about all of them.
    """

    seed: str
    rows: dict[str, int] = field(default_factory=dict)
    inserted: int = 0
    removed: int = 0
    parts: tuple["Seeded", ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reset(Result):
    """``dropped`` names every table that was dropped, ``dropped_types`` every ENUM type.

    ``blast_radius`` is what was there before, ``snapshot`` the copy of it; None when none was taken. ``cached`` is the copy of
    an earlier reset that was put in the place of the database; None when revisions and seed were run.
    """

    dropped: tuple[str, ...]
    migrated: Migrated
    seeded: Seeded | None = None
    dropped_types: tuple[str, ...] = ()
    blast_radius: BlastRadius | None = None
    snapshot: Snapshot | None = None
    cached: Snapshot | None = None


@dataclass(frozen=True, kw_only=True)
class Environment(Result):
    """The environment that the database is marked with, None when it is not, and whether that one is protected."""

    environment: str | None
    protected: bool = False


@dataclass(frozen=True, kw_only=True)
class Marked(Environment):
    """The marker was written or taken away; ``before`` is what it was."""

    before: str | None


@dataclass(frozen=True, kw_only=True)
class Snapshots(Result):
    """The snapshots of a database, the newest first."""

    snapshots: tuple[Snapshot, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SnapshotSaved(Result):
    """The database was copied."""

    snapshot: Snapshot


@dataclass(frozen=True, kw_only=True)
class SnapshotDeleted(Result):
    """The snapshot is gone."""

    snapshot: Snapshot


@dataclass(frozen=True, kw_only=True)
class Restored(Result):
    """The database is what it was in ``snapshot``.

    What it was before is ``kept`` as another snapshot, or, when it was damaged, ``moved`` to this path as it was. Both are
    None when there was no database.
    """

    snapshot: Snapshot
    kept: Snapshot | None = None
    moved: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TablesCreated(Result):
    """The tables that were missing and are there now."""

    created: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class KeyGenerated(Result):
    """A new encryption key, ready for ``FININFRA_DB_KEYS``."""

    key: str


@dataclass(frozen=True)
class Rows:
    """How many rows there are of a kind, and the primary keys of the first of them, as text."""

    count: int = 0
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class SealedColumn:
    """What a sealed column holds. ``keys`` counts the rows under each key by its fingerprint; ``rows`` counts the NULLs in.

    ``plaintext`` was never sealed, ``unopened`` opens with no configured key, ``too_long`` does not fit when it is sealed.
    ``changed`` are the rows that were sealed now, or with a dry run would be.
    """

    table: str
    column: str
    rows: int = 0
    nulls: int = 0
    keys: dict[str, int] = field(default_factory=dict)
    plaintext: Rows = Rows()
    unopened: Rows = Rows()
    too_long: Rows = Rows()
    changed: int = 0


@dataclass(frozen=True, kw_only=True)
class KeysStatus(Result):
    """The fingerprints of the configured keys, the first of which seals, and each sealed column of the models."""

    keys: tuple[str, ...]
    columns: tuple[SealedColumn, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Resealed(KeysStatus):
    """What ``way``, ``rotate`` or ``encrypt``, has left behind; with ``dry_run`` nothing was written."""

    way: str
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Upserted(Result):
    """What became of the rows of a bulk upsert. Each is counted once, as if they had come one after the other."""

    inserted: int
    updated: int
    unchanged: int


@dataclass(frozen=True)
class FaultyRows:
    """Rows that break a rule in one ``place``, ``table.column``: how many, and the primary keys of the first few."""

    place: str
    count: int
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class RuleChecked:
    """What one rule of check-data found: ``count`` rows in ``faults``. ``reason`` says why it was not checked."""

    rule: str
    sentence: str
    seconds: float
    reason: str | None = None
    count: int = 0
    faults: tuple[FaultyRows, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataChecked(Result):
    """What each of the rules found, in the order in which they ran."""

    rules: tuple[RuleChecked, ...] = ()
