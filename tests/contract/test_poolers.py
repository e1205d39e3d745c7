"""A pooler in front of PostgreSQL: a lock of the session holds nobody off where sessions are handed around."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from fininfra_db.connections import open_connection
from fininfra_db.dialects import postgresql
from fininfra_db.errors import DatabaseUnreachable, LockUnsafe
from tests.conftest import Project
from tests.contract.helpers import files_of, table_names
from tests.contract.live import at_head_with

Pool = Callable[..., str]
"""Starts a pooler in front of a project's server, in a mode. Returns the URL through it."""

TELL = "op.execute(\"CREATE TABLE told AS SELECT name, setting FROM pg_settings WHERE source = 'session'\")"


def find_pgbouncer() -> str:
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        (pytest.fail if os.environ.get("FININFRA_TEST_REQUIRE_SERVERS") else pytest.skip)("pgbouncer is not installed.")
    return found


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def pool(postgresql_project: Project, tmp_path: Path) -> Iterator[Pool]:
    program = find_pgbouncer()
    processes: list[subprocess.Popen[bytes]] = []

    def start(mode: str, size: int = 10) -> str:
        server, port = make_url(postgresql_project.url), free_port()
        password = f" password={server.password}" if server.password else ""
        config = tmp_path / f"{mode}.ini"
        config.write_text(
            f"[databases]\n* = host={server.host} port={server.port or 5432} user={server.username}{password}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {mode}\ndefault_pool_size = {size}\n"
        )
        as_user = ["-u", "nobody"] if os.getuid() == 0 else []
        processes.append(subprocess.Popen([program, "-q", *as_user, str(config)], stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert processes[-1].poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        return server.set(host="127.0.0.1", port=port, password=None).render_as_string()

    yield start
    for process in processes:
        process.kill()
        process.wait()


def through(project: Project, url: str) -> Project:
    """The same project, reached through a pooler."""
    return replace(project, url=url)


@asynccontextmanager
async def busy(project: Project, count: int) -> AsyncIterator[None]:
    """As many transactions that somebody has open."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            other = await stack.enter_async_context(open_connection(project.settings(), "reading"))
            await other.execute(text("SELECT 1"))
        yield


@pytest.mark.parametrize("size", [1, 10], ids=["one session", "ten sessions"])
async def test_a_lock_through_transaction_pooling_is_refused(postgresql_project: Project, pool: Pool, size: int) -> None:
    await at_head_with(postgresql_project, TELL)
    tables, files = await table_names(postgresql_project), files_of(postgresql_project.root)
    pooled = through(postgresql_project, pool("transaction", size))
    for _ in range(2):
        code, document = pooled.answer("upgrade")
        assert (code, document["error"]["code"]) == (5, "lock-unsafe")
        assert "SQL_URL_DIRECT" in document["error"]["hint"]
        assert "No revision was run" in document["error"]["message"]
    assert (await table_names(postgresql_project), files_of(postgresql_project.root)) == (tables, files)
    # Nor has the server's session, which is somebody else's now, been told anything.
    assert await pooled.rows("SELECT name FROM pg_settings WHERE source = 'session' AND name LIKE '%timeout'") == []
    locks = "SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = current_database()"
    assert await pooled.rows(f"{locks} AND l.locktype = 'advisory'") == []


async def test_transaction_pooling_is_recognised_while_others_use_it(postgresql_project: Project, pool: Pool) -> None:
    await at_head_with(postgresql_project, TELL)
    pooled = through(postgresql_project, pool("transaction"))
    async with busy(pooled, 6):
        with pytest.raises(LockUnsafe):
            await pooled.database().upgrade()
    for _ in range(5):
        with pytest.raises(LockUnsafe):
            await pooled.database().upgrade()


async def test_the_direct_url_goes_past_the_pooler(postgresql_project: Project, pool: Pool) -> None:
    await at_head_with(postgresql_project, TELL)
    pooled = through(postgresql_project, pool("transaction"))
    done = pooled.run("upgrade", env={"SQL_URL_DIRECT": postgresql_project.url})
    assert done.returncode == 0, done.stderr
    assert (await postgresql_project.database().current()).revisions[0].revision == "aaaa0"


async def test_session_pooling_is_as_good_as_none(postgresql_project: Project, pool: Pool) -> None:
    await at_head_with(postgresql_project, TELL)
    pooled = through(postgresql_project, pool("session"))
    done = pooled.run("upgrade")
    assert done.returncode == 0, done.stderr
    told = dict(await postgresql_project.rows("SELECT name, setting FROM told"))
    assert told.items() >= {"lock_timeout": "5000", "idle_in_transaction_session_timeout": "0"}.items()


async def test_a_pooler_with_a_single_session_is_not_waited_for(
    postgresql_project: Project, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at_head_with(postgresql_project, TELL)
    monkeypatch.setattr(postgresql, "CONNECT_TIMEOUT", 1.0)
    pooled = through(postgresql_project, pool("session", 1))
    with pytest.raises(DatabaseUnreachable, match="a migration needs two"):
        await asyncio.wait_for(pooled.database().upgrade(), 20)


@pytest.mark.parametrize("words", ["current", "history -i", "check", "heads"])
async def test_reading_works_through_transaction_pooling(postgresql_project: Project, pool: Pool, words: str) -> None:
    await at_head_with(postgresql_project)
    pooled = through(postgresql_project, pool("transaction"))
    async with busy(pooled, 2):
        for _ in range(2):
            done = pooled.run(*words.split())
            assert done.returncode == 0, done.stderr


async def test_without_a_lock_somebody_elses_session_is_told_nothing(postgresql_project: Project, pool: Pool) -> None:
    """With ``lock = off`` nothing is known of the sessions."""
    await at_head_with(postgresql_project, TELL)
    pooled = through(postgresql_project, pool("transaction"))
    ini = pooled.root / "alembic.ini"
    ini.write_text(ini.read_text().replace("[fininfra_db]", "[fininfra_db]\nlock = off"))
    await pooled.database().upgrade()
    assert await pooled.rows("SELECT name FROM pg_settings WHERE source = 'session' AND name LIKE '%timeout'") == []
