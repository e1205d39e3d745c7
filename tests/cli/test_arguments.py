"""What may be typed: relative revisions, ranges, prefixes, and every option that Alembic's command of the same name has."""

from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import (
    FIRST,
    Done,
    add_revision,
    add_three_revisions,
    document_of,
    set_up,
    side_by_side,
    sqlite_in,
    traces,
    versions_in,
)
from tests.conftest import Project


@pytest.fixture
def at_head(sqlite_project: Project) -> Project:
    """A project at head; nothing follows the first revision."""
    return set_up(sqlite_project)


@pytest.fixture
def behind(at_head: Project) -> Project:
    """A project with three revisions, aaaa1111, bbbb2222 and cccc3333, that its database does not have."""
    return add_three_revisions(at_head)


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory, key: str) -> Project:
    """Such a project with the database at bbbb2222, for commands that leave it as it is."""
    project = add_three_revisions(sqlite_in(tmp_path_factory.mktemp("looked_at"), key))
    assert project.run("upgrade", "bbbb2222").returncode == 0
    return project


WRONG = (
    "downgrade --verbos",
    "downgrade --verbos -1",
    "downgrade -1 -x",
    "downgrade -1a",
    "upgrade -vz",
    "upgrade +1 --nope",
    "downgrade -1 -1",
    "downgrade base base",
    "current -1",
    "history -r",
    "downgrade",
    "stamp",
    "merge",
    "nonsense",
    "keys nonsense",
    "downgrade -1 --json=yes",
)
"""What the parser does not take."""

HELP = ("-h", "keys -h", "downgrade -h", "downgrade -1 -h", "keys generate -h")

FOUND = {
    "history --json -r -2:current": ["bbbb2222", "aaaa1111"],
    "history --json --rev-range -2:current": ["bbbb2222", "aaaa1111"],
    "history --json --rev-range=-2:current": ["bbbb2222", "aaaa1111"],
    "history -r current: --json": ["cccc3333", "bbbb2222"],
    "history -r :aaaa1111 --json": ["aaaa1111", FIRST],
    "history -r aaaa1111:bbbb2222 --json": ["bbbb2222", "aaaa1111"],
    "history -r aaaa:bbbb --json": ["bbbb2222", "aaaa1111"],
    "history -r base:head --json": ["cccc3333", "bbbb2222", "aaaa1111", FIRST],
    "history -r current:+1 --json": ["cccc3333", "bbbb2222"],
    "history -r : --json": ["cccc3333", "bbbb2222", "aaaa1111", FIRST],
    "show --json": ["cccc3333"],
    "show --json current": ["bbbb2222"],
    "show --json aaaa1111": ["aaaa1111"],
    "show --json base": [],
    f"show --json {FIRST[:5]}": [FIRST],
    "heads --json": ["cccc3333"],
}
"""What each line finds when the database is at bbbb2222."""

REFUSED = (
    ("history -r :zzzz", 1, "'zzzz'"),
    ("history -r zzzz:", 1, "'zzzz'"),
    ("history -r zzzz", 2, "[start]:[end]"),
    ("history -r a:b:c", 2, "[start]:[end]"),
    ("history --rev-range=", 2, "[start]:[end]"),
    ("show zzzz", 1, "'zzzz'"),
    ("upgrade aaaa1111:cccc3333", 2, "--sql"),
    ("upgrade :head", 2, "--sql"),
    ("downgrade bbbb2222:base", 2, "--sql"),
    ("downgrade --sql aaaa1111", 2, "<from>:<to>"),
    ("downgrade base --sql", 2, "<from>:<to>"),
    ("downgrade --sql -1", 2, "<from>:<to>"),
    ("downgrade -5", 1, "-5"),
    ("upgrade +5", 1, "+5"),
)
"""What is refused there, with which exit code, and what is said."""

OTHER = ("current -c", "current --check-heads", "current", "history -i --json", "history --indicate-current --json")


@pytest.fixture(scope="module")
def looks(looked_at: Project) -> dict[str, Done]:
    """All of these lines, run in a project that none of them changes."""
    return side_by_side(looked_at, (*WRONG, *HELP, *FOUND, *(line for line, _, _ in REFUSED), *OTHER))


def succeeds(project: Project, *words: str) -> dict[str, Any]:
    """Run with ``--json`` somewhere among the words, and return the result."""
    done = project.run(*words, *(() if "--json" in words else ("--json",)))
    document = document_of(done)
    assert done.returncode == 0, document["error"]
    result: dict[str, Any] = document["result"]
    return result


