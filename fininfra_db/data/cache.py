"""The cache of ``reset --seed``: a copy of what the last such reset made, for the next one to put in its place.

A copy is used when everything that it was made from is as it was: this program, the revision files, ``env.py`` and
``alembic.ini``, the seed and its arguments, the key that seals, and the server, which are its key; and every module of the
project that was loaded while it was made, which its label lists. Seeds that are functions of the project are never taken from
the cache, since what else they read nobody knows.
"""

import hashlib
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import sqlalchemy
from sqlalchemy import Connection, inspect

from fininfra_db.connections import read, snapshots_of
from fininfra_db.data.request import SeedRequest
from fininfra_db.data.snapshots import ENVIRONMENT_NOTE, labelling, require_restored, settling
from fininfra_db.dialects import target_of
from fininfra_db.dialects.snapshots import CACHE_PREFIX, Facts, Kept, SnapshotStore
from fininfra_db.errors import DatabaseInUse, DatabaseMissing, SnapshotFailed, SnapshotsUnsupported
from fininfra_db.events import BlastRadius, Observer, Snapshot
from fininfra_db.migrate.config import Project, alembic_options
from fininfra_db.migrate.marker import is_name, refuse_if_remarked
from fininfra_db.migrate.plugin import PREFIX
from fininfra_db.migrate.state import refuse_unknown
from fininfra_db.results import Migrated, Reset, Seeded
from fininfra_db.security import keyring_of
from fininfra_db.settings import Settings
from fininfra_db.version import __version__

KEPT: Final = 3
"""How many copies are kept of one database."""

_HERE: Final = Path(__file__).parent.parent
_NAMES: Final = re.compile(re.escape(CACHE_PREFIX))
_DIGITS: Final = 20
_INVENTORY: Final = "inventory"
_RIGHTS: Final = "rights"
_SOURCES: Final = "sources"
_SEEDED: Final = "seeded"
_WARNINGS: Final = "warnings"
"""What is noted with a copy: what is in it, who may do what there, the files that it was made from,
what its seed said, and what the reset warned of."""


class _Unusable(Exception):
    """A copy that does not fit the database, with the reason."""


@dataclass
class ResetCache:
    """The cached resets of one database, for one seed."""

    project: Project
    request: SeedRequest
    observer: Observer | None = None
    is_storable: bool = True
    """Whether what is being built is worth a copy: it will be the project's alone, and there is none."""
    warnings: list[str] = field(default_factory=list)
    """Why something was built the slow way, or will be the next time."""

    @classmethod
    def of(cls, project: Project, request: SeedRequest | None, observer: Observer | None) -> "ResetCache | None":
        """The cache for a reset; None for one whose result is nobody's business but its own."""
        if request is None or not project.is_ours or any(":" in (each.name or "") for each in request.named(project.settings)):
            return None
        cache = cls(project, request, observer)
        try:
            cache._store()
        except SnapshotsUnsupported:
            return None
        return cache

    async def restore(self, assessed: BlastRadius) -> Reset | None:
        """Put a cached copy in the place of the database. None when there is none that fits; nothing has changed then."""
        settings, store = self.project.settings, self._store()
        try:
            name = self._name()
            kept = next((kept for kept in await store.kept() if kept.snapshot.name == name), None)
            if kept is None or not _unchanged(kept, settings.project_root):
                return None
            before = _Before(self, kept, assessed)
            wanted = assessed.environment or (settings.environment if is_name(settings.environment or "") else None)
            settle = None if wanted == kept.notes.get(ENVIRONMENT_NOTE) else settling(wanted)
            keeps = not target_of(settings).dialect.features.has_server and not settings.no_snapshot and bool(assessed.rows)
            restored = await store.restore(kept, before.check, settle=settle, keep=keeps)
            await require_restored(settings, kept)
        except _Unusable as reason:
            self.warnings.append(f"The cached copy was not used: {reason}. The database was built.")
            return None
        except (SnapshotFailed, DatabaseInUse) as error:
            self.warnings.append(f"The cached copy was not used: {settings.redact(error.message)} The database was built.")
            self.is_storable = not isinstance(error, DatabaseInUse)  # else the copy is good, for another time
            return None
        target_of(settings).dialect.let_go_of_snapshots(target_of(settings).url, restored.kept)
        return before.reset(restored.kept)

    async def look_at_rest(self) -> None:
        """Look at what a drop has left: what is not this project's must not come back with a copy."""
        store = self._store()
        try:
            left = await read(self.project.settings, store.inventory)
        except DatabaseMissing:
            return
        others = [each for each in left if not _is_own(each)]
        if others:
            self.is_storable = False
            self.warnings.append(f"The database holds more than this project's tables ({', '.join(others[:5])}), so it is built each time.")

    async def keep(self, made: Migrated, seeded: Seeded, warnings: tuple[str, ...]) -> None:
        """Copy what was built, for the next time. What keeps it from that is a warning: the reset is done."""
        if not self.is_storable:
            return
        store, name = self._store(), self._name()
        notes: dict[str, object] = {_SOURCES: _sources(self.project.settings), _SEEDED: _said(seeded), _WARNINGS: list(warnings)}
        label = labelling(self.project.settings, notes=notes)

        def look(connection: Connection) -> Facts:
            facts = label(connection)
            if facts.versions != tuple(sorted(made.after)):
                raise _Unusable("somebody else has migrated the database since")
            noted = {**facts.notes, _INVENTORY: store.inventory(connection), _RIGHTS: store.rights(connection)}
            return Facts(facts.versions, facts.seed, facts.server, noted)

        try:
            for kept in await store.kept():
                if kept.snapshot.name == name:
                    await store.delete(kept)
            await store.save(name, look)
            await store.prune(_NAMES, spare=(name,), keep=KEPT)
        except (SnapshotFailed, DatabaseInUse) as error:
            hint = f" {error.hint}" if error.hint else ""
            reason = self.project.settings.redact(error.message)
            self.warnings.append(f"No copy was kept for the next reset, which will build again: {reason}{hint}")
        except _Unusable as error:
            self.warnings.append(f"No copy was kept for the next reset, which will build again: {error}.")

    def _store(self) -> SnapshotStore:
        """Whoever is connected is not waited for: to build takes no longer."""
        return snapshots_of(self.project.settings, self.observer, patience=0.0)

    def _name(self) -> str:
        return CACHE_PREFIX + cache_key(self.project, self.request)


