"""``seed`` and ``reset --seed`` as they are typed: options, what is refused, and the bar."""

from pathlib import Path

import pytest

from tests.cli.helpers import document_of, on_terminal, set_up, together
from tests.conftest import Project

SMALL = ("demo", "--users", "2", "--months", "1", "--as-of", "2024-02-29", "--random-seed", "3")


@pytest.fixture
def at_head(sqlite_project: Project) -> Project:
    return set_up(sqlite_project)


def test_a_profile_is_described_by_its_options(at_head: Project) -> None:
    code, document = at_head.answer("seed", *SMALL)
    assert code == 0
    assert document["result"]["rows"]["users"] == 2
    code, again = at_head.answer("seed", *SMALL)
    assert (code, again["result"]["inserted"], again["result"]["rows"]) == (0, 0, document["result"]["rows"])
    shown = at_head.run("status").stdout
    rows = sum(document["result"]["rows"].values())
    assert f"seed: demo --users 2 --months 1 --as-of 2024-02-29 --random-seed 3, {rows} rows, " in shown
    code, replaced = at_head.answer("seed", "demo", "--users", "1", "--months", "1", "--replace")
    assert (code, replaced["result"]["removed"]) == (0, document["result"]["inserted"])


def test_reset_takes_the_same_options_and_seed_alone_is_the_default(at_head: Project) -> None:
    _, named = at_head.answer("reset", "--yes", "--seed", *SMALL)
    assert (named["result"]["seeded"]["seed"], named["result"]["seeded"]["rows"]["users"]) == ("demo", 2)
    _, default = at_head.answer("reset", "--seed", "--yes")
    assert default["result"]["seeded"]["seed"] == "household"
    shown = at_head.run("status").stdout
    assert "seed: household, 581 rows, " in shown
    assert "demo" not in shown


REFUSED = {
    "seed --users 3": "does not take --users",
    "seed demo --users many": "'many' is not a whole number",
    "seed demo --users -3": "-3",
    "seed demo --as-of 2023-02-29": "'2023-02-29' is not a day",
    "seed demo more": "more",
    "reset --yes demo": "Add --seed",
    "reset --yes --users 3": "Add --seed",
    "reset --yes --seed household --months 3": "does not take --months",
}
"""What is wrong with each line; tests/unit/test_profiles.py has more about the arguments."""


def test_what_means_nothing_is_a_usage_error_with_its_reason(at_head: Project) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(at_head.root).rglob("*.db")}
    done = dict(zip(REFUSED, together(lambda line: at_head.run(*line.split(), "--json"), REFUSED), strict=True))
    for line, said in REFUSED.items():
        assert done[line].returncode == 2, line
        error = document_of(done[line])["error"]
        assert said in f"{error['message']} {error['hint']}", line
    assert {path: path.stat().st_mtime_ns for path in Path(at_head.root).rglob("*.db")} == before


def test_several_seeds_of_the_project_are_each_shown(at_head: Project) -> None:
    ini = at_head.root / "alembic.ini"
    ini.write_text(f"{ini.read_text(encoding='utf-8')}\nseeds = household demo\n", encoding="utf-8")
    done = at_head.run("seed")
    assert done.returncode == 0, done.stderr
    *_, first, second = done.stdout.splitlines()
    assert first == "Seed household: 581 new of 581 rows."
    assert second.startswith("Seed demo: ")


def test_there_is_a_bar_on_a_terminal_and_nothing_of_it_in_a_pipe(at_head: Project) -> None:
    seen = on_terminal(at_head, "seed", "load", "--users", "5")
    assert seen.returncode == 0
    assert "━" in seen.screen
    assert " %" in seen.screen
    assert seen.screen.endswith("Seed load: 5035 new of 5035 rows.\n")
    piped = at_head.run("seed", "load", "--users", "6")
    assert "%" not in piped.stdout + piped.stderr
    quiet = on_terminal(at_head, "seed", "load", "--users", "7", "--quiet")
    assert (quiet.returncode, "%" in quiet.screen) == (0, False)
