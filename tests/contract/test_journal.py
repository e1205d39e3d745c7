"""The journal: what it says of runs that ended well, and how a run that did not is found, refused and settled."""

import asyncio
import getpass
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from fininfra_db import __version__
from fininfra_db.connections import migration_lock, open_connection
from fininfra_db.database import Database
from fininfra_db.errors import FininfraDbError, MigrationFailed, UnfinishedRevision
from fininfra_db.events import Event, Waiting
from fininfra_db.migrate.journal import checksum_of, read_entries
from fininfra_db.results import Entry
from tests.conftest import Project
from tests.contract.helpers import append_upgrade, create_empty_database, table_names, use_models, write_by_hand

SHOPS = "op.create_table('shops', sa.Column('id', sa.Integer(), primary_key=True), sa.Column('visits', sa.Integer()))"
FILL = "op.execute('INSERT INTO shops (id, visits) VALUES (1, 1)')"
COUNT = "op.execute('UPDATE shops SET visits = visits + 1')"
BREAK = "op.execute('UPDATE nowhere SET nothing = 1')"
ADD = "op.add_column('shops', sa.Column('zip', sa.String(9)))"
INDEX = "op.create_index('ix_shops_visits', 'shops', ['visits'])"


async def ledger(project: Project) -> tuple[Entry, ...]:
    async with open_connection(project.settings(), "reading") as connection:
        return await connection.run_sync(read_entries)


async def start(project: Project) -> Project:
    await create_empty_database(project)
    await project.database().init()
    return project


async def failing(project: Project, *statements: str) -> str:
    """Write a revision of ``statements`` and let an upgrade fail in it. Returns its identifier."""
    broken = await write_by_hand(project, "broken", *statements)
    with pytest.raises(MigrationFailed):
        await project.database().upgrade()
    return broken


def correct(project: Project, revision: str, old: str, new: str) -> None:
    path = next(path for path in project.versions() if revision in path.name)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


async def test_each_run_of_a_revision_is_written_down(project: Project) -> None:
    await start(project)
    first = await write_by_hand(project, "shops", SHOPS)
    second = await write_by_hand(project, "fill", FILL)
    await project.database().upgrade()
    await project.database().downgrade("-1")
    entries = await ledger(project)
    assert [(entry.revision, entry.direction, entry.outcome) for entry in entries] == [
        (first, "up", "done"),
        (second, "up", "done"),
        (second, "down", "done"),
    ]
    for entry in entries:
        assert (entry.host, entry.pid, entry.login, entry.tool_version) == (
            socket.gethostname(),
            os.getpid(),
            getpass.getuser(),
            __version__,
        )
        assert entry.started.utcoffset() is not None
        assert entry.seconds is not None
        assert 0 <= entry.seconds < 60
        assert entry.checksum == checksum_of(next(path for path in project.versions() if entry.revision in path.name))
    assert [entry.statement for entry in entries] == [1, 1, 0]


async def test_a_run_that_fails_at_once_needs_no_repair(project: Project) -> None:
    await start(project)
    await write_by_hand(project, "shops", SHOPS)
    broken = await write_by_hand(project, "broken", BREAK)
    with pytest.raises(MigrationFailed) as caught:
        await project.database().upgrade()
    assert f"Nothing of {broken} remains" in caught.value.message
    correct(project, broken, BREAK, COUNT)
    assert [step.revision for step in (await project.database().upgrade()).steps][-1] == broken


