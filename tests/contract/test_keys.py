"""Keys change in a database that is in use: every row comes under the first key, nothing else changes, and nothing is lost."""

import asyncio
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from fininfra_db.connections import open_connection
from fininfra_db.data import sealed
from fininfra_db.database import Database
from fininfra_db.dialects.base import Dialect
from fininfra_db.dialects.sqlite import SqliteDialect
from fininfra_db.errors import ConfigurationError, DatabaseFailed, DecryptionFailed, FininfraDbError, KeyMissing, ResealingFailed
from fininfra_db.events import Event, Progress
from fininfra_db.results import SealedColumn
from fininfra_db.security import Keyring, generate_key
from tests.conftest import Project, clean_environment
from tests.contract.helpers import create_empty_database, use_models

NEW, OLD, UNKNOWN = generate_key(), generate_key(), generate_key()
ROWS = 11
PAGE = 3

MODELS = """
from datetime import date, datetime
from uuid import UUID

from sqlalchemy import Date, DateTime, Integer, String, Uuid, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from fininfra_db import EncryptedString


class Base(DeclarativeBase):
    pass


class Shouted(TypeDecorator):
    impl = EncryptedString
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return value and value.upper()


class Token(Base):
    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    token: Mapped[str | None] = mapped_column(EncryptedString(200))
    other: Mapped[str | None] = mapped_column(Shouted(200))
    name: Mapped[str] = mapped_column(String(20), default="x", onupdate="changed")
    updated_at: Mapped[datetime | None] = mapped_column(DateTime, onupdate=func.now())


class Vault(Base):
    __tablename__ = "order"

    tenant: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    opened: Mapped[date] = mapped_column(Date, primary_key=True)
    code: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    secret: Mapped[str | None] = mapped_column("the secret", EncryptedString(120))
"""


@pytest.fixture(autouse=True)
def _many_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "PAGE", PAGE)


@pytest_asyncio.fixture
async def tables(project: Project) -> Project:
    """Tables of the project's own, without a row."""
    return await with_tables(project)


@pytest_asyncio.fixture
async def sqlite_tables(sqlite_project: Project) -> Project:
    """The same on SQLite, for what does not depend on the database."""
    return await with_tables(sqlite_project)


async def with_tables(project: Project) -> Project:
    await create_empty_database(project)
    await use_models(project, MODELS)
    await project.database().create_tables()
    return project


async def insert_tokens(project: Project, values: dict[str, str | None]) -> None:
    stored = ((name, "NULL" if value is None else f"'{value}'") for name, value in values.items())
    rows = ", ".join(f"('{name}', {value}, 'x', '2026-01-02 03:04:05')" for name, value in stored)
    await project.execute(f"INSERT INTO tokens (id, token, name, updated_at) VALUES {rows}")


def under(key: str, count: int = ROWS) -> dict[str, str | None]:
    return {f"row-{number:02d}": Keyring(key).encrypt(f"plain-{number}") for number in range(count)}


async def tokens(project: Project) -> dict[str, str]:
    return {row[0]: row[1] for row in await project.rows("SELECT id, token FROM tokens ORDER BY id")}


def with_keys(project: Project, *keys: str, observer: Callable[[Event], None] | None = None) -> Database:
    return Database(project.settings(FININFRA_DB_KEYS=",".join(keys)), observer=observer)


def column(columns: tuple[SealedColumn, ...], name: str = "token") -> SealedColumn:
    return next(each for each in columns if each.column == name)


def opened(key: str, stored: dict[str, str]) -> dict[str, str]:
    return {name: Keyring(key).decrypt(value) for name, value in stored.items()}


