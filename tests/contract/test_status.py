"""``status`` and ``history -v``: what a database and its ledger tell before a deployment."""

import asyncio
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fininfra_db.connections import migration_lock, open_connection
from fininfra_db.errors import DatabaseMissing
from fininfra_db.migrate import journal
from fininfra_db.results import Entry, Status
from tests.cli.helpers import CLOSED_PORT, FIRST, add_revision, add_three_revisions, document_of, set_up
from tests.conftest import LOCAL_SERVERS, Project
from tests.contract.helpers import create_empty_database, make_foreign

PRODUCTS = {"sqlite": "SQLite 3.", "postgresql": "PostgreSQL 1", "mysql": "MariaDB 1"}


def status_of(project: Project) -> Status:
    return asyncio.run(project.database().status())


def codes(status: Status) -> list[str]:
    return [finding.code for finding in status.findings]


def states(status: Status) -> dict[str, str]:
    return {each.revision: each.state for each in status.revisions}


def write_entry(project: Project, **changes: Any) -> Entry:
    """A row of the ledger, written behind the program's back."""
    values = {"id": f"9{uuid.uuid4().hex}", "direction": "up", "outcome": "done", "started": datetime(2026, 1, 2, 3, 4, tzinfo=UTC)}
    entry = Entry(**(values | changes))

    async def write() -> None:
        async with open_connection(project.settings(), "migration") as connection:
            await connection.run_sync(journal.write_entries, entry)
            await connection.commit()

    asyncio.run(write())
    return entry


def test_an_empty_database_has_everything_pending(project: Project) -> None:
    """There is no table of ours, not even the version table."""
    asyncio.run(create_empty_database(project))
    asyncio.run(project.database().init())
    add_revision(project, "aaaa1111", None)
    add_revision(project, "bbbb2222", "aaaa1111")
    status = status_of(project)
    assert codes(status) == ["pending"]
    assert (status.applied, status.pending, status.heads, status.versions) == ((), ("aaaa1111", "bbbb2222"), ("bbbb2222",), ())
    assert status.server.startswith(PRODUCTS[project.dialect])
    assert status.environment is None
    assert status.holder is None


def test_a_database_at_head_is_safe_to_deploy_to(project: Project) -> None:
    set_up(project)
    code, document = project.answer("status")
    assert code == 0
    result = document["result"]
    (told,) = result["revisions"]
    assert (result["applied"], result["pending"], result["missing"], result["edited"]) == ([FIRST], [], [], [])
    assert (told["revision"], told["state"], told["message"]) == (FIRST, "applied", "initial schema")
    assert told["applied"]["login"]
    assert told["applied"]["host"]
    assert told["applied"]["seconds"] > 0
    assert datetime.fromisoformat(told["applied"]["started"]).tzinfo is not None
    assert 10_000 < result["size"] < 50_000_000
    if project.dialect == "sqlite":
        assert result["size"] == Path(project.url.partition(":///")[2]).stat().st_size


@pytest.fixture
def at_head(sqlite_project: Project) -> Project:
    return set_up(sqlite_project)


def test_what_is_pending_is_listed_in_order(at_head: Project) -> None:
    add_three_revisions(at_head)
    status = status_of(at_head)
    assert codes(status) == ["pending"]
    assert list(states(status).items()) == [(FIRST, "applied"), ("aaaa1111", "pending"), ("bbbb2222", "pending"), ("cccc3333", "pending")]


def test_a_revision_that_was_edited_after_it_was_applied(at_head: Project) -> None:
    (path,) = at_head.versions()
    source = path.read_text(encoding="utf-8")
    path.write_text(f"{source}\n# a comment\n", encoding="utf-8")
    assert codes(status_of(at_head)) == []
    path.write_text(f"{source}\nMORE = 1\n", encoding="utf-8")
    status = status_of(at_head)
    assert codes(status) == ["edited"]
    assert path.name in status.findings[0].message
    assert (status.applied, status.edited) == ((FIRST,), (FIRST,))
    assert at_head.run("status").returncode == 3
    assert "Edited: since it was applied" in at_head.run("history", "-v").stdout


def test_an_edit_of_what_is_not_applied_is_none(at_head: Project) -> None:
    write_entry(at_head, revision="aaaa1111", checksum="0" * 64)
    add_revision(at_head, "aaaa1111")
    assert codes(status_of(at_head)) == ["pending"]


def ahead(project: Project) -> Project:
    add_three_revisions(set_up(project))
    asyncio.run(project.database().upgrade())
    for path in project.versions():
        if path.stem in ("bbbb2222", "cccc3333"):
            path.unlink()
    return project


def test_what_a_newer_checkout_applied_is_missing_here(project: Project) -> None:
    status = status_of(ahead(project))
    assert codes(status) == ["database-ahead"]
    assert states(status) == {FIRST: "applied", "aaaa1111": "applied", "bbbb2222": "missing", "cccc3333": "missing"}
    assert (status.missing, status.pending) == (("bbbb2222", "cccc3333"), ())


def test_without_a_ledger_only_the_version_is_known_to_be_missing(sqlite_project: Project) -> None:
    asyncio.run(ahead(sqlite_project).execute("DROP TABLE fininfra_migrations"))
    status = status_of(sqlite_project)
    assert states(status) == {FIRST: "unknown", "aaaa1111": "unknown", "cccc3333": "missing"}
    assert status.pending == ()


