"""Snapshots on PostgreSQL: databases that are made from another as their template, which nobody may be connected to meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from fininfra_db.dialects.blockers import in_words
from fininfra_db.dialects.lifted import Lifted
from fininfra_db.dialects.locks import Patience
from fininfra_db.dialects.postgresql_turn import take, whose
from fininfra_db.dialects.server_snapshots import Labelled, ServerSnapshots
from fininfra_db.dialects.wording import first_line, sqlstate
from fininfra_db.errors import DatabaseInUse
from fininfra_db.events import Holder, Waiting

_OBJECT_IN_USE: Final = "55006"
_NOT_ALLOWED: Final = "42501"
_BETWEEN_LOOKS: Final = 0.005
_BETWEEN_TRIES: Final = 0.25
_MOMENT: Final = 0.5
"""Seconds in which a session ends that was closed just now, as those of this run are."""
_FILE_COPY_FROM: Final = 256 * 1024 * 1024
"""Bytes from which on files are copied: below, writing the copy to the log is quicker than the two checkpoints that copying needs."""
_HAS_STRATEGY: Final = (15,)
_IDENTITIES: Final = ("role", "session_authorization")

_LABELLED: Final = """
    SELECT datname, shobj_description(oid, 'pg_database'),
        CASE WHEN has_database_privilege(oid, 'CONNECT') THEN pg_database_size(oid) ELSE 0 END
    FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE '{"fininfra_snapshot"%'
"""
_SESSIONS: Final = """
    SELECT pid, usename, application_name, state, CAST(extract(epoch FROM now() - xact_start) AS integer), query
    FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid() AND usesysid IS NOT NULL
        AND coalesce(backend_type, 'client backend') = 'client backend'
    ORDER BY backend_start LIMIT 5
"""
"""Of the sessions of others a login that is no superuser is told little more than whose they are."""
_INVENTORY: Final = """
    SELECT kind || ' ' || name FROM (
        SELECT 'relation' AS kind, relnamespace::regnamespace || '.' || relname AS name, 'pg_class'::regclass AS class,
            oid, relnamespace AS n
        FROM pg_class WHERE relkind IN ('r', 'v', 'm', 'S', 'f', 'p', 'c')
        UNION ALL SELECT 'function', oid::regprocedure::text, 'pg_proc'::regclass, oid, pronamespace FROM pg_proc
        UNION ALL SELECT 'type', oid::regtype::text, 'pg_type'::regclass, oid, typnamespace FROM pg_type WHERE typtype IN ('e', 'd', 'r')
        UNION ALL SELECT 'collation', collname, 'pg_collation'::regclass, oid, collnamespace FROM pg_collation
        UNION ALL SELECT 'event trigger', evtname, 'pg_event_trigger'::regclass, oid, 0 FROM pg_event_trigger
        UNION ALL SELECT 'foreign data wrapper', fdwname, 'pg_foreign_data_wrapper'::regclass, oid, 0 FROM pg_foreign_data_wrapper
        UNION ALL SELECT 'foreign server', srvname, 'pg_foreign_server'::regclass, oid, 0 FROM pg_foreign_server
    ) objects
    WHERE n NOT IN (SELECT oid FROM pg_namespace WHERE nspname LIKE 'pg\\_%' OR nspname = 'information_schema')
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = class AND d.objid = objects.oid AND d.deptype = 'e')
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace
        WHERE nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', 'public')
    UNION ALL SELECT 'extension ' || extname FROM pg_extension WHERE extname <> 'plpgsql'
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'large object ' || oid FROM pg_largeobject_metadata
    ORDER BY 1
"""
_GRANTED: Final = """
    SELECT concat_ws(' ', 'schema', nspname, pg_get_userbyid(nspowner), CAST(nspacl AS text)) FROM pg_namespace
        WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
    UNION ALL SELECT concat_ws(' ', 'default', pg_get_userbyid(defaclrole), CAST(defaclnamespace AS regnamespace), defaclobjtype,
        CAST(defaclacl AS text)) FROM pg_default_acl
    ORDER BY 1
"""
_DATABASE: Final = """
    SELECT d.oid, pg_get_userbyid(datdba) AS owner, datdba <> (SELECT oid FROM pg_roles WHERE rolname = current_user) AS is_others,
        spcname, datconnlimit, shobj_description(d.oid, 'pg_database') AS comment
    FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = :name
"""
_RIGHTS: Final = """
    SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, privilege_type, is_grantable
    FROM pg_database, aclexplode(datacl) WHERE datname = :name
