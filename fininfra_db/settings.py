"""Where the settings of a run come from: flag > environment > .env > alembic.ini > default.

``load_settings`` reads each source once and returns frozen :class:`Settings`. It never writes ``os.environ``, never
contacts a database and imports neither SQLAlchemy nor Alembic, so that ``--help`` and completion stay fast.
"""

import math
import os
import re
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as IniError
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

from fininfra_db.errors import ConfigurationError, EnvFileMalformed, KeyMissing, ProjectNotFound, UrlMissing
from fininfra_db.redaction import redact, secrets_of_url

DEFAULT_SQL_URL: Final = "sqlite+aiosqlite:///dev.db"
DEFAULT_SEED: Final = "household"
DEFAULT_MODELS: Final = ("fininfra_db.models",)
INI_NAME: Final = "alembic.ini"
INI_SECTION: Final = "fininfra_db"
ENV_FILE_NAME: Final = ".env"
KEYS_VARIABLE: Final = "FININFRA_DB_KEYS"
PRODUCTION: Final = "production"
DEVELOPMENT: Final = "development"
"""The environment of a run without ``APP_ENV``."""

DEFAULT_PROTECTED: Final = (PRODUCTION,)
"""The environments whose databases are not emptied by a slip; ``protected`` in ``alembic.ini`` names more."""

LOCK_TIMEOUT: Final = 300.0
"""Seconds to wait for another migration to end."""

DDL_LOCK_TIMEOUT: Final = 5.0
"""Seconds that a statement of a migration may wait for the lock of a table, and hold up whoever comes after it."""

_VARIABLES: Final = (
    "SQL_URL",
    "SQL_URL_FILE",
    "DATABASE_URL",
    "SQL_URL_DIRECT",
    "PROJECT_ROOT",
    "APP_ENV",
    KEYS_VARIABLE,
    f"{KEYS_VARIABLE}_FILE",
)

_DRIVER_PASSWORDS: Final = ("PGPASSWORD", "MYSQL_PWD")

_ALEMBIC_PLACEHOLDER_URL: Final = "driver://user:pass@localhost/dbname"


@dataclass(frozen=True)
class Settings:
    """Everything a run was told, and who told it.

    ``sql_url`` is the text as it was given, secret and unparsed; ``sql_url_source`` names where it came from.
    ``keys`` is the text of the encryption keys, comma-separated, the first one encrypting; None when none is configured.
    ``models`` are the modules whose tables make the schema, ``seeds`` what is written when no seed is named.
    ``direct_url`` is the URL past a pooler, for this program's own work; None when ``sql_url`` serves.
    ``protected`` are the environments whose databases need ``--confirm-database`` before data is lost.
    The timeouts are in seconds: ``lock_timeout`` for another migration to end (0 fails at once), ``ddl_lock_timeout`` for a
    statement of a migration to get the lock of its table, ``statement_timeout`` for such a statement to end (None: no limit).
    ``migration_lock`` says whether a migration keeps others off; without it, somebody else has to see to that.
    ``no_snapshot`` keeps a SQLite file from being copied before it is migrated.
    ``other_secrets`` are those that the process knows and this run does not use, such as a URL that a flag overrode.
    """

    project_root: Path
    sql_url: str = field(repr=False)
    sql_url_source: str
    app_env: str | None = None
    keys: str | None = field(default=None, repr=False)
    models: tuple[str, ...] = DEFAULT_MODELS
    models_source: str = "default"
    seeds: tuple[str, ...] = (DEFAULT_SEED,)
    env_file: Path = Path(ENV_FILE_NAME)
    direct_url: str | None = field(default=None, repr=False)
    direct_url_source: str = ""
    protected: tuple[str, ...] = DEFAULT_PROTECTED
    lock_timeout: float = LOCK_TIMEOUT
    ddl_lock_timeout: float = DDL_LOCK_TIMEOUT
    statement_timeout: float | None = None
    migration_lock: bool = True
    no_snapshot: bool = False
    other_secrets: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def direct(self) -> "Settings":
        """The same settings with ``SQL_URL_DIRECT`` as the URL, where one is set: a pooler would lose session locks."""
        if self.direct_url is None:
            return self
        others = self.other_secrets | secrets_of_url(self.sql_url)
        return replace(self, sql_url=self.direct_url, sql_url_source=self.direct_url_source, direct_url=None, other_secrets=others)

    @property
    def is_production(self) -> bool:
        return is_production(self.app_env)

    @property
    def environment(self) -> str | None:
        """The environment that ``APP_ENV`` names, in its one spelling; None when it names none."""
        return environment_name(self.app_env or "") or None

    def protects(self, environment: str | None) -> bool:
        """Whether databases of this environment are protected."""
        return environment is not None and environment_name(environment) in map(environment_name, self.protected)

    @property
    def ini_path(self) -> Path:
        return self.project_root / INI_NAME

    @cached_property
    def secrets(self) -> frozenset[str]:
        """Every text of these settings that is not to be shown."""
        keys = frozenset(key.strip() for key in (self.keys or "").split(","))
        return keys | secrets_of_url(self.sql_url) | secrets_of_url(self.direct_url or "") | self.other_secrets

    def redact(self, text: str) -> str:
        """Replace every secret of these settings in ``text``, however it is written there, with ``***``."""
        return redact(text, self.secrets)