@dataclass
class _Before:
    """A database as it is before a copy takes its place."""

    cache: ResetCache
    copy: Kept
    assessed: BlastRadius
    facts: Facts = field(default_factory=Facts)
    tables: tuple[str, ...] = ()

    def check(self, connection: Connection) -> Facts:
        """Raise unless the copy has everything that is in the database, and nothing else speaks against it."""
        refuse_if_remarked(connection, self.assessed)
        self.facts = labelling(self.cache.project.settings)(connection)
        refuse_unknown(self.cache.project.history(), self.facts.versions)
        if self.facts.server != self.copy.snapshot.server:
            raise _Unusable(f"it was made by {self.copy.snapshot.server}, and this is {self.facts.server}")
        store = self.cache._store()
        present = store.inventory(connection)
        others = sorted(each for each in set(present) - set(self.copy.notes.get(_INVENTORY, ())) if not _is_own(each))
        if others:
            raise _Unusable(f"the database holds what it does not ({', '.join(others[:5])})")
        if set(store.rights(connection)) != set(self.copy.notes.get(_RIGHTS, ())):
            raise _Unusable("rights in the database were granted or revoked since")
        self.tables = tuple(name for name in inspect(connection).get_table_names() if not name.startswith(PREFIX))
        return self.facts

    def reset(self, kept: Snapshot | None) -> Reset:
        """What the reset has done."""
        notes, revision = self.copy.notes, self.copy.snapshot.revision
        after = tuple(revision.split("+")) if revision else ()
        rows = {str(table): int(count) for table, count in notes[_SEEDED]["rows"].items()}
        return Reset(
            dropped=self.tables,
            migrated=Migrated(before=self.facts.versions, after=after),
            seeded=Seeded(seed=notes[_SEEDED]["seed"], rows=rows, inserted=sum(rows.values())),
            blast_radius=self.assessed,
            snapshot=kept,
            cached=self.copy.snapshot,
            warnings=tuple(notes[_WARNINGS]),
        )


def cache_key(project: Project, request: SeedRequest) -> str:
    """A digest of what a seeded database is made from, as far as it can be told without loading it. No secret can be read from it."""
    settings, keyring = project.settings, keyring_of(project.settings)
    alembic = find_spec("alembic")  # its version stands in this file, and to import it takes a fifth of the time of a hit
    told = (
        __version__,
        sqlalchemy.__version__,
        _digest(Path(alembic.origin)) if alembic and alembic.origin else "",
        _tool(),
        settings.models,
        settings.environment,
        sorted((alembic_options(settings.project_root) or {}).items(), key=str),
        [repr(each) for each in request.named(settings)],
        keyring.fingerprints[:1] if keyring else (),
    )
    whole = hashlib.sha256(repr(told).encode())
    for path in (settings.ini_path, project.env_path, *_files_of(project)):
        whole.update(f"{path.name}\0{_digest(path)}\0".encode())
    return whole.hexdigest()[:_DIGITS]


def _files_of(project: Project) -> Iterator[Path]:
    """The revision files, and whatever lies beside them."""
    for folder in project.versions:
        found = folder.rglob("*") if project.recursive else folder.glob("*")
        yield from sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _tool() -> str:
    """This program as it is: one that is being worked on changes under one version."""
    return hashlib.sha256("".join(_digest(path) for path in sorted(_HERE.rglob("*.py"))).encode()).hexdigest()


def _sources(settings: Settings) -> dict[str, str]:
    """The modules that are loaded and belong to the project, or to whoever wrote its models, each with its digest.

    Seen from the project's root: the label of a copy can be read by others, whom it does not concern where that is.
    """
    installed = tuple(str(path.resolve()) for path in (*_installed(), _HERE))
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or not file.endswith(".py"):
            continue
        path = Path(file).resolve()
        if name in settings.models or not str(path).startswith(installed):
            found[_seen_from(settings.project_root.resolve(), path)] = _digest(path)
    return found


def _seen_from(root: Path, path: Path) -> str:
    try:
        return os.path.relpath(path, root)
    except ValueError:  # it is on another drive
        return str(path)


def _installed() -> set[Path]:
    paths = sysconfig.get_paths()
    return {Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def _unchanged(kept: Kept, root: Path) -> bool:
    return all(_digest(root.resolve() / path) == digest for path, digest in kept.notes.get(_SOURCES, {}).items())


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _is_own(item: str) -> bool:
    """Whether a line of an inventory is about a table that this program keeps for itself."""
    return re.split(r"[ .]", item)[-1].startswith(PREFIX)


def _said(seeded: Seeded) -> dict[str, object]:
    return {"seed": seeded.seed, "rows": dict(seeded.rows)}
