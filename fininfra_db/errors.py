"""Every exception of fininfra-db.

Library code raises these and never prints. Each class carries a stable ``code`` for programs, the ``exit_code``
that the command line ends with, and each instance a ``hint``: the next thing to do.

Exit codes: 1 failed, 2 usage or configuration, 3 a check found work, 4 refused or needs confirmation,
5 lock not obtained, 6 cannot connect, 130 interrupted.
"""

from typing import ClassVar


class FininfraDbError(Exception):
    """The base of every error raised on purpose by this package.

    ``message`` says what happened and what state things are in; ``hint`` is the next step, or None.
    """

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def add(self, sentence: str) -> None:
        """Say more in the same error: what had been done before it."""
        self.message = f"{self.message} {sentence}"
        self.args = (self.message,)


# Configuration: nothing was contacted, nothing was written.


class ConfigurationError(FininfraDbError):
    """Settings, files or options that cannot be used as they are."""

    code = "configuration"
    exit_code = 2


class ProjectNotFound(ConfigurationError):
    """The project folder, or its Alembic configuration, does not exist."""

    code = "project-not-found"


class EnvFileMalformed(ConfigurationError):
    """The ``.env`` file cannot be read or parsed."""

    code = "env-file-malformed"


class UrlMissing(ConfigurationError):
    """No database URL is configured where one is required."""

    code = "url-missing"


class UrlInvalid(ConfigurationError):
    """The database URL cannot be parsed, names an unknown database, or asks for something the driver cannot do."""

    code = "url-invalid"


class DriverMissing(ConfigurationError):
    """The Python driver for the database is not installed."""

    code = "driver-missing"


class ModelsNotLoaded(ConfigurationError):
    """A models module does not import, or defines no table."""

    code = "models-not-loaded"


class KeyMissing(ConfigurationError):
    """No encryption key is configured, and a sealed value was read or written."""

    code = "key-missing"


class KeyInvalid(ConfigurationError):
    """A configured encryption key is not a Fernet key."""

    code = "key-invalid"


class OptionsInvalid(ConfigurationError):
    """The options or arguments of a call do not go together."""

    code = "options-invalid"


# Values: the row was not written.


class ValueRefused(FininfraDbError, ValueError):
    """A value that a column type cannot keep exactly."""

    code = "value-refused"


class RowRefused(FininfraDbError, ValueError):
    """A row of a bulk load that a type or the database refused. None of the rows was written.

    ``index`` is its place in the input, from 0; ``column`` the name of the column, None when it is about several or not known.
    """

    code = "row-refused"

    def __init__(self, table: str, index: int, column: str | None, reason: str) -> None:
        where = f"{table}.{column}" if column else table
        super().__init__(
            f"Row {index} of the input, counted from 0, was refused by {where}: {reason} None of the rows was written.",
            "Correct the row, or leave it out.",
        )
        self.table, self.index, self.column, self.reason = table, index, column, reason


class DecryptionFailed(FininfraDbError):
    """A sealed value that none of the configured keys opens."""

    code = "decryption-failed"


# Connections.


class DatabaseUnreachable(FininfraDbError):
    """The server does not answer, refuses the login, or the file cannot be opened."""

    code = "database-unreachable"
    exit_code = 6


class ServerNotReady(DatabaseUnreachable):
    """Nobody answers yet, or the server is starting, stopping or full: a trouble that waiting may end."""


class DatabaseMissing(DatabaseUnreachable):
    """The server answers but has no such database, or the SQLite file does not exist."""

    code = "database-missing"


class LockNotObtained(FininfraDbError):
    """Another migration holds the lock, and went on holding it."""

    code = "lock-not-obtained"
    exit_code = 5


class DatabaseInUse(LockNotObtained):
    """Others are connected to a database that can only be copied or replaced while nobody is."""


class LockLost(FininfraDbError):
    """The migration lock was held and is not any more: its connection ended, or a pooler gave it to somebody else."""

    code = "lock-lost"
    exit_code = 5


class LockUnsafe(FininfraDbError):
    """A lock on this server would hold nobody off: a cluster that keeps locks on one node, or a transaction pooler."""

    code = "lock-unsafe"
    exit_code = 5


# History and migrations.


class RevisionNotFound(FininfraDbError):
    """No revision file answers to this name."""

    code = "revision-not-found"


class RevisionAmbiguous(FininfraDbError):
    """Several revision files answer to this name."""

    code = "revision-ambiguous"


class MultipleHeads(FininfraDbError):
    """The history has several heads and one was asked for."""

    code = "multiple-heads"


class RevisionBroken(FininfraDbError):
    """A revision file cannot be loaded."""

    code = "revision-broken"


class EnvironmentFailed(FininfraDbError):
    """The project's ``env.py`` raised before it came to the revisions, or after them."""

    code = "environment-failed"


class DatabaseAhead(FininfraDbError):
    """The database is at a revision that this checkout does not have. It is never repaired."""

    code = "database-ahead"


class NotAtHead(FininfraDbError):
    """Autogenerate needs a database that is at the head of the history."""

    code = "not-at-head"
    exit_code = 3


class MigrationFailed(FininfraDbError):
    """A revision did not run to its end, or what it did was not committed."""

    code = "migration-failed"


class TableLocked(MigrationFailed):
    """A statement of a revision did not get the lock of its table, however often the revision was tried."""

    code = "table-locked"


class UnfinishedRevision(FininfraDbError):
    """An earlier run left a part of a revision behind, and nobody has said yet what is to become of it."""

    code = "unfinished-revision"


class AlembicFailed(FininfraDbError):
    """Alembic refused the call; the message is its own."""

    code = "alembic-failed"


class DatabaseFailed(FininfraDbError):
    """The database refused a statement."""

    code = "database-failed"


class SeedFailed(FininfraDbError):
    """A seed did not finish. Its transaction was rolled back."""

    code = "seed-failed"


# Snapshots.


class SnapshotFailed(FininfraDbError):
    """A snapshot could not be made, or is damaged, or could not be restored. The database is as it was."""

    code = "snapshot-failed"


class SnapshotNotFound(FininfraDbError):
    """The database has no snapshot of this name."""

    code = "snapshot-not-found"


class SnapshotExists(FininfraDbError):
    """The database has a snapshot of this name already."""

    code = "snapshot-exists"


class SnapshotsUnsupported(ConfigurationError):
    """This program makes no snapshots of this kind of database."""

    code = "snapshots-unsupported"


# Refusals.


class Refused(FininfraDbError):
    """Something that would lose data and was not asked for in so many words."""

    code = "refused"
    exit_code = 4


class ConfirmationRequired(Refused):
    """A destructive command without a terminal to ask on and without its flag."""

    code = "confirmation-required"


class Protected(Refused):
    """Data would be lost in a database that is protected, or may be the wrong one, and its name was not given.

    Or example rows would come into one that is protected, for which its name is no way through.
    """

    code = "protected"


class WrongDatabaseName(Refused):
    """The name given to confirm with is not that of the database."""

    code = "wrong-database-name"


# Interruptions.


class Interrupted(FininfraDbError):
    """A signal ended the run before it was done. The command line exits with 128 plus the number of the signal."""

    code = "interrupted"
    exit_code = 130


# Keys.


class ResealingFailed(FininfraDbError):
    """A rotation of keys, or the sealing of plaintext, did not come to its end. What it had committed stays, and is carried on with."""

    code = "resealing-failed"


# Checking the data.


class TablesMissing(FininfraDbError):
    """The database lacks tables or columns of the models, so its data cannot be checked."""

    code = "tables-missing"
    exit_code = 3