async def test_half_a_revision_is_refused_and_carried_on_with(project: Project) -> None:
    """Where DDL commits by itself a part stays; elsewhere nothing does, and there is nothing to settle."""
    await start(project)
    broken = await write_by_hand(project, "half", SHOPS, FILL, COUNT, INDEX, BREAK)
    with pytest.raises(MigrationFailed) as caught:
        await project.database().upgrade()
    if project.dialect != "mysql":
        assert f"Nothing of {broken} remains" in caught.value.message
        assert await table_names(project) <= {"alembic_version"}
        return
    assert "repair --resume" in (caught.value.hint or "")
    for attempt in (project.database().upgrade(), project.database().downgrade("base")):
        with pytest.raises(UnfinishedRevision) as refused:
            await attempt
        assert broken in refused.value.message
        assert "statement 4" in refused.value.message
    correct(project, broken, BREAK, COUNT)
    repaired = await project.database().repair("resume")
    assert [step.revision for step in repaired.steps] == [broken]
    assert await project.rows("SELECT id, visits FROM shops") == [(1, 3)]
    assert (await project.database().upgrade()).steps == ()
    assert [entry.outcome for entry in await ledger(project)] == ["done"]


@pytest.mark.parametrize("project", ["mysql"], indirect=True)
async def test_a_revision_that_begins_differently_now_is_not_carried_on_with(project: Project) -> None:
    await start(project)
    broken = await write_by_hand(project, "half", SHOPS, FILL, INDEX, BREAK)
    with pytest.raises(MigrationFailed):
        await project.database().upgrade()
    correct(project, broken, "VALUES (1, 1)", "VALUES (1, 2)")
    with pytest.raises(UnfinishedRevision, match="does not begin with"):
        await project.database().repair("resume")
    assert (await project.database().current()).revisions == ()
    correct(project, broken, "VALUES (1, 2)", "VALUES (1, 1)")
    correct(project, broken, BREAK, COUNT)
    await project.database().repair("resume")
    assert await project.rows("SELECT id, visits FROM shops") == [(1, 2)]


@pytest.mark.parametrize("project", ["mysql"], indirect=True)
@pytest.mark.parametrize("settlement", ["mark-applied", "mark-rolled-back"])
async def test_what_somebody_did_by_hand_settles_it(project: Project, settlement: str) -> None:
    await start(project)
    broken = await write_by_hand(project, "half", SHOPS, FILL, INDEX, BREAK)
    with pytest.raises(MigrationFailed):
        await project.database().upgrade()
    code, document = project.answer("repair", f"--{settlement}")
    assert (code, document["result"]["settled"]["revision"]) == (0, broken)
    assert [entry.outcome for entry in await ledger(project)] == ["settled"]
    if settlement == "mark-applied":
        assert [info.revision for info in (await project.database().current()).revisions] == [broken]
        assert (await project.database().upgrade()).steps == ()
        return
    assert (await project.database().current()).revisions == ()
    await project.execute("DROP TABLE shops")
    correct(project, broken, BREAK, COUNT)
    assert [step.revision for step in (await project.database().upgrade()).steps] == [broken]


async def test_repair_has_nothing_to_do_and_wants_to_be_told_how(project: Project) -> None:
    await start(project)
    await write_by_hand(project, "shops", SHOPS)
    await project.database().upgrade()
    done = project.run("repair", "--resume")
    assert (done.returncode, done.stdout.splitlines()[0][:13]) == (0, "Nothing to do")
    assert project.run("repair").returncode == 2
    assert project.run("repair", "--resume", "--mark-applied").returncode == 2


async def left_half_done(project: Project) -> str:
    await start(project)
    return await failing(project, SHOPS, FILL, BREAK)


@pytest.mark.parametrize("project", ["mysql"], indirect=True)
@pytest.mark.parametrize("settlement", ["resume", "mark-rolled-back"])
async def test_what_somebody_settles_meanwhile_is_left_alone(project: Project, settlement: Literal["resume", "mark-rolled-back"]) -> None:
    broken = await left_half_done(project)
    seen: list[Event] = []
    async with migration_lock(project.settings()):
        repairing = asyncio.create_task(Database(project.settings(), observer=seen.append).repair(settlement))
        while not any(isinstance(event, Waiting) for event in seen):
            await asyncio.sleep(0.02)
        await project.execute("DROP TABLE shops", "UPDATE fininfra_migrations SET outcome = 'settled' WHERE outcome = 'running'")
    if settlement == "resume":
        with pytest.raises(UnfinishedRevision, match=f"Somebody else has settled revision {broken}"):
            await repairing
    else:
        assert (await repairing).settled is None
    assert await table_names(project) <= {"alembic_version"}
    assert (await project.database().current()).revisions == ()


