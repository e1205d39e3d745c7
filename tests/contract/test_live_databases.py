"""A database that others use while it is migrated: how long they are held up, what waits for whom, and what is left behind."""

import asyncio
import time

import pytest
from sqlalchemy import text

from fininfra_db.errors import MigrationFailed, TableLocked
from fininfra_db.events import Event, Retrying
from fininfra_db.migrate import retry
from tests.conftest import Project
from tests.contract.helpers import column_names
from tests.contract.live import at_head_with, open_reader, patient, until, upgrade_behind_reader

ADD_COLUMN = 'op.add_column("users", sa.Column("nickname", sa.String(20)))'
SETTINGS = {
    "postgresql": "CREATE TABLE told AS SELECT name, setting FROM pg_settings WHERE source = 'session'",
    "mysql": "CREATE TABLE told AS SELECT LOWER(variable_name) AS name, variable_value AS setting "
    "FROM information_schema.session_variables WHERE variable_name IN ('lock_wait_timeout', 'max_statement_time', 'wait_timeout')",
}


# How long a migration waits.


async def test_readers_are_held_up_no_longer_than_the_timeout_and_a_second(
    server_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "backoff", lambda _attempt: 0.3)
    await at_head_with(server_project, ADD_COLUMN)
    seen: list[Event] = []
    stall = await upgrade_behind_reader(
        server_project, patient(server_project, seen, ddl_lock_timeout=1.0), 4.0, "SELECT count(*) FROM users"
    )
    assert 0.5 < stall < 2.0
    assert "nickname" in await column_names(server_project, "users")
    first, *_ = retries = [event for event in seen if isinstance(event, Retrying)]
    assert [event.attempt for event in retries] == list(range(2, len(retries) + 2))
    assert first.revision == "aaaa0"
    assert len(first.blockers) == 1
    assert first.blockers[0].startswith("pid ")


async def test_who_holds_a_table_is_named(postgresql_project: Project) -> None:
    await at_head_with(postgresql_project, ADD_COLUMN)
    seen: list[Event] = []
    async with open_reader(postgresql_project) as reader:
        await reader.execute(text("SELECT set_config('application_name', 'web', false)"))
        pid = await reader.scalar(text("SELECT pg_backend_pid()"))
        await reader.execute(text("SELECT id FROM users WHERE email = 'alice@example.com'"))
        task = asyncio.create_task(patient(postgresql_project, seen, ddl_lock_timeout=0.2).upgrade())

        async def retried() -> bool:
            return any(isinstance(event, Retrying) for event in seen)

        await until(retried)
    await task
    blockers = next(event for event in seen if isinstance(event, Retrying)).blockers
    assert len(blockers) == 1
    assert blockers[0].startswith(f"pid {pid} (")
    assert "web, idle in transaction for " in blockers[0]
    assert blockers[0].endswith("SELECT id FROM users WHERE email =...")
    assert "alice" not in blockers[0]


async def test_the_last_attempt_fails_naming_who_is_in_the_way(server_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 3)
    monkeypatch.setattr(retry, "backoff", lambda _attempt: 0.05)
    await at_head_with(server_project, 'op.create_table("fine", sa.Column("id", sa.Integer, primary_key=True))', ADD_COLUMN)
    seen: list[Event] = []
    async with open_reader(server_project):
        with pytest.raises(
            TableLocked, match=r"aaaa1 .* tried 3 times. In the way: pid \d+ .*The database is at aaaa0. Nothing of aaaa1"
        ) as e:
            await patient(server_project, seen, ddl_lock_timeout=1.0).upgrade()
    assert "--ddl-lock-timeout" in str(e.value.hint)
    assert [event.attempt for event in seen if isinstance(event, Retrying)] == [2, 3]
    assert (await patient(server_project).upgrade()).after == ("aaaa1",)