"""
_SETTINGS: Final = """
    SELECT CASE setrole WHEN 0 THEN NULL ELSE pg_get_userbyid(setrole) END, split_part(setting, '=', 1),
        substr(setting, strpos(setting, '=') + 1)
    FROM pg_db_role_setting, unnest(setconfig) AS setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = :name)
"""


class PostgresqlSnapshots(ServerSnapshots):
    longest = 63

    def labelled(self, connection: Connection) -> list[Labelled]:
        return [Labelled(name, label, size) for name, label, size in connection.execute(text(_LABELLED))]

    def databases(self, connection: Connection) -> Collection[str]:
        return connection.scalars(text("SELECT datname FROM pg_database")).all()

    def inventory(self, connection: Connection) -> tuple[str, ...]:
        return tuple(connection.scalars(text(_INVENTORY.replace("::", "\\:\\:"))))

    def rights(self, connection: Connection) -> tuple[str, ...]:
        return tuple(connection.scalars(text(_GRANTED)))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A lock on the maintenance database: nobody may be on the other one when it is renamed, the holder of its lock neither."""
        if self.access.lock_timeout is None or self.source == self.dialect.maintenance_database:
            yield
            return
        patience = Patience(self.dialect, self.url, self.access.lock_timeout, self.access.observer)
        async with self._server() as connection:
            while not await connection.run_sync(take, self.source):
                await asyncio.sleep(patience.wait_for(await connection.run_sync(whose, self.source)))
            yield

    async def copy(self, held: Lifted, source: str, target: str) -> None:
        await self._alone(held, (source, self.source), partial(self._create, source=source, target=target))

    async def publish(self, held: Lifted, partial: str, place: str, label: str) -> None:
        if label:
            await held.run_sync(_comment, partial, label)
        await held.run_sync(_rename, partial, place)

    async def dress(self, held: Lifted, copy: str) -> None:
        await held.run_sync(self._dress, copy)

    async def swap(self, held: Lifted, new: str, old: str, label: str | None) -> None:
        """Nobody may be on a database that is renamed, the holder of its lock neither."""
        await held.close()
        async with self._server() as connection:
            await self._alone(connection, (self.source, new), partial(self._swap, new=new, old=old, label=label))
            if label is None:
                await self._drop_unwatched(connection, old)

    def drop(self, connection: Connection, name: str, *, force: bool = False) -> None:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {_quoted(connection, name)}{' WITH (FORCE)' if force else ''}")

    def is_in_use(self, connection: Connection, name: str) -> bool:
        return bool(_sessions(connection, name))

    def prepare_to_leave(self, connection: Connection) -> None:
        """Half a DROP DATABASE leaves a database that is good for nothing."""
        connection.exec_driver_sql("SET client_connection_check_interval = 0")

    def leave(self, driver_connection: Any) -> None:
        """``close()`` of asyncpg would wait for the end of the statement."""
        getattr(driver_connection, "terminate", driver_connection.close)()

    def hint(self, error: BaseException) -> str | None:
        if sqlstate(error) != _NOT_ALLOWED:
            return None
        if (getattr(error, "statement", None) or "").startswith("CREATE DATABASE"):
            return "A copy takes a login that owns the database and may create others: ALTER ROLE name CREATEDB."
        return "This login may not do that: use the one that owns the database, or a superuser."

    def _create(self, connection: Connection, source: str, target: str) -> None:
        """Owner and tablespace are those of the database that the copy is of, or is to be.

        The template's tablespace is taken unnamed: to name one takes a right to it, which nobody has to the default one.
        """
        like = connection.execute(text(_DATABASE), {"name": self.source}).one_or_none()
        template = connection.execute(text(_DATABASE), {"name": source}).one_or_none()
        size = connection.scalar(text("SELECT pg_database_size(CAST(:name AS name))"), {"name": source}) or 0
        statement = f"CREATE DATABASE {_quoted(connection, target)} TEMPLATE {_quoted(connection, source)}"
        if like is not None and like.is_others:
            statement += f" OWNER {_quoted(connection, like.owner)}"
        if like is not None and template is not None and like.spcname != template.spcname:
            statement += f" TABLESPACE {_quoted(connection, like.spcname)}"
        if size >= _FILE_COPY_FROM and (connection.dialect.server_version_info or ()) >= _HAS_STRATEGY:
            statement += " STRATEGY FILE_COPY"
        connection.exec_driver_sql(statement)

    def _dress(self, connection: Connection, copy: str) -> None:
        """Rights, settings, limit and comment belong to a database and not to what is in it: a template hands none of them on."""
        quoted, name = _quoted(connection, copy), {"name": self.source}
        live = connection.execute(text(_DATABASE), name).one()
        rights = connection.execute(text(_RIGHTS), name).all()
        if rights:
            connection.exec_driver_sql(f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC")
        for grantee, right, is_grantable in rights:
            connection.exec_driver_sql(f"GRANT {right} ON DATABASE {quoted} TO {grantee}{' WITH GRANT OPTION' if is_grantable else ''}")
        for role, setting, value in connection.execute(text(_SETTINGS), name).all():
            where = f"ROLE {_quoted(connection, role)} IN DATABASE {quoted}" if role else f"DATABASE {quoted}"
            if setting in _IDENTITIES:  # to take on another one would be to lose the right to go on
                connection.exec_driver_sql(f"ALTER {where} SET {setting} TO {_literal(connection, value)}")
                continue
            with _transaction(connection):  # the server writes the value as it wrote it before: lists have no one spelling
                connection.execute(text("SELECT set_config(:setting, :value, true)"), {"setting": setting, "value": value})
                connection.exec_driver_sql(f"ALTER {where} SET {_dotted(connection, setting)} FROM CURRENT")
        if live.datconnlimit != -1:
            connection.exec_driver_sql(f"ALTER DATABASE {quoted} CONNECTION LIMIT {live.datconnlimit}")
        if live.comment is not None:
            _comment(connection, copy, live.comment)

    def _swap(self, connection: Connection, new: str, old: str, label: str | None) -> None:
        with _transaction(connection):
            _rename(connection, self.source, old)
            _rename(connection, new, self.source)
            if label is not None:
                _comment(connection, old, label)

    async def _alone(self, connection: Lifted, names: Iterable[str], work: Callable[[Connection], None]) -> None:
        """Do what takes that nobody else is connected to some databases. Raises ``DatabaseInUse``."""
        deadline = time.monotonic() + self.access.timeout
        while True:
            for name in dict.fromkeys(names):
                await self._wait_for_nobody(connection, name, deadline)
            try:
                return await connection.run_sync(work)
            except DBAPIError as error:  # somebody came since, or is there in another way, as a prepared transaction
                if sqlstate(error) != _OBJECT_IN_USE:
                    raise
                if time.monotonic() >= deadline:
                    raise self._in_use(self.source, first_line(error)) from None
            await asyncio.sleep(_BETWEEN_TRIES)

    async def _wait_for_nobody(self, connection: Lifted, name: str, deadline: float) -> None:
        """Wait until nobody else is connected to a database. Raises ``DatabaseInUse`` with who is."""
        now = time.monotonic()
        told = False
        while sessions := await connection.run_sync(_sessions, name):
            if time.monotonic() < now + _MOMENT:
                await asyncio.sleep(_BETWEEN_LOOKS)
                continue
            who = "; ".join(sessions)
            if time.monotonic() >= deadline:
                raise self._in_use(name, who)
            if self.access.observer is not None and not told:
                self.access.observer(Waiting(Holder(who), self.access.timeout))
                told = True
            await asyncio.sleep(_BETWEEN_TRIES)

    def _in_use(self, name: str, who: str) -> DatabaseInUse:
        return DatabaseInUse(
            f"The database {name!r} is in use, and PostgreSQL copies and renames only what nobody is connected to: {who}. "
            f"{self.where} is as it was.",
            "Stop what is connected and run the command again, or wait longer with --lock-timeout SECONDS.",
        )


def _sessions(connection: Connection, name: str) -> list[str]:
    """Who is connected to a database, in words."""
    rows = connection.execute(text(_SESSIONS), {"name": name})
    return [in_words(pid, user, program, state, age, "", query) for pid, user, program, state, age, query in rows]


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    """A transaction on a connection that is in AUTOCOMMIT."""
    connection.exec_driver_sql("BEGIN")
    try:
        yield
    except BaseException:  # an interruption too: the connection goes on to be used for what is put right
        connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")


def _rename(connection: Connection, name: str, to: str) -> None:
    connection.exec_driver_sql(f"ALTER DATABASE {_quoted(connection, name)} RENAME TO {_quoted(connection, to)}")


def _comment(connection: Connection, name: str, comment: str) -> None:
    connection.exec_driver_sql(f"COMMENT ON DATABASE {_quoted(connection, name)} IS {_literal(connection, comment)}")


def _literal(connection: Connection, value: str) -> str:
    return str(connection.scalar(text("SELECT quote_literal(:value)"), {"value": value}))


def _quoted(connection: Connection, name: Any) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(str(name))


def _dotted(connection: Connection, setting: str) -> str:
    """A setting's name, of which one of an extension has two parts."""
    return ".".join(_quoted(connection, part) for part in setting.split("."))