async def test_every_row_comes_under_the_first_key_and_the_old_one_can_go(tables: Project) -> None:
    await insert_tokens(tables, under(OLD) | {"none": None})
    database = with_keys(tables, NEW, OLD)
    new, old = Keyring(f"{NEW},{OLD}").fingerprints
    before = await database.keys_status()
    assert (before.keys, column(before.columns).keys) == ((new, old), {new: 0, old: ROWS})
    assert [finding.code for finding in before.findings] == ["old-key"]
    rotated = await database.rotate_keys()
    assert column(rotated.columns).changed == ROWS
    assert rotated.findings == ()
    after = await with_keys(tables, NEW).keys_status()
    assert (column(after.columns).rows, column(after.columns).nulls, column(after.columns).keys) == (ROWS + 1, 1, {new: ROWS})
    assert after.findings == ()
    stored = await tokens(tables)
    assert stored.pop("none") is None
    assert opened(NEW, stored) == {f"row-{number:02d}": f"plain-{number}" for number in range(ROWS)}
    again = await database.rotate_keys()
    assert column(again.columns).changed == 0
    assert await tokens(tables) == stored | {"none": None}


async def test_nothing_but_the_sealed_column_changes(tables: Project) -> None:
    await insert_tokens(tables, under(OLD, 4))
    if tables.dialect == "mysql":
        await tables.execute("ALTER TABLE tokens ADD touched TIMESTAMP NOT NULL DEFAULT '2026-01-02 03:04:05' ON UPDATE CURRENT_TIMESTAMP")
    query = "SELECT * FROM tokens ORDER BY id"
    before = await tables.rows(query)
    await with_keys(tables, NEW, OLD).rotate_keys()
    after = await tables.rows(query)
    assert [(row[0], *row[2:]) for row in after] == [(row[0], *row[2:]) for row in before]
    assert not {row[1] for row in after} & {row[1] for row in before}


async def test_a_composite_key_of_any_types_names_the_rows(tables: Project) -> None:
    quote = "`{}`" if tables.dialect == "mysql" else '"{}"'
    table, secret = quote.format("order"), quote.format("the secret")
    codes = [f"0000000{number}-aaaa-4aaa-8aaa-aaaaaaaaaaaa" for number in range(8)]
    if tables.dialect == "sqlite" or (tables.dialect == "mysql" and "char(32)" in await type_of_code(tables)):
        codes = [code.replace("-", "") for code in codes]
    await tables.execute(
        *(
            f"INSERT INTO {table} (tenant, opened, code, {secret}) "
            f"VALUES ({number % 2}, '2026-01-0{1 + number // 4}', '{code}', '{Keyring(OLD).encrypt(f's{number}')}')"
            for number, code in enumerate(codes)
        )
    )
    rotated = await with_keys(tables, NEW, OLD).rotate_keys()
    assert column(rotated.columns, "the secret").changed == 8
    stored = await tables.rows(f"SELECT {secret} FROM {table} ORDER BY code")
    assert [Keyring(NEW).decrypt(row[0]) for row in stored] == [f"s{number}" for number in range(8)]


async def type_of_code(project: Project) -> str:
    query = "SELECT column_type FROM information_schema.columns WHERE table_schema = database() AND column_name = 'code'"
    return str((await project.rows(query))[0][0])


async def test_a_type_that_is_made_of_a_sealed_one_is_sealed_too(sqlite_tables: Project) -> None:
    await sqlite_tables.execute(f"INSERT INTO tokens (id, other, name) VALUES ('a', '{Keyring(OLD).encrypt('LOUD')}', 'x')")
    await with_keys(sqlite_tables, NEW, OLD).rotate_keys()
    ((stored,),) = await sqlite_tables.rows("SELECT other FROM tokens")
    assert Keyring(NEW).decrypt(stored) == "LOUD"


@pytest.mark.parametrize("verb", ["rotate_keys", "encrypt_plaintext"])
async def test_a_dry_run_counts_and_writes_nothing(sqlite_tables: Project, verb: str) -> None:
    await insert_tokens(sqlite_tables, under(OLD, 5) | {"a": "plain", "b": "text"})
    before = await tokens(sqlite_tables)
    counted = await getattr(with_keys(sqlite_tables, NEW, OLD), verb)(dry_run=True)
    assert await tokens(sqlite_tables) == before
    done = await getattr(with_keys(sqlite_tables, NEW, OLD), verb)()
    assert column(counted.columns).changed == column(done.columns).changed == (5 if verb == "rotate_keys" else 2)
    assert (counted.dry_run, done.dry_run) == (True, False)
    assert [finding.code for finding in counted.findings] == [finding.code for finding in done.findings]