@pytest.mark.parametrize("project", ["mysql"], indirect=True)
async def test_a_revision_whose_version_was_written_by_hand_is_marked_as_applied(project: Project) -> None:
    broken = await left_half_done(project)
    await project.execute(f"INSERT INTO alembic_version VALUES ('{broken}')")
    assert (await project.database().repair("mark-applied")).settled is not None
    assert (await project.database().upgrade()).steps == ()
    assert [entry.outcome for entry in await ledger(project)] == ["settled"]


@pytest.mark.parametrize("project", ["mysql"], indirect=True)
async def test_stamp_waits_for_a_run_and_refuses_what_is_unfinished(project: Project) -> None:
    broken = await left_half_done(project)
    with pytest.raises(UnfinishedRevision):
        await project.database().stamp(broken)


@pytest.mark.parametrize("project", ["postgresql"], indirect=True)
async def test_an_autocommit_block_that_failed_is_carried_on_with(project: Project) -> None:
    """What it had committed is not done a second time; where it is DDL alone, the run needs nobody's help."""
    await start(project)
    await write_by_hand(project, "shops", SHOPS, FILL)
    broken = await write_by_hand(project, "block", ADD, "with op.get_context().autocommit_block():", f"    {INDEX}", BREAK)
    with pytest.raises(MigrationFailed) as caught:
        await project.database().upgrade()
    assert f"A part of {broken} may remain" in caught.value.message
    correct(project, broken, BREAK, COUNT)
    assert [step.revision for step in (await project.database().upgrade()).steps] == [broken]
    assert await project.rows("SELECT visits FROM shops") == [(2,)]
    assert [entry.outcome for entry in await ledger(project)] == ["done", "done"]


@pytest.mark.parametrize("project", ["postgresql"], indirect=True)
async def test_changed_rows_that_were_committed_are_not_carried_on_with_unasked(project: Project) -> None:
    await start(project)
    await write_by_hand(project, "shops", SHOPS, FILL)
    broken = await failing(project, COUNT, "with op.get_context().autocommit_block():", f"    {INDEX}", BREAK)
    correct(project, broken, BREAK, COUNT)
    with pytest.raises(UnfinishedRevision):
        await project.database().upgrade()
    assert await project.rows("SELECT visits FROM shops") == [(2,)]
    await project.database().repair("resume")
    assert await project.rows("SELECT visits FROM shops") == [(3,)]


@pytest.mark.parametrize("project", ["postgresql", "mysql"], indirect=True)
async def test_a_statement_that_failed_in_an_autocommit_block_is_not_taken_for_done(project: Project) -> None:
    """Alembic commits at the end of the block all the same."""
    await start(project)
    await write_by_hand(project, "shops", SHOPS, FILL)
    broken = await failing(project, ADD, "with op.get_context().autocommit_block():", f"    {BREAK}", INDEX)
    for _ in range(2):
        with pytest.raises((MigrationFailed, UnfinishedRevision)):
            await project.database().repair("resume")
    correct(project, broken, BREAK, COUNT)
    await project.database().repair("resume")
    assert await project.rows("SELECT visits FROM shops") == [(2,)]


@pytest.mark.parametrize("project", ["mysql"], indirect=True)
async def test_what_the_server_refused_is_not_taken_for_done(project: Project) -> None:
    """The table that a statement misspells is missing as well when it is run again."""
    await start(project)
    await write_by_hand(project, "half", SHOPS, "op.execute('ALTER TABLE shopps ADD COLUMN zip INT')")
    with pytest.raises(MigrationFailed):
        await project.database().upgrade()
    with pytest.raises(MigrationFailed):
        await project.database().repair("resume")
    assert (await project.database().current()).revisions == ()


