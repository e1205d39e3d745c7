"""The operations for live databases, in revisions that are run, killed and run again beside readers and writers."""

import asyncio
import subprocess

import pytest
from sqlalchemy import text

from fininfra_db.connections import open_connection
from fininfra_db.errors import MigrationFailed
from tests.cli import helpers
from tests.cli.helpers import PROGRAM, add_revision
from tests.conftest import Project, clean_environment
from tests.contract.helpers import table_names, use_models, write_module
from tests.contract.live import IMPORT, at_head_with, indexes_of, open_reader, patient, until, upgrade_behind_reader

INDEX = "ix_users_made_at"
BUILD = f'operations.create_index_concurrently("{INDEX}", "users", ["created_at", "email"])'
NOTES = 'op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True), sa.Column("user_id", sa.String(36)))'
ADD_KEY = 'operations.add_foreign_key_not_valid("fk_notes_user", "notes", "users", ["user_id"], ["id"], ondelete="CASCADE")'
VALIDATE = 'operations.validate_constraint("fk_notes_user", "notes")'
MODELS = """
    from sqlalchemy import Column, ForeignKey, Index, Integer, MetaData, String, Table

    metadata = MetaData()
    people = Table("people", metadata, Column("id", Integer, primary_key=True), Column("name", String(50), nullable=False))
    notes = Table("notes", metadata, Column("id", Integer, primary_key=True), Column("person_id", Integer))
"""
CHANGED_MODELS = (
    MODELS.replace('person_id", Integer', 'person_id", ForeignKey("people.id", name="fk_notes_person", ondelete="CASCADE")')
    + '    Index("ix_people_name", people.c.name, people.c.id, unique=True)\n'
)