async def test_plaintext_is_found_by_all_and_sealed_by_encrypt_only(sqlite_tables: Project) -> None:
    await insert_tokens(sqlite_tables, under(OLD, 2) | {"a": "access-plain", "b": ""})
    database = with_keys(sqlite_tables, NEW, OLD)
    rotated = await database.rotate_keys()
    assert [finding.code for finding in rotated.findings] == ["plaintext"]
    assert column(rotated.columns).plaintext.ids == ("a", "b")
    assert "access-plain" not in str(rotated)
    sealed_now = await database.encrypt_plaintext()
    assert (column(sealed_now.columns).changed, sealed_now.findings) == (2, ())
    assert opened(NEW, await tokens(sqlite_tables)) == {"row-00": "plain-0", "row-01": "plain-1", "a": "access-plain", "b": ""}
    assert column((await database.encrypt_plaintext()).columns).changed == 0


async def test_what_no_key_opens_is_reported_by_id_and_left_as_it_is(sqlite_tables: Project) -> None:
    strange = {
        "another key": Keyring(UNKNOWN).encrypt("x"),
        "cut off": Keyring(OLD).encrypt("x")[:80],
        "twice": "Z0FBQUFBQm1hZGUtdXA=",
    }
    await insert_tokens(sqlite_tables, strange | under(OLD, 4))
    for verb in ("rotate_keys", "encrypt_plaintext"):
        done = await getattr(with_keys(sqlite_tables, NEW, OLD), verb)()
        assert [finding.code for finding in done.findings] == ["unopened"]
        assert column(done.columns).unopened.ids == tuple(sorted(strange))
    stored = await tokens(sqlite_tables)
    assert {name: stored[name] for name in strange} == strange
    assert [finding.code for finding in (await with_keys(sqlite_tables, NEW, UNKNOWN).keys_status()).findings] == ["unopened", "old-key"]


async def test_what_is_no_text_is_reported_by_id_and_blocks_nothing(sqlite_tables: Project) -> None:
    """SQLite keeps a BLOB in any column; a number only in one without a type."""
    token = Keyring(OLD).encrypt("x").encode().hex()
    await insert_tokens(sqlite_tables, under(OLD, 2) | {"blob": "", "token": ""})
    await sqlite_tables.execute(
        "UPDATE tokens SET token = x'00ff' WHERE id = 'blob'", f"UPDATE tokens SET token = x'{token}' WHERE id = 'token'"
    )
    database = with_keys(sqlite_tables, NEW, OLD)
    for done in (await database.keys_status(), await database.encrypt_plaintext(), await database.rotate_keys()):
        assert column(done.columns).unopened.ids == ("blob", "token")
    assert column(done.columns).changed == 2
    assert (await tokens(sqlite_tables))["blob"] == b"\x00\xff"
    with pytest.raises(DecryptionFailed):
        Keyring(OLD).decrypt(5)  # type: ignore[arg-type]


async def test_a_value_that_does_not_fit_when_it_is_sealed_is_reported(sqlite_tables: Project) -> None:
    await insert_tokens(sqlite_tables, {"long": "x" * 100, "short": "x"})
    done = await with_keys(sqlite_tables, NEW).encrypt_plaintext()
    assert [finding.code for finding in done.findings] == ["too-long"]
    assert column(done.columns).too_long.ids == ("long",)
    assert (await tokens(sqlite_tables))["long"] == "x" * 100


def meanwhile(work: Callable[[], Any]) -> None:
    """Do something in another thread, as another program would, and wait for it."""
    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    thread.join()