def load_settings(
    *,
    project_root: Path | str | None = None,
    sql_url: str | None = None,
    env_file: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings of a run.

    The arguments are the flags of the command line. ``environ`` defaults to the environment of the process.
    Raises :class:`ConfigurationError` (``ProjectNotFound``, ``EnvFileMalformed``, ``UrlMissing``) when a source
    cannot be read or, with ``APP_ENV=production``, when no URL is configured.
    """
    environment = os.environ if environ is None else environ
    root = find_project_root(project_root, environment)
    env_path = Path(env_file) if env_file else root / ENV_FILE_NAME
    if env_file and not env_path.is_file():
        raise EnvFileMalformed(f"The file given with --env-file does not exist: {env_path}", "Check the path.")
    dotenv = read_env_file(env_path) if env_path.is_file() else {}
    ini = read_ini(root / INI_NAME)
    app_env = environment.get("APP_ENV") or dotenv.get("APP_ENV") or None
    url, source = _find_url(sql_url, environment, dotenv, env_path, ini, root, is_production(app_env))
    direct_url, direct_source = (None, "") if sql_url is not None else _find_direct_url(environment, dotenv, env_path)
    models = _split(ini.get(INI_SECTION, "models", fallback=""))
    return Settings(
        project_root=root,
        sql_url=url,
        sql_url_source=source,
        app_env=app_env,
        keys=_find_keys(environment, dotenv, root),
        models=models or DEFAULT_MODELS,
        models_source=INI_NAME if models else "default",
        seeds=_split(ini.get(INI_SECTION, "seeds", fallback="")) or (DEFAULT_SEED,),
        env_file=env_path,
        direct_url=direct_url,
        direct_url_source=direct_source,
        protected=(*DEFAULT_PROTECTED, *_split(ini.get(INI_SECTION, "protected", fallback=""))),
        lock_timeout=_seconds(ini, "lock_timeout", LOCK_TIMEOUT),
        ddl_lock_timeout=_seconds(ini, "ddl_lock_timeout", DDL_LOCK_TIMEOUT),
        statement_timeout=_seconds(ini, "statement_timeout", 0.0) or None,
        migration_lock=_switch(ini, "lock", default=True),
        no_snapshot=not _switch(ini, "snapshots", default=True),
        other_secrets=secrets_of(environment) | secrets_of(dotenv),
    )


def reread_project(settings: Settings) -> Settings:
    """The same settings after the project's own files were written: its models, and its keys if there were none."""
    dotenv = read_env_file(settings.env_file) if settings.env_file.is_file() else {}
    models = _split(read_ini(settings.ini_path).get(INI_SECTION, "models", fallback=""))
    return replace(
        settings,
        keys=settings.keys or _find_keys({}, dotenv, settings.project_root),
        models=models or settings.models,
        models_source=INI_NAME if models else settings.models_source,
    )


def process_settings(sql_url: str | None = None) -> Settings:
    """The settings of this process, for library calls that are given none.

    Read again when a variable or file that they depend on changes, so that a long-running process pays for its ``.env``
    once. A secret may be rotated in a file that a variable of the environment names; one that ``.env`` names is not followed.
    """
    root = find_project_root()
    named = filter(None, (os.environ.get(name) for name in ("SQL_URL_FILE", f"{KEYS_VARIABLE}_FILE")))
    files = tuple(_last_change(root / os.path.expanduser(name)) for name in (ENV_FILE_NAME, INI_NAME, *named))
    return _process_settings(sql_url, root, tuple(os.environ.get(name) for name in _VARIABLES), files)


def _last_change(path: Path) -> int | None:
    """When a file was last written, in nanoseconds; None when there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


@lru_cache(maxsize=8)
def _process_settings(sql_url: str | None, root: Path, _variables: tuple[str | None, ...], _files: tuple[int | None, ...]) -> Settings:
    return load_settings(sql_url=sql_url, project_root=root)


def is_production(app_env: str | None) -> bool:
    """Whether ``APP_ENV`` names production; ``prod`` counts."""
    return environment_name(app_env or "") == PRODUCTION


def environment_name(text: str) -> str:
    """The one spelling of an environment's name: lower case, ``prod`` and ``dev`` in full."""
    name = text.strip().lower()
    return {"prod": PRODUCTION, "dev": DEVELOPMENT}.get(name, name)


def find_project_root(given: Path | str | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """``--project-root``, else ``PROJECT_ROOT``, else the nearest parent with ``alembic.ini``, else the working directory."""
    environment = os.environ if environ is None else environ
    named = given or environment.get("PROJECT_ROOT")
    if named:
        root = Path(os.path.expanduser(named)).resolve()
        if not root.is_dir():
            raise ProjectNotFound(f"The project folder does not exist: {root}", "Check --project-root or PROJECT_ROOT.")
        return root
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / INI_NAME).is_file()), here)


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of a ``.env`` file. A line that cannot be parsed is an error that names its number, never its text."""
    from io import StringIO

    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise EnvFileMalformed(f"{path} cannot be read: {reason}.", "Correct the file, or name another with --env-file.") from None
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            blank = re.match(r"\s*", binding.original.string)
            line = binding.original.line + (blank[0].count("\n") if blank else 0)
            raise EnvFileMalformed(
                f"{path}, line {line}: not a NAME=value line.",
                "Correct the line; a value with spaces or quotes stands in quotes.",
            )
    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value is not None}


def read_ini(path: Path) -> ConfigParser:
    """``alembic.ini`` without interpolation (Alembic's ``%%`` stays as it is); empty when there is none."""
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (IniError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", None) or next((number for number, _ in getattr(error, "errors", ())), None)
        where = f"{path}, line {line}" if line else str(path)
        raise ConfigurationError(f"{where}: not a valid ini file.", "Correct the file; nothing was changed.") from None
    return parser


def _find_url(
    flag: str | None,
    environment: Mapping[str, str],
    dotenv: Mapping[str, str],
    env_path: Path,
    ini: ConfigParser,
    root: Path,
    production: bool,
) -> tuple[str, str]:
    if flag is not None:
        return flag.strip(), "--sql-url"
    for variables, place in ((environment, "environment"), (dotenv, env_path.name)):
        if variables.get("SQL_URL"):
            return variables["SQL_URL"].strip(), f"SQL_URL in {place}"
        if variables.get("SQL_URL_FILE"):
            return _read_secret_file(variables["SQL_URL_FILE"], root, "SQL_URL_FILE"), f"SQL_URL_FILE in {place}"
        if variables.get("DATABASE_URL"):
            return variables["DATABASE_URL"].strip(), f"DATABASE_URL in {place}"
    written = ini.get("alembic", "sqlalchemy.url", fallback="").replace("%(here)s", str(root)).replace("%%", "%").strip()
    if written and written != _ALEMBIC_PLACEHOLDER_URL:
        return written, f"sqlalchemy.url in {INI_NAME}"
    if production:
        raise UrlMissing(
            "APP_ENV is production and no database URL is configured. The SQLite default is for development only.",
            "Set SQL_URL in the environment, SQL_URL_FILE to a secret file, or pass --sql-url.",
        )
    return DEFAULT_SQL_URL, "default"


def _find_direct_url(environment: Mapping[str, str], dotenv: Mapping[str, str], env_path: Path) -> tuple[str | None, str]:
    """``SQL_URL_DIRECT``, unless the URL that it stands beside was replaced by one that wins over it."""
    for variables, place in ((environment, "environment"), (dotenv, env_path.name)):
        if variables.get("SQL_URL_DIRECT"):
            return variables["SQL_URL_DIRECT"].strip(), f"SQL_URL_DIRECT in {place}"
        if any(variables.get(name) for name in ("SQL_URL", "SQL_URL_FILE", "DATABASE_URL")):
            break
    return None, ""


def _seconds(ini: ConfigParser, name: str, default: float) -> float:
    text = ini.get(INI_SECTION, name, fallback="").strip()
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise ConfigurationError(
            f"{name} in {INI_NAME} is not a number of seconds.", f"Correct it under [{INI_SECTION}], as in {name} = 5."
        )
    return seconds


def _switch(ini: ConfigParser, name: str, *, default: bool) -> bool:
    text = ini.get(INI_SECTION, name, fallback="").strip().lower()
    if text and text not in ConfigParser.BOOLEAN_STATES:
        raise ConfigurationError(f"{name} in {INI_NAME} is neither yes nor no.", f"Correct it under [{INI_SECTION}].")
    return ConfigParser.BOOLEAN_STATES[text] if text else default


def _find_keys(environment: Mapping[str, str], dotenv: Mapping[str, str], root: Path) -> str | None:
    for variables in (environment, dotenv):
        if variables.get(KEYS_VARIABLE):
            return variables[KEYS_VARIABLE]
        if variables.get(f"{KEYS_VARIABLE}_FILE"):
            text = _read_secret_file(variables[f"{KEYS_VARIABLE}_FILE"], root, f"{KEYS_VARIABLE}_FILE")
            return ",".join(line for line in text.split() if line)
    return None


def secrets_of(variables: Mapping[str, str]) -> frozenset[str]:
    """Whatever is secret in an environment, used or not; drivers read a password of their own from there."""
    urls = (variables.get(name, "") for name in ("SQL_URL", "SQL_URL_DIRECT", "DATABASE_URL"))
    texts = (variables.get(KEYS_VARIABLE, "").split(","), (variables.get(name, "") for name in _DRIVER_PASSWORDS))
    return frozenset().union(*map(secrets_of_url, urls), (text.strip() for each in texts for text in each))


def _read_secret_file(name: str, root: Path, variable: str) -> str:
    path = root / os.path.expanduser(name)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text:
        kind = KeyMissing if variable.startswith(KEYS_VARIABLE) else UrlMissing
        raise kind(f"{variable} names a file that is missing, empty or unreadable: {path}", "Check the path and its permissions.")
    return text


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[,\s]+", text.strip()) if part)
