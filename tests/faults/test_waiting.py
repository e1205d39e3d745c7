"""``wait``: what passes is waited for, what stays fails at once, and the time is kept."""

import asyncio
import contextlib
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import pytest
from sqlalchemy import make_url

from fininfra_db.connections import open_connection
from fininfra_db.errors import OptionsInvalid, ServerNotReady
from tests.cli.helpers import CANARY, CLOSED_PORT, PROGRAM, add_revision, add_three_revisions, database_file, document_of, set_up
from tests.conftest import LOCAL_SERVERS, Project, clean_environment, server_url

on_each_server = pytest.mark.parametrize("project", LOCAL_SERVERS, indirect=True)
SOON = 8.0
"""Seconds within which a failure counts as one at once: starting Python is a part of it."""


class Door:
    """A port of this machine that leads to a server, from when it is opened; before, nobody listens there, or nobody answers."""

    def __init__(self, url: str) -> None:
        self.target = make_url(url)
        self.port = 0
        self._servers: list[asyncio.Server] = []
        self._held: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return self.target.set(host="127.0.0.1", port=self.port).render_as_string(hide_password=False)

    async def open(self) -> None:
        self._servers.append(await asyncio.start_server(self._forward, "127.0.0.1", self.port))

    async def slam(self) -> None:
        """Accept, and hang up."""
        self._servers.append(await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", self.port))

    async def sleep(self) -> None:
        """Accept, and say nothing."""
        self._servers.append(await asyncio.start_server(lambda _, writer: self._held.append(writer), "127.0.0.1", self.port))

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self.target.host, self.target.port)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(_pipe(reader, there[1]), _pipe(there[0], writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def door_to(url: str) -> AsyncIterator[Door]:
    door = Door(url)
    placeholder = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    door.port = placeholder.sockets[0].getsockname()[1]
    placeholder.close()
    await placeholder.wait_closed()
    try:
        yield door
    finally:
        await door.close()


@on_each_server
@pytest.mark.parametrize("before", ["nobody listens", "hangs up", "says nothing"])
async def test_a_server_that_starts_late_is_waited_for(project: Project, before: str) -> None:
    """The database does not exist on it, which is an answer."""
    async with door_to(project.url) as door:
        if before == "hangs up":
            await door.slam()
        if before == "says nothing":
            await door.sleep()

        async def start() -> None:
            await asyncio.sleep(1)
            await door.close()
            await door.open()

        starting = asyncio.create_task(start())
        waited = await project.database(SQL_URL=f"{door.url}?connect_timeout=1").wait(timeout=20)
        await starting
    assert waited.findings == ()
    assert waited.tries > 1
    assert 1 <= waited.seconds < 5


@on_each_server
async def test_a_server_that_never_answers_is_given_up_in_time(project: Project) -> None:
    async with door_to(project.url) as door:
        await door.sleep()
        started = time.monotonic()
        with pytest.raises(ServerNotReady, match=r"did not answer in time\. Waited \d s and tried \d times?\.") as caught:
            await project.database(SQL_URL=door.url).wait(timeout=2)
        assert time.monotonic() - started < 4
        assert caught.value.exit_code == 6


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_the_message_says_how_long_and_what_the_last_trouble_was(sqlite_project: Project, scheme: str) -> None:
    code, document = sqlite_project.answer(
        "wait", "--timeout", "1", env={"SQL_URL": f"{scheme}://bob:{CANARY}@127.0.0.1:{CLOSED_PORT}/books"}
    )
    assert (code, document["error"]["code"]) == (6, "database-unreachable")
    assert "Cannot connect to" in document["error"]["message"]
    assert "Waited 1 s and tried" in document["error"]["message"]


def test_a_name_that_is_not_resolved_yet_is_waited_for(sqlite_project: Project) -> None:
    code, document = sqlite_project.answer("wait", "--timeout", "1", env={"SQL_URL": "postgresql://bob@no-such-host.invalid/books"})
    assert code == 6
    assert "is unknown. Waited 1 s and tried" in document["error"]["message"]


def test_a_time_of_nothing_is_one_try(sqlite_project: Project) -> None:
    code, document = sqlite_project.answer("wait", "--timeout", "0", env={"SQL_URL": f"postgresql://bob@127.0.0.1:{CLOSED_PORT}/books"})
    assert code == 6
    assert "tried 1 time." in document["error"]["message"]


# What stays as it is.


@pytest.fixture
def mysql_login() -> Iterator[str]:
    """A user of MariaDB with a password."""
    url, reason = server_url("mysql")
    if url is None:
        pytest.skip(reason)
    name = f"fininfra_test_{uuid.uuid4().hex[:8]}"
    project = Project("mysql", Path.cwd(), url)
    asyncio.run(
        project.execute(f"CREATE USER {name}@'%' IDENTIFIED BY '{CANARY}'", f"CREATE USER {name}@localhost IDENTIFIED BY '{CANARY}'")
    )
    yield make_url(url).set(username=name).render_as_string(hide_password=False)
    asyncio.run(project.execute(f"DROP USER {name}@'%', {name}@localhost"))


def fails_at_once(project: Project, url: str, code: int) -> str:
    started = time.monotonic()
    done = project.run("wait", "--timeout", "30", "--json", env={"SQL_URL": url})
    assert time.monotonic() - started < SOON
    assert done.returncode == code, done.stdout
    error = document_of(done)["error"]
    assert "Waited" not in error["message"]
    assert CANARY not in done.stdout + done.stderr
    return str(error["message"])


def test_a_wrong_password_fails_at_once(sqlite_project: Project, mysql_login: str) -> None:
    wrong = make_url(mysql_login).set(password=f"{CANARY}-not").render_as_string(hide_password=False)
    assert "denied" in fails_at_once(sqlite_project, wrong, 6)


def test_the_right_password_is_let_in(sqlite_project: Project, mysql_login: str) -> None:
    right = make_url(mysql_login).set(password=CANARY, database="information_schema").render_as_string(hide_password=False)
    assert sqlite_project.run("wait", "--timeout", "30", env={"SQL_URL": right}).returncode == 0


@on_each_server
def test_an_unknown_user_fails_at_once(project: Project) -> None:
    fails_at_once(project, make_url(project.url).set(username="nobody_at_all", password=CANARY).render_as_string(hide_password=False), 6)


@on_each_server
def test_a_server_without_the_tls_that_is_asked_for_fails_at_once(project: Project) -> None:
    message = fails_at_once(project, f"{project.url}?sslmode=require", 6)
    assert {"postgresql": "SSL", "mysql": "TLS"}[project.dialect] in message


@pytest.mark.parametrize("url", ["postgresql://bob@h:port/books", "oracle://bob@h/books", "postgresql+foo://bob@h/books"])
def test_a_bad_url_fails_at_once(sqlite_project: Project, url: str) -> None:
    fails_at_once(sqlite_project, url, 2)


async def test_a_server_that_is_full_is_waited_for(tmp_path: Path) -> None:
    """A role that may have one connection, which somebody else has for a second."""
    url, reason = server_url("postgresql")
    if url is None:
        pytest.skip(reason)
    name = f"fininfra_test_{uuid.uuid4().hex[:8]}"
    project = Project("postgresql", tmp_path, url)
    await project.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1")
    limited = Project("postgresql", tmp_path, make_url(url).set(username=name).render_as_string(hide_password=False))
    try:
        async with open_connection(limited.settings(), "reading"):
            with pytest.raises(ServerNotReady, match="too many connections"):
                await limited.database().wait(timeout=0)
            waiting = asyncio.create_task(limited.database().wait(timeout=20))
            await asyncio.sleep(1)
        assert (await waiting).tries > 1
    finally:
        await asyncio.sleep(0.2)
        await project.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize(
    ("words", "code"), [(("--timeout", "soon"), "usage"), (("--timeout", "-1"), "usage"), (("--for", "tea"), "options-invalid")]
)
def test_what_nobody_can_wait_for_is_refused(sqlite_project: Project, words: tuple[str, ...], code: str) -> None:
    returned, document = sqlite_project.answer("wait", *words)
    assert (returned, document["error"]["code"]) == (2, code)


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), -1.0])
async def test_a_time_that_is_none_is_refused(sqlite_project: Project, timeout: float) -> None:
    with pytest.raises(OptionsInvalid):
        await sqlite_project.database().wait(timeout=timeout)