def refused(project: Project, *words: str, code: int = 2) -> str:
    """Run what is refused without a trace, and return the message and the hint."""
    before = traces(project.root)
    done = project.run(*words)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert traces(project.root) == before
    return done.stderr


def names(result: dict[str, Any]) -> list[str]:
    return [info["revision"] for info in result["revisions"]]


def text_of(result: dict[str, Any]) -> str:
    """The text of the one file that a command has written."""
    (path,) = result["paths"]
    return Path(path).read_text(encoding="utf-8")


# Relative revisions.


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["upgrade", "+1"], ["aaaa1111"]),
        (["upgrade", "+2", "--json"], ["aaaa1111", "bbbb2222"]),
        (["upgrade", "--json", "+1", "-q"], ["aaaa1111"]),
        (["migrate", "+3"], ["aaaa1111", "bbbb2222", "cccc3333"]),
        (["downgrade", "-1"], [FIRST]),
        (["downgrade", "-1", "--json", "-q", "-v"], [FIRST]),
        (["downgrade", "--json", "-q", "-1"], [FIRST]),
        (["downgrade", "-v", "-1", "--tag", "-1", "--debug"], [FIRST]),
        (["downgrade", "--tag", "x", "--json", "--", "-1"], [FIRST]),
        (["downgrade", "base"], [FIRST]),
    ],
    ids=" ".join,
)
def test_relative_revisions_go_anywhere_among_the_options(behind: Project, words: list[str], steps: list[str]) -> None:
    words = words if "--" not in words else ["--json", *words]
    result = succeeds(behind, *([words[1], words[0], *words[2:]] if words[0] == "--json" else words))
    assert [step["revision"] for step in result["steps"]] == steps


def test_a_relative_revision_after_a_dash_dash(behind: Project) -> None:
    done = behind.run("downgrade", "--", "-1")
    assert done.returncode == 0
    assert done.stdout.endswith("The database is at base.\n")


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_is_exit_code_2_and_points_to_the_help(looks: dict[str, Done], line: str) -> None:
    done = looks[line]
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    commands = ("downgrade", "upgrade", "current", "history", "stamp", "merge", "keys")
    command = next((f" {word}" for word in line.split() if word in commands), "")
    assert f"Try 'fininfra-db{command} --help' for help." in done.stderr


def test_a_misspelt_option_is_told_its_name(looks: dict[str, Done]) -> None:
    assert "--verbose" in looks["downgrade --verbos"].stderr


@pytest.mark.parametrize("words", [[], ["keys"]], ids=["program", "keys"])
def test_nothing_to_do_shows_the_help_and_is_exit_code_2(sqlite_project: Project, words: list[str]) -> None:
    done, asked = sqlite_project.run(*words), sqlite_project.run(*words, "--help")
    assert (done.returncode, asked.returncode) == (2, 0)
    assert done.stderr.strip() == asked.stdout.strip()
    assert done.stdout == asked.stderr == ""


@pytest.mark.parametrize("line", HELP)
def test_h_is_help(looks: dict[str, Done], line: str) -> None:
    assert looks[line].returncode == 0
    assert looks[line].stdout.startswith("Usage: fininfra-db ")


# Ranges and names.


@pytest.mark.parametrize(("line", "found"), FOUND.items())
def test_history_and_show_find_revisions(looks: dict[str, Done], line: str, found: list[str]) -> None:
    assert names(document_of(looks[line])["result"]) == found


@pytest.mark.parametrize(("line", "code", "told"), REFUSED)
def test_what_cannot_be_done_as_it_is_said_is_refused(looks: dict[str, Done], line: str, code: int, told: str) -> None:
    done = looks[line]
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_revision_may_be_named_by_its_beginning(behind: Project) -> None:
    assert succeeds(behind, "upgrade", "bbbb")["after"] == ["bbbb2222"]
    assert names(succeeds(behind, "show", FIRST[:5])) == [FIRST]
    assert succeeds(behind, "downgrade", "aaaa11")["after"] == ["aaaa1111"]
    assert succeeds(behind, "stamp", "cccc")["after"] == ["cccc3333"]


def test_a_beginning_that_fits_two_revisions_is_refused(behind: Project) -> None:
    add_revision(behind, "cccc4444", "cccc3333")
    done = side_by_side(behind, ("upgrade cccc", "downgrade cccc", "show cccc", "stamp cccc", "revision --splice --head cccc"))
    assert {run.returncode for run in done.values()} == {1}
    for run in done.values():
        assert "'cccc3333', 'cccc4444'" in run.stderr
        assert "more characters" in run.stderr


