"""Quiet losses: an exit 0 that did nothing, an older checkout, rows gone with a rebuilt table, a look that writes."""

from typing import Final

from benchmarks.faults import Outcome, joined
from benchmarks.faults.databases import SQLITE, Database
from benchmarks.faults.histories import CUSTOMERS, EMAILS, ORDERS, SHOP, STATES
from benchmarks.faults.kills import DOWN, UP
from benchmarks.faults.places import Place, place

_EARLY: Final = """
if (connection := context.config.attributes.get("connection")) is not None:
    connection.exec_driver_sql("SELECT 1")
"""
"""A statement on the connection that our ``env.py`` is handed, put before its last line."""
_FOREIGN_KEYS: Final = """
from sqlalchemy import Engine, event

@event.listens_for(Engine, "connect")
def foreign_keys(dbapi_connection, _record):
    dbapi_connection.execute("PRAGMA foreign_keys=ON")

"""

_CHANGING: Final = (
    ("upgrade", "head"),
    ("downgrade", "-1"),
    ("downgrade", "base"),
    ("stamp", "head"),
    ("revision", "-m", "x"),
    ("revision", "--autogenerate", "-m", "x"),
)
_LOOKING: Final = (("current",), ("history",), ("history", "-i"), ("heads",), ("show", "head"), ("check",))
_OURS_ONLY: Final = (
    ("status",),
    ("wait", "--for", "head", "--timeout", "0"),
    ("setup-and-migrate",),
    ("create-tables",),
    ("seed",),
    ("reset", "--yes"),
    ("repair", "--resume"),
    ("snapshot", "list"),
    ("environment", "show"),
)


def statement_before_configure(program: str, kind: str, *, foreign: bool = True) -> Outcome:
    """An ``env.py`` that runs a statement before ``context.configure()``: exit 0 only if the database is where it was asked to be.

    ``foreign`` is the ``env.py`` of ``alembic init``, else it is this program's own.
    """
    with place(program, kind, SHOP, foreign=foreign) as here:
        env = here.folder / "migrations" / "env.py"
        good = env.read_text()
        bad = good.replace(
            "    context.configure(connection", "    connection.exec_driver_sql('SELECT 1')\n    context.configure(connection"
        )
        if not foreign:
            bad = f"from alembic import context\n{_EARLY}{good}"
        tries: tuple[tuple[tuple[str, ...], list[str]], ...] = ((UP, [here.head]), (("stamp", ORDERS.name), [ORDERS.name]), (DOWN, []))
        return joined(_asked(here, words, target, good, bad) for words, target in tries)


def _asked(here: Place, words: tuple[str, ...], target: list[str], good: str, bad: str) -> Outcome:
    env = here.folder / "migrations" / "env.py"
    here.database.clear()
    env.write_text(good)
    here.must("upgrade", "head" if words == DOWN else CUSTOMERS.name)
    env.write_text(bad)
    done = here.run(*words)
    at = here.database.versions()
    return Outcome.of([f"{' '.join(words)}: exit 0 at {at or 'no revision'}"] if done.code == 0 and at != target else [])


def old_checkout(program: str, kind: str) -> Outcome:
    """Every command in a checkout that lacks the database's last revision: nothing in the database changes."""
    with place(program, kind, SHOP) as here:
        here.must(*UP)
        (here.folder / "migrations" / "versions" / f"{STATES.name}.py").unlink()
        outcome = Outcome()
        for words in (*_LOOKING, *_CHANGING, *(_OURS_ONLY if here.is_ours else ())):
            before = _fingerprint(here.database)
            done = here.run(*words)
            failures = [f"{' '.join(words)} changed the database: {done}"] if _fingerprint(here.database) != before else []
            outcome += Outcome.of(failures)
        return outcome


def looked_at(program: str, kind: str) -> Outcome:
    """Every command that only looks, on a database that nothing was done to yet: nothing is written."""
    with place(program, kind, SHOP) as here:
        outcome = Outcome()
        for words in _LOOKING:
            here.database.clear()
            done = here.run(*words)
            made = here.database.file.exists() if kind == SQLITE else bool(here.database.snapshot())
            outcome += Outcome.of([f"{' '.join(words)} wrote to the database: {done}"] if made else [])
        return outcome


def rows_kept(program: str) -> Outcome:
    """A SQLite table with rows below it, deleted with it, is rebuilt: no row is lost."""
    with place(program, SQLITE, (CUSTOMERS, ORDERS, EMAILS)) as here:
        enforce_foreign_keys(here)
        here.must("upgrade", ORDERS.name)
        before = here.database.rows("SELECT id FROM orders ORDER BY id")
        done = here.run("upgrade", "head")
        after = here.database.rows("SELECT id FROM orders ORDER BY id")
        failures = [f"{len(before) - len(after)} of {len(before)} rows are gone: {done}"] if before != after else []
        return Outcome.of(failures + ([str(done)] if done.code != 0 else []))


def enforce_foreign_keys(here: Place) -> None:
    """Let plain Alembic's ``env.py`` turn foreign keys on, as the application does; our program decides by itself."""
    if not here.is_ours:
        env = here.folder / "migrations" / "env.py"
        env.write_text(_FOREIGN_KEYS + env.read_text())


def _fingerprint(database: Database) -> object:
    return database.file.read_bytes() if database.kind == SQLITE else (database.snapshot(), database.ledger())
