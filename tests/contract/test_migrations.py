"""Histories and runs on every database: branches, failures, drift, and what several migrators at once may not do."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from fininfra_db.connections import ensure_database, migration_lock, open_connection
from fininfra_db.database import Database
from fininfra_db.errors import (
    AlembicFailed,
    DatabaseAhead,
    MigrationFailed,
    MultipleHeads,
    NotAtHead,
    OptionsInvalid,
    Refused,
    RevisionAmbiguous,
    RevisionNotFound,
)
from fininfra_db.migrate.authoring import Draft
from tests.conftest import Project, clean_environment
from tests.contract.helpers import column_names, files_of, table_names, use_models, write_by_hand

REPOSITORY = Path(__file__).parents[2]
SHOP = """
    from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, MetaData, String, Table, UniqueConstraint, text

    metadata = MetaData(naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    })
    Table(
        "shops", metadata,
        Column("id", Integer, primary_key=True),
        Column("name", String(50), nullable=False),
        Column("city", String(50)),
        Column("note", String(20)),
        Column("floor", Integer, server_default=text("1"), nullable=False),
        Index(None, "city"),
        UniqueConstraint("name"),
        CheckConstraint("floor >= 0", name="floor"),
    )
    Table(
        "sales", metadata,
        Column("id", Integer, primary_key=True),
        Column("shop_id", Integer, ForeignKey("shops.id", ondelete="CASCADE"), nullable=False, index=True),
    )
