"""Somebody's existing Alembic project: their ``env.py``, made by ``alembic init``, and nothing but the URL from our settings."""

import asyncio
import logging
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import make_url

from fininfra_db.database import Database
from fininfra_db.errors import DatabaseMissing, MigrationFailed, Refused, RevisionNotFound, UnfinishedRevision
from fininfra_db.events import Event, Retrying
from fininfra_db.migrate import retry
from fininfra_db.migrate.authoring import Draft
from tests.conftest import Project, clean_environment, drop_database, make_project
from tests.contract.helpers import append_upgrade, create_empty_database, files_of, table_names, write_by_hand, write_module
from tests.contract.live import open_reader, until

TEMPLATES = ("generic", "async", "pyproject", "pyproject_async")
TABLES = {"customers", "orders"}
MODELS = """
    from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table

    metadata = MetaData()
    customers = Table("customers", metadata, Column("id", Integer, primary_key=True), Column("name", String(50), nullable=False))
    orders = Table(
        "orders", metadata, Column("id", Integer, primary_key=True), Column("customer_id", ForeignKey("customers.id"), nullable=False)
    )
"""
HOOK = """
def process(context, revision, directives):
    for script in directives:
        script.upgrade_ops.ops = [operation for operation in script.upgrade_ops.ops if operation.table_name != 'orders']
    if getattr(config.cmd_opts, 'x') is None and config.cmd_opts.autogenerate and directives[0].upgrade_ops.is_empty():
        directives[:] = []


"""
NUMBERING = """
def process(context, revision, directives):
    directives[0].rev_id = '0001'


"""
FIRST = Draft(message="shop", autogenerate=True)


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each template, as ``alembic init`` leaves it."""
    root = tmp_path_factory.mktemp("templates")
    for template in TEMPLATES:
        (root / template).mkdir()
        command = [sys.executable, "-m", "alembic.config", "init", "-t", template, "alembic"]
        subprocess.run(command, cwd=root / template, env=clean_environment(), check=True, capture_output=True)
    return root


@pytest.fixture
def mysql_project(tmp_path: Path, key: str) -> Iterator[Project]:
    """An empty project on MariaDB, the one local server that asks for a password."""
    yield from make_project("mysql", tmp_path, key)


each_template = pytest.mark.parametrize("template", TEMPLATES)
each_kind = pytest.mark.parametrize("template", ["generic", "async"])
"""One template that makes a synchronous engine and one that starts an event loop; the other two differ in their files only."""


def make_foreign(project: Project, templates: Path, template: str, models: str = MODELS) -> str:
    """Make an empty project what ``alembic init`` makes, with models in ``env.py`` as its comments say; their module's name is returned."""
    shutil.copytree(templates / template, project.root, dirs_exist_ok=True)
    module = write_module(project.root, models)
    edit_env(project, "target_metadata = None", f"from {module} import metadata as target_metadata")
    return module


def edit_env(project: Project, pattern: str, new: str) -> None:
    """Replace a piece of ``env.py``."""
    path = project.root / "alembic" / "env.py"
    source, replaced = re.subn(pattern, new, path.read_text(encoding="utf-8"))
    assert replaced
    path.write_text(source, encoding="utf-8")


def configure_with(project: Project, options: str) -> None:
    """Give ``context.configure`` of their ``env.py`` more arguments."""
    edit_env(project, "target_metadata=target_metadata", f"target_metadata=target_metadata, {options}")


def changed_files(project: Project, before: dict[Path, bytes]) -> set[str]:
    """The files that are new, gone or different, but for the database."""
    after = files_of(project.root)
    return {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path) and path.suffix != ".db"}


def revision_files(project: Project) -> list[Path]:
    return sorted((project.root / "alembic" / "versions").glob("*.py"))


