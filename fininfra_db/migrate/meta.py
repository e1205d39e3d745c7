"""What this program knows of a database and keeps in it: one table of names and values, made by whoever writes first."""

from typing import Final

from sqlalchemy import Column, Connection, MetaData, String, Table, Text, delete, insert, inspect, select

TABLE: Final = "fininfra_meta"

facts: Final = Table(
    TABLE,
    MetaData(),
    Column("name", String(50), primary_key=True),
    Column("value", Text),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)


def read_meta(connection: Connection, name: str) -> str | None:
    """The value of ``name``; None where there is none, or no table yet. Nothing is written."""
    if not inspect(connection).has_table(TABLE):
        return None
    value: str | None = connection.scalar(select(facts.c.value).where(facts.c.name == name))
    return value


def write_meta(connection: Connection, name: str, value: str | None) -> None:
    """Keep ``value`` under ``name``, or with None nothing. The caller commits."""
    facts.create(connection, checkfirst=True)
    connection.execute(delete(facts).where(facts.c.name == name))
    if value is not None:
        connection.execute(insert(facts).values(name=name, value=value))
