"""Schemas and batch operations that nobody thought of: tables with CASCADE keys, triggers and views, rows in each.

The run is short. For a long one: ``FININFRA_TEST_EXAMPLES=5000 pytest tests/contract/test_generated_rebuilds.py``.
"""

import asyncio
import os
import sqlite3
import uuid
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from fininfra_db.connections import open_connection
from fininfra_db.dialects import target_of
from fininfra_db.settings import load_settings

EXAMPLES = int(os.environ.get("FININFRA_TEST_EXAMPLES", "40"))
TYPES = ("INTEGER", "VARCHAR(20)", "TEXT", "NUMERIC(19, 4)")
NEW_TYPES = (sa.String(400), sa.Text(), sa.Integer(), sa.Numeric(19, 4))
NAMES = ("users", "order lines", "Select", "odd'näme", "a" * 45)


@dataclass(frozen=True)
class GeneratedTable:
    """A table: its columns beside ``id`` with their types, the table that it points at, and its rows."""

    name: str
    columns: dict[str, str]
    parent: str | None
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Change:
    """One batch: a table, and operations by name with the column that they are for."""

    table: str
    operations: list[tuple[str, str, Any]]


@dataclass(frozen=True)
class Case:
    tables: list[GeneratedTable]
    changes: list[Change] = field(default_factory=list)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True))
    tables = [draw(tables_named(name, names[:index])) for index, name in enumerate(names)]
    changes = draw(st.lists(st.sampled_from(tables).flatmap(changes_of), min_size=1, max_size=4, unique_by=lambda change: change.table))
    return Case(tables, changes)


@st.composite
def tables_named(draw: st.DrawFn, name: str, parents: list[str]) -> GeneratedTable:
    columns = {f"c{number}": draw(st.sampled_from(TYPES)) for number in range(draw(st.integers(1, 3)))}
    parent = draw(st.sampled_from([*parents, name, None]))
    count = draw(st.integers(1, 5))
    values = st.sampled_from([0, 7, "x", "7", "", "ä'\"%", None])
    return GeneratedTable(name, columns, parent, [tuple(draw(values) for _ in columns) for _ in range(count)])


def changes_of(table: GeneratedTable) -> st.SearchStrategy[Change]:
    operation = st.one_of(
        st.tuples(st.just("type"), st.sampled_from(sorted(table.columns)), st.sampled_from(NEW_TYPES)),
        st.tuples(st.just("nullable"), st.sampled_from(["id", *table.columns]), st.none()),
        st.tuples(st.just("drop"), st.sampled_from(sorted(table.columns)), st.none()),
        st.tuples(st.just("unique"), st.sampled_from(sorted(table.columns)), st.none()),
        st.tuples(st.just("add"), st.sampled_from(["n0", "n1"]), st.sampled_from(["0", "'text'", None])),
    )
    return st.lists(operation, min_size=1, max_size=3, unique_by=lambda each: each[1]).map(
        lambda operations: Change(table.name, operations)
    )


def quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def create(file: Path, case: Case) -> None:
    """Every table has a trigger that mentions the other tables, and a view; every row of a child points at a row of its parent.

    A key stands after the columns, as SQLAlchemy writes it: of one that stands beside its column, its reflection (2.1) does
    not see the CASCADE.
    """
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE log (what TEXT)")
        for number, table in enumerate(case.tables):
            columns = "".join(f", {name} {kind}" for name, kind in table.columns.items())
            key = f", parent INTEGER, FOREIGN KEY (parent) REFERENCES {quoted(table.parent)} (id) ON DELETE CASCADE" if table.parent else ""
            connection.execute(f"CREATE TABLE {quoted(table.name)} (id INTEGER NOT NULL PRIMARY KEY{columns}{key})")
            marks = ", ".join("?" * (len(table.columns) + 1 + bool(key)))
            for identifier, row in enumerate(table.rows, start=1):
                connection.execute(f"INSERT INTO {quoted(table.name)} VALUES ({marks})", (identifier, *row, *([1] if key else [])))
            mentioned = "; ".join(f"INSERT INTO log SELECT count(*) FROM {quoted(other.name)}" for other in case.tables)
            connection.execute(f"CREATE TRIGGER t{number} AFTER DELETE ON {quoted(table.name)} BEGIN {mentioned}; END")
            connection.execute(f"CREATE VIEW v{number} AS SELECT id FROM {quoted(table.name)}")


