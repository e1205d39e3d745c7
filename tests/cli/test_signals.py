"""Ctrl-C and SIGTERM: what ran is ended where it ran, nothing is half done, and what is true now is said."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from sqlalchemy import make_url

from fininfra_db.connections import migration_lock
from tests.cli.helpers import (
    FIRST,
    PROGRAM,
    add_revision,
    database_file,
    document_of,
    on_terminal,
    set_up,
    tables_in,
    versions_in,
)
from tests.conftest import Project, clean_environment
from tests.contract.helpers import another_process, write_module

AT_ONCE = 2.0
"""Seconds in which an interrupted run has ended."""
SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000000) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(12)",
    "mysql": "SELECT BENCHMARK(25000000, SHA2('fininfra', 512))",
}
"""A statement that takes some ten seconds, and does not look by itself whether anybody still waits for it."""
SESSIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
}

each_signal = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
each_signal_and_database = pytest.mark.parametrize(
    ("project", "number"),
    [("sqlite", signal.SIGINT), ("sqlite", signal.SIGTERM), ("postgresql", signal.SIGTERM), ("mysql", signal.SIGINT)],
    indirect=["project"],
    ids=["sqlite-SIGINT", "sqlite-SIGTERM", "postgresql-SIGTERM", "mysql-SIGINT"],
)
"""Each of them somewhere: that both do the same on every database is seen at a statement, which is the hardest to end."""


@pytest.fixture
def at_head(sqlite_project: Project) -> Project:
    return set_up(sqlite_project)


@dataclass
class Ended:
    """How an interrupted run ended, and how many seconds after the signal."""

    returncode: int
    seconds: float
    document: dict[str, Any]

    @property
    def message(self) -> str:
        return str(self.document["error"]["message"])


@contextmanager
def running(project: Project, *words: str, url: str = "") -> Iterator["subprocess.Popen[str]"]:
    """The program at work, with ``--json``."""
    environment = clean_environment() | project.environ | {"SQL_URL": url or project.url}
    with subprocess.Popen(
        [*PROGRAM, *words, "--json"], cwd=project.root, env=environment, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(true: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def interrupt(process: "subprocess.Popen[str]", number: int) -> Ended:
    """Send the signal and wait for the end; there is one JSON object on stdout, and on stderr what a foreign project logs."""
    started = time.monotonic()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=25)
    seconds = time.monotonic() - started
    assert [line for line in stderr.splitlines() if not line.startswith("INFO ")] == []
    done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    return Ended(process.returncode, seconds, document_of(done))


def interrupted_when(project: Project, started: Path, number: int, *words: str) -> Ended:
    with running(project, *words) as process:
        wait_until(started.exists, process)
        time.sleep(0.3)  # from writing the file to what comes after it
        return interrupt(process, number)


def says_started(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


def revision_that(project: Project, *lines: str) -> Path:
    """A revision that makes a table, then says that it has started, then runs ``lines``. The file that says so is returned."""
    started = project.root / "started"
    made = "op.create_table('half', sa.Column('id', sa.Integer))"
    add_revision(project, "aaaa1111", up="\n    ".join([made, says_started(started), *lines]))
    return started


def assert_ended_in_order(ended: Ended, number: int) -> None:
    assert ended.returncode == 128 + number
    assert ended.document["error"]["code"] == "interrupted"
    assert ended.document["error"]["hint"]
    assert ended.seconds < AT_ONCE


def assert_nothing_runs(project: Project) -> None:
    """Nobody is connected any more, nobody holds a lock, and nothing of the revision remains where the database can roll it back."""
    if project.dialect == "sqlite":
        with another_process(database_file(project), "PRAGMA busy_timeout = 0", "BEGIN IMMEDIATE"):
            pass
        assert not list(project.root.glob("*.db-*"))
    else:
        deadline = time.monotonic() + 1
        while sessions(project) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sessions(project) == 0
    assert versions_in(project) == [FIRST]


def sessions(project: Project) -> int:
    return int(asyncio.run(project.rows(SESSIONS[project.dialect]))[0][0])


@each_signal
def test_a_statement_is_ended_on_the_server(project: Project, number: int) -> None:
    started = revision_that(set_up(project), f"op.execute({SLOW[project.dialect]!r})")
    ended = interrupted_when(project, started, number, "upgrade")
    assert_ended_in_order(ended, number)
    assert_nothing_runs(project)
    assert ended.message.startswith(f"Interrupted. Revision aaaa1111 (message of aaaa1111) was being applied. The database is at {FIRST}.")
    if project.dialect == "mysql":
        assert "A part of aaaa1111 may remain" in ended.message
        assert "fininfra-db repair" in ended.message
    else:
        assert "Nothing of aaaa1111 remains." in ended.message
        assert "half" not in tables_in(project)


@each_signal_and_database
def test_python_code_of_a_revision_is_ended(project: Project, number: int) -> None:
    started = revision_that(set_up(project), "import time", "for _ in range(600): time.sleep(0.05)")
    ended = interrupted_when(project, started, number, "upgrade")
    assert_ended_in_order(ended, number)
    assert_nothing_runs(project)
    assert f"The database is at {FIRST}." in ended.message
    assert ("half" in tables_in(project)) == (project.dialect == "mysql")


@each_signal_and_database
def test_waiting_for_another_migration_is_ended(project: Project, number: int) -> None:
    add_revision(set_up(project), "aaaa1111")
    if project.dialect == "sqlite":
        with another_process(database_file(project), "BEGIN IMMEDIATE"):
            ended = interrupted_after(1.5, project, number)
    else:
        with held_lock(project):
            before = sessions(project)
            with running(project, "upgrade") as process:
                wait_until(lambda: sessions(project) > before, process)
                time.sleep(0.5)
                ended = interrupt(process, number)
    assert_ended_in_order(ended, number)
    assert ended.message == f"Interrupted. No revision was running. The database is at {FIRST}."
    assert_nothing_runs(project)


def interrupted_after(seconds: float, project: Project, number: int) -> Ended:
    with running(project, "upgrade") as process:
        time.sleep(seconds)
        return interrupt(process, number)


@contextmanager
def held_lock(project: Project) -> Iterator[None]:
    """Hold a server's migration lock, as another process does."""
    held, let_go = threading.Event(), threading.Event()

    async def hold() -> None:
        async with migration_lock(project.settings()):
            held.set()
            await asyncio.to_thread(let_go.wait)

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    try:
        assert held.wait(10)
        yield
    finally:
        let_go.set()
        thread.join()