"""
DRIFT = {
    "add table": (
        'Table(\n        "sales"',
        'Table("tills", metadata, Column("id", Integer, primary_key=True))\n    Table(\n        "sales"',
        "add table tills",
    ),
    "add column": ('Column("city", String(50)),', 'Column("city", String(50)), Column("zip", String(9)),', "add column shops.zip"),
    "type": ('Column("city", String(50))', 'Column("city", String(80))', "change type of column shops.city"),
    "nullability": ('"name", String(50), nullable=False', '"name", String(50), nullable=True', "change nullability of column shops.name"),
    "default": ('text("1")', 'text("2")', "change default of column shops.floor"),
    "index": ('Index(None, "city")', 'Index(None, "city"), Index(None, "name", "city")', "add index ix_shops_name_city on shops"),
    "unique": (
        'UniqueConstraint("name")',
        'UniqueConstraint("name"), UniqueConstraint("city", "floor")',
        "add constraint uq_shops_city_floor on shops",
    ),
    "check": ('name="floor"),', 'name="floor"), CheckConstraint("floor < 99", name="roof"),', "add constraint ck_shops_roof on shops"),
    "no check": ('CheckConstraint("floor >= 0", name="floor"),', "", "drop constraint ck_shops_floor on shops"),
    "no column": ('Column("note", String(20)),', "", "drop column shops.note"),
}


async def start(project: Project, models: str = SHOP) -> str:
    """A project of ours with these models and a database at its first revision, which is returned."""
    await use_models(project, models)
    return (await project.database().setup_and_migrate()).migrated.after[0]


async def test_two_heads_are_named_run_together_and_merged(project: Project) -> None:
    first = await start(project)
    left = await write_by_hand(project, "left", "op.create_table('lefts', sa.Column('id', sa.Integer()))", head=first)
    right = await write_by_hand(project, "right", "op.create_table('rights', sa.Column('id', sa.Integer()))", head=first)
    database = project.database()
    with pytest.raises(MultipleHeads, match="Nothing was run"):
        await database.upgrade()
    with pytest.raises(MultipleHeads, match="Nothing was written"):
        await database.revision(Draft(autogenerate=True))
    assert (await database.current()).revisions[0].revision == first
    assert set((await database.upgrade("heads")).after) == {left, right}
    assert "multiple-heads" in [finding.code for finding in (await database.check()).findings]
    (merged,) = (await database.merge(message="join")).revisions
    assert (await database.upgrade()).after == (merged,)
    assert set((await database.downgrade(left)).after) == {left, right}
    assert [info.revision for info in (await database.heads()).revisions] == [merged]


async def test_branch_labels_and_dependencies(project: Project) -> None:
    first = await start(project)
    database = project.database()
    await database.revision(Draft("bills", head="base", splice=True, branch_label="billing", rev_id="b111"))
    await database.revision(Draft("more bills", head="billing@head", rev_id="b222"))
    await database.revision(Draft("needs bills", head=first, depends_on=("b111",), rev_id="c333"))
    assert (await database.upgrade("c333")).after == ("c333",)
    assert (await database.check()).pending == ("b222",)
    assert (await database.upgrade("heads")).after == ("b222", "c333")
    assert (await database.current(check_heads=True)).findings == ()
    assert (await database.upgrade("heads")).steps == ()
    assert (await database.downgrade("billing@-1")).after == ("c333",)
    assert (await database.upgrade("billing@head")).after == ("b222", "c333")


async def test_relative_names_and_unique_beginnings(project: Project) -> None:
    await use_models(project, SHOP)
    database = project.database()
    for name in ("a111", "a222", "b333"):
        await database.revision(Draft(name, rev_id=name))
    await ensure_database(project.settings())
    assert (await database.upgrade("+1")).after == ("a111",)
    assert (await database.upgrade("+2")).after == ("b333",)
    assert (await database.downgrade("-2")).after == ("a111",)
    assert (await database.upgrade("b3")).after == ("b333",)
    assert (await database.downgrade("b333-1")).after == ("a222",)
    assert (await database.upgrade("a111+2")).after == ("b333",)
    for wrong, error in (("a", RevisionAmbiguous), ("c4", RevisionNotFound), ("+1", AlembicFailed), ("a111:b333", OptionsInvalid)):
        with pytest.raises(error):
            await database.upgrade(wrong)
    assert (await database.current(check_heads=True)).findings == ()


async def test_a_failing_revision_says_what_remains_and_it_is_so(project: Project) -> None:
    first = await start(project)
    second = await write_by_hand(project, "fine", "op.create_table('fine', sa.Column('id', sa.Integer()))")
    broken = await write_by_hand(
        project, "broken", "op.create_table('half', sa.Column('id', sa.Integer()))", "op.execute('SELECT nothing FROM nowhere')"
    )
    await write_by_hand(project, "never", "op.create_table('never', sa.Column('id', sa.Integer()))")
    with pytest.raises(MigrationFailed) as caught:
        await project.database().upgrade()
    at, made = {
        "sqlite": (first, set[str]()),
        "postgresql": (second, {"fine"}),
        "mysql": (second, {"fine", "half"}),
    }[project.dialect]
    message = caught.value.message
    assert f"Revision {broken} (broken) did not apply" in message
    assert "Statement: SELECT nothing FROM nowhere" in message
    assert f"The database is at {at}." in message
    assert ("may remain" in message) == (project.dialect == "mysql")
    assert (await project.database().current()).revisions[0].revision == at
    assert await table_names(project) == {"shops", "sales", "alembic_version"} | made
    done = project.run("upgrade")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


async def test_a_failing_downgrade_says_so(project: Project) -> None:
    first = await start(project)
    written = await project.database().revision(Draft("no way back"))
    written.paths[0].write_text(written.paths[0].read_text(encoding="utf-8") + "    raise RuntimeError('no way back')\n", encoding="utf-8")
    await project.database().upgrade()
    with pytest.raises(MigrationFailed, match=f"Revision {written.revisions[0]} .* did not revert: RuntimeError: no way back"):
        await project.database().downgrade(first)
    assert (await project.database().current()).revisions[0].revision == written.revisions[0]


async def test_a_run_that_env_py_spoils_is_a_failure(project: Project) -> None:
    """A statement before ``run()`` begins a transaction that Alembic does not commit."""
    await use_models(project, SHOP)
    await project.database().revision(Draft("empty"))
    await ensure_database(project.settings())
    env = project.root / "migrations" / "env.py"
    spoil = "from alembic import context\n\ncontext.config.attributes['connection'].exec_driver_sql('SELECT 1')\nrun()\n"
    env.write_text(env.read_text(encoding="utf-8").replace("run()\n", spoil), encoding="utf-8")
    with pytest.raises(MigrationFailed, match="it was not committed"):
        await project.database().upgrade()
    with pytest.raises(MigrationFailed, match="it was not committed"):
        await project.database().stamp("head")
    done = project.run("upgrade")
    assert (done.returncode, "it was not committed" in done.stderr) == (1, True)


@pytest.mark.parametrize("program", ["fininfra_db", "alembic.config"])
async def test_a_batch_rebuild_on_sqlite_loses_no_row_and_no_constraint(sqlite_project: Project, program: str) -> None:
    await sqlite_project.database().setup_and_migrate()
    await sqlite_project.database().seed()
    counts = {table: await count(sqlite_project, table) for table in sorted(await table_names(sqlite_project))}
    assert counts["users"] == 2
    assert counts["transactions"] > 100
    for table, column in (("users", "email"), ("accounts", "name"), ("transactions", "name")):
        await write_by_hand(
            sqlite_project,
            f"widen {table}",
            f"with op.batch_alter_table({table!r}) as batch:",
            f"    batch.alter_column({column!r}, type_=sa.Unicode(300), existing_type=sa.Unicode(255))",
        )
    command = [sys.executable, "-m", program, "upgrade", "head"]
    environment = clean_environment() | sqlite_project.environ | {"SQL_URL": sqlite_project.url}
    done = subprocess.run(command, cwd=sqlite_project.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {table: await count(sqlite_project, table) for table in counts} == counts
    assert await sqlite_project.rows("PRAGMA foreign_key_check") == []
    drift = (await sqlite_project.database().check()).drift
    assert set(drift) == {f"change type of column {name}" for name in ("users.email", "accounts.name", "transactions.name")}


@pytest.mark.parametrize("program", ["fininfra_db", "alembic.config"])
async def test_a_migration_that_orphans_rows_on_sqlite_is_rolled_back(sqlite_project: Project, program: str) -> None:
    first = (await sqlite_project.database().setup_and_migrate()).migrated.after
    await sqlite_project.database().seed()
    await write_by_hand(sqlite_project, "orphan", "op.execute('DELETE FROM users')")
    command = [sys.executable, "-m", program, "upgrade", "head"]
    environment = clean_environment() | sqlite_project.environ | {"SQL_URL": sqlite_project.url}
    done = subprocess.run(command, cwd=sqlite_project.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Everything was rolled back" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert await count(sqlite_project, "users") == 2
    assert (await sqlite_project.database().current()).revisions[0].revision == first[0]


async def count(project: Project, table: str) -> int:
    return int((await project.rows(f"SELECT count(*) FROM {table}"))[0][0])


async def test_tables_of_another_application_are_nobodys_business(project: Project) -> None:
    await start(project)
    await project.execute(
        "CREATE TABLE theirs (id INTEGER PRIMARY KEY, name VARCHAR(20))",
        "CREATE INDEX ix_theirs ON theirs (name)",
        "CREATE TABLE fininfra_notes (id INTEGER)",
    )
    assert (await project.database().check()).findings == ()
    assert (await project.database().revision(Draft("nothing", autogenerate=True))).revisions == ()
    await use_models(project, SHOP.replace('Column("city", String(50)),', 'Column("city", String(50)), Column("zip", String(9)),'))
    written = await project.database().revision(Draft("zip", autogenerate=True, allow_drop=True))
    assert "theirs" not in written.paths[0].read_text(encoding="utf-8")
    await project.database().upgrade()
    await project.database().downgrade("base")
    assert await table_names(project) == {"theirs", "alembic_version"}
    assert await project.rows("SELECT id FROM fininfra_notes") == []


REMOVED = {
    "column": ('Column("city", String(50)),\n', 'Index(None, "city"),\n'),
    "table": (SHOP[SHOP.index('    Table(\n        "sales"') :],),
    "referring column": ('Column("shop_id", Integer, ForeignKey("shops.id", ondelete="CASCADE"), nullable=False, index=True),',),
    "referred table": (
        SHOP[SHOP.index('    Table(\n        "shops"') : SHOP.index('    Table(\n        "sales"')],
        'ForeignKey("shops.id", ondelete="CASCADE"), nullable=False, index=True',
    ),
}


@pytest.mark.parametrize("removed", REMOVED.values(), ids=REMOVED)
async def test_what_the_models_lost_is_dropped_only_when_allowed(project: Project, removed: tuple[str, ...]) -> None:
    await start(project)
    await project.execute(
        "INSERT INTO shops (id, name, city) VALUES (1, 'Corner', 'Oslo')", "INSERT INTO sales (id, shop_id) VALUES (1, 1)"
    )
    models = SHOP
    for piece in removed:
        assert piece in models
        models = models.replace(piece, "")
    await use_models(project, models)
    before = files_of(project.root)
    with pytest.raises(Refused, match="Nothing was written"):
        await project.database().revision(Draft("drop", autogenerate=True))
    assert files_of(project.root) == before
    assert (await project.database().revision(Draft("drop", autogenerate=True, allow_drop=True))).revisions
    await project.database().upgrade()
    assert (await project.database().check()).findings == ()
    kept = {"shops", "sales"} & await table_names(project)
    assert {table: await count(project, table) for table in kept} == dict.fromkeys(kept, 1)
    await project.execute(*(f"DELETE FROM {table}" for table in sorted(kept)))
    await project.database().downgrade("-1")
    await project.database().upgrade()


async def test_check_finds_each_difference(project: Project) -> None:
    await start(project)
    found = {}
    for name, (old, new, _) in DRIFT.items():
        assert SHOP.count(old) == 1
        await use_models(project, SHOP.replace(old, new))
        found[name] = (await project.database().check()).drift
    assert found == {name: (drift,) for name, (_, _, drift) in DRIFT.items()}
    await use_models(project, SHOP)
    assert (await project.database().check()).findings == ()


async def test_each_difference_is_written_and_then_gone(project: Project) -> None:
    await start(project)
    models = SHOP
    for old, new, _ in DRIFT.values():
        models = models.replace(old, new)
    await use_models(project, models)
    assert (await project.database().revision(Draft("all", autogenerate=True, allow_drop=True))).revisions
    await project.database().upgrade()
    assert (await project.database().check()).findings == ()
    await project.database().downgrade("-1")
    await use_models(project, SHOP)
    assert (await project.database().check()).drift == ()


async def test_the_exit_codes_of_what_is_refused(sqlite_project: Project) -> None:
    first = await start(sqlite_project)
    await use_models(sqlite_project, SHOP.replace('Column("note", String(20)),', ""))
    assert sqlite_project.answer("revision", "--autogenerate")[1]["error"]["code"] == "refused"
    assert sqlite_project.run("revision", "--autogenerate").returncode == 4
    await write_by_hand(sqlite_project, "left", head=first)
    assert sqlite_project.run("revision", "--autogenerate").returncode == 3
    await write_by_hand(sqlite_project, "right", head=first)
    assert sqlite_project.run("upgrade").returncode == 1


async def test_nothing_is_written_while_revisions_are_pending(project: Project) -> None:
    await start(project)
    await write_by_hand(project, "pending")
    before = files_of(project.root)
    with pytest.raises(NotAtHead, match="Nothing was written"):
        await project.database().revision(Draft("too early", autogenerate=True))
    assert files_of(project.root) == before


EVERY_TYPE = """
    import enum

    from sqlalchemy import *
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.ext.mutable import MutableDict
    from fininfra_db.types import Amounts, EncryptedString, Money, UtcDateTime, utc_now

    class Mood(enum.Enum):
        GOOD = "good"
        BAD = "bad"

    class Shout(TypeDecorator):
        impl = String
        cache_ok = True

    class Price(TypeDecorator):
        impl = Money
        cache_ok = True

    class Guid(TypeDecorator):
        impl = CHAR
        cache_ok = True

        def load_dialect_impl(self, dialect):
            return dialect.type_descriptor(postgresql.UUID() if dialect.name == "postgresql" else CHAR(32))

    metadata = MetaData(naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    })

    def columns(mood, nullable=True):
        found = [
            Column("amount", Money(), server_default=text("0")),
            Column("amount_text", Money(), server_default="12.5"),
            Column("price", Price()),
            Column("instant", UtcDateTime(), server_default=utc_now()),
            Column("sealed", EncryptedString(500)),
            Column("amounts", Amounts()),
            Column("mutable_amounts", MutableDict.as_mutable(Amounts())),
            Column("document", JSON()),
            Column("document_or_null", JSON(none_as_null=True)),
            Column("yes", Boolean(), server_default=true()),
            Column("no", Boolean(), server_default=false()),
            Column("maybe", Boolean()),
            Column("made", DateTime(), server_default=func.now()),
            Column("made_in_zone", DateTime(timezone=True), server_default=func.now()),
            Column("day", Date()),
            Column("clock", Time()),
            Column("gap", Interval()),
            Column("mood", Enum(Mood, name=mood)),
            Column("status", Enum("open", "closed", native_enum=False, length=20), server_default="open"),
            Column("shout", Shout(30)),
            Column("guid", Guid()),
            Column("word", String(20), server_default="it's"),
            Column("name", Unicode(20)),
            Column("story", Text()),
            Column("tale", UnicodeText()),
            Column("small", SmallInteger(), server_default="7"),
            Column("big", BigInteger(), server_default=text("-5")),
            Column("exact", Numeric(10, 2), server_default=text("0.00")),
            Column("ratio", Float()),
            Column("double", Double()),
            Column("bytes", LargeBinary()),
            Column("uid", Uuid()),
            Column("uid_text", Uuid(as_uuid=False)),
        ]
        for column in found:
            column.nullable = nullable
        return found

    Table("first", metadata, Column("id", Integer, primary_key=True), *columns("mood"), CheckConstraint("small < 100", name="small"))
    Table("second", metadata, Column("id", BigInteger, primary_key=True, autoincrement=False), *ADDED)
