"""What a migration on SQLite must not lose without saying so: rows, triggers, views, and what foreign keys point at.

SQLite can alter little of a table, so Alembic's batch mode makes a new one, copies the rows, drops the old table and gives
the new one its name. The drop takes the table's triggers along, and with foreign keys on every row below it.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from fininfra_db.dialects.base import first_line
from fininfra_db.errors import MigrationFailed

VERSION_TABLE: Final = "alembic_version"
_TERMS: Final = 400
"""SELECTs in one UNION ALL; SQLite takes 500 (sqlite.org/limits.html)."""

_NAME: Final = r"""(?:"(?:[^"]|"")*"|\[[^\]]*\]|`(?:[^`]|``)*`|[^\s;(."]+)"""
_STATEMENT: Final = re.compile(
    rf"""(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:
        DROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:{_NAME}\s*\.\s*)?(?P<dropped>{_NAME})
      | ALTER\s+TABLE\s+(?:{_NAME}\s*\.\s*)?(?P<old>{_NAME})\s+RENAME\s+TO\s+(?P<new>{_NAME})
      | CREATE\s+TRIGGER\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:{_NAME}\s*\.\s*)?(?P<trigger>{_NAME})
    )""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_MADE_BY_ALEMBIC: Final = "_alembic_tmp_"


@contextmanager
def guarded(connection: Connection, stated: Callable[[], Collection[str]]) -> Iterator[None]:
    """Compare the database before and after a migration, inside its transaction; raises ``MigrationFailed`` to roll it back.

    ``stated``, asked at the end, names the tables that lose rows on purpose. Triggers of a rebuilt table are put back.
    """
    rebuilds = _Rebuilds(connection)
    before = _Contents(connection)
    with rebuilds.watched():
        yield
    before.refuse_losses(_Contents(connection), {name.lower() for name in stated()}, rebuilds.fate)


def keys_kept(connection: Connection) -> Callable[[], None]:
    """What to call before the running transaction is committed: raises ``MigrationFailed`` for rows that point nowhere since now."""
    before, _ = _foreign_keys(connection, tables_of(connection))

    def look_again() -> None:
        after, _ = _foreign_keys(connection, tables_of(connection))
        _refuse_dangling(after - before, "Foreign keys are off while a revision runs, so ON DELETE and ON UPDATE did nothing.")

    return look_again


def tables_of(connection: Connection) -> list[str]:
    """The tables that hold the user's rows: not SQLite's, Alembic's and ours, nor those behind a virtual table."""
    found = connection.exec_driver_sql("SELECT name, rootpage FROM sqlite_master WHERE type = 'table'").all()
    shadows = {row[1] for row in connection.exec_driver_sql("PRAGMA table_list") if row[2] == "shadow"}
    return [
        name
        for name, rootpage in found
        if rootpage and name != VERSION_TABLE and name not in shadows and not name.startswith(("sqlite_", "fininfra_", _MADE_BY_ALEMBIC))
    ]


def holds_rows(connection: Connection) -> bool:
    """Whether a table of the user's has a row in it."""
    for some in _portions(tables_of(connection)):
        query = " UNION ALL ".join(f"SELECT 1 FROM (SELECT 1 FROM {_quoted(name)} LIMIT 1)" for name in some)
        if connection.exec_driver_sql(f"{query} LIMIT 1").first() is not None:
            return True
    return False


class _Contents:
    """What is in a database: rows by table, rows that point nowhere, and which views, triggers and foreign keys work."""

    def __init__(self, connection: Connection) -> None:
        self.rows = _row_counts(connection)
        self.dangling, faulty_keys = _foreign_keys(connection, self.rows)
        self.faults = faulty_keys | _faults(connection)

    def refuse_losses(self, after: "_Contents", stated: set[str], fate: str) -> None:
        """Raise for whatever is worse ``after`` than it was, and was not ``stated``. ``fate`` says what became of the run."""
        fewer = sorted(name for name, count in self.rows.items() if after.rows.get(name, count) < count and name.lower() not in stated)
        if fewer:
            losses = ", ".join(f"{name} had {self.rows[name]} rows and has {after.rows[name]}" for name in fewer)
            raise MigrationFailed(
                f"After the migration rows are missing that no revision said it deletes: {losses}. {fate}",
                "If a revision means to delete them, write this into its file, below down_revision: "
                f"deletes_rows = ({''.join(f'{name!r}, ' for name in fewer).strip()})",
            )
        _refuse_dangling(after.dangling - self.dangling, fate)
        broken = [f"{name}: {fault}" for name, fault in after.faults.items() if fault and self.faults.get(name) == ""]
        if broken:
            raise MigrationFailed(
                f"After the migration these do not work any more: {'; '.join(broken)}. {fate}",
                "Let the revision drop them, or drop them before and create them again after the change.",
            )


def _refuse_dangling(dangling: Counter[str], more: str) -> None:
    """Raise for rows that point nowhere. ``more`` is what else there is to say."""
    if dangling:
        raise MigrationFailed(
            f"After the migration {dangling.total()} rows point at a row that is not there ({', '.join(sorted(dangling))}). {more}",
            "Correct the revision so that it keeps these rows consistent, and run the command again.",
        )


def _row_counts(connection: Connection) -> dict[str, int]:
    counts: dict[str, int] = {}
    for some in _portions(tables_of(connection)):
        query = " UNION ALL ".join(f"SELECT {number}, count(*) FROM {_quoted(name)}" for number, name in enumerate(some))
        counts |= {some[number]: count for number, count in connection.exec_driver_sql(query)}
    return counts


