"""Looking leaves everything as it was, to the byte and to the time of its last change; and a database ahead is told, never repaired."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.cli.helpers import (
    FIRST,
    add_three_revisions,
    database_file,
    document_of,
    run_sql,
    set_up,
    side_by_side,
    tables_in,
    traces,
    versions_in,
)
from tests.conftest import LOCAL_SERVERS, Project

READING = (
    "current",
    "current --check-heads",
    "current -v",
    "history",
    "history -i",
    "history -r :current",
    "heads",
    "show",
    "show current",
    "snapshot list",
    "check",
    "check --json",
    "history -v",
    "status",
    "status --json",
    "check-data",
    "check-data orphans --json",
    "wait",
    "wait --for head",
    "environment show",
    "keys status",
    "keys rotate --dry-run",
    "keys encrypt --dry-run",
)
WRITES_CACHES = {"PYTHONDONTWRITEBYTECODE": ""}
"""As on a user's machine: Python itself may write what it compiles."""


@pytest.fixture
def at_head(sqlite_project: Project) -> Project:
    return set_up(sqlite_project)


def looked_at(project: Project, *lines: str) -> dict[str, int]:
    """Run each line, none leaving a trace; their exit codes."""
    before = traces(project.root, with_caches=True)
    codes = {line: done.returncode for line, done in side_by_side(project, lines, **WRITES_CACHES).items()}
    assert traces(project.root, with_caches=True) == before
    return codes


def test_a_project_and_its_sqlite_file_are_left_as_they_are(at_head: Project) -> None:
    assert looked_at(at_head, *READING) == dict.fromkeys(READING, 0)


def test_what_is_pending_is_found_and_left_pending(at_head: Project) -> None:
    codes = looked_at(add_three_revisions(at_head), "check", "current -c", "history -i", "show current")
    assert codes == {"check": 3, "current -c": 3, "history -i": 0, "show current": 0}


@contextmanager
def open_in_wal(path: Path, *, with_rows: bool) -> Iterator[None]:
    """An application that has the file open in WAL mode, with rows that are in the log only."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        connection.execute("PRAGMA wal_autocheckpoint=0")
        if with_rows:
            connection.execute("INSERT INTO users (id, email) VALUES ('1', 'a@example.org')")
        yield


@pytest.mark.parametrize("line", ["current", "check", "history -i"])
def test_a_file_in_wal_mode_is_left_as_it_is(at_head: Project, line: str) -> None:
    """SQLite must make a log and its index to read it, and both must be gone afterwards."""
    with open_in_wal(database_file(at_head), with_rows=False):
        pass
    before = traces(at_head.root)
    assert at_head.run(*line.split()).returncode == 0
    assert traces(at_head.root) == before


@pytest.mark.parametrize("line", ["current", "check"])
def test_the_log_of_a_running_application_is_left_as_it_is(at_head: Project, line: str) -> None:
    file = database_file(at_head)
    log = file.with_name(f"{file.name}-wal")
    with open_in_wal(file, with_rows=True):
        before = (traces(file), traces(log))
        assert at_head.run(*line.split()).returncode == 0
        assert (traces(file), traces(log)) == before


def test_no_file_is_made_where_none_is(at_head: Project) -> None:
    database_file(at_head).unlink()
    lines = ("current", "history -i", "show current", "check", "status", "check-data", "wait --for head --timeout 0", "history", "wait")
    assert list(looked_at(at_head, *lines).values()) == [6, 6, 6, 6, 6, 6, 3, 0, 0]
    assert not database_file(at_head).exists()


def test_no_folder_is_made_where_none_is(sqlite_project: Project) -> None:
    assert set(looked_at(sqlite_project, "current", "history", "heads", "show", "check").values()) == {2}
    assert list(sqlite_project.root.iterdir()) == []


@pytest.mark.parametrize("project", LOCAL_SERVERS, indirect=True)
def test_no_version_table_is_made_on_an_empty_server(project: Project) -> None:
    set_up(project)
    assert project.run("downgrade", "base", "-q").returncode == 0
    run_sql(project, "DROP TABLE alembic_version")
    before = tables_in(project)
    done = side_by_side(project, ("current", "current --check-heads", "history -i", "show current", "check", "upgrade --sql", "status"))
    assert [run.returncode for run in done.values()] == [0, 3, 0, 0, 3, 0, 3]
    assert tables_in(project) == before
    assert "alembic_version" not in before


# A database ahead of the checkout.

TOLD = ("current", "current -c", "history -i", "history -r -1:current", "show current", "check")
REFUSED = ("upgrade", "upgrade +1", "downgrade base", "downgrade -1", "revision --autogenerate -m x", "setup-and-migrate")


def test_a_database_ahead_is_told_and_never_repaired(at_head: Project) -> None:
    run_sql(at_head, "UPDATE alembic_version SET version_num = 'ffff9999'")
    before = traces(database_file(at_head))
    done = side_by_side(at_head, [f"{line} --json" for line in (*TOLD, *REFUSED)])
    found = {line: (run.returncode, (document_of(run)["error"] or {}).get("code")) for line, run in done.items()}
    assert found == {f"{line} --json": (3 if line in TOLD else 1, "database-ahead") for line in (*TOLD, *REFUSED)}
    assert [line for line, run in done.items() if "ffff9999" not in document_of(run)["error"]["message"]] == []
    assert traces(database_file(at_head)) == before


@pytest.mark.parametrize("project", LOCAL_SERVERS, indirect=True)
def test_a_database_ahead_is_told_and_never_repaired_on_a_server(project: Project) -> None:
    run_sql(set_up(project), "UPDATE alembic_version SET version_num = 'ffff9999'")
    before = tables_in(project)
    done = side_by_side(project, ("current", "history -i", "check", "upgrade", "downgrade base", "revision --autogenerate -m x"))
    assert [run.returncode for run in done.values()] == [3, 3, 3, 1, 1, 1]
    assert [line for line, run in done.items() if "ffff9999" not in run.stderr] == []
    assert versions_in(project) == ["ffff9999"]
    assert tables_in(project) == before


def test_stamp_does_not_overwrite_what_is_ahead_unless_it_purges(at_head: Project) -> None:
    run_sql(at_head, "UPDATE alembic_version SET version_num = 'ffff9999'")
    code, document = at_head.answer("stamp", "head")
    assert code == 1
    assert "ffff9999" in document["error"]["message"]
    assert versions_in(at_head) == ["ffff9999"]
    assert at_head.answer("stamp", "head", "--purge")[1]["result"]["after"] == [FIRST]


def test_what_needs_no_database_does_not_care_that_it_is_ahead(at_head: Project) -> None:
    run_sql(at_head, "UPDATE alembic_version SET version_num = 'ffff9999'")
    assert set(looked_at(at_head, "history", "heads", "show").values()) == {0}


def test_a_database_ahead_is_named_in_words(at_head: Project) -> None:
    run_sql(at_head, "UPDATE alembic_version SET version_num = 'ffff9999'")
    done = at_head.run("current")
    assert done.stdout == "ffff9999 (unknown)\n"
    assert "The database is at ffff9999, which this checkout does not have" in done.stderr
    assert "Update the checkout" in done.stderr


def test_one_of_two_revisions_may_be_ahead(at_head: Project) -> None:
    run_sql(at_head, "INSERT INTO alembic_version VALUES ('ffff9999')")
    code, document = at_head.answer("current")
    assert code == 3
    assert document["result"]["unknown"] == ["ffff9999"]
    assert [info["revision"] for info in document["result"]["revisions"]] == [FIRST]
