"""The database's own mark of what it is, and what it keeps from being lost by accident."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from fininfra_db.connections import ensure_database, locked_transaction, open_connection
from fininfra_db.database import Database
from fininfra_db.dialects import target_of
from fininfra_db.errors import (
    DatabaseFailed,
    DatabaseMissing,
    FininfraDbError,
    OptionsInvalid,
    Protected,
    Refused,
    WrongDatabaseName,
)
from fininfra_db.events import BlastRadius, Dropped, Event, Question
from fininfra_db.migrate.authoring import Draft
from fininfra_db.migrate.guard import RESET, assess
from fininfra_db.migrate.marker import mark
from tests.cli.helpers import interrupted
from tests.conftest import LOCAL_SERVERS, Project, clean_environment, drop_database, url_on
from tests.contract.helpers import files_of, table_names, use_models, write_by_hand, write_module

SHOP = """
    from sqlalchemy import Column, Enum, ForeignKey, Integer, MetaData, String, Table

    from fininfra_db.types import UtcDateTime

    metadata = MetaData()
    Table(
        "shops",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("kind", Enum("corner", "mall", name="shop_kind")),
        Column("created_at", UtcDateTime()),
    )
    Table(
        "sales",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("shop_id", ForeignKey("shops.id"), index=True),
        Column("note", String(20)),
    )
