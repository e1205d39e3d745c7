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
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from fininfra_db.dialects import Dialect
from fininfra_db.errors import UnfinishedRevision
from fininfra_db.migrate import journal
from fininfra_db.results import Entry
from fininfra_db.types import new_id
from fininfra_db.version import __version__

_READS: Final = re.compile(r"\s*(SELECT|SHOW|EXPLAIN|DESCRIBE|DESC|SET|USE|PRAGMA|BEGIN)\b", re.IGNORECASE)
"""Statements that change nothing that is kept; a resumed revision runs them again."""
REPEATABLE: Final = "fininfra_repeatable"
"""The execution option of a connection while it runs what may be run any number of times, and differs from time to time."""
_NOTHING: Final = ("SELECT 1", ())
_LONGEST_STATEMENT: Final = 4000


class Recorder:
    """The journal of one run.

    ``in_one_transaction``: the whole run is committed at its end, so its rows are written then, together. ``resume`` is the
    unfinished entry that the first revision carries on with: what it had committed is not run again.
    """

    def __init__(self, connection: Connection, dialect: Dialect, *, in_one_transaction: bool, resume: Entry | None = None) -> None:
        self._connection, self._dialect = connection, dialect
        self._in_one_transaction = in_one_transaction
        self._resume = resume
        self._waiting: list[Entry] = []
        self._has_table = False
        self._entry: Entry | None = None
        self._is_written = False
        self._is_watching = False
        self._number = 0
        self._is_executing = False
        self._digest = hashlib.sha256()
        self._before = ""
        """The digest of the statements before the one that was counted last."""
        self.committed_inside = False
        """Whether the running revision has committed a part of itself."""
        event.listen(connection, "before_cursor_execute", self._before_statement, retval=True)
        event.listen(connection, "after_cursor_execute", self._after_statement)
        event.listen(connection, "commit", self._before_commit)

    @property
    def has_done_nothing(self) -> bool:
        """Whether the running revision has not come to the end of its first statement."""
        return self._number - self._is_executing == 0

    @property
    def _is_repeatable(self) -> bool:
        """Whether this is a part of an operation that looks for itself what is done already: it is always run, and not counted."""
        return bool(self._connection.get_execution_options().get(REPEATABLE, False))

    def begin(self, revision: str, direction: str, checksum: str) -> None:
        """A revision is about to run."""
        self._entry = _new_entry(revision, direction, checksum)
        self._number, self._digest, self._before = 0, hashlib.sha256(), ""
        self._is_written = self._is_executing = self.committed_inside = False
        if self._resume is not None:
            self._entry = replace(self._entry, id=self._resume.id, statement=self._resume.statement, digest=self._resume.digest)
            self._is_written = self.committed_inside = True
        elif not self._dialect.features.transactional_ddl:
            self._write(self._entry)
            self._is_written = True
            self._connection.commit()

    def watching(self, migrate: Callable[..., None]) -> Callable[..., None]:
        """``migrate``, a revision's function, with its statements counted."""

        @functools.wraps(migrate)  # Alembic's log names it
        def watched(**arguments: Any) -> None:
            self._is_watching = True
            try:
                migrate(**arguments)
            finally:
                self._is_watching = False
            if self._resume is not None and self._number < self._resume.statement:
                raise _other_statements(self._resume)

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

    def _before_statement(
        self, _connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool
    ) -> tuple[str, Any]:
        if not self._is_watching or self._entry is None or self._is_repeatable or _READS.match(statement):
            return statement, parameters
        self._number += 1
        self._is_executing = True
        self._before = self._digest.hexdigest()
        self._digest.update(f"{statement}\0{parameters!r}\0".encode())
        if self._resume is not None and self._number <= self._resume.statement:
            return self._again(self._resume, statement, parameters)
        if self._is_written:
            self._note(statement)
        return statement, parameters

    def _again(self, resume: Entry, statement: str, parameters: Any) -> tuple[str, Any]:
        """A statement of a resumed revision: done before, or the one that nobody knows of, which may be done already."""
        if self._number < resume.statement:
            return _NOTHING
        if self._before != resume.digest:
            raise _other_statements(resume)
        if resume.statement_sql is not None:
            with self._unwatched():
                try:
                    self._connection.exec_driver_sql(statement, parameters)
                except DBAPIError as error:
                    if not self._dialect.says_done(error):
                        raise
        return _NOTHING

    def _after_statement(self, *_: Any) -> None:
        """Outside a transaction a statement is done when it returns; nothing else would say so."""
        if not self._is_watching:
            return
        self._is_executing = False
        if not self._is_written or self._entry is None or self._entry.statement_sql is None:
            return
        if self._connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            self._note(None)

    def _before_commit(self, _connection: Connection) -> None:
        """A commit while a revision runs is an ``autocommit_block``: what came before it stays, so the row has to."""
        if not self._is_watching or self._entry is None:
            return
        self.committed_inside = True
        if self._is_written:
            self._note(None)
            return
        self._entry = replace(self._entry, statement=self._number, digest=self._before)
        self._is_written = True
        with self._unwatched():
            self.end()
            self._write(self._entry)

    def _note(self, statement: str | None) -> None:
        """Write down the statement that is about to run; None when it has."""
        assert self._entry is not None
        text = statement and " ".join(statement.split())[:_LONGEST_STATEMENT]
        self._entry = replace(self._entry, statement=self._number, statement_sql=text, digest=self._before)
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


def _new_entry(revision: str, direction: str, checksum: str) -> Entry:
    return Entry(
        id=new_id(),
        revision=revision,
        direction=direction,
        outcome=journal.RUNNING,
        started=datetime.now(UTC),
        checksum=checksum,
        login=_login(),
        host=socket.gethostname(),
        pid=os.getpid(),
        tool_version=__version__,
    )


def _login() -> str | None:
    """The person or service account that runs this; None in a container whose user has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def _other_statements(entry: Entry) -> UnfinishedRevision:
    return UnfinishedRevision(
        f"Revision {entry.revision} does not begin with the {entry.statement - 1} statements any more that an earlier run committed, so it "
        "cannot be carried on with. Nothing more of it was run.",
        "Restore the file as it was; or finish it by hand and run 'fininfra-db repair --mark-applied', or undo it by hand and run "
        "'fininfra-db repair --mark-rolled-back'.",
    )
