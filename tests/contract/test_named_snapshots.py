"""Named snapshots: saved, listed, brought back and deleted on every database, and what is left when that is interrupted."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from fininfra_db.connections import lone_connection, migration_lock, open_connection
from fininfra_db.database import Database
from fininfra_db.dialects import target_of
from fininfra_db.dialects.sqlite_snapshots import path_of
from fininfra_db.errors import (
    DatabaseInUse,
    LockNotObtained,
    OptionsInvalid,
    Protected,
    SnapshotExists,
    SnapshotFailed,
    SnapshotNotFound,
    WrongDatabaseName,
)
from fininfra_db.settings import Settings
from tests.conftest import Project, clean_environment, drop_database
from tests.contract.helpers import another_process, release, use_models

MODELS = """
    from sqlalchemy import ForeignKey, Integer, String
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

    class Base(DeclarativeBase):
        pass

    class Owner(Base):
        __tablename__ = "owners"
        id: Mapped[int] = mapped_column(Integer, primary_key=True)
        name: Mapped[str] = mapped_column(String(50), unique=True)

    class Thing(Base):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(Integer, primary_key=True)
        owner_id: Mapped[int] = mapped_column(ForeignKey("owners.id", name="fk_things_owner", ondelete="CASCADE"), index=True)
"""
DATABASES = {
    "postgresql": "SELECT datname FROM pg_database",
    "mysql": "SELECT schema_name FROM information_schema.schemata",
}
BEFORE = [(1, "Zoë %s"), (2, "b")]


@pytest.fixture
async def shop(project: Project) -> AsyncIterator[Project]:
    """At head, with two owners and a thing of each; every snapshot is removed afterwards."""
    await open_shop(project)
    yield project
    await remove_copies(project)


@pytest.fixture
async def server_shop(server_project: Project) -> AsyncIterator[Project]:
    await open_shop(server_project)
    yield server_project
    await remove_copies(server_project)


@pytest.fixture
async def sqlite_shop(sqlite_project: Project) -> Project:
    await open_shop(sqlite_project)
    return sqlite_project


async def open_shop(project: Project) -> None:
    await use_models(project, MODELS)
    await project.database().setup_and_migrate()
    await project.execute(
        "INSERT INTO owners (id, name) VALUES (1, 'Zoë %s'), (2, 'b')", "INSERT INTO things (id, owner_id) VALUES (1, 1), (2, 2)"
    )


async def remove_copies(project: Project, *, patience: float | None = 0.1) -> None:
    """Drop the database and every copy that was made of it, all at once: a server needs as long for one as for many."""
    target = target_of(project.settings())
    if not target.dialect.features.has_server:
        return
    maintenance = target.url.set(database=target.dialect.maintenance_database).render_as_string(hide_password=False)
    async with open_connection(project.settings(SQL_URL=maintenance), "reading") as connection:
        found = [name for (name,) in await connection.execute(text(DATABASES[project.dialect]))]
    mine = [name for name in found if name.startswith(str(target.url.database)[:20])]
    quote = "`" if project.dialect == "mysql" else '"'
    urls = [target.url.set(database=f"{quote}{name}{quote}").render_as_string(hide_password=False) for name in mine]
    await asyncio.gather(*(drop_database(url, patience=patience) for url in urls))


async def owners(project: Project) -> list[tuple[Any, ...]]:
    return await project.rows("SELECT id, name FROM owners ORDER BY id")


async def change(project: Project) -> None:
    await project.execute("DELETE FROM things", "DELETE FROM owners", "INSERT INTO owners (id, name) VALUES (7, 'new')")


async def names(project: Project) -> list[str]:
    return [snapshot.name for snapshot in (await project.database().snapshots()).snapshots]


async def test_what_was_saved_comes_back_and_what_was_there_is_kept(shop: Project) -> None:
    database = shop.database()
    saved = (await database.save_snapshot("before_audit")).snapshot
    await change(shop)
    restored = await database.restore_snapshot("before_audit")
    assert await owners(shop) == BEFORE
    assert restored.kept is not None
    assert await names(shop) == [restored.kept.name, "before_audit"]
    await database.restore_snapshot(restored.kept.name)
    assert await owners(shop) == [(7, "new")]
    assert (await database.check()).findings == ()
    assert saved == (await database.snapshots()).snapshots[-1]
    await database.restore_snapshot("before_audit")
    await delete_first_owner(shop.settings())
    assert await shop.rows("SELECT id FROM things") == [(2,)], "the foreign key did not come back"
    async with migration_lock(impatient_settings(shop)):
        pass


async def delete_first_owner(settings: Settings) -> None:
    async with open_connection(settings, "seeding") as connection:
        await connection.execute(text("DELETE FROM owners WHERE id = 1"))
        await connection.commit()


async def test_a_snapshot_says_what_is_in_it_and_its_name_is_taken_until_it_is_deleted(shop: Project) -> None:
    database = shop.database()
    saved = (await database.save_snapshot("one")).snapshot
    (revision,) = (await database.current()).revisions
    assert (saved.name, saved.revision, saved.seed) == ("one", revision.revision, None)
    assert saved.size > 0
    assert saved.server == (await database.status()).server
    with pytest.raises(SnapshotExists, match="already"):
        await database.save_snapshot("one")
    assert (await database.delete_snapshot("one")).snapshot.name == "one"
    assert await names(shop) == []
    with pytest.raises(SnapshotNotFound):
        await database.delete_snapshot("one")
    after_the_time = (await database.save_snapshot()).snapshot.name
    assert await names(shop) == [after_the_time]


async def test_automatic_snapshots_make_room_and_named_ones_stay(sqlite_shop: Project) -> None:
    database = sqlite_shop.database()
    await database.save_snapshot("one")
    kept = []
    for _ in range(4):
        restored = (await database.restore_snapshot("one")).kept
        assert restored is not None
        kept.append(restored.name)
    assert set(await names(sqlite_shop)) == {"one", *kept[1:]}


def test_the_commands_say_what_they_did(sqlite_shop: Project) -> None:
    done = sqlite_shop.run("snapshot", "save", "one")
    assert done.stdout.startswith("saved one as ")
    code, document = sqlite_shop.answer("snapshot", "list")
    (listed,) = document["result"]["snapshots"]
    assert (code, listed["name"], listed["server"][:6]) == (0, "one", "SQLite")
    assert sqlite_shop.run("snapshot", "delete", "one").stdout == "deleted one\n"
    code, document = sqlite_shop.answer("snapshot", "delete", "one")
    assert (code, document["error"]["code"]) == (1, "snapshot-not-found")


@pytest.mark.parametrize("name", ["", "../x", "A", "a b", "a.b", "-a", "cache-1", "x" * 41, "ä", "a/b", 'a"b', "a;b"])
async def test_a_name_is_one_on_every_database(sqlite_project: Project, name: str) -> None:
    with pytest.raises(OptionsInvalid, match="cannot be the name"):
        await sqlite_project.database().save_snapshot(name)


async def test_the_guard_is_asked(shop: Project) -> None:
    """The mark was made after the snapshot: it is of the place, and stays."""
    database = shop.database()
    await database.save_snapshot("one")
    await database.set_environment("production")
    await change(shop)
    for verb in (database.restore_snapshot, database.delete_snapshot):
        with pytest.raises(Protected):
            await verb("one")
        with pytest.raises(WrongDatabaseName):
            await verb("one", confirm_database="another")
    assert await owners(shop) == [(7, "new")]
    name = str(target_of(shop.settings()).url.database).rpartition("/")[2]
    await database.restore_snapshot("one", confirm_database=name)
    assert await owners(shop) == BEFORE
    assert (await database.environment()).environment == "production"
    await database.delete_snapshot("one", confirm_database=name)


async def test_the_mark_is_of_the_place(shop: Project) -> None:
    """One that was taken away stays away; a database that is gone has none to keep, and the snapshot's counts."""
    database = shop.database()
    await database.set_environment("development")
    await database.save_snapshot("one")
    await database.set_environment("none")
    kept = (await database.restore_snapshot("one")).kept
    assert (await database.environment()).environment is None
    await database.set_environment("development")
    assert kept is not None
    await database.restore_snapshot(kept.name)
    assert (await database.environment()).environment == "development"
    if shop.dialect == "sqlite":
        sqlite_file(shop).unlink()
    else:
        await drop_database(shop.url, patience=None)
    await database.restore_snapshot("one")
    assert (await database.environment()).environment == "development"


