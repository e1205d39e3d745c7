"""A project's Alembic configuration: where its files are, and the ``Config`` object that Alembic works from."""

import os
import re
import sys
import tomllib
from argparse import Namespace
from collections import Counter
from configparser import InterpolationError
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fininfra_db.errors import ConfigurationError, ModelsNotLoaded, ProjectNotFound, Refused
from fininfra_db.migrate.history import History, read_history
from fininfra_db.settings import INI_NAME, INI_SECTION, Settings, read_ini

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import MetaData

PYPROJECT: Final = "pyproject.toml"
_OUR_ENVIRONMENT: Final = "fininfra_db.migrate.environment"


@dataclass(frozen=True)
class Project:
    """A folder with migrations. ``location`` holds ``env.py``; ``versions`` are the folders of revision files."""

    settings: Settings
    location: Path
    versions: tuple[Path, ...]
    recursive: bool = False

    @property
    def env_path(self) -> Path:
        return self.location / "env.py"

    @cached_property
    def is_ours(self) -> bool:
        """Whether ``env.py`` is this package's; else it is the user's own and decides how to connect."""
        return _OUR_ENVIRONMENT in self._env_source

    @cached_property
    def is_asynchronous(self) -> bool:
        """Whether a foreign ``env.py`` runs an event loop of its own."""
        return "asyncio" in self._env_source

    @cached_property
    def has_models(self) -> bool:
        """Whether the project says which models it has; a foreign Alembic project may not."""
        return self.is_ours or self.settings.models_source == INI_NAME

    def require_models(self) -> None:
        """Raise ``Refused`` for a project that does not say which models are its own."""
        if not self.has_models:
            raise Refused(
                "This project has an env.py of its own and no models in alembic.ini, so what is its own cannot be told. "
                "Nothing was changed.",
                f"Add 'models = your.module' under [{INI_SECTION}] in {INI_NAME}.",
            )

    @cached_property
    def _env_source(self) -> str:
        try:
            return self.env_path.read_text(encoding="utf-8")
        except OSError:
            raise ProjectNotFound(
                f"The migrations folder has no env.py: {self.location}",
                "Run 'fininfra-db init', or correct script_location in alembic.ini.",
            ) from None

    def history(self) -> History:
        """The revision files, read but not executed, once for each ``Project``. Raises ``ProjectNotFound``, ``RevisionBroken``."""
        return self._history

    @cached_property
    def _history(self) -> History:
        for folder in self.versions:
            if not folder.is_dir():
                raise ProjectNotFound(
                    f"The folder of the revision files does not exist: {folder}", "Restore it, or run 'fininfra-db init' for an empty one."
                )
        return read_history(self.versions, recursive=self.recursive)


def find_project(settings: Settings) -> Project:
    """The migrations of the project root. Raises ``ProjectNotFound`` when there are none."""
    options = alembic_options(settings.project_root)
    if options is None:
        raise ProjectNotFound(
            f"There is no {INI_NAME} in {settings.project_root} or above.",
            "Run 'fininfra-db init' here, or name the project with --project-root.",
        )
    root = settings.project_root
    if "%" in str(root):
        raise ConfigurationError(f"Alembic cannot work in a folder with a '%' in its path: {root}", "Rename or move the folder.")
    location = _as_path(options.get("script_location"), root)
    versions = tuple(_as_path(part, root) for part in _version_locations(options)) or (location / "versions",)
    recursive = str(options.get("recursive_version_locations", "")).lower() in ("true", "1", "yes", "on")
    return Project(settings, location, versions, recursive)