def start_upgrade(project: Project) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, "upgrade"],
        cwd=project.root,
        env=clean_environment() | project.environ | {"SQL_URL": project.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


async def sessions_building(project: Project) -> int:
    """How many sessions of PostgreSQL build or drop an index now."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND state = 'active' AND query ~ '^(CREATE|DROP) INDEX CONCURRENTLY'"
    )
    return int((await project.rows(query))[0][0])


async def leave_unfinished_index(project: Project) -> None:
    """Kill an upgrade that builds an index, while a reader keeps it from coming to its end."""
    async with open_reader(project):
        process = start_upgrade(project)
        try:

            async def is_waiting() -> bool:
                assert process.poll() is None, process.stdout and process.stdout.read()
                return (await indexes_of(project)).get(INDEX) is False and await sessions_building(project) == 1

            await until(is_waiting)
        finally:
            process.kill()
            process.wait()

        async def has_ended() -> bool:
            return await sessions_building(project) == 0

        await until(has_ended, 6.0)  # long before the reader goes: the server looks for its client every 2 s
    assert (await indexes_of(project))[INDEX] is False


# On every database.


async def test_the_models_agree_with_what_the_operations_make(project: Project) -> None:
    await use_models(project, MODELS)
    await project.database().setup_and_migrate()
    first = (await project.database().current()).revisions[0].revision
    index = '"ix_people_name", "people"'
    key = '"fk_notes_person", "notes"'
    add_revision(project, "aaaa0", first, up=f'{IMPORT}\n    operations.create_index_concurrently({index}, ["name", "id"], unique=True)')
    add_revision(
        project,
        "aaaa1",
        "aaaa0",
        up=f'{IMPORT}\n    operations.add_foreign_key_not_valid({key}, "people", ["person_id"], ["id"], ondelete="CASCADE")',
    )
    add_revision(project, "aaaa2", "aaaa1", up=f"{IMPORT}\n    operations.validate_constraint({key})")
    helpers.use_models(project, write_module(project.root, CHANGED_MODELS))
    assert (await project.database().upgrade("aaaa1")).after == ("aaaa1",)
    await project.database().upgrade()
    checked = await project.database().check()
    assert (checked.drift, checked.findings) == ((), ())
    add_revision(project, "aaaa3", "aaaa2", up=f"{IMPORT}\n    operations.drop_index_concurrently({index})")
    await project.database().upgrade()
    assert (await project.database().check()).drift == ("add index ix_people_name on people",)


async def test_a_foreign_key_holds_from_the_moment_that_it_is_added(project: Project) -> None:
    await at_head_with(project, NOTES, ADD_KEY)
    await project.database().upgrade()
    async with open_connection(project.settings(), "seeding") as connection:
        with pytest.raises(Exception, match=r"(?i)foreign key"):
            await connection.execute(text("INSERT INTO notes VALUES (1, 'nobody')"))


@pytest.mark.parametrize(("dialect", "concurrently"), [("postgresql", True), ("mysql", False), ("sqlite", False), ("mssql", False)])
def test_the_script_is_that_of_the_database(sqlite_project: Project, dialect: str, concurrently: bool) -> None:
    helpers.set_up(sqlite_project)
    drop = f'operations.drop_index_concurrently("{INDEX}", "users")'
    add_revision(sqlite_project, "aaaa0", up=f"{IMPORT}\n    {BUILD}\n    {VALIDATE}\n    {drop}")
    done = sqlite_project.run("upgrade", "--sql", f"{helpers.FIRST}:head", env={"SQL_URL": f"{dialect}://u@h/d"})
    assert done.returncode == 0, done.stderr
    assert ("CREATE INDEX CONCURRENTLY" in done.stdout) == ("DROP INDEX CONCURRENTLY" in done.stdout) == concurrently
    assert ("VALIDATE CONSTRAINT fk_notes_user" in done.stdout) == concurrently
    assert f"CREATE INDEX {'CONCURRENTLY ' if concurrently else ''}{INDEX} ON users (created_at, email)" in done.stdout


# On PostgreSQL: indexes.


async def test_an_index_waits_for_a_reader_and_holds_up_nobody(postgresql_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than a lock may be waited for: nobody queues behind it, so it may, and its work is done once."""
    monkeypatch.setattr("fininfra_db.migrate.operations.backoff", None)
    await at_head_with(postgresql_project, BUILD)
    insert = "INSERT INTO users (id, email) SELECT gen_random_uuid(), gen_random_uuid()"
    stall = await upgrade_behind_reader(postgresql_project, patient(postgresql_project, ddl_lock_timeout=0.5), 3.0, insert)
    assert stall < 1.0
    assert (await indexes_of(postgresql_project))[INDEX] is True


async def test_the_next_run_mends_what_a_killed_one_left(postgresql_project: Project) -> None:
    await at_head_with(postgresql_project, BUILD)
    for _ in range(2):  # the second finds the first one's index, and is killed at the same place
        await leave_unfinished_index(postgresql_project)
    done = postgresql_project.run("upgrade")
    assert done.returncode == 0, done.stderr
    assert (await indexes_of(postgresql_project))[INDEX] is True
    assert (await postgresql_project.database().current()).revisions[0].revision == "aaaa0"


async def test_a_run_that_was_killed_behind_the_index_carries_on(postgresql_project: Project) -> None:
    """What comes before the index is not run again, the index is taken as it is, and what comes after it is run."""
    before, after = (f'op.execute("CREATE TABLE {name} (id INT)")' for name in ("before", "after"))
    await at_head_with(postgresql_project, f"{before}\n    {BUILD}\n    import os; os.kill(os.getpid(), 9)\n    {after}")
    assert start_upgrade(postgresql_project).wait() == -9
    path = postgresql_project.root / "migrations" / "versions" / "aaaa0.py"
    path.write_text(path.read_text().replace("import os; os.kill(os.getpid(), 9)", "pass"))
    done = postgresql_project.run("upgrade")
    assert done.returncode == 0, done.stderr
    assert {"before", "after"} <= await table_names(postgresql_project)
    assert (await indexes_of(postgresql_project))[INDEX] is True


async def test_four_at_once_build_one_index(postgresql_project: Project) -> None:
    await at_head_with(postgresql_project, BUILD)
    processes = [start_upgrade(postgresql_project) for _ in range(4)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert sum("applied aaaa0" in output for output in outputs) == 1
    assert (await indexes_of(postgresql_project))[INDEX] is True


async def test_an_index_that_cannot_be_built_is_not_left_half_built(postgresql_project: Project) -> None:
    """An invalid unique index goes on refusing rows."""
    await at_head_with(postgresql_project, BUILD.replace('["created_at", "email"]', '["hashed_password"], unique=True'))
    await postgresql_project.execute("INSERT INTO users (id, email) SELECT n, n FROM generate_series(1, 2) n")
    with pytest.raises(MigrationFailed, match="Nothing of aaaa0 remains"):
        await postgresql_project.database().upgrade()
    assert INDEX not in await indexes_of(postgresql_project)


async def test_a_build_that_lost_a_deadlock_is_tried_again(postgresql_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("fininfra_db.migrate.operations.backoff", lambda attempt: pauses.append(attempt) or 0.1)
    await at_head_with(postgresql_project, BUILD)
    async with open_connection(postgresql_project.settings(), "application") as writer:
        await writer.execute(text("UPDATE users SET email = email"))
        upgrade = asyncio.create_task(postgresql_project.database().upgrade())

        async def is_building() -> bool:
            return await sessions_building(postgresql_project) == 1

        await until(is_building)
        # The index waits for this transaction, and this statement for the index, which began to wait first and so looks first.
        await writer.execute(text("LOCK TABLE users IN SHARE UPDATE EXCLUSIVE MODE"))
        await writer.rollback()
    await upgrade
    assert pauses == [1]
    assert (await indexes_of(postgresql_project))[INDEX] is True


@pytest.mark.parametrize(
    ("present", "options", "is_taken"),
    [
        ("CREATE INDEX {0} ON users (created_at, email)", "", True),
        ("CREATE INDEX {0} ON users (lower(email), created_at DESC) WHERE email LIKE 'a%'", "EXPRESSIONS", True),
        ("CREATE INDEX {0} ON users (created_at)", "", False),
        ("CREATE INDEX {0} ON users (email, created_at)", "", False),
        ("CREATE UNIQUE INDEX {0} ON users (created_at, email)", "", False),
        ("CREATE INDEX {0} ON users (created_at, email) WHERE email LIKE 'a%'", "", False),
        ("CREATE INDEX {0} ON accounts (name)", "", False),
    ],
)
async def test_an_index_of_the_name_must_be_the_same(postgresql_project: Project, present: str, options: str, is_taken: bool) -> None:
    expressions = '[sa.text("lower(email)"), sa.text("created_at DESC")], postgresql_where=sa.text("email LIKE \'a%\'")'
    await at_head_with(postgresql_project, BUILD.replace('["created_at", "email"]', expressions) if options else BUILD)
    await postgresql_project.execute(present.format(INDEX))
    if is_taken:
        assert (await postgresql_project.database().upgrade()).after == ("aaaa0",)
        return
    with pytest.raises(MigrationFailed, match=rf"{INDEX}.* (on users|exists)"):
        await postgresql_project.database().upgrade()


async def test_an_index_may_be_gone_already(postgresql_project: Project) -> None:
    drop = f'operations.drop_index_concurrently("{INDEX}", "users")'
    await at_head_with(postgresql_project, BUILD, drop)
    await postgresql_project.database().upgrade("aaaa0")
    await postgresql_project.execute(f"DROP INDEX {INDEX}")
    assert (await postgresql_project.database().upgrade()).after == ("aaaa1",)


# On PostgreSQL: foreign keys.


async def test_rows_that_are_there_are_looked_at_when_the_key_is_validated(postgresql_project: Project) -> None:
    await at_head_with(postgresql_project, NOTES, ADD_KEY, VALIDATE)
    await postgresql_project.database().upgrade("aaaa0")
    await postgresql_project.execute("INSERT INTO notes VALUES (1, 'nobody')")
    assert (await postgresql_project.database().upgrade("aaaa1")).after == ("aaaa1",)
    validated = "SELECT convalidated FROM pg_constraint WHERE conname = 'fk_notes_user'"
    assert await postgresql_project.rows(validated) == [(False,)]
    with pytest.raises(MigrationFailed, match="violates foreign key constraint"):
        await postgresql_project.database().upgrade()
    await postgresql_project.execute("DELETE FROM notes")
    assert (await postgresql_project.database().upgrade()).after == ("aaaa2",)
    assert await postgresql_project.rows(validated) == [(True,)]


async def test_validating_holds_up_nobody(postgresql_project: Project) -> None:
    """Beside a writer, whose lock is in the way of whatever would hold him up."""
    await at_head_with(postgresql_project, NOTES, ADD_KEY, VALIDATE)
    await postgresql_project.database().upgrade("aaaa1")
    async with open_connection(postgresql_project.settings(), "application") as writer:
        await writer.execute(text("INSERT INTO notes VALUES (1, NULL)"))
        assert (await patient(postgresql_project, ddl_lock_timeout=0.5).upgrade()).after == ("aaaa2",)
