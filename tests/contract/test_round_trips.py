"""PostgreSQL's transactions in few messages: what waits for the next message is neither lost nor done twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError

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


async def test_several_statements_in_one_text_are_refused(postgresql_project: Project) -> None:
    """One of them may be COMMIT, and the rest of the revision would go on without a transaction."""
    project = await with_journal(postgresql_project)
    await write_by_hand(project, "dump", 'op.execute("CREATE TABLE firms (id integer); COMMIT; CREATE TABLE staff (id integer)")')
    with pytest.raises(MigrationFailed, match="multiple commands"):
        await project.database().upgrade()
    assert not {"firms", "staff"} & await table_names(project)


async def test_what_follows_a_swallowed_syntax_error_is_in_a_transaction(postgresql_project: Project) -> None:
    project = await with_journal(postgresql_project)
    async with open_connection(project.settings(), "migration") as connection:
        with pytest.raises(DBAPIError, match="syntax error"):
            await connection.execute(text("CREATE TABEL firms (id integer)"))
        await connection.execute(text("CREATE TABLE staff (id integer)"))
        await connection.rollback()
    assert "staff" not in await table_names(project)


async def test_rows_are_streamed_in_a_migration(postgresql_project: Project) -> None:
    project = await with_journal(postgresql_project)
    async with open_connection(project.settings(), "migration") as connection:
        await connection.execute(text("CREATE TABLE firms AS SELECT generate_series(1, 500) AS id"))
        streamed = await connection.stream(text("SELECT id FROM firms ORDER BY id"))
        assert [row.id async for row in streamed] == list(range(1, 501))


@asynccontextmanager
async def losing_the_answer_to(word: bytes, host: str, port: int) -> AsyncIterator[int]:
    """A proxy that passes everything on until a message with ``word``, whose answer it keeps, and hangs up. Yields its port."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, port)
        lost = asyncio.Event()

        async def answers() -> None:
            while data := await there.read(65536):
                if lost.is_set():
                    break
                writer.write(data)
            writer.close()

        answering = asyncio.create_task(answers())
        while data := await reader.read(65536):
            if word in data:
                lost.set()
            back.write(data)
        back.close()
        await answering

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_commit_whose_answer_is_lost_is_asked_for(postgresql_project: Project) -> None:
    project = await with_journal(postgresql_project)
    url = make_url(project.url)
    revision = await write_by_hand(project, "firms", 'op.execute("CREATE TABLE firms (id integer)")')
    async with losing_the_answer_to(b"INSERT INTO fininfra_migrations", url.host or "127.0.0.1", url.port or 5432) as port:
        through = replace(project, url=url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False))
        with pytest.raises(MigrationFailed, match=f"The database is at {revision}. All of {revision} was done") as caught:
            await through.database().upgrade()
    assert "status" in (caught.value.hint or "")
    assert "firms" in await table_names(project)