async def test_another_error_is_not_tried_again(server_project: Project) -> None:
    await at_head_with(server_project, 'op.execute("ALTER TABLE nowhere ADD COLUMN nickname INT")')
    seen: list[Event] = []
    with pytest.raises(MigrationFailed):
        await patient(server_project, seen).upgrade()
    assert not [event for event in seen if isinstance(event, Retrying)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            [],
            {
                "postgresql": {"lock_timeout": "5000", "statement_timeout": "0"},
                "mysql": {"lock_wait_timeout": "5", "max_statement_time": "0.000000"},
            },
        ),
        (
            ["--ddl-lock-timeout", "2.5", "--statement-timeout", "90"],
            {
                "postgresql": {"lock_timeout": "2500", "statement_timeout": "90000"},
                "mysql": {"lock_wait_timeout": "3", "max_statement_time": "90.000000"},
            },
        ),
        (
            ["--ddl-lock-timeout", "0"],
            {"postgresql": {"lock_timeout": "0"}, "mysql": {"lock_wait_timeout": "31536000"}},
        ),
    ],
    ids=["default", "options", "no limit"],
)
async def test_a_migration_is_told_how_long_to_wait(server_project: Project, words: list[str], expected: dict[str, dict[str, str]]) -> None:
    await at_head_with(server_project, f"op.execute({SETTINGS[server_project.dialect]!r})")
    done = server_project.run("upgrade", *words)
    assert done.returncode == 0, done.stderr
    told = dict(await server_project.rows("SELECT name, setting FROM told"))
    assert told.items() >= expected[server_project.dialect].items()
    if server_project.dialect == "postgresql":
        assert told.items() >= {"idle_in_transaction_session_timeout": "0", "client_connection_check_interval": "2000"}.items()
        assert told["application_name"].startswith("fininfra-db ")


async def test_the_name_of_the_program_may_be_the_urls(postgresql_project: Project) -> None:
    await at_head_with(postgresql_project, "op.execute(\"CREATE TABLE told AS SELECT current_setting('application_name') AS name\")")
    postgresql_project.url += "?application_name=deploy"
    await postgresql_project.database().upgrade()
    assert await postgresql_project.rows("SELECT name FROM told") == [("deploy",)]


async def test_alembic_ini_says_how_long_to_wait(postgresql_project: Project) -> None:
    await at_head_with(postgresql_project, f"op.execute({SETTINGS['postgresql']!r})")
    ini = postgresql_project.root / "alembic.ini"
    ini.write_text(ini.read_text().replace("[fininfra_db]", "[fininfra_db]\nddl_lock_timeout = 7\nstatement_timeout = 60"))
    await postgresql_project.database().upgrade()
    told = dict(await postgresql_project.rows("SELECT name, setting FROM told"))
    assert (told["lock_timeout"], told["statement_timeout"]) == ("7000", "60000")


async def test_a_statement_ends_after_its_timeout(postgresql_project: Project) -> None:
    await at_head_with(postgresql_project, 'op.execute("SELECT pg_sleep(30)")')
    started = time.monotonic()
    with pytest.raises(MigrationFailed, match="statement timeout"):
        await patient(postgresql_project, statement_timeout=0.5).upgrade()
    assert time.monotonic() - started < 10


async def test_a_pause_in_a_revision_lets_the_event_loop_go_on(sqlite_project: Project) -> None:
    await at_head_with(sqlite_project, "from fininfra_db.migrate.retry import pause; pause(0.5)")
    ticks = 0
    task = asyncio.create_task(sqlite_project.database().upgrade())
    while not task.done():
        await asyncio.sleep(0.02)
        ticks += 1
    assert ticks > 10
    started = time.monotonic()
    retry.pause(0.05)
    assert time.monotonic() - started >= 0.05


def test_the_time_between_attempts_grows_to_half_a_minute() -> None:
    longest = {attempt: max(retry.backoff(attempt) for _ in range(400)) for attempt in (1, 2, 4, 10)}
    shortest = min(retry.backoff(10) for _ in range(400))
    assert 0.4 < longest[1] <= 0.5 < longest[2] <= 1.0
    assert 2.0 < longest[4] <= 4.0
    assert 25.0 < longest[10] <= 30.0
    assert shortest < 3.0
