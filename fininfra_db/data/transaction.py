"""The transaction of a seed, and what ended it in words: what happened, what was rolled back, and the next step."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import Connection, event
from sqlalchemy import inspect as inspect_database
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from fininfra_db.connections import make_engine, open_connection
from fininfra_db.dialects import target_of
from fininfra_db.dialects.base import first_line
from fininfra_db.dialects.locks import HeldLock
from fininfra_db.errors import FininfraDbError, KeyInvalid, KeyMissing, LockLost, SeedFailed
from fininfra_db.events import BlastRadius
from fininfra_db.migrate.config import load_metadata
from fininfra_db.migrate.marker import refuse_if_remarked
from fininfra_db.migrate.seeds import prepare
from fininfra_db.models import Base
from fininfra_db.session import FinanceSession
from fininfra_db.settings import Settings

_COMMITTED: Final = "committed"


async def look_first(settings: Settings, assessed: BlastRadius | None) -> None:
    """Look whether a seed may be written, and make the table that tells of it. The caller holds the migration lock."""
    async with open_connection(settings, "reading"):
        pass  # a database that is not there is reported here, in our words, and a SQLite file is not made by looking for it
    async with open_connection(settings, "seeding") as connection:  # on SQLite, this is what waits for another writer
        await connection.run_sync(lambda sync: refuse_if_remarked(sync, assessed))
        await connection.run_sync(prepare)
        await connection.commit()


@asynccontextmanager
async def in_transaction(settings: Settings, seed: str, lock: HeldLock, assessed: BlastRadius | None) -> AsyncIterator[AsyncSession]:
    """A session that is committed at the end of the block. Whatever the block raises comes out as an error of this package."""
    await look_first(settings, assessed)
    engine = make_engine(settings, "seeding")
    session = AsyncSession(engine, sync_session_class=FinanceSession, expire_on_commit=False)
    event.listen(session.sync_session, "after_commit", _note_commit)
    try:
        async with failures_in_words(settings, seed, lambda: _COMMITTED in session.info), session:
            yield session
            await lock.verify()
            await session.commit()
    finally:
        await engine.dispose()


@asynccontextmanager
async def failures_in_words(settings: Settings, seed: str, committed: Callable[[], bool]) -> AsyncIterator[None]:
    """Whatever the block raises comes out as an error of this package. ``committed``: whether a part of it is there to stay."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a seed is the project's code, which may raise anything and may even exit
        cause = _cause(error)
        if isinstance(cause, SeedFailed | KeyMissing | KeyInvalid | LockLost):
            raise cause from None
        target = target_of(settings)
        known = target.dialect.statement_error(cause, target.url)
        if known is not None:
            raise known from None
        raise await _failure(settings, seed, cause, committed=committed()) from error


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
        settings.redact(f"The seed {seed} did not finish: {reason_of(error).rstrip('.')}. {state}"),
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


def reason_of(error: BaseException) -> str:
    """What an error says, in one line with its name."""
    text = first_line(error) if isinstance(error, SQLAlchemyError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
