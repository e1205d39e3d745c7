"""Where settings come from: which source wins, what is refused, and that no secret is ever shown."""

import itertools
import os
from dataclasses import FrozenInstanceError
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from fininfra_db.errors import ConfigurationError, EnvFileMalformed, KeyMissing, ProjectNotFound, UrlMissing
from fininfra_db.redaction import MASK
from fininfra_db.security import default_keyring, generate_key
from fininfra_db.settings import (
    DEFAULT_SQL_URL,
    Settings,
    find_project_root,
    load_settings,
    process_settings,
    read_env_file,
    reread_project,
)
from tests.conftest import PRODUCT_VARIABLES

SECRET = "hunter2"
SECRET_URL = f"postgresql://bob:{SECRET}@db.example/finance"
SOURCES = (
    "--sql-url",
    "SQL_URL in environment",
    "SQL_URL_FILE in environment",
    "DATABASE_URL in environment",
    "SQL_URL in .env",
    "SQL_URL_FILE in .env",
    "DATABASE_URL in .env",
    "sqlalchemy.url in alembic.ini",
    "default",
)
"""Every source of the URL, the one that wins first."""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, and a process with neither variables of ours nor a project around its working directory."""
    for name in PRODUCT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def load(root: Path, **environ: str) -> Settings:
    return load_settings(project_root=root, environ=environ)


def url_of(source: str) -> str:
    return DEFAULT_SQL_URL if source == "default" else f"sqlite:///from-{SOURCES.index(source)}.db"


def load_from(root: Path, *sources: str, app_env: str = "") -> Settings:
    """The settings when each of these sources names a URL of its own."""
    environ = {"APP_ENV": app_env}
    dotenv: dict[str, str] = {}
    flag = None
    for source in sources:
        variable, _, place = source.partition(" in ")
        url = url_of(source)
        if source == "--sql-url":
            flag = url
        elif source == "sqlalchemy.url in alembic.ini":
            write(root / "alembic.ini", f"[alembic]\nsqlalchemy.url = {url}\n")
        elif source != "default":
            if variable == "SQL_URL_FILE":
                url = str(write(root / f"secret-{place}", f"{url}\n"))
            (environ if place == "environment" else dotenv)[variable] = url
    if dotenv:
        write(root / ".env", "".join(f"{name}={value}\n" for name, value in dotenv.items()))
    return load_settings(project_root=root, sql_url=flag, environ=environ)


# The URL.


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_of_the_url_is_read_and_named(root: Path, source: str) -> None:
    settings = load_from(root, source)
    assert (settings.sql_url, settings.sql_url_source) == (url_of(source), source)


@pytest.mark.parametrize(("winner", "loser"), itertools.combinations(SOURCES, 2))
def test_of_two_sources_the_earlier_one_wins(root: Path, winner: str, loser: str) -> None:
    settings = load_from(root, loser, winner)
    assert (settings.sql_url, settings.sql_url_source) == (url_of(winner), winner)


def test_of_all_sources_together_the_flag_wins(root: Path) -> None:
    assert load_from(root, *SOURCES).sql_url_source == "--sql-url"


@pytest.mark.parametrize("variable", ["SQL_URL", "SQL_URL_FILE", "DATABASE_URL"])
def test_an_empty_variable_is_no_source(root: Path, variable: str) -> None:
    write(root / ".env", f"{variable}=\nDATABASE_URL=sqlite:///dotenv.db\n")
    assert load(root, **{variable: ""}).sql_url_source == "DATABASE_URL in .env"


def test_space_around_a_url_is_no_part_of_it(root: Path) -> None:
    assert load(root, SQL_URL=" sqlite:///a.db\n").sql_url == "sqlite:///a.db"


def test_the_placeholder_of_alembics_template_is_no_url(root: Path) -> None:
    write(root / "alembic.ini", "[alembic]\nsqlalchemy.url = driver://user:pass@localhost/dbname\n")
    settings = load(root)
    assert (settings.sql_url, settings.sql_url_source) == (DEFAULT_SQL_URL, "default")


def test_percent_signs_in_alembic_ini_are_doubled_as_alembic_wants_them(root: Path) -> None:
    write(root / "alembic.ini", "[alembic]\nsqlalchemy.url = postgresql://bob:p%%40ss@h/db\n")
    assert load(root).sql_url == "postgresql://bob:p%40ss@h/db"


def test_here_in_alembic_ini_is_its_folder(root: Path) -> None:
    write(root / "alembic.ini", "[alembic]\nsqlalchemy.url = sqlite:///%(here)s/app.db\n")
    assert load(root).sql_url == f"sqlite:///{root}/app.db"


def test_an_ini_file_without_our_sections_is_fine(root: Path) -> None:
    write(root / "alembic.ini", "[loggers]\nkeys = root\n")
    assert load(root).sql_url_source == "default"


def test_a_url_file_is_found_from_the_project_root(root: Path) -> None:
    write(root / "secret", "sqlite:///secret.db\n")
    assert load(root, SQL_URL_FILE="secret").sql_url == "sqlite:///secret.db"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"], ids=["missing", "empty", "blank", "binary"])
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_url_file_without_a_url_is_an_error_that_names_it(root: Path, content: bytes | None, place: str) -> None:
    if content is not None:
        (root / "secret").write_bytes(content)
    write(root / ".env", "SQL_URL_FILE=secret\n" if place == ".env" else "")
    with pytest.raises(UrlMissing, match="SQL_URL_FILE") as caught:
        load(root, **({"SQL_URL_FILE": "secret"} if place == "environment" else {}))
    assert str(root / "secret") in caught.value.message


# Production.


@pytest.mark.parametrize("name", ["production", "prod", "PRODUCTION", " Production "])
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_production_without_a_url_is_an_error(root: Path, name: str, place: str) -> None:
    write(root / ".env", f"APP_ENV={name}\n" if place == ".env" else "")
    with pytest.raises(UrlMissing, match="production") as caught:
        load(root, **({"APP_ENV": name} if place == "environment" else {}))
    assert caught.value.exit_code == 2
    assert "SQL_URL" in (caught.value.hint or "")


@pytest.mark.parametrize("source", SOURCES[:-1])
def test_production_takes_the_url_of_every_source_but_the_default(root: Path, source: str) -> None:
    settings = load_from(root, source, app_env="production")
    assert settings.is_production
    assert settings.sql_url == url_of(source)


@pytest.mark.parametrize("name", ["", "development", "staging", "test", "preproduction"])
def test_elsewhere_the_default_is_a_sqlite_file(root: Path, name: str) -> None:
    settings = load(root, APP_ENV=name)
    assert settings.sql_url == DEFAULT_SQL_URL
    assert not settings.is_production


@pytest.mark.parametrize(
    ("app_env", "environment"),
    [("", None), ("  ", None), ("prod", "production"), (" PROD ", "production"), ("dev", "development"), ("Staging", "staging")],
)
def test_an_environment_has_one_spelling(root: Path, app_env: str, environment: str | None) -> None:
    assert load(root, APP_ENV=app_env, SQL_URL="sqlite:///a.db").environment == environment


def test_which_environments_are_protected(root: Path) -> None:
    assert [name for name in ("production", "prod", "Production", "staging", None) if load(root).protects(name)] == [
        "production",
        "prod",
        "Production",
    ]
    write(root / "alembic.ini", "[fininfra_db]\nprotected = Prod, staging\n")
    assert [name for name in ("production", "staging", "development", "", None) if load(root).protects(name)] == ["production", "staging"]


# .env.


@pytest.mark.parametrize(
    ("name", "in_dotenv", "in_environment"),
    [
        ("SQL_URL", "sqlite:///dotenv.db", "sqlite:///environment.db"),
        ("APP_ENV", "production", "development"),
        ("FININFRA_DB_KEYS", "key-of-dotenv", "key-of-environment"),
    ],
)
def test_dotenv_never_overrides_the_environment(root: Path, name: str, in_dotenv: str, in_environment: str) -> None:
    write(root / ".env", f"{name}={in_dotenv}\n")
    settings = load(root, **{name: in_environment})
    assert in_environment in (settings.sql_url, settings.app_env, settings.keys)
    assert in_dotenv not in (settings.sql_url, settings.app_env, settings.keys)


def test_a_key_in_the_environment_wins_over_a_key_file_in_dotenv(root: Path) -> None:
    write(root / "keys", "from-file\n")
    write(root / ".env", "FININFRA_DB_KEYS_FILE=keys\n")
    assert load(root).keys == "from-file"
    assert load(root, FININFRA_DB_KEYS="from-environment").keys == "from-environment"


@pytest.mark.parametrize(
    "line",
    [
        "SQL_URL=sqlite:///a.db",
        "export SQL_URL=sqlite:///a.db",
        "SQL_URL='sqlite:///a.db'",
        'SQL_URL = "sqlite:///a.db"  # comment',
        "\ufeffSQL_URL=sqlite:///a.db",
        "# comment\r\nSQL_URL=sqlite:///a.db\r\n",
    ],
)
def test_the_usual_spellings_of_dotenv_are_read(root: Path, line: str) -> None:
    write(root / ".env", line)
    assert load(root).sql_url == "sqlite:///a.db"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"SQL_URL {SECRET_URL}\n", 1),
        (f'# first\nSQL_URL="{SECRET_URL}\n', 2),
        (f"APP_ENV=test\n\n\n{SECRET} is the password\n", 4),
        (f"APP_ENV=test\n={SECRET}\n", 2),
        (f"SQL_URL='a' {SECRET}\n", 1),
        (f"APP_ENV=test\r\n\r\nSQL_URL {SECRET}\r\n", 3),
        (f"<<<<<<< HEAD\nSQL_URL={SECRET_URL}\n", 1),
    ],
)
def test_a_malformed_line_of_dotenv_is_named_by_its_number_and_never_shown(root: Path, text: str, line: int) -> None:
    (root / ".env").write_bytes(text.encode())
    with pytest.raises(EnvFileMalformed) as caught:
        load(root)
    assert f"{root / '.env'}, line {line}:" in caught.value.message
    assert SECRET not in f"{caught.value.message}{caught.value.hint}"
    assert caught.value.__cause__ is None


def test_a_dotenv_that_is_not_utf_8_is_refused(root: Path) -> None:
    (root / ".env").write_bytes("SQL_URL=postgresql://bob:pässword@h/db\n".encode("latin-1"))
    with pytest.raises(EnvFileMalformed, match="UTF-8") as caught:
        load(root)
    assert "ssword" not in str(caught.value)


def test_env_file_is_read_instead_of_dotenv(root: Path) -> None:
    write(root / ".env", "SQL_URL=sqlite:///dotenv.db\nAPP_ENV=production\n")
    other = write(root / "staging.env", "SQL_URL=sqlite:///staging.db\n")
    settings = load_settings(project_root=root, env_file=other, environ={})
    assert (settings.sql_url, settings.sql_url_source) == ("sqlite:///staging.db", "SQL_URL in staging.env")
    assert settings.app_env is None
    assert settings.env_file == other


def test_env_file_that_does_not_exist_is_an_error(root: Path) -> None:
    with pytest.raises(EnvFileMalformed, match=r"nowhere\.env"):
        load_settings(project_root=root, env_file=root / "nowhere.env", environ={})


def test_a_missing_dotenv_is_fine(root: Path) -> None:
    settings = load(root)
    assert settings.env_file == root / ".env"
    assert settings.keys is None


def test_a_name_without_a_value_is_not_set(root: Path) -> None:
    assert read_env_file(write(root / ".env", "SQL_URL\nAPP_ENV=\n")) == {"APP_ENV": ""}


# alembic.ini.


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"sqlalchemy.url = {SECRET_URL}\n", 1),
        (f"[alembic]\nsqlalchemy.url = a\nsqlalchemy.url = {SECRET_URL}\n", 3),
        (f"[alembic]\n\n{SECRET}\n", 3),
    ],
)
def test_a_malformed_ini_file_is_named_with_its_line_and_never_shown(root: Path, text: str, line: int) -> None:
    write(root / "alembic.ini", text)
    with pytest.raises(ConfigurationError) as caught:
        load(root)
    assert f"{root / 'alembic.ini'}, line {line}:" in caught.value.message
    assert SECRET not in f"{caught.value.message}{caught.value.hint}"
    assert caught.value.exit_code == 2


def test_an_ini_file_that_is_not_utf_8_is_refused(root: Path) -> None:
    (root / "alembic.ini").write_bytes(b"[alembic]\nsqlalchemy.url = \xff\n")
    with pytest.raises(ConfigurationError, match=r"alembic\.ini"):
        load(root)


@pytest.mark.parametrize(
    ("line", "models"),
    [
        ("app.models", ("app.models",)),
        ("app.models, app.billing", ("app.models", "app.billing")),
        ("app.models app.billing", ("app.models", "app.billing")),
        ("\n    app.models,\n    app.billing", ("app.models", "app.billing")),
    ],
)
def test_the_models_line_names_the_modules(root: Path, line: str, models: tuple[str, ...]) -> None:
    write(root / "alembic.ini", f"[fininfra_db]\nmodels = {line}\n")
    settings = load(root)
    assert (settings.models, settings.models_source) == (models, "alembic.ini")


@pytest.mark.parametrize("text", ["", "[fininfra_db]\n", "[fininfra_db]\nmodels =\n", "[alembic]\nmodels = other\n"])
def test_without_a_models_line_the_models_are_ours(root: Path, text: str) -> None:
    write(root / "alembic.ini", text)
    settings = load(root)
    assert (settings.models, settings.models_source) == (("fininfra_db.models",), "default")


def test_rereading_the_project_finds_what_init_wrote(root: Path) -> None:
    before = load(root)
    write(root / ".env", "FININFRA_DB_KEYS=new-key\nSQL_URL=sqlite:///other.db\n")
    write(root / "alembic.ini", "[fininfra_db]\nmodels = app.models\n")
    after = reread_project(before)
    assert (after.keys, after.models, after.sql_url) == ("new-key", ("app.models",), before.sql_url)


def test_rereading_the_project_keeps_keys_of_the_environment(root: Path) -> None:
    before = load(root, FININFRA_DB_KEYS="environment-key")
    write(root / ".env", "FININFRA_DB_KEYS=new-key\n")
    assert reread_project(before).keys == "environment-key"


# The project root.


def test_the_flag_names_the_root(root: Path) -> None:
    assert find_project_root(root, {"PROJECT_ROOT": str(root.parent)}) == root


def test_a_relative_root_is_below_the_working_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    assert find_project_root("project", {}) == root


def test_project_root_wins_over_a_parent_with_alembic_ini(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = root.parent / "other"
    other.mkdir()
    write(other / "alembic.ini", "")
    monkeypatch.chdir(other)
    assert find_project_root(None, {"PROJECT_ROOT": str(root)}) == root


def test_the_nearest_parent_with_alembic_ini_is_the_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = root / "nearer" / "src" / "app"
    deep.mkdir(parents=True)
    write(root / "alembic.ini", "")
    write(root / "nearer" / "alembic.ini", "")
    monkeypatch.chdir(deep)
    assert find_project_root(None, {}) == root / "nearer"


def test_a_folder_named_alembic_ini_makes_no_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "alembic.ini").mkdir()
    (root / "src").mkdir()
    monkeypatch.chdir(root / "src")
    assert find_project_root(None, {}) == root / "src"


def test_without_any_of_these_the_root_is_the_working_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert find_project_root(None, {}) == root
    assert load_settings(environ={}).project_root == root


def test_home_in_project_root_is_expanded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    assert find_project_root(None, {"PROJECT_ROOT": "~/project"}) == root


@pytest.mark.parametrize("name", ["nowhere", "file", "~nobody-of-this-name/project"])
@pytest.mark.parametrize("place", ["flag", "environment"])
def test_a_root_that_is_no_folder_is_an_error(root: Path, name: str, place: str) -> None:
    write(root / "file", "")
    given = name if name.startswith("~") else str(root / name)
    with pytest.raises(ProjectNotFound, match=name) as caught:
        find_project_root(given if place == "flag" else None, {} if place == "flag" else {"PROJECT_ROOT": given})
    assert "PROJECT_ROOT" in (caught.value.hint or "")


def test_dotenv_cannot_move_the_root(root: Path) -> None:
    (root / "sub").mkdir()
    write(root / ".env", "PROJECT_ROOT=sub\n")
    assert load(root).project_root == root


# Keys.


def test_a_key_file_is_one_key_a_line(root: Path) -> None:
    write(root / "keys", "first\n\n  second  \n")
    assert load(root, FININFRA_DB_KEYS_FILE="keys").keys == "first,second"


@pytest.mark.parametrize("text", [None, "", "\n"], ids=["missing", "empty", "blank"])
def test_a_key_file_without_a_key_is_an_error_that_names_it(root: Path, text: str | None) -> None:
    if text is not None:
        write(root / "keys", text)
    with pytest.raises(KeyMissing, match="FININFRA_DB_KEYS_FILE") as caught:
        load(root, FININFRA_DB_KEYS_FILE="keys")
    assert str(root / "keys") in caught.value.message


@pytest.mark.parametrize("variable", ["SQL_URL_FILE", "FININFRA_DB_KEYS_FILE"])
def test_a_secret_file_of_an_unknown_user_is_missing_like_any_other(root: Path, variable: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        load(root, **{variable: "~nobody-of-this-name/secret"})


# The settings of the process.


def test_process_settings_follow_the_environment_and_the_working_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = process_settings()
    assert first is process_settings()
    monkeypatch.setenv("SQL_URL", "sqlite:///environment.db")
    assert process_settings().sql_url == "sqlite:///environment.db"
    monkeypatch.delenv("SQL_URL")
    write(root / ".env", "SQL_URL=sqlite:///dotenv.db\n")
    monkeypatch.chdir(root)
    assert process_settings().sql_url == "sqlite:///dotenv.db"


@pytest.mark.parametrize(("name", "line"), [(".env", "SQL_URL = {}"), ("alembic.ini", "[alembic]\nsqlalchemy.url = {}")])
def test_process_settings_follow_the_files_of_the_project(root: Path, name: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert process_settings().sql_url_source == "default"
    for second, url in enumerate(("sqlite:///before.db", "sqlite:///after.db")):
        os.utime(write(root / name, line.format(url)), (second, second))
        assert process_settings().sql_url == url
    (root / name).unlink()
    assert process_settings().sql_url_source == "default"


@pytest.mark.parametrize("is_relative", [False, True], ids=["absolute", "in the project"])
def test_process_settings_follow_rotated_secrets(root: Path, is_relative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECT_ROOT", str(root))
    for variable, name in (("SQL_URL_FILE", "url"), ("FININFRA_DB_KEYS_FILE", "keys")):
        monkeypatch.setenv(variable, name if is_relative else str(root / name))
    for second, name in enumerate(("before", "after")):
        os.utime(write(root / "url", f"sqlite:///{name}.db"), (second, second))
        os.utime(write(root / "keys", f"key-{name}"), (7, 7))
        assert process_settings().sql_url == f"sqlite:///{name}.db"
    os.utime(write(root / "keys", "key-rotated"), (8, 8))
    assert process_settings().keys == "key-rotated"


def test_settings_cannot_be_changed(root: Path) -> None:
    with pytest.raises(FrozenInstanceError):
        load(root).sql_url = "other"  # type: ignore[misc]


def test_nothing_writes_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("SQL_URL=sqlite:///a.db", "APP_ENV=test", f"FININFRA_DB_KEYS={generate_key()}", "OTHER=x", "PATH=/nowhere")
    write(root / ".env", "\n".join(names))
    monkeypatch.chdir(root)
    before = dict(os.environ)
    reread_project(load_settings(sql_url="sqlite:///b.db"))
    process_settings()
    default_keyring().encrypt("text")
    assert dict(os.environ) == before


# Secrets.

AWKWARD_PASSWORDS = (
    "hunter2",
    "p@ss/word",
    "50%off",
    "100%25",
    "a+b=c&d",
    "with space",
    "#hash?query",
    "colon:ated",
    "пароль-日本",
    "back\\slash",
    "quo'te\"s",
    "@at@the@edges@",
    "%%",
)


def test_repr_shows_no_secret(root: Path) -> None:
    shown = repr(load(root, SQL_URL=SECRET_URL, FININFRA_DB_KEYS="key-one,key-two"))
    assert all(secret not in shown for secret in (SECRET, "key-one", "key-two", "db.example"))
    assert "SQL_URL in environment" in shown


@pytest.mark.parametrize("place", ["login", "query"])
@pytest.mark.parametrize("password", AWKWARD_PASSWORDS)
def test_redact_hides_a_password_however_it_is_spelled(root: Path, password: str, place: str) -> None:
    written = quote(password, safe="")
    url = f"postgresql://bob:{written}@h/db" if place == "login" else f"postgresql://bob@h/db?password={written}"
    spellings = {password, written, written.lower(), quote_plus(password), repr(password)[1:-1]}
    text = f"driver said {' and '.join(sorted(spellings))} for {url}"
    shown = load(root, SQL_URL=url).redact(text)
    assert not [spelling for spelling in spellings if spelling in shown]
    assert shown.startswith(f"driver said {MASK}")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://bob:{SECRET}@h/db?application_name=me@work",
        f"postgresql://bob@corp:{SECRET}@h/db",
        f"postgresql://:{SECRET}@h/db",
        f"postgresql://bob:{SECRET}@@h/db",
        f"postgresql://bob:{SECRET}@h:port/db",
        f"mysql+pymysql://bob:{SECRET}@[::1]:3306/db",
        f"postgresql://h/db?user=bob&password={SECRET}&sslmode=require",
        f"postgresql://h/db?PASSWORD={SECRET}",
        f"postgresql://h/db?sslpassword={SECRET}",
    ],
)
def test_redact_finds_the_password_in_every_shape_of_url(root: Path, url: str) -> None:
    assert SECRET not in load(root, SQL_URL=url).redact(f"cannot use {url}: login {SECRET} refused")


def test_redact_hides_both_halves_of_a_password_with_a_bare_at_sign(root: Path) -> None:
    shown = load(root, SQL_URL="postgresql://bob:hun@ter2@h/db").redact("hun and hun@ter2")
    assert shown == f"{MASK} and {MASK}"


def test_redact_hides_every_key(root: Path) -> None:
    keys = [generate_key(), generate_key()]
    shown = load(root, FININFRA_DB_KEYS=", ".join(keys)).redact(f"bad key {keys[1]} after {keys[0]}")
    assert shown == f"bad key {MASK} after {MASK}"


def test_redact_leaves_other_words_alone(root: Path) -> None:
    settings = load(root, SQL_URL="postgresql://bob:data@h/db")
    assert settings.redact("database metadata data") == f"database metadata {MASK}"


def test_redact_of_settings_without_secrets_changes_nothing(root: Path) -> None:
    assert load(root).redact("any text: @ % ***") == "any text: @ % ***"
