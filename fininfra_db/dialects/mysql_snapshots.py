"""Snapshots on MySQL and MariaDB: databases whose tables are copies.

Tables are made from their own statement, since ``CREATE TABLE ... LIKE`` loses foreign keys, filled in one transaction, and
moved between databases by one RENAME TABLE, which the server does as a whole or not at all.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from fininfra_db.dialects.lifted import Lifted
from fininfra_db.dialects.server_snapshots import Labelled, ServerSnapshots
from fininfra_db.dialects.wording import error_number
from fininfra_db.errors import DatabaseInUse, SnapshotFailed

_LABEL: Final = "fininfra_snapshot"
"""The table that a copy has beside its own, and the name of the one column in it."""
_STAYS: Final = "fininfra_lock"
"""Who holds the lock of a database is of no interest elsewhere."""
_NOT_ALLOWED: Final = (1044, 1142, 1227, 1370)
"""Access denied: to a database, a table, for want of a privilege, to a routine."""
_GAVE_UP_WAITING: Final = 1205
_LONGEST_WAIT: Final = 31_536_000

_TABLES: Final = """
    SELECT table_name FROM information_schema.tables WHERE table_schema = :name AND table_type = 'BASE TABLE' ORDER BY table_name
"""
_OTHERS: Final = """
    SELECT concat(lower(table_type), ' ', table_name) FROM information_schema.tables
        WHERE table_schema = :name AND table_type NOT IN ('BASE TABLE', 'SYSTEM VIEW')
    UNION ALL SELECT concat('trigger ', trigger_name) FROM information_schema.triggers WHERE trigger_schema = :name
    UNION ALL SELECT concat(lower(routine_type), ' ', routine_name) FROM information_schema.routines WHERE routine_schema = :name
    UNION ALL SELECT concat('event ', event_name) FROM information_schema.events WHERE event_schema = :name
"""
"""What is in a database and is no plain table."""
_COLUMNS: Final = """
    SELECT column_name FROM information_schema.columns
    WHERE table_schema = :name AND table_name = :table AND coalesce(generation_expression, '') = '' ORDER BY ordinal_position
"""
_CHARSET: Final = """
    SELECT default_character_set_name, default_collation_name FROM information_schema.schemata WHERE schema_name = :name
"""
_SIZES: Final = """
    SELECT table_schema, coalesce(sum(data_length + index_length), 0) FROM information_schema.tables
    WHERE table_schema IN (SELECT table_schema FROM information_schema.tables WHERE table_name = :label) GROUP BY table_schema
"""
_FILLED: Final = """
    SELECT table_schema FROM information_schema.tables
    UNION SELECT routine_schema FROM information_schema.routines UNION SELECT event_schema FROM information_schema.events
