"""A place for a case: a project of one of the programs on a database of its own, and runs in it that can be watched."""

import multiprocessing
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from benchmarks.faults import child
from benchmarks.faults.databases import SERVERS, SQLITE, Database
from benchmarks.faults.histories import Revision, write
from benchmarks.projects import OURS, Project

ALEMBIC: Final = "alembic"
PROGRAMS: Final = (ALEMBIC, OURS)
LONGEST: Final = 60.0
"""Seconds that a run may take before it counts as hanging."""

_TELLING: Final = re.compile(r"Error\b|FAILED|Exception")
"""What the line of an output has that tells most of how a run ended."""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([child.__name__])


@dataclass(frozen=True)
class Done:
    """How a run ended: its exit code (minus a signal, or None when it had to be killed), all it printed, and its seconds."""

    code: int | None
    output: str
    seconds: float

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.output

    def __str__(self) -> str:
        lines = self.output.strip().splitlines() or ["nothing was printed"]
        line = next((line for line in reversed(lines) if _TELLING.search(line)), lines[-1])
        return f"{'hung' if self.code is None else f'exit {self.code}'}: {line[:300]}"


@dataclass
class Running:
    """A run that goes on."""

    process: BaseProcess
    output: int
    started: float = field(default_factory=time.monotonic)

    def send(self, signal: int) -> None:
        os.kill(self.process.pid or 0, signal)

    def wait(self, timeout: float = LONGEST) -> Done:
        """Wait for its end; kill it after ``timeout`` seconds."""
        self.process.join(timeout)
        seconds = time.monotonic() - self.started
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
        printed = b""
        while part := os.read(self.output, 65536):
            printed += part
        os.close(self.output)
        return Done(code, printed.decode(errors="replace"), seconds)


@dataclass(frozen=True)
class Place:
    """A project on a database."""

    project: Project
    database: Database
    head: str

    @property
    def folder(self) -> Path:
        return self.project.folder

    @property
    def is_ours(self) -> bool:
        return self.project.is_ours

    def start(self, *words: str, faults: Sequence[child.Fault] = ()) -> Running:
        """Start the program in a process of its own."""
        reader, writer = _processes.Pipe(duplex=False)
        output = os.dup(reader.fileno())
        program = OURS if self.is_ours else ALEMBIC
        surroundings = dict(self.project.environment) | {"COLUMNS": "200", "NO_COLOR": "1"}
        process = _processes.Process(target=child.run, args=(program, self.folder, surroundings, words, writer, list(faults)))
        process.start()
        reader.close()
        writer.close()
        return Running(process, output)

    def run(self, *words: str, faults: Sequence[child.Fault] = (), timeout: float = LONGEST) -> Done:
        """Run the program to its end."""
        return self.start(*words, faults=faults).wait(timeout)

    def must(self, *words: str) -> Done:
        """Run what has to succeed for the case to mean anything. Raises ``RuntimeError``."""
        done = self.run(*words)
        if done.code != 0:
            raise RuntimeError(f"{self.project.program} {' '.join(words)} on {self.database.kind}: {done.output}")
        return done

    def barrier(self, parties: int) -> Callable[[], object]:
        """A fault that makes ``parties`` runs begin together."""
        return partial(child.wait_for_the_others, _processes.Barrier(parties))


@contextmanager
def place(
    program: str,
    kind: str,
    revisions: Sequence[Revision] | Callable[[Project], Sequence[Revision]],
    *,
    foreign: bool = False,
    port: int | None = None,
    query: Mapping[str, str] | None = None,
) -> Iterator[Place]:
    """A new project with these revisions, on a new and empty database of a kind.

    ``foreign`` makes our program run in a project that ``alembic init`` made. ``port`` is that of a proxy before the
    server and ``query`` is added to the URL, both for the program only.
    """
    with tempfile.TemporaryDirectory(prefix="fininfra-faults-") as name:
        folder = Path(name) / "project"
        server = make_url(SERVERS[kind])
        server = server.set(database=str(folder / "finance.db") if kind == SQLITE else f"fininfra_faults_{uuid.uuid4().hex[:12]}")
        url = (server.set(host="127.0.0.1", port=port) if port else server).update_query_dict(query or {})
        project = _project(program, folder, url.render_as_string(hide_password=False), foreign or program != OURS)
        head = write(project, revisions(project) if callable(revisions) else revisions)
        database = Database(server.render_as_string(hide_password=False))
        database.create()
        try:
            yield Place(project, database, head)
        finally:
            database.drop()


def _project(program: str, folder: Path, url: str, foreign: bool) -> Project:
    if not foreign:
        return Project.of_ours(folder, url)
    project = Project.of_alembic(folder, "async", url)
    return replace(project, program=OURS, environment=dict(project.environment) | {"SQL_URL": url}) if program == OURS else project


def wait_until(reached: Callable[[], object], seconds: float = 20.0, pause: float = 0.02) -> bool:
    """Wait for something to be true; whether it was before the time was over."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
