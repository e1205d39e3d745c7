"""What the quick commands do not import; the figures are measured by benchmarks/startup.py."""

import subprocess
import sys

import pytest

from tests.conftest import Project, clean_environment

HEAVY = {"alembic", "mako", "rich", "pydantic", "cryptography", "sqlalchemy.orm", "sqlalchemy.ext.asyncio", "fininfra_db.models"}
SCRIPT = """
import sys
from fininfra_db.cli.app import main
sys.argv = ["fininfra-db", *sys.argv[1:]]
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def imported(project: Project, *words: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        cwd=project.root,
        env=clean_environment() | project.environ | {"SQL_URL": project.url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["current"], ["upgrade"], ["upgrade", "heads"], ["status"], ["wait", "--for", "head"]], ids=" ".join)
async def test_nothing_to_do_loads_neither_alembic_nor_the_orm(sqlite_project: Project, words: list[str]) -> None:
    await sqlite_project.database().setup_and_migrate()
    assert not HEAVY & imported(sqlite_project, *words)


def test_help_loads_no_database_library(sqlite_project: Project) -> None:
    assert not (HEAVY | {"sqlalchemy"}) & imported(sqlite_project, "--help")
