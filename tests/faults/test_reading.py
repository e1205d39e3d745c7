"""Whoever only reads cannot write: the database itself refuses, on each connection for reading, in an ``env.py`` of somebody else too."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from fininfra_db.connections import open_connection, read
from fininfra_db.errors import EnvironmentFailed
from tests.cli.helpers import add_three_revisions, commands, document_of, set_up, side_by_side, traces
from tests.conftest import LOCAL_SERVERS, Project
from tests.contract.helpers import create_empty_database, make_foreign, table_names

READ_ONLY = r"(?i)read-?\s?only"
WRITES = (
    "INSERT INTO kept (id) VALUES (2)",
    "UPDATE kept SET id = 3",
    "DELETE FROM kept",
    "CREATE TABLE made (id INTEGER)",
    "DROP TABLE kept",
    "ALTER TABLE kept ADD COLUMN more INTEGER",
)
LOOKS = tuple(
    line
    for line in (
        "current",
        "current -c -v",
        "history -v",
        "history -i",
        "heads",
        "show current",
        "check",
        "status",
        "status -v --json",
        "check-data",
        "wait",
        "wait --for head --timeout 0",
        "environment show",
    )
    if {line, line.split()[0]} & set(commands())
)
FINGERPRINTS = {
    "postgresql": (
        "SELECT oid, relname, relfilenode, xmin::text FROM pg_class WHERE relnamespace <> 'pg_catalog'::regnamespace ORDER BY oid",
        "SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg_temp%' AND nspname NOT LIKE 'pg_toast%' ORDER BY 1",
        "SELECT version_num, xmin::text FROM alembic_version",
        "SELECT setdatabase, setrole, setconfig::text FROM pg_db_role_setting ORDER BY 1, 2",
    ),
    "mysql": (
        "SELECT table_name, engine, create_time, update_time FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY 1",
        "SELECT version_num FROM alembic_version",
    ),
}
"""What a server knows of a database: each table, with the transaction or the time that changed it last."""


@pytest.fixture
async def kept(project: Project) -> Project:
    """A database with one table of one row."""
    await create_empty_database(project)
    await project.execute("CREATE TABLE kept (id INTEGER)", "INSERT INTO kept VALUES (1)")
    return project


@pytest.mark.parametrize("statement", WRITES)
async def test_a_write_on_a_connection_for_reading_fails(kept: Project, statement: str) -> None:
    def write(connection: Connection) -> None:
        connection.execute(text(statement))
        connection.commit()

    def write_in_a_second_transaction(connection: Connection) -> None:
        connection.execute(text("SELECT id FROM kept"))
        connection.commit()
        write(connection)

    for attempt in (write, write_in_a_second_transaction):
        with pytest.raises(DBAPIError, match=READ_ONLY):
            await read(kept.settings(), attempt)
        with pytest.raises(DBAPIError, match=READ_ONLY):
            async with open_connection(kept.settings(), "reading") as connection:
                await connection.run_sync(attempt)
    assert await kept.rows("SELECT * FROM kept") == [(1,)]
    assert await table_names(kept) == {"kept"}


@pytest.mark.parametrize("write", ["INSERT INTO kept VALUES (2)", "CREATE TABLE made (id INTEGER)"])
async def test_an_env_py_of_somebody_else_cannot_write_while_reading(kept: Project, write: str) -> None:
    make_foreign(kept, first=f"connection.execute(text({write!r})); connection.commit()")
    database = kept.database()
    for look in (database.current, database.status, lambda: database.history(indicate_current=True)):
        with pytest.raises(EnvironmentFailed, match=READ_ONLY) as caught:
            await look()
        assert "env.py failed in line 9" in caught.value.message
    assert await kept.rows("SELECT * FROM kept") == [(1,)]
    assert await table_names(kept) == {"kept"}


async def test_the_same_env_py_may_write_while_it_migrates(kept: Project) -> None:
    make_foreign(kept, first="connection.execute(text('INSERT INTO kept VALUES (2)')); connection.commit()")
    assert (await kept.database().upgrade("one")).after == ("one",)
    assert (2,) in await kept.rows("SELECT * FROM kept")


async def test_an_engine_that_outlives_a_look_writes_afterwards(sqlite_project: Project) -> None:
    """Its pool holds the connection that could only read."""
    await create_empty_database(sqlite_project)
    make_foreign(sqlite_project)
    (sqlite_project.root / "shared_engines.py").write_text(
        "from functools import cache\nfrom sqlalchemy import create_engine\n\n\n"
        "@cache\ndef engine_of(url):\n    return create_engine(url)\n",
        encoding="utf-8",
    )
    env = sqlite_project.root / "alembic" / "env.py"
    source = env.read_text(encoding="utf-8")
    start, end = source.index("engine = "), source.index("\n\nwith engine")
    env.write_text(
        f'{source[:start]}from shared_engines import engine_of\nengine = engine_of(config.get_main_option("sqlalchemy.url")){source[end:]}',
        encoding="utf-8",
    )
    database = sqlite_project.database()
    assert (await database.current()).revisions == ()
    assert (await database.upgrade()).after == ("one",)
    assert await table_names(sqlite_project) >= {"mine", "alembic_version"}


async def fingerprint(project: Project) -> list[list[tuple[object, ...]]]:
    return [await project.rows(query) for query in FINGERPRINTS[project.dialect]]


@pytest.mark.parametrize("project", LOCAL_SERVERS, indirect=True)
async def test_looking_leaves_a_server_as_it_is(project: Project) -> None:
    set_up(project)
    before = await fingerprint(project)
    done = side_by_side(project, LOOKS)
    assert {line: run.returncode for line, run in done.items()} == dict.fromkeys(LOOKS, 0)
    assert await fingerprint(project) == before


@pytest.mark.parametrize("project", LOCAL_SERVERS, indirect=True)
async def test_an_old_checkout_leaves_a_newer_server_as_it_is(project: Project) -> None:
    await in_an_old_checkout(project)
    before = await fingerprint(project)
    look_from_behind(project)
    assert await fingerprint(project) == before


async def test_an_old_checkout_leaves_a_newer_file_as_it_is(sqlite_project: Project) -> None:
    await in_an_old_checkout(sqlite_project)
    before = traces(sqlite_project.root, with_caches=True)
    look_from_behind(sqlite_project)
    assert traces(sqlite_project.root, with_caches=True) == before


async def in_an_old_checkout(project: Project) -> None:
    """The database gets three revisions that the checkout does not have any more."""
    add_three_revisions(set_up(project))
    await project.database().upgrade()
    for path in project.versions():
        if path.name[4:8] in ("1111", "2222", "3333"):
            path.unlink()
    remove_caches(project.root)


def remove_caches(root: Path) -> None:
    for path in root.rglob("*.pyc"):
        path.unlink()


def look_from_behind(project: Project) -> None:
    """Each look names the revision that is ahead, or has no need to know."""
    done = side_by_side(project, [f"{line} --json" for line in LOOKS if "--json" not in line], PYTHONDONTWRITEBYTECODE="")
    for line, run in done.items():
        blind = line.split()[0] in ("heads", "environment") or line in ("wait --json", "history -v --json")
        assert run.returncode == (0 if blind else 3), line
        assert blind or "cccc3333" in document_of(run)["error"]["message"], line