@each_template
async def test_every_verb_works_through_each_template(project: Project, templates: Path, template: str) -> None:
    make_foreign(project, templates, template)
    await create_empty_database(project)
    database = project.database()
    written = await database.revision(FIRST)
    (revision,) = written.revisions
    assert [finding.code for finding in (await database.check()).findings] == ["pending"]

    migrated = await database.upgrade()
    assert (migrated.before, migrated.after) == ((), (revision,))
    assert await table_names(project) == TABLES | {"alembic_version"}
    assert [info.revision for info in (await database.current()).revisions] == [revision]
    assert [info.is_current for info in (await database.history(indicate_current=True)).revisions] == [True]
    assert [info.revision for info in (await database.heads()).revisions] == [revision]
    assert [info.message for info in (await database.show("head")).revisions] == ["shop"]
    assert (await database.check()).findings == ()
    assert (await database.revision(FIRST)).revisions == ()
    assert (await database.upgrade()).steps == ()

    await project.execute("ALTER TABLE customers ADD COLUMN nickname VARCHAR(20)")
    assert (await database.check()).drift == ("drop column customers.nickname",)
    with pytest.raises(Refused, match=r"drop column customers\.nickname"):
        await database.revision(FIRST)
    assert len(revision_files(project)) == 1

    assert (await database.downgrade("-1")).after == ()
    assert await table_names(project) == {"alembic_version"}
    assert (await database.stamp("head")).after == (revision,)
    assert await table_names(project) == {"alembic_version"}
    with pytest.raises(RevisionNotFound):
        await database.upgrade("fedcba987654")
    script = (await database.upgrade_script()).sql
    assert "CREATE TABLE customers" in script
    assert f"INSERT INTO alembic_version (version_num) VALUES ('{revision}')" in script
    assert "DROP TABLE customers" in (await database.downgrade_script(f"{revision}:base")).sql
    assert f"VALUES ('{revision}')" in (await database.stamp_script("head")).sql


@each_kind
async def test_the_command_line_works_through_a_template(project: Project, templates: Path, template: str) -> None:
    make_foreign(project, templates, template)
    await create_empty_database(project)
    code, answer = project.answer("revision", "--autogenerate", "-m", "shop")
    assert code == 0, answer
    (revision,) = answer["result"]["revisions"]
    code, answer = project.answer("upgrade")
    assert (code, answer["result"]["after"]) == (0, [revision])
    await project.execute("DROP TABLE orders")
    code, answer = project.answer("check")
    assert (code, answer["result"]["drift"]) == (3, ["add table orders"])


async def test_an_unknown_revision_is_one_message(sqlite_project: Project, templates: Path) -> None:
    make_foreign(sqlite_project, templates, "generic")
    await create_empty_database(sqlite_project)
    unknown = sqlite_project.run("upgrade", "fedcba987654")
    assert unknown.returncode == 1
    assert "Error: There is no revision 'fedcba987654' in this history. Nothing was run." in unknown.stderr
    assert "Traceback" not in unknown.stderr


@each_kind
async def test_reading_writes_nothing(project: Project, templates: Path, template: str) -> None:
    make_foreign(project, templates, template)
    await create_empty_database(project)
    written = await project.database().revision(FIRST)
    before = files_of(project.root)
    database = project.database()
    assert (await database.current(check_heads=True)).findings[0].code == "pending"
    assert [info.revision for info in (await database.history(indicate_current=True)).revisions] == [*written.revisions]
    assert (await database.heads()).revisions
    assert (await database.show("current")).revisions == ()
    assert (await database.check()).pending == written.revisions
    assert await table_names(project) == set()
    assert files_of(project.root) == before


@each_kind
async def test_reading_does_not_make_a_missing_database(project: Project, templates: Path, template: str) -> None:
    make_foreign(project, templates, template)
    before = files_of(project.root)
    for look in (Database.current, Database.check, partial(Database.history, indicate_current=True)):
        with pytest.raises(DatabaseMissing):
            await look(project.database())
    assert files_of(project.root) == before