async def test_a_snapshot_is_guarded_when_its_database_is_gone(sqlite_shop: Project) -> None:
    """By where the command believes to be, and by the mark that the snapshot was made with."""
    await sqlite_shop.database().save_snapshot("one")
    await sqlite_shop.database().set_environment("production")
    await sqlite_shop.database().save_snapshot("two")
    file = sqlite_file(sqlite_shop)
    file.unlink()
    with pytest.raises(Protected, match="APP_ENV is production"):
        await sqlite_shop.database(APP_ENV="production").delete_snapshot("one")
    with pytest.raises(Protected, match="was marked production"):
        await sqlite_shop.database().delete_snapshot("two")
    assert set(await names(sqlite_shop)) == {"one", "two"}
    await sqlite_shop.database().delete_snapshot("one")
    await sqlite_shop.database().delete_snapshot("two", confirm_database=file.name)
    assert await names(sqlite_shop) == []


async def test_the_migration_lock_is_waited_for(shop: Project) -> None:
    await shop.database().save_snapshot("one")
    impatient = shop.database()
    impatient.settings = impatient_settings(shop)
    async with holding_the_lock(shop):
        for verb in (impatient.save_snapshot, impatient.restore_snapshot, impatient.delete_snapshot):
            with pytest.raises(LockNotObtained):
                await verb("one" if verb != impatient.save_snapshot else "two")
    assert await names(shop) == ["one"]


