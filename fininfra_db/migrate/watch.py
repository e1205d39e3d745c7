"""Following one run, step by step: the lock is shown to be held, the journal is written, the observer is told, and time is taken."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fininfra_db.dialects import Dialect
from fininfra_db.dialects.locks import HeldLock
from fininfra_db.errors import MigrationFailed
from fininfra_db.events import BlastRadius, Observer, Snapshot, Step
from fininfra_db.migrate import journal
from fininfra_db.migrate.history import message_in
from fininfra_db.migrate.marker import refuse_if_remarked
from fininfra_db.migrate.recorder import Recorder
from fininfra_db.migrate.resuming import Resuming, changed_meanwhile, unfinished
from fininfra_db.migrate.seeds import forget
from fininfra_db.results import Entry

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Resume:
    """How a run treats the revision that an earlier one left unfinished.

    ``entry`` is the row that the caller has read; ``run_it`` says whether what is missing of the revision is run, or
    only its version written.
    """

    entry: Entry
    run_it: bool = True


class Watch:
    """What a run has done so far. One run may go through Alembic several times, when a revision is tried again.

    ``keeps_keys``: each revision is looked at for rows that point nowhere, since a foreign ``env.py`` does not guard the run.
    """

    def __init__(
        self,
        dialect: Dialect,
        lock: HeldLock,
        *,
        observer: Observer | None = None,
        resume: Resume | None = None,
        keeps_snapshot: bool = False,
        keeps_keys: bool = False,
        assessed: BlastRadius | None = None,
    ) -> None:
        self._dialect, self._lock, self._observer, self._resume = dialect, lock, observer, resume
        self._keeps_snapshot, self._keeps_keys, self._assessed = keeps_snapshot, keeps_keys, assessed
        self._look_at_keys: Callable[[], None] | None = None
        self._in_one_transaction = False
        self.steps: list[Step] = []
        self.running: Step | None = None
        self.is_interrupted = False
        self.is_committing = False
        """Whether all of the running revision was run, and only the answer to its commit is missing."""
        self.is_put_right = False
        """Whether the journal was told already that nothing of the running revision is left."""
        self.before: tuple[str, ...] = ()
        self.expected: tuple[str, ...] = ()
        self.rolls_back = True
        """Whether a failing revision leaves nothing behind: as ``env.py`` configured it, until the revision commits by itself."""
        self.snapshot: Snapshot | None = None
        """The copy of the database that was kept before the first revision."""
        self._plan: list[Any] | None = None
        self._path: list[tuple[str, ...]] = []
        """Where the database was before each step, and after the last."""
        self._started = 0.0
        self._recorder: Recorder | None = None

    @property
    def nothing_remains(self) -> bool:
        """Whether nothing of the running revision is left in the database when it fails now."""
        return self.rolls_back and not (self._recorder is not None and self._recorder.committed_inside)

    def what_is_left(self, row: Entry) -> Entry | None:
        """The unfinished ``row`` as it is after the running revision has failed; None when it is not of this run."""
        return None if self._recorder is None else self._recorder.what_is_left(row, interrupted=self.is_interrupted)

    def forget_snapshot(self, versions: tuple[str, ...]) -> None:
        """Remove the copy of a database that a failed run has left as it was, at ``versions``."""
        is_as_before = set(versions) == set(self.before) and self._in_one_transaction and self.nothing_remains
        if self.snapshot is not None and self.snapshot.path is not None and is_as_before:
            self.snapshot.path.unlink(missing_ok=True)
            self.snapshot = None

    def follow(self, plan: Iterable[Any], versions: tuple[str, ...], context: "MigrationContext") -> Iterator[Any]:
        """Hand on the steps of ``plan`` that are not done yet. Alembic asks for the next one when it has run the one before.

        Raises ``LockLost``, ``Refused`` when the database was marked otherwise since the guard looked, or
        ``UnfinishedRevision`` when an earlier run left a part of a revision behind.
        """
        if self._plan is None:
            assert context.connection is not None
            refuse_if_remarked(context.connection, self._assessed)
            self._plan, self.before = list(plan), tuple(sorted(versions))
            self._path = [self.before]
        self._go_back_to(tuple(sorted(versions)))
        self.rolls_back = context.impl.transactional_ddl or self._is_ours(context)
        context.on_version_apply_callbacks += (self._applied,)
        steps = self._plan[len(self.steps) :]
        if any(is_revision(step) for step in steps):
            self._start_recording(context, steps[0])
        for step in steps:
            if not is_revision(step):
                yield step
                continue
            self._begin(step, context, is_first=step is steps[0], is_last=step is steps[-1])
            yield step
            self._end()
        if self._recorder is not None:
            self._recorder.end()

    def _go_back_to(self, versions: tuple[str, ...]) -> None:
        """Forget the steps that were rolled back with a revision that is tried again: where the database is says which."""
        if versions not in self._path:
            raise MigrationFailed(
                f"The database is at {', '.join(versions) or 'no revision'}, where this run has not brought it: somebody else changed it. "
                "Nothing more was run.",
                "See where it is with 'fininfra-db status', then run the command again.",
            )
        done = self._path.index(versions)
        del self._path[done + 1 :], self.steps[done:]
        self.expected = versions

    def _is_ours(self, context: "MigrationContext") -> bool:
        """Whether DDL is rolled back whatever ``env.py`` believes: SQLite's is, on our driver, where each BEGIN is this program's."""
        connection = context.connection
        return self._dialect.features.transactional_ddl and connection is not None and connection.dialect.driver in self._dialect.drivers

    def refuse_unfinished(self, context: "MigrationContext") -> None:
        """Raise ``UnfinishedRevision`` when an earlier run left a part of a revision behind: nothing to do is not all done then.

        Not where somebody says that it was finished by hand, which may have been done to its version too.
        """
        if self._resume is not None and not self._resume.run_it:
            return
        assert context.connection is not None
        entry = journal.read_unfinished(context.connection, table_of(context))
        if entry is not None and entry.statement:
            raise unfinished(entry)

    def _start_recording(self, context: "MigrationContext", first: Any) -> None:
        connection = context.connection
        assert connection is not None
        self._in_one_transaction = context.impl.transactional_ddl and not context.opts.get("transaction_per_migration", False)
        entry = journal.read_unfinished(connection, table_of(context))
        asked = self._resume is not None
        if self._resume is not None and not self.steps and entry != self._resume.entry:
            raise changed_meanwhile(self._resume.entry)
        if entry is not None and entry.statement == 0:
            journal.rewrite(connection, replace(entry, outcome=journal.FAILED))  # it ended before its first statement
            entry = None
        if entry is not None and self._resume is None:
            self._resume = self._carry_on(entry, first)
        if self._keeps_snapshot:
            self._keeps_snapshot = False
            self.snapshot = self._dialect.before_migration(connection, self.before)
        resume = None
        if self._resume is not None and not self.steps:
            resume = Resuming(self._resume.entry, connection, self._dialect, automatic=not asked)
        self._recorder = Recorder(
            connection, self._dialect, version_table=table_of(context), in_one_transaction=self._in_one_transaction, resume=resume
        )

    def _carry_on(self, entry: Entry, first: Any) -> Resume:
        """A revision that committed a part of itself on purpose is carried on with, where all the rest is rolled back.

        Where every DDL statement commits, somebody has to look first.
        """
        if self._dialect.features.transactional_ddl and (first.revision.revision, _direction(first)) == (entry.revision, entry.direction):
            return Resume(entry)
        raise unfinished(entry)

    def _begin(self, step: Any, context: "MigrationContext", *, is_first: bool, is_last: bool) -> None:
        connection = context.connection
        assert connection is not None
        self._lock.require()
        if is_first != is_last:
            self._dialect.wait_for_disk(connection, wanted=is_last)
        script = step.revision
        self.is_committing = self.is_put_right = False
        self.running = Step(script.revision, message_in(script.longdoc), _direction(step), 0.0)
        if self._observer is not None:
            self._observer(self.running)
        assert self._recorder is not None
        self._recorder.begin(script.revision, _direction(step), journal.checksum_of(Path(script.path)))
        if self._only_marks:
            step.migration_fn = _do_nothing
        else:
            step.migration_fn = self._recorder.watching(getattr(script.module, "upgrade" if step.is_upgrade else "downgrade"))
        self._started = time.perf_counter()
        if self._keeps_keys and self._is_ours(context):  # on another driver, foreign keys are as env.py has left them
            self._look_at_keys = self._dialect.keys_kept(connection)

    @property
    def _only_marks(self) -> bool:
        """Whether the running revision is the one that somebody finished by hand."""
        return self._resume is not None and not self._resume.run_it and not self.steps

    def _applied(self, *, ctx: "MigrationContext", heads: set[str], step: Any, **_: Any) -> None:
        """Alembic has run a step and written its version; its transaction is still open."""
        if self._look_at_keys is not None and not step.is_stamp:
            self._look_at_keys()
        self.is_committing = True
        self.expected = tuple(sorted(heads))
        self._path.append(self.expected)
        if self._recorder is not None and not step.is_stamp:
            self._recorder.done(time.perf_counter() - self._started, journal.SETTLED if self._only_marks else journal.DONE)
            if not heads and ctx.connection is not None:  # the first revision was reverted, and the rows of seeds went with its tables
                forget(ctx.connection)

    def _end(self) -> None:
        assert self.running is not None
        self.steps.append(replace(self.running, seconds=time.perf_counter() - self._started))
        self.running = None


def table_of(context: "MigrationContext") -> str:
    """The version table of an environment, with its schema: whose revisions a row of the journal tells of."""
    schema = context.version_table_schema
    return f"{schema}.{context.version_table}" if schema else context.version_table


def is_revision(step: Any) -> bool:
    """A step that runs a revision; a stamp only writes a version."""
    return hasattr(step, "revision")


def _direction(step: Any) -> Direction:
    return "up" if step.is_upgrade else "down"


def _do_nothing(**_: Any) -> None: ...
