"""What runs in a child process: one of the two programs, with a fault put into it.

A server process imports this module once and forks for each run, so a run costs a tenth of a new interpreter and there
can be hundreds. Nothing is run before the fork.
"""

import ctypes
import importlib
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine, event

import benchmarks.projects

for _module in (
    "aiomysql",
    "aiosqlite",
    "alembic.autogenerate",
    "alembic.config",
    "asyncpg",
    "fininfra_db.cli.app",
    "fininfra_db.database",
    "fininfra_db.migrate.environment",
    "sqlalchemy.dialects.mysql.aiomysql",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.ext.asyncio",
):
    importlib.import_module(_module)

Fault = Callable[[], object]
"""Called in the child, just before the program. It travels to the child, so it is a function of a module or a partial of one."""
Moment = Literal["before", "after"]


def run(program: str, folder: Path, environment: dict[str, str], words: tuple[str, ...], output: Connection, faults: list[Fault]) -> None:
    """Be the program. Both its streams go to ``output``."""
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    sys.stdout = os.fdopen(1, "w", closefd=False)  # as a new interpreter makes them for what is there now
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for fault in faults:
        fault()
    module = "fininfra_db.cli.app" if program == benchmarks.projects.OURS else "alembic.config"
    sys.argv = [program, *words]
    importlib.import_module(module).main()


def wait_for_the_others(barrier: Barrier) -> None:
    """Let all begin at the same time."""
    barrier.wait(timeout=60)


def kill_at(number: int, moment: Moment) -> None:
    """End this process as ``kill -9`` does, before or after its statement with this number; the first is 1."""
    seen = 0

    def look(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, f"{moment}_cursor_execute", look)


def fill_the_disk(size: int) -> None:
    """Let no file grow beyond ``size`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def obey_permissions() -> None:
    """Give up root's way past all permissions: its capabilities, see capabilities(7) and capset(2)."""
    version_3 = 0x20080522
    if ctypes.CDLL(None).capset(struct.pack("Ii", version_3, 0), bytes(24)) != 0:
        raise OSError("capset failed")