def test_base_reverts_everything(behind: Project) -> None:
    succeeds(behind, "upgrade")
    result = succeeds(behind, "downgrade", "base")
    assert [step["revision"] for step in result["steps"]] == ["cccc3333", "bbbb2222", "aaaa1111", FIRST]
    assert result["after"] == versions_in(behind) == []


@pytest.mark.parametrize(("line", "code"), [("current -c", 3), ("current --check-heads", 3), ("current", 0)])
def test_current_checks_the_heads_when_asked(looks: dict[str, Done], line: str, code: int) -> None:
    assert looks[line].returncode == code


@pytest.mark.parametrize("line", ["history -i --json", "history --indicate-current --json"])
def test_history_marks_the_current_revision_when_asked(looks: dict[str, Done], line: str) -> None:
    marked = [(info["revision"], info["is_current"]) for info in document_of(looks[line])["result"]["revisions"]]
    assert marked == [("cccc3333", False), ("bbbb2222", True), ("aaaa1111", False), (FIRST, False)]
    assert {info["is_current"] for info in document_of(looks["history -r : --json"])["result"]["revisions"]} == {None}


def test_heads_resolves_dependencies_when_asked(at_head: Project) -> None:
    add_revision(at_head, "aaaa1111", more="branch_labels = ('side',)")
    add_revision(at_head, "bbbb2222", more="depends_on = 'aaaa1111'")
    assert names(succeeds(at_head, "heads")) == ["aaaa1111", "bbbb2222"]
    assert names(succeeds(at_head, "heads", "--resolve-dependencies")) == ["bbbb2222"]


# SQL instead of running it.


def test_sql_takes_a_range(looked_at: Project) -> None:
    up = succeeds(looked_at, "upgrade", "--sql", "aaaa1111:cccc3333")["sql"]
    down = succeeds(looked_at, "downgrade", "cccc3333:aaaa1111", "--sql")["sql"]
    assert [line for line in up.splitlines() if line.startswith("--")] == [
        "-- Running upgrade aaaa1111 -> bbbb2222",
        "-- Running upgrade bbbb2222 -> cccc3333",
    ]
    assert [line for line in down.splitlines() if line.startswith("--")] == [
        "-- Running downgrade cccc3333 -> bbbb2222",
        "-- Running downgrade bbbb2222 -> aaaa1111",
    ]
    assert versions_in(looked_at) == ["bbbb2222"]


def test_stamp_as_sql_writes_nothing(looked_at: Project) -> None:
    sql = succeeds(looked_at, "stamp", "--sql", "aaaa1111:bbbb2222")["sql"]
    assert "SET version_num='bbbb2222'" in sql
    assert versions_in(looked_at) == ["bbbb2222"]


# Stamp.


async def test_stamp_purge_forgets_what_is_unknown(behind: Project) -> None:
    await behind.execute("UPDATE alembic_version SET version_num = 'gone'")
    assert behind.run("stamp", "head").returncode == 1
    result = succeeds(behind, "stamp", "--purge", "bbbb2222")
    assert (result["before"], result["after"]) == (["gone"], ["bbbb2222"])
    assert await behind.rows("SELECT version_num FROM alembic_version") == [("bbbb2222",)]


@pytest.mark.parametrize(("words", "after"), [(["base"], []), (["head"], ["cccc3333"]), (["aaaa1111"], ["aaaa1111"])], ids=str)
def test_stamp_runs_no_revision(behind: Project, words: list[str], after: list[str]) -> None:
    add_revision(behind, "aaaa1111", up="raise AssertionError")
    assert succeeds(behind, "stamp", *words)["after"] == after == versions_in(behind)


def test_stamp_takes_several_heads(at_head: Project) -> None:
    add_revision(at_head, "aaaa1111")
    add_revision(at_head, "aaaa2222")
    assert succeeds(at_head, "stamp", "aaaa1111", "aaaa2222")["after"] == ["aaaa1111", "aaaa2222"]
    assert succeeds(at_head, "stamp", FIRST)["after"] == [FIRST]
    assert succeeds(at_head, "stamp", "heads")["after"] == ["aaaa1111", "aaaa2222"]


# Revision and merge.


def test_revision_follows_the_head_and_is_named_by_its_message(behind: Project) -> None:
    result = succeeds(behind, "revision", "-m", "Add the thing")
    assert Path(result["paths"][0]).name.endswith(f"_{result['revisions'][0]}_add_the_thing.py")
    assert text_of(result).startswith('"""Add the thing\n')
    (info,) = succeeds(behind, "show")["revisions"]
    assert (info["revision"], info["down_revisions"]) == (result["revisions"][0], ["cccc3333"])


