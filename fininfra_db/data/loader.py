"""Writing seeds: the household, or what a function of the project makes. Each is one transaction: all of it or nothing."""

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import Connection, event, insert, select
from sqlalchemy import inspect as inspect_database
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from fininfra_db.connections import make_engine, migration_lock, open_connection
from fininfra_db.data.household import Row, household
from fininfra_db.data.request import SeedRequest
from fininfra_db.dialects import target_of
from fininfra_db.dialects.base import first_line
from fininfra_db.dialects.locks import HeldLock
from fininfra_db.errors import FininfraDbError, KeyInvalid, KeyMissing, LockLost, OptionsInvalid, SeedFailed
from fininfra_db.events import BlastRadius, Observer
from fininfra_db.migrate.config import load_metadata, make_importable
from fininfra_db.migrate.marker import refuse_if_remarked
from fininfra_db.models import Base
from fininfra_db.results import Seeded
from fininfra_db.security import keyring_of
from fininfra_db.session import FinanceSession
from fininfra_db.settings import DEFAULT_SEED, Settings

_IDS_IN_A_QUERY: Final = 500
"""Well below the fewest parameters that a database takes in one statement: 2100 on SQL Server."""
_COMMITTED: Final = "committed"


async def write_seeds(
    settings: Settings, request: SeedRequest, *, observer: Observer | None = None, assessed: BlastRadius | None = None
) -> Seeded:
    """Write what ``request`` stands for, one seed after the other.

    Raises ``Refused`` when the database was marked otherwise since it was ``assessed``.
    """
    parts = [await _seed(settings, each, observer, assessed) for each in request.named(settings)]
    return parts[0] if len(parts) == 1 else together(parts)


def together(parts: Sequence[Seeded]) -> Seeded:
    """Several seeds as one result."""
    rows: Counter[str] = sum((Counter(part.rows) for part in parts), Counter())
    return Seeded(
        seed=", ".join(part.seed for part in parts), rows=dict(rows), inserted=sum(part.inserted for part in parts), parts=tuple(parts)
    )


async def _seed(settings: Settings, request: SeedRequest, observer: Observer | None, assessed: BlastRadius | None) -> Seeded:
    name = request.name or DEFAULT_SEED
    return await (seed_household(settings, assessed) if name == DEFAULT_SEED else seed_callable(settings, name, assessed))


def require_seeds(settings: Settings, request: SeedRequest) -> None:
    """Raise what would keep the seeds of ``request`` from starting: no such callable, or no key. Nothing is written or contacted."""
    for each in request.named(settings):
        if each.name == DEFAULT_SEED:
            keyring_of(settings).encrypt("")
        else:
            find_callable(settings, each.name or "")


async def seed_household(settings: Settings, assessed: BlastRadius | None = None) -> Seeded:
    """Write the rows of the household that are not there yet.

    A row is there when its ``id`` is, soft-deleted or changed as it may be. Runs at the same time wait for each other,
    and for a migration. Raises ``SeedFailed`` when a row of somebody else holds a unique value of the household, such as
    an email; ``KeyMissing`` when there is a token to seal and no key; ``LockNotObtained``; ``DatabaseUnreachable``. Nothing is
    written then.
    """
    seed = household()
    async with migration_lock(settings) as lock, lock.kept(), _transaction(settings, DEFAULT_SEED, lock, assessed) as session:
        try:
            inserted = [await _insert_missing(session, model, rows) for model, rows in seed.items()]
        except IntegrityError as error:
            raise SeedFailed(
                settings.redact(f"Rows of this database are in the way of the household: {first_line(error)}. Nothing was written."),
                "Change or remove the row that holds the value, or seed an empty database.",
            ) from None
    return Seeded(seed=DEFAULT_SEED, rows={model.__tablename__: len(rows) for model, rows in seed.items()}, inserted=sum(inserted))


async def _insert_missing(session: AsyncSession, model: type[Base], rows: list[Row]) -> int:
    table = Base.metadata.tables[model.__tablename__]
    present: set[str] = set()
    for start in range(0, len(rows), _IDS_IN_A_QUERY):
        ids = [row["id"] for row in rows[start : start + _IDS_IN_A_QUERY]]
        present.update(await session.scalars(select(table.c.id).where(table.c.id.in_(ids))))
    missing = [row for row in rows if row["id"] not in present]
    if missing:
        await session.execute(insert(table), missing)
    return len(missing)


async def seed_callable(settings: Settings, name: str, assessed: BlastRadius | None = None) -> Seeded:
    """Call ``name``, a ``module:callable`` of the project, with a session in a transaction that is committed at the end.

    An ``async def`` is given an ``AsyncSession``, any other callable a ``Session``; what it returns is ignored. It may
    commit by itself: what it committed stays, whatever comes after. The result counts no rows, since nobody knows them.
    Raises ``OptionsInvalid`` for a name that is no such callable, ``SeedFailed`` when the callable raises (its transaction
    is rolled back), ``KeyMissing`` when it sealed or opened a token without a key, ``DatabaseUnreachable``.
    """
    function = find_callable(settings, name)
    async with migration_lock(settings) as lock, lock.kept(), _transaction(settings, name, lock, assessed) as session:
        if _is_asynchronous(function):
            await function(session)
        else:
            _refuse_awaitable(await session.run_sync(function))
    return Seeded(seed=name)


