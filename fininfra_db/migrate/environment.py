"""The migration environment: what ``env.py`` calls, and how an operation gets Alembic to call it.

``execute`` hands a function to Alembic, which calls it with the database's revisions and a ``MigrationContext``; what
the function returns is run. The project's ``env.py`` stands in between: ours calls ``run`` and gets the connection
through ``Config.attributes``, a foreign one connects by itself.
"""

import asyncio
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, nullcontext
from io import StringIO
from pathlib import Path
from typing import Any, Final

from alembic import context
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.util import greenlet_spawn

from fininfra_db.connections import migration_lock, open_connection
from fininfra_db.dialects import Dialect, dialect_of, target_of
from fininfra_db.dialects.base import Purpose
from fininfra_db.dialects.wording import in_words
from fininfra_db.errors import EnvironmentFailed, FininfraDbError, RevisionBroken
from fininfra_db.events import Observer
from fininfra_db.migrate.aftermath import forget_snapshot
from fininfra_db.migrate.config import Project, alembic_config, find_project, load_metadata
from fininfra_db.migrate.drift import comparison_options
from fininfra_db.migrate.enums import MAKES_TYPES
from fininfra_db.migrate.foreign import connecting_as_ours
from fininfra_db.migrate.lookup import alembic_errors, missing_revision
from fininfra_db.migrate.losses import deletions_stated_by
from fininfra_db.migrate.project_lock import project_lock
from fininfra_db.migrate.rendering import render_item
from fininfra_db.migrate.thread import run_in_thread
from fininfra_db.migrate.watch import Watch
from fininfra_db.settings import Settings, load_settings

Work = Callable[[tuple[str, ...], MigrationContext], Iterable[Any]]
"""What an operation does with the database's revisions; the steps that it returns are run."""

_alembic: Final = threading.Lock()
"""Alembic keeps the running environment in a module, so one runs at a time in a process."""


async def execute(
    project: Project,
    work: Work,
    purpose: Purpose,
    config: Config | None = None,
    scripts: ScriptDirectory | None = None,
    *,
    observer: Observer | None = None,
    only_looking: bool = False,
    **options: Any,
) -> None:
    """Run ``work`` in the project's environment, on a connection for ``purpose``.

    ``config`` and ``scripts`` are made if they are not given. ``observer`` is told when the connection waits. ``options`` are those
    of Alembic's ``EnvironmentContext``. For reading, Alembic is kept from writing its version table. With ``only_looking`` a
    foreign ``env.py`` is kept from writing anything: many make a schema first, which is fine where reading is a part of migrating.
    """
    config = config or alembic_config(project)
    if purpose == "reading":
        options["dont_mutate"] = True
    async with _one_at_a_time():
        scripts = scripts or load_scripts(config)
        async with open_connection(project.settings, purpose) as connection:
            if project.is_ours:
                connection.info["observer"] = observer
                await connection.run_sync(lambda sync: _run(_with_connection(config, sync), scripts, work, options))
            else:
                await _in_foreign_environment(project, config, scripts, work, options, purpose, only_looking)


async def execute_on(connection: Connection, config: Config, work: Work) -> None:
    """Run ``work``, which reads, in our environment on a connection of the caller's."""
    async with _one_at_a_time():
        _run(_with_connection(config, connection), load_scripts(config), work, {"dont_mutate": True})


async def render(project: Project, work: Work, **options: Any) -> str:
    """The SQL that ``work`` would run, for the dialect of the project's URL. Nothing is connected to."""
    buffer = StringIO()
    config = alembic_config(project)
    config.output_buffer = buffer
    async with _one_at_a_time():
        _run(config, load_scripts(config), work, options | {"as_sql": True})
    return buffer.getvalue()