def test_revision_takes_any_message(at_head: Project) -> None:
    messages = (r"move C:\users\new", 'say "hi"', '"""', "Überweisung\t→ 50 %", "two\nlines", "${7 * 6} %(here)s {x}")
    for number, message in enumerate(messages):
        succeeds(at_head, "revision", "-m", message, "--rev-id", f"aaaa{number}")
    shown = succeeds(at_head, "history", "-r", f"{FIRST}:")["revisions"]
    assert [each["message"] for each in reversed(shown[:-1])] == [message.replace("\n", " ") for message in messages]
    assert succeeds(at_head, "upgrade")["after"] == ["aaaa5"]


def test_revision_takes_every_option_of_alembics(behind: Project) -> None:
    extra = behind.root / "extra"
    extra.mkdir()
    ini = behind.root / "alembic.ini"
    ini.write_text(
        ini.read_text().replace("[fininfra_db]", "version_locations = %(here)s/migrations/versions:%(here)s/extra\n\n[fininfra_db]"),
        encoding="utf-8",
    )
    options = (
        "--rev-id",
        "dddd4444",
        "--branch-label",
        "side",
        "--depends-on",
        "bbbb2222",
        "--depends-on",
        "cccc",
        "--version-path",
        str(extra),
    )
    result = succeeds(behind, "revision", "--message", "side", "--head", "aaaa1111", "--splice", *options)
    assert result["revisions"] == ["dddd4444"]
    assert Path(result["paths"][0]).parent == extra
    (info,) = succeeds(behind, "show", "side@head")["revisions"]
    assert info["revision"] == "dddd4444"
    assert info["down_revisions"] == ["aaaa1111"]
    assert info["branch_labels"] == ["side"]
    assert info["depends_on"] == ["bbbb2222", "cccc3333"]
    assert succeeds(behind, "upgrade", "side@head")["after"] != [FIRST]


def test_revision_on_a_base_of_its_own(behind: Project) -> None:
    result = succeeds(behind, "revision", "-m", "apart", "--head", "base", "--rev-id", "dddd4444", "--branch-label", "apart")
    assert result["revisions"] == ["dddd4444"]
    assert names(succeeds(behind, "heads")) == ["cccc3333", "dddd4444"]


def test_revision_needs_splice_for_a_parent_that_is_no_head(behind: Project) -> None:
    told = refused(behind, "revision", "-m", "x", "--head", "aaaa1111", code=1)
    assert "aaaa1111" in told
    assert "splice" in told


def test_revision_refuses_a_folder_that_is_no_version_location(behind: Project) -> None:
    assert "elsewhere" in refused(behind, "revision", "-m", "x", "--version-path", str(behind.root / "elsewhere"), code=1)


def test_revision_refuses_an_identifier_that_is_taken(behind: Project) -> None:
    told = refused(behind, "revision", "-m", "x", "--rev-id", "aaaa1111", code=2)
    assert "aaaa1111" in told or "identifier" in told


def test_revision_drops_a_table_only_when_it_is_allowed(at_head: Project) -> None:
    ini = at_head.root / "alembic.ini"
    (at_head.root / "fewer.py").write_text(
        "from sqlalchemy import MetaData\nfrom fininfra_db.models import Base\nmetadata = MetaData()\n"
        "for table in Base.metadata.sorted_tables:\n    if table.name != 'documents':\n        table.to_metadata(metadata)\n"
        "del Base, table\n",
        encoding="utf-8",
    )
    ini.write_text(ini.read_text().replace("models = fininfra_db.models", "models = fewer"), encoding="utf-8")
    autogenerate = ("revision", "--autogenerate", "-m", "fewer")
    assert "drop table documents" in refused(at_head, *autogenerate, code=4)
    assert "op.drop_table('documents')" in text_of(succeeds(at_head, *autogenerate, "--allow-drop")).replace('"', "'")


def test_revision_writes_nothing_when_there_is_nothing_to_write(at_head: Project) -> None:
    before = traces(at_head.root / "migrations" / "versions")
    assert succeeds(at_head, "revision", "--autogenerate", "-m", "x")["paths"] == []
    assert traces(at_head.root / "migrations" / "versions") == before


