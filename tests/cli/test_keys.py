"""``keys status``, ``rotate`` and ``encrypt`` as a person and a script see them: exit codes, the document, and nothing of any value."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fininfra_db.security import Keyring, generate_key
from tests.cli.helpers import PROGRAM, document_of, run_sql, set_up
from tests.conftest import Project, clean_environment

NEW = generate_key()
PLAIN = "access-sandbox-Can4ry"
LONG_AGO = "'2026-01-02 03:04:05.000000'"


@pytest.fixture
def with_rows(sqlite_project: Project, key: str) -> Project:
    """Three tokens under the project's key, one under another one, and one that was never sealed."""
    set_up(sqlite_project)
    values = [*(Keyring(key).encrypt(f"{PLAIN}-{number}") for number in range(3)), Keyring(generate_key()).encrypt(PLAIN), PLAIN]
    rows = ", ".join(f"('c{number}', 'u', '{value}', 'i', 'Bank', {LONG_AGO})" for number, value in enumerate(values))
    run_sql(
        sqlite_project,
        f"INSERT INTO users (id, email, created_at) VALUES ('u', 'e', {LONG_AGO})",
        f"INSERT INTO bank_connections (id, user_id, access_token, item_id, institution_name, created_at) VALUES {rows}",
    )
    return sqlite_project


def test_the_way_from_an_old_key_to_a_new_one(with_rows: Project, key: str) -> None:
    both = {"FININFRA_DB_KEYS": f"{NEW},{key}"}
    new, old = Keyring(f"{NEW},{key}").fingerprints
    done = with_rows.run("keys", "status", env=both)
    assert done.returncode == 3
    assert done.stdout.splitlines() == [
        f"key {new} (first)",
        f"key {old}",
        f"bank_connections.access_token: 3 {old}, 1 plaintext, 1 unopened",
    ]
    assert [line.split(":")[0] for line in done.stderr.splitlines()[1::2]] == [
        "Rows that no configured key opens",
        "Rows that are not sealed",
        "Rows that are not under the first key",
    ]
    dry = with_rows.run("keys", "rotate", "--dry-run", env=both)
    assert (dry.returncode, dry.stdout.splitlines()[-1]) == (3, f"Would seal 3 rows with key {new}. Nothing was written.")
    rotated = with_rows.run("keys", "rotate", env=both)
    assert (rotated.returncode, rotated.stdout.splitlines()[-1]) == (3, f"Sealed 3 rows with key {new}.")
    assert "bank_connections.access_token 1 (c4)" in rotated.stderr
    run_sql(with_rows, "DELETE FROM bank_connections WHERE id = 'c3'")
    encrypted = with_rows.run("keys", "encrypt", env=both)
    assert (encrypted.returncode, encrypted.stdout.splitlines()[-1]) == (0, f"Sealed 1 row with key {new}.")
    assert with_rows.run("keys", "status", env={"FININFRA_DB_KEYS": NEW}).returncode == 0
    again = with_rows.run("keys", "rotate", env=both)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "Nothing to do.")
    told = "".join(done.stdout + done.stderr for done in (done, dry, rotated, encrypted, again))
    assert not [secret for secret in (PLAIN, NEW, key, "gAAAA") if secret in told]


def test_the_document_has_the_rows_of_each_key_and_the_first_finding(with_rows: Project, key: str) -> None:
    done = with_rows.run("keys", "status", "--json", env={"FININFRA_DB_KEYS": f"{NEW},{key}"})
    document = document_of(done)
    new, old = Keyring(f"{NEW},{key}").fingerprints
    assert (done.returncode, document["error"]["code"]) == (3, "unopened")
    assert document["result"]["keys"] == [new, old]
    assert document["result"]["columns"] == [
        {
            "table": "bank_connections",
            "column": "access_token",
            "rows": 5,
            "nulls": 0,
            "keys": {new: 0, old: 3},
            "plaintext": {"count": 1, "ids": ["c4"]},
            "unopened": {"count": 1, "ids": ["c3"]},
            "too_long": {"count": 0, "ids": []},
            "changed": 0,
        }
    ]
    assert [finding["code"] for finding in document["result"]["findings"]] == ["unopened", "plaintext", "old-key"]


@pytest.mark.parametrize("verb", ["status", "rotate", "encrypt"])
def test_without_a_key_it_is_a_matter_of_configuration(with_rows: Project, verb: str) -> None:
    (with_rows.root / ".env").unlink(missing_ok=True)
    code, document = with_rows.answer("keys", verb, env={"FININFRA_DB_KEYS": ""})
    assert (code, document["error"]["code"]) == (2, "key-missing")


def test_a_protected_database_can_be_rotated(with_rows: Project, key: str) -> None:
    assert with_rows.run("environment", "set", "production").returncode == 0
    production = {"APP_ENV": "production", "FININFRA_DB_KEYS": f"{NEW},{key}"}
    assert with_rows.answer("keys", "rotate", env=production)[1]["result"]["columns"][0]["changed"] == 3


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the other process in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_a_rotation_ends_its_other_process(with_rows: Project, key: str, number: signal.Signals) -> None:
    rows = ", ".join(f"('r{number}', 'u', '{Keyring(key).encrypt(PLAIN)}', 'i', 'Bank', {LONG_AGO})" for number in range(5_000))
    run_sql(with_rows, f"INSERT INTO bank_connections (id, user_id, access_token, item_id, institution_name, created_at) VALUES {rows}")
    environment = clean_environment() | {"SQL_URL": with_rows.url, "FININFRA_DB_KEYS": f"{NEW},{key}"}
    process = subprocess.Popen(
        [*PROGRAM, "keys", "rotate"], cwd=with_rows.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    others: list[int] = []
    deadline = time.monotonic() + 30
    while not others and process.poll() is None and time.monotonic() < deadline:
        others = children_of(process.pid)
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert others
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert "Interrupted. Nothing was changed." in told or "Run the command again: it carries on." in told
    deadline = time.monotonic() + 10
    while any(is_python(pid) for pid in others) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in others if is_python(pid)]
    assert with_rows.answer("keys", "rotate", env=environment)[0] == 3
    assert with_rows.answer("keys", "status", env=environment)[1]["result"]["columns"][0]["keys"] == dict(
        zip(Keyring(f"{NEW},{key}").fingerprints, (5_003, 0), strict=True)
    )


def children_of(pid: int) -> list[int]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        found = [Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii").split() for task in tasks]
    except OSError:
        return []
    return [int(child) for children in found for child in children]


def is_python(pid: int) -> bool:
    """Whether this process still runs, rather than waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(sys.executable.encode())
    except OSError:
        return False
