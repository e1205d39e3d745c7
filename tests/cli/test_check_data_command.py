"""``check-data`` on the command line: its exit codes, its words, and its JSON."""

import subprocess
import sys

import pytest

from tests.cli.helpers import ROOT, add_revision, document_of, run_sql, set_up, set_up_with_rows
from tests.conftest import Project

BACKWARD = "UPDATE budgets SET end_date = '2001-02-03' WHERE name = 'Family'"
UNSEALED = "UPDATE bank_connections SET access_token = 'access-in-the-open' WHERE item_id = 'item-harbor'"


@pytest.fixture
def with_rows(sqlite_project: Project) -> Project:
    return set_up_with_rows(sqlite_project)


def test_0_when_every_rule_holds(with_rows: Project) -> None:
    done = with_rows.run("check-data", "-q")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0] == "cross-users ok"
    assert lines[-1] == "13 rules checked, none broken."


def test_3_with_a_finding_for_each_rule_in_words(with_rows: Project) -> None:
    run_sql(with_rows, BACKWARD, UNSEALED)
    done = with_rows.run("check-data", "-q")
    assert done.returncode == 3
    assert "budgets 1 row\nplaintext 1 row\nunreadable ok\n" in done.stdout
    assert done.stdout.splitlines()[-1] == "13 rules checked, 2 broken."
    budgets, hint, plaintext, _ = done.stderr.splitlines()
    assert budgets.startswith("budgets: Budgets end before they start: budgets.end_date 1 (")
    assert hint == "  Look at the rows by their id; 'fininfra-db check-data budgets' looks again."
    assert plaintext.startswith("plaintext: Sealed columns hold what is not ciphertext: bank_connections.access_token 1 (")
    assert "2001" not in done.stdout + done.stderr
    assert "in-the-open" not in done.stdout + done.stderr


def test_3_in_json_with_the_rule_s_name_as_the_code(with_rows: Project) -> None:
    run_sql(with_rows, BACKWARD)
    done = with_rows.run("check-data", "budgets", "net-worth", "--json")
    document = document_of(done)
    assert done.returncode == 3
    assert document["error"]["code"] == "budgets"
    net_worth, budgets = document["result"]["rules"]
    assert {key: net_worth[key] for key in ("rule", "count", "faults", "reason")} == {
        "rule": "net-worth",
        "count": 0,
        "faults": [],
        "reason": None,
    }
    assert (budgets["rule"], budgets["count"]) == ("budgets", 1)
    assert budgets["faults"][0]["place"] == "budgets.end_date"
    assert len(budgets["faults"][0]["ids"]) == 1
    assert "2001" not in done.stdout


def test_2_for_a_rule_that_there_is_not(with_rows: Project) -> None:
    done = with_rows.run("check-data", "balance", "-q")
    assert done.returncode == 2
    assert "There is no rule balance. Nothing was checked." in done.stderr
    assert "Did you mean balances?" in done.stderr


def test_3_when_tables_are_pending(sqlite_project: Project) -> None:
    project = set_up(sqlite_project)
    add_revision(project, "aaaa1111", up="op.add_column('goals', sa.Column('kept', sa.Integer()))")
    assert project.run("downgrade", "base", "-q").returncode == 0
    code, document = project.answer("check-data")
    assert (code, document["error"]["code"]) == (3, "tables-missing")
    assert "fininfra-db upgrade" in document["error"]["hint"]


def test_without_a_key_it_says_what_was_not_checked(with_rows: Project) -> None:
    done = with_rows.run("check-data", env={"FININFRA_DB_KEYS": ""})
    assert done.returncode == 0
    assert "unreadable not checked: no key is configured" in done.stdout
    assert "12 rules checked, none broken." in done.stdout
    assert "Warning: Whether sealed values can be opened was not checked: set FININFRA_DB_KEYS." in done.stderr


def test_completion_offers_the_rules_and_loads_no_database_library() -> None:
    script = (
        "import sys; from fininfra_db.cli.options import complete_rule; print(*complete_rule('b')); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["balances", "breakdowns", "budgets"]
    assert not {"sqlalchemy", "alembic"} & set(done.stderr.split())