"""
ROWS = (
    "INSERT INTO shops (id, kind, created_at) VALUES (1, 'corner', '2026-03-01 12:30:00')",
    "INSERT INTO sales (id, shop_id) VALUES (1, 1)",
    "INSERT INTO sales (id, shop_id) VALUES (2, 1)",
)
TABLES = {"shops", "sales", "alembic_version"}


async def start(project: Project, **environ: str) -> Database:
    """The shop at head, with three rows."""
    await use_models(project, SHOP)
    database = project.database(**environ)
    await database.setup_and_migrate()
    await project.execute(*ROWS)
    return database


async def marker(project: Project) -> str | None:
    return (await project.database().environment()).environment


def name_of(project: Project) -> str:
    return Path(make_url(project.url).database or "").name


async def counts(project: Project) -> dict[str, int]:
    """How many rows each table has, and that it is there."""
    names = sorted(await table_names(project))
    return {name: int((await project.rows(f"SELECT count(*) FROM {name}"))[0][0]) for name in names}


# The marker.


async def test_a_database_is_marked_shown_and_unmarked(project: Project) -> None:
    database = await start(project)
    assert (await database.environment()).environment is None
    assert "fininfra_meta" not in await table_names(project), "showing must not make the table"
    marked = await database.set_environment(" Staging ")
    assert (marked.before, marked.environment, marked.protected) == (None, "staging", False)
    assert await marker(project) == "staging"
    assert (await database.set_environment("dev")).before == "staging"
    assert await marker(project) == "development"
    assert (await database.set_environment("none")).environment is None
    assert await marker(project) is None


@pytest.mark.parametrize("name", ["", " ", "two words", "Prod!", "ümlaut", "x" * 51, "'; DROP TABLE users; --"])
async def test_a_name_that_is_no_word_is_refused(sqlite_project: Project, name: str) -> None:
    database = await start(sqlite_project)
    with pytest.raises(OptionsInvalid):
        await database.set_environment(name)
    assert await marker(sqlite_project) is None


async def test_a_protected_marker_is_changed_only_by_the_databases_name(project: Project) -> None:
    database = await start(project)
    assert (await database.set_environment("prod")).protected
    assert (await database.set_environment("production")).before == "production", "the same again is nothing to refuse"
    for name in ("development", "none", "staging"):
        with pytest.raises(Protected, match="Nothing was changed") as caught:
            await database.set_environment(name)
        assert f"--confirm-database {name_of(project)}" in (caught.value.hint or "")
        with pytest.raises(WrongDatabaseName):
            await database.set_environment(name, confirm_database="other")
    assert await marker(project) == "production"
    assert (await database.set_environment("none", confirm_database=name_of(project))).before == "production"
    assert await marker(project) is None


async def test_there_is_no_marker_where_there_is_no_database(project: Project) -> None:
    before = files_of(project.root)
    for call in (project.database().environment, lambda: project.database().set_environment("production")):
        with pytest.raises(DatabaseMissing):
            await call()
    assert files_of(project.root) == before


async def test_the_command_line_shows_and_sets(sqlite_project: Project) -> None:
    project = sqlite_project
    await start(project)
    before = files_of(project.root)
    shown = project.run("environment", "show")
    assert (shown.returncode, shown.stdout.partition(":")[0]) == (0, "none")
    code, document = project.answer("environment", "show")
    assert (code, document["result"]["environment"]) == (0, None)
    assert files_of(project.root) == before
    assert project.run("environment", "set", "prod").stdout == "Marked production, which is protected (was not marked).\n"
    assert project.run("environment", "show").stdout == "production (protected)\n"
    refused = project.run("environment", "set", "development", "--json")
    assert (refused.returncode, '"code": "protected"' in refused.stdout) == (4, True)
    changed = project.run("environment", "set", "development", "--confirm-database", name_of(project))
    assert changed.stdout == "Marked development (was production).\n"


@pytest.mark.parametrize(("app_env", "expected"), [("prod", "production"), ("STAGING", "staging"), ("", None), ("no word!", None)])
async def test_a_migration_marks_the_database_with_app_env(project: Project, app_env: str, expected: str | None) -> None:
    await start(project, APP_ENV=app_env)
    assert await marker(project) == expected


async def test_a_marker_is_never_overwritten_by_a_migration(project: Project) -> None:
    await start(project, APP_ENV="staging")
    await write_by_hand(project, "more")
    assert (await project.database(APP_ENV="production").upgrade()).steps
    assert await marker(project) == "staging"


async def test_nothing_to_do_marks_nothing(project: Project) -> None:
    await start(project)
    await project.database(APP_ENV="production").upgrade()
    await project.database(APP_ENV="production").setup_and_migrate()
    assert await marker(project) is None
    assert "fininfra_meta" not in await table_names(project)


async def test_a_marker_that_cannot_be_written_is_a_warning(project: Project) -> None:
    """The migration is done by then, and must not be reported as failed."""
    await start(project)
    await project.execute("CREATE TABLE fininfra_meta (something_else INTEGER)")
    await write_by_hand(project, "more")
    migrated = await project.database(APP_ENV="staging").upgrade()
    assert len(migrated.steps) == 1
    assert "fininfra-db environment set staging" in migrated.warnings[0]


async def test_several_migrators_mark_once(project: Project) -> None:
    await use_models(project, SHOP)
    await ensure_database(project.settings())
    await write_by_hand(project, "nothing")
    await asyncio.gather(*(project.database(APP_ENV="staging").upgrade() for _ in range(4)))
    assert await project.rows("SELECT name, value FROM fininfra_meta") == [("environment", "staging")]


async def test_the_marker_outlives_reset_and_downgrade(project: Project) -> None:
    database = await start(project)
    await database.set_environment("development")
    await database.downgrade("base")
    assert await marker(project) == "development"
    await database.upgrade()
    assert "fininfra_meta" not in (await database.reset()).dropped
    assert await marker(project) == "development"


@pytest.mark.parametrize(
    "models", [SHOP, SHOP.replace("metadata = MetaData()", "metadata = MetaData(naming_convention={})")], ids=["a", "b"]
)
async def test_own_tables_are_no_difference(project: Project, models: str) -> None:
    database = await start(project)
    await use_models(project, models)
    await database.set_environment("development")
    await project.execute(
        "CREATE TABLE fininfra_other (id INTEGER PRIMARY KEY, x INTEGER)", "CREATE INDEX fininfra_ix ON fininfra_other (x)"
    )
    assert (await database.check()).findings == ()
    assert (await database.revision(Draft("nothing", autogenerate=True, allow_drop=True))).revisions == ()
    environment = clean_environment() | project.environ | {"SQL_URL": project.url}
    command = [sys.executable, "-m", "alembic.config", "check"]
    done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


FOREIGN_ENV = """
from alembic import context
from sqlalchemy import NullPool, create_engine
from {module} import metadata

