"""The options that say how long to wait."""

import sqlite3
import time
from contextlib import closing

import pytest

from tests.cli.helpers import add_revision, database_file, document_of, set_up, side_by_side
from tests.conftest import Project

LOCK = ("upgrade", "migrate", "downgrade base", "stamp head", "setup-and-migrate", "reset --yes", "seed")
STATEMENTS = ("upgrade", "migrate", "downgrade base", "setup-and-migrate")
OPTIONS = {"--lock-timeout": LOCK, "--ddl-lock-timeout": STATEMENTS, "--statement-timeout": STATEMENTS}
EACH = [(option, words) for option, commands in OPTIONS.items() for words in commands]


def test_what_is_no_number_of_seconds_is_a_usage_error(sqlite_project: Project) -> None:
    set_up(sqlite_project)
    bad = ("soon", "-1", "nan", "inf")
    done = side_by_side(sqlite_project, [f"{words} {option} {bad[n % len(bad)]}" for n, (option, words) in enumerate(EACH)])
    for line, each in done.items():
        assert each.returncode == 2, line
        option, value = line.split()[-2:]
        assert f"Invalid value for '{option}': '{value}' is not a number of seconds." in each.stderr
        assert not each.stdout


def test_the_usage_error_is_one_json_object(sqlite_project: Project) -> None:
    document = document_of(set_up(sqlite_project).run("upgrade", "--lock-timeout", "soon", "--json"))
    assert document["error"]["code"] == "usage"


@pytest.mark.parametrize(("option", "words"), EACH)
def test_each_command_takes_its_options(sqlite_project: Project, option: str, words: str) -> None:
    done = set_up(sqlite_project).run(*words.split(), option, "2.5")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", LOCK)
def test_zero_fails_at_once_where_the_database_is_locked(sqlite_project: Project, words: str) -> None:
    add_revision(set_up(sqlite_project), "aaaa1111")
    with closing(sqlite3.connect(database_file(sqlite_project), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        code, document = sqlite_project.answer(*words.split(), "--lock-timeout", "0")
        assert time.monotonic() - started < 10
        other.execute("ROLLBACK")
    assert (code, document["error"]["code"]) == (5, "lock-not-obtained")
    assert sqlite_project.run(*words.split(), "--lock-timeout", "5").returncode == 0
