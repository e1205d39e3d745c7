"""Writing revision files: ``revision``, ``merge`` and the first revision of a project."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from alembic.autogenerate import render_python_code
from alembic.autogenerate.api import RevisionContext
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util import asbool
from alembic.util import rev_id as random_identifier
from sqlalchemy import create_engine

from fininfra_db.errors import ConfigurationError, MultipleHeads, NotAtHead, OptionsInvalid
from fininfra_db.migrate.config import Project, alembic_config
from fininfra_db.migrate.drift import differences, is_empty, refuse_drops
from fininfra_db.migrate.environment import Work, execute, execute_on, load_scripts
from fininfra_db.migrate.lookup import alembic_errors
from fininfra_db.migrate.rendering import render_item
from fininfra_db.migrate.state import read_versions, refuse_unknown
from fininfra_db.results import Revised
from fininfra_db.settings import INI_NAME

FIRST_MESSAGE = "initial schema"


@dataclass(frozen=True)
class Draft:
    """What a revision file is to be: the options of ``alembic revision``, in its words."""

    message: str | None = None
    autogenerate: bool = False
    allow_drop: bool = False
    head: str = "head"
    splice: bool = False
    branch_label: str | None = None
    version_path: str | None = None
    rev_id: str | None = None
    depends_on: tuple[str, ...] = ()


async def write_revision(project: Project, draft: Draft) -> Revised:
    """Write a revision file; with ``autogenerate``, one that makes the database what the models say.

    Raises ``NotAtHead`` when the database is not at head, ``Refused`` when the revision would drop a table or column and
    ``allow_drop`` is not set. Nothing is written when there is nothing to do.
    """
    _refuse_taken(project, draft.rev_id)
    config = alembic_config(project, autogenerate=draft.autogenerate, allow_drop=draft.allow_drop)
    scripts = _load_for_writing(config)
    author = _author(config, scripts, draft)
    if draft.autogenerate:
        await _require_head(project, draft.head)
        await _ask_environment(project, config, author)
        if not draft.allow_drop and not project.is_ours:
            refuse_drops(author.generated_revisions)
        if is_empty(author.generated_revisions):
            return Revised(reason="the models and the database agree")
    elif asbool(config.get_alembic_option("revision_environment")):
        await _ask_environment(project, config, author)
    with alembic_errors():
        return _revised(list(author.generate_scripts()))


async def find_drift(project: Project) -> tuple[str, ...]:
    """Each difference between the models and a database at head, in words: what a revision would hold. Nothing is written."""
    config = alembic_config(project)
    author = _author(config, load_scripts(config), Draft(autogenerate=True))
    await _ask_environment(project, config, author, only_looking=True)
    return differences(author.generated_revisions)


async def write_first_revision(project: Project) -> Revised:
    """Write the revision that creates every table of the models, unless the project has a revision already.

    The models are compared with an empty database in memory, so the file depends on nothing but them. So does its
    identifier: the same models make the same first revision everywhere.
    """
    if project.history().revisions:
        return Revised()
    config = alembic_config(project, autogenerate=True)
    draft = Draft(message=FIRST_MESSAGE, autogenerate=True, version_path=str(project.versions[0]))
    author = _author(config, _load_for_writing(config), draft)
    engine = create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            await execute_on(connection, config, _filling(author))
    finally:
        engine.dispose()
    for script in author.generated_revisions:
        assert script.upgrade_ops is not None
        code = render_python_code(script.upgrade_ops, render_item=render_item)
        script.rev_id = sha256(code.encode()).hexdigest()[:12]
    with alembic_errors():
        return _revised(list(author.generate_scripts()))


def merge(
    project: Project,
    revisions: tuple[str, ...],
    *,
    message: str | None = None,
    branch_label: str | None = None,
    rev_id: str | None = None,
    splice: bool = False,
) -> Revised:
    """Write a revision that joins ``revisions`` (``heads`` for all of them) into one head."""
    _refuse_taken(project, rev_id)
    scripts = _load_for_writing(alembic_config(project))
    if revisions == ("heads",) and len(scripts.get_heads()) < 2:
        return Revised(reason="the history has one head")
    with alembic_errors():
        script = scripts.generate_revision(
            rev_id or random_identifier(), message, refresh=True, head=revisions, branch_labels=branch_label, splice=splice
        )
    return _revised([script])


def _refuse_taken(project: Project, rev_id: str | None) -> None:
    if rev_id is not None and rev_id in project.history().revisions:
        raise OptionsInvalid(f"There is a revision {rev_id} already. Nothing was written.", "Choose another --rev-id.")


def _load_for_writing(config: Config) -> ScriptDirectory:
    """Load every revision file, and see that a new one can be given a name."""
    scripts = load_scripts(config)
    try:
        scripts._rev_path(scripts.dir, "", "", datetime.now(UTC))
    except (KeyError, ValueError, TypeError):
        raise ConfigurationError(
            f"file_template in {INI_NAME} cannot be filled in. Nothing was written.",
            "It may name %%(rev)s, %%(slug)s, %%(epoch)d and the parts of the date, %%(year)d to %%(second)d.",
        ) from None
    return scripts


def _author(config: Config, scripts: ScriptDirectory, draft: Draft) -> RevisionContext:
    arguments: dict[str, Any] = {
        "message": draft.message,
        "autogenerate": draft.autogenerate,
        "sql": False,
        "head": draft.head,
        "splice": draft.splice,
        "branch_label": draft.branch_label,
        "version_path": draft.version_path,
        "rev_id": draft.rev_id,
        "depends_on": draft.depends_on or None,
    }
    return RevisionContext(config, scripts, arguments)


async def _require_head(project: Project, head: str) -> None:
    history = project.history()
    if len(history.heads) > 1 and head == "head":
        raise MultipleHeads(
            f"The history has several heads: {', '.join(history.heads)}. Nothing was written.", "Join them with 'fininfra-db merge heads'."
        )
    versions = await read_versions(project)
    refuse_unknown(history, versions)
    if not history.is_at_head(versions):
        raise NotAtHead(
            f"The database is at {', '.join(versions) or 'no revision'} and the history at {', '.join(history.heads)}: "
            "what is pending would be written a second time. Nothing was written.",
            "Run 'fininfra-db upgrade' first.",
        )


async def _ask_environment(project: Project, config: Config, author: RevisionContext, *, only_looking: bool = False) -> None:
    """Let ``env.py`` say what the revision holds: its models, compared with the database, and its hooks."""
    options: dict[str, Any] = {"template_args": author.template_args, "revision_context": author}
    await execute(project, _filling(author), "reading", config, only_looking=only_looking, **options)


def _filling(author: RevisionContext) -> Work:
    fill = author.run_autogenerate if author.command_args["autogenerate"] else author.run_no_autogenerate

    def work(versions: tuple[str, ...], context: MigrationContext) -> Iterable[Any]:
        fill(versions, context)
        return ()

    return work


def _revised(scripts: list[Script | None]) -> Revised:
    written = [script for script in scripts if script is not None]
    if not written:
        raise OptionsInvalid("The revision identifier is taken by a file that was there before.", "Choose another --rev-id.")
    return Revised(paths=tuple(Path(script.path) for script in written), revisions=tuple(script.revision for script in written))