@pytest.mark.parametrize("project", ["postgresql"], indirect=True)
async def test_a_commit_of_the_revisions_own_is_not_said_to_be_rolled_back(project: Project) -> None:
    await start(project)
    broken = await write_by_hand(project, "half", SHOPS, FILL, "op.execute('COMMIT')", BREAK)
    with pytest.raises(MigrationFailed) as caught:
        await project.database().upgrade()
    assert f"A part of {broken} may remain" in caught.value.message
    with pytest.raises(UnfinishedRevision):
        await project.database().upgrade()


@pytest.mark.parametrize("project", ["postgresql", "mysql"], indirect=True)
async def test_a_reset_leaves_nothing_to_carry_on_with(project: Project) -> None:
    await create_empty_database(project)
    await use_models(
        project,
        "from sqlalchemy import Column, Integer, MetaData, Table\nmetadata = MetaData()\nTable('shops', metadata, Column('id', Integer))",
    )
    broken = await write_by_hand(project, "half", SHOPS, "with op.get_context().autocommit_block():", f"    {INDEX}", BREAK)
    with pytest.raises(MigrationFailed):
        await project.database().upgrade()
    correct(project, broken, BREAK, FILL)
    reset = await project.database().reset()
    assert [step.revision for step in reset.migrated.steps] == [broken]
    assert await project.rows("SELECT id FROM shops") == [(1,)]


@pytest.mark.parametrize("project", ["mysql"], indirect=True)
async def test_a_stamp_waits_for_the_repair(project: Project) -> None:
    await start(project)
    await write_by_hand(project, "half", SHOPS, FILL, INDEX, BREAK)
    with pytest.raises(MigrationFailed):
        await project.database().upgrade()
    with pytest.raises(UnfinishedRevision):
        await project.database().stamp("head")


async def test_plain_alembic_keeps_the_journal_too(project: Project) -> None:
    await start(project)
    first = await write_by_hand(project, "shops", SHOPS)
    broken = await write_by_hand(project, "half", FILL, INDEX, BREAK)
    failed = alembic(project, "upgrade", "head")
    assert failed.returncode != 0
    if project.dialect == "mysql":
        assert [(entry.revision, entry.outcome) for entry in await ledger(project)] == [(first, "done"), (broken, "running")]
        again = alembic(project, "upgrade", "head")
        assert again.returncode != 0
        assert "repair --resume" in again.stdout + again.stderr
        correct(project, broken, BREAK, COUNT)
        await project.database().repair("resume")
    else:
        correct(project, broken, BREAK, COUNT)
        assert alembic(project, "upgrade", "head").returncode == 0
    assert [(entry.revision, entry.outcome) for entry in await ledger(project)] == [(first, "done"), (broken, "done")]


def alembic(project: Project, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("SQL_URL", "APP_ENV")}
    return subprocess.run(
        [sys.executable, "-m", "alembic", *words],
        cwd=project.root,
        env=environment | project.environ | {"SQL_URL": project.url},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_checksum_is_of_the_code_alone(tmp_path: Path) -> None:
    def checksum(text: str) -> str:
        path = tmp_path / "revision.py"
        path.write_text(text, encoding="utf-8")
        return checksum_of(path)

    code = 'revision = "a"\n\ndef upgrade():\n    op.execute("UPDATE x SET y = \'#1\'")\n'
    same = checksum(f'"""A message."""\n{code}')
    assert checksum(f'# a licence\n"""Another\nmessage."""\n\n{code}  # why\n\n') == same
    assert checksum(code.replace("\n\n", "\n# a comment\n")) == same
    assert checksum(code.replace("#1", "#2")) != same
    assert checksum(code.replace("    op", "    if True:\n        op")) != same
    with pytest.raises(FininfraDbError):
        checksum_of(tmp_path / "missing.py")


async def test_an_empty_function_is_a_revision_too(sqlite_project: Project) -> None:
    await start(sqlite_project)
    revision = await write_by_hand(sqlite_project, "nothing")
    append_upgrade(sqlite_project.versions()[0], "pass")
    await sqlite_project.database().upgrade()
    assert [(entry.revision, entry.statement) for entry in await ledger(sqlite_project)] == [(revision, 0)]
