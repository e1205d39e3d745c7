"""pytest-alembic's built-in tests on the shipped history, on every database, with a row in every table."""

import asyncio
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config as AlembicConfig
from pytest_alembic import Config, MigrationContext
from pytest_alembic.tests import (  # noqa: F401  # these are the tests
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)
from pytest_alembic.tests.experimental.all_models_register_on_metadata import get_bare_import_tableset
from pytest_alembic.tests.experimental.downgrade_leaves_no_trace import test_downgrade_leaves_no_trace as check_no_trace
from sqlalchemy import Connection, func, inspect, select
from sqlalchemy.ext.asyncio import AsyncEngine

import fininfra_db
from fininfra_db.connections import make_engine
from fininfra_db.migrate.history import read_history
from fininfra_db.models import Base
from tests.conftest import Project
from tests.contract.helpers import create_empty_database

REPOSITORY = Path(__file__).parents[1]
(FIRST,) = (info.revision for info in read_history([REPOSITORY / "migrations" / "versions"]).revisions.values() if not info.down_revisions)
ROWS: list[dict[str, Any]] = [
    {"__tablename__": "users", "id": "u", "email": "maya@example.com"},
    {"__tablename__": "bank_connections", "id": "c", "user_id": "u", "access_token": "sealed", "item_id": "i", "institution_name": "Bank"},
    {
        "__tablename__": "accounts",
        "id": "a",
        "user_id": "u",
        "connection_id": "c",
        "account_id": "1",
        "name": "Everyday",
        "type": "checking",
        "subtype": "checking",
        "balance": 100,
    },
    {
        "__tablename__": "transactions",
        "id": "t",
        "user_id": "u",
        "account_id": "a",
        "transaction_id": "1",
        "amount": 100,
        "date": func.current_date(),
        "name": "Opening balance",
    },
    {
        "__tablename__": "budgets",
        "id": "b",
        "user_id": "u",
        "name": "Food",
        "type": "monthly",
        "start_date": func.current_date(),
        "categories": "{}",
    },
    {
        "__tablename__": "goals",
        "id": "g",
        "user_id": "u",
        "name": "House",
        "target_amount": 1000,
        "target_date": func.current_date(),
        "priority": "high",
    },
    {
        "__tablename__": "net_worth_snapshots",
        "id": "n",
        "user_id": "u",
        "snapshot_date": func.current_date(),
        "total_assets": 100,
        "total_liabilities": 0,
        "net_worth": 100,
        "assets_breakdown": "{}",
        "liabilities_breakdown": "{}",
    },
    {"__tablename__": "documents", "id": "d", "user_id": "u", "filename": "w2.pdf", "document_type": "w2", "file_path": "w2.pdf"},
]


@pytest.fixture
def alembic_config() -> Config:
    return Config(alembic_config=AlembicConfig(REPOSITORY / "alembic.ini"), at_revision_data={FIRST: ROWS})


@pytest.fixture
def alembic_engine(project: Project) -> Iterator[AsyncEngine]:
    asyncio.run(create_empty_database(project))
    engine = make_engine(project.settings(), "migration")
    yield engine
    asyncio.run(engine.dispose())


def tables_and_rows(connection: Connection) -> dict[str, int]:
    present = [table for table in Base.metadata.sorted_tables if inspect(connection).has_table(table.name)]
    return {table.name: connection.scalar(select(func.count()).select_from(table)) or 0 for table in present}


def test_the_rows_are_there_and_go_with_the_tables(alembic_runner: MigrationContext) -> None:
    look = alembic_runner.connection_executor.run_task
    alembic_runner.migrate_up_to("heads")
    assert look(tables_and_rows) == dict.fromkeys(Base.metadata.tables, 1)
    alembic_runner.migrate_down_to("base")
    assert look(tables_and_rows) == {}
    assert look(lambda connection: inspect(connection).get_table_names()) == ["alembic_version"]


@pytest.mark.parametrize("project", ["sqlite", "postgresql"], indirect=True)
def test_downgrade_leaves_no_trace(alembic_runner: MigrationContext) -> None:
    """It rolls DDL back, which MariaDB cannot do; the test above looks at what is left there."""
    check_no_trace(alembic_runner)


def test_env_py_knows_every_model(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What env.py alone imports, in a process of its own, against every module of the package.

    The plugin's test of this looks for a ``DeclarativeMeta``, which SQLAlchemy's ``DeclarativeBase`` is not.
    """
    asyncio.run(create_empty_database(project))
    monkeypatch.chdir(REPOSITORY)
    url = make_engine(project.settings(), "application").url.render_as_string(hide_password=False)
    _, known_to_env = get_bare_import_tableset(url, async_=True)
    for module in pkgutil.walk_packages(fininfra_db.__path__, "fininfra_db."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert known_to_env == set(Base.metadata.tables)