"""


async def test_revisions_made_on_sqlite_run_everywhere(project: Project, tmp_path: Path) -> None:
    """Revisions that create a table with every type of column, add them to a table, alter them, and drop them."""
    origin = Project("sqlite", tmp_path / "origin", f"sqlite:///{tmp_path / 'origin.db'}", project.environ)
    origin.root.mkdir()
    await use_models(origin, EVERY_TYPE.replace("*ADDED", ""))
    await origin.database().setup_and_migrate()

    async def write(message: str, columns: str) -> None:
        await use_models(origin, EVERY_TYPE.replace("*ADDED", columns))
        assert (await origin.database().revision(Draft(message, autogenerate=True, allow_drop=True))).revisions
        await origin.database().upgrade()
        assert (await origin.database().check()).findings == ()
        shutil.copytree(origin.root, project.root, dirs_exist_ok=True)

    await write("add", '*columns("Other Mood")')
    await write("alter", '*columns("Other Mood", nullable=False)')
    await project.database().setup_and_migrate()
    assert (await project.database().check()).findings == ()
    if project.dialect == "mysql":
        precisions = "SELECT datetime_precision FROM information_schema.columns WHERE table_schema = database() AND column_name = 'instant'"
        assert await project.rows(precisions) == [(6,), (6,)]

    await write("drop", "")
    await project.database().upgrade()
    assert (await project.database().check()).findings == ()
    await project.database().downgrade("base")
    assert await table_names(project) == {"alembic_version"}
    assert len((await project.database().upgrade("+2")).steps) == 2


async def test_a_revision_needs_nothing_of_the_application(sqlite_project: Project) -> None:
    await use_models(sqlite_project, EVERY_TYPE.replace("*ADDED", ""))
    await sqlite_project.database().setup_and_migrate()
    (written,) = sqlite_project.versions()
    source = written.read_text(encoding="utf-8")
    assert set(re.findall(r"^import (\S+)|^from (\S+)", source, re.MULTILINE)) == {
        ("", "collections.abc"),
        ("sqlalchemy", ""),
        ("", "alembic"),
        ("fininfra_db.types", ""),
    }
    assert "sa.Column('shout', sa.String(length=30)" in source
    assert "sa.Column('price', fininfra_db.types.Money()" in source
    assert "sa.Column('guid', sa.CHAR(length=32).with_variant(sa.UUID(), 'postgresql')" in source


async def test_a_database_ahead_of_the_checkout_is_reported_and_left_alone(project: Project) -> None:
    await start(project)
    await project.execute("UPDATE alembic_version SET version_num = 'fedcba987654'")
    database = project.database()
    reads = (database.current(), database.check(), database.history(indicate_current=True), database.show("current"))
    for found in [await read for read in reads]:
        assert [finding.code for finding in found.findings] == ["database-ahead"]
    for verb in (
        Database.upgrade,
        partial(Database.downgrade, revision="base"),
        partial(Database.revision, draft=Draft(autogenerate=True)),
        Database.setup_and_migrate,
        Database.reset,
    ):
        with pytest.raises(DatabaseAhead, match="fedcba987654"):
            await verb(database)
    assert [project.run(*words).returncode for words in (["current"], ["upgrade"])] == [3, 1]
    assert await project.rows("SELECT version_num FROM alembic_version") == [("fedcba987654",)]
    assert len(project.versions()) == 1


MIGRATE_AT_THE_BARRIER = """
import asyncio, sys, time
from pathlib import Path