def alembic_options(root: Path) -> dict[str, Any] | None:
    """Alembic's options: those of ``[tool.alembic]`` in pyproject.toml, overridden by ``[alembic]`` in alembic.ini.

    None where there is neither.
    """
    ini = read_ini(root / INI_NAME)
    pyproject = root / PYPROJECT
    options: dict[str, Any] = {}
    if pyproject.is_file():
        try:
            options = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("tool", {}).get("alembic", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            raise ConfigurationError(f"{pyproject} is not valid TOML.", "Correct the file; nothing was changed.") from None
    if not (root / INI_NAME).is_file() and not options:
        return None
    return options | (dict(ini["alembic"]) if ini.has_section("alembic") else {})


def _version_locations(options: dict[str, Any]) -> list[str]:
    """The folders of revision files, split as Alembic splits them; ``version_path_separator`` is its older word."""
    listed = options.get("version_locations") or ""
    if not isinstance(listed, str):
        return list(listed)
    separator = options.get("path_separator") or options.get("version_path_separator")
    named = {"space": " ", "newline": "\n", "os": os.pathsep}
    parts = listed.split(named.get(separator, separator)) if separator else re.split(r"[,\s]+", listed)
    return [part.strip() for part in parts if part.strip()]


def _as_path(value: Any, root: Path) -> Path:
    """A path option of Alembic: ``%(here)s`` is the project, a relative path is below it, ``package:folder`` is a resource."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{INI_NAME} has no script_location.", "Add 'script_location = %(here)s/migrations' under [alembic].")
    text = str(root).join(part.replace("%%", "%") for part in value.split("%(here)s"))
    package, colon, folder = text.partition(":")
    if colon and not Path(text).is_absolute():
        from importlib.resources import files

        make_importable(root)
        try:
            return Path(str(files(package))) / folder
        except ImportError as error:
            raise ConfigurationError(f"{INI_NAME} names a package that does not import: {error}.", "Correct script_location.") from None
    return root / text


def alembic_config(project: Project, *, autogenerate: bool = False, **attributes: Any) -> "Config":
    """Alembic's ``Config`` for a project, silent and with ``attributes`` for ``env.py``.

    The URL is in there for a foreign ``env.py`` only, which reads it from ``sqlalchemy.url``; ours is handed a connection.
    ``autogenerate`` is where Alembic's own command line has it, since hooks of an ``env.py`` look for it there.
    """
    from alembic.config import Config

    from fininfra_db.dialects import target_of

    project.history()  # what the headers of the files tell to be wrong is told in better words than Alembic's
    root = project.settings.project_root
    ini, pyproject = root / INI_NAME, root / PYPROJECT
    config = Config(
        str(ini) if ini.is_file() else None,
        toml_file=str(pyproject) if pyproject.is_file() else None,
        stdout=StringIO(),
        cmd_opts=Namespace(quiet=True, x=None, autogenerate=autogenerate),
    )
    _refuse_uninterpolated(config)
    config.set_main_option("script_location", _escape(str(project.location)))
    if not project.is_ours:
        target = target_of(project.settings)
        url, _ = target.dialect.engine_arguments(target.url, "application")
        config.set_main_option("sqlalchemy.url", _escape(url.render_as_string(hide_password=False)))
    config.attributes["settings"] = project.settings
    config.attributes.update(attributes)
    make_importable(root)
    return config


def _refuse_uninterpolated(config: "Config") -> None:
    """Alembic reads an option when it needs it, in the middle of things; one that cannot be read is better told before."""
    section = config.config_ini_section
    for name in config.file_config.options(section) if config.file_config.has_section(section) else ():
        try:
            config.get_main_option(name)
        except InterpolationError:
            raise ConfigurationError(
                f"The option {name} in {INI_NAME} refers with '%(...)s' to an option that is not there, or holds a single '%'. "
                "Nothing was changed.",
                f"Correct it under [{section}]; a '%' that is meant is written '%%'.",
            ) from None


def load_metadata(settings: Settings) -> "list[MetaData]":
    """Import the models modules and collect their tables.

    Raises ``ModelsNotLoaded`` for a module that does not import, for models without a table (an empty schema would look
    like one where everything was dropped), and for a table that is defined twice.
    """
    from importlib import import_module

    from sqlalchemy import MetaData

    from fininfra_db.dialects.wording import in_words

    make_importable(settings.project_root)
    found: dict[int, MetaData] = {}
    for name in settings.models:
        try:
            module = import_module(name)
        except (Exception, SystemExit) as error:  # importing runs the user's code, which may raise anything and may even exit
            raise ModelsNotLoaded(
                f"The models module {name!r} does not import: {in_words(error)}",
                f"Correct the module, or the 'models' line under [{INI_SECTION}] in {INI_NAME}.",
            ) from error
        for value in vars(module).values():
            metadata = value if isinstance(value, MetaData) else getattr(value, "metadata", None)
            if isinstance(metadata, MetaData) and metadata.tables:
                found[id(metadata)] = metadata
    if not found:
        raise ModelsNotLoaded(
            f"No table is defined in {', '.join(settings.models)}.", f"Check the 'models' line under [{INI_SECTION}] in {INI_NAME}."
        )
    _refuse_twice(list(found.values()))
    return list(found.values())


def _refuse_twice(found: "list[MetaData]") -> None:
    """One table in two ``MetaData`` has two definitions, and nobody knows which of them is meant."""
    counted = Counter(name for metadata in found for name in metadata.tables)
    twice = [name for name, times in counted.items() if times > 1]
    if twice:
        raise ModelsNotLoaded(
            f"The models define the same table in more than one MetaData: {', '.join(sorted(twice))}.",
            f"Keep one of the definitions, or correct the 'models' line under [{INI_SECTION}] in {INI_NAME}.",
        )


def make_importable(root: Path) -> None:
    """Let the project's own modules be imported, as Alembic's ``prepend_sys_path`` does."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))


def _escape(value: str) -> str:
    return value.replace("%", "%%")
