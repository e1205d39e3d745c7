"""``--sql``: the script of a migration, for each of the four databases, without a driver and without a connection.

The shipped history's script is kept in ``tests/golden``; with ``FININFRA_UPDATE_GOLDEN=1`` it is written anew. What is
golden is also run, on the databases that are here.
"""

import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

from fininfra_db.database import Database
from fininfra_db.errors import AlembicFailed, OptionsInvalid
from fininfra_db.settings import load_settings
from tests.conftest import Project, clean_environment
from tests.contract.helpers import create_empty_database, table_names, write_by_hand

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden"
NOWHERE = {
    "sqlite": "sqlite:////nowhere/at/all.db",
    "postgresql": "postgresql://user:password@192.0.2.1/finance",
    "mysql": "mysql://user:password@192.0.2.1/finance",
    "mssql": "mssql://user:password@192.0.2.1/finance",
}
"""A folder that does not exist and an address that nobody answers at (RFC 5737)."""

WITHOUT_DRIVERS = """
import socket, sys

for driver in ("aiosqlite", "asyncpg", "psycopg", "aiomysql", "asyncmy", "pymysql", "aioodbc", "pyodbc"):
    sys.modules[driver] = None

def refuse(*_):
    raise AssertionError("something was connected to")

socket.socket.connect = refuse
from fininfra_db.cli.app import main
main()
"""