@pytest.mark.parametrize(("kind", "number"), [("statement", signal.SIGTERM), ("Python", signal.SIGINT)], ids=["statement", "Python"])
def test_a_seed_is_ended_and_rolled_back(project: Project, kind: str, number: int) -> None:
    started = set_up(project).root / "started"
    slow = f"session.execute(text({SLOW[project.dialect]!r}))" if kind == "statement" else "[time.sleep(0.05) for _ in range(600)]"
    (project.root / "seeds.py").write_text(
        "import time\nfrom sqlalchemy import text\nfrom fininfra_db.models import User\n\ndef demo(session):\n"
        f"    session.add(User(email='half@example.com'))\n    session.flush()\n    {says_started(started)}\n    {slow}\n",
        encoding="utf-8",
    )
    ended = interrupted_when(project, started, number, "seed", "seeds:demo")
    assert_ended_in_order(ended, number)
    assert "rolled back" in ended.message
    assert_nothing_runs(project)
    assert asyncio.run(project.rows("SELECT count(*) FROM users")) == [(0,)]


@each_signal
def test_a_question_is_not_answered_by_a_signal(at_head: Project, number: int) -> None:
    tables = tables_in(at_head)
    done = on_terminal(at_head, "reset", sent=number, NO_COLOR="1")
    assert done.returncode == 128 + number
    assert "Error: Interrupted." in done.screen
    assert "Traceback" not in done.screen
    assert tables_in(at_head) == tables


STUBBORN = (
    "import pathlib, time",
    "try: time.sleep(60)",
    "except KeyboardInterrupt: pass",
    "pathlib.Path('caught').touch()",
    "while True:",
    "    try: time.sleep(60)",
    "    except KeyboardInterrupt: pass",
)
"""A revision that does not let itself be interrupted."""


@each_signal_and_database
def test_the_second_signal_ends_at_once(project: Project, number: int) -> None:
    started = revision_that(set_up(project), *STUBBORN)
    with running(project, "upgrade") as process:
        wait_until(started.exists, process)
        process.send_signal(signal.SIGINT)
        wait_until((project.root / "caught").exists, process)
        ended = interrupt(process, number)
    assert_ended_in_order(ended, number)
    assert ended.message == "Interrupted again, and ended at once."
    assert versions_in(project) == [FIRST]


def test_work_that_does_not_end_is_given_up(at_head: Project) -> None:
    started = revision_that(at_head, *STUBBORN)
    ended = interrupted_when(at_head, started, signal.SIGTERM, "upgrade")
    assert ended.returncode == 143
    assert 4.5 < ended.seconds < 7
    assert ended.document["error"]["code"] == "interrupted"
    assert "did not come to an end in 5 s" in ended.message
    assert "half" not in tables_in(at_head)
    assert versions_in(at_head) == [FIRST]


