"""What a run may lose: the rows that its revisions say they delete, and the copy that is kept of the rest."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from alembic.runtime.migration import MigrationContext

from fininfra_db.dialects import dialect_of
from fininfra_db.errors import FininfraDbError, RevisionBroken
from fininfra_db.results import Snapshot
from fininfra_db.settings import Settings

E = TypeVar("E", bound=FininfraDbError)
Work = Callable[[tuple[str, ...], MigrationContext], Iterable[Any]]
"""What an operation does with the database's revisions; the steps that it returns are run."""

_STATEMENT: Final = "deletes_rows"


def deletions_stated_by(module: Any) -> frozenset[str]:
    """The tables that a revision says it deletes rows from, in its ``deletes_rows``. Raises ``RevisionBroken``."""
    stated = getattr(module, _STATEMENT, ())
    names = (stated,) if isinstance(stated, str) else stated
    if not isinstance(names, tuple | list | set | frozenset) or not all(isinstance(name, str) for name in names):
        raise RevisionBroken(
            f"{_STATEMENT} in the revision {getattr(module, 'revision', module)} is not a tuple of table names.",
            f"Write it as {_STATEMENT} = ('table',).",
        )
    return frozenset(names)


def with_snapshot(work: Work, settings: Settings, note: Callable[[Snapshot | None], None]) -> Work:
    """The same work, with a copy of the database kept before its first revision is run; ``note`` is told of it."""
    if not settings.snapshots:
        return work

    def copying(versions: tuple[str, ...], context: MigrationContext) -> Iterator[Any]:
        steps = iter(work(versions, context))
        for step in steps:
            if not step.info.is_stamp:
                assert context.connection is not None
                note(dialect_of(context.dialect.name).before_migration(context.connection, versions))
                yield step
                break
            yield step
        yield from steps

    return copying


def naming(snapshot: Snapshot | None, error: E) -> E:
    """The error of a run, with a word about the copy that was kept, if one was."""
    if snapshot is None:
        return error
    return type(error)(f"{error.message} A snapshot of before is kept: {snapshot.path}", error.hint)
