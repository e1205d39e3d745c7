"""From a driver's exception to a sentence, and to what it means for the run."""

import socket
import ssl
from collections.abc import Iterator
from typing import ClassVar

from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from fininfra_db.dialects.wording import first_line
from fininfra_db.errors import DatabaseMissing, DatabaseUnreachable, FininfraDbError, LockNotObtained, ServerNotReady, UrlInvalid
from fininfra_db.events import Holder


class Trouble:
    """What the errors of one kind of database mean."""

    label: ClassVar[str]
    """The product's name, for messages."""

    def connection_error(self, error: BaseException, url: URL) -> FininfraDbError:
        """What a failed connect means, in words. The driver's message may hold secrets and is cut to its first line."""
        where = self.describe(url)
        causes = list(_causes(error))
        if isinstance(error, TypeError | InvalidRequestError):
            return UrlInvalid(f"The driver does not take an option of the database URL: {first_line(error)}", "Remove the option.")
        if self.says_missing(error):
            return DatabaseMissing(f"{where} does not exist.", "Run 'fininfra-db setup-and-migrate' to create it, or check the name.")
        kind = ServerNotReady if self.is_passing(error) else DatabaseUnreachable
        if any(isinstance(cause, TimeoutError) for cause in causes):
            return kind(f"{where} did not answer in time.", "Check the host and port, and that the server runs.")
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return kind(f"The host of {where} is unknown.", "Check the host name in the database URL.")
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return DatabaseUnreachable(
                    f"The certificate of {where} is not trusted: {cause.verify_message}.",
                    "Check sslmode, sslrootcert and the host in the database URL. No password was sent.",
                )
        return kind(
            f"Cannot connect to {where}: {first_line(error)}", "Check that the server runs and that the URL's user and password are right."
        )

    def fell_silent(self, url: URL) -> ServerNotReady:
        """The error for a server that let us in and then did not answer a question. It does not say what was run before."""
        return ServerNotReady(
            f"{self.describe(url)} fell silent: it let us in, and then did not answer.",
            "Check the network, and that nobody keeps a whole table locked, then run the command again.",
        )

    def is_passing(self, error: BaseException) -> bool:
        """Whether a failed connect is a trouble that goes away by itself: nobody answers, or not yet, or the server is full.

        What is about the login, the database or TLS stays as it is, however long it is waited for.
        """
        causes = [cause for cause in _causes(error) if isinstance(cause, OSError | EOFError)]
        lasting = any(isinstance(cause, ssl.SSLError | PermissionError) or "SSL" in str(cause) for cause in causes)
        return bool(causes) and not lasting

    def says_missing(self, error: BaseException) -> bool:
        """Whether the error says that the server has no such database."""
        return False

    def says_exists(self, error: BaseException) -> bool:
        """Whether the error says that somebody else has just created the database."""
        return False

    def statement_error(self, error: BaseException, url: URL) -> FininfraDbError | None:
        """What a failed statement says of the whole database, in words; None when it is about the statement."""
        return None

    def gave_up_waiting(self, error: BaseException) -> bool:
        """Whether a statement failed for a lock that it did not get in time, or that would never have come: a deadlock."""
        return False

    def blockers(self, connection: Connection, statement: str | None) -> tuple[str, ...]:
        """Who holds, or waits for, locks of the tables that ``statement`` names, in words, the oldest transaction first.

        Of every table without a statement. To be asked when the statement's own transaction has ended; ``connection`` is in
        AUTOCOMMIT. Empty where the database does not tell.
        """
        return ()

    def describe(self, url: URL) -> str:
        """The database in words, without user and password."""
        host = url.host or "local socket"
        return f"{self.label} database {url.database!r} at {host}{f':{url.port}' if url.port else ''}"

    def is_momentary(self, error: BaseException) -> bool:
        """Whether a look failed for what somebody else was changing just then, and would not a moment later."""
        return False

    def says_made(self, error: BaseException) -> bool:
        """Whether a statement failed because what it makes is there already."""
        return False

    def says_gone(self, error: BaseException) -> bool:
        """Whether a statement failed because what it drops is not there."""
        return False

    def lock_not_obtained(self, url: URL, holder: Holder | None = None) -> LockNotObtained:
        """The error for a lock that somebody else held for as long as could be waited."""
        return LockNotObtained(
            f"{self.describe(url)} is locked by {holder or 'another writer'}, and went on being locked. Nothing was changed.",
            "Wait for it to end and run the command again, or wait longer with --lock-timeout SECONDS.",
        )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The driver's exception and what it was raised from."""
    cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    while cause is not None:
        yield cause
        cause = cause.__cause__