# --for head


def test_a_file_needs_no_server(sqlite_project: Project) -> None:
    assert sqlite_project.run("wait").returncode == 0
    assert list(sqlite_project.root.iterdir()) == []


def start(project: Project, *words: str) -> subprocess.Popen[str]:
    environment = clean_environment() | project.environ | {"SQL_URL": project.url}
    return subprocess.Popen([*PROGRAM, *words], cwd=project.root, env=environment, stdout=PIPE, stderr=PIPE, text=True)


def test_head_is_waited_for_while_another_process_migrates(project: Project) -> None:
    """From a database that does not exist to one at head."""
    assert project.run("init").returncode == 0
    add_revision(project, "aaaa1111", None)
    waiting = start(project, "wait", "--for", "head", "--timeout", "60")
    time.sleep(1.5)
    assert waiting.poll() is None
    assert project.run("setup-and-migrate").returncode == 0
    stdout, stderr = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, stderr
    assert stdout.startswith("The database is at head (after ")


@pytest.mark.parametrize("missing", [False, True])
def test_head_that_does_not_come_is_a_finding_that_names_what_is_pending(sqlite_project: Project, missing: bool) -> None:
    add_three_revisions(set_up(sqlite_project))
    if missing:
        database_file(sqlite_project).unlink()
    code, document = sqlite_project.answer("wait", "--for", "head", "--timeout", "1")
    assert (code, document["error"]["code"]) == (3, "database-missing" if missing else "pending")
    assert ("There is no SQLite database" if missing else "aaaa1111, bbbb2222, cccc3333") in document["error"]["message"]
    assert "Waited 1 s and tried" in document["error"]["message"]
    assert document["result"]["waited_for"] == "head"
    assert missing != database_file(sqlite_project).exists()


def test_a_database_that_is_ahead_never_comes_to_this_head(sqlite_project: Project) -> None:
    asyncio.run(set_up(sqlite_project).execute("UPDATE alembic_version SET version_num = 'ffff9999'"))
    started = time.monotonic()
    code, document = sqlite_project.answer("wait", "--for", "head", "--timeout", "30")
    assert (code, document["error"]["code"]) == (3, "database-ahead")
    assert time.monotonic() - started < SOON
