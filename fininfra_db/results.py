"""What operations return: frozen data, no behaviour beyond reading themselves.

The text and the JSON of the command line are two views of these objects. ``findings`` is what a check found:
the command line ends with exit code 3 when there is one.
"""

from dataclasses import dataclass, field
from pathlib import Path


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
class RevisionInfo:
    """One revision file, as its header states it. ``created`` is the text of its ``Create Date`` line."""

    revision: str
    down_revisions: tuple[str, ...]
    message: str
    path: Path
    depends_on: tuple[str, ...] = ()
    branch_labels: tuple[str, ...] = ()
    created: str | None = None
    is_head: bool = False
    is_current: bool | None = None


@dataclass(frozen=True)
class Step:
    """One revision that was applied (``up``) or reverted (``down``). ``seconds`` is the time its code took."""

    revision: str
    message: str
    direction: str
    seconds: float


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
    """A run of upgrade or downgrade: where the database was, where it is now, and each step between."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    steps: tuple[Step, ...] = ()


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


@dataclass(frozen=True, kw_only=True)
class SetUp(Result):
    """What setup-and-migrate did, as the results of the verbs that it is made of."""

    initialized: Initialized
    database_created: bool
    revised: Revised
    migrated: Migrated


@dataclass(frozen=True, kw_only=True)
class Seeded(Result):
    """``rows`` counts the rows that each table holds of this seed; ``inserted`` how many of them are new."""

    seed: str
    rows: dict[str, int] = field(default_factory=dict)
    inserted: int = 0


@dataclass(frozen=True, kw_only=True)
class Reset(Result):
    """``dropped`` names every table that was dropped."""

    dropped: tuple[str, ...]
    migrated: Migrated
    seeded: Seeded | None = None


@dataclass(frozen=True, kw_only=True)
class TablesCreated(Result):
    """The tables that were missing and are there now."""

    created: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class KeyGenerated(Result):
    """A new encryption key, ready for ``FININFRA_DB_KEYS``."""

    key: str
