"""Snapshots of a SQLite database: taken before each migration, verified, kept, and brought back whatever happens to the file."""

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fininfra_db.database import Database
from fininfra_db.dialects import sqlite_snapshots
from fininfra_db.errors import LockNotObtained, SnapshotFailed, SnapshotNotFound, SnapshotsUnsupported
from fininfra_db.events import Snapshot
from fininfra_db.settings import load_settings
from tests.cli.helpers import FIRST, add_revision, database_file, document_of, on_terminal, set_up_with_rows, traces, versions_in
from tests.conftest import Project, clean_environment

CREATE = "op.create_table('other', sa.Column('x', sa.Integer()))"


@pytest.fixture
def with_rows(sqlite_project: Project) -> Project:
    """At head, with rows in every table and one revision to apply."""
    set_up_with_rows(sqlite_project)
    add_revision(sqlite_project, "aaaa1111", up=CREATE)
    return sqlite_project


def snapshots(project: Project) -> tuple[Snapshot, ...]:
    return asyncio.run(project.database().snapshots()).snapshots


def dump(file: Path) -> list[str]:
    """Everything in a database, row by row, as SQL."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())


def script(file: Path, sql: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(sql)


def beside(project: Project) -> set[str]:
    """The files beside the database that belong to it, hidden ones too."""
    file = database_file(project)
    return {path.name.replace(file.name, "db") for path in file.parent.iterdir() if file.name in path.name}


def upgrade(project: Project, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    done = project.run("upgrade", *words, env=environ)
    assert done.returncode == 0, done.stderr
    return done


def plain_alembic(project: Project) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | project.environ | {"SQL_URL": project.url}
    command = [sys.executable, "-m", "alembic.config", "upgrade", "head"]
    return subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False, timeout=120)


# Taking.


def test_an_upgrade_keeps_a_copy_of_before(with_rows: Project) -> None:
    before = dump(database_file(with_rows))
    done = upgrade(with_rows)
    (snapshot,) = snapshots(with_rows)
    assert snapshot.name in done.stdout
    assert snapshot.path.name == f"{database_file(with_rows).name}.snapshot-{snapshot.name}"
    assert (snapshot.revision, snapshot.size) == (FIRST, snapshot.path.stat().st_size)
    assert abs(snapshot.taken.timestamp() - time.time()) < 60
    assert snapshot.path.stat().st_mode & 0o777 == 0o600
    assert dump(snapshot.path) == before != dump(database_file(with_rows))
    assert beside(with_rows) == {"db", f"db.snapshot-{snapshot.name}"}


def test_plain_alembic_keeps_one_too(with_rows: Project) -> None:
    before = dump(database_file(with_rows))
    assert plain_alembic(with_rows).returncode == 0
    assert versions_in(with_rows) == ["aaaa1111"]
    assert [dump(snapshot.path) for snapshot in snapshots(with_rows)] == [before]


@pytest.mark.parametrize("words", [["downgrade", "base"], ["reset", "--yes"]], ids=" ".join)
def test_what_loses_rows_on_purpose_keeps_a_copy(with_rows: Project, words: list[str]) -> None:
    upgrade(with_rows, "--no-snapshot")
    before = dump(database_file(with_rows))
    done = with_rows.run(*words)
    assert done.returncode == 0, done.stderr
    (snapshot,) = snapshots(with_rows)
    assert snapshot.name in done.stdout
    assert (snapshot.revision, dump(snapshot.path)) == ("aaaa1111", before)


@pytest.mark.parametrize("words", [["upgrade"], ["stamp", "base"], ["current"], ["check"], ["setup-and-migrate"]], ids=" ".join)
def test_nothing_is_copied_when_no_revision_runs(with_rows: Project, words: list[str]) -> None:
    upgrade(with_rows, "--no-snapshot")
    assert with_rows.run(*words).returncode in (0, 3)
    assert snapshots(with_rows) == ()


def test_nothing_is_copied_when_there_is_no_row_to_lose(sqlite_project: Project) -> None:
    """A database without rows, but for those of the version table and the journal."""
    assert sqlite_project.run("setup-and-migrate").returncode == 0
    add_revision(sqlite_project, "aaaa1111", up=CREATE)
    upgrade(sqlite_project)
    assert versions_in(sqlite_project) == ["aaaa1111"]
    assert snapshots(sqlite_project) == ()


@pytest.mark.parametrize(
    "words", [["upgrade"], ["migrate"], ["downgrade", "base"], ["setup-and-migrate"], ["reset", "--yes"]], ids=" ".join
)
def test_no_snapshot_when_none_is_wanted(with_rows: Project, words: list[str]) -> None:
    assert with_rows.run(*words, "--no-snapshot").returncode == 0
    assert snapshots(with_rows) == ()


def test_no_snapshot_when_alembic_ini_says_no(with_rows: Project) -> None:
    with (with_rows.root / "alembic.ini").open("a", encoding="utf-8") as ini:
        ini.write("snapshots = no\n")
    upgrade(with_rows)
    assert snapshots(with_rows) == ()


def test_the_last_three_are_kept(with_rows: Project) -> None:
    """Files of the user's that look alike are not touched."""
    file = database_file(with_rows)
    others = [file.with_name(f"{file.name}.snapshot-{name}") for name in ("mine", "20200101T000000.000Z-none-before-the-audit")]
    stale = file.with_name(f".{file.name}.snapshot-abcdef")
    for path in (*others, stale):
        path.write_text("x")
    os.utime(stale, (0, 0))
    parent, taken = "aaaa1111", []
    for number in range(5):
        upgrade(with_rows)
        taken.append(snapshots(with_rows)[0].name)
        add_revision(with_rows, f"bbbb{number}", parent, up=f"op.execute('CREATE TABLE other{number} (x INTEGER)')")
        parent = f"bbbb{number}"
    assert [snapshot.name for snapshot in snapshots(with_rows)] == taken[:1:-1]
    assert all(path.exists() for path in others)
    assert not stale.exists()