@each_kind
async def test_two_projects_at_once_in_one_loop(project: Project, templates: Path, template: str, tmp_path: Path) -> None:
    other = Project(project.dialect, tmp_path / "other", "", project.environ)
    other.root.mkdir()
    make_foreign(project, templates, template)
    make_foreign(other, templates, template, MODELS.replace("customers", "clients").replace("orders", "sales"))
    other.url = f"sqlite:///{other.root / 'other.db'}"
    await asyncio.gather(create_empty_database(project), create_empty_database(other))
    for each in (project, other):
        each_database = each.database()
        await each_database.revision(FIRST)
    await asyncio.gather(project.database().upgrade(), other.database().upgrade())
    assert await table_names(project) == TABLES | {"alembic_version"}
    assert await table_names(other) == {"clients", "sales", "alembic_version"}
    checks = await asyncio.gather(*(each.database().check() for each in (project, other, project, other)))
    assert [checked.findings for checked in checks] == [(), (), (), ()]


async def test_a_foreign_project_and_one_of_ours_at_once(project: Project, templates: Path, tmp_path: Path) -> None:
    ours = Project("sqlite", tmp_path / "ours", f"sqlite:///{tmp_path / 'ours' / 'ours.db'}", project.environ)
    ours.root.mkdir()
    make_foreign(project, templates, "async")
    await create_empty_database(project)
    await project.database().revision(FIRST)
    await asyncio.gather(project.database().upgrade(), ours.database().setup_and_migrate())
    checks = await asyncio.gather(project.database().check(), ours.database().check())
    assert [checked.findings for checked in checks] == [(), ()]


@each_kind
async def test_a_password_of_special_characters_reaches_their_engine(mysql_project: Project, templates: Path, template: str) -> None:
    make_foreign(mysql_project, templates, template)
    await create_empty_database(mysql_project)
    url = make_url(mysql_project.url)
    user, password = f"fininfra_{uuid.uuid4().hex[:8]}", "p%40ss:/#%%s@é"
    await mysql_project.execute(f"CREATE USER {user} IDENTIFIED BY '{password}'", f"GRANT ALL ON {url.database}.* TO {user}")
    theirs = replace(mysql_project, url=url.set(username=user, password=password).render_as_string(hide_password=False))
    try:
        await theirs.database().revision(FIRST)
        assert (await theirs.database().upgrade()).steps
        assert (await theirs.database().check()).findings == ()
        done = theirs.run("current", "--verbose")
        assert done.returncode == 0, done.stderr
        assert password not in done.stdout + done.stderr
    finally:
        await mysql_project.execute(f"DROP USER {user}")


async def test_a_wrong_password_cannot_connect_and_is_not_shown(mysql_project: Project, templates: Path) -> None:
    make_foreign(mysql_project, templates, "generic")
    mysql_project.url = make_url(mysql_project.url).set(username="nobody", password="geheim%40").render_as_string(hide_password=False)
    done = mysql_project.run("current")
    assert done.returncode == 6
    assert "geheim" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@each_kind
async def test_libpq_options_in_the_url_reach_their_engine(project: Project, templates: Path, template: str) -> None:
    make_foreign(project, templates, template)
    await create_empty_database(project)
    project.url += {
        "sqlite": "",
        "postgresql": "?sslmode=prefer&connect_timeout=5&application_name=shop",
        "mysql": "?sslmode=prefer&connect_timeout=5",
    }[project.dialect]
    application = "current_setting('application_name')" if project.dialect == "postgresql" else "'shop'"
    await write_by_hand(project, "who", f'op.execute("CREATE TABLE who AS SELECT {application} AS name")')
    assert (await project.database().upgrade()).steps
    assert await project.rows("SELECT name FROM who") == [("shop",)]
    assert (await project.database().current(check_heads=True)).findings == ()


async def test_our_projects_leave_logging_and_the_environment_alone(project: Project) -> None:
    root, existing = logging.getLogger(), logging.getLogger("an.application.of.somebody")
    handlers, level, environment = list(root.handlers), root.level, dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in ("alembic", "sqlalchemy", "sqlalchemy.engine")}
    database = project.database()
    await database.setup_and_migrate()
    path = list(sys.path)
    await database.check()
    await database.downgrade("base")
    await database.upgrade()
    await database.upgrade_script("base:head")
    assert (root.handlers, root.level) == (handlers, level)
    assert not existing.disabled
    assert sys.path == path
    assert {name: logging.getLogger(name).level for name in levels} == levels
    assert dict(os.environ) == environment


