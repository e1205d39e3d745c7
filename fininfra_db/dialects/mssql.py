"""SQL Server, through aioodbc. Proven by rendered SQL only: this project's machines have no SQL Server.

It has no read-only transaction: what only reads here sends no statement that writes, and a login without the right to write
is the protection. ``ApplicationIntent=ReadOnly`` is none: it asks to be routed to a secondary, which may be behind.
"""

from collections.abc import Mapping
from datetime import UTC
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, ForeignKeyConstraint, text
from sqlalchemy import Dialect as SqlalchemyDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import DDLCompiler

from fininfra_db.dialects.base import Dialect, Features, Purpose
from fininfra_db.dialects.judging import MssqlJudging
from fininfra_db.dialects.sessions import SessionOptions, milliseconds
from fininfra_db.dialects.tls import tls_of
from fininfra_db.errors import UrlInvalid
from fininfra_db.events import Holder

_ODBC_DRIVER: Final = "ODBC Driver 18 for SQL Server"
_SQL_SERVER_2019: Final = (15,)
_CANNOT_OPEN_DATABASE: Final = "4060"
_PASSING: Final = ("HYT00", "HYT01", "08001", "08S01")
_DATABASE_EXISTS: Final = "1801"
_MADE: Final = (1913, 2705, 2714)
_GONE: Final = (3701, 4924)
"""Index, column or object is there already, or is not there to be dropped (SQL Server "Database engine errors")."""
_GAVE_UP_WAITING: Final = (1222, 1205)
"""Lock request time-out, and deadlock."""
_LOCK: Final = "fininfra-db migrations"


