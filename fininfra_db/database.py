"""``Database``: one asynchronous method for each verb of the command line.

It composes and does nothing else: settings come in, results come out, errors are raised. It can be called inside a
running event loop, prints nothing, and touches neither logging nor the environment.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fininfra_db.connections import ensure_database
from fininfra_db.dialects import target_of
from fininfra_db.errors import OptionsInvalid, ProjectNotFound
from fininfra_db.events import BlastRadius, Confirm, Observer
from fininfra_db.migrate.config import Project, alembic_options, find_project, load_metadata
from fininfra_db.migrate.project_lock import project_lock
from fininfra_db.migrate.scaffold import DEFAULT_DIRECTORY, scaffold
from fininfra_db.migrate.state import read_versions, refuse_unknown, state_or_none
from fininfra_db.results import (
    Checked,
    Current,
    DataChecked,
    Environment,
    Finding,
    Initialized,
    KeysStatus,
    Marked,
    Migrated,
    Repaired,
    Resealed,
    Reset,
    Restored,
    Revised,
    Revisions,
    Script,
    Seeded,
    SetUp,
    Shown,
    SnapshotDeleted,
    Snapshots,
    SnapshotSaved,
    Stamped,
    Status,
    TablesCreated,
    Waited,
)
from fininfra_db.settings import Settings, load_settings, reread_project

if TYPE_CHECKING:
    from fininfra_db.data.cache import ResetCache
    from fininfra_db.data.request import SeedRequest
    from fininfra_db.migrate.authoring import Draft
    from fininfra_db.migrate.guard import Action
    from fininfra_db.migrate.repair import Settlement


class Database:
    """The database of one project.

    ``settings`` default to those of the process: environment, ``.env``, ``alembic.ini``; ``SQL_URL_DIRECT``, where it is set,
    is the URL. ``observer`` is told of what happens during a run: each revision as it begins, waiting for a lock, trying again.
    ``confirm`` asks a person before data may be lost; without it what is protected needs ``confirm_database``, the name of the
    database, and the rest is done without asking.
    Every method may raise ``ConfigurationError`` and ``DatabaseUnreachable``; the others are named where they come from.
    """

    def __init__(self, settings: Settings | None = None, *, observer: Observer | None = None, confirm: Confirm | None = None) -> None:
        self.settings = (settings or load_settings()).direct
        self._observer = observer
        self._confirm = confirm

    async def init(self, directory: str = DEFAULT_DIRECTORY, *, models: tuple[str, ...] = (), package: bool = False) -> Initialized:
        """Write the files of a new project; nothing that is there already."""
        initialized = scaffold(self.settings, directory=directory, models=models, package=package)
        self.settings = reread_project(self.settings)
        return initialized

    async def revision(self, draft: "Draft") -> Revised:
        """Write a revision file. See :class:`fininfra_db.migrate.authoring.Draft` for the options."""
        from fininfra_db.migrate.authoring import write_revision

        return await write_revision(self._project(), draft)

    async def merge(
        self,
        revisions: tuple[str, ...] = ("heads",),
        *,
        message: str | None = None,
        branch_label: str | None = None,
        rev_id: str | None = None,
        splice: bool = False,
    ) -> Revised:
        """Write a revision that joins several heads."""
        from fininfra_db.migrate.authoring import merge

        return merge(self._project(), revisions, message=message, branch_label=branch_label, rev_id=rev_id, splice=splice)

    async def upgrade(self, revision: str = "head", *, tag: str | None = None) -> Migrated:
        """Apply the revisions up to ``revision``, and mark the database with ``APP_ENV`` if it has no marker yet."""
        self._recover()
        from fininfra_db.migrate import runner

        migrated = await runner.upgrade(self._project(), revision, tag=tag, observer=self._observer)
        if not migrated.steps or self.settings.environment is None:
            return migrated
        from fininfra_db.migrate.marker import mark_migrated

        return replace(migrated, warnings=migrated.warnings + await mark_migrated(self.settings))

    async def repair(self, settlement: "Settlement") -> Repaired:
        """Settle a revision that an earlier run left unfinished: ``resume``, ``mark-applied`` or ``mark-rolled-back``."""
        self._recover()
        from fininfra_db.migrate.repair import repair

        return await repair(self._project(), settlement, observer=self._observer)

    async def upgrade_script(self, revision: str = "head", *, tag: str | None = None) -> Script:
        """The SQL of an upgrade to ``revision``, or of ``from:to``; no database is contacted."""
        from fininfra_db.migrate import scripting

        return await scripting.render_upgrade(self._project(), revision, tag)

    async def downgrade(self, revision: str, *, tag: str | None = None, confirm_database: str | None = None) -> Migrated:
        """Revert the revisions above ``revision``; ``base`` reverts all. Raises ``Protected``, ``WrongDatabaseName``."""
        self._recover()
        from fininfra_db.migrate import runner
        from fininfra_db.migrate.guard import DOWNGRADE

        project = self._project()
        radius = await self._require(DOWNGRADE, confirm_database, project)
        migrated = await runner.downgrade(project, revision, tag=tag, observer=self._observer, assessed=radius)
        return replace(migrated, blast_radius=radius)

    async def downgrade_script(self, revision: str, *, tag: str | None = None) -> Script:
        """The SQL of a downgrade ``from:to``; no database is contacted."""
        from fininfra_db.migrate import scripting

        return await scripting.render_downgrade(self._project(), revision, tag)

    async def stamp(self, *revisions: str, purge: bool = False, tag: str | None = None) -> Stamped:
        """Write ``revisions`` into the version table without running them."""
        self._recover()
        from fininfra_db.migrate import runner

        return await runner.stamp(self._project(), revisions, purge=purge, tag=tag)

    async def stamp_script(self, *revisions: str, purge: bool = False, tag: str | None = None) -> Script:
        """The SQL of a stamp; no database is contacted. It cannot ``purge``: what is there to delete is not known."""
        if purge:
            raise OptionsInvalid("--purge and --sql do not go together: no database is asked what to delete.", "Leave one of them out.")
        from fininfra_db.migrate import scripting

        return await scripting.render_stamp(self._project(), revisions, tag)

    async def current(self, *, check_heads: bool = False) -> Current:
        """Where the database is. ``check_heads`` makes a finding of what is pending."""
        from fininfra_db.migrate.looking import look_at_current

        project = self._project()
        return look_at_current(project.history(), await read_versions(project, only_looking=True), check_heads=check_heads)

    async def history(self, rev_range: str | None = None, *, indicate_current: bool = False, ledger: bool = False) -> Revisions:
        """The revisions of ``[start]:[end]``, newest first; ``current`` stands for the database's revision.

        ``ledger`` adds when and by whom each was applied, if the database can be read.
        """
        from fininfra_db.migrate.looking import look_at_history
        from fininfra_db.migrate.lookup import names_current

        project = self._project()
        versions = await read_versions(project, only_looking=True) if indicate_current or names_current(rev_range) else None
        found = look_at_history(project.history(), rev_range, versions)
        if not ledger:
            return found
        from fininfra_db.migrate.status import with_ledger

        return await with_ledger(project, found)

    async def heads(self, *, resolve_dependencies: bool = False) -> Revisions:
        """The revisions that nothing follows."""
        from fininfra_db.migrate.looking import look_at_heads

        return look_at_heads(self._project().history(), resolve_dependencies=resolve_dependencies)

    async def show(self, revision: str) -> Shown:
        """The revisions that a name stands for; ``current`` is the database's."""
        from fininfra_db.migrate.lookup import find_revisions

        project = self._project()
        history = project.history()
        if revision != "current":
            return Shown(revisions=find_revisions(history, revision))
        from fininfra_db.migrate.looking import show_current

        return show_current(history, await read_versions(project, only_looking=True))

    async def check(self) -> Checked:
        """Whether the history has one head, the database is at it, and the models agree with the database."""
        from fininfra_db.migrate.looking import check

        return await check(self._project())

    async def check_data(self, *rules: str) -> DataChecked:
        """Look for rows that break the ``rules`` of these names, or any rule; each that is broken is a finding. Nothing is written.

        A database ahead of the checkout is the one finding then: its rows are not those of these models.
        Raises ``OptionsInvalid`` for a name that is no rule's, ``TablesMissing`` when the database lacks what the models have.
        """
        from fininfra_db.data.checks.runner import check_data

        ahead = await self._find_ahead() if alembic_options(self.settings.project_root) is not None else ()
        return DataChecked(findings=ahead) if ahead else await check_data(self.settings, rules)

    async def status(self) -> Status:
        """Everything about the database that matters before a deployment; what speaks against one is a finding."""
        from fininfra_db.migrate.status import status

        return await status(self._project())

    async def wait(self, waited_for: str = "server", *, timeout: float = 60.0) -> Waited:
        """Wait for up to ``timeout`` seconds until the ``server`` answers, or until the database is at ``head``.

        Raises ``ServerNotReady`` when the server did not answer in time. A wrong password and the like is raised at once.
        """
        from fininfra_db.migrate import waiting

        if waited_for == "server":
            return await waiting.wait_for_server(self.settings, timeout)
        if waited_for == "head":
            return await waiting.wait_for_head(self._project(), timeout)
        raise OptionsInvalid(f"Nobody waits for {waited_for!r}.", "Wait for 'server' or 'head'.")

    async def setup_and_migrate(self) -> SetUp:
        """Take a database from nothing to head: files, database, first revision, upgrade. Run again, it changes nothing."""
        self._recover()
        load_metadata(self.settings)  # models and database first: what cannot work is found before a file is written
        created = await ensure_database(self.settings)
        async with project_lock(self.settings.project_root):
            self.settings = reread_project(self.settings)
            initialized = await self.init()
            revised = await self._first_revision()
        migrated = await self.upgrade()
        return SetUp(
            initialized=initialized,
            database_created=created,
            revised=revised,
            migrated=migrated,
            warnings=initialized.warnings + migrated.warnings + await self._what_models_add(),
        )

    async def create_tables(self) -> TablesCreated:
        """Create the tables of the models without migrations, for a database that will be thrown away."""
        self._recover()
        from fininfra_db.migrate.tables import create_tables

        self._require_models()
        load_metadata(self.settings)  # what cannot work is found before the database is asked
        await self._refuse_ahead()
        return await create_tables(self.settings)

    async def seed(self, request: "SeedRequest | str | None" = None, *, confirm_database: str | None = None) -> Seeded:
        """Write the rows of a seed, or of each one in the ``seeds`` of ``alembic.ini``; its name alone is a request.

        Never on a protected database, whatever is confirmed.
        Raises ``OptionsInvalid``, ``Protected``, ``WrongDatabaseName``, ``SeedFailed``.
        """
        self._recover()
        from fininfra_db.data.loader import require_seeds, write_seeds
        from fininfra_db.data.request import as_request
        from fininfra_db.migrate.guard import SEED

        wanted = as_request(request)
        require_seeds(self.settings, wanted)
        radius = await self._require(SEED, confirm_database)
        await self._refuse_ahead()
        return await write_seeds(self.settings, wanted, observer=self._observer, assessed=radius)

    async def reset(self, *, seed: "SeedRequest | str | None" = None, confirm_database: str | None = None, use_cache: bool = True) -> Reset:
        """Drop what the project owns, migrate again, and write ``seed`` if one is asked for. Data is lost.

        With a seed of this program's, a copy of the result is kept; while everything that it was made from is as it was, the
        next reset puts that copy in the place of the database, unless ``use_cache`` is off. A protected database takes no seed.
        Raises ``Protected``, ``WrongDatabaseName``. What was dropped is named, whatever ends it.
        """
        self._recover()
        from fininfra_db.data.request import as_request
        from fininfra_db.migrate.guard import RESET, RESET_AND_SEED

        wanted = None if seed is None else as_request(seed)
        radius = await self._require(RESET_AND_SEED if wanted else RESET, confirm_database)
        initialized = await self.init()
        if wanted is None or not use_cache:
            return await self._rebuild(wanted, radius, initialized)
        from fininfra_db.data.cache import ResetCache

        cache = ResetCache.of(self._project(), wanted, self._observer)
        done = await cache.restore(radius) if cache else None
        done = done or await self._rebuild(wanted, radius, initialized, cache)
        return replace(done, warnings=done.warnings + tuple(cache.warnings if cache else ()))

    async def _rebuild(
        self, wanted: "SeedRequest | None", radius: BlastRadius, initialized: Initialized, cache: "ResetCache | None" = None
    ) -> Reset:
        """The reset itself, from nothing. What it made is handed to ``cache``."""
        from fininfra_db.data.loader import require_seeds, write_seeds
        from fininfra_db.migrate.lookup import find_revisions
        from fininfra_db.migrate.tables import drop_owned_tables, naming

        find_revisions(self._project().history(), "head")  # where to go afterwards must be clear before anything is dropped
        if wanted:
            require_seeds(self.settings, wanted)
        dropped = await drop_owned_tables(self._project(), self._observer, radius)
        with naming(dropped, self._observer):
            if cache:
                await cache.look_at_rest()
            made = await self.setup_and_migrate()
            seeded = await write_seeds(self.settings, wanted, observer=self._observer) if wanted else None
        if cache and seeded:
            await replace(cache, project=self._project()).keep(made.migrated, seeded, made.warnings)
        return Reset(
            dropped=dropped.tables,
            dropped_types=dropped.types,
            migrated=made.migrated,
            seeded=seeded,
            blast_radius=radius,
            snapshot=dropped.snapshot,
            warnings=initialized.warnings + made.warnings,
        )

    async def environment(self) -> Environment:
        """The environment that the database is marked with. Nothing is written."""
        from fininfra_db.migrate.marker import show_environment

        return await show_environment(self.settings)

    async def set_environment(self, name: str, *, confirm_database: str | None = None) -> Marked:
        """Mark the database as ``name``; ``none`` takes the marker away. Raises ``Protected``, ``WrongDatabaseName``."""
        self._recover()
        from fininfra_db.migrate.guard import MARK
        from fininfra_db.migrate.marker import parse_name, set_environment

        wanted = parse_name(name)
        before = await self.environment()
        if before.environment == wanted and confirm_database is None:
            return Marked(before=wanted, environment=wanted, protected=before.protected)
        radius = await self._require(MARK, confirm_database)
        return await set_environment(self.settings, wanted, radius)

    async def _require(
        self, action: "Action", confirm_database: str | None, project: Project | None = None, *, copied: str | None = None
    ) -> BlastRadius:
        """Let ``action`` pass the guard, or raise what it refuses with. Returns what is at stake."""
        from fininfra_db.migrate.guard import assess, require

        assessment = await assess(self.settings, project, action, copied=copied)
        require(assessment, confirm_database, confirm=self._confirm, observer=self._observer)
        return assessment.blast_radius

    async def snapshots(self) -> Snapshots:
        """The copies that are kept of this database. Raises ``SnapshotsUnsupported`` where this program makes none."""
        from fininfra_db.data.snapshots import list_snapshots

        return await list_snapshots(self.settings)

    async def save_snapshot(self, name: str | None = None) -> SnapshotSaved:
        """Copy the database, under ``name`` or the date and time, and keep the copy until it is deleted.

        Raises ``OptionsInvalid``, ``SnapshotExists``, ``SnapshotFailed`` or ``LockNotObtained``; there is no copy then.
        """
        from fininfra_db.data.snapshots import save_snapshot

        return await save_snapshot(self.settings, name, self._observer)

    async def restore_snapshot(self, name: str, *, confirm_database: str | None = None) -> Restored:
        """Make the database what it was in a snapshot. What it is now is kept as another one.

        Raises ``SnapshotNotFound``, ``SnapshotFailed`` or ``LockNotObtained``; the database is then as it was.
        """
        from fininfra_db.data.snapshots import find_snapshot, restore_snapshot
        from fininfra_db.migrate.guard import RESTORE

        kept = await find_snapshot(self.settings, name)
        radius = await self._require(RESTORE, confirm_database)
        return await restore_snapshot(self.settings, kept, radius, self._observer)

    async def delete_snapshot(self, name: str, *, confirm_database: str | None = None) -> SnapshotDeleted:
        """Remove a snapshot for good. Raises ``SnapshotNotFound``, ``Protected``, ``WrongDatabaseName`` or ``SnapshotFailed``."""
        from fininfra_db.data.snapshots import delete_snapshot, find_snapshot, noted_environment
        from fininfra_db.migrate.guard import DELETE

        kept = await find_snapshot(self.settings, name)
        radius = await self._require(DELETE, confirm_database, copied=noted_environment(kept))
        return await delete_snapshot(self.settings, kept, radius, self._observer)

    async def keys_status(self) -> KeysStatus:
        """Which key every row of every sealed column is under; plaintext, and what another key than the first sealed, are findings."""
        from fininfra_db.data.keys import keys_status

        self._require_models()
        return await keys_status(self.settings)

    async def rotate_keys(self, *, dry_run: bool = False) -> Resealed:
        """Seal with the first key whatever another one sealed. Raises ``ResealingFailed``; a second run carries on.

        Not guarded: nothing is lost that the configured keys do not open, and production is where keys are changed.
        """
        from fininfra_db.data.keys import reseal

        self._require_models()
        return await reseal(self.settings, "rotate", dry_run=dry_run, observer=self._observer)

    async def encrypt_plaintext(self, *, dry_run: bool = False) -> Resealed:
        """Seal the plaintext in sealed columns. What looks sealed is left alone. Raises ``ResealingFailed``; a second run carries on."""
        from fininfra_db.data.keys import reseal

        self._require_models()
        return await reseal(self.settings, "encrypt", dry_run=dry_run, observer=self._observer)

    def _recover(self) -> None:
        """Before a verb that writes looks for the first time: a look alone does not end what a killed program left half done."""
        target = target_of(self.settings)
        target.dialect.recover(target.url)

    async def _first_revision(self) -> Revised:
        project = self._project()
        if not project.is_ours or project.history().revisions:
            return Revised()
        from fininfra_db.migrate.authoring import write_first_revision

        return await write_first_revision(project)

    async def _what_models_add(self) -> tuple[str, ...]:
        if not self._project().is_ours:
            return ()
        drift = (await self.check()).drift
        if not drift:
            return ()
        return (
            f"The models differ from the database: {'; '.join(drift)}. "
            "Run 'fininfra-db revision --autogenerate -m \"...\"', then 'fininfra-db upgrade'.",
        )

    def _require_models(self) -> None:
        if alembic_options(self.settings.project_root) is not None:
            self._project().require_models()

    async def _find_ahead(self) -> tuple[Finding, ...]:
        from fininfra_db.migrate.looking import find_unknown

        project = self._project()
        project.require_models()
        return find_unknown(project.history(), await read_versions(project, only_looking=True))

    async def _refuse_ahead(self) -> None:
        """The models of an old checkout are not those of a database that newer files have made. Raises ``DatabaseAhead``."""
        if alembic_options(self.settings.project_root) is not None:
            project = self._project()
            refuse_unknown(project.history(), (await state_or_none(project)).versions)

    def _project(self) -> Project:
        project = find_project(self.settings)
        if not Path(project.location).is_dir():
            raise ProjectNotFound(f"The migrations folder does not exist: {project.location}", "Run 'fininfra-db init'.")
        return project