def hook(context, revision, directives):
    with open({log!r}, "a") as log:
        log.write(repr([operation.to_diff_tuple() for operation in directives[0].upgrade_ops.ops]))

engine = create_engine({url!r}, poolclass=NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, process_revision_directives=hook)
    with context.begin_transaction():
        context.run_migrations()
"""


async def make_foreign(project: Project, url: str) -> Path:
    """Give the project an ``env.py`` of somebody's own, which connects to ``url`` whatever the settings say."""
    log = project.root / "directives.log"
    module = write_module(project.root, SHOP)
    source = FOREIGN_ENV.format(
        module=module, log=str(log), url=target_of(replace(project.settings(), sql_url=url)).url.render_as_string(False)
    )
    (project.root / "migrations" / "env.py").write_text(source, encoding="utf-8")
    return log


async def test_own_tables_are_no_difference_to_a_foreign_env(project: Project) -> None:
    database = await start(project)
    await database.set_environment("development")
    log = await make_foreign(project, project.url)
    assert (await database.check()).findings == ()
    assert (await database.revision(Draft("nothing", autogenerate=True, allow_drop=True))).revisions == ()
    assert "fininfra" not in log.read_text(encoding="utf-8"), "their hook saw a table of this program's"


async def test_the_database_that_a_foreign_env_connects_to_is_the_one_guarded(project: Project, tmp_path: Path) -> None:
    """The settings name a harmless database, ``env.py`` a production one."""
    await start(project, APP_ENV="production")
    await make_foreign(project, project.url)
    other = replace(project, url=url_on(project.dialect, tmp_path, "harmless"))
    try:
        await ensure_database(other.settings())
        async with open_connection(other.settings(), "migration"):
            pass
        with pytest.raises(Protected, match=f"{name_of(project)} \\(from env.py\\)") as caught:
            await other.database().downgrade("base")
        assert f"--confirm-database {name_of(project)}" in (caught.value.hint or "")
    finally:
        await drop_database(other.url)
    assert (await counts(project))["sales"] == 2


# The guard, through the library.

