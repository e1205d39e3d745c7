"""Writing the journal while a revision runs, on the connection that it runs on.

Where DDL is transactional, one row is written beside the version, in the revision's own transaction. Where DDL commits by
itself, and after an ``autocommit_block`` anywhere, the row is there before the work and is told of each statement before
it runs. Such a note is committed together with what came before: by the DDL statement's own implicit commit. So after a crash
the row names the one statement of which nobody knows whether it was done; what came before it is committed, and nothing after it.
"""

import functools
import getpass
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, event

from fininfra_db.dialects import Dialect
from fininfra_db.migrate import journal
from fininfra_db.migrate.resuming import Resuming, other_statements
from fininfra_db.migrate.statements import ends_transaction, only_reads
from fininfra_db.results import Entry
from fininfra_db.types import new_id
from fininfra_db.version import __version__

REPEATABLE: Final = "fininfra_repeatable"
"""The execution option of a connection while it runs what may be run any number of times, and differs from time to time."""
_LONGEST_STATEMENT: Final = 4000


class Recorder:
    """The journal of one run.

    ``in_one_transaction``: the whole run is committed at its end, so its rows are written then, together. ``resume`` is the
    unfinished entry that the first revision carries on with. ``version_table`` says whose revisions these are.
    """

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        *,
        version_table: str,
        in_one_transaction: bool,
        resume: Resuming | None = None,
    ) -> None:
        self._connection, self._dialect = connection, dialect
        self._version_table, self._in_one_transaction = version_table, in_one_transaction
        self._resume = resume
        self._waiting: list[Entry] = []
        self._has_table = False
        self._entry: Entry | None = None
        self._is_written = False
        self._is_watching = False
        self._number = 0
        self._is_executing = False
        self._is_whole = True
        self._digest = hashlib.sha256()
        self._digests = [""]
        """Of the first statements of the running revision: of none, of one, of two..."""
        self.committed_inside = False
        """Whether the running revision has committed a part of itself."""
        event.listen(connection, "before_cursor_execute", self._before_statement, retval=True)
        event.listen(connection, "after_cursor_execute", self._after_statement)
        event.listen(connection, "commit", self._before_commit)

    @property
    def _is_repeatable(self) -> bool:
        """Whether this is a part of an operation that looks for itself what is done already: it is always run, and not counted."""
        return bool(self._connection.get_execution_options().get(REPEATABLE, False))

    def begin(self, revision: str, direction: str, checksum: str) -> None:
        """A revision is about to run."""
        self._entry = _new_entry(revision, direction, checksum, self._version_table)
        self._number, self._digest, self._digests = 0, hashlib.sha256(), [""]
        self._is_written = self._is_executing = self.committed_inside = False
        if self._resume is not None:
            left = self._resume.entry
            self._entry = replace(self._entry, id=left.id, statement=left.statement, statement_sql=left.statement_sql, digest=left.digest)
            self._is_written = self.committed_inside = True
        elif not self._dialect.features.transactional_ddl:
            self._write(self._entry)
            self._is_written = True
            self._connection.commit()

    def watching(self, migrate: Callable[..., None]) -> Callable[..., None]:
        """``migrate``, a revision's function, with its statements counted."""

        def watched(**arguments: Any) -> None:
            self._is_watching = True
            try:
                migrate(**arguments)
            finally:
                self._is_watching = False
            if self._resume is not None and self._number < self._resume.entry.statement:
                raise other_statements(self._resume.entry)

        watched.__name__ = getattr(migrate, "__name__", "migrate")  # Alembic's log names it
        return watched

    def done(self, seconds: float, outcome: str = journal.DONE) -> None:
        """The revision's function has ended; called in the transaction that holds its version."""
        assert self._entry is not None
        entry = replace(self._entry, outcome=outcome, seconds=seconds, statement=self._number, statement_sql=None)
        if self._is_written:
            journal.rewrite(self._connection, entry)
        elif self._in_one_transaction:
            self._waiting.append(entry)
        else:
            self._write(entry)
        self._entry = self._resume = None

    def end(self) -> None:
        """Write what was kept back for the end of the run."""
        self._write(*self._waiting)
        self._waiting.clear()

    def _write(self, *rows: Entry) -> None:
        if rows and not self._has_table:
            journal.entries.create(self._connection, checkfirst=True)
            self._has_table = True
        journal.write_entries(self._connection, *rows)

    def what_is_left(self, row: Entry, *, interrupted: bool) -> Entry | None:
        """The unfinished ``row`` as it is after a failure; None when it is not of this run, which then knows nothing of it.

        The row counts what was committed. A statement that the server refused as a whole was not done; one that was
        interrupted, or that had done a part of its work, may have been.
        """
        if self._entry is None or row.id != self._entry.id:
            return None
        done = row.statement
        if self._resume is not None and self._number <= self._resume.entry.statement:
            if not self._resume.was_refused:
                return row
            done -= 1
        elif row.statement_sql is not None and row.statement == self._number and self._is_executing:
            if interrupted or not self._is_whole:
                return row
            done -= 1
        if done == 0:
            return replace(row, outcome=journal.FAILED, statement_sql=None)
        return replace(row, statement=done, statement_sql=None, digest=self._digests[done] if done < len(self._digests) else row.digest)

    def _before_statement(
        self, _connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool
    ) -> tuple[str, Any]:
        if not self._is_watching or self._entry is None or self._is_repeatable or only_reads(statement):
            return statement, parameters
        if ends_transaction(statement):
            self._before_commit(self._connection)
            return statement, parameters
        self._number += 1
        self._digest.update(f"{statement}\0{parameters!r}\0".encode())
        self._digests.append(self._digest.hexdigest())
        if self._resume is not None and self._number <= self._resume.entry.statement:
            with self._unwatched():
                return self._resume.instead_of(self._number, self._digests[-2], self._digests[-1], statement, parameters)
        self._is_executing = True
        self._is_whole = not (self._is_autocommit and (executemany or "CONCURRENTLY" in statement.upper()))
        if self._is_written:
            self._note(statement)
        return statement, parameters

    def _after_statement(self, *_: Any) -> None:
        """Outside a transaction a statement is done when it returns; nothing else would say so."""
        if not self._is_watching:
            return
        self._is_executing = False
        if self._is_autocommit and self._is_written and self._entry is not None and self._entry.statement_sql is not None:
            self._note(None)

    def _before_commit(self, _connection: Connection) -> None:
        """A commit while a revision runs is an ``autocommit_block``: what came before it stays, so the row has to.

        Alembic commits at the end of the block too when a statement in it has failed, which is then not done.
        """
        if not self._is_watching or self._entry is None:
            return
        self.committed_inside = True
        if self._is_written:
            if not self._is_executing:
                self._note(None)
            return
        self._entry = replace(self._entry, statement=self._number, digest=self._digests[self._number])
        self._is_written = True
        with self._unwatched():
            self.end()
            self._write(self._entry)

    @property
    def _is_autocommit(self) -> bool:
        return bool(self._connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT")

    def _note(self, statement: str | None) -> None:
        """Write down the statement that is about to run; None when it has."""
        assert self._entry is not None
        text = statement and " ".join(statement.split())[:_LONGEST_STATEMENT]
        digest = self._digests[self._number - 1] if statement else self._digests[self._number]
        self._entry = replace(self._entry, statement=self._number, statement_sql=text, digest=digest)
        with self._unwatched():
            journal.rewrite(self._connection, self._entry)

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        """For the journal's own statements."""
        watching, self._is_watching = self._is_watching, False
        try:
            yield
        finally:
            self._is_watching = watching


def _new_entry(revision: str, direction: str, checksum: str, version_table: str) -> Entry:
    return Entry(
        id=new_id(),
        revision=revision,
        direction=direction,
        outcome=journal.RUNNING,
        started=datetime.now(UTC),
        checksum=checksum,
        version_table=version_table,
        login=login_name(),
        host=socket.gethostname(),
        pid=os.getpid(),
        tool_version=__version__,
    )


@functools.cache
def login_name() -> str | None:
    """The person or service account that runs this; None in a container whose user has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
