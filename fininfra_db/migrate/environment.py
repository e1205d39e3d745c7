"""The migration environment: what ``env.py`` calls, and how an operation gets Alembic to call it.

``execute`` hands a function to Alembic, which calls it with the database's revisions and a ``MigrationContext``; what
the function returns is run. The project's ``env.py`` stands in between: ours calls ``run`` and gets the connection
through ``Config.attributes``, a foreign one connects by itself.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from io import StringIO
from pathlib import Path
from typing import Any, Final

from alembic import context
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, event
from sqlalchemy import Dialect as SqlalchemyDialect
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.util import greenlet_spawn

from fininfra_db.connections import migration_lock, open_connection
from fininfra_db.dialects import Dialect, dialect_of, target_of
from fininfra_db.dialects.base import Purpose
from fininfra_db.errors import FininfraDbError, RevisionBroken
from fininfra_db.migrate.config import Project, alembic_config, load_metadata
from fininfra_db.migrate.drift import comparison_options
from fininfra_db.migrate.enums import MAKES_TYPES
from fininfra_db.migrate.lookup import alembic_errors, missing_revision
from fininfra_db.migrate.rendering import render_item
from fininfra_db.migrate.thread import run_in_thread
from fininfra_db.results import Observer
from fininfra_db.settings import Settings, load_settings

Work = Callable[[tuple[str, ...], MigrationContext], Iterable[Any]]
"""What an operation does with the database's revisions; the steps that it returns are run."""

_alembic: Final = threading.Lock()
"""Alembic keeps the running environment in a module, so one runs at a time in a process."""


async def execute(
    project: Project, work: Work, purpose: Purpose, config: Config | None = None, *, observer: Observer | None = None, **options: Any
) -> None:
    """Run ``work`` in the project's environment, on a connection for ``purpose``.

    ``observer`` is told when the connection waits. ``options`` are those of Alembic's ``EnvironmentContext``. For reading,
    Alembic is kept from writing its version table.
    """
    config = config or alembic_config(project)
    if purpose == "reading":
        options["dont_mutate"] = True
    async with _one_at_a_time():
        scripts = load_scripts(config)
        async with open_connection(project.settings, purpose) as connection:
            if project.is_ours:
                await connection.execution_options(observer=observer)
                await connection.run_sync(lambda sync: _run(_with_connection(config, sync), scripts, work, options))
            else:
                await _in_foreign_environment(project, config, scripts, work, options)


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
    async with migration_lock(settings), open_connection(settings, "migration") as connection:
        await connection.run_sync(lambda sync: _migrate(sync, settings))


def _migrate(connection: Connection, settings: Settings) -> None:
    """Run what Alembic was asked for on a connection on which nothing was executed yet.

    A statement before ``configure`` would begin a transaction that Alembic takes for its caller's and never commits.
    """
    dialect = dialect_of(connection.dialect.name)
    context.configure(connection=connection, **_options(settings, dialect))
    reading = context.get_context().opts.get("dont_mutate", False)
    with context.begin_transaction(), nullcontext() if reading else dialect.guarded(connection):
        context.run_migrations()


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
        scripts.run_env()


async def _in_foreign_environment(project: Project, config: Config, scripts: ScriptDirectory, work: Work, options: dict[str, Any]) -> None:
    """Run a foreign ``env.py`` in a thread, where it may start an event loop.

    One that starts none makes a synchronous engine from our asynchronous URL: it runs inside a greenlet, where
    SQLAlchemy's asynchronous drivers can be waited for. A connection of ours was made before, though ``env.py`` makes its
    own: a database that cannot be reached is reported in our words, and a SQLite file is never left half made.
    """

    def run_here() -> None:
        with _connecting_as_the_url_says(project.settings):
            if project.is_asynchronous:
                _run(config, scripts, work, options)
            else:
                asyncio.run(greenlet_spawn(_run, config, scripts, work, options))

    await run_in_thread(run_here, target_of(project.settings))


@contextmanager
def _connecting_as_the_url_says(settings: Settings) -> Iterator[None]:
    """Let the engines that this thread makes with our driver understand libpq's options too.

    They are no part of the URL that a foreign ``env.py`` reads, since not every driver takes them from there.
    """
    target, thread = target_of(settings), threading.get_ident()
    url, ours = target.dialect.engine_arguments(target.url, "application")

    def add(dialect: SqlalchemyDialect, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
        if threading.get_ident() == thread and dialect.driver == url.get_driver_name():
            options.update(ours)

    event.listen(Engine, "do_connect", add)
    try:
        yield
    finally:
        event.remove(Engine, "do_connect", add)


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
        f"{where} does not load: {type(error).__name__}: {error}. Nothing was run.", f"Correct {culprits[-1] if culprits else 'it'}."
    )
