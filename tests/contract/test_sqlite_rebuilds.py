"""SQLite rebuilds a table to alter it. Nothing that was in the database may be lost by that: rows, triggers, views, keys."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import FIRST, add_revision, database_file, set_up, set_up_with_rows, traces, versions_in
from tests.conftest import Project, clean_environment

WIDEN = "with op.batch_alter_table('users') as batch: batch.alter_column('email', type_=sa.String(400))"
LOOKED_AFTER = """
    CREATE TABLE log (what TEXT);
    CREATE TRIGGER users_changed AFTER UPDATE ON users BEGIN INSERT INTO log VALUES ('user ' || new.email); END;
    CREATE TRIGGER accounts_changed AFTER UPDATE ON accounts BEGIN UPDATE users SET email = email WHERE id = new.user_id; END;
    CREATE VIEW emails AS SELECT id, email FROM users;
    CREATE TRIGGER emails_inserted INSTEAD OF INSERT ON emails BEGIN INSERT INTO log VALUES ('view ' || new.email); END;
"""


@pytest.fixture
def at_head(sqlite_project: Project) -> Project:
    return set_up(sqlite_project)


@pytest.fixture
def with_rows(sqlite_project: Project) -> Project:
    """At head, with rows in every table, and triggers and views of ``users`` and of a table that points at it."""
    script(set_up_with_rows(sqlite_project), LOOKED_AFTER)
    return sqlite_project


def script(project: Project, sql: str) -> None:
    with closing(sqlite3.connect(database_file(project))) as connection:
        connection.executescript(sql)


def query(project: Project, sql: str) -> list[Any]:
    with closing(sqlite3.connect(database_file(project))) as connection:
        return connection.execute(sql).fetchall()


def rows_of(project: Project) -> dict[str, list[Any]]:
    """Every row of every table that is the user's."""
    tables = query(
        project, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('alembic_version', 'fininfra_migrations')"
    )
    return {name: sorted(query(project, f'SELECT * FROM "{name}"'), key=repr) for (name,) in tables}


def of_kind(project: Project, kind: str) -> dict[str, str]:
    return dict(query(project, f"SELECT name, sql FROM sqlite_master WHERE type = '{kind}'"))


def plain_alembic(project: Project) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | project.environ | {"SQL_URL": project.url}
    command = [sys.executable, "-m", "alembic.config", "upgrade", "head"]
    return subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False, timeout=120)


def ours(project: Project) -> subprocess.CompletedProcess[str]:
    return project.run("upgrade")


either_program = pytest.mark.parametrize("upgrade", [ours, plain_alembic], ids=["fininfra-db", "alembic"])
Upgrade = Callable[[Project], subprocess.CompletedProcess[str]]


@either_program
def test_a_rebuild_of_users_keeps_every_row_trigger_and_view(with_rows: Project, upgrade: Upgrade) -> None:
    before = rows_of(with_rows), of_kind(with_rows, "trigger"), of_kind(with_rows, "view"), set(of_kind(with_rows, "index"))
    assert all(before[0][table] for table in ("users", "bank_connections", "accounts", "transactions"))
    add_revision(with_rows, "aaaa1111", up=WIDEN)
    done = upgrade(with_rows)
    assert done.returncode == 0, done.stderr
    assert versions_in(with_rows) == ["aaaa1111"]
    assert query(with_rows, "SELECT type FROM pragma_table_info('users') WHERE name = 'email'") == [("VARCHAR(400)",)]
    assert (rows_of(with_rows), of_kind(with_rows, "trigger"), of_kind(with_rows, "view"), set(of_kind(with_rows, "index"))) == before

    script(with_rows, "UPDATE accounts SET name = name; INSERT INTO emails VALUES ('9', 'new@example.com')")
    (email,) = query(with_rows, "SELECT email FROM users LIMIT 1")[0]
    logged = {what for (what,) in query(with_rows, "SELECT what FROM log")}
    assert {f"user {email}", "view new@example.com"} <= logged
    script(with_rows, "PRAGMA foreign_keys = ON; DELETE FROM users")
    assert query(with_rows, "SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM transactions)") == [(0,)]


