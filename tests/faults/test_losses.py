"""Nothing is lost in quiet: bad files, odd ``env.py`` files, old checkouts and rebuilt tables."""

import pytest

from benchmarks.faults import accidents, files, generated, kills
from benchmarks.faults.places import ALEMBIC
from benchmarks.projects import OURS
from tests.faults.test_runs import hold


@pytest.mark.parametrize("foreign", [True, False], ids=["their env.py", "our env.py"])
def test_exit_0_means_done_after_a_statement_before_configure(kind: str, foreign: bool) -> None:
    hold(accidents.statement_before_configure(OURS, kind, foreign=foreign))


def test_an_old_checkout_changes_nothing(kind: str) -> None:
    hold(accidents.old_checkout(OURS, kind))


def test_looking_at_an_empty_database_writes_nothing(kind: str) -> None:
    hold(accidents.looked_at(OURS, kind))


def test_a_rebuilt_table_loses_no_row_below_it() -> None:
    hold(accidents.rows_kept(OURS))


def test_random_schemas_lose_no_row(sweep: bool) -> None:
    hold(generated.rebuilt(OURS, range(200 if sweep else 4)))


def test_a_full_disk_leaves_a_revision(sweep: bool) -> None:
    hold(files.disk_full(OURS, step=1 if sweep else 3))


def test_what_may_not_be_written_is_told() -> None:
    hold(files.not_writable(OURS))


def test_a_damaged_file_is_told_and_left_alone(sweep: bool) -> None:
    hold(files.damaged(OURS, step=1 if sweep else 3))


def test_a_truncated_file_is_told_and_left_alone() -> None:
    hold(files.truncated(OURS))


def test_a_foreign_file_is_told_and_left_alone() -> None:
    hold(files.foreign(OURS))


def test_the_cases_find_what_plain_alembic_does() -> None:
    """A case that nothing can fail would prove nothing."""
    assert accidents.rows_kept(ALEMBIC).failures
    assert accidents.statement_before_configure(ALEMBIC, "sqlite").failures
    assert accidents.looked_at(ALEMBIC, "sqlite").failures
    assert kills.killed(ALEMBIC, "sqlite", kills.UP, step=9).failures