import alembic.command  # what takes long to import comes before the barrier
from fininfra_db.database import Database

database, barrier, me = Database(), Path(sys.argv[1]), sys.argv[2]
(barrier / me).touch()
while len(list(barrier.iterdir())) < int(sys.argv[3]):
    time.sleep(0.001)
done = asyncio.run(database.upgrade())
print(len(done.steps), done.before == done.after)
"""


async def test_several_migrators_at_once_apply_each_revision_once(project: Project, tmp_path: Path) -> None:
    await use_models(project, SHOP)
    await ensure_database(project.settings())
    for number in range(3):
        await write_by_hand(
            project,
            f"t{number}",
            "__import__('time').sleep(0.2)",  # so that all of them are there before the first is done
            f"op.create_table('t{number}', sa.Column('id', sa.Integer()))",
            f"op.execute('INSERT INTO t{number} VALUES (1)')",
        )
    (tmp_path / "migrate.py").write_text(MIGRATE_AT_THE_BARRIER, encoding="utf-8")
    barrier = tmp_path / "barrier"
    barrier.mkdir()
    running = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "migrate.py"), str(barrier), str(number), "4"],
            cwd=project.root,
            env=clean_environment() | project.environ | {"SQL_URL": project.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    ended = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 4, ended
    assert sorted(stdout.split() for stdout, _ in ended) == [["0", "True"]] * 3 + [["3", "False"]]
    assert [await count(project, f"t{number}") for number in range(3)] == [1, 1, 1]


async def test_finding_nothing_to_do_takes_no_lock(project: Project) -> None:
    first = await start(project)
    project.url += "?timeout=1" if project.dialect == "sqlite" else ""
    async with hold_the_lock(project), asyncio.timeout(5):
        assert (await project.database().upgrade()).steps == ()
    await project.database().revision(Draft("left"))
    await project.database().revision(Draft("right", head=first, splice=True))
    await project.database().upgrade("heads")
    async with hold_the_lock(project), asyncio.timeout(5):
        assert (await project.database().upgrade("heads")).steps == ()


async def test_a_migration_waits_for_the_lock(project: Project) -> None:
    await start(project)
    await write_by_hand(project, "waiting", "op.create_table('waited', sa.Column('id', sa.Integer()))")
    async with hold_the_lock(project):
        waiting = asyncio.create_task(project.database().upgrade())
        await asyncio.sleep(0.4)
        assert not waiting.done()
        assert "waited" not in await table_names(project)
    assert len((await waiting).steps) == 1


@asynccontextmanager
async def hold_the_lock(project: Project) -> AsyncIterator[None]:
    """Hold what a migrator of this database holds: the migration lock or, on SQLite, the write lock."""
    async with migration_lock(project.settings()), open_connection(project.settings(), "migration") as connection:
        if project.dialect == "sqlite":
            await connection.execute(text("SELECT 1"))  # begins the transaction, which is IMMEDIATE
        yield


async def test_set_up_says_that_models_differ_and_writes_no_second_revision(project: Project) -> None:
    await start(project)
    await use_models(project, SHOP.replace('Column("city", String(50)),', 'Column("city", String(50)), Column("zip", String(9)),'))
    before = project.versions()
    done = await project.database().setup_and_migrate()
    assert (done.revised.revisions, done.migrated.steps) == ((), ())
    assert [warning for warning in done.warnings if "add column shops.zip" in warning and "revision --autogenerate" in warning]
    assert project.versions() == before
    assert "zip" not in await column_names(project, "shops")


async def test_the_first_revision_is_the_same_everywhere(project: Project, tmp_path: Path) -> None:
    """In another folder, on another database, at another time: and the one that this repository ships."""
    await project.database().setup_and_migrate()
    (written,) = project.versions()
    (shipped,) = (REPOSITORY / "migrations" / "versions").glob("*.py")
    assert written.name.partition("_")[2].partition("_")[2] == shipped.name.partition("_")[2].partition("_")[2]
    assert without_date(written) == without_date(shipped)
    for name in ("env.py", "script.py.mako"):
        assert (project.root / "migrations" / name).read_text(encoding="utf-8") == (REPOSITORY / "migrations" / name).read_text(
            encoding="utf-8"
        )


def without_date(path: Path) -> str:
    return re.sub(r"^Create Date: .*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)


async def test_plain_alembic_does_the_same_in_the_same_folder(project: Project) -> None:
    await start(project)
    await use_models(project, SHOP.replace('Column("city", String(50)),', 'Column("city", String(50)), Column("zip", String(9)),'))
    (pending,) = (await project.database().revision(Draft("zip", autogenerate=True))).revisions
    environment = clean_environment() | project.environ | {"SQL_URL": project.url}
    for words in (["upgrade", "head"], ["downgrade", "-1"], ["upgrade", pending]):
        command = [sys.executable, "-m", "alembic.config", *words]
        done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert ((await project.database().current(check_heads=True)).findings == ()) == (words[0] == "upgrade")
    assert (await project.database().check()).findings == ()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("options", "separator"),
    [
        ("path_separator = os", os.pathsep),
        ("path_separator = :", ":"),
        ("path_separator = space", " "),
        ("path_separator = newline", "\n    "),
        ("version_path_separator = os", os.pathsep),
        ("", ", "),
        ("", " "),
    ],
)
async def test_several_folders_of_revisions(sqlite_project: Project, options: str, separator: str) -> None:
    await use_models(sqlite_project, SHOP)
    ini = sqlite_project.root / "alembic.ini"
    folders = separator.join(["%(here)s/migrations/versions", "%(here)s/more"])
    text = ini.read_text(encoding="utf-8").replace("path_separator = os", f"{options}\nversion_locations = {folders}")
    ini.write_text(text, encoding="utf-8")
    (sqlite_project.root / "more").mkdir()
    first = (await sqlite_project.database().setup_and_migrate()).migrated.after
    written = await sqlite_project.database().revision(Draft("more", head="head", version_path=str(sqlite_project.root / "more")))
    assert written.paths[0].parent == sqlite_project.root / "more"
    assert [info.down_revisions for info in (await sqlite_project.database().heads()).revisions] == [first]
    assert (await sqlite_project.database().upgrade()).after == written.revisions


async def test_a_script_is_rendered_beside_a_running_migration(project: Project, tmp_path: Path) -> None:
    """Alembic keeps its running environment in a module: whoever comes second waits."""
    await start(project)
    for number in range(5):
        await write_by_hand(project, f"t{number}", f"op.create_table('t{number}', sa.Column('id', sa.Integer()))")
    other = Project("sqlite", tmp_path / "other", f"sqlite:///{tmp_path / 'other.db'}", project.environ)
    other.root.mkdir()
    await other.database().init()
    migrating = asyncio.create_task(project.database().upgrade())
    rendered = 0
    while not migrating.done():
        await asyncio.gather(other.database().upgrade_script("base:head"), asyncio.sleep(0.002))
        rendered += 1
    assert len((await migrating).steps) == 5
    assert rendered