def test_triggers_of_each_table_survive_several_rebuilds_in_one_run(with_rows: Project) -> None:
    """Made in the run, dropped in the run, made again by a revision that knows the loss, and gone with their table."""
    add_revision(
        with_rows,
        "aaaa1111",
        up="op.execute('CREATE TABLE gone (x INTEGER)')\n"
        "    op.execute('CREATE TRIGGER of_gone AFTER INSERT ON gone BEGIN SELECT 1; END')\n"
        "    op.execute('CREATE TRIGGER made AFTER DELETE ON users BEGIN SELECT 1; END')\n"
        "    op.execute('DROP TRIGGER users_changed')\n"
        "    op.drop_table('gone')",
    )
    add_revision(with_rows, "bbbb2222", "aaaa1111", up=WIDEN)
    again = "op.execute('CREATE TRIGGER made AFTER DELETE ON users BEGIN SELECT 2; END')"
    add_revision(with_rows, "cccc3333", "bbbb2222", up=f"{WIDEN.replace('400', '500')}\n    {again}")
    done = with_rows.run("upgrade")
    assert done.returncode == 0, done.stderr
    triggers = of_kind(with_rows, "trigger")
    assert set(triggers) == {"made", "accounts_changed", "emails_inserted"}
    assert "SELECT 2" in triggers["made"]


def test_a_rebuild_by_hand_keeps_its_triggers_and_a_new_table_of_that_name_gets_none(with_rows: Project) -> None:
    """The procedure of sqlite.org/lang_altertable.html: a new table, the rows, away with the old one, its name for the new one."""
    script(with_rows, "CREATE TABLE old (x INTEGER); CREATE TRIGGER of_old AFTER INSERT ON old BEGIN SELECT 1; END")
    script(with_rows, "CREATE TABLE notes (x INTEGER); CREATE TRIGGER of_notes AFTER INSERT ON notes BEGIN SELECT 1; END")
    statements = (
        "DROP TABLE old",
        "CREATE TABLE old (y INTEGER)",
        'CREATE TABLE "new notes" (x TEXT)',
        'INSERT INTO "new notes" SELECT x FROM notes',
        "drop table main.[notes]",
        'ALTER TABLE "new notes" RENAME TO `notes`',
    )
    add_revision(with_rows, "aaaa1111", up="\n    ".join(f"op.execute({statement!r})" for statement in statements))
    done = with_rows.run("upgrade")
    assert done.returncode == 0, done.stderr
    assert set(of_kind(with_rows, "trigger")) == {"of_notes", "users_changed", "accounts_changed", "emails_inserted"}


def test_a_table_that_is_renamed_after_a_rebuild_takes_its_foreign_keys_along(at_head: Project) -> None:
    """Only Alembic's own rename leaves other tables as they are."""
    script(at_head, "CREATE TABLE parents (id INTEGER PRIMARY KEY); CREATE TABLE children (parent REFERENCES parents (id))")
    script(at_head, "INSERT INTO parents VALUES (1); INSERT INTO children VALUES (1)")
    rebuild = "with op.batch_alter_table('parents') as batch: batch.alter_column('id', type_=sa.BigInteger())"
    add_revision(at_head, "aaaa1111", up=f"{rebuild}\n    op.rename_table('parents', 'elders')")
    done = at_head.run("upgrade")
    assert done.returncode == 0, done.stderr
    assert query(at_head, "SELECT \"table\" FROM pragma_foreign_key_list('children')") == [("elders",)]


@pytest.mark.parametrize(
    ("upgrade", "up"),
    [
        (ours, "op.execute('DELETE FROM goals WHERE rowid = 1')"),
        (plain_alembic, "op.execute('DELETE FROM goals WHERE rowid = 1')"),
        (ours, "op.drop_table('goals'); op.execute('CREATE TABLE goals (id INTEGER)')"),
        (ours, "op.execute('CREATE TABLE few AS SELECT * FROM goals LIMIT 1'); op.drop_table('goals'); op.rename_table('few', 'goals')"),
    ],
    ids=["deleted", "deleted, under alembic", "made anew", "copied in part"],
)
def test_rows_that_nobody_said_would_go_bring_everything_back(with_rows: Project, upgrade: Upgrade, up: str) -> None:
    before = traces(database_file(with_rows))["."].content
    add_revision(with_rows, "aaaa1111", up="op.execute('CREATE TABLE other (x INTEGER)')")
    add_revision(with_rows, "bbbb2222", "aaaa1111", up=up)
    done = upgrade(with_rows)
    assert done.returncode != 0
    told = done.stdout + done.stderr  # Alembic prints its errors on stdout
    assert "goals had 3 rows and has " in told
    assert "Everything was rolled back." in told
    assert "deletes_rows = ('goals',)" in told
    assert versions_in(with_rows) == [FIRST]
    assert traces(database_file(with_rows))["."].content == before