async def test_reset_is_refused_where_nobody_said_which_tables_are_theirs(project: Project, templates: Path) -> None:
    make_foreign(project, templates, "generic")
    await create_empty_database(project)
    await project.database().revision(FIRST)
    await project.database().upgrade()
    with pytest.raises(Refused, match="Nothing was changed"):
        await project.database().reset()
    assert await table_names(project) == TABLES | {"alembic_version"}


@pytest.mark.parametrize("version_table", ["alembic_version", "shop_version"])
async def test_reset_with_a_models_line_makes_their_tables_again(project: Project, templates: Path, version_table: str) -> None:
    module = make_foreign(project, templates, "generic")
    configure_with(project, f"version_table={version_table!r}")
    with (project.root / "alembic.ini").open("a", encoding="utf-8") as ini:
        ini.write(f"\n[fininfra_db]\nmodels = {module}\n")
    await create_empty_database(project)
    await project.database().revision(FIRST)
    await project.database().upgrade()
    await project.execute("CREATE TABLE somebody_elses (id INTEGER)")
    await project.execute("INSERT INTO customers (id, name) VALUES (1, 'Ada')")
    reset = await project.database().reset()
    assert set(reset.dropped) == TABLES | {version_table}
    assert await table_names(project) == TABLES | {version_table, "somebody_elses"}
    assert await project.rows("SELECT * FROM customers") == []


@pytest.mark.parametrize("project", ["postgresql"], indirect=True)
async def test_reset_drops_their_version_table_in_its_schema(project: Project, templates: Path) -> None:
    module = make_foreign(project, templates, "generic")
    configure_with(project, "version_table_schema='deployment'")
    with (project.root / "alembic.ini").open("a", encoding="utf-8") as ini:
        ini.write(f"\n[fininfra_db]\nmodels = {module}\n")
    await create_empty_database(project)
    await project.execute("CREATE SCHEMA deployment")
    await project.database().revision(FIRST)
    await project.database().upgrade()
    await project.execute("CREATE TABLE alembic_version (somebody_elses INTEGER)")
    reset = await project.database().reset()
    assert set(reset.dropped) == TABLES | {"deployment.alembic_version"}
    assert len(reset.migrated.steps) == 1
    assert await project.rows("SELECT * FROM alembic_version") == [], "a table of that name elsewhere stays"


@each_template
async def test_set_up_overwrites_nothing_and_writes_no_second_environment(project: Project, templates: Path, template: str) -> None:
    make_foreign(project, templates, template)
    await create_empty_database(project)
    await project.database().revision(FIRST)
    before = files_of(project.root)
    await project.database().init()
    done = await project.database().setup_and_migrate()
    assert (len(done.migrated.steps), done.revised.revisions) == (1, ())
    assert changed_files(project, before) == set()
    assert await table_names(project) == TABLES | {"alembic_version"}


@pytest.mark.parametrize("template", ["pyproject", "pyproject_async"])
async def test_a_pyproject_alone_is_a_project(sqlite_project: Project, templates: Path, template: str) -> None:
    module = make_foreign(sqlite_project, templates, template)
    (sqlite_project.root / "alembic.ini").unlink()
    await create_empty_database(sqlite_project)
    before = files_of(sqlite_project.root)
    await sqlite_project.database().init()
    assert changed_files(sqlite_project, before) == set()
    await sqlite_project.database().revision(FIRST)
    assert len((await sqlite_project.database().setup_and_migrate()).migrated.steps) == 1
    assert not (sqlite_project.root / "migrations").exists()
    await sqlite_project.database().init(models=(module,))
    assert (sqlite_project.root / "alembic.ini").read_text(encoding="utf-8") == f"[fininfra_db]\nmodels = {module}\n"


async def test_set_up_creates_their_missing_database(project: Project, templates: Path) -> None:
    make_foreign(project, templates, "generic")
    await create_empty_database(project)
    await project.database().revision(FIRST)
    await drop_database(project.url, patience=None)
    Path(make_url(project.url).database or "").unlink(missing_ok=True)
    done = await project.database().setup_and_migrate()
    assert done.database_created
    assert len(done.migrated.steps) == 1