class BlackHole:
    """A TCP proxy that forwards everything until it is told to swallow it, and stays connected."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self._swallows = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self) -> None:
        self._swallows.set()

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                if self._swallows.is_set():
                    continue
                server = socket.create_connection(self._to)
                self._sockets.append(server)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self._swallows.is_set():
                    target.sendall(data)
            if not self._swallows.is_set():
                target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    ("project", "kind"), [("postgresql", "statement"), ("mysql", "statement"), ("postgresql", "Python")], indirect=["project"]
)
def test_a_network_that_swallows_everything_does_not_hold_the_program(project: Project, kind: str) -> None:
    slow = [f"op.execute({SLOW[project.dialect]!r})"] if kind == "statement" else ["import time", "time.sleep(30)"]
    started = revision_that(set_up(project), *slow)
    url = make_url(project.url)
    with closing(BlackHole(url.host or "", url.port or 0)) as proxy:
        through = url.set(port=proxy.port).render_as_string(hide_password=False)
        with running(project, "upgrade", url=through) as process:
            wait_until(started.exists, process)
            time.sleep(0.3)
            proxy.swallow()
            ended = interrupt(process, signal.SIGTERM)
    assert ended.returncode == 143
    assert ended.seconds < 6.5
    assert ended.document["error"]["code"] == "interrupted"


FOREIGN = ("generic", "async")
"""A template of Alembic that makes a synchronous engine, and one that starts an event loop."""


def make_foreign(project: Project, template: str, *lines: str) -> Path:
    """Somebody's Alembic project whose one revision makes a table, says that it has started, and runs ``lines``."""
    subprocess.run(
        [sys.executable, "-m", "alembic.config", "init", "-t", template, "migrations"],
        cwd=project.root,
        env=clean_environment(),
        check=True,
        capture_output=True,
    )
    started = project.root / "started"
    module = write_module(project.root, "from sqlalchemy import MetaData\nmetadata = MetaData()\n")
    env = project.root / "migrations" / "env.py"
    source = env.read_text(encoding="utf-8")
    env.write_text(source.replace("target_metadata = None", f"from {module} import metadata as target_metadata"), encoding="utf-8")
    add_revision(project, FIRST, None, up="op.create_table('whole', sa.Column('id', sa.Integer))")
    assert project.run("setup-and-migrate").returncode == 0
    made = "op.create_table('half', sa.Column('id', sa.Integer))"
    add_revision(project, "aaaa1111", FIRST, up="\n    ".join([made, says_started(started), *lines]))
    return started


@pytest.mark.parametrize("template", FOREIGN)
def test_a_statement_of_a_foreign_environment_is_ended_too(project: Project, template: str) -> None:
    started = make_foreign(project, template, f"op.execute({SLOW[project.dialect]!r})")
    ended = interrupted_when(project, started, signal.SIGTERM, "upgrade")
    assert_ended_in_order(ended, signal.SIGTERM)
    assert f"Revision aaaa1111 (message of aaaa1111) was being applied. The database is at {FIRST}." in ended.message
    assert_nothing_runs(project)
    assert ("half" in tables_in(project)) == (project.dialect == "mysql")


@pytest.mark.parametrize("template", FOREIGN)
@pytest.mark.parametrize("project", ["postgresql"], indirect=True)
def test_python_code_of_a_foreign_environment_is_ended_too(project: Project, template: str) -> None:
    started = make_foreign(project, template, "import time", "for _ in range(600): time.sleep(0.05)")
    ended = interrupted_when(project, started, signal.SIGINT, "upgrade")
    assert_ended_in_order(ended, signal.SIGINT)
    assert_nothing_runs(project)
    assert "half" not in tables_in(project)


def test_a_foreign_environment_that_sleeps_in_c_is_left_behind(sqlite_project: Project) -> None:
    started = make_foreign(sqlite_project, "async", "import time", "time.sleep(30)")
    ended = interrupted_when(sqlite_project, started, signal.SIGTERM, "upgrade")
    assert ended.returncode == 143
    assert ended.seconds < 6.5
    assert versions_in(sqlite_project) == [FIRST]


def test_nothing_is_interrupted_that_nohup_protects(at_head: Project) -> None:
    started = revision_that(at_head, "import time", "time.sleep(1)")
    command = ["nohup", *PROGRAM, "upgrade", "--json"]
    environment = clean_environment() | at_head.environ | {"SQL_URL": at_head.url}
    with subprocess.Popen(
        command, cwd=at_head.root, env=environment, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE, text=True
    ) as process:
        wait_until(started.exists, process)
        process.send_signal(signal.SIGHUP)
        stdout, _ = process.communicate(timeout=25)
    assert process.returncode == 0
    assert json.loads(stdout)["ok"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells that a process waits for its reader")
def test_an_answer_is_not_torn(at_head: Project) -> None:
    """What is done is done: a signal while the answer is printed changes nothing."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b" " * 4096)
    os.set_blocking(writer, True)
    environment = clean_environment() | at_head.environ | {"SQL_URL": at_head.url}
    with subprocess.Popen([*PROGRAM, "current", "--json"], cwd=at_head.root, env=environment, stdout=writer, stderr=PIPE) as process:
        os.close(writer)
        wait_until(lambda: "pipe_write" in Path(f"/proc/{process.pid}/wchan").read_text(encoding="ascii"), process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        with open(reader, encoding="utf-8") as stream:
            document = json.loads(stream.read())
    assert process.returncode == 0
    assert document["ok"]