@pytest.mark.parametrize(
    ("upgrade", "stated"),
    [(ours, "('goals', 'budgets')"), (ours, "['GOALS']"), (ours, "'goals'"), (plain_alembic, "{'goals'}")],
    ids=["tuple", "list", "text", "set, under alembic"],
)
def test_rows_that_a_revision_says_it_deletes_may_go(with_rows: Project, upgrade: Upgrade, stated: str) -> None:
    add_revision(with_rows, "aaaa1111", up="op.execute('DELETE FROM goals')", more=f"deletes_rows = {stated}")
    add_revision(with_rows, "bbbb2222", "aaaa1111", up=WIDEN)
    done = upgrade(with_rows)
    assert done.returncode == 0, done.stderr
    assert versions_in(with_rows) == ["bbbb2222"]
    assert query(with_rows, "SELECT count(*) FROM goals") == [(0,)]


def test_a_revision_speaks_for_itself_only_when_it_runs(with_rows: Project) -> None:
    """What was stated once, by a revision that was applied long ago, is no leave for a later one."""
    add_revision(with_rows, "aaaa1111", up="op.execute('DELETE FROM goals')", more="deletes_rows = ('goals', 'budgets')")
    assert with_rows.run("upgrade").returncode == 0
    add_revision(with_rows, "bbbb2222", "aaaa1111", up="op.execute('DELETE FROM budgets')")
    code, document = with_rows.answer("upgrade")
    assert (code, document["error"]["code"]) == (1, "migration-failed")
    assert "budgets" in document["error"]["message"]


def test_a_downgrade_deletes_what_its_revision_states(with_rows: Project) -> None:
    path = add_revision(with_rows, "aaaa1111")
    path.write_text(path.read_text().replace("def downgrade():\n    pass", "def downgrade():\n    op.execute('DELETE FROM goals')"))
    assert with_rows.run("upgrade").returncode == 0
    assert with_rows.run("downgrade", "-1").returncode == 1
    path.write_text(path.read_text().replace("down_revision", "deletes_rows = ('goals',)\ndown_revision"))
    assert with_rows.run("downgrade", "-1").returncode == 0
    assert query(with_rows, "SELECT count(*) FROM goals") == [(0,)]


@pytest.mark.parametrize("stated", ["True", "7", "(users,)", "(1,)", "None"])
def test_a_statement_that_is_none_is_named(at_head: Project, stated: str) -> None:
    add_revision(at_head, "aaaa1111", more=f"users = sa.table('users')\ndeletes_rows = {stated}")
    code, document = at_head.answer("upgrade")
    assert code == 1
    assert "deletes_rows in the revision aaaa1111 is not a tuple of table names" in document["error"]["message"]
    assert versions_in(at_head) == [FIRST]


def test_a_thousand_tables_are_counted(at_head: Project) -> None:
    """SQLite puts at most 500 SELECTs together."""
    script(at_head, "".join(f'CREATE TABLE "t%{number}?"(x); INSERT INTO "t%{number}?" VALUES (1), (2);' for number in range(1000)))
    add_revision(at_head, "aaaa1111", up="op.get_bind().exec_driver_sql('DELETE FROM \"t%999?\" WHERE x = 1')")
    code, document = at_head.answer("upgrade")
    assert code == 1
    assert "t%999? had 2 rows and has 1." in document["error"]["message"]