def test_merge_joins_all_heads_or_those_that_are_named(at_head: Project) -> None:
    for revision in ("aaaa1111", "aaaa2222", "aaaa3333"):
        add_revision(at_head, revision)
    named = succeeds(at_head, "merge", "aaaa1111", "aaaa2222", "-m", "two", "--rev-id", "bbbb1111", "--branch-label", "joined")
    assert named["revisions"] == ["bbbb1111"]
    (info,) = succeeds(at_head, "show", "joined")["revisions"]
    assert (sorted(info["down_revisions"]), info["message"]) == (["aaaa1111", "aaaa2222"], "two")
    rest = succeeds(at_head, "merge", "heads", "--message", "all")
    assert succeeds(at_head, "merge", "heads")["paths"] == []
    assert succeeds(at_head, "upgrade")["after"] == rest["revisions"]


# Init.


def test_init_writes_and_updates_and_keeps_the_models(sqlite_project: Project) -> None:
    ini = sqlite_project.root / "alembic.ini"
    succeeds(sqlite_project, "init", "--models", "app.models, app.more")
    assert "\nmodels = app.models, app.more\n" in ini.read_text(encoding="utf-8")
    assert succeeds(sqlite_project, "init", "--models", "app.models,app.more")["written"] == []
    assert succeeds(sqlite_project, "init")["written"] == []
    written = ini.read_text(encoding="utf-8")
    assert succeeds(sqlite_project, "init", "--models", "other")["written"] == [str(ini)]
    assert ini.read_text(encoding="utf-8") == written.replace("app.models, app.more", "other")


def test_init_leaves_the_rest_of_an_ini_alone(sqlite_project: Project) -> None:
    ini = sqlite_project.root / "alembic.ini"
    kept = "# mine\n[alembic]\nscript_location = %(here)s/db\n[loggers]\nkeys = root\n"
    ini.write_text(kept, encoding="utf-8")
    succeeds(sqlite_project, "init", "--models", "app.models")
    assert ini.read_text(encoding="utf-8") == f"{kept}\n[fininfra_db]\nmodels = app.models\n"
    assert (sqlite_project.root / "db" / "env.py").is_file()


@pytest.mark.parametrize(
    ("words", "files"),
    [
        ([], {"migrations/env.py", "migrations/script.py.mako"}),
        (["db"], {"db/env.py", "db/script.py.mako"}),
        (["src/db", "--package"], {"src/db/env.py", "src/db/script.py.mako", "src/db/__init__.py", "src/db/versions/__init__.py"}),
    ],
    ids=["migrations", "db", "src/db --package"],
)
def test_init_makes_the_folder_that_it_is_told(sqlite_project: Project, words: list[str], files: set[str]) -> None:
    written = succeeds(sqlite_project, "init", *words)["written"]
    root = sqlite_project.root
    assert {str(Path(path).relative_to(root)) for path in written} == files | {"alembic.ini"}
    assert all((root / name).is_file() for name in files)
    assert (root / (words[0] if words else "migrations") / "versions").is_dir()
    done = sqlite_project.run("heads")
    assert (done.returncode, done.stdout) == (0, "No revision.\n")
    assert succeeds(sqlite_project, "init", *words)["written"] == []


def test_init_writes_a_key_once_and_not_in_production(sqlite_project: Project, tmp_path: Path) -> None:
    keyless = {"FININFRA_DB_KEYS": ""}
    for folder in ("development", "production"):
        (tmp_path / folder).mkdir()
        done = sqlite_project.run("init", "-C", str(tmp_path / folder), env=keyless | {"APP_ENV": folder})
        assert done.returncode == 0
    made = tmp_path / "development" / ".env"
    assert made.read_text(encoding="utf-8").count("FININFRA_DB_KEYS=") == 1
    assert made.stat().st_mode & 0o777 == 0o600
    assert ".env" in (tmp_path / "development" / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert not (tmp_path / "production" / ".env").exists()
    before = traces(tmp_path / "development")
    assert sqlite_project.run("init", "-C", str(tmp_path / "development"), env=keyless).returncode == 0
    assert traces(tmp_path / "development") == before


# Seed and reset.


@pytest.mark.parametrize("name", ["nonsense", "nonsense:x", "seeds:nothing", "seeds:NUMBER", ":x", "seeds:"])
def test_seed_refuses_a_name_that_is_no_seed(at_head: Project, name: str) -> None:
    (at_head.root / "seeds.py").write_text("NUMBER = 1\n", encoding="utf-8")
    assert name.partition(":")[0] in refused(at_head, "seed", name)


def test_reset_with_a_seed(at_head: Project) -> None:
    result = succeeds(at_head, "reset", "-y", "--seed")
    assert "users" in result["dropped"]
    assert result["migrated"]["after"] == [FIRST]
    assert result["seeded"]["inserted"] == sum(result["seeded"]["rows"].values()) > 0
