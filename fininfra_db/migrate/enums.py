"""The types of PostgreSQL's ENUM columns, which outlive tables and are not there yet when a column is added."""

from typing import Any, Final

from alembic.ddl.postgresql import PostgresqlImpl as AlembicsPostgresqlImpl
from sqlalchemy import Column, Table
from sqlalchemy.schema import CheckFirst

MAKES_TYPES: Final = "makes_types"
"""The option of ``context.configure`` that our environment sets; a foreign one gets Alembic's own behaviour."""


class PostgresqlImpl(AlembicsPostgresqlImpl):
    """Alembic's PostgreSQL, which makes the type of a column where it is missing and takes one that is there.

    Alembic makes it with a table, whether it is there or not, and never with a column. A revision that makes its types
    by itself says ``create_type=False`` in the column.
    """

    __dialect__ = "postgresql"

    def create_table(self, table: Table, **options: Any) -> None:
        self._make_types(table)
        super().create_table(table, **options)

    def add_column(self, table_name: str, column: Column[Any], **options: Any) -> None:
        self._make_types(column.table)
        super().add_column(table_name, column, **options)

    def _make_types(self, table: Any) -> None:
        if self.context_opts.get(MAKES_TYPES):
            table.dispatch.before_create(table, self.connection, checkfirst=CheckFirst.TYPES, _ddl_runner=self)
