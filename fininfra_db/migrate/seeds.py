"""What seeds were written into a database: one table, ``fininfra_seeds``, with one row for each name and arguments.

A row is written in the transaction of the rows that it tells of. The table is made before, since on MySQL that would commit them.
"""

import json
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

from sqlalchemy import Column, Connection, MetaData, RowMapping, String, Table, Text, delete, insert, inspect, select

from fininfra_db.migrate.recorder import login_name
from fininfra_db.results import SeedRecord
from fininfra_db.types import UtcDateTime
from fininfra_db.version import __version__

TABLE: Final = "fininfra_seeds"

records: Final = Table(
    TABLE,
    MetaData(),
    Column("id", String(32), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("arguments", Text, nullable=False),
    Column("rows", Text),
    Column("written", UtcDateTime(), nullable=False),
    Column("login", String(255)),
    Column("host", String(255)),
    Column("tool_version", String(50)),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)


def prepare(connection: Connection) -> None:
    """Make the table if it is not there. The caller commits."""
    records.create(connection, checkfirst=True)


def read_seeds(connection: Connection) -> tuple[SeedRecord, ...]:
    """Every seed that was written, the last one last; none where there is no table yet. Nothing is written."""
    if not inspect(connection).has_table(TABLE):
        return ()
    return tuple(map(_record, connection.execute(select(records).order_by(records.c.written)).mappings()))


def read_seed(connection: Connection, name: str, kind: Mapping[str, Any]) -> SeedRecord | None:
    """The record of a seed with arguments of this ``kind``; None when it was never written."""
    row = connection.execute(select(records).where(records.c.id == _id(name, kind))).mappings().first()
    return _record(row) if row else None


def record(
    connection: Connection, name: str, arguments: Mapping[str, Any], rows: Mapping[str, int] | None = None, *, kind: Mapping[str, Any]
) -> None:
    """Write down that a seed was written, in the place of what was said of its ``kind`` before. The caller commits.

    ``kind`` are the arguments that tell its rows from those of others. ``rows`` is None when nobody has counted them.
    """
    connection.execute(delete(records).where(records.c.id == _id(name, kind)))
    connection.execute(
        insert(records).values(
            id=_id(name, kind),
            name=name,
            arguments=json.dumps(dict(arguments), default=str),
            rows=None if rows is None else json.dumps(dict(rows)),
            written=datetime.now(UTC),
            login=login_name(),
            host=socket.gethostname(),
            tool_version=__version__,
        )
    )


def forget(connection: Connection, name: str | None = None) -> None:
    """Say no more of the seed ``name``, or of any: their rows are gone. The caller commits."""
    if inspect(connection).has_table(TABLE):
        connection.execute(delete(records) if name is None else delete(records).where(records.c.name == name))


def _id(name: str, kind: Mapping[str, Any]) -> str:
    told = json.dumps([name, dict(kind)], sort_keys=True, default=str)
    return blake2b(told.encode(), digest_size=16).hexdigest()


def _record(row: RowMapping) -> SeedRecord:
    return SeedRecord(
        name=row["name"],
        arguments=json.loads(row["arguments"]),
        rows=None if row["rows"] is None else json.loads(row["rows"]),
        written=row["written"],
        login=row["login"],
        host=row["host"],
        tool_version=row["tool_version"],
    )
