"""What a session is told, and how whoever is in the way is put into words."""

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from fininfra_db.dialects import dialect_of
from fininfra_db.dialects.blockers import in_words, names_in, without_values
from fininfra_db.dialects.sessions import SessionOptions, application_name, milliseconds

URL = make_url("mssql://u@h/d")


@pytest.mark.parametrize(("seconds", "expected"), [(5.0, 5000), (2.5, 2500), (0.0004, 1), (0.0, -1), (1e9, 2**31 - 1)])
def test_sql_server_is_told_how_long_to_wait(seconds: float, expected: int) -> None:
    statement = dialect_of("mssql").session_sql(URL, "migration", SessionOptions(ddl_lock_timeout=seconds))
    assert statement == f"SET XACT_ABORT ON; SET LOCK_TIMEOUT {expected}"


def test_the_session_of_the_lock_waits_for_nothing() -> None:
    assert dialect_of("mssql").session_sql(URL, "maintenance", SessionOptions()) == ""
    assert "lock_timeout" not in dialect_of("postgresql").session_sql(URL, "maintenance", SessionOptions())
    mysql = dialect_of("mysql").session_sql(URL, "maintenance", SessionOptions())
    assert "lock_wait_timeout = 3" in mysql  # for the table that names the holder, and may be locked by a backup
    assert "max_statement_time" not in mysql


def test_less_than_a_millisecond_is_not_no_limit() -> None:
    assert [milliseconds(seconds) for seconds in (None, 0, 0.0001, 1)] == [0, 0, 1, 1000]


def test_the_name_of_the_program_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "o'höst@" + "x" * 80)
    name = application_name()
    assert len(name.encode()) <= 40
    assert name.startswith("fininfra-db ")
    assert "'" not in name


def test_the_tables_of_a_statement() -> None:
    statement = 'ALTER TABLE Users ADD CONSTRAINT x FOREIGN KEY (a) REFERENCES app."Big ""T""" (id)'
    assert {"users", 'Big "T"', "app"} <= set(names_in(statement))
    assert "Users" not in names_in(statement)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM users WHERE email = 'alice@example.com'",
        "SELECT * FROM users WHERE email = E'it\\'s', 'alice@example.com'",
        'SELECT * FROM users WHERE email = "alice@example.com"',
        "SELECT * FROM users WHERE email = $$alice@example.com$$",
        "SELECT * FROM users WHERE email = $q$alice@example.com$q$",
        "SELECT * FROM users -- for alice@example.com",
        "SELECT * FROM users /* alice@example.com */",
        "SELECT * FROM users # alice@example.com",
    ],
)
def test_no_value_of_a_statement_is_shown(query: str) -> None:
    shown = without_values(query)
    assert shown.startswith("SELECT * FROM users")
    assert shown.endswith("...")
    assert "alice" not in shown


def test_a_statement_without_values_is_shown_up_to_60_characters() -> None:
    assert without_values("SELECT a1\n  FROM t2 WHERE id = $1") == "SELECT a1 FROM t2 WHERE id = $1"
    assert without_values("SELECT " + "a, " * 60) == f"SELECT {'a, ' * 60}"[:60].rstrip() + "..."
    assert without_values("SELECT a FROM t LIMIT 10") == "SELECT a FROM t LIMIT..."


def test_a_session_in_words() -> None:
    words = in_words(4711, "app", "web", "idle in transaction", 12, "holds accounts", "SELECT id FROM accounts")
    assert words == "pid 4711 (app, web, idle in transaction for 12 s, holds accounts): SELECT id FROM accounts"
    assert in_words(4711, None, "", None, None, "waits for accounts", None) == "pid 4711 (waits for accounts)"


@pytest.mark.parametrize(
    ("dialect", "number", "expected"),
    [("mssql", 1222, True), ("mssql", 1205, True), ("mssql", 547, False)],
)
def test_sql_servers_word_for_having_waited_too_long(dialect: str, number: int, expected: bool) -> None:
    error = DBAPIError(
        "ALTER TABLE t", None, Exception("HYT00", f"[Microsoft][ODBC Driver 18 for SQL Server] ... ({number}) (SQLExecDirectW)")
    )
    assert dialect_of(dialect).gave_up_waiting(error) is expected
