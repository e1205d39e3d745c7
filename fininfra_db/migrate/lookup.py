"""Finding revisions by name: identifiers, unique beginnings, ``head``, ``+1``, ``-2``, branch labels and ranges.

The names are resolved by Alembic's own ``RevisionMap``, fed with the headers of the files instead of the executed files.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alembic.script.revision import MultipleHeads as AlembicMultipleHeads
from alembic.script.revision import ResolutionError, Revision, RevisionError, RevisionMap
from alembic.util import CommandError

from fininfra_db.errors import (
    AlembicFailed,
    FininfraDbError,
    MultipleHeads,
    OptionsInvalid,
    RevisionAmbiguous,
    RevisionBroken,
    RevisionNotFound,
)
from fininfra_db.migrate.history import History
from fininfra_db.results import RevisionInfo


def find_revisions(history: History, name: str | tuple[str, ...]) -> tuple[RevisionInfo, ...]:
    """The revisions that a name stands for. Raises ``RevisionNotFound``, ``RevisionAmbiguous`` or ``MultipleHeads``."""
    if isinstance(name, str) and re.fullmatch(r"[+-]\d+", name):
        raise OptionsInvalid(
            f"{name} is counted from where the database is, and means something to upgrade and downgrade only.", "Name a revision."
        )
    with alembic_errors():
        found: tuple[Any, ...] = _revision_map(history).get_revisions(name)
        return tuple(history.revisions[revision.revision] for revision in found if revision is not None)


def walk(history: History, rev_range: str | None, current: tuple[str, ...]) -> tuple[RevisionInfo, ...]:
    """The revisions of ``[start]:[end]``, newest first; ``current`` on either side stands for the database's."""
    start, end = _split_range(rev_range)
    lower: Any = current if start == "current" else start or "base"
    upper: Any = current if end == "current" else end or "heads"
    with alembic_errors():
        found = _revision_map(history).iterate_revisions(upper, lower, inclusive=True, assert_relative_length=False)
        return tuple(history.revisions[revision.revision] for revision in found)


def names_current(rev_range: str | None) -> bool:
    """Whether a range needs to know where the database is."""
    return "current" in _split_range(rev_range)


def _split_range(rev_range: str | None) -> tuple[str, str]:
    if rev_range is None:
        return "", ""
    start, colon, end = rev_range.strip().partition(":")
    if not colon or ":" in end:
        raise OptionsInvalid("A range of revisions is [start]:[end], [start]: or :[end].", "For example base:head, or -3:current.")
    return start, end


def _revision_map(history: History) -> RevisionMap:
    def generate() -> Iterator[Revision]:
        for info in history.revisions.values():
            yield Revision(
                info.revision,
                info.down_revisions or None,
                dependencies=info.depends_on or None,
                branch_labels=info.branch_labels or None,
            )

    revisions = RevisionMap(generate)
    try:
        _ = revisions.heads  # loads the map
    except KeyError as error:
        raise missing_revision(error) from None
    return revisions


def missing_revision(error: KeyError) -> RevisionBroken:
    """What Alembic's map of revisions means by a ``KeyError``."""
    return RevisionBroken(f"A revision file names a revision that has no file: {error}. Nothing was run.", "Restore the missing file.")


@contextmanager
def alembic_errors() -> Iterator[None]:
    """Turn Alembic's exceptions into ours."""
    try:
        yield
    except CommandError as error:
        raise _translated(error.__cause__ or error) from None
    except RevisionError as error:
        raise _translated(error) from None


def _translated(error: BaseException) -> FininfraDbError:
    if isinstance(error, AlembicMultipleHeads):
        heads = error.heads if isinstance(error.heads, str) else ", ".join(error.heads)
        return MultipleHeads(
            f"The history has several heads: {heads}. Nothing was run.",
            "Join them with 'fininfra-db merge heads', or name one; 'heads' means all.",
        )
    if isinstance(error, ResolutionError):
        if "Multiple revisions" in str(error):
            return RevisionAmbiguous(f"{error}. Nothing was run.", "Give more characters of the identifier.")
        return RevisionNotFound(
            f"There is no revision {error.argument!r} in this history. Nothing was run.", "List them with 'fininfra-db history'."
        )
    if "MetaData object" in str(error):
        return AlembicFailed("The project's env.py names no models to compare with.", "Set target_metadata in env.py to their MetaData.")
    if "batch mode" in str(error):
        return AlembicFailed(
            "SQLite rebuilds a table for this change and has to see it, so it cannot be rendered without the database.",
            "Run it with 'fininfra-db upgrade', or render it for another database with --sql-url.",
        )
    return AlembicFailed(f"{error}", "Nothing was run. 'fininfra-db history' shows what there is.")
