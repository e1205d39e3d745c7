"""Carrying on with a revision that an earlier run left unfinished: what had been committed is not run again.

The journal names the statement that was begun last, and a digest of what came before it. A statement whose fate nobody
knows, because the process was killed, is run again only where the database can tell that it was done: DDL that makes or
drops something. The text of the others is compared, so a file that does other things now is noticed before any of it runs.
"""

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from fininfra_db.dialects import Dialect
from fininfra_db.errors import UnfinishedRevision
from fininfra_db.migrate.statements import changes_schema, makes, takes_away
from fininfra_db.results import Entry

_BY_HAND = (
    "Finish it by hand and run 'fininfra-db repair --mark-applied', or undo it by hand and run 'fininfra-db repair --mark-rolled-back'."
)


class Resuming:
    """The unfinished ``entry``, as its revision runs once more.

    ``automatic``: nobody has asked for it, so it is done only where nothing can go wrong, that is past DDL alone.
    """

    def __init__(self, entry: Entry, connection: Connection, dialect: Dialect, *, automatic: bool) -> None:
        self.entry = entry
        self.was_refused = False
        """Whether the statement of which nobody knew was run again, and the server refused it: then it is not done."""
        self._connection, self._dialect, self._automatic = connection, dialect, automatic

    def instead_of(self, number: int, before: str, after: str, statement: str, parameters: Any) -> tuple[str, Any]:
        """What to run instead of the statement of this number, at most ``entry.statement``.

        ``before`` and ``after`` are the digests without and with it. Raises ``UnfinishedRevision``.
        """
        nothing = self._dialect.nothing, ()
        if self._automatic and not changes_schema(statement):
            raise unfinished(self.entry)
        if number < self.entry.statement:
            return nothing
        is_done = self.entry.statement_sql is None
        if (after if is_done else before) != self.entry.digest:
            raise other_statements(self.entry)
        if not is_done:
            self._run_in_doubt(statement, parameters)
        return nothing

    def _run_in_doubt(self, statement: str, parameters: Any) -> None:
        if not changes_schema(statement) or "CONCURRENTLY" in statement.upper():
            raise UnfinishedRevision(
                f"Nobody knows whether statement {self.entry.statement} of revision {self.entry.revision} was done before the earlier run "
                f"ended, and to do it twice may be wrong: {self.entry.statement_sql}. Nothing was run.",
                f"Look whether it was done. {_BY_HAND}",
            )
        try:
            self._connection.exec_driver_sql(statement, parameters)
        except DBAPIError as error:
            was_made = makes(statement) and self._dialect.says_made(error)
            was_dropped = takes_away(statement) and self._dialect.says_gone(error)
            if not (was_made or was_dropped):
                self.was_refused = True
                raise


def unfinished(entry: Entry) -> UnfinishedRevision:
    """The error for a part of a revision that an earlier run left behind."""
    what = f" (statement {entry.statement}: {entry.statement_sql})" if entry.statement_sql else f" (after statement {entry.statement})"
    verb = "applying" if entry.direction == "up" else "reverting"
    return UnfinishedRevision(
        f"A run that was {verb} revision {entry.revision} on {entry.started:%Y-%m-%d %H:%M} UTC (host {entry.host}, pid {entry.pid}) "
        f"ended in the middle{what}. A part of it is in the database. Nothing was run.",
        "Settle it with 'fininfra-db repair --resume' to run the rest, unless the revision uses what its own statements return; or, "
        "after finishing or undoing it by hand, with 'fininfra-db repair --mark-applied' or '--mark-rolled-back'.",
    )


def changed_meanwhile(entry: Entry) -> UnfinishedRevision:
    """The error for a part of a revision that somebody else has settled, or gone on with, while the lock was waited for."""
    return UnfinishedRevision(
        f"Somebody else has settled revision {entry.revision}, or gone on with it, since this command looked at it. Nothing was run.",
        "See where the database is with 'fininfra-db status'.",
    )


def other_statements(entry: Entry) -> UnfinishedRevision:
    """The error for a revision that does not begin with what was committed of it."""
    return UnfinishedRevision(
        f"Revision {entry.revision} does not begin with the statements any more that an earlier run committed, so it cannot be "
        "carried on with. Nothing more of it was run.",
        f"Restore the file as it was. {_BY_HAND}",
    )