"""
_SESSIONS: Final = "SELECT id FROM information_schema.processlist WHERE db = :name AND id <> CONNECTION_ID()"
_SESSION: Final = "SET SESSION foreign_key_checks = 0, unique_checks = 0, sql_mode = 'NO_AUTO_VALUE_ON_ZERO'"
_ISOLATION: Final = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"


class MysqlSnapshots(ServerSnapshots):
    longest = 64

    def labelled(self, connection: Connection) -> list[Labelled]:
        found = []
        for database, size in connection.execute(text(_SIZES), {"label": _LABEL}).all():
            if self.may_be_mine(str(database)) and (label := _read_label(connection, database)):
                found.append(Labelled(str(database), label, int(size)))
        return found

    def databases(self, connection: Connection) -> Collection[str]:
        """Without those that hold nothing: a run that was killed between two statements may have left one."""
        named = {str(name) for name in connection.scalars(text("SELECT schema_name FROM information_schema.schemata"))}
        filled = {str(name) for name in connection.scalars(text(_FILLED))}
        return {name for name in named if name in filled or self._partial.fullmatch(name)}

    def inventory(self, connection: Connection) -> tuple[str, ...]:
        name = {"name": self.source}
        others = connection.scalars(text(_OTHERS), name).all()
        return tuple(sorted([f"table {table}" for table in _tables(connection, self.source)] + [str(other) for other in others]))

    async def copy(self, held: Lifted, source: str, target: str) -> None:
        await held.run_sync(self._create, source, target)
        async with self.access.open(target) as connection:
            await connection.run_sync(_fill, source)

    async def publish(self, held: Lifted, partial: str, place: str, label: str) -> None:
        def work(connection: Connection) -> None:
            if label:
                _write_label(connection, partial, label)
            self._create(connection, partial, place)
            _move(connection, [(partial, place)], self.access.timeout)
            self.drop(connection, partial)

        await held.run_sync(work)

    async def dress(self, held: Lifted, copy: str) -> None:
        """Nothing: the database stays, and with it what belongs to it. Only its tables are changed for others."""

    async def swap(self, held: Lifted, new: str, old: str, label: str | None) -> None:
        def work(connection: Connection) -> None:
            _refuse_others(connection, self.source)
            self._create(connection, self.source, old)
            moves = [(self.source, old), (new, self.source)]
            if label is not None:
                _write_label(connection, self.source, label)
            try:
                _move(connection, moves, self.access.timeout)
            except BaseException:  # an interruption too: a label in the live database would make it a snapshot
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {_of(connection, self.source, _LABEL)}")
                raise
            self.drop(connection, new)

        await held.run_sync(work)
        if label is None:
            await self.discard(old)

    def drop(self, connection: Connection, name: str, *, force: bool = False) -> None:
        """A transaction that is open in the database would keep it from being dropped for as long as it is."""
        for session in connection.scalars(text(_SESSIONS), {"name": name}).all() if force else ():
            with suppress(DBAPIError):  # it has ended, or is somebody's whom this login may not end
                connection.exec_driver_sql(f"KILL {int(session)}")
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {_quoted(connection, name)}")

    def is_in_use(self, connection: Connection, name: str) -> bool:
        return bool(connection.scalars(text(_SESSIONS), {"name": name}).all())

    def hint(self, error: BaseException) -> str | None:
        if error_number(error) in _NOT_ALLOWED:
            start = self.source.replace("_", "\\_")
            return f"A copy is a database of its own. Its login needs: GRANT ALL ON `{start}\\_%`.* TO ..."
        return None

    def _create(self, connection: Connection, like: str, name: str) -> None:
        charset, collation = connection.execute(text(_CHARSET), {"name": like}).one()
        quoted = _quoted(connection, name)
        connection.exec_driver_sql(f"CREATE DATABASE IF NOT EXISTS {quoted} CHARACTER SET {charset} COLLATE {collation}")


def _fill(connection: Connection, source: str) -> None:
    """Copy the tables of ``source`` into the database of ``connection``, as they are at one moment: writers wait until it is over."""
    _refuse_others(connection, source)
    connection.exec_driver_sql(_SESSION)
    connection.exec_driver_sql(_ISOLATION)
    tables = _tables(connection, source)
    for table in tables:
        statement = connection.exec_driver_sql(f"SHOW CREATE TABLE {_of(connection, source, table)}").one()[1]
        connection.exec_driver_sql(statement.replace("%", "%%"))
    connection.exec_driver_sql("BEGIN")
    for table in tables:
        found = connection.scalars(text(_COLUMNS), {"name": source, "table": table})
        columns = ", ".join(_quoted(connection, column) for column in found)
        connection.exec_driver_sql(
            f"INSERT INTO {_quoted(connection, table)} ({columns}) SELECT {columns} FROM {_of(connection, source, table)}"
        )
    connection.exec_driver_sql("COMMIT")


def _move(connection: Connection, moves: Iterable[tuple[str, str]], timeout: float) -> None:
    """Move all tables of databases to others, with one statement. Raises ``DatabaseInUse`` while somebody uses one of them."""
    named = [
        f"{_of(connection, source, table)} TO {_of(connection, target, table)}"
        for source, target in moves
        for table in _tables(connection, source, left_out=(_STAYS,))
    ]
    if not named:
        return
    connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {max(1, min(int(timeout), _LONGEST_WAIT))}")
    try:
        connection.exec_driver_sql(f"RENAME TABLE {', '.join(named)}")
    except DBAPIError as error:
        if error_number(error) != _GAVE_UP_WAITING:
            raise
        raise DatabaseInUse(
            "A table of the database is in use by an open transaction, and went on being used. Nothing was changed.",
            "Stop what uses it and run the command again, or wait longer with --lock-timeout SECONDS.",
        ) from None


def _refuse_others(connection: Connection, database: str) -> None:
    others = connection.scalars(text(_OTHERS), {"name": database}).all()
    if others:
        raise SnapshotFailed(
            f"The database {database!r} holds what a copy of its tables would leave behind: {', '.join(map(str, others))}. "
            "Nothing was changed.",
            "Use the server's own backup tool, or drop them first if they are made again anyway.",
        )


def _read_label(connection: Connection, database: str) -> str | None:
    """The label in a database; None where a table is called like one, or the database has gone meanwhile."""
    try:
        return connection.exec_driver_sql(f"SELECT {_LABEL} FROM {_of(connection, database, _LABEL)}").scalar()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return None


def _write_label(connection: Connection, database: str, label: str) -> None:
    table = _of(connection, database, _LABEL)
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
    connection.exec_driver_sql(f"CREATE TABLE {table} ({_LABEL} LONGTEXT CHARACTER SET utf8mb4)")
    connection.exec_driver_sql(f"INSERT INTO {table} VALUES (%s)", (label,))


def _tables(connection: Connection, database: str, left_out: Collection[str] = (_STAYS, _LABEL)) -> list[str]:
    names = connection.scalars(text(_TABLES), {"name": database})
    return [str(name) for name in names if name not in left_out]


def _of(connection: Connection, database: str, table: str) -> str:
    return f"{_quoted(connection, database)}.{_quoted(connection, table)}"


def _quoted(connection: Connection, name: Any) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(str(name))
