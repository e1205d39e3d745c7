"""Fixtures of the whole suite: the databases, and projects to run the program in.

SQLite is always there. PostgreSQL and MariaDB are named by ``FININFRA_TEST_POSTGRESQL_URL`` and
``FININFRA_TEST_MYSQL_URL``, else looked for on this machine, else skipped with the reason. With
``FININFRA_TEST_REQUIRE_SERVERS`` set, as in CI, a missing server is a failure.
"""

import asyncio
import functools
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from fininfra_db.connections import open_connection
from fininfra_db.database import Database
from fininfra_db.dialects import target_of
from fininfra_db.errors import FininfraDbError
from fininfra_db.security import generate_key
from fininfra_db.settings import Settings, load_settings

LOCAL_SERVERS = {
    "postgresql": "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres",
    "mysql": "mysql+aiomysql://root@127.0.0.1:3306/mysql",
}
DATABASES = ("sqlite", *LOCAL_SERVERS)
PRODUCT_VARIABLES = (
    "SQL_URL",
    "SQL_URL_FILE",
    "DATABASE_URL",
    "SQL_URL_DIRECT",
    "PROJECT_ROOT",
    "APP_ENV",
    "FININFRA_DB_KEYS",
    "FININFRA_DB_KEYS_FILE",
)


@dataclass
class Project:
    """A folder with a database to be: settings for the library, and the installed program in a subprocess without a terminal."""

    dialect: str
    root: Path
    url: str
    environ: dict[str, str] = field(default_factory=dict)

    def settings(self, **changes: Any) -> Settings:
        return load_settings(project_root=self.root, environ=self.environ | {"SQL_URL": self.url} | changes)

    def database(self, **changes: Any) -> Database:
        return Database(self.settings(**changes))

    def run(self, *words: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = clean_environment() | self.environ | {"SQL_URL": self.url} | (env or {})
        return subprocess.run(
            [sys.executable, "-m", "fininfra_db", *words],
            cwd=cwd or self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def answer(self, *words: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """Run with ``--json``: the exit code and the one object on stdout."""
        done = self.run(*words, "--json", env=env)
        return done.returncode, json.loads(done.stdout)

    async def execute(self, *statements: str) -> None:
        """Run SQL behind the program's back."""
        async with open_connection(self.settings(), "migration") as connection:
            for statement in statements:
                await connection.execute(text(statement))
            await connection.commit()

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        async with open_connection(self.settings(), "reading") as connection:
            return [tuple(row) for row in await connection.execute(text(query))]

    def versions(self) -> list[Path]:
        return sorted((self.root / "migrations" / "versions").glob("*.py"))


def clean_environment() -> dict[str, str]:
    """The environment of the tests without what would reach into a project."""
    return {name: value for name, value in os.environ.items() if name not in PRODUCT_VARIABLES} | {"COLUMNS": "100", "NO_COLOR": "1"}


@functools.cache
def server_url(dialect: str) -> tuple[str | None, str]:
    """The URL of a server of this kind, or None and the reason why there is none."""
    variable = f"FININFRA_TEST_{dialect.upper()}_URL"
    url = os.environ.get(variable) or LOCAL_SERVERS[dialect]

    async def knock() -> None:
        async with open_connection(load_settings(sql_url=url, environ={}), "maintenance"):
            pass

    try:
        asyncio.run(knock())
    except FininfraDbError as error:
        return None, f"no {dialect} server: {error.message} Set {variable}."
    return url, ""


def url_on(dialect: str, folder: Path, name: str) -> str:
    """A URL for a database that does not exist yet, or a skip (in CI: a failure) that says why not."""
    if dialect == "sqlite":
        return f"sqlite+aiosqlite:///{folder / name}.db"
    url, reason = server_url(dialect)
    if url is None:
        (pytest.fail if os.environ.get("FININFRA_TEST_REQUIRE_SERVERS") else pytest.skip)(reason)
    return make_url(url).set(database=name).render_as_string(hide_password=False)


async def drop_database(url: str, *, patience: float | None = 0.1) -> None:
    """Have a scratch database dropped if it was made.

    The server waits for its disk, and goes on with that when after ``patience``, in seconds, nobody waits for it any more.
    """
    target = target_of(load_settings(sql_url=url, environ={}))
    if not target.dialect.features.has_server:
        return
    options = " WITH (FORCE)" if target.dialect.name == "postgresql" else ""
    engine = create_async_engine(target.url.set(database=target.dialect.maintenance_database), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        driver_connection = (await connection.get_raw_connection()).driver_connection
        assert driver_connection is not None
        dropping = asyncio.create_task(connection.execute(text(f"DROP DATABASE IF EXISTS {target.url.database}{options}")))
        await asyncio.wait({dropping}, timeout=patience)
        if not dropping.done():
            getattr(driver_connection, "terminate", driver_connection.close)()
        with suppress(DBAPIError):
            await dropping
    await engine.dispose()


@pytest.fixture(scope="session")
def key() -> str:
    return generate_key()


@pytest.fixture(params=DATABASES)
def project(request: pytest.FixtureRequest, tmp_path: Path, key: str) -> Iterator[Project]:
    """An empty project, once on each database; the database does not exist yet."""
    yield from make_project(request.param, tmp_path, key)


@pytest.fixture
def sqlite_project(tmp_path: Path, key: str) -> Iterator[Project]:
    """An empty project on SQLite, for what does not depend on the database."""
    yield from make_project("sqlite", tmp_path, key)


def make_project(dialect: str, folder: Path, key: str) -> Iterator[Project]:
    root = folder / "project"
    root.mkdir()
    url = url_on(dialect, root, f"fininfra_test_{uuid.uuid4().hex[:12]}")
    yield Project(dialect, root, url, {"FININFRA_DB_KEYS": key})
    asyncio.run(drop_database(url))
