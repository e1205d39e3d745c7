"""PostgreSQL's transactions in few messages: what waits for the next message is neither lost nor done twice."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from fininfra_db.connections import open_connection
from fininfra_db.errors import MigrationFailed
from fininfra_db.migrate.journal import read_entries, write_entries
from fininfra_db.results import Entry
from tests.conftest import Project
from tests.contract.helpers import table_names, write_by_hand

ROW = Entry(id="1", revision="aaaa", direction="up", outcome="done", started=datetime(2026, 1, 2, tzinfo=UTC))
AWKWARD = "o'brien\\ \\' 100% %s $1 :x \"é\" --"
LATE = (
    'op.execute("CREATE TABLE firms (id integer PRIMARY KEY)")',
    'op.execute("CREATE TABLE staff (firm integer REFERENCES firms DEFERRABLE INITIALLY DEFERRED)")',
    'op.execute("INSERT INTO staff VALUES (7)")',
)


async def with_journal(project: Project) -> Project:
    await project.database().setup_and_migrate()
    return project


@pytest.mark.parametrize("setting", ["on", "off"])
async def test_awkward_values_are_written_as_they_are(postgresql_project: Project, setting: str) -> None:
    project = await with_journal(postgresql_project)
    row = replace(ROW, login=AWKWARD, host="\\", tool_version="''")
    async with open_connection(project.settings(), "migration") as connection:
        await connection.execute(text(f"SET standard_conforming_strings = {setting}"))
        await connection.run_sync(write_entries, row)
        await connection.commit()
    async with open_connection(project.settings(), "reading") as connection:
        assert row in await connection.run_sync(read_entries)


async def test_a_look_in_the_same_transaction_sees_what_waits(postgresql_project: Project) -> None:
    project = await with_journal(postgresql_project)
    async with open_connection(project.settings(), "migration") as connection:
        await connection.execute(text("CREATE TABLE firms (id integer)"))
        await connection.run_sync(write_entries, ROW)
        assert ROW in await connection.run_sync(read_entries)
        await connection.rollback()
        assert ROW not in await connection.run_sync(read_entries)
    assert "firms" not in await table_names(project)


async def test_a_row_that_fails_with_the_commit_leaves_the_connection_usable(postgresql_project: Project) -> None:
    project = await with_journal(postgresql_project)
    async with open_connection(project.settings(), "migration") as connection:
        await connection.execute(text("CREATE TABLE firms (id integer)"))
        await connection.run_sync(write_entries, ROW, ROW)
        with pytest.raises(IntegrityError, match="duplicate key"):
            await connection.commit()
        await connection.rollback()
        await connection.execute(text("CREATE TABLE shops (id integer)"))
        await connection.commit()
    assert {"firms", "shops"} & await table_names(project) == {"shops"}


async def test_the_rows_that_a_statement_changed_are_counted(postgresql_project: Project) -> None:
    project = await with_journal(postgresql_project)
    async with open_connection(project.settings(), "migration") as connection:
        await connection.run_sync(write_entries, ROW, replace(ROW, id="2"))
        changed = await connection.execute(text("UPDATE fininfra_migrations SET host = 'x' WHERE revision = 'aaaa'"))
        assert changed.rowcount == 2
        removed = await connection.execute(text("DELETE FROM fininfra_migrations WHERE id = '1'"))
        assert removed.rowcount == 1


async def test_a_revision_that_is_refused_at_its_commit_is_named(postgresql_project: Project) -> None:
    project = await with_journal(postgresql_project)
    (before,) = (await project.database().current()).revisions
    refused = await write_by_hand(project, "late", *LATE)
    with pytest.raises(MigrationFailed, match=f"Revision {refused} .*foreign key.*Nothing of {refused} remains"):
        await project.database().upgrade()
    assert [info.revision for info in (await project.database().current()).revisions] == [before.revision]
    assert not {"firms", "staff"} & await table_names(project)


async def test_statements_that_return_rows_are_read(postgresql_project: Project) -> None:
    project = await with_journal(postgresql_project)
    async with open_connection(project.settings(), "migration") as connection:
        await connection.execute(text("CREATE TABLE firms (id integer)"))
        assert await connection.scalar(text("INSERT INTO firms VALUES (7) RETURNING id")) == 7
        assert await connection.scalar(text("SELECT count(*) FROM firms")) == 1