@pytest.mark.parametrize("dialect", NOWHERE)
def test_the_shipped_history_is_this_script_and_needs_no_driver(dialect: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DRIVERS, "upgrade", "--sql", "base:head", "--quiet"],
        cwd=REPOSITORY,
        env=clean_environment() | {"SQL_URL": NOWHERE[dialect]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    path = GOLDEN / f"upgrade.{dialect}.sql"
    if os.environ.get("FININFRA_UPDATE_GOLDEN"):
        path.write_text(done.stdout, encoding="utf-8")
    assert done.stdout == path.read_text(encoding="utf-8")


def golden(dialect: str) -> str:
    return (GOLDEN / f"upgrade.{dialect}.sql").read_text(encoding="utf-8")


async def run_script(project: Project, script: str) -> None:
    """Run a script as the database's own shell would."""
    url = make_url(project.url)
    if project.dialect == "sqlite":
        with sqlite3.connect(url.database or "") as connection:
            connection.executescript(script)
    elif project.dialect == "postgresql":
        server = await asyncpg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
        await server.execute(script)
        await server.close()
    else:
        await project.execute(*(statement for statement in re.split(r";\n", script) if statement.strip()))


async def set_up_beside(project: Project) -> Database:
    """The shipped history in a project of its own, and an empty database."""
    await project.database().init()
    version = next((REPOSITORY / "migrations" / "versions").glob("*.py"))
    (project.root / "migrations" / "versions" / version.name).write_text(version.read_text(encoding="utf-8"), encoding="utf-8")
    await create_empty_database(project)
    return project.database()


async def test_the_golden_script_makes_what_the_models_say(project: Project) -> None:
    database = await set_up_beside(project)
    await run_script(project, golden(project.dialect))
    assert (await database.check()).findings == ()
    assert (await database.upgrade()).steps == ()
    await database.seed()


async def test_the_scripts_of_downgrade_and_stamp_do_what_they_say(project: Project) -> None:
    database = await set_up_beside(project)
    await database.upgrade()
    head = (await database.heads()).revisions[0].revision
    await run_script(project, (await database.downgrade_script("head:base")).sql)
    assert await table_names(project) == {"alembic_version"}
    assert (await database.current()).revisions == ()
    await project.execute("DROP TABLE alembic_version")
    await run_script(project, (await database.stamp_script("base:head")).sql)
    assert [info.revision for info in (await database.current()).revisions] == [head]


@pytest.mark.parametrize("dialect", NOWHERE)
async def test_downgrade_and_stamp_are_scripts_on_every_database(dialect: str) -> None:
    database = Database(load_settings(project_root=REPOSITORY, sql_url=NOWHERE[dialect], environ={}))
    head = (await database.heads()).revisions[0].revision
    made = re.findall(r"CREATE TABLE (\w+)", golden(dialect))
    down = (await database.downgrade_script("head:base")).sql
    assert re.findall(r"DROP TABLE (\w+)", down) == [table for table in reversed(made) if table != "alembic_version"]
    assert f"DELETE FROM alembic_version WHERE alembic_version.version_num = '{head}'" in down
    assert re.search(rf"INSERT INTO alembic_version \(version_num\) .*VALUES \('{head}'\)", (await database.stamp_script("head")).sql)


async def test_the_script_of_a_range_holds_that_range(project: Project) -> None:
    database = await set_up_beside(project)
    await database.upgrade()
    first = (await database.heads()).revisions[0].revision
    second = await write_by_hand(project, "second", "op.create_table('second', sa.Column('id', sa.Integer()))")
    third = await write_by_hand(project, "third", "op.create_table('third', sa.Column('id', sa.Integer()))")
    for name in (f"{first}:{second}", f"{first}:+1", f"{first[:8]}:{second[:8]}"):
        script = (await database.upgrade_script(name)).sql
        assert re.findall(r"CREATE TABLE (\w+)", script) == ["second"]
        assert f"SET version_num='{second}' WHERE alembic_version.version_num = '{first}'" in script
    await run_script(project, (await database.upgrade_script(f"{first}:{third}")).sql)
    assert {"second", "third"} <= await table_names(project)
    assert (await database.current(check_heads=True)).findings == ()
    with pytest.raises(OptionsInvalid):
        await database.downgrade_script("base")


async def test_what_sqlite_can_only_do_on_a_database_is_refused_as_a_script(sqlite_project: Project) -> None:
    database = await set_up_beside(sqlite_project)
    await write_by_hand(
        sqlite_project,
        "widen",
        "with op.batch_alter_table('users') as batch:",
        "    batch.alter_column('email', type_=sa.Unicode(300), existing_type=sa.Unicode(255))",
    )
    with pytest.raises(AlembicFailed, match="has to see it"):
        await database.upgrade_script("base:head")


async def test_the_script_makes_the_type_of_an_enum_once(sqlite_project: Project) -> None:
    await sqlite_project.database().init()
    await write_by_hand(
        sqlite_project,
        "moods",
        "op.create_table('people', sa.Column('mood', sa.Enum('good', 'bad', name='mood')))",
        "op.create_table('pets', sa.Column('mood', sa.Enum('good', 'bad', name='mood')))",
        "op.add_column('pets', sa.Column('other', sa.Enum('calm', 'wild', name='temper')))",
    )
    database = sqlite_project.database(SQL_URL=NOWHERE["postgresql"])
    assert re.findall(r"CREATE TYPE (\w+)", (await database.upgrade_script("base:head")).sql) == ["mood", "temper"]


FOREIGN_KEY = re.compile(r"FOREIGN KEY\([^)]*\) REFERENCES (\w+) \([^)]*\)( ON DELETE CASCADE)?")


def cascades(script: str) -> Counter[tuple[str, str]]:
    """How many foreign keys delete the rows of one table with those of another: (parent, child)."""
    tables = re.findall(r"CREATE TABLE (\w+) \((.*?)\n\)", script, re.DOTALL)
    return Counter((parent, child) for child, body in tables for parent, cascade in FOREIGN_KEY.findall(body) if cascade)


def paths(edges: Counter[tuple[str, str]], start: str, end: str) -> int:
    """In how many ways a delete in ``start`` reaches ``end``."""
    return sum(count * (1 if child == end else paths(edges, child, end)) for (parent, child), count in edges.items() if parent == start)


def test_sql_server_has_one_cascade_path_between_any_two_tables() -> None:
    """Two are error 1785 (learn.microsoft.com/sql/relational-databases/errors-events/mssqlserver-1785-database-engine-error)."""
    edges = cascades(golden("mssql"))
    tables = {table for edge in edges for table in edge}
    assert {paths(edges, start, end) for start in tables for end in tables} == {0, 1}
    assert {end for end in tables if paths(edges, "users", end)} == tables - {"users"}
    everywhere = cascades(golden("postgresql"))
    assert paths(everywhere, "users", "transactions") == 3
    assert set(edges) < set(everywhere)


def test_sql_server_types() -> None:
    columns = {
        (table, name): kind
        for table, body in re.findall(r"CREATE TABLE (\w+) \((.*?)\n\)", golden("mssql"), re.DOTALL)
        for name, kind in re.findall(r"^ {4}\[?(\w+)\]? ([A-Z]\w*(?:\([\w, ]+\))?)", body, re.MULTILINE)
        if name != "CONSTRAINT"
    }
    assert len(columns) > 60
    written_by_people = [
        ("users", "email"),
        ("bank_connections", "institution_name"),
        ("accounts", "name"),
        ("transactions", "name"),
        ("transactions", "merchant_name"),
        ("transactions", "category"),
        ("budgets", "name"),
        ("goals", "name"),
        ("documents", "filename"),
    ]
    assert {columns[column] for column in written_by_people} == {"NVARCHAR(255)"}
    assert {columns[column] for column in columns if column[1].endswith("date")} == {"DATE"}
    assert {columns[column] for column in columns if column[1].endswith("_at")} == {"DATETIME2(6)"}
    assert {columns[column] for column in columns if column[1] in ("amount", "balance", "net_worth")} == {"NUMERIC(19, 4)"}