def change(connection: Connection, case: Case) -> None:
    """What a run does around its revisions, and the batches in the place of them."""
    context = MigrationContext.configure(connection, opts={"transactional_ddl": True})
    operations = Operations(context)
    with context.begin_transaction(), target_of(load_settings(sql_url="sqlite:///x", environ={})).dialect.guarded(connection, lambda: ()):
        for each in case.changes:
            with operations.batch_alter_table(each.table) as batch:
                for verb, column, argument in each.operations:
                    if verb == "type":
                        batch.alter_column(column, type_=argument)
                    elif verb == "nullable":
                        batch.alter_column(column, nullable=column != "id")
                    elif verb == "drop":
                        batch.drop_column(column)
                    elif verb == "unique":
                        batch.create_unique_constraint(f"uq_{column}", ["id", column])
                    else:
                        batch.add_column(sa.Column(column, sa.Text(), server_default=argument and sa.text(argument)))


async def migrate(file: Path, case: Case) -> None:
    async with open_connection(load_settings(sql_url=f"sqlite:///{file}", environ={}), "migration") as connection:
        await connection.run_sync(lambda sync: change(sync, case))


def contents(file: Path, case: Case) -> dict[str, Any]:
    """The rows of the columns that no operation touches, the keys, the triggers and the views."""
    touched = {each.table: {column for _, column, _ in each.operations} for each in case.changes}
    with closing(sqlite3.connect(file)) as connection:
        found: dict[str, Any] = {}
        for table in case.tables:
            name = quoted(table.name)
            columns = [
                column
                for column in ("id", *table.columns, *(["parent"] if table.parent else []))
                if not _is_touched(touched, table, column)
            ]
            found[f"rows of {table.name}"] = connection.execute(f"SELECT {', '.join(columns)} FROM {name} ORDER BY id").fetchall()
            found[f"keys of {table.name}"] = connection.execute(f"PRAGMA foreign_key_list({name})").fetchall()
        found["others"] = sorted(connection.execute("SELECT name, sql FROM sqlite_master WHERE type IN ('trigger', 'view')"))
        found["views"] = [connection.execute(f"SELECT * FROM v{number}").fetchall() for number in range(len(case.tables))]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
        assert not connection.execute("SELECT name FROM sqlite_master WHERE name LIKE '%alembic_tmp%'").fetchall()
        return found


def _is_touched(touched: dict[str, set[str]], table: GeneratedTable, column: str) -> bool:
    return column != "id" and column in touched.get(table.name, ())


def rows_after_a_delete(file: Path, case: Case) -> int:
    """How many rows are left when the application deletes every row that the first table has: the cascade still works."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"DELETE FROM {quoted(case.tables[0].name)}")
        return sum(connection.execute(f"SELECT count(*) FROM {quoted(table.name)}").fetchone()[0] for table in case.tables)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated")


@settings(max_examples=EXAMPLES, deadline=None)
@given(case=cases())
def test_rows_keys_triggers_and_views_are_what_they_were(folder: Path, case: Case) -> None:
    file, unchanged = folder / f"{uuid.uuid4().hex}.db", folder / f"{uuid.uuid4().hex}.db"
    create(file, case)
    create(unchanged, case)
    asyncio.run(migrate(file, case))
    assert contents(file, case) == contents(unchanged, case)
    assert rows_after_a_delete(file, case) == rows_after_a_delete(unchanged, case)
    file.unlink()
    unchanged.unlink()
