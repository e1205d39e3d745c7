"""A process that has a transaction open on a SQLite file keeps its locks, whatever this program does in it."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import pytest

from fininfra_db.connections import open_connection
from fininfra_db.database import Database
from fininfra_db.dialects.sqlite_files import read_start
from fininfra_db.errors import LockNotObtained
from tests.cli.helpers import database_file, set_up_with_rows
from tests.conftest import Project, clean_environment

WRITE = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('DELETE FROM goals')"

VERBS: dict[str, Callable[[Database], Any]] = {
    "current": lambda database: database.current(),
    "check": lambda database: database.check(),
    "upgrade": lambda database: database.upgrade(),
    "snapshots": lambda database: database.snapshots(),
    "create_tables": lambda database: database.create_tables(),
}


@pytest.fixture
def with_rows(sqlite_project: Project) -> Project:
    return set_up_with_rows(sqlite_project)


def another_process_can_write(project: Project) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(database_file(project))], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or "database is locked" in done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("verb", VERBS)
async def test_an_open_transaction_keeps_its_lock(with_rows: Project, verb: str, mode: str) -> None:
    """Closing any descriptor of the file would drop every lock that the process has on it."""
    with closing(sqlite3.connect(database_file(with_rows), isolation_level=None)) as application:
        application.execute(f"PRAGMA journal_mode = {mode}")
        application.execute("BEGIN IMMEDIATE")
        application.execute("UPDATE goals SET name = name")
        with suppress(LockNotObtained):
            await VERBS[verb](Database(replace(with_rows.settings(), lock_timeout=0.1)))
        assert not another_process_can_write(with_rows)
        application.execute("COMMIT")
    assert another_process_can_write(with_rows)


async def test_a_connection_of_the_application_keeps_its_lock(with_rows: Project) -> None:
    """The engine of ``get_async_session`` looks at the file before it connects, beside a connection that writes."""
    async with open_connection(with_rows.settings(), "seeding") as writer:
        await writer.exec_driver_sql("UPDATE goals SET name = name")
        async with open_connection(with_rows.settings(), "application") as reader:
            await reader.exec_driver_sql("SELECT count(*) FROM goals")
        assert not another_process_can_write(with_rows)
        await writer.rollback()


def test_a_file_is_read_when_nobody_here_has_it_open(with_rows: Project) -> None:
    file = database_file(with_rows)
    assert read_start(file, 6) == b"SQLite"
    with closing(sqlite3.connect(file)) as application:
        application.execute("SELECT count(*) FROM goals").fetchone()
        assert read_start(file, 6) is None
        link = file.with_name("link.db")
        link.symlink_to(file)
        assert read_start(link, 6) is None
    assert read_start(file, 6) == b"SQLite"