@each_kind
async def test_a_version_table_of_their_own_is_read_and_written(project: Project, templates: Path, template: str) -> None:
    make_foreign(project, templates, template)
    configure_with(project, "version_table='shop_version'")
    await create_empty_database(project)
    written = await project.database().revision(FIRST)
    await project.database().upgrade()
    assert await table_names(project) == TABLES | {"shop_version"}
    assert await project.rows("SELECT version_num FROM shop_version") == [written.revisions]
    assert (await project.database().current(check_heads=True)).findings == ()
    assert (await project.database().check()).findings == ()
    assert (await project.database().downgrade("base")).after == ()
    assert (await project.database().stamp("head")).after == written.revisions


@each_kind
async def test_a_run_that_their_env_does_not_commit_is_a_failure(project: Project, templates: Path, template: str) -> None:
    make_foreign(project, templates, template)
    await create_empty_database(project)
    await project.database().revision(FIRST)
    edit_env(project, r"( +)(context.configure\(\s*connection=)", r"\1connection.exec_driver_sql('SELECT 1')\n\1\2")
    done = project.run("upgrade")
    assert done.returncode == 1
    assert "it was not committed" in done.stderr
    what, why = (UnfinishedRevision, "ended in the middle") if project.dialect == "mysql" else (MigrationFailed, "it was not committed")
    with pytest.raises(what, match=why):  # where each DDL statement is committed, the tables are there and the version is not
        await project.database().stamp("head")
    assert (await project.database().current()).revisions == ()


async def test_a_failing_revision_is_told_as_their_env_runs_it(project: Project, templates: Path) -> None:
    """Their SQLite engine commits each revision by itself, and their PostgreSQL one the whole run."""
    make_foreign(project, templates, "generic")
    await create_empty_database(project)
    (first,) = (await project.database().revision(FIRST)).revisions
    written = await project.database().revision(Draft(message="broken"))
    append_upgrade(written.paths[0], "op.create_table('half', sa.Column('id', sa.Integer()))", "op.execute('SELECT nothing FROM nowhere')")
    with pytest.raises(MigrationFailed) as caught:
        await project.database().upgrade()
    message = caught.value.message
    assert written.revisions[0] in message
    assert "SELECT nothing FROM nowhere" in message
    remains = "half" in await table_names(project)
    assert remains == (project.dialect == "mysql")
    assert ("may remain" in message) == remains
    at = "no revision" if project.dialect == "postgresql" else first
    assert f"The database is at {at}." in message


async def test_their_own_directives_hook_has_the_last_word(project: Project, templates: Path) -> None:
    """The recipe of Alembic's cookbook against empty revisions reads ``config.cmd_opts``; another drops what it does not want."""
    make_foreign(project, templates, "generic")
    edit_env(project, "def run_migrations_offline", HOOK + "def run_migrations_offline")
    configure_with(project, "process_revision_directives=process")
    await create_empty_database(project)
    await project.database().revision(FIRST)
    await project.database().upgrade()
    assert await table_names(project) == {"customers", "alembic_version"}
    assert (await project.database().check()).findings == ()
    assert (await project.database().revision(FIRST)).revisions == ()


async def test_their_env_has_a_say_in_every_revision_when_it_asks_for_one(sqlite_project: Project, templates: Path) -> None:
    make_foreign(sqlite_project, templates, "generic")
    ini = sqlite_project.root / "alembic.ini"
    ini.write_text(
        ini.read_text(encoding="utf-8").replace("# revision_environment = false", "revision_environment = true"), encoding="utf-8"
    )
    edit_env(sqlite_project, "def run_migrations_offline", NUMBERING + "def run_migrations_offline")
    configure_with(sqlite_project, "process_revision_directives=process")
    await create_empty_database(sqlite_project)
    assert (await sqlite_project.database().revision(Draft(message="by hand"))).revisions == ("0001",)