def test_the_new_one_is_kept_when_the_clock_has_gone_back(with_rows: Project) -> None:
    file = database_file(with_rows)
    for year in range(2091, 2095):
        file.with_name(f"{file.name}.snapshot-{year}0101T000000.000Z-none").write_text("x")
    upgrade(with_rows)
    kept = [snapshot.taken.year for snapshot in snapshots(with_rows)]
    assert kept[:2] == [2094, 2093]
    assert len(kept) == 3
    assert kept[2] < 2091


def test_a_migration_that_was_rolled_back_leaves_no_copy(with_rows: Project) -> None:
    """It would be one of a database as it is, and push out those that are of use."""
    upgrade(with_rows)
    (useful,) = snapshots(with_rows)
    before = dump(database_file(with_rows))
    add_revision(with_rows, "bbbb2222", "aaaa1111", up="op.execute('INSERT INTO nowhere VALUES (1)')")
    for _ in range(4):
        code, document = with_rows.answer("upgrade")
        assert code == 1
        assert "Nothing of bbbb2222 remains." in document["error"]["message"]
    assert snapshots(with_rows) == (useful,)
    assert dump(database_file(with_rows)) == before


def test_plain_alembic_lets_go_of_snapshots_as_an_upgrade_does(with_rows: Project) -> None:
    """It keeps the last three, and none of a database that it left as it was."""
    parent, taken = "aaaa1111", []
    for number in range(4):
        assert plain_alembic(with_rows).returncode == 0
        taken.append(snapshots(with_rows)[0].name)
        add_revision(with_rows, f"bbbb{number}", parent, up=f"op.execute('CREATE TABLE other{number} (x INTEGER)')")
        parent = f"bbbb{number}"
    kept = [snapshot.name for snapshot in snapshots(with_rows)]
    assert kept == taken[:0:-1]
    add_revision(with_rows, "cccc", parent, up="op.execute('INSERT INTO nowhere VALUES (1)')")
    assert plain_alembic(with_rows).returncode != 0
    assert [snapshot.name for snapshot in snapshots(with_rows)] == kept


def test_a_database_in_wal_mode_is_copied_with_what_is_in_its_log(with_rows: Project) -> None:
    file = database_file(with_rows)
    with closing(sqlite3.connect(file, isolation_level=None)) as application:
        application.execute("PRAGMA journal_mode = WAL")
        application.execute("CREATE TABLE late (x TEXT)")
        application.execute("INSERT INTO late VALUES ('in the log')")
        assert file.with_name(f"{file.name}-wal").stat().st_size > 0
        upgrade(with_rows)
        (snapshot,) = snapshots(with_rows)
    assert "INSERT INTO \"late\" VALUES('in the log');" in dump(snapshot.path)


def test_the_path_may_be_a_link_and_hold_any_character(tmp_path: Path, key: str) -> None:
    root, elsewhere = tmp_path / "project", tmp_path / "else where"
    root.mkdir()
    elsewhere.mkdir()
    (root / "link").symlink_to(elsewhere)
    project = Project("sqlite", root, f"sqlite:///{root / 'link' / 'fin%23 [1]ä.db'}", {"FININFRA_DB_KEYS": key})
    assert project.run("setup-and-migrate").returncode == 0
    assert project.run("seed").returncode == 0
    add_revision(project, "aaaa1111", up=CREATE)
    upgrade(project)
    (snapshot,) = snapshots(project)
    assert snapshot.path.parent == elsewhere
    assert project.run("snapshot", "restore", snapshot.name, "--yes").returncode == 0
    assert versions_in(project) == [FIRST]