VERBS: dict[str, Any] = {
    "reset": lambda database, **options: database.reset(**options),
    "reset --seed": lambda database, **options: database.reset(seed="seeds:more", **options),
    "seed": lambda database, **options: database.seed("seeds:more", **options),
    "downgrade": lambda database, **options: database.downgrade("base", **options),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_library_caller_is_guarded_too(project: Project, verb: str) -> None:
    await start(project, APP_ENV="production")
    (project.root / "seeds.py").write_text(
        "from sqlalchemy import text\n\n\ndef more(session):\n    session.execute(text('INSERT INTO sales (id) VALUES (9)'))\n",
        encoding="utf-8",
    )
    sys.modules.pop("seeds", None)
    before = await counts(project)
    for options in ({}, {"APP_ENV": "production"}, {"APP_ENV": "staging"}):
        with pytest.raises(Protected) as caught:
            await VERBS[verb](project.database(**options))
        assert caught.value.exit_code == 4
        assert "marked production" in caught.value.message
        assert "Nothing was changed in " in caught.value.message
        assert f"--confirm-database {name_of(project)}" in (caught.value.hint or "")
        assert "environment set" in (caught.value.hint or "")
    with pytest.raises(WrongDatabaseName):
        await VERBS[verb](project.database(), confirm_database="production")
    assert await counts(project) == before
    if "seed" in verb:
        for options in ({}, {"APP_ENV": "production"}, {"APP_ENV": "staging"}):
            with pytest.raises(Protected, match="example rows are never written there"):
                await VERBS[verb](project.database(**options), confirm_database=name_of(project))
        assert await counts(project) == before
        await project.database().set_environment("development", confirm_database=name_of(project))
    await VERBS[verb](project.database(), confirm_database=name_of(project))
    assert await counts(project) != before
    sys.modules.pop("seeds", None)


async def test_a_mark_that_appears_while_commands_wait_is_respected(project: Project) -> None:
    """Whoever marks a database holds the migration lock, for which a command waits when it has asked the guard."""
    await start(project)
    (project.root / "seeds.py").write_text(
        "from sqlalchemy import text\n\n\ndef more(session):\n    session.execute(text('INSERT INTO sales (id) VALUES (9)'))\n",
        encoding="utf-8",
    )
    sys.modules.pop("seeds", None)
    before = await counts(project)
    verbs = VERBS | {"environment set": lambda database: database.set_environment("development")}
    async with locked_transaction(project.settings(), "seeding") as connection:
        await connection.run_sync(lambda sync: mark(sync, "production"))
        commands = [asyncio.create_task(verb(project.database())) for verb in verbs.values()]
        await asyncio.sleep(2)  # the guard has looked by now
        assert not any(command.done() for command in commands)
    for command in commands:
        with pytest.raises(Refused, match=r"somebody marked the database as production.*Nothing was changed") as caught:
            await command
        assert caught.value.exit_code == 4
    assert await marker(project) == "production"
    assert await counts(project) | before == await counts(project)
    sys.modules.pop("seeds", None)


async def test_a_wrong_name_is_refused_where_nothing_is_protected(project: Project) -> None:
    database = await start(project)
    before = await counts(project)
    for verb in (database.reset, lambda **options: database.downgrade("base", **options)):
        with pytest.raises(WrongDatabaseName, match=name_of(project)):
            await verb(confirm_database=name_of(project) + "x")
    assert await counts(project) == before


async def test_an_environment_of_the_projects_own_is_protected(project: Project) -> None:
    database = await start(project)
    ini = project.root / "alembic.ini"
    ini.write_text(ini.read_text(encoding="utf-8").replace("[fininfra_db]", "[fininfra_db]\nprotected = Prod, pci"), encoding="utf-8")
    await database.set_environment("pci")
    with pytest.raises(Protected, match="marked pci"):
        await project.database(APP_ENV="pci").downgrade("base")


async def test_what_is_not_there_cannot_be_harmed(project: Project) -> None:
    """A first set-up in production by ``reset`` takes no confirmation; afterwards it does."""
    await use_models(project, SHOP)
    production = project.database(APP_ENV="production")
    assert (await production.reset()).dropped == ()
    with pytest.raises(Protected):
        await production.reset()


async def test_a_missing_database_has_the_name_of_the_url(project: Project) -> None:
    await use_models(project, SHOP)
    with pytest.raises(WrongDatabaseName, match=name_of(project)):
        await project.database().reset(confirm_database="other")
    assert (await project.database().reset(confirm_database=name_of(project))).migrated.steps


async def test_a_person_is_asked_once_and_after_the_look(project: Project) -> None:
    await start(project, APP_ENV="production")
    questions: list[Question] = []

    def answering(answer: str | None) -> Database:
        return Database(project.settings(), confirm=lambda question: questions.append(question) or answer)

    before = await counts(project)
    for answer, error in ((None, Protected), ("", Refused), ("y", Refused), ("production", Refused)):
        with pytest.raises(error):
            await answering(answer).downgrade("base")
    assert await counts(project) == before
    await answering(name_of(project)).downgrade("base")
    assert len(questions) == 5
    assert questions[0].blast_radius.rows == {"sales": 2, "shops": 1}
    assert questions[0].reason == "the database is marked production, which is protected"


# What is at stake.


async def test_the_blast_radius_is_told_and_returned(project: Project) -> None:
    await start(project)
    told: list[Event] = []
    migrated = await Database(project.settings(), observer=told.append).downgrade("base")
    radius = migrated.blast_radius
    assert radius is not None
    assert [event for event in told if isinstance(event, BlastRadius)] == [radius]
    assert told[0] == radius, "it was told after something had happened"
    assert (radius.database, radius.source) == (name_of(project), "SQL_URL in environment")
    assert radius.rows == {"sales": 2, "shops": 1}
    assert radius.newest_write == datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    assert str(radius) == "3 rows: sales 2, shops 1; newest write 2026-03-01 12:30:00 UTC"
    assert (await project.database().reset()).blast_radius == replace(radius, rows={}, newest_write=None)


async def test_the_command_line_tells_what_is_at_stake(sqlite_project: Project) -> None:
    project = sqlite_project
    await start(project)
    words = "This database holds 3 rows: sales 2, shops 1; newest write 2026-03-01 12:30:00 UTC."
    done = project.run("downgrade", "base")
    assert done.returncode == 0
    assert words in done.stderr
    assert "(from SQL_URL in environment)" in done.stderr
    await project.database().upgrade()
    await project.execute(*ROWS)
    code, document = project.answer("reset")
    assert (code, "3 rows: sales 2, shops 1" in document["error"]["message"]) == (4, True)
    code, document = project.answer("reset", "--yes")
    assert (code, document["result"]["blast_radius"]["rows"]) == (0, {"sales": 2, "shops": 1})
    assert document["result"]["blast_radius"]["newest_write"] == "2026-03-01T12:30:00Z"


def test_many_tables_are_cut_and_the_rest_is_counted() -> None:
    rows = {f"t{number:02}": 100 - number for number in range(15)}
    words = str(BlastRadius("d", "u", "s", rows=rows))
    assert words.startswith("1,395 rows: t00 100, t01 99, ")
    assert words.endswith("t11 89, 261 in 3 more tables")
    assert str(BlastRadius("d", "u", "s")) == "no rows"
    assert str(BlastRadius("d", "u", "s", rows={"t": 1})) == "1 row: t 1"


async def test_a_column_that_only_sounds_like_an_instant_is_no_trouble(project: Project) -> None:
    await start(project)
    await project.execute("CREATE TABLE odd (created_at INTEGER, updated_at VARCHAR(20))", "INSERT INTO odd VALUES (1, 'yesterday')")
    if project.dialect == "sqlite":
        await project.execute("CREATE TABLE odder (created_at DATETIME)", "INSERT INTO odder VALUES ('whenever')")
    radius = (await assess(project.settings(), None, RESET)).blast_radius
    assert radius.rows["odd"] == 1
    assert radius.newest_write == datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize("project", ["postgresql"], indirect=True)
async def test_rows_in_another_schema_and_rows_that_may_not_be_read_count(project: Project) -> None:
    await start(project)
    role = f"{name_of(project)}_role"
    await project.execute(
        "CREATE SCHEMA ledger",
        "CREATE TABLE ledger.entries (id INTEGER)",
        "INSERT INTO ledger.entries VALUES (1)",
        f"CREATE ROLE {role} LOGIN",
        f"GRANT USAGE ON SCHEMA ledger TO {role}",
        f"GRANT SELECT ON shops TO {role}",
    )
    try:
        assert (await assess(project.settings(), None, RESET)).blast_radius.rows["ledger.entries"] == 1
        theirs = replace(project, url=make_url(project.url).set(username=role).render_as_string(hide_password=False))
        radius = (await assess(theirs.settings(), None, RESET)).blast_radius
        assert radius.rows == {"shops": 1}
        assert radius.unread == ("alembic_version", "ledger.entries", "sales")[-len(radius.unread) :]
        assert "not readable: " in str(radius)
    finally:
        await project.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@asynccontextmanager
async def holding(project: Project, table: str) -> AsyncIterator[None]:
    """Hold a table as a migration of somebody else does."""
    statement = f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE" if project.dialect == "postgresql" else f"LOCK TABLES {table} WRITE"
    async with open_connection(project.settings(), "migration") as connection:
        await connection.execute(text(statement))
        yield


@pytest.mark.parametrize("project", LOCAL_SERVERS, indirect=True)
async def test_the_look_does_not_wait_for_a_table_that_a_migration_holds(project: Project) -> None:
    await start(project)
    async with holding(project, "sales"), asyncio.timeout(8):
        radius = (await assess(project.settings(), None, RESET)).blast_radius
    assert (radius.rows, radius.unread) == ({"shops": 1}, ("sales",))


# A reset names what it dropped.


async def test_a_reset_names_tables_and_types(project: Project) -> None:
    database = await start(project)
    done = await database.reset()
    assert set(done.dropped) == TABLES
    assert done.dropped_types == (("shop_kind",) if project.dialect == "postgresql" else ())


async def test_a_reset_that_fails_after_the_drop_names_what_is_gone(project: Project) -> None:
    await start(project)
    await write_by_hand(project, "broken", "op.execute('SELECT nothing FROM nowhere')")
    code, document = project.answer("reset", "--yes")
    assert (code, document["error"]["code"]) == (1, "migration-failed")
    named = document["error"]["message"].partition("Before that, the reset had dropped ")[2]
    assert all(name in named for name in TABLES)
    assert ("shop_kind" in named) == (project.dialect == "postgresql")


async def test_a_reset_that_is_interrupted_after_the_drop_names_what_is_gone(project: Project) -> None:
    await start(project)
    told: list[Event] = []

    def interrupt(event: Event) -> None:
        told.append(event)
        if not isinstance(event, BlastRadius | Dropped):
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Database(project.settings(), observer=interrupt).reset()
    assert isinstance(told[-1], Dropped)
    assert set(told[-1].tables) == TABLES


@pytest.mark.parametrize(
    ("project", "words"),
    [("sqlite", ("-q",)), ("sqlite", ("--json",)), ("postgresql", ("--json",)), ("mysql", ("-q",))],
    indirect=["project"],
    ids=["sqlite -q", "sqlite --json", "postgresql --json", "mysql -q"],
)
async def test_ctrl_c_after_the_drop_names_what_is_gone_on_stderr(project: Project, words: tuple[str, ...]) -> None:
    await start(project)
    started = project.root / "started"
    await write_by_hand(project, "slow", f"open({str(started)!r}, 'w').close()", "__import__('time').sleep(300)")
    done = interrupted(project, "reset", "--yes", *words, when=started)
    assert done.returncode == 130
    named = done.stderr.partition("Dropped before this ended: ")[2]
    assert all(name in named for name in TABLES)


@pytest.mark.parametrize("project", ["mysql"], indirect=True)
async def test_a_drop_that_fails_half_way_names_both_halves(project: Project) -> None:
    """MariaDB commits each DROP; a foreign key from another database stops the second one."""
    database = await start(project)
    other = f"{name_of(project)}_other"
    await project.execute(
        f"CREATE DATABASE {other}",
        f"CREATE TABLE {other}.needs (shop_id INTEGER, FOREIGN KEY (shop_id) REFERENCES {name_of(project)}.shops (id))",
    )
    try:
        with pytest.raises(DatabaseFailed) as caught:
            await database.reset()
    finally:
        await project.execute(f"DROP DATABASE {other}")
    left = await table_names(project)
    gone, still = caught.value.message.partition("Dropped already: ")[2].split(". Still there: ")
    assert set(gone.split(", ")) == TABLES - left
    assert set(still.rstrip(".").split(", ")) == left
    assert TABLES - left
    assert "shops" in left
    assert "alembic_version" not in left, "the database must not say that it is at head"
    assert (await database.status()).pending
    assert set((await database.reset()).dropped) == left, "run again, it goes on"


@pytest.mark.parametrize("project", ["postgresql"], indirect=True)
async def test_a_drop_that_fails_and_is_rolled_back_says_so(project: Project) -> None:
    database = await start(project)
    await project.execute("CREATE VIEW needs AS SELECT * FROM shops")
    before = await counts(project)
    with pytest.raises(FininfraDbError, match="Nothing was dropped"):
        await database.reset()
    assert await counts(project) == before
