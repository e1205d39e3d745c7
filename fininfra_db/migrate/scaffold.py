"""The files of a new project: ``alembic.ini``, the migrations folder, and a key for development.

What is there already is never overwritten, so running this again writes nothing.
"""

import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Final

from fininfra_db.errors import ConfigurationError
from fininfra_db.migrate.config import alembic_options, find_project
from fininfra_db.results import Initialized
from fininfra_db.security import generate_key
from fininfra_db.settings import INI_NAME, INI_SECTION, KEYS_VARIABLE, Settings

DEFAULT_DIRECTORY: Final = "migrations"
_SNAPSHOTS: Final = "*.snapshot-*"
"""The copies of a SQLite database beside it: they hold what it held."""
_MODELS_OPTION: Final = re.compile(r"^models[ \t]*[=:].*\n(?:[ \t]+\S.*\n)*", re.MULTILINE)


def scaffold(settings: Settings, *, directory: str = DEFAULT_DIRECTORY, models: tuple[str, ...] = (), package: bool = False) -> Initialized:
    """Write what is missing of a project in ``settings.project_root``.

    ``models`` are the modules to manage; named, they replace the ``models`` line of an existing ``alembic.ini``.
    ``package`` adds an ``__init__.py`` to each folder, as Alembic's option of that name does.
    """
    try:
        written = _write_ini(settings, directory, models)
        project = find_project(settings)
        written += _write_environment(project.location, package)
        for folder in project.versions if project.is_ours else ():
            folder.mkdir(parents=True, exist_ok=True)  # git keeps no empty folder
        key_file, warning = _add_development_key(settings) if project.is_ours else ([], ())
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename} cannot be written: {error.strerror}.", "Check the permissions of the project folder."
        ) from None
    return Initialized(written=tuple(written + key_file), warnings=warning)


def _write_ini(settings: Settings, directory: str, models: tuple[str, ...]) -> list[Path]:
    path = settings.ini_path
    if not path.exists() and alembic_options(settings.project_root) is None:
        location = directory if Path(directory).is_absolute() else f"%(here)s/{directory.replace('%', '%%')}"
        text = _template("alembic.ini.txt").format(location=location, models=", ".join(models or settings.models))
        return _write_new(path, text)
    if not models or (models == settings.models and settings.models_source == INI_NAME):
        return []
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(_with_models(text, f"models = {', '.join(models)}\n"), encoding="utf-8")
    return [path]


def _with_models(text: str, line: str) -> str:
    """The text of an ini file with ``line`` as the one ``models`` option of our section; comments stay."""
    head, section, body = text.partition(f"[{INI_SECTION}]\n")
    if not section:
        return f"{text.rstrip()}\n\n[{INI_SECTION}]\n{line}".lstrip()
    body, next_section, rest = body.partition("\n[")
    body, replaced = _MODELS_OPTION.subn(lambda _: line, body if body.endswith("\n") else f"{body}\n", count=1)
    return head + section + (body if replaced else line + body) + next_section.lstrip("\n") + rest


def _write_environment(location: Path, package: bool) -> list[Path]:
    if (location / "env.py").exists():
        return []
    (location / "versions").mkdir(parents=True, exist_ok=True)
    written = _write_new(location / "env.py", _template("env.py.txt"))
    written += _write_new(location / "script.py.mako", _template("script.py.mako"))
    if package:
        written += _write_new(location / "__init__.py", "") + _write_new(location / "versions" / "__init__.py", "")
    return written


def _add_development_key(settings: Settings) -> tuple[list[Path], tuple[str, ...]]:
    """Make sealed columns work at once on a developer's machine; production brings its own key."""
    if settings.keys or settings.is_production:
        return [], ()
    path = settings.env_file
    line = f"{KEYS_VARIABLE}={generate_key()}\n"
    if path.exists():
        kept = path.read_text(encoding="utf-8")
        with path.open("a", encoding="utf-8") as file:
            file.write(line if not kept or kept.endswith("\n") else f"\n{line}")
        return [path, *_ignore_in_git(path)], (
            f"A development key was added to {path} as {KEYS_VARIABLE}. Sealed data is lost without it: keep it, and out of git.",
        )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(line)
    return [path, *_ignore_in_git(path)], (
        f"A development key was written to {path} as {KEYS_VARIABLE}. Sealed data is lost without it: keep it, and out of git.",
    )


def _ignore_in_git(path: Path) -> list[Path]:
    ignore = path.parent / ".gitignore"
    lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.exists() else []
    ignored = {line.strip().lstrip("/") for line in lines}
    new = [name for name in (path.name, _SNAPSHOTS) if name not in ignored]
    if new:
        ignore.write_text("\n".join([*lines, *new]) + "\n", encoding="utf-8")
    return [ignore] if new else []


def _write_new(path: Path, text: str) -> list[Path]:
    if path.exists():
        return []
    path.write_text(text, encoding="utf-8")
    return [path]


def _template(name: str) -> str:
    return files("fininfra_db.migrate").joinpath("templates", name).read_text(encoding="utf-8")