@each_kind
async def test_their_migration_waits_no_longer_than_ours(server_project: Project, templates: Path, template: str) -> None:
    """On SQLite its one lock is taken when the transaction begins."""
    tell = {
        "postgresql": "SELECT name, setting FROM pg_settings WHERE name = 'lock_timeout'",
        "mysql": "SELECT 'lock_timeout' AS name, @@lock_wait_timeout * 1000 AS setting",
    }
    make_foreign(server_project, templates, template)
    await create_empty_database(server_project)
    await write_by_hand(server_project, "told", f'op.execute("CREATE TABLE told AS {tell[server_project.dialect]}")')
    await Database(replace(server_project.settings(), ddl_lock_timeout=7.0)).upgrade()
    found = await server_project.rows("SELECT name, setting FROM told")
    assert [(name, int(setting)) for name, setting in found] == [("lock_timeout", 7000)]


SHOP = "op.create_table('shop_{0}', sa.Column('id', sa.Integer(), primary_key=True))\n    op.execute('INSERT INTO shop_{0} VALUES (1)')"
WITH_FOREIGN_KEYS = """
from sqlalchemy import Engine, event


@event.listens_for(Engine, "connect")
def turn_foreign_keys_on(connection, _record):
    connection.cursor().execute("PRAGMA foreign_keys=ON")


config = context.config"""


def add_revisions(project: Project, count: int, more: str = "") -> None:
    """Write revisions in a row, the last of which does ``more`` in its middle."""
    for number in range(count):
        parent = repr(f"r{number - 1}") if number else "None"
        made = SHOP.format(number).replace("\n", f"\n    {more}\n" if more and number == count - 1 else "\n")
        (project.root / "alembic" / "versions" / f"r{number}.py").write_text(
            f'"""r{number}"""\nimport os, signal\nfrom alembic import op\nimport sqlalchemy as sa\nrevision = "r{number}"\n'
            f"down_revision = {parent}\n\n\ndef upgrade():\n    {made}\n\n\ndef downgrade():\n    op.drop_table('shop_{number}')\n",
            encoding="utf-8",
        )


@each_kind
async def test_several_upgraders_of_a_foreign_project_on_sqlite(sqlite_project: Project, templates: Path, template: str) -> None:
    make_foreign(sqlite_project, templates, template)
    add_revisions(sqlite_project, 5)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: sqlite_project.run("upgrade"), range(4)))
    assert [each.returncode for each in done] == [0] * 4, [each.stderr for each in done]
    assert sum(each.stdout.count("applied ") for each in done) == 5
    assert await sqlite_project.rows("SELECT version_num FROM alembic_version") == [("r4",)]


@each_kind
async def test_a_killed_run_of_a_foreign_project_on_sqlite_is_carried_on(sqlite_project: Project, templates: Path, template: str) -> None:
    """Their env.py runs with its own engine, and nothing of the revision in which the process died remains all the same."""
    make_foreign(sqlite_project, templates, template)
    add_revisions(sqlite_project, 2, more="if os.environ.get('KILL'): os.kill(os.getpid(), signal.SIGKILL)")
    assert sqlite_project.run("upgrade", env={"KILL": "1"}).returncode == -signal.SIGKILL
    assert "shop_1" not in await table_names(sqlite_project)
    done = sqlite_project.run("upgrade")
    assert done.returncode == 0, done.stderr
    assert await sqlite_project.rows("SELECT count(*) FROM shop_1") == [(1,)]


@each_kind
async def test_a_rebuild_in_a_foreign_project_keeps_the_rows_below(sqlite_project: Project, templates: Path, template: str) -> None:
    make_foreign(sqlite_project, templates, template)
    edit_env(sqlite_project, "(?m)^config = context.config", WITH_FOREIGN_KEYS)
    await create_empty_database(sqlite_project)
    await sqlite_project.execute(
        "CREATE TABLE parents (id INTEGER PRIMARY KEY, name VARCHAR(10))",
        "CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER, "
        "CONSTRAINT fk FOREIGN KEY (parent) REFERENCES parents (id) ON DELETE CASCADE)",
        "INSERT INTO parents VALUES (1, 'a')",
        "INSERT INTO children VALUES (1, 1)",
    )
    (sqlite_project.root / "alembic" / "versions" / "wide.py").write_text(
        'from alembic import op\nimport sqlalchemy as sa\nrevision = "wide"\ndown_revision = None\n\n\ndef upgrade():\n'
        "    with op.batch_alter_table('parents') as batch:\n        batch.alter_column('name', type_=sa.String(99))\n",
        encoding="utf-8",
    )
    done = sqlite_project.run("upgrade")
    assert done.returncode == 0, done.stderr
    assert await sqlite_project.rows("SELECT id FROM children") == [(1,)]