def load_scripts(config: Config) -> ScriptDirectory:
    """Load every revision file. Raises ``RevisionBroken`` naming the one that does not load."""
    with alembic_errors():
        scripts = ScriptDirectory.from_config(config)
    sys.path[:] = dict.fromkeys(sys.path)  # Alembic prepends the project's folders each time
    try:
        with alembic_errors():
            scripts.get_heads()
    except FininfraDbError:
        raise
    except KeyError as error:  # how Alembic's map of revisions says that one names another that has no file
        raise missing_revision(error) from None
    except (Exception, SystemExit) as error:  # loading executes the user's revision files, which may raise anything and may even exit
        raise _broken(error, scripts) from error
    return scripts


def run() -> None:
    """What ``env.py`` calls: configure Alembic for this project and run what was asked for.

    A caller may put a SQLAlchemy ``Connection``, ``Engine`` or ``AsyncEngine`` in ``Config.attributes["connection"]``.
    Without one, as under the plain ``alembic`` command, the settings of the project are read and connected to.
    """
    config = context.config
    settings = config.attributes.get("settings")
    if settings is not None:
        _run_with(settings, config)
        return
    try:
        root = Path(config.config_file_name).parent if config.config_file_name else None
        _run_with(load_settings(project_root=root), config)
    except FininfraDbError as error:  # the plain alembic command prints its own kind of error without a traceback
        raise CommandError(" ".join(part for part in (error.message, error.hint) if part)) from error


def _run_with(settings: Settings, config: Config) -> None:
    connection = config.attributes.get("connection")
    if context.is_offline_mode():
        _migrate_offline(settings)
    elif connection is None:
        asyncio.run(_migrate_alone(settings))
    elif isinstance(connection, Connection):
        _migrate(connection, settings)
    elif hasattr(connection, "sync_engine"):
        asyncio.run(greenlet_spawn(_migrate_on, connection.sync_engine, settings))
    else:
        _migrate_on(connection, settings)


def _migrate_on(engine: Engine, settings: Settings) -> None:
    with engine.connect() as connection:
        _migrate(connection, settings)


async def _migrate_alone(settings: Settings) -> None:
    """Under the plain ``alembic`` command: with the lock, the journal and the snapshots all the same."""
    target = target_of(settings)
    async with migration_lock(settings) as lock, lock.kept():
        watch = Watch(target.dialect, lock, keeps_snapshot=not settings.no_snapshot)
        try:
            async with open_connection(settings, "migration") as connection:
                await connection.run_sync(lambda sync: _migrate(sync, settings, watch))
        except BaseException:  # an interruption too, and all of them are raised again
            await forget_snapshot(find_project(settings), watch)
            raise
        target.dialect.let_go_of_snapshots(target.url, watch.snapshot)


def _migrate(connection: Connection, settings: Settings, watch: Watch | None = None) -> None:
    """Run what Alembic was asked for on a connection on which nothing was executed yet.

    A statement before ``configure`` would begin a transaction that Alembic takes for its caller's and never commits.
    """
    dialect = dialect_of(connection.dialect.name)
    context.configure(connection=connection, **_options(settings, dialect))
    if watch is not None:
        _follow(context.get_context(), watch)
    migration = context.get_context()
    ran: set[str] = set()

    def note(step: MigrationInfo, **_: Any) -> None:
        ran.update(step.up_revision_ids)

    def stated() -> set[str]:
        return {table for revision in ran for table in deletions_stated_by(context.script.get_revision(revision).module)}

    migration.on_version_apply_callbacks += (note,)
    reading = migration.opts.get("dont_mutate", False)
    with context.begin_transaction(), nullcontext() if reading else dialect.guarded(connection, stated):
        context.run_migrations()


def _follow(migration: MigrationContext, watch: Watch) -> None:
    plan: Any = migration._migrations_fn
    migration._migrations_fn = lambda versions, its: watch.follow(plan(versions, its), versions, its)