class MssqlDialect(MssqlJudging, Dialect):
    name = "mssql"
    label = "SQL Server"
    features = Features(transactional_ddl=True, transaction_per_revision=True, has_server=True, row_comparison=False)
    drivers = ("aioodbc",)
    other_drivers = ("pyodbc", "pymssql")
    extra = "mssql"
    maintenance_database = "master"
    stage_name = "#fininfra_stage"

    def driver_arguments(self, url: URL, query: Mapping[str, str], timeout: float | None) -> tuple[URL, dict[str, Any]]:
        tls = tls_of(query)
        if tls.root_certificate or tls.certificate or tls.key:
            raise UrlInvalid(
                "SQL Server's driver takes trusted certificates from the system, not from the URL.",
                "Install the certificate on the system and remove sslrootcert, sslcert and sslkey.",
            )
        if "odbc_connect" in query:
            raise UrlInvalid(
                "odbc_connect would make the driver ignore the rest of the database URL, sslmode included.",
                "Write the parts as mssql://user:password@host:1433/name.",
            )
        options = {"driver": query.get("driver", _ODBC_DRIVER)}
        if tls.mode is not None:
            options["Encrypt"] = "yes" if tls.required else "no" if tls.mode == "disable" else "optional"
            options["TrustServerCertificate"] = "no" if tls.verified else "yes"
        return url.update_query_dict(options), {"timeout": int(timeout or 0)}

    def prepare(self, engine: Engine, url: URL, purpose: Purpose, options: SessionOptions) -> None:
        """Have the driver send the rows of an ``executemany`` together, by the array: one after the other takes a round trip each."""
        super().prepare(engine, url, purpose, options)
        engine.dialect.fast_executemany = True  # type: ignore[attr-defined]  # of pyodbc, and aioodbc

    def session_sql(self, url: URL, purpose: Purpose, options: SessionOptions) -> str:
        """Without XACT_ABORT some errors undo their statement only, and the transaction would go on."""
        if purpose != "migration":
            return ""
        return f"SET XACT_ABORT ON; SET LOCK_TIMEOUT {milliseconds(options.ddl_lock_timeout) or -1}"

    def offline(self, url: URL) -> SqlalchemyDialect:
        """Without a server's version SQLAlchemy renders for SQL Server 2005, which had no DATE."""
        dialect = super().offline(url)
        dialect.server_version_info = _SQL_SERVER_2019
        return dialect

    def says_missing(self, error: BaseException) -> bool:
        return f"({_CANNOT_OPEN_DATABASE})" in _odbc_message(error)

    def is_passing(self, error: BaseException) -> bool:
        """ODBC's own states: login timeout expired, and no connection made, of which TLS is a part that stays."""
        message = _odbc_message(error)
        return any(state in message for state in _PASSING) and not any(word in message for word in ("SSL", "certificate"))

    def server_version(self, connection: Connection) -> str:
        version = connection.scalar(text("SELECT CAST(SERVERPROPERTY('ProductVersion') AS varchar(100))"))
        return f"{self.label} {version}"

    def size(self, connection: Connection) -> int:
        return int(connection.scalar(text("SELECT SUM(CAST(size AS bigint)) * 8192 FROM sys.database_files")) or 0)

    def says_exists(self, error: BaseException) -> bool:
        return f"({_DATABASE_EXISTS})" in _odbc_message(error)

    def gave_up_waiting(self, error: BaseException) -> bool:
        return any(f"({number})" in _odbc_message(error) for number in _GAVE_UP_WAITING)

    def live_name(self, connection: Connection) -> str:
        return str(connection.scalar(text("SELECT DB_NAME()")))

    def schemas(self, connection: Connection) -> tuple[str | None, ...]:
        others = text(
            "SELECT DISTINCT s.name FROM sys.schemas s JOIN sys.tables t ON t.schema_id = s.schema_id WHERE s.name <> SCHEMA_NAME()"
        )
        return (None, *sorted(connection.scalars(others)))

    def wait_for_no_table(self, connection: Connection) -> None:
        connection.execute(text("SET LOCK_TIMEOUT 500"))

    def try_lock(self, connection: Connection) -> bool:
        statement = (
            "SET NOCOUNT ON; DECLARE @got int; EXEC @got = sp_getapplock @Resource = :name, @LockMode = 'Exclusive', "
            "@LockOwner = 'Session', @LockTimeout = 0; SELECT @got"
        )
        return int(connection.scalar(text(statement), {"name": _LOCK}) or 0) >= 0

    def holds_lock(self, connection: Connection) -> bool:
        mode = connection.scalar(text("SELECT APPLOCK_MODE('public', :name, 'Session')"), {"name": _LOCK})
        return bool(mode == "Exclusive")

    def lock_holder(self, connection: Connection) -> Holder | None:
        statement = (
            "SELECT s.program_name, s.host_name, s.host_process_id, s.login_time FROM sys.dm_tran_locks l "
            "JOIN sys.dm_exec_sessions s ON s.session_id = l.request_session_id "
            "WHERE l.resource_type = 'APPLICATION' AND l.request_status = 'GRANT' AND l.resource_database_id = DB_ID() "
            "AND l.resource_description LIKE :name"
        )
        row = connection.execute(text(statement), {"name": f"%{_LOCK[:32]}%"}).first()
        return None if row is None else Holder(row[0], row[1], row[2], row[3].replace(tzinfo=UTC))

    def unlock(self, connection: Connection) -> None:
        connection.execute(text("EXEC sp_releaseapplock @Resource = :name, @LockOwner = 'Session'"), {"name": _LOCK})

    def says_made(self, error: BaseException) -> bool:
        return any(f"({code})" in _odbc_message(error) for code in _MADE)

    def says_gone(self, error: BaseException) -> bool:
        return any(f"({code})" in _odbc_message(error) for code in _GONE)


@compiles(ForeignKeyConstraint, "mssql")
def _one_cascade_path(constraint: ForeignKeyConstraint, compiler: DDLCompiler, **options: Any) -> str:
    """SQL Server allows one cascading path from one table to another (error 1785).

    Where a wider key of the same table cascades already, the narrower one loses its ON DELETE CASCADE: the rows go
    with their nearer parent, and a leftover would still be refused.
    """
    rendered: str = compiler.visit_foreign_key_constraint(constraint, **options)
    columns = set(constraint.column_keys)
    covered = any(
        columns < set(other.column_keys) and other.ondelete == "CASCADE" and _hands_down(other, columns)
        for other in constraint.table.foreign_key_constraints
    )
    return rendered.replace(" ON DELETE CASCADE", "") if covered else rendered


def _hands_down(wider: ForeignKeyConstraint, columns: set[str]) -> bool:
    """Whether the parent of the wider key has these very columns too, and so goes when their own parent goes."""
    return all(
        element.target_fullname.rpartition(".")[2] == element.parent.name for element in wider.elements if element.parent.name in columns
    )


def _odbc_message(error: BaseException) -> str:
    return str(error.orig if isinstance(error, DBAPIError) else error)
