"""What the tests of the command line share: projects at head in no time, runs side by side, and looking at what is left behind."""

import asyncio
import atexit
import fcntl
import functools
import hashlib
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any, TypeVar

from sqlalchemy import inspect, make_url
from typer.main import get_command

from fininfra_db.cli.app import app
from fininfra_db.connections import open_connection
from fininfra_db.security import generate_key
from tests.conftest import Project, clean_environment

T = TypeVar("T")
R = TypeVar("R")
Done = subprocess.CompletedProcess[str]

PROGRAM = (sys.executable, "-m", "fininfra_db")
TERMINAL_PROGRAM = (
    sys.executable,
    "-c",
    "import fcntl, runpy, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); runpy.run_module('fininfra_db', run_name='__main__')",
)
"""The program as the one in front on its terminal, to which Ctrl-C goes."""
CANARY = "Can4ry-Pa55w0rd"
CLOSED_PORT = 1
ROOT = Path(__file__).parents[2]
FIRST = next((ROOT / "migrations" / "versions").glob("*_initial_schema.py")).name.split("_")[2]
"""The first revision: its identifier is made from the models, so it is the same in every project with these models."""


def commands() -> list[str]:
    """Every command of the program, as it is typed."""
    return sorted(name for name, command in _leaves() if name and not hasattr(command, "commands"))


def groups() -> list[str]:
    """The program itself, named by nothing, and its groups."""
    return sorted(name for name, command in _leaves() if hasattr(command, "commands"))


def _leaves() -> Iterable[tuple[str, Any]]:
    def walk(name: str, command: Any) -> Iterable[tuple[str, Any]]:
        yield name, command
        for word, below in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {word}".strip(), below)

    return walk("", get_command(app))


# Projects.


def set_up(project: Project) -> Project:
    """The project at head: a copy of one that the program has made once in this session, whose files are the same everywhere.

    A server's database is migrated in this process, on a thread of its own as the test may have a loop of its own.
    """
    shutil.copytree(_template(), project.root, dirs_exist_ok=True)
    copied = project.root / "template.db"
    if project.dialect == "sqlite":
        copied.rename(database_file(project))
        return project
    copied.unlink()
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(lambda: asyncio.run(project.database().setup_and_migrate())).result()
    return project


def set_up_with_rows(project: Project) -> Project:
    """A SQLite project at head with the rows of the seed, which is written once in a session."""
    set_up(project)
    seeded = _seeded(project.environ["FININFRA_DB_KEYS"])
    if not seeded.exists():
        done = project.run("seed")
        assert done.returncode == 0, done.stderr
        shutil.copyfile(database_file(project), seeded)
    shutil.copyfile(seeded, database_file(project))
    return project