async def test_what_others_write_meanwhile_is_not_lost(tables: Project) -> None:
    """The first page has been read and not been written yet when they do."""
    await insert_tokens(tables, under(OLD))
    theirs = {"row-00": Keyring(OLD).encrypt("theirs"), "row-01": Keyring(NEW).encrypt("mine"), "row-02": None, "row-99": "late"}
    events: list[Event] = []

    def change(event: Event) -> None:
        if not events:
            meanwhile(
                lambda: tables.execute(
                    f"UPDATE tokens SET token = '{theirs['row-00']}' WHERE id = 'row-00'",
                    f"UPDATE tokens SET token = '{theirs['row-01']}' WHERE id = 'row-01'",
                    "DELETE FROM tokens WHERE id = 'row-02'",
                    f"INSERT INTO tokens (id, token, name) VALUES ('row-99', '{Keyring(OLD).encrypt('late')}', 'x')",
                )
            )
        events.append(event)

    done = await with_keys(tables, NEW, OLD, observer=change).rotate_keys()
    stored = await tokens(tables)
    assert stored["row-01"] == theirs["row-01"]
    rest = {f"row-{number:02d}": f"plain-{number}" for number in range(3, ROWS)}
    assert opened(NEW, stored) == rest | {"row-00": "theirs", "row-01": "mine", "row-99": "late"}
    assert column(done.columns).changed == len(stored) - 1
    assert {event.task for event in events if isinstance(event, Progress)} == {"tokens.token"}


async def test_two_rotations_at_once_leave_every_row_readable(tables: Project) -> None:
    await insert_tokens(tables, under(OLD))
    done = await asyncio.gather(*(with_keys(tables, NEW, OLD).rotate_keys() for _ in range(2)))
    assert sum(column(each.columns).changed for each in done) == ROWS
    assert opened(NEW, await tokens(tables)) == {f"row-{number:02d}": f"plain-{number}" for number in range(ROWS)}


async def test_a_row_that_somebody_has_locked_is_tried_again(postgresql_project: Project) -> None:
    """PostgreSQL alone is told by the URL how long to wait for a row."""
    tables = await with_tables(postgresql_project)
    await insert_tokens(tables, under(OLD))
    locked, threads = threading.Event(), []

    async def hold() -> None:
        async with open_connection(tables.settings(), "migration") as connection:
            await connection.execute(text("UPDATE tokens SET name = 'theirs' WHERE id = 'row-01'"))
            locked.set()
            await asyncio.sleep(0.4)
            await connection.commit()

    def begin(_event: Event) -> None:
        if not threads:
            threads.append(threading.Thread(target=lambda: asyncio.run(hold())))
            threads[0].start()
            locked.wait(10)

    impatient = replace(tables, url=f"{tables.url}?options=-c%20lock_timeout%3D50ms")
    done = await with_keys(impatient, NEW, OLD, observer=begin).rotate_keys()
    threads[0].join()
    assert column(done.columns).changed == ROWS
    assert await tables.rows("SELECT id FROM tokens WHERE name = 'theirs'") == [("row-01",)]


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from fininfra_db import Database, load_settings
from fininfra_db.connections import open_connection
from fininfra_db.data import sealed

sealed.PAGE = int(sys.argv[1])
events = []

def die(event):
    events.append(event)
    if len(events) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(Database(load_settings(project_root=Path.cwd()), observer=die).rotate_keys())
