"""Databases for tests: private ones, copied from a template that is migrated and seeded once, and sessions that leave nothing.

The fixtures of :mod:`fininfra_db.pytest_plugin` are made of this. All work is done on an event loop in a thread of its own, so
that it does not matter whether a loop is running where a database is wanted.
"""

import asyncio
import os
import re
import shutil
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession

from fininfra_db.connections import make_engine, open_lifted, snapshots_of
from fininfra_db.data.request import SeedRequest, as_request
from fininfra_db.database import Database
from fininfra_db.dialects import target_of
from fininfra_db.dialects.lifted import Lifted
from fininfra_db.dialects.server_snapshots import ServerSnapshots
from fininfra_db.migrate.config import alembic_options
from fininfra_db.session import FinanceSession
from fininfra_db.settings import Settings

R = TypeVar("R")

_PREFIX: Final = "fininfra_test"
_NAME: Final = re.compile(rf"{_PREFIX}_(?P<host>[0-9a-f]{{12}})_(?P<pid>\d+)_(?P<time>[0-9a-f]+)_\d+")
"""Whose a database is: a digest of where its process is, that, and when it began to make some."""
_PLACES: Final = (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id"))
_PROCESSES: Final = Path("/proc/self/ns/pid")
_STALE: Final = 86_400
"""Seconds after which a database of another host, whose processes cannot be seen, is taken for a leftover."""


@asynccontextmanager
async def rolled_back_session(settings: Settings) -> AsyncIterator[AsyncSession]:
    """A session like those of ``get_async_session()``, of which nothing stays: what is committed is rolled back at the end, too."""
    engine = make_engine(settings, "application")
    try:
        async with engine.connect() as connection, connection.begin() as transaction:
            async with AsyncSession(
                connection, sync_session_class=FinanceSession, expire_on_commit=False, join_transaction_mode="create_savepoint"
            ) as session:
                yield session
            await transaction.rollback()
    finally:
        await engine.dispose()


def private_databases(settings: Settings, folder: Path) -> "PrivateDatabases":
    """Where private databases come from: the server that the URL of ``settings`` leads to, or files in ``folder``."""
    has_server = target_of(settings).dialect.features.has_server
    return _OnServer(settings) if has_server else _InFolder(settings, folder)


class PrivateDatabases(ABC):
    """Makes databases at head for one project, as copies of a template. ``close()`` removes what is left of them."""

    _numbers: ClassVar = count(1)
    """For names that nothing else in this process has taken."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fininfra-db databases for tests", daemon=True)
        self._thread.start()
        self._templates: dict[SeedRequest | None, Database] = {}
        self._pending: set[asyncio.Future[Any]] = set()
        self._failures: dict[SeedRequest | None, Exception] = {}
        self._left: list[Exception] = []
        self._made: list[Database] = []

    def make(self, seed: SeedRequest | str | None = None) -> Database:
        """A new database at head, with the rows of ``seed`` in it."""
        made = self._wait(self._copy(None if seed is None else as_request(seed)))
        self._made.append(made)
        return made

    def remove(self, database: Database) -> None:
        """Remove a database. A server does that while the next test runs."""
        self._made = [each for each in self._made if each is not database]
        self._loop.call_soon_threadsafe(self._begin_to_remove, database)

    def close(self) -> None:
        """Remove what is left and the templates, and wait until everything is removed. Raises together what any removal failed with."""
        for database in (*self._made, *self._templates.values()):
            self.remove(database)
        try:
            self._wait(self._finish())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        if self._left:
            raise ExceptionGroup("Databases of tests were not removed; a later run does it", self._left)

    @abstractmethod
    def _new(self) -> Settings:
        """The settings for a database that is to be made."""

    @abstractmethod
    async def _duplicate(self, template: Settings, new: Settings) -> None:
        """Copy a database that nobody uses."""

    @abstractmethod
    async def _remove(self, settings: Settings) -> None:
        """Remove a database, also one that is in use."""

    async def _copy(self, seed: SeedRequest | None) -> Database:
        template = await self._template(seed)
        copy = Database(self._new())
        async with self._removed_on_failure(copy):
            await self._duplicate(template.settings, copy.settings)
        return copy

    async def _template(self, seed: SeedRequest | None) -> Database:
        """The database that all others of its kind are copied from. What could not be made is not tried again for each test."""
        if seed in self._failures:
            raise self._failures[seed]
        if seed not in self._templates:
            try:
                self._templates[seed] = await self._build(seed)
            except Exception as error:  # whatever a revision or a seed raises
                self._failures[seed] = error
                raise
        return self._templates[seed]

    async def _build(self, seed: SeedRequest | None) -> Database:
        made = Database(self._new()) if seed is None else await self._copy(None)
        async with self._removed_on_failure(made):
            await (_to_head(made) if seed is None else made.seed(seed))
        return made

    @asynccontextmanager
    async def _removed_on_failure(self, database: Database) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:  # an interrupted session of pytest leaves nothing on the server either
            self._begin_to_remove(database)
            raise

    def _begin_to_remove(self, database: Database) -> None:
        task = self._loop.create_task(self._try_to_remove(database.settings))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _try_to_remove(self, settings: Settings) -> None:
        try:
            await self._remove(settings)
        except Exception as error:  # a server's; close() tells
            self._left.append(error)

    async def _finish(self) -> None:
        await asyncio.gather(*self._pending)

    def _wait(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _InFolder(PrivateDatabases):
    """SQLite files."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        super().__init__(settings)
        self._folder = folder

    def _new(self) -> Settings:
        return replace(self._settings, sql_url=f"sqlite:///{self._folder / f'{next(self._numbers)}.db'}", sql_url_source="the tests")

    async def _duplicate(self, template: Settings, new: Settings) -> None:
        shutil.copyfile(_path(template), _path(new))

    async def _remove(self, settings: Settings) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            path = _path(settings)
            path.with_name(path.name + suffix).unlink(missing_ok=True)


class _OnServer(PrivateDatabases):
    """Databases whose names say whose they are; those that killed processes have left are dropped before the first is made."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._begun = f"{time.time_ns() // 1000:x}"  # one process may make some in several places
        self._connections = AsyncExitStack()
        self._server: Lifted | None = None

    def _new(self) -> Settings:
        return self._at(f"{_PREFIX}_{_host()}_{os.getpid()}_{self._begun}_{next(self._numbers)}")

    async def _duplicate(self, template: Settings, new: Settings) -> None:
        source, target = (str(target_of(settings).url.database) for settings in (template, new))
        await self._store(template).copy(await self._connection(), source, target)

    async def _remove(self, settings: Settings) -> None:
        """On a connection of its own, beside which the next database is made."""
        async with open_lifted(self._maintenance(), "maintenance") as connection:
            await connection.run_sync(self._drop, str(target_of(settings).url.database))

    async def _finish(self) -> None:
        await super()._finish()
        await self._connections.aclose()

    async def _template(self, seed: SeedRequest | None) -> Database:
        await self._connection()
        return await super()._template(seed)

    async def _connection(self) -> Lifted:
        if self._server is None:
            self._server = await self._connections.enter_async_context(open_lifted(self._maintenance(), "maintenance"))
            await self._server.run_sync(self._drop_leftovers)
        return self._server

    def _drop_leftovers(self, connection: Connection) -> None:
        """But none that somebody is connected to, whatever its name says."""
        store = self._store(self._settings)
        for name in store.databases(connection):
            if (match := _NAME.fullmatch(name)) and _is_leftover(match) and not store.is_in_use(connection, name):
                with suppress(Exception):  # somebody else drops it just now, or may do so and this login may not
                    store.drop(connection, name)

    def _drop(self, connection: Connection, name: str) -> None:
        self._store(self._settings).drop(connection, name, force=True)

    def _store(self, settings: Settings) -> ServerSnapshots:
        store = snapshots_of(settings)
        assert isinstance(store, ServerSnapshots)
        return store

    def _maintenance(self) -> Settings:
        return self._at(target_of(self._settings).dialect.maintenance_database or "")

    def _at(self, database: str) -> Settings:
        url = target_of(self._settings).url.set(database=database)
        return replace(self._settings, sql_url=url.render_as_string(hide_password=False), sql_url_source="the tests")


@cache
def _host() -> str:
    """A digest of where the processes are that can be seen from here: containers share a host's name, or a server with other ones."""
    told = [socket.gethostname()]
    for path in _PLACES:
        with suppress(OSError):
            told.append(path.read_text(encoding="utf-8"))
    try:
        told.append(os.readlink(_PROCESSES))
    except OSError:  # not Linux
        told.append(str(uuid.getnode()))
    return sha256("\0".join(told).encode()).hexdigest()[:12]


def _is_leftover(name: re.Match[str]) -> bool:
    if name["host"] != _host():
        return time.time() - int(name["time"], 16) / 1_000_000 > _STALE
    try:
        os.kill(int(name["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


async def _to_head(database: Database) -> None:
    """By the project's revisions, or without a project from the models alone."""
    from fininfra_db.connections import ensure_database

    await ensure_database(database.settings)
    if alembic_options(database.settings.project_root) is None:
        await database.create_tables()
    else:
        await database.upgrade()


def _path(settings: Settings) -> Path:
    return Path(str(target_of(settings).url.database))