@each_kind
@pytest.mark.parametrize("options", ["", "transactional_ddl=True"], ids=["one by one", "in one transaction"])
async def test_a_foreign_revision_that_relies_on_a_cascade_is_rolled_back(
    sqlite_project: Project, templates: Path, template: str, options: str
) -> None:
    """Foreign keys are off while a revision runs, though their env.py has turned them on. What dangled before is no reason to stop."""
    make_foreign(sqlite_project, templates, template)
    edit_env(sqlite_project, "(?m)^config = context.config", WITH_FOREIGN_KEYS)
    if options:
        configure_with(sqlite_project, options)
    await create_empty_database(sqlite_project)
    await sqlite_project.execute(
        "CREATE TABLE users (id INTEGER PRIMARY KEY)",
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, owner INTEGER REFERENCES users (id) ON DELETE CASCADE)",
        "INSERT INTO users VALUES (1), (2)",
        "INSERT INTO accounts VALUES (1, 1), (2, 2)",
        "CREATE TABLE strays (id INTEGER PRIMARY KEY, owner INTEGER REFERENCES users (id))",
    )
    with closing(sqlite3.connect(str(make_url(sqlite_project.url).database))) as connection, connection:
        connection.execute("INSERT INTO strays VALUES (1, 77)")
    add_revisions(sqlite_project, 2, more="op.execute('DELETE FROM users WHERE id = 2')")
    done = sqlite_project.run("upgrade")
    assert done.returncode == 1
    assert "1 rows point at a row that is not there (accounts -> users)" in done.stderr
    assert "Nothing of r1 remains." in done.stderr
    assert await sqlite_project.rows("SELECT id FROM users") == [(1,), (2,)]
    assert await sqlite_project.rows("SELECT id FROM accounts") == [(1,), (2,)]
    assert ("shop_0" in await table_names(sqlite_project)) == (not options)
    last = sqlite_project.root / "alembic" / "versions" / "r1.py"
    both = "op.execute('DELETE FROM users WHERE id = 2'); op.execute('DELETE FROM accounts WHERE id = 2')"
    last.write_text(last.read_text().replace("op.execute('DELETE FROM users WHERE id = 2')", both))
    done = sqlite_project.run("upgrade")
    assert done.returncode == 0, done.stderr
    assert await sqlite_project.rows("SELECT id FROM accounts") == [(1,)]


@pytest.mark.parametrize("project", ["postgresql"], indirect=True)
async def test_a_run_in_one_transaction_is_tried_again_as_a_whole(
    project: Project, templates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their env.py commits at the end, so a revision that did not get its lock takes those before it along."""
    monkeypatch.setattr(retry, "backoff", lambda _attempt: 0.1)
    make_foreign(project, templates, "generic")
    await create_empty_database(project)
    await project.execute("CREATE TABLE held (id INTEGER)")
    add_revisions(project, 3, more="op.execute('ALTER TABLE held ADD COLUMN more INTEGER')")
    seen: list[Event] = []
    async with open_reader(project, "held"):
        settings = replace(project.settings(), ddl_lock_timeout=0.2)
        task = asyncio.create_task(Database(settings, observer=seen.append).upgrade())

        async def retried() -> bool:
            return any(isinstance(event, Retrying) for event in seen)

        await until(retried)
    migrated = await task
    assert [step.revision for step in migrated.steps] == ["r0", "r1", "r2"]
    assert {"shop_0", "shop_1", "shop_2"} <= await table_names(project)
    assert (await project.database().check()).pending == ()