def impatient_settings(project: Project) -> Settings:
    return replace(project.settings(), lock_timeout=0.0)


@asynccontextmanager
async def holding_the_lock(project: Project) -> AsyncIterator[None]:
    async with lone_connection(project.settings()) as connection:
        await connection.run_sync(lambda sync: sync.execute(text("SELECT 1")))
        yield


async def test_commands_at_once_end_one_after_the_other(server_shop: Project) -> None:
    """None waits for another that waits for it, and none removes the copy that another is about to put in place."""
    await server_shop.database().save_snapshot("one")
    await change(server_shop)
    settings = replace(server_shop.settings(), lock_timeout=20.0)
    databases = [Database(settings) for _ in range(5)]
    await asyncio.gather(
        *(database.restore_snapshot("one") for database in databases[:3]), databases[3].save_snapshot("two"), databases[4].upgrade()
    )
    assert await owners(server_shop) == BEFORE
    assert {"one", "two"} < set(await names(server_shop))
    assert not [name for name in await databases_of(server_shop) if "_partial_" in name]


async def test_a_database_that_is_gone_comes_back(server_shop: Project) -> None:
    shop = server_shop
    await shop.database().save_snapshot("one")
    await drop_database(shop.url, patience=None)
    await shop.database().restore_snapshot("one")
    assert await owners(shop) == BEFORE


# kill -9.


KILLED = """
import asyncio, os, signal, sys
from fininfra_db.database import Database
from fininfra_db.dialects import mysql_snapshots, postgresql_snapshots
from fininfra_db.settings import load_settings

store, step, when, verb = sys.argv[1:]
kind = {"postgresql": postgresql_snapshots.PostgresqlSnapshots, "mysql": mysql_snapshots.MysqlSnapshots}[store]
original = getattr(kind, step)

async def killed(*arguments):
    if when == "after":
        await original(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(kind, step, killed)
asyncio.run(getattr(Database(load_settings()), verb)("one"))
"""


def kill(project: Project, step: str, when: str, verb: str) -> None:
    environment = clean_environment() | project.environ | {"SQL_URL": project.url}
    command = [sys.executable, "-c", KILLED, project.dialect, step, when, verb]
    return subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False).returncode


async def test_kill_9_leaves_the_old_or_the_new_and_the_next_run_cleans_up(server_shop: Project) -> None:
    """On SQLite it is killed at every page: tests/contract/test_snapshots.py."""
    shop = server_shop
    database = shop.database()
    kill(shop, "copy", "after", "save_snapshot")
    assert await names(shop) == []
    await database.save_snapshot("one")
    await change(shop)
    for step, when in (("copy", "after"), ("swap", "before")):
        kill(shop, step, when, "restore_snapshot")
        assert await owners(shop) == [(7, "new")]
    kill(shop, "swap", "after", "restore_snapshot")
    assert await owners(shop) == BEFORE
    kept, _ = await names(shop)
    await database.restore_snapshot(kept)
    assert await owners(shop) == [(7, "new")]
    assert not [name for name in await databases_of(shop) if "_partial_" in name]


async def databases_of(project: Project) -> list[str]:
    found = await project.rows(DATABASES[project.dialect])
    return [name for (name,) in found if name.startswith(str(target_of(project.settings()).url.database))]


# What only one kind of server has.