def find_callable(settings: Settings, name: str) -> Callable[[Any], Any]:
    """Import the callable that ``name`` stands for: a module, a colon, and a dotted path in it. Raises ``OptionsInvalid``."""
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise OptionsInvalid(
            f"There is no seed {name!r}. Nothing was written.", f"Name {DEFAULT_SEED}, or module:callable as in seeds:demo."
        )
    make_importable(settings.project_root)
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # importing runs the project's code, which may raise anything and may even exit
        raise OptionsInvalid(
            settings.redact(f"The module of the seed {name!r} does not import: {_reason(error)}. Nothing was written."),
            f"Modules are looked for in {settings.project_root} and among the installed packages.",
        ) from error
    try:
        function: Callable[[Any], Any] = attrgetter(path)(module)
    except AttributeError:
        raise OptionsInvalid(
            f"The module {module_name!r} has no {path!r}. Nothing was written.", "Check the name after the colon."
        ) from None
    if not callable(function) or not _takes_one_argument(function):
        raise OptionsInvalid(
            f"The seed {name!r} cannot be called with a session. Nothing was written.", "Make it a function of one argument, the session."
        )
    return function


def _takes_one_argument(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # some callables written in C have no signature to look at
        return True
    return True


def _is_asynchronous(function: Callable[..., Any]) -> bool:
    """Also for a decorated function and for an object whose ``__call__`` is asynchronous."""
    return inspect.iscoroutinefunction(inspect.unwrap(function)) or inspect.iscoroutinefunction(type(function).__call__)


def _refuse_awaitable(returned: object) -> None:
    """Nobody waits for what a plain function returns: a seed that is still to be run would be reported as done."""
    if inspect.iscoroutine(returned):
        returned.close()
    if inspect.isawaitable(returned):
        raise TypeError("it is not an 'async def' and returned something to be awaited")


@asynccontextmanager
async def _transaction(settings: Settings, seed: str, lock: HeldLock, assessed: BlastRadius | None) -> AsyncIterator[AsyncSession]:
    """A session that is committed at the end of the block. Whatever the block raises comes out as an error of this package."""
    async with open_connection(settings, "reading"):
        pass  # a database that is not there is reported here, in our words, and a SQLite file is not made by looking for it
    async with open_connection(settings, "seeding") as connection:  # on SQLite, this is what waits for another writer
        await connection.run_sync(lambda sync: refuse_if_remarked(sync, assessed))
    engine = make_engine(settings, "seeding")
    session = AsyncSession(engine, sync_session_class=FinanceSession, expire_on_commit=False)
    event.listen(session.sync_session, "after_commit", _note_commit)
    try:
        async with session:
            yield session
            await lock.verify()
            await session.commit()
    except (Exception, SystemExit) as error:  # a seed is the project's code, which may raise anything and may even exit
        cause = _cause(error)
        if isinstance(cause, SeedFailed | KeyMissing | KeyInvalid | LockLost):
            raise cause from None
        target = target_of(settings)
        known = target.dialect.statement_error(cause, target.url)
        if known is not None:
            raise known from None
        raise await _failure(settings, seed, cause, committed=_COMMITTED in session.info) from error
    finally:
        await engine.dispose()


def _note_commit(session: Session) -> None:
    if not session.in_nested_transaction():
        session.info[_COMMITTED] = True


def _cause(error: BaseException) -> BaseException:
    """The error of a column type, which SQLAlchemy raises inside one of its own, or else the error itself."""
    if isinstance(error, StatementError) and isinstance(error.orig, FininfraDbError):
        return error.orig
    return error


async def _failure(settings: Settings, seed: str, error: BaseException, *, committed: bool) -> SeedFailed:
    state = "What it had committed by itself stays, the rest was rolled back." if committed else "Its transaction was rolled back."
    hint = error.hint if isinstance(error, FininfraDbError) else None
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        state = "The connection broke, so whether its transaction was committed is not known."
    elif isinstance(error, DBAPIError) and await _names_missing_table(settings, first_line(error)):
        hint = "A table of the models is missing: run 'fininfra-db upgrade', then the seed again."
    return SeedFailed(
        settings.redact(f"The seed {seed} did not finish: {_reason(error).rstrip('.')}. {state}"),
        hint or "Correct the cause and run the seed again.",
    )


async def _names_missing_table(settings: Settings, message: str) -> bool:
    """Whether the database's ``message`` is about a table of the models that is not there."""
    metadata = (Base.metadata, *load_metadata(settings))
    named = [table for each in metadata for table in each.tables.values() if table.name in message]

    def look(connection: Connection) -> bool:
        database = inspect_database(connection)
        return not all(database.has_table(table.name, schema=table.schema) for table in named)

    async with open_connection(settings, "reading") as connection:
        return await connection.run_sync(look)


def _reason(error: BaseException) -> str:
    text = first_line(error) if isinstance(error, SQLAlchemyError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
