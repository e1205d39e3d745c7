"""Many rows at once, on any database: what they have in common, and where they differ."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, Connection, Insert, Table, TypeDecorator, delete, insert
from sqlalchemy.schema import CreateIndex, DropTable
from sqlalchemy.types import TypeEngine

from fininfra_db.dialects.bulk import PlainSender, Sender, load
from fininfra_db.dialects.bulk_plan import Plan
from fininfra_db.dialects.trouble import Trouble
from fininfra_db.dialects.upsert import Merge, UpsertSender, key_of
from fininfra_db.errors import OptionsInvalid
from fininfra_db.results import Upserted


class Loading(Trouble):
    """Bulk loads into one kind of database. The rows may not be read from the same connection, which is busy meanwhile."""

    stage_name: ClassVar[str] = "fininfra_stage"
    """The temporary table of a bulk upsert."""

    def bulk_insert(self, connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> int:
        """Insert ``rows``, all with the same keys, in the quickest way that this database has; how many there were.

        They are read one chunk at a time and written within the transaction of ``connection``, all or none. Raises
        ``RowRefused`` for the first row that cannot be written, ``OptionsInvalid`` for a key that is no column.
        """
        return load(connection, table, rows, partial(self._sender, connection, table), self.gave_up_waiting)

    def _sender(self, connection: Connection, table: Table, plan: Plan | None) -> Sender:
        quick = None if plan is None else self.bulk_sender(connection, plan)
        return quick or PlainSender(connection, table, plan)

    def bulk_sender(self, connection: Connection, plan: Plan) -> Sender | None:
        """What sends rows in a quicker way than an ordinary insert; None where there is no such way."""
        return None

    def bulk_upsert(
        self, connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]], key: Sequence[str] | None = None
    ) -> Upserted:
        """Insert the ``rows`` whose ``key`` is not in the table, and update those that differ from what is there.

        ``key`` is a unique key of the table: by default the one beside the primary key, and the primary key where there is no
        other. What is there keeps its primary key, its columns marked as kept, and those that the rows do not give. Of rows with
        the same key the last wins, and each is counted. Otherwise as ``bulk_insert()``.
        """
        chosen, senders = key_of(table, key), []

        def sender_of(plan: Plan | None) -> Sender:
            if plan is None:
                raise OptionsInvalid(f"{table.name} has a column whose default is made in SQL. Nothing was written.", "Give it a value.")
            merge = Merge(table, plan, chosen, self.stage_name, self.comparable)
            self.make_stage(connection, merge)
            inner = self._sender(connection, merge.stage, replace(plan, table=merge.stage))
            senders.append(UpsertSender(connection, merge, inner, merge.missing(self.insert_into(table, chosen)), self.clear_stage))
            return senders[0]

        with connection.begin_nested():
            count = load(connection, table, rows, sender_of, self.gave_up_waiting)
            for sender in senders:
                self.drop_stage(connection, sender.merge.stage)
        inserted, updated = sum(sender.inserted for sender in senders), sum(sender.updated for sender in senders)
        return Upserted(inserted=inserted, updated=updated, unchanged=count - inserted - updated)

    def insert_into(self, table: Table, key: Sequence[str]) -> Insert:
        """The beginning of an insert that should pass over rows whose ``key`` somebody else is just inserting, where that can be said."""
        return insert(table)

    def clear_stage(self, connection: Connection, stage: Table) -> None:
        """Empty the temporary table."""
        connection.execute(delete(stage))

    def make_stage(self, connection: Connection, merge: Merge) -> None:
        """Make the temporary table, with its unique key. A rollback takes it away."""
        connection.execute(merge.create)
        connection.execute(CreateIndex(merge.index))

    def drop_stage(self, connection: Connection, stage: Table) -> None:
        """Drop the temporary table."""
        connection.execute(DropTable(stage))

    def comparable(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """A column, or what stands for it where values of its type cannot be compared, or are equal that are not the same."""
        return column


def undecorated(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """The type that a type of Python's making is stored as."""
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    return kind
