"""A SQLite file beside which a killed program has left its journal: to look is refused in words, to write rolls it back first."""

import subprocess
import sys

import pytest

from fininfra_db.data.request import SeedRequest
from fininfra_db.errors import DatabaseUnreachable
from tests.cli.helpers import database_file, set_up, traces
from tests.conftest import Project

KILLED = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")  # what does not fit is written into the file before the commit
connection.execute("BEGIN IMMEDIATE")
connection.execute("DELETE FROM users")
connection.executemany("INSERT INTO users (id, email) VALUES (?, ?)", ((f"{n}", f"{n}@example.com") for n in range(5000)))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
async def killed(sqlite_project: Project) -> Project:
    """A project with the household, to which a program was writing when it was killed."""
    project = set_up(sqlite_project)
    await project.database().seed()
    file = database_file(project)
    assert subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False).returncode == -9
    assert file.with_name(f"{file.name}-journal").stat().st_size
    return project


async def test_a_look_says_what_is_to_be_done_and_changes_nothing(killed: Project) -> None:
    before = traces(killed.root)
    with pytest.raises(DatabaseUnreachable, match=r"was killed while it wrote.*rolled back"):
        await killed.database().status()
    assert traces(killed.root) == before


@pytest.mark.parametrize("verb", ["seed", "upgrade", "downgrade", "reset"])
async def test_what_writes_rolls_it_back_first(killed: Project, verb: str) -> None:
    arguments = {"downgrade": ("-1",), "seed": (SeedRequest(),)}
    await getattr(killed.database(), verb)(*arguments.get(verb, ()))
    if verb not in ("downgrade", "reset"):
        assert await killed.rows("SELECT count(*) FROM users") == [(2,)]
    assert (await killed.database().status()).server
