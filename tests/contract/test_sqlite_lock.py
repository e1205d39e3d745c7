"""SQLite's write lock: it is waited for without blocking anything, nothing is lost at a commit, and who is in the way is named."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, make_url, text

from fininfra_db.connections import open_connection
from fininfra_db.database import Database
from fininfra_db.dialects import target_of
from fininfra_db.errors import LockNotObtained
from fininfra_db.events import Event, Holder, Step, Waiting
from fininfra_db.session import get_async_session, get_engine
from tests.conftest import Project
from tests.contract.helpers import another_process, create_empty_database, release, table_names, write_by_hand

LOCK = "BEGIN IMMEDIATE"
READ = ("BEGIN", "SELECT count(*) FROM alembic_version")

names_processes = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists who holds the lock of a file")


@pytest.fixture
async def behind(sqlite_project: Project) -> Project:
    """A project at its first revision, with one more that makes the table ``late``."""
    database = sqlite_project.database()
    await database.init()
    await create_empty_database(sqlite_project)
    await write_by_hand(sqlite_project, "first", "op.create_table('early', sa.Column('id', sa.Integer()))")
    await database.upgrade()
    await write_by_hand(sqlite_project, "second", "op.create_table('late', sa.Column('id', sa.Integer()))")
    return sqlite_project


def file_of(project: Project) -> Path:
    return Path(make_url(project.url).database or "")


def waiting_for(project: Project, seconds: float) -> None:
    """Have the project wait for that long."""
    ini = project.root / "alembic.ini"
    ini.write_text(ini.read_text(encoding="utf-8").replace("[fininfra_db]", f"[fininfra_db]\nlock_timeout = {seconds}"), encoding="utf-8")


@contextmanager
def written_ahead(project: Project) -> Iterator[None]:
    """The project's file in WAL mode, kept so by somebody who has it open."""
    with another_process(file_of(project), "PRAGMA journal_mode = WAL"):
        yield


async def holder(project: Project) -> Holder | None:
    """Who holds the write lock, as a connection that only reads is told."""
    async with open_connection(project.settings(), "reading") as connection:
        return await connection.run_sync(target_of(project.settings()).dialect.lock_holder)


async def test_a_migration_gets_the_lock_when_it_is_free(behind: Project) -> None:
    told: list[Event] = []
    database = Database(behind.settings(), observer=told.append)
    with another_process(file_of(behind), LOCK) as other:
        running = asyncio.create_task(database.upgrade())
        while not told:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.6)
        assert not running.done()
        release(other)
        migrated = await running
    assert len(migrated.steps) == 1
    assert "late" in await table_names(behind)
    (waited,) = [event for event in told if isinstance(event, Waiting)]
    assert waited.seconds == 300
    assert [type(event) for event in told] == [Waiting, Step]
    if sys.platform == "linux":
        assert waited.holder is not None
        assert waited.holder.pid == other.pid


async def test_waiting_ends_when_it_is_cancelled(behind: Project) -> None:
    with another_process(file_of(behind), LOCK):
        running = asyncio.create_task(behind.database().upgrade())
        await asyncio.sleep(0.3)
        started = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await running
    assert time.monotonic() - started < 1
    assert "No revision was running. The database is at " in caught.value.__notes__[0]
    assert "late" not in await table_names(behind)


@pytest.mark.parametrize("wal", [False, True], ids=["rollback journal", "WAL"])
@pytest.mark.parametrize("seconds", [0, 0.4])
async def test_the_wait_ends_in_an_error_that_names_who_holds_the_lock(behind: Project, wal: bool, seconds: float) -> None:
    waiting_for(behind, seconds)
    if wal:
        with written_ahead(behind):
            await refused(behind, seconds)
    else:
        await refused(behind, seconds)
    assert "late" not in await table_names(behind)


async def refused(project: Project, seconds: float) -> None:
    with another_process(file_of(project), LOCK, "CREATE TABLE theirs (id INTEGER)") as other:
        started = time.monotonic()
        with pytest.raises(LockNotObtained, match=r"went on being locked\. Nothing was changed") as caught:
            await project.database().upgrade()
        assert seconds <= time.monotonic() - started < seconds + 3
    if sys.platform == "linux":
        assert f"is locked by python (pid {other.pid}) since {datetime.now(UTC):%Y-}" in caught.value.message


async def test_a_seed_waits_as_a_migration_does(behind: Project) -> None:
    (behind.root / "seeds.py").write_text(
        "from sqlalchemy import text\ndef one(session): session.execute(text('INSERT INTO early VALUES (1)'))\n"
    )
    waiting_for(behind, 0.3)
    with another_process(file_of(behind), LOCK), pytest.raises(LockNotObtained):
        await behind.database().seed("seeds:one")
    await behind.database().seed("seeds:one")
    assert await behind.rows("SELECT id FROM early") == [(1,)]


