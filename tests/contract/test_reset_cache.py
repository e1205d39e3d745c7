"""The cache of ``reset --seed``: when a copy takes the place of the database, when it must not, and what a reset keeps either way."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from fininfra_db.connections import open_connection, snapshots_of
from fininfra_db.data.request import SeedRequest
from fininfra_db.errors import DatabaseAhead
from fininfra_db.migrate.authoring import Draft
from fininfra_db.results import Reset
from fininfra_db.security import generate_key
from tests.conftest import Project
from tests.contract.test_named_snapshots import remove_copies

DEMO = SeedRequest("demo", users=1, months=1)


@pytest.fixture
async def seeded(project: Project) -> AsyncIterator[Project]:
    """Reset once, so that there is a copy of the result."""
    assert (await reset(project)).cached is None
    yield project
    await remove_copies(project)


@pytest.fixture
async def sqlite_seeded(sqlite_project: Project) -> Project:
    assert (await reset(sqlite_project)).cached is None
    return sqlite_project


async def reset(project: Project, seed: SeedRequest = DEMO, *, use_cache: bool = True, **environ: str) -> Reset:
    return await project.database(**environ).reset(seed=seed, use_cache=use_cache)


async def rows_of(project: Project) -> list[object]:
    return [await project.rows(f"SELECT * FROM {table} ORDER BY id") for table in ("users", "accounts", "transactions", "bank_connections")]


async def cached(project: Project) -> list[str]:
    found = (await project.database().snapshots()).snapshots
    return [snapshot.name for snapshot in found if snapshot.name.startswith("cache-")]


async def test_a_second_reset_gives_the_same_database_from_a_copy(seeded: Project) -> None:
    before, tables = await rows_of(seeded), (await seeded.database().check()).findings
    await seeded.execute("DELETE FROM transactions", "DELETE FROM accounts")
    done = await reset(seeded)
    assert done.cached is not None
    assert done.warnings == ()
    assert (done.cached.seed, done.cached.server) == ("demo", (await seeded.database().status()).server)
    assert await rows_of(seeded) == before
    assert {"users", "transactions"} <= set(done.dropped)
    assert done.seeded is not None
    assert done.seeded.rows["users"] == 1
    assert (await seeded.database().check()).findings == tables == ()
    assert [seed.name for seed in (await seeded.database().status()).seeds] == ["demo"]


async def test_the_mark_of_the_database_survives(seeded: Project) -> None:
    await seeded.database().set_environment("development")
    assert (await reset(seeded)).cached is not None
    assert (await seeded.database().environment()).environment == "development"
    await seeded.database().set_environment("none")
    assert (await reset(seeded)).cached is not None
    assert (await seeded.database().environment()).environment is None


async def test_tables_of_others_stay_and_keep_the_copy_away(seeded: Project) -> None:
    await seeded.execute("CREATE TABLE others (id INTEGER PRIMARY KEY)", "INSERT INTO others VALUES (7)")
    done = await reset(seeded)
    assert done.cached is None
    assert "others" in done.warnings[0]
    assert await seeded.rows("SELECT id FROM others") == [(7,)]
    await seeded.execute("DROP TABLE others")
    assert (await reset(seeded)).cached is not None


async def test_a_database_that_is_gone_is_made_from_the_copy(seeded: Project) -> None:
    before = await rows_of(seeded)
    if seeded.dialect == "sqlite":
        Path(str(make_url(seeded.url).database)).unlink()
    else:
        from tests.conftest import drop_database

        await drop_database(seeded.url, patience=None)
    assert (await reset(seeded)).cached is not None
    assert await rows_of(seeded) == before


# What a copy depends on.


async def test_other_arguments_are_another_database(sqlite_seeded: Project) -> None:
    assert (await reset(sqlite_seeded, replace(DEMO, random_seed=1))).cached is None
    assert (await reset(sqlite_seeded)).cached is not None
    assert len(await cached(sqlite_seeded)) == 2


async def test_another_key_seals_other_tokens(sqlite_seeded: Project) -> None:
    other = generate_key()
    assert (await reset(sqlite_seeded, FININFRA_DB_KEYS=other)).cached is None
    both = f"{other},{sqlite_seeded.environ['FININFRA_DB_KEYS']}"
    assert (await reset(sqlite_seeded, FININFRA_DB_KEYS=both)).cached is not None, "the first key is the one that seals"
    for name in await cached(sqlite_seeded):
        assert other not in name


async def test_a_new_revision_makes_another_database(sqlite_seeded: Project) -> None:
    await sqlite_seeded.database().revision(Draft(message="empty"))
    done = await reset(sqlite_seeded)
    assert done.cached is None
    assert len(done.migrated.steps) == 2


@pytest.mark.parametrize("file", ["migrations/env.py", "alembic.ini", "migrations/versions/*.py"])
async def test_an_edited_file_makes_another_database(sqlite_seeded: Project, file: str) -> None:
    (path,) = sqlite_seeded.root.glob(file)
    with path.open("a", encoding="utf-8") as edited:
        edited.write("\n# edited\n")
    assert (await reset(sqlite_seeded)).cached is None


def test_an_edited_module_of_the_project_makes_another_database(sqlite_project: Project) -> None:
    """Not the models themselves, but what they import. In processes of its own: the models stay in the one that loads them."""
    (sqlite_project.root / "helper.py").write_text("LENGTH = 20", encoding="utf-8")
    (sqlite_project.root / "themes.py").write_text(THEMES, encoding="utf-8")
    assert sqlite_project.run("init", "--models", "fininfra_db.models,themes").returncode == 0
    words = ("reset", "--seed", "demo", "--users", "1", "--months", "1", "--yes")
    sqlite_project.run(*words)
    assert sqlite_project.answer(*words)[1]["result"]["cached"] is not None
    (sqlite_project.root / "helper.py").write_text("LENGTH = 21", encoding="utf-8")
    assert sqlite_project.answer(*words)[1]["result"]["cached"] is None


THEMES = """
from helper import LENGTH
from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from fininfra_db.models import Base