@pytest.mark.parametrize("limit", [4096, 100_000, 300_000])
def test_no_migration_begins_without_room_for_the_copy(with_rows: Project, limit: int) -> None:
    file = database_file(with_rows)
    before = traces(file)
    assert file.stat().st_size > limit
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); import fininfra_db.cli.app as a; a.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "upgrade", "--json"],
        cwd=with_rows.root,
        env=clean_environment() | with_rows.environ | {"SQL_URL": with_rows.url, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    document = document_of(done)
    assert (done.returncode, document["error"]["code"]) == (1, "snapshot-failed")
    assert "The migration did not begin; nothing was changed." in document["error"]["message"]
    assert "--no-snapshot" in document["error"]["hint"]
    assert traces(file) == before
    assert beside(with_rows) == {"db"}


def test_no_migration_begins_where_no_file_may_be_made(with_rows: Project) -> None:
    """Here because the name of the copy would be too long."""
    file = database_file(with_rows).rename(with_rows.root / ("x" * 220))
    with_rows.url = f"sqlite:///{file}"
    code, document = with_rows.answer("upgrade")
    assert (code, document["error"]["code"]) == (1, "snapshot-failed")
    assert "File name too long" in document["error"]["message"]
    assert versions_in(with_rows) == [FIRST]
    assert beside(with_rows) == {"db"}


def test_a_damaged_database_is_found_before_it_is_migrated(with_rows: Project) -> None:
    """Damage that the migration itself would not meet: in a table that it does not touch."""
    file = database_file(with_rows)
    with closing(sqlite3.connect(file)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'documents'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(file.read_bytes())
    content[(page - 1) * size + 3 : (page - 1) * size + 5] = b"\x00\xff"  # the number of its cells
    file.write_bytes(content)
    assert with_rows.run("upgrade").returncode != 0
    assert versions_in(with_rows) == [FIRST]
    assert snapshots(with_rows) == ()


async def test_an_application_goes_on_while_its_database_is_copied(with_rows: Project) -> None:
    """The event loop is not blocked: a tick every millisecond is never late by as much as the copy takes."""
    script(database_file(with_rows), "CREATE TABLE big (x BLOB); INSERT INTO big VALUES (zeroblob(60000000));")
    await with_rows.database().current()
    late: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - before)

    started = time.perf_counter()
    file = database_file(with_rows)
    sqlite_snapshots.take(file, (FIRST,), threading.Event()).path.unlink()
    taking = time.perf_counter() - started
    from sqlalchemy.util import greenlet_spawn

    from fininfra_db.dialects.threads import in_thread

    ticking = asyncio.create_task(tick())
    await greenlet_spawn(lambda: in_thread(lambda stop: sqlite_snapshots.take(file, (FIRST,), stop)))
    ticking.cancel()
    assert taking > 0.05
    assert max(late) < taking * 0.75


# Listing and bringing back.


def change(project: Project) -> Snapshot:
    """Upgrade, and lose everything of the user's. The snapshot of before is returned."""
    upgrade(project)
    script(database_file(project), "PRAGMA foreign_keys = ON; DELETE FROM users; INSERT INTO other VALUES (7);")
    return snapshots(project)[0]


def test_the_rows_come_back_and_what_was_there_is_kept(with_rows: Project) -> None:
    before = dump(database_file(with_rows))
    snapshot = change(with_rows)
    changed = dump(database_file(with_rows))
    done = with_rows.run("snapshot", "restore", snapshot.name, "--yes")
    assert done.returncode == 0, done.stderr
    kept, old = snapshots(with_rows)
    assert done.stdout.splitlines() == [
        f"restored {snapshot.name}",
        f"kept a snapshot of before: {kept.name}",
        f"The database is at {FIRST}.",
    ]
    assert dump(database_file(with_rows)) == before
    assert (kept.revision, dump(kept.path)) == ("aaaa1111", changed)
    assert old == snapshot
    assert with_rows.run("check").returncode == 3
    done = with_rows.run("snapshot", "restore", kept.path.name, "--yes", "--json")
    assert document_of(done)["result"]["snapshot"]["name"] == kept.name
    assert dump(database_file(with_rows)) == changed


def test_the_list_is_newest_first_and_needs_no_database(with_rows: Project) -> None:
    change(with_rows)
    add_revision(with_rows, "bbbb2222", "aaaa1111", up="op.execute('CREATE TABLE another (x INTEGER)')")
    upgrade(with_rows)
    database_file(with_rows).unlink()
    newest, oldest = snapshots(with_rows)
    before = traces(with_rows.root)
    done = with_rows.run("snapshot", "list")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [newest.name, oldest.name]
    code, document = with_rows.answer("snapshot", "list")
    assert code == 0
    assert [each["revision"] for each in document["result"]["snapshots"]] == ["aaaa1111", FIRST]
    assert all(each["taken"].endswith("Z") and each["size"] > 0 for each in document["result"]["snapshots"])
    assert traces(with_rows.root) == before
    assert newest.name in on_terminal(with_rows, "snapshot", "list").screen


def test_there_is_nothing_to_list(with_rows: Project) -> None:
    assert with_rows.run("snapshot", "list").stdout == "There is no snapshot of this database.\n"


def test_a_name_that_is_none_changes_nothing(with_rows: Project) -> None:
    snapshot = change(with_rows)
    before = traces(with_rows.root)
    code, document = with_rows.answer("snapshot", "restore", "20200101T000000.000Z-none", "--yes")
    assert (code, document["error"]["code"]) == (1, "snapshot-not-found")
    assert snapshot.name in document["error"]["hint"]
    assert traces(with_rows.root) == before


def test_it_asks_first(with_rows: Project) -> None:
    snapshot = change(with_rows)
    before = traces(with_rows.root)
    done = with_rows.run("snapshot", "restore", snapshot.name)
    assert done.returncode == 4
    assert "--yes" in done.stderr
    done = on_terminal(with_rows, "snapshot", "restore", snapshot.name, typed="n\n")
    assert done.returncode == 4
    assert traces(with_rows.root) == before
    done = on_terminal(with_rows, "snapshot", "restore", snapshot.name, typed="y\n")
    assert done.returncode == 0, done.screen
    assert versions_in(with_rows) == [FIRST]


@pytest.mark.parametrize("now", ["WAL", "DELETE"])
@pytest.mark.parametrize("then", ["WAL", "DELETE"])
def test_it_does_not_matter_how_the_file_is_written(with_rows: Project, then: str, now: str) -> None:
    file = database_file(with_rows)
    script(file, f"PRAGMA journal_mode = {then}")
    before = dump(file)
    snapshot = change(with_rows)
    script(file, f"PRAGMA journal_mode = {now}; INSERT INTO other VALUES (8);")
    done = with_rows.run("snapshot", "restore", snapshot.name, "--yes")
    assert done.returncode == 0, done.stderr
    assert dump(file) == before
    assert any("VALUES(8)" in line for line in dump(snapshots(with_rows)[0].path))
    assert with_rows.run("upgrade").returncode == 0


DAMAGE = {
    "not a database": lambda content: b"x" * len(content),
    "cut off": lambda content: content[: len(content) // 2 + 100],
    "empty": lambda _: b"",
    "pages overwritten": lambda content: content[:4096] + b"\xff" * 40960 + content[45056:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_moved_aside_with_what_belongs_to_it(with_rows: Project, damage: str) -> None:
    file = database_file(with_rows)
    file.chmod(0o640)
    before = dump(file)
    snapshot = change(with_rows)
    damaged = DAMAGE[damage](file.read_bytes())
    file.write_bytes(damaged)
    file.with_name(f"{file.name}-wal").write_bytes(b"stale")
    done = with_rows.run("snapshot", "restore", snapshot.name, "--yes", "--json")
    moved = Path(document_of(done)["result"]["moved"])
    assert moved.parent == file.parent
    assert moved.read_bytes() == damaged
    assert dump(file) == before
    assert file.stat().st_mode & 0o777 == 0o640
    assert not {"db-wal", "db-shm", "db-journal"} & beside(with_rows)
    assert with_rows.run("upgrade").returncode == 0


def test_a_file_that_is_gone_comes_back_without_the_journal_of_the_lost_one(with_rows: Project) -> None:
    file = database_file(with_rows)
    before = dump(file)
    snapshot = change(with_rows)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 5")
        connection.execute("BEGIN")
        connection.execute("DELETE FROM other")
        connection.execute(
            "CREATE TABLE filler AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 20000) SELECT x FROM n"
        )
        journal = file.with_name(f"{file.name}-journal").read_bytes()
    assert journal.startswith(bytes.fromhex("d9d505f920a163d7"))
    file.unlink()
    file.with_name(f"{file.name}-journal").write_bytes(journal)
    done = with_rows.run("snapshot", "restore", snapshot.name, "--yes")
    assert done.returncode == 0, done.stderr
    assert dump(file) == before
    assert "db-journal" not in beside(with_rows)


def test_a_damaged_snapshot_is_not_brought_back(with_rows: Project) -> None:
    snapshot = change(with_rows)
    content = snapshot.path.read_bytes()
    snapshot.path.write_bytes(DAMAGE["pages overwritten"](content))
    before = traces(with_rows.root)
    code, document = with_rows.answer("snapshot", "restore", snapshot.name, "--yes")
    assert (code, document["error"]["code"]) == (1, "snapshot-failed")
    assert "is damaged" in document["error"]["message"]
    assert traces(with_rows.root) == before


@contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """A reader in the middle of a transaction."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM users").fetchone()
        yield connection


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_reader_is_waited_for_and_never_sees_a_mixture(with_rows: Project, mode: str) -> None:
    file = database_file(with_rows)
    snapshot = change(with_rows)
    script(file, f"PRAGMA journal_mode = {mode}")
    before = dump(file)
    with reading(file) as reader, pytest.raises(LockNotObtained) as caught:
        sqlite_snapshots.restore(file, snapshot.name, 0.3, threading.Event())
    assert "in use by another program" in caught.value.message
    with closing(sqlite3.connect(file)) as reader:
        assert reader.execute("PRAGMA quick_check").fetchone() == ("ok",)
    assert dump(file) == before
    assert len(snapshots(with_rows)) == 1


def test_no_room_for_what_is_there_now_leaves_it(with_rows: Project) -> None:
    snapshot = change(with_rows)
    file = database_file(with_rows)
    before = dump(file)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(SnapshotFailed) as caught:
            sqlite_snapshots.restore(file, snapshot.name, 5, threading.Event())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "was not restored" in caught.value.message
    assert dump(file) == before
    assert [each.name for each in snapshots(with_rows)] == [snapshot.name]


KILLED = """
import os, signal, sqlite3, sys, threading
from pathlib import Path
from fininfra_db.dialects import sqlite_snapshots as module
file, name, pages, looks = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
module._PAGES = pages
somebody = file.open("rb")  # has it open: so it is written page by page
class Stop(threading.Event):
    def is_set(self):
        global looks
        looks -= 1
        if looks == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return False
module.restore(file, name, 5, Stop())
"""


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_kill_9_anywhere_leaves_the_old_content_or_the_new(with_rows: Project, mode: str) -> None:
    """Killed at every look that it takes, from the check of the copy to the last pages; more pages than SQLite keeps in memory."""
    file = database_file(with_rows)
    script(file, "CREATE TABLE big (x BLOB); INSERT INTO big VALUES (zeroblob(5000000));")
    before = dump(file)
    snapshot = change(with_rows)
    script(file, f"PRAGMA journal_mode = {mode}; UPDATE big SET x = randomblob(5000000);")
    changed = dump(file)
    interrupted = 0
    for look in range(1, 100):
        command = [sys.executable, "-c", KILLED, str(file), snapshot.name, "150", str(look)]
        code = subprocess.run(command, env=clean_environment(), capture_output=True, check=False).returncode
        assert code == -signal.SIGKILL
        interrupted += any(file.with_name(file.name + end).exists() for end in ("-journal", "-wal"))
        script(file, "PRAGMA quick_check")  # the next one to open it, who may write, takes back what was begun
        if dump(file) == before:
            break
        assert dump(file) == changed
    assert interrupted > 3
    assert dump(file) == before


async def test_other_databases_are_referred_to_their_own_tools(tmp_path: Path) -> None:
    database = Database(load_settings(project_root=tmp_path, sql_url="mssql://user@localhost/finance", environ={}))
    calls: list[Any] = [database.snapshots, lambda: database.restore_snapshot("20200101T000000.000Z-none")]
    for call in calls:
        with pytest.raises(SnapshotsUnsupported) as caught:
            await call()
        assert "backup tools" in str(caught.value.hint)


async def test_the_library_restores_inside_a_running_loop(with_rows: Project) -> None:
    before = dump(database_file(with_rows))
    await with_rows.database().upgrade()
    (snapshot,) = (await with_rows.database().snapshots()).snapshots
    restored = await with_rows.database().restore_snapshot(snapshot.name)
    assert restored.snapshot == snapshot
    assert restored.kept is not None
    assert dump(database_file(with_rows)) == before
    with pytest.raises(SnapshotNotFound):
        await with_rows.database().restore_snapshot("mine")