@functools.cache
def _seeded(_key: str) -> Path:
    """Where the database with the rows is, which are sealed with the key."""
    root = Path(tempfile.mkdtemp(prefix="fininfra-seeded-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root / "seeded.db"


@functools.cache
def _template() -> Path:
    root = Path(tempfile.mkdtemp(prefix="fininfra-template-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    url = f"sqlite:///{root / 'template.db'}"
    done = Project("sqlite", root, url, {"FININFRA_DB_KEYS": generate_key()}).run("setup-and-migrate")
    assert done.returncode == 0, done.stderr
    for cache in [*root.rglob("__pycache__")]:
        shutil.rmtree(cache)
    return root


def sqlite_in(folder: Path, key: str) -> Project:
    """A new SQLite project at head in a folder of its own below ``folder``."""
    root = folder / uuid.uuid4().hex[:8]
    root.mkdir()
    return set_up(Project("sqlite", root, f"sqlite:///{root / 'finance.db'}", {"FININFRA_DB_KEYS": key}))


def database_file(project: Project) -> Path:
    return Path(make_url(project.url).database or "")


def add_revision(project: Project, revision: str, parent: str | None = FIRST, *, up: str = "pass", more: str = "", file: str = "") -> Path:
    """Write a revision file by hand. ``up`` is the body of ``upgrade()``, ``more`` the rest of the header."""
    path = project.root / "migrations" / "versions" / f"{file or revision}.py"
    path.write_text(
        f'"""message of {revision}"""\n\nfrom alembic import op\nimport sqlalchemy as sa\n\nrevision = {revision!r}\n'
        f"down_revision = {parent!r}\n{more}\n\ndef upgrade():\n    {up}\n\n\ndef downgrade():\n    pass\n",
        encoding="utf-8",
    )
    return path


def add_three_revisions(project: Project) -> Project:
    """Three more revisions after the first, which the database does not have yet."""
    for revision, parent in (("aaaa1111", FIRST), ("bbbb2222", "aaaa1111"), ("cccc3333", "bbbb2222")):
        add_revision(project, revision, parent)
    return project


def use_models(project: Project, modules: str) -> None:
    """Name other models modules in ``alembic.ini``."""
    ini = project.root / "alembic.ini"
    lines = ini.read_text(encoding="utf-8").splitlines()
    ini.write_text("\n".join(f"models = {modules}" if line.startswith("models =") else line for line in lines) + "\n", encoding="utf-8")


def run_sql(project: Project, *statements: str) -> None:
    """Change the database behind the program's back."""
    asyncio.run(project.execute(*statements))


def versions_in(project: Project) -> list[str]:
    """The rows of the version table, read behind the program's back."""
    return sorted(row[0] for row in asyncio.run(project.rows("SELECT version_num FROM alembic_version")))


def tables_in(project: Project) -> set[str]:
    """The tables of the database, read behind the program's back."""

    async def look() -> set[str]:
        async with open_connection(project.settings(), "reading") as connection:
            return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))

    return asyncio.run(look())


@dataclass(frozen=True)
class Trace:
    """What can be seen of a file or folder from outside: its content, and when and as what it was last changed."""

    content: str
    modified: int
    mode: int


def traces(folder: Path, *, with_caches: bool = False) -> dict[str, Trace]:
    """A file, or everything below a folder; what Python itself caches only when it is asked for."""
    return {
        str(path.relative_to(folder)): _trace(path, with_caches)
        for path in (folder, *folder.rglob("*"))
        if with_caches or "__pycache__" not in path.parts
    }


def _trace(path: Path, with_caches: bool) -> Trace:
    status = path.lstat()
    if path.is_file():
        return Trace(hashlib.sha256(path.read_bytes()).hexdigest(), status.st_mtime_ns, status.st_mode)
    return Trace("", status.st_mtime_ns if with_caches else 0, status.st_mode)


# Runs.


def together(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do the same with each item, two at a time: most of a run is starting Python."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
        return list(pool.map(work, items))


def side_by_side(project: Project, lines: Iterable[str], **environ: str) -> dict[str, Done]:
    """Run each command line, its words separated by spaces, in a project that none of them changes."""
    before = traces(project.root)
    lines = list(lines)
    done = dict(zip(lines, together(lambda line: project.run(*line.split(), env=environ), lines), strict=True))
    assert traces(project.root) == before
    return done


def document_of(done: Done) -> dict[str, Any]:
    """The one JSON object on stdout, with its shape looked at."""
    assert done.stdout.endswith("}\n"), done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert list(document) == ["ok", "command", "database", "result", "error"]
    assert isinstance(document["ok"], bool)
    assert isinstance(document["command"], str)
    if document["database"] is not None:
        assert list(document["database"]) == ["dialect", "url", "source"]
        assert all(isinstance(value, str) for value in document["database"].values())
    if document["error"] is not None:
        assert list(document["error"]) == ["code", "message", "hint"]
    assert document["ok"] == (document["error"] is None) == (done.returncode == 0)
    return document


@dataclass(frozen=True)
class OnTerminal:
    """How a run on a terminal ended, and everything that was on the screen."""

    returncode: int
    screen: str


QUESTIONS = (b"[y/N]: ", b"Type the name of the database to go on: ")
"""How the screen ends when the program waits for an answer."""


def on_terminal(project: Project, *words: str, typed: str = "", sent: int = 0, **environ: str) -> OnTerminal:
    """Run on a terminal of its own, 100 columns wide; ``typed`` is typed, or the signal ``sent``, when the program asks something."""
    environment = {name: value for name, value in clean_environment().items() if name not in ("NO_COLOR", "COLUMNS", "TERM")}
    environment |= project.environ | {"SQL_URL": project.url, "TERM": "xterm-256color"} | environ
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [*TERMINAL_PROGRAM, *words], cwd=project.root, env=environment, stdin=end, stdout=end, stderr=end, start_new_session=True
    )
    os.close(end)
    screen = b""
    deadline = time.monotonic() + 60
    while read := _read(terminal, deadline):
        screen += read
        if (typed or sent) and screen.endswith(QUESTIONS):
            time.sleep(0.3)  # as a person would: input() does not see a Ctrl-C that comes with its prompt
            os.write(terminal, typed.encode())
            if sent:
                process.send_signal(sent)
            typed, sent = "", 0
    os.close(terminal)
    process.wait(timeout=60)
    return OnTerminal(process.returncode, screen.decode().replace("\r\n", "\n"))


def _read(terminal: int, deadline: float) -> bytes:
    """What is on the screen next; nothing when the program has ended, or, which must not be, still waits for something."""
    ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
    try:
        return os.read(terminal, 4096) if ready else b""
    except OSError:  # Linux's word for the end of what a terminal has to say
        return b""


def interrupted(project: Project, *words: str, when: Path) -> Done:
    """Run, and interrupt the program as Ctrl-C does once the file ``when`` is there."""
    environment = clean_environment() | project.environ | {"SQL_URL": project.url}
    process = subprocess.Popen(
        [*PROGRAM, *words], cwd=project.root, env=environment, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not when.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    try:
        stdout, stderr = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Done(process.args, process.returncode, stdout, stderr)