class Theme(Base):
    __tablename__ = "themes"
    id: Mapped[str] = mapped_column(String(LENGTH), primary_key=True)
"""


async def test_a_seed_of_the_projects_own_is_always_run(sqlite_project: Project) -> None:
    from tests.contract.helpers import write_module

    module = write_module(sqlite_project.root, "def nothing(session): pass")
    for _ in range(2):
        assert (await reset(sqlite_project, SeedRequest(f"{module}:nothing"))).cached is None
    assert await cached(sqlite_project) == []


async def test_without_the_cache_nothing_is_taken_and_nothing_kept(sqlite_project: Project) -> None:
    await reset(sqlite_project, use_cache=False)
    assert await cached(sqlite_project) == []
    await reset(sqlite_project)
    assert (await reset(sqlite_project, use_cache=False)).cached is None


async def test_a_few_copies_are_kept(sqlite_seeded: Project) -> None:
    first = await cached(sqlite_seeded)
    for number in range(1, 4):
        await reset(sqlite_seeded, replace(DEMO, random_seed=number))
    left = await cached(sqlite_seeded)
    assert len(left) == 3
    assert not set(first) & set(left)


async def test_sqlite_keeps_what_was_there_before(sqlite_seeded: Project) -> None:
    await sqlite_seeded.execute("UPDATE users SET email = 'changed@example.com'")
    done = await reset(sqlite_seeded)
    assert done.cached is not None
    assert done.snapshot is not None
    await sqlite_seeded.database().restore_snapshot(done.snapshot.name)
    assert await sqlite_seeded.rows("SELECT email FROM users") == [("changed@example.com",)]


async def test_a_damaged_copy_is_not_used(sqlite_seeded: Project) -> None:
    (name,) = await cached(sqlite_seeded)
    (path,) = sqlite_seeded.root.glob(f"*{name}")
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * 40960 + content[45056:])
    done = await reset(sqlite_seeded)
    assert done.cached is None
    assert "damaged" in done.warnings[0]
    assert (await reset(sqlite_seeded)).cached is not None


async def test_a_database_that_is_ahead_is_left_alone(sqlite_seeded: Project) -> None:
    await sqlite_seeded.execute("UPDATE alembic_version SET version_num = 'unknown'")
    before = await rows_of(sqlite_seeded)
    with pytest.raises(DatabaseAhead):
        await reset(sqlite_seeded)
    assert await rows_of(sqlite_seeded) == before


def test_the_command_says_where_the_database_comes_from(sqlite_project: Project) -> None:
    words = ("reset", "--seed", "demo", "--users", "1", "--months", "1", "--yes")
    code, document = sqlite_project.answer(*words)
    assert (code, document["result"]["cached"]) == (0, None)
    done = sqlite_project.run(*words)
    assert "put back what a reset made at" in done.stdout
    assert "Seed demo: " in done.stdout
    assert "put back" not in sqlite_project.run(*words, "--no-cache").stdout


# Servers that do not let us.


async def test_without_the_right_to_create_databases_it_is_built_and_says_so(server_project: Project) -> None:
    project = server_project
    await project.database().setup_and_migrate()
    url, login = make_url(project.url), f"{make_url(project.url).database}"
    quoted = f'"{login}"' if project.dialect == "postgresql" else f"'{login}'@'%'"
    made = {
        "postgresql": [
            f"CREATE ROLE {quoted} LOGIN PASSWORD 'x'",
            f"ALTER DATABASE {login} OWNER TO {quoted}",
            f"ALTER SCHEMA public OWNER TO {quoted}",
            "DROP TABLE alembic_version, users, bank_connections, budgets, documents, goals, net_worth_snapshots, accounts, transactions",
            "DROP TABLE fininfra_migrations",
        ],
        "mysql": [f"CREATE USER {quoted} IDENTIFIED BY 'x'", f"GRANT ALL ON {login}.* TO {quoted}"],
    }
    await project.execute(*made[project.dialect])
    project.url = url.set(username=login, password="x").render_as_string(hide_password=False)
    try:
        for _ in range(2):
            done = await reset(project)
            assert done.cached is None
            assert done.seeded is not None
            (warning,) = done.warnings
            assert "No copy was kept for the next reset" in warning
            assert {"postgresql": "CREATEDB", "mysql": "GRANT ALL ON"}[project.dialect] in warning
        assert not await cached(project)
    finally:
        project.url = url.render_as_string(hide_password=False)
        gone = {
            "postgresql": [f"REASSIGN OWNED BY {quoted} TO CURRENT_USER", f"DROP OWNED BY {quoted}", f"DROP ROLE {quoted}"],
            "mysql": [f"DROP USER {quoted}"],
        }
        await project.execute(*gone[project.dialect])


async def test_postgresql_builds_while_somebody_is_connected(postgresql_project: Project) -> None:
    project = postgresql_project
    await reset(project)
    async with open_connection(project.settings(), "application") as application:
        await application.execute(text("SELECT 1"))
        await application.commit()
        done = await reset(project)
        assert done.cached is None
        assert "in use" in done.warnings[0]
    await asyncio.sleep(0)
    assert (await reset(project)).cached is not None
    await remove_copies(project)


async def test_postgresql_keeps_what_a_copy_would_lose(postgresql_project: Project) -> None:
    """What is in a database beside its tables, and who may do what there; until it is as it was again."""
    project = postgresql_project
    await reset(project)
    for made, undone, word in (
        ("CREATE COLLATION theirs (locale = 'C')", "DROP COLLATION theirs", "collation theirs"),
        ("CREATE FOREIGN DATA WRAPPER theirs", "DROP FOREIGN DATA WRAPPER theirs", "foreign data wrapper theirs"),
        ("GRANT CREATE ON SCHEMA public TO pg_monitor", "REVOKE ALL ON SCHEMA public FROM pg_monitor", "rights"),
        (
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor",
            "ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM pg_monitor",
            "rights",
        ),
    ):
        await project.execute(made)
        assert await _reason(project) == word
        await project.execute(undone)
        assert await _reason(project) is None
    await remove_copies(project)


async def _reason(project: Project) -> str | None:
    """Why the copy would not be used, without the seconds of building."""
    store = snapshots_of(project.settings())
    (copy,) = await store.kept()
    async with open_connection(project.settings(), "reading") as connection:
        present = set(await connection.run_sync(store.inventory))
        rights = set(await connection.run_sync(store.rights))
    if others := present - set(copy.notes["inventory"]):
        return others.pop()
    return None if rights == set(copy.notes["rights"]) else "rights"