async def test_postgresql_names_who_is_connected_and_changes_nothing(postgresql_project: Project) -> None:
    project = postgresql_project
    await project.database().setup_and_migrate()
    await project.database().save_snapshot("one")
    impatient = project.database()
    impatient.settings = impatient_settings(project)
    async with open_connection(project.settings(), "application") as application:
        pid = await application.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(DatabaseInUse, match=f"pid {pid} "):
            await impatient.save_snapshot("two")
        with pytest.raises(DatabaseInUse, match=f"pid {pid} "):
            await impatient.restore_snapshot("one")
        waiting = asyncio.create_task(project.database().save_snapshot("two"))
        await asyncio.sleep(0.8)
        assert not waiting.done()
    await waiting
    assert set(await names(project)) == {"one", "two"}
    await remove_copies(project)


async def test_postgresql_keeps_what_belongs_to_the_database(postgresql_project: Project) -> None:
    """Owner, rights, settings of the database and of a role in it, the limit and the comment: of now, not of the snapshot."""
    project = postgresql_project
    await project.database().setup_and_migrate()
    name = str(target_of(project.settings()).url.database)
    await project.database().save_snapshot("one")
    role = f"{name}_role"
    await project.execute(
        f'CREATE ROLE "{role}"',
        f'ALTER DATABASE {name} OWNER TO "{role}"',
        f"ALTER DATABASE {name} SET search_path TO public, \"a b\", 'c''d'",
        f'ALTER ROLE "{role}" IN DATABASE {name} SET statement_timeout TO "1234ms"',
        f'ALTER ROLE "{role}" IN DATABASE {name} SET role TO pg_monitor',
        f"ALTER DATABASE {name} CONNECTION LIMIT 42",
        f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
        f'GRANT CREATE ON DATABASE {name} TO "{role}" WITH GRANT OPTION',
        f"COMMENT ON DATABASE {name} IS 'it''s ours: \\n'",
    )
    query = """
        SELECT pg_get_userbyid(datdba), datconnlimit, CAST(datacl AS text), shobj_description(oid, 'pg_database'),
            (SELECT string_agg(CAST(setconfig AS text), ' ' ORDER BY setrole) FROM pg_db_role_setting WHERE setdatabase = oid)
        FROM pg_database WHERE datname = current_database()
    """
    before = await project.rows(query)
    await project.database().restore_snapshot("one")
    after = await project.rows(query)
    assert [sorted(str(after[0][2]).strip("{}").split(","))] == [sorted(str(before[0][2]).strip("{}").split(","))]
    assert [row[:2] + row[3:] for row in after] == [row[:2] + row[3:] for row in before]
    await project.execute(f'REASSIGN OWNED BY "{role}" TO CURRENT_USER', f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')
    await remove_copies(project)


@pytest.fixture
async def owner_project(postgresql_project: Project) -> AsyncIterator[Project]:
    """A project whose login is no superuser, and may create databases."""
    project, role = postgresql_project, f"{target_of(postgresql_project.settings()).url.database}_owner"
    url = target_of(project.settings()).url
    maintenance = Project(project.dialect, project.root, str(url.set(database="postgres").render_as_string(hide_password=False)))
    await maintenance.execute(f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'secret'")
    yield Project(
        project.dialect, project.root, url.set(username=role, password="secret").render_as_string(hide_password=False), project.environ
    )
    await remove_copies(project, patience=None)
    await maintenance.execute(f"DROP ROLE {role}")


async def test_postgresql_takes_no_superuser(owner_project: Project) -> None:
    """A session of another login is seen, too, although not all of it."""
    await open_shop(owner_project)
    database = owner_project.database()
    await database.save_snapshot("one")
    await change(owner_project)
    assert (await database.restore_snapshot("one")).kept is not None
    assert await owners(owner_project) == BEFORE
    database.settings = impatient_settings(owner_project)
    superuser = target_of(owner_project.settings()).url.set(username="postgres").render_as_string(hide_password=False)
    async with open_connection(owner_project.settings(SQL_URL=superuser), "application") as other:
        pid = await other.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(DatabaseInUse, match=f"pid {pid} "):
            await database.save_snapshot("two")


async def test_a_database_whose_name_is_as_long_as_can_be(server_project: Project) -> None:
    url = target_of(server_project.settings()).url
    server_project.url = url.set(database=f"{url.database}_{'x' * (62 - len(str(url.database)))}").render_as_string(hide_password=False)
    database = server_project.database()
    try:
        await database.setup_and_migrate()
        await database.save_snapshot("a" * 40)
        await database.save_snapshot("a" * 39 + "b")
        await database.restore_snapshot("a" * 40)
        assert len(await names(server_project)) == 3
    finally:
        await remove_copies(server_project)
        await drop_database(server_project.url)


@pytest.fixture
async def mysql_shop(mysql_project: Project) -> AsyncIterator[Project]:
    await open_shop(mysql_project)
    yield mysql_project
    await remove_copies(mysql_project)


async def test_mysql_passes_over_what_only_looks_like_a_snapshot(mysql_shop: Project) -> None:
    """A table of another one's that is called like a label; and a database of routines only is not free."""
    database = mysql_shop.database()
    source = target_of(mysql_shop.settings()).url.database
    elsewhere, alike, routines = f"a_{source}", f"{source}_snapshot_alike", f"{source}_snapshot_two"
    await mysql_shop.execute(
        *(f"CREATE DATABASE {name}" for name in (elsewhere, alike, routines)),
        *(f"CREATE TABLE {name}.fininfra_snapshot (id INT)" for name in (elsewhere, alike)),
        f"CREATE FUNCTION {routines}.f() RETURNS INT DETERMINISTIC RETURN 1",
    )
    try:
        await database.save_snapshot("one")
        with pytest.raises(SnapshotExists):
            await database.save_snapshot("two")
        assert await names(mysql_shop) == ["one"]
    finally:
        await mysql_shop.execute(f"DROP DATABASE {elsewhere}")


@pytest.mark.parametrize(
    "made", ["CREATE VIEW seen AS SELECT * FROM owners", "CREATE TRIGGER t BEFORE INSERT ON owners FOR EACH ROW SET NEW.name = 'x'"]
)
async def test_mysql_refuses_to_copy_half_of_a_database(mysql_shop: Project, made: str) -> None:
    await mysql_shop.execute(made)
    with pytest.raises(SnapshotFailed, match=r"leave behind: (view seen|trigger t)"):
        await mysql_shop.database().save_snapshot("one")
    assert await names(mysql_shop) == []


async def test_mysql_copies_values_as_they_are(mysql_shop: Project) -> None:
    """A zero in an AUTO_INCREMENT column, a generated column, the counter, and a lock that is waited for."""
    await mysql_shop.execute(
        "CREATE TABLE odd (id INT AUTO_INCREMENT PRIMARY KEY, a INT, twice INT AS (a * 2) STORED) AUTO_INCREMENT = 50",
        "INSERT INTO odd (a) VALUES (1)",
        "UPDATE odd SET id = 0",
    )
    await mysql_shop.database().save_snapshot("one")
    await mysql_shop.execute("DELETE FROM odd")
    await mysql_shop.database().restore_snapshot("one")
    assert await mysql_shop.rows("SELECT id, a, twice FROM odd") == [(0, 1, 2)]
    await mysql_shop.execute("INSERT INTO odd (a) VALUES (2)")
    assert await mysql_shop.rows("SELECT id FROM odd WHERE a = 2") == [(51,)]
    impatient = mysql_shop.database()
    impatient.settings = impatient_settings(mysql_shop)
    async with open_connection(mysql_shop.settings(), "application") as application:
        await application.execute(text("SELECT count(*) FROM odd"))
        with pytest.raises(DatabaseInUse, match="open transaction"):
            await impatient.restore_snapshot("one")
    assert await mysql_shop.rows("SELECT count(*) FROM odd") == [(2,)]


async def test_sqlite_exchanges_only_a_file_that_nobody_has_open(sqlite_shop: Project) -> None:
    """Who has it open goes on with the database as it is now, and not with the file as it was."""
    database, file = sqlite_shop.database(), sqlite_file(sqlite_shop)
    await database.save_snapshot("one")
    await change(sqlite_shop)
    file.chmod(0o640)
    before = file.stat()
    with another_process(file, "SELECT count(*) FROM owners") as process:
        await database.restore_snapshot("one")
        assert file.stat().st_ino == before.st_ino
        release(process)
    await change(sqlite_shop)
    with closing(sqlite3.connect(file)) as idle:
        assert idle.execute("SELECT id FROM owners").fetchall() == [(7,)]
        await database.restore_snapshot("one")
        assert idle.execute("SELECT id FROM owners").fetchall() == [(1,), (2,)]
    kept = (await database.restore_snapshot("one")).kept
    assert await owners(sqlite_shop) == BEFORE
    assert kept is not None
    assert kept.path is not None
    if sys.platform == "linux":
        assert file.stat().st_ino != before.st_ino == kept.path.stat().st_ino
    assert (file.stat().st_mode & 0o777, kept.path.stat().st_mode & 0o777) == (0o640, 0o600)


async def test_sqlite_leaves_files_of_others_alone(sqlite_shop: Project) -> None:
    """A file in the place of a snapshot or of its label, and links that lead nowhere."""
    database, file = sqlite_shop.database(), sqlite_file(sqlite_shop)
    await database.save_snapshot("one")
    theirs = [path_of(file, "x"), path_of(file, "y.json")]
    for each in theirs:
        each.write_text("hello", encoding="utf-8")
    path_of(file, "z").symlink_to("nowhere")
    for name in ("x", "y", "z"):
        with pytest.raises(SnapshotFailed, match="is no snapshot"):
            await database.save_snapshot(name)
        assert await names(sqlite_shop) == ["one"]
        with pytest.raises(SnapshotNotFound):
            await database.delete_snapshot(name)
    assert [each.read_text(encoding="utf-8") for each in theirs] == ["hello", "hello"]


async def test_sqlite_takes_the_file_of_a_snapshot_for_its_name(sqlite_shop: Project) -> None:
    database, file = sqlite_shop.database(), sqlite_file(sqlite_shop)
    saved = (await database.save_snapshot("one")).snapshot
    for other in (f"other.db{path_of(file, 'one').name.removeprefix(file.name)}", str(file.parent / "else" / path_of(file, "one").name)):
        with pytest.raises(SnapshotNotFound):
            await database.delete_snapshot(other)
    await database.restore_snapshot(path_of(file, "one").name)
    assert (await database.delete_snapshot(str(saved.path))).snapshot.name == "one"


EXCHANGING = """
import asyncio, os, signal
from fininfra_db.database import Database
from fininfra_db.dialects import sqlite_exchange
from fininfra_db.settings import load_settings

def watched(descriptor, file, new):
    {before}
    done = original(descriptor, file, new)
    {after}
    return done

original, sqlite_exchange._put = sqlite_exchange._put, watched
asyncio.run(Database(load_settings()).restore_snapshot("one"))
"""


def exchange_ended(project: Project, *, before: str = "", after: str = "") -> int:
    """Restore the snapshot ``one`` in a process that is ended before or after the exchange; how it ended."""
    environment = clean_environment() | project.environ | {"SQL_URL": project.url}
    command = [sys.executable, "-c", EXCHANGING.format(before=before, after=after)]
    return subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False).returncode


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a file open")
async def test_sqlite_exchange_that_is_killed_hides_nothing(sqlite_shop: Project) -> None:
    """What was there is a snapshot as soon as something else is; until then its second name is none."""
    database = sqlite_shop.database()
    await database.save_snapshot("one")
    await change(sqlite_shop)
    assert exchange_ended(sqlite_shop, before="os.kill(os.getpid(), signal.SIGKILL)") == -signal.SIGKILL
    assert await names(sqlite_shop) == ["one"]
    assert await owners(sqlite_shop) == [(7, "new")]
    first = (await database.restore_snapshot("one")).kept
    assert first is not None
    assert sqlite_file(sqlite_shop).stat().st_nlink == 1, "the second name is gone"
    await change(sqlite_shop)
    assert exchange_ended(sqlite_shop, after="os.kill(os.getpid(), signal.SIGKILL)") == -signal.SIGKILL
    assert await owners(sqlite_shop) == BEFORE
    found = await names(sqlite_shop)
    assert len(found) == 3
    await database.restore_snapshot(found[0])
    assert await owners(sqlite_shop) == [(7, "new")]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a file open")
async def test_sqlite_exchange_that_is_interrupted_keeps_what_was_there(sqlite_shop: Project) -> None:
    database = sqlite_shop.database()
    await database.save_snapshot("one")
    await change(sqlite_shop)
    assert exchange_ended(sqlite_shop, after="raise KeyboardInterrupt") != 0
    assert await owners(sqlite_shop) == BEFORE
    (kept,) = set(await names(sqlite_shop)) - {"one"}
    await database.restore_snapshot(kept)
    assert await owners(sqlite_shop) == [(7, "new")]


def sqlite_file(project: Project) -> Path:
    return Path(str(target_of(project.settings()).url.database))
