"""Databases in use: pending revisions, somebody who reads meanwhile, and how long others have to wait."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from fininfra_db.connections import open_connection
from fininfra_db.database import Database
from fininfra_db.events import Event
from tests.cli.helpers import FIRST, add_revision
from tests.conftest import Project

IMPORT = "from fininfra_db.migrate import operations"


async def at_head_with(project: Project, *bodies: str) -> Project:
    """A project at head, and a pending revision for each body of an ``upgrade()``."""
    await project.database().setup_and_migrate()
    parent = FIRST
    for number, body in enumerate(bodies):
        parent, previous = f"aaaa{number}", parent
        add_revision(project, parent, previous, up=f"{IMPORT}\n    {body}")
    return project


def patient(project: Project, seen: list[Event] | None = None, **settings: Any) -> Database:
    return Database(replace(project.settings(), **settings), observer=None if seen is None else seen.append)


@asynccontextmanager
async def open_reader(project: Project, table: str = "users") -> AsyncIterator[AsyncConnection]:
    """Somebody who has read a table and left the transaction open."""
    async with open_connection(project.settings(), "application") as reader:
        await reader.execute(text(f"SELECT count(*) FROM {table}"))
        yield reader


async def worst_stall(project: Project, statement: str, until: asyncio.Event) -> float:
    """The longest that ``statement`` took, in seconds, run every 20 ms."""
    worst = 0.0
    async with open_connection(project.settings(), "maintenance") as probe:
        while not until.is_set():
            started = time.monotonic()
            await probe.execute(text(statement))
            worst = max(worst, time.monotonic() - started)
            await asyncio.sleep(0.02)
    return worst


async def upgrade_behind_reader(project: Project, database: Database, seconds: float, probe: str) -> float:
    """Upgrade while a reader keeps ``users`` for some seconds. Returns the longest that ``probe`` took meanwhile."""
    done = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        stall = tasks.create_task(worst_stall(project, probe, done))
        async with open_reader(project):
            upgrade = tasks.create_task(database.upgrade())
            await asyncio.sleep(seconds)
            assert not upgrade.done()
        await upgrade
        done.set()
    return stall.result()


async def indexes_of(project: Project, table: str = "users") -> dict[str, bool]:
    """The indexes of a table on PostgreSQL, and whether each can be used."""
    query = f"SELECT relname, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indrelid = '{table}'::regclass"
    return dict(await project.rows(query))


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)
