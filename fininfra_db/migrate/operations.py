"""Operations for revisions of a live database, beside those of ``alembic.op``.

On PostgreSQL they hold up neither readers nor writers; on the other databases, which have no such thing, each is the
plain operation. Give ``create_index_concurrently`` and ``validate_constraint`` a revision of their own: the first commits
what comes before it, the second would run under the locks of what comes before it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from alembic import op
from sqlalchemy import Connection, table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ColumnElement, TextClause

from fininfra_db.dialects import Dialect, dialect_of
from fininfra_db.dialects.online import OnlineDdl
from fininfra_db.errors import MigrationFailed
from fininfra_db.migrate.recorder import REPEATABLE
from fininfra_db.migrate.retry import ATTEMPTS, backoff, pause

Columns = Sequence[str | TextClause | ColumnElement[Any]]


def create_index_concurrently(
    name: str, table_name: str, columns: Columns, *, unique: bool = False, schema: str | None = None, **options: Any
) -> None:
    """Build an index without holding up writers; ``options`` are those of ``op.create_index``.

    On PostgreSQL it commits what the revision did before. What an interrupted build has left is dropped first, and the same
    index from a run that got this far is taken as it is. It waits for the transactions that are open as long as they take,
    or as ``--statement-timeout`` allows: nobody has to wait for it. Raises ``MigrationFailed`` when another index has the name.
    """
    arguments = options | {"unique": unique, "schema": schema, "postgresql_concurrently": True}
    dialect, quoted = _dialect(), _quoted(table_name, schema)
    online = dialect.online
    if online is None or op.get_context().as_sql:
        with _own_transaction(online):
            op.create_index(name, table_name, columns, **arguments)
        return
    with _repeatable(op.get_bind()):
        if online.index_is_valid(op.get_bind(), name, quoted):
            _refuse_another(online, name, quoted, columns, arguments)
            return
        with _own_transaction(online), online.waiting_for_locks(op.get_bind()):
            _build(dialect, online, name, quoted, lambda: op.create_index(name, table_name, columns, **arguments))


def drop_index_concurrently(name: str, table_name: str, *, schema: str | None = None) -> None:
    """Drop an index without holding up writers. On PostgreSQL it commits what came before; one that is gone already is done."""
    online = _dialect().online
    if online is None or op.get_context().as_sql:
        with _own_transaction(online):
            op.drop_index(name, table_name=table_name, schema=schema, postgresql_concurrently=True)
        return
    with _repeatable(op.get_bind()), _own_transaction(online), online.waiting_for_locks(op.get_bind()):
        online.drop_index(op.get_bind(), name, _quoted(table_name, schema))


def add_foreign_key_not_valid(
    name: str,
    source_table: str,
    referent_table: str,
    local_cols: Sequence[str],
    remote_cols: Sequence[str],
    *,
    ondelete: str | None = None,
    source_schema: str | None = None,
    referent_schema: str | None = None,
) -> None:
    """Add a foreign key for rows to come. On PostgreSQL the rows that are there are not looked at: ``validate_constraint`` does that."""
    with op.batch_alter_table(source_table, schema=source_schema) as batch:
        batch.create_foreign_key(
            name,
            referent_table,
            list(local_cols),
            list(remote_cols),
            ondelete=ondelete,
            referent_schema=referent_schema,
            postgresql_not_valid=True,
        )


def validate_constraint(name: str, table_name: str, *, schema: str | None = None) -> None:
    """Look at the rows that were there before a constraint was added NOT VALID, while others write. Elsewhere there is nothing to do."""
    if _dialect().online:
        constraint = op.get_context().dialect.identifier_preparer.quote(name)
        op.execute(f"ALTER TABLE {_quoted(table_name, schema)} VALIDATE CONSTRAINT {constraint}")


def _build(dialect: Dialect, online: OnlineDdl, name: str, quoted: str, create: Callable[[], None]) -> None:
    """Build an index, again after a deadlock; one that is left half built would slow down writers, or even refuse them."""
    for attempt in range(1, ATTEMPTS + 1):
        _drop_unfinished(online, name, quoted)
        try:
            create()
            break
        except DBAPIError as error:
            with suppress(DBAPIError):  # what cannot be dropped now is dropped by the next attempt, or the next run
                _drop_unfinished(online, name, quoted)
            if attempt == ATTEMPTS or not dialect.gave_up_waiting(error):
                raise
        pause(backoff(attempt))


def _drop_unfinished(online: OnlineDdl, name: str, quoted: str) -> None:
    if online.index_is_valid(op.get_bind(), name, quoted) is False:
        online.drop_index(op.get_bind(), name, quoted)


def _refuse_another(online: OnlineDdl, name: str, quoted: str, columns: Columns, arguments: dict[str, Any]) -> None:
    """Compare the index that is there with the one that is wanted, which the server is asked to make on an empty table."""
    found = online.index_definition(op.get_bind(), name, quoted)
    with _like(op.get_bind(), quoted) as twin:
        op.create_index(name, twin, columns, **arguments | {"schema": None, "postgresql_concurrently": False})
        wanted = online.index_definition(op.get_bind(), name, twin)
    if found != wanted:
        raise MigrationFailed(
            f"There is another index {name} on {quoted}: {found}, where {wanted} is wanted.",
            "Choose another name, or drop that index first.",
        )


@contextmanager
def _repeatable(connection: Connection) -> Iterator[None]:
    """Keep what is run out of the journal's count of statements: a run that carries on has to run it, whatever it finds."""
    connection.execution_options(**{REPEATABLE: True})
    try:
        yield
    finally:
        connection.execution_options(**{REPEATABLE: False})


@contextmanager
def _like(connection: Connection, quoted: str) -> Iterator[str]:
    """An empty temporary table with the same columns, for as long as the block runs."""
    twin = "fininfra_twin"
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {twin} (LIKE {quoted})")
        yield twin
    finally:
        savepoint.rollback()


def _own_transaction(online: OnlineDdl | None) -> AbstractContextManager[None]:
    """Outside the revision's transaction, where changes beside running writers have to be."""
    return op.get_context().autocommit_block() if online else nullcontext()


def _quoted(table_name: str, schema: str | None) -> str:
    return op.get_context().dialect.identifier_preparer.format_table(table(table_name, schema=schema))


def _dialect() -> Dialect:
    return dialect_of(op.get_context().dialect.name)