def _portions(names: list[str]) -> Iterator[list[str]]:
    return (names[start : start + _TERMS] for start in range(0, len(names), _TERMS))


def _foreign_keys(connection: Connection, tables: Collection[str]) -> tuple[Counter[str], dict[str, str]]:
    """How many rows point nowhere, by ``table -> parent``, and why the keys of each table cannot be checked; empty for those that can."""
    faults = dict.fromkeys((f"foreign keys of {name}" for name in tables), "")
    try:
        return _dangling(connection, "PRAGMA foreign_key_check"), faults
    except DBAPIError:  # one key to columns that are not unique keeps SQLite from checking any
        dangling: Counter[str] = Counter()
    for name in tables:
        try:
            dangling += _dangling(connection, f"PRAGMA foreign_key_check({_quoted(name)})")
        except DBAPIError as error:
            faults[f"foreign keys of {name}"] = first_line(error)
    return dangling, faults


def _dangling(connection: Connection, pragma: str) -> Counter[str]:
    return Counter(f"{row[0]} -> {row[2]}" for row in connection.exec_driver_sql(pragma))


def _faults(connection: Connection) -> dict[str, str]:
    """Why each view, and the triggers of each table, cannot be used; empty for those that can.

    SQLite reads their text when a statement needs them, so a column that is gone is noticed when the application stumbles.
    """
    found = connection.exec_driver_sql("SELECT type, name, tbl_name FROM sqlite_master WHERE type IN ('view', 'trigger')").all()
    views = {name for kind, name, _ in found if kind == "view"}
    faults = {f"view {name}": _fault(connection, f"SELECT * FROM {_quoted(name)} LIMIT 0") for name in sorted(views)}
    for name in sorted({table for kind, _, table in found if kind == "trigger" and table not in views}):
        table = _quoted(name)
        columns = [_quoted(row[1]) for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")]
        some, changes = ", ".join(columns), ", ".join(f"{column} = {column}" for column in columns)
        statements = (
            f"INSERT INTO {table} ({some}) SELECT {some} FROM {table} WHERE 0",
            f"UPDATE {table} SET {changes} WHERE 0",
            f"DELETE FROM {table} WHERE 0",
        )
        faults[f"triggers of {name}"] = next(filter(None, (_fault(connection, statement) for statement in statements)), "")
    return faults


def _fault(connection: Connection, statement: str) -> str:
    """Why SQLite refuses a statement that touches no row; empty when it does not."""
    try:
        connection.exec_driver_sql(statement).close()
    except DBAPIError as error:
        return first_line(error)
    return ""


class _Rebuilds:
    """Watches a connection for tables that are dropped and given to a new one, and puts their triggers back.

    Other tables' triggers and views that mention the dropped table would make SQLite refuse Alembic's rename, which checks
    them all; ``legacy_alter_table`` is on around that statement only, since other renames must go on rewriting foreign keys.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lost: dict[str, list[tuple[str, str]]] = {}
        self._put_back: set[str] = set()
        self._is_legacy = False
        self._committed = False

    @property
    def fate(self) -> str:
        """What became of the run when it is rolled back now."""
        return "What was not committed yet was rolled back." if self._committed else "Everything was rolled back."

    @contextmanager
    def watched(self) -> Iterator[None]:
        listeners = (("before_cursor_execute", self._before), ("after_cursor_execute", self._after), ("commit", self._note_commit))
        for name, listener in listeners:
            event.listen(self._connection, name, listener)
        try:
            yield
        finally:
            for name, listener in listeners:
                event.remove(self._connection, name, listener)
            self._set_legacy(False)

    def _before(self, _connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        match = _STATEMENT.match(statement)
        if match is None:
            return
        if match["dropped"]:
            self._remember(_plain(match["dropped"]))
        elif match["old"]:
            self._set_legacy(_plain(match["old"]).startswith(_MADE_BY_ALEMBIC))
        elif (name := _plain(match["trigger"])) in self._put_back:  # the revision makes up for the loss by itself
            self._put_back.remove(name)
            self._connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {_quoted(name)}")

    def _after(self, _connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        match = _STATEMENT.match(statement)
        if match is None or not match["new"]:
            return
        self._set_legacy(False)
        for name, sql in self._lost.pop(_plain(match["new"]), ()):
            self._connection.exec_driver_sql(sql)
            self._put_back.add(name)

    def _remember(self, table: str) -> None:
        """Keep the triggers of a table that is about to be dropped, in the order in which they were made."""
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND lower(tbl_name) = ? ORDER BY rowid"
        self._lost[table] = [(name.lower(), sql) for name, sql in self._connection.exec_driver_sql(query, (table,))]

    def _set_legacy(self, wanted: bool) -> None:
        if wanted != self._is_legacy:
            self._is_legacy = wanted
            self._connection.exec_driver_sql(f"PRAGMA legacy_alter_table={'ON' if wanted else 'OFF'}")

    def _note_commit(self, _connection: Connection) -> None:
        self._committed = True


def _plain(name: str) -> str:
    """A name as SQLite compares it: without quotes, in lower case."""
    quote = name[0]
    return (name[1:-1].replace(quote * 2, quote) if quote in '"`[' else name).lower()


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