async def test_a_commit_waits_for_a_reader_and_loses_nothing(behind: Project) -> None:
    told: list[Event] = []
    with another_process(file_of(behind), *READ) as reader:
        running = asyncio.create_task(Database(behind.settings(), observer=told.append).upgrade())
        await asyncio.sleep(0.6)
        assert not running.done()
        release(reader)
        migrated = await running
    assert len(migrated.steps) == 1
    assert "late" in await table_names(behind)
    if sys.platform == "linux":
        assert [event.holder.pid for event in told if isinstance(event, Waiting) and event.holder] == [reader.pid]


async def test_a_reader_that_stays_is_named_and_nothing_is_committed(behind: Project) -> None:
    waiting_for(behind, 0.3)
    before = file_of(behind).read_bytes()
    with another_process(file_of(behind), *READ) as reader, pytest.raises(LockNotObtained, match="Nothing was changed") as caught:
        await behind.database().upgrade()
    if sys.platform == "linux":
        assert f"locked by python (pid {reader.pid})" in caught.value.message
    assert file_of(behind).read_bytes() == before
    assert len((await behind.database().upgrade()).steps) == 1


async def test_a_revision_may_commit_by_itself(behind: Project) -> None:
    """The commit that comes after finds no transaction."""
    await write_by_hand(behind, "third", "op.execute('INSERT INTO early VALUES (3)')", "op.execute('COMMIT')")
    await behind.database().upgrade()
    assert await behind.rows("SELECT id FROM early") == [(3,)]


@names_processes
async def test_the_holder_is_a_process_and_when_it_started(behind: Project) -> None:
    assert await holder(behind) is None
    with another_process(file_of(behind), LOCK) as other:
        found = await holder(behind)
    assert found is not None
    assert (found.program, found.host, found.pid) == ("python", None, other.pid)
    assert found.since is not None
    assert abs(datetime.now(UTC) - found.since) < timedelta(seconds=30)
    with another_process(file_of(behind), *READ):
        assert await holder(behind) is None


@names_processes
async def test_looking_for_the_holder_drops_no_lock_of_this_process(behind: Project) -> None:
    """A process that closes a file loses its locks on it, whichever of its parts had opened it (fcntl(2))."""
    async with open_connection(behind.settings(), "migration") as connection:
        await connection.execute(text("INSERT INTO early VALUES (1)"))
        found = await connection.run_sync(target_of(behind.settings()).dialect.lock_holder)
        assert found is not None
        assert found.pid == os.getpid()
        with pytest.raises(AssertionError), another_process(file_of(behind), "PRAGMA busy_timeout = 0", LOCK):
            pass
        await connection.commit()
    assert await behind.rows("SELECT id FROM early") == [(1,)]


async def test_the_timeout_of_the_url_is_the_applications(behind: Project) -> None:
    settings = behind.settings(SQL_URL=f"{behind.url}?timeout=20")
    async with get_async_session(settings) as session:
        assert await session.scalar(text("PRAGMA busy_timeout")) == 20_000
    await get_engine(settings).dispose()
    async with open_connection(settings, "migration") as connection:
        assert await connection.scalar(text("PRAGMA busy_timeout")) == 20_000


async def test_the_journal_is_written_before_the_commit_that_it_tells_of(behind: Project) -> None:
    """What waits for the lock at a commit does it last: the row and the part of the revision are committed together."""
    outside: list[str] = []

    def look(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if "fininfra_migrations" in statement and not statement.startswith(("SELECT", "PRAGMA")):
            driver_connection: Any = connection.connection.driver_connection
            if not driver_connection.in_transaction:
                outside.append(statement)

    await write_by_hand(
        behind,
        "third",
        "op.create_table('part', sa.Column('id', sa.Integer()))",
        "with op.get_context().autocommit_block():",
        "    op.execute('ANALYZE')",
    )
    event.listen(Engine, "before_cursor_execute", look)
    try:
        await behind.database().upgrade()
    finally:
        event.remove(Engine, "before_cursor_execute", look)
    assert outside == []
    assert {"late", "part"} <= await table_names(behind)


async def test_taking_the_lock_is_no_statement_of_a_revision(behind: Project) -> None:
    """It may take any number of tries, and one that is carried on with has to find the same statements again."""
    await behind.database().upgrade()
    await write_by_hand(
        behind,
        "third",
        "with op.get_context().autocommit_block():",
        "    op.create_table('first', sa.Column('id', sa.Integer()))",
        "op.create_table('second', sa.Column('id', sa.Integer()))",
    )
    await behind.database().upgrade()
    assert await behind.rows("SELECT statement FROM fininfra_migrations ORDER BY id DESC LIMIT 1") == [(2,)]