def test_a_file_that_is_gone_is_not_missing_while_the_history_goes_on_without_it(at_head: Project) -> None:
    """Old revisions are squashed into one: the ledger still knows them, and nothing is wrong."""
    write_entry(at_head, revision="squashed")
    status = status_of(at_head)
    assert codes(status) == []
    assert status.missing == ()


def test_several_heads_are_a_finding(at_head: Project) -> None:
    add_revision(at_head, "aaaa1111")
    add_revision(at_head, "aaaa2222")
    status = status_of(at_head)
    assert codes(status) == ["multiple-heads", "pending"]
    assert status.heads == ("aaaa1111", "aaaa2222")


def test_a_run_that_ended_in_the_middle_is_a_finding(project: Project) -> None:
    set_up(project)
    entry = write_entry(project, revision=FIRST, direction="down", outcome="running", statement=3, statement_sql="DROP TABLE users")
    status = status_of(project)
    assert codes(status) == ["unfinished"]
    assert (status.unfinished[0].revision, status.unfinished[0].statement) == (entry.revision, 3)
    done = project.run("status")
    assert done.returncode == 3
    assert "2026-01-02 03:04 UTC ended in the middle" in done.stderr


@pytest.mark.parametrize("project", LOCAL_SERVERS, indirect=True)
async def test_a_run_that_goes_on_is_told_by_its_lock(project: Project) -> None:
    await asyncio.to_thread(set_up, project)
    await asyncio.to_thread(write_entry, project, revision=FIRST, direction="down", outcome="running", statement=3)
    async with migration_lock(project.settings()):
        status = await project.database().status()
        told = await asyncio.to_thread(project.run, "status")
    assert codes(status) == []
    assert status.holder is not None
    assert "locked by fininfra-db on" in told.stdout
    assert (await project.database().status()).holder is None


def test_the_marker_is_shown(at_head: Project) -> None:
    assert at_head.run("environment", "set", "staging").returncode == 0
    assert "environment: staging" in at_head.run("status").stdout


def test_a_missing_file_is_no_status(at_head: Project) -> None:
    Path(at_head.url.partition(":///")[2]).unlink()
    with pytest.raises(DatabaseMissing):
        status_of(at_head)
    code, document = at_head.answer("status")
    assert (code, document["error"]["code"]) == (6, "database-missing")


def test_a_project_of_somebody_else(project: Project) -> None:
    asyncio.run(create_empty_database(project))
    make_foreign(project)
    assert (codes(status_of(project)), states(status_of(project))) == (["pending"], {"one": "pending"})
    asyncio.run(project.database().upgrade())
    status = status_of(project)
    assert (codes(status), states(status)) == ([], {"one": "applied"})
    assert status.revisions[0].applied is not None


def test_the_ledger_of_another_project_in_the_database_is_not_ours(project: Project) -> None:
    """Neither told by ``status`` nor settled by ``reset``."""
    set_up(project)
    write_entry(project, revision=FIRST, seconds=99.0, checksum="0" * 64, version_table="other_version")
    theirs = write_entry(project, revision="theirs", outcome="running", statement=1, version_table="other_version")
    status = status_of(project)
    assert (codes(status), status.unfinished, status.edited) == ([], (), ())
    asyncio.run(project.database().reset())
    assert asyncio.run(project.rows("SELECT revision FROM fininfra_migrations WHERE outcome = 'running'")) == [(theirs.revision,)]


def test_the_text_shows_all_that_is_not_as_it_should_be_and_the_latest_of_the_rest(at_head: Project) -> None:
    parent = FIRST
    for number in range(12):
        add_revision(at_head, f"rev{number:02}", parent)
        parent = f"rev{number:02}"
    asyncio.run(at_head.database().upgrade())
    add_revision(at_head, "later", parent)
    short, long = at_head.run("status"), at_head.run("status", "-v")
    assert "revisions: 13 applied, 1 pending" in short.stdout
    assert "later pending message of later" in short.stdout
    assert "rev11 applied" in short.stdout
    assert "rev00" not in short.stdout
    assert "3 older revisions are applied; -v shows them." in short.stdout
    assert "rev00 applied" in long.stdout
    assert "older revisions" not in long.stdout


# history -v


def test_history_tells_when_and_by_whom(project: Project) -> None:
    add_three_revisions(set_up(project))
    done = project.run("history", "-v", "--json")
    told = {info["revision"]: info["applied"] for info in document_of(done)["result"]["revisions"]}
    assert [name for name, applied in told.items() if applied] == [FIRST]
    assert told[FIRST]["login"]
    line = next(line for line in project.run("history", "-v").stdout.splitlines() if line.startswith("Applied: "))
    assert f"{told[FIRST]['login']}@{told[FIRST]['host']}" in line
    assert project.run("history", "-v").stdout.count("Applied: ") == 1


@pytest.mark.parametrize("url", [f"postgresql://bob@127.0.0.1:{CLOSED_PORT}/books", "sqlite:///missing.db"])
def test_history_goes_on_without_a_database(at_head: Project, url: str) -> None:
    plain, told = (at_head.run("history", *words, env={"SQL_URL": url}) for words in ((), ("-v",)))
    assert plain.returncode == told.returncode == 0
    assert "Warning" not in plain.stderr
    assert "Warning: When and by whom is not known: " in told.stderr
    assert f"Revision: {FIRST}" in told.stdout