@pytest.mark.parametrize(
    ("up", "words"),
    [
        ("with op.batch_alter_table('notes', recreate='always') as batch: batch.drop_column('text')", "view texts: no such column: text"),
        ("with op.batch_alter_table('notes', recreate='always') as batch: batch.drop_column('more')", "triggers of notes: no such column"),
        ("op.execute('DROP TABLE log')", "triggers of notes: no such table: main.log"),
        ("with op.batch_alter_table('notes') as batch: batch.drop_constraint('one_text')", "foreign keys of words: foreign key mismatch"),
    ],
    ids=["view", "trigger", "trigger's table", "foreign key"],
)
def test_what_stops_working_is_found_before_the_application_finds_it(at_head: Project, up: str, words: str) -> None:
    script(
        at_head,
        "CREATE TABLE log (x TEXT); CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT, more TEXT, CONSTRAINT one_text UNIQUE (text));"
        "CREATE TABLE words (text REFERENCES notes (text)); CREATE VIEW texts AS SELECT text FROM notes;"
        "CREATE TRIGGER noted AFTER UPDATE ON notes BEGIN INSERT INTO log VALUES (new.more); END;",
    )
    before = traces(database_file(at_head))["."].content
    add_revision(at_head, "aaaa1111", up=up)
    code, document = at_head.answer("upgrade")
    assert (code, document["error"]["code"]) == (1, "migration-failed")
    assert words in document["error"]["message"]
    assert traces(database_file(at_head))["."].content == before


def test_what_did_not_work_before_is_no_reason_to_stop(with_rows: Project) -> None:
    """A view of a table that is gone, a key to columns that are not unique, a row that points nowhere: not this run's doing."""
    script(
        with_rows,
        "CREATE VIEW broken AS SELECT * FROM nowhere; CREATE TABLE words (goal REFERENCES goals (name));"
        "CREATE TABLE lost (user REFERENCES users (id)); INSERT INTO lost VALUES ('nobody')",
    )
    add_revision(with_rows, "aaaa1111", up=WIDEN)
    done = with_rows.run("upgrade")
    assert done.returncode == 0, done.stderr
    add_revision(with_rows, "bbbb2222", "aaaa1111", up="op.execute(\"INSERT INTO lost VALUES ('nobody either')\")")
    done = with_rows.run("upgrade")
    assert done.returncode == 1
    assert "1 rows point at a row that is not there (lost -> users)" in done.stderr


def test_a_full_text_index_may_shrink(at_head: Project) -> None:
    """The tables behind a virtual table hold no rows of the user's; optimizing them leaves fewer."""
    script(at_head, "CREATE VIRTUAL TABLE words USING fts5 (text); INSERT INTO words VALUES ('a'); INSERT INTO words VALUES ('b');")
    before = query(at_head, "SELECT count(*) FROM words_data")
    add_revision(at_head, "aaaa1111", up="op.execute(\"INSERT INTO words(words) VALUES ('optimize')\")")
    done = at_head.run("upgrade")
    assert done.returncode == 0, done.stderr
    assert query(at_head, "SELECT count(*) FROM words_data") < before


def test_a_caller_keeps_its_connection_as_it_was(with_rows: Project, tmp_path: Path) -> None:
    """An application that migrates on its own engine: no listener and no pragma stays behind."""
    add_revision(with_rows, "aaaa1111", up=WIDEN)
    program = tmp_path / "migrate.py"
    program.write_text(
        "import sys\nfrom alembic import command\nfrom alembic.config import Config\nfrom sqlalchemy import create_engine\n"
        "config = Config('alembic.ini')\n"
        "with create_engine(sys.argv[1]).connect() as connection:\n"
        "    config.attributes['connection'] = connection\n"
        "    command.upgrade(config, 'head')\n"
        "    print(connection.exec_driver_sql('PRAGMA legacy_alter_table').scalar())\n"
        "    connection.exec_driver_sql('DROP TABLE log')\n"
        "    print(len(connection.dispatch.before_cursor_execute))\n"
    )
    done = subprocess.run(
        [sys.executable, str(program), f"sqlite:///{database_file(with_rows)}"],
        cwd=with_rows.root,
        env=clean_environment() | with_rows.environ | {"SQL_URL": with_rows.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "0"]
    assert versions_in(with_rows) == ["aaaa1111"]