"""


async def test_a_run_that_was_killed_is_carried_on_by_the_next(tables: Project) -> None:
    await insert_tokens(tables, under(OLD))
    environment = clean_environment() | {"SQL_URL": tables.url, "FININFRA_DB_KEYS": f"{NEW},{OLD}"}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(PAGE)], cwd=tables.root, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    new, old = Keyring(f"{NEW},{OLD}").fingerprints
    left = column((await with_keys(tables, NEW, OLD).keys_status()).columns).keys
    assert left[new] >= PAGE
    assert left[old] >= PAGE
    await insert_tokens(tables, {"a-first": Keyring(OLD).encrypt("inserted")})
    before = await tokens(tables)
    done = await with_keys(tables, NEW, OLD).rotate_keys()
    assert column(done.columns).changed == left[old] + 1
    after = await tokens(tables)
    assert sum(after[name] == before[name] for name in after) == left[new]
    plain = {f"row-{number:02d}": f"plain-{number}" for number in range(ROWS)}
    assert opened(NEW, after) == plain | {"a-first": "inserted"}


async def test_an_interruption_says_what_was_done(tables: Project) -> None:
    await insert_tokens(tables, under(OLD))
    task: asyncio.Task[Any]

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress) and event.done > 2 * PAGE:
            task.cancel()

    task = asyncio.create_task(with_keys(tables, NEW, OLD, observer=interrupt).rotate_keys())
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    (note,) = caught.value.__notes__
    count = re.match(r"(\d+) rows are sealed with the first key and committed", note)
    assert count is not None
    new, _ = Keyring(f"{NEW},{OLD}").fingerprints
    assert column((await with_keys(tables, NEW, OLD).keys_status()).columns).keys[new] == int(count[1])


SPOILING = {
    "postgresql": (
        "CREATE FUNCTION spoil() RETURNS trigger AS $$ BEGIN NEW.token := 'spoiled'; RETURN NEW; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER spoil BEFORE UPDATE ON tokens FOR EACH ROW WHEN (OLD.id > 'row-05') EXECUTE FUNCTION spoil()",
    ),
    "mysql": ("CREATE TRIGGER spoil BEFORE UPDATE ON tokens FOR EACH ROW SET NEW.token = IF(OLD.id > 'row-05', 'spoiled', NEW.token)",),
    "sqlite": ("CREATE TRIGGER spoil BEFORE UPDATE ON tokens WHEN OLD.id > 'row-05' BEGIN SELECT RAISE(IGNORE); END",),
}


async def test_a_row_that_does_not_hold_what_was_written_stops_the_run(tables: Project) -> None:
    await insert_tokens(tables, under(OLD))
    before = await tokens(tables)
    await tables.execute(*SPOILING[tables.dialect])
    with pytest.raises(ResealingFailed, match=r"tokens\.token of the row row-0[67] .*6 rows are sealed"):
        await with_keys(tables, NEW, OLD).rotate_keys()
    after = await tokens(tables)
    assert {name: after[name] for name in after if name > "row-05"} == {name: before[name] for name in before if name > "row-05"}


async def test_tables_that_are_not_there_yet_are_named(sqlite_project: Project) -> None:
    await use_models(sqlite_project, MODELS)
    await create_empty_database(sqlite_project)
    for verb in ("keys_status", "rotate_keys"):
        with pytest.raises((DatabaseFailed, ResealingFailed), match=r"order.*Nothing was changed") as caught:
            await getattr(with_keys(sqlite_project, NEW), verb)()
        assert "fininfra-db upgrade" in (caught.value.hint or "")


async def test_rows_can_be_written_one_by_one(sqlite_tables: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the database has no statement for many."""
    monkeypatch.setattr(SqliteDialect, "swap", Dialect.swap)
    await test_what_others_write_meanwhile_is_not_lost(sqlite_tables)


async def test_without_a_key_nothing_is_contacted(sqlite_project: Project) -> None:
    for verb in ("keys_status", "rotate_keys", "encrypt_plaintext"):
        with pytest.raises(KeyMissing):
            await getattr(with_keys(sqlite_project), verb)()


async def test_a_sealed_column_needs_a_primary_key_beside_it(sqlite_project: Project) -> None:
    await use_models(
        sqlite_project,
        """
        from sqlalchemy import Column, MetaData, Table
        from fininfra_db import EncryptedString
        metadata = MetaData()
        keyless = Table("keyless", metadata, Column("secret", EncryptedString(200)))
        """,
    )
    with pytest.raises(ConfigurationError, match=r"keyless\.secret"):
        await with_keys(sqlite_project, NEW).rotate_keys()


async def test_the_process_that_seals_may_end(sqlite_tables: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    await insert_tokens(sqlite_tables, under(OLD))
    for executable in ("/bin/false", str(tmp_path / "no-python"), ""):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(FininfraDbError, match="process that seals"):
            await with_keys(sqlite_tables, NEW, OLD).rotate_keys()
    assert opened(OLD, await tokens(sqlite_tables)).keys() == under(OLD).keys()
