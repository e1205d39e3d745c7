"""What a run may lose: the rows that its revisions say they delete."""

from typing import Any, Final

from fininfra_db.errors import RevisionBroken

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
