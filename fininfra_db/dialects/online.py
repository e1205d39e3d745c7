"""Changes beside running writers: what PostgreSQL's catalog says of indexes that are built so, and how long they wait."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

_INDEX = "FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = CAST(:table AS regclass) AND relname = :name"


class OnlineDdl:
    """Of a database that builds indexes and validates constraints while others write. Tables are named as SQL has them, quoted."""

    def index_is_valid(self, connection: Connection, name: str, table: str) -> bool | None:
        """Whether an index of a table can be used: not when it was not built to its end. None when there is none of that name."""
        found = connection.scalar(text(f"SELECT indisvalid {_INDEX}"), {"table": table, "name": name})
        return None if found is None else bool(found)

    def index_definition(self, connection: Connection, name: str, table: str) -> str:
        """What an index is, in the server's own words and without the name of the table; empty when there is none."""
        words = "CASE WHEN indisunique THEN 'UNIQUE ' ELSE '' END || substring(pg_get_indexdef(indexrelid) FROM ' (USING .*)$')"
        return connection.scalar(text(f"SELECT {words} {_INDEX}"), {"table": table, "name": name}) or ""

    def drop_index(self, connection: Connection, name: str, table: str) -> None:
        """Drop an index beside running writers, if it is there. ``connection`` is in AUTOCOMMIT."""
        full_name = connection.scalar(text(f"SELECT CAST(CAST(indexrelid AS regclass) AS text) {_INDEX}"), {"table": table, "name": name})
        if full_name is not None:
            connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {full_name}")

    @contextmanager
    def waiting_for_locks(self, connection: Connection) -> Iterator[None]:
        """Let statements wait for locks without end. Only for those that nobody has to wait for meanwhile."""
        before = connection.scalar(text("SELECT current_setting('lock_timeout')"))
        connection.execute(text("SET lock_timeout = 0"))
        try:
            yield
        finally:
            with suppress(DBAPIError):  # a connection that is gone has nothing to give back
                connection.execute(text("SELECT set_config('lock_timeout', :before, false)"), {"before": before})