def _migrate_offline(settings: Settings) -> None:
    target = target_of(settings)
    nowhere: Any = MockConnection(target.dialect.offline(target.url), lambda *_: None)
    context.configure(connection=nowhere, literal_binds=True, **_options(settings, target.dialect))
    with context.begin_transaction():
        context.run_migrations()


def _options(settings: Settings, dialect: Dialect) -> dict[str, Any]:
    metadata = load_metadata(settings)
    return {
        "target_metadata": metadata[0] if len(metadata) == 1 else metadata,
        "render_as_batch": True,
        MAKES_TYPES: True,
        "render_item": render_item,
        "transactional_ddl": dialect.features.transactional_ddl,
        "transaction_per_migration": dialect.features.transaction_per_revision,
        **comparison_options(context.config, context.script),
    }


def _run(config: Config, scripts: ScriptDirectory, work: Work, options: dict[str, Any]) -> None:
    with alembic_errors(), EnvironmentContext(config, scripts, fn=work, **options):
        try:
            scripts.run_env()
        except (FininfraDbError, CommandError):
            raise
        except (Exception, SystemExit) as error:  # env.py is the user's code, which may raise anything and may even exit
            line = _line_of(Path(scripts.env_py_location), error)
            if line is None:
                raise
            raise EnvironmentFailed(
                f"env.py failed in line {line} ({scripts.env_py_location}): {in_words(error).rstrip('.')}.",
                "Correct the line. It runs for each command that asks Alembic; those that only look refuse whatever writes.",
            ) from error


def _line_of(env_path: Path, error: BaseException) -> int | None:
    """The line of ``env.py`` that raised; None when it was code of ours, a revision, or what is done with the revisions."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(env_path) else None
    for frame, number in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_filename == str(env_path):
            line = number
        elif code is run.__code__ or code is MigrationContext.run_migrations.__code__:
            return None
    return line


async def _in_foreign_environment(
    project: Project, config: Config, scripts: ScriptDirectory, work: Work, options: dict[str, Any], purpose: Purpose, only_looking: bool
) -> None:
    """Run a foreign ``env.py`` in a thread, where it may start an event loop.

    One that starts none makes a synchronous engine from our asynchronous URL: it runs inside a greenlet, where
    SQLAlchemy's asynchronous drivers can be waited for. A connection of ours was made before, though ``env.py`` makes its
    own: a database that cannot be reached is reported in our words, and a SQLite file is never left half made.

    It commits each revision by itself on SQLite, where the write lock ends with the transaction: so the project is locked too.
    """

    def run_here() -> None:
        with connecting_as_ours(project.settings, purpose, only_looking=only_looking):
            if project.is_asynchronous:
                _run(config, scripts, work, options)
            else:
                asyncio.run(greenlet_spawn(_run, config, scripts, work, options))

    target, settings = target_of(project.settings), project.settings
    alone = purpose == "migration" and not target.dialect.features.has_server
    async with project_lock(settings.project_root, settings.lock_timeout) if alone else nullcontext():
        await run_in_thread(run_here, target)


def _with_connection(config: Config, connection: Connection) -> Config:
    config.attributes["connection"] = connection
    return config


@asynccontextmanager
async def _one_at_a_time() -> AsyncIterator[None]:
    while not _alembic.acquire(blocking=False):
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        _alembic.release()


def _broken(error: BaseException, scripts: ScriptDirectory) -> RevisionBroken:
    """Name the revision file that raised: the last one of the traceback, or the one that does not compile."""
    folders = [str(folder) for folder in scripts._version_locations]
    files = [error.filename] if isinstance(error, SyntaxError) and error.filename else []
    trace = error.__traceback__
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    culprits = [name for name in files if any(name.startswith(folder) for folder in folders)]
    where = f"The revision file {Path(culprits[-1]).name}" if culprits else "The history of revisions"
    return RevisionBroken(
        f"{where} does not load: {in_words(error).rstrip('.')}. Nothing was run.", f"Correct {culprits[-1] if culprits else 'it'}."
    )
