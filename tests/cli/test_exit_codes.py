"""Each exit code, reached the way that a user reaches it."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fininfra_db.connections import migration_lock, open_connection
from fininfra_db.dialects import target_of
from fininfra_db.errors import LockNotObtained
from tests.cli.helpers import (
    CLOSED_PORT,
    FIRST,
    add_revision,
    add_three_revisions,
    database_file,
    document_of,
    interrupted,
    on_terminal,
    set_up,
    tables_in,
    traces,
    use_models,
    versions_in,
)
from tests.conftest import LOCAL_SERVERS, Project


@pytest.fixture
def at_head(sqlite_project: Project) -> Project:
    return set_up(sqlite_project)


def test_the_help_names_every_exit_code(sqlite_project: Project) -> None:
    told = sqlite_project.run("--help").stdout.partition("Exit codes:")[2]
    assert [int(code) for code in re.findall(r"\b\d+\b", told)] == [0, 1, 2, 3, 4, 5, 6, 130, 143]


@pytest.mark.parametrize("words", [["upgrade"], ["downgrade", "base"], ["check"], ["current", "-c"]], ids=" ".join)
def test_0_done_or_nothing_to_do(at_head: Project, words: list[str]) -> None:
    assert at_head.run(*words).returncode == 0


def test_1_a_revision_failed(project: Project) -> None:
    set_up(project)
    add_revision(project, "aaaa1111", up="op.execute('CREATE TABLE half (x INTEGER)'); op.execute('INSERT INTO nowhere VALUES (1)')")
    done = project.run("upgrade")
    message, hint = done.stderr.splitlines()[-2:]
    assert done.returncode == 1
    assert message.startswith("Error: Revision aaaa1111 (message of aaaa1111) did not apply: ")
    assert "INSERT INTO nowhere VALUES (1)" in message
    assert f"The database is at {FIRST}." in message
    assert ("Nothing of aaaa1111 remains" in message) == ("half" not in tables_in(project))
    assert hint.startswith("  ")
    assert versions_in(project) == [FIRST]


def test_1_a_revision_ended_the_program(at_head: Project) -> None:
    before = traces(at_head.root)
    add_revision(at_head, "aaaa1111", up="raise SystemExit(0)")
    code, document = at_head.answer("upgrade")
    assert code == 1
    assert "SystemExit" in document["error"]["message"]
    assert traces(database_file(at_head)) == {".": before[database_file(at_head).name]}


def test_1_the_name_is_not_a_revision(at_head: Project) -> None:
    assert at_head.run("upgrade", "zzzz").returncode == 1


@pytest.mark.parametrize("words", [["upgrade", "--no-such-option"], ["downgrade"], ["no-such-command"], [], ["current"]], ids=" ".join)
def test_2_usage_or_configuration(sqlite_project: Project, words: list[str]) -> None:
    assert sqlite_project.run(*words).returncode == 2


@pytest.mark.parametrize("words", [["check"], ["current", "--check-heads"]], ids=" ".join)
def test_3_revisions_are_pending(at_head: Project, words: list[str]) -> None:
    done = add_three_revisions(at_head).run(*words)
    assert done.returncode == 3
    assert "3 revisions are pending: aaaa1111, bbbb2222, cccc3333." in done.stderr
    assert "fininfra-db upgrade" in done.stderr


def test_3_the_history_has_two_heads(at_head: Project) -> None:
    add_revision(at_head, "aaaa1111")
    add_revision(at_head, "aaaa2222")
    assert at_head.run("upgrade", "heads").returncode == 0
    code, document = at_head.answer("check")
    assert code == 3
    assert document["error"]["code"] == "multiple-heads"
    assert "aaaa1111" in document["error"]["message"]
    assert "aaaa2222" in document["error"]["message"]
    assert "merge heads" in document["error"]["hint"]


def test_3_models_and_database_differ(project: Project) -> None:
    done = set_up(project).run("check")
    assert done.returncode == 0, done.stderr
    (project.root / "more.py").write_text(
        "from fininfra_db.models import Base\nimport sqlalchemy as sa\nsa.Table('extra', Base.metadata, sa.Column('id', sa.Integer))\n"
    )
    use_models(project, "more, fininfra_db.models")
    done = project.run("check")
    assert done.returncode == 3
    assert "add table extra" in done.stderr
    assert "revision --autogenerate" in done.stderr


def test_3_autogenerate_needs_a_database_at_head(at_head: Project) -> None:
    before = traces(add_three_revisions(at_head).root / "migrations" / "versions")
    code, document = at_head.answer("revision", "--autogenerate", "-m", "more")
    assert (code, document["error"]["code"]) == (3, "not-at-head")
    assert "fininfra-db upgrade" in document["error"]["hint"]
    assert traces(at_head.root / "migrations" / "versions") == before


def test_4_reset_needs_a_confirmation_and_there_is_nobody_to_ask(project: Project) -> None:
    before = tables_in(set_up(project))
    done = project.run("reset")
    assert done.returncode == 4
    assert "--yes" in done.stderr
    assert tables_in(project) == before != set()


@pytest.mark.parametrize("typed", ["n\n", "\n", "\x04"], ids=["no", "nothing", "end of input"])
def test_4_reset_was_not_confirmed(at_head: Project, typed: str) -> None:
    before = traces(at_head.root)
    done = on_terminal(at_head, "reset", typed=typed, NO_COLOR="1")
    assert done.returncode == 4
    assert "Not confirmed. Nothing was changed." in done.screen
    assert traces(at_head.root) == before


def test_4_a_table_would_be_dropped(at_head: Project) -> None:
    (at_head.root / "fewer.py").write_text(
        "import sqlalchemy as sa\nmetadata = sa.MetaData()\nsa.Table('other', metadata, sa.Column('id', sa.Integer))\n", encoding="utf-8"
    )
    use_models(at_head, "fewer")
    before = traces(at_head.root / "migrations" / "versions")
    code, document = at_head.answer("revision", "--autogenerate", "-m", "fewer")
    assert (code, document["error"]["code"]) == (4, "refused")
    assert "drop table users" in document["error"]["message"]
    assert "--allow-drop" in document["error"]["hint"]
    assert traces(at_head.root / "migrations" / "versions") == before


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold SQLite's write lock, as a migration in another process does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.parametrize(
    "words", [["upgrade"], ["downgrade", "base"], ["stamp", "base"], ["seed"], ["reset", "--yes"], ["create-tables"]], ids=" ".join
)
def test_5_another_writer_holds_a_sqlite_file(at_head: Project, words: list[str]) -> None:
    """The wait is five minutes unless ``alembic.ini`` says otherwise."""
    ini = at_head.root / "alembic.ini"
    ini.write_text(ini.read_text(encoding="utf-8").replace("[fininfra_db]", "[fininfra_db]\nlock_timeout = 0.3"), encoding="utf-8")
    before = traces(add_three_revisions(at_head).root)
    with held(database_file(at_head)):
        done = at_head.run(*words, "--json")
    document = document_of(done)
    assert (done.returncode, document["error"]["code"]) == (5, "lock-not-obtained")
    assert "Nothing was changed" in document["error"]["message"]
    assert traces(at_head.root) == before


@pytest.mark.parametrize("project", LOCAL_SERVERS, indirect=True)
async def test_5_another_migration_holds_the_lock_of_a_server(project: Project) -> None:
    """Through the library: the command line has no way to wait for less than five minutes."""
    await project.database().setup_and_migrate()
    settings = project.settings()
    target = target_of(settings)

    async def wait_for_the_lock() -> None:
        async with target.dialect.migration_lock(lambda: open_connection(settings, "maintenance"), target.url, timeout=0.3):
            pass

    async with migration_lock(settings):
        with pytest.raises(LockNotObtained) as caught:
            await wait_for_the_lock()
    assert caught.value.exit_code == 5
    assert "is locked by fininfra-db" in caught.value.message
    assert caught.value.hint
    await wait_for_the_lock()


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_6_no_server_answers(at_head: Project, scheme: str) -> None:
    code, document = at_head.answer("current", "--sql-url", f"{scheme}://user@127.0.0.1:{CLOSED_PORT}/finance")
    assert (code, document["error"]["code"]) == (6, "database-unreachable")


def test_6_the_database_does_not_exist(project: Project) -> None:
    code, document = set_up(project).answer("current", "--sql-url", f"{project.url}_missing")
    assert (code, document["error"]["code"]) == (6, "database-missing")
    assert "setup-and-migrate" in document["error"]["hint"]


def test_130_a_migration_that_sleeps_is_interrupted(project: Project) -> None:
    started = set_up(project).root / "started"
    add_revision(project, "aaaa1111", up=f"open({str(started)!r}, 'w').close(); import time; time.sleep(300)")
    done = interrupted(project, "upgrade", "-q", when=started)
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr.startswith("Error: Interrupted.")
    assert "fininfra-db status" in done.stderr
    assert "Traceback" not in done.stderr
    assert project.run("current").stdout == f"{FIRST}\n"


def test_130_in_json_and_while_the_database_is_waited_for(at_head: Project) -> None:
    started = at_head.root / "started"
    add_revision(at_head, "aaaa1111", up=f"open({str(started)!r}, 'w').close(); op.execute('SELECT 1')\n    import time; time.sleep(300)")
    before = traces(database_file(at_head))
    done = interrupted(at_head, "upgrade", "--json", when=started)
    document = document_of(done)
    assert done.returncode == 130
    assert document["error"]["message"].startswith("Interrupted.")
    assert traces(database_file(at_head)) == before
    assert not list(at_head.root.glob("*.db-*"))


def test_130_a_question_is_answered_with_ctrl_c(at_head: Project) -> None:
    before = traces(at_head.root)
    done = on_terminal(at_head, "reset", typed="\x03", NO_COLOR="1")
    assert done.returncode == 130
    assert "Error: Interrupted." in done.screen
    assert "Traceback" not in done.screen
    assert traces(at_head.root) == before
