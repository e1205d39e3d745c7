"""The databases that the cases are run on: making, dropping, asking and comparing them behind the programs' backs."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, inspect, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

T = TypeVar("T")

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
MARIADB: Final = "mysql"
LABELS: Final = {SQLITE: "SQLite", POSTGRESQL: "PostgreSQL", MARIADB: "MariaDB"}
SERVERS: Final = {
    SQLITE: "sqlite+aiosqlite://",
    POSTGRESQL: os.environ.get("FININFRA_TEST_POSTGRESQL_URL") or "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres",
    MARIADB: os.environ.get("FININFRA_TEST_MYSQL_URL") or "mysql+aiomysql://root@127.0.0.1:3306/mysql",
}

Snapshot = dict[str, Any]
"""Everything in a database that a migration is there for: each table's definition and its rows."""


@dataclass(frozen=True)
class Database:
    """One database, by its URL."""

    url: str

    @property
    def kind(self) -> str:
        return make_url(self.url).get_backend_name()

    @property
    def file(self) -> Path:
        """Where a SQLite database is."""
        return Path(make_url(self.url).database or "")

    def create(self) -> None:
        """Make it, empty. On SQLite, an empty database is no file."""
        if self.kind != SQLITE:
            self._maintain(f"CREATE DATABASE {self._name}")

    def clear(self) -> None:
        """Make it empty again, whoever has it open. PostgreSQL would write a checkpoint for a database that is dropped."""
        if self.kind == POSTGRESQL:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            self.execute(others, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        else:
            self.drop()
            self.create()

    def drop(self) -> None:
        """Take it away."""
        if self.kind == SQLITE:
            for file in self.file.parent.glob(f"{self.file.name}*"):
                file.unlink()
            return
        self._maintain(f"DROP DATABASE IF EXISTS {self._name}{' WITH (FORCE)' if self.kind == POSTGRESQL else ''}")

    def execute(self, *statements: str) -> None:
        """Run and commit."""

        def work(connection: Connection) -> None:
            for statement in statements:
                connection.execute(text(statement))
            connection.commit()

        self.run(work)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds."""
        return self.run(lambda connection: [tuple(row) for row in connection.execute(text(query))])

    def versions(self) -> list[str]:
        """The rows of Alembic's table; none where there is no such table."""
        return self.run(_versions)

    def ledger(self) -> list[tuple[str, str]]:
        """Each revision and its outcome, as our program has written them down; none where it has not."""
        return self.run(_ledger)

    def snapshot(self) -> Snapshot:
        """What is in it now."""
        return self.run(_snapshot)

    def poll(self, query: str, until: Callable[[Any], bool], seconds: float) -> float | None:
        """Ask again and again for one value; after how many seconds it was as wanted, or None."""
        began = time.monotonic()

        def work(connection: Connection) -> float | None:
            while not until(connection.scalar(text(query))):
                if time.monotonic() - began > seconds:
                    return None
                time.sleep(0.02)
            return time.monotonic() - began

        return self.run(work, isolation_level="AUTOCOMMIT")

    def run(self, work: Callable[[Connection], T], url: str | None = None, **options: Any) -> T:
        """What ``work`` returns on a connection to it."""

        async def connect() -> T:
            engine = create_async_engine(url or self.url, poolclass=NullPool, **options)
            async with engine.connect() as connection:
                return await connection.run_sync(work)

        return asyncio.run(connect())

    @property
    def _name(self) -> str:
        return str(make_url(self.url).database)

    def _maintain(self, statement: str) -> None:
        self.run(lambda connection: connection.execute(text(statement)), SERVERS[self.kind], isolation_level="AUTOCOMMIT")


def _versions(connection: Connection) -> list[str]:
    if not inspect(connection).has_table("alembic_version"):
        return []
    return sorted(connection.scalars(text("SELECT version_num FROM alembic_version")))


def _ledger(connection: Connection) -> list[tuple[str, str]]:
    if not inspect(connection).has_table("fininfra_migrations"):
        return []
    return [(row[0], row[1]) for row in connection.execute(text("SELECT revision, outcome FROM fininfra_migrations ORDER BY id"))]


def _snapshot(connection: Connection) -> Snapshot:
    inspector = inspect(connection)
    found: Snapshot = {}
    for table in inspector.get_table_names():
        if not table.startswith("fininfra_"):
            found[table] = {
                "columns": [_text(column, "name", "type", "nullable", "default") for column in inspector.get_columns(table)],
                "primary key": inspector.get_pk_constraint(table)["constrained_columns"],
                "foreign keys": sorted(
                    _text(key, "name", "constrained_columns", "referred_table", "options") for key in inspector.get_foreign_keys(table)
                ),
                "unique": sorted(_text(unique, "name", "column_names") for unique in inspector.get_unique_constraints(table)),
                "indexes": sorted(_text(index, "name", "column_names", "unique") for index in inspector.get_indexes(table)),
                "rows": sorted(str(tuple(row)) for row in connection.execute(text(f"SELECT * FROM {table}"))),
            }
    return found


def _text(facts: Any, *names: str) -> str:
    return ", ".join(f"{name} {facts.get(name)}" for name in names)


def differences(found: Snapshot, wanted: Snapshot) -> list[str]:
    """Each part of a table that is not as it should be, in words."""
    tables = sorted(found.keys() | wanted.keys())
    told = [
        f"table {table} is {'missing' if table in wanted else 'left over'}" for table in tables if (table in found) != (table in wanted)
    ]
    for table in found.keys() & wanted.keys():
        told += [
            f"{table}: {part} {found[table][part]}, not {wanted[table][part]}"
            for part in wanted[table]
            if found[table][part] != wanted[table][part]
        ]
    return told
