"""How databases differ, as facts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """How a database differs, as facts.

    ``transactional_ddl``: DDL is rolled back with its transaction. ``transaction_per_revision``: each revision commits
    by itself, else a run commits as a whole. ``has_server``: databases are created on a server, not as a file.
    ``row_comparison``: ``(a, b) > (x, y)`` is answered from an index.
    """

    transactional_ddl: bool
    transaction_per_revision: bool
    has_server: bool
    row_comparison: bool
