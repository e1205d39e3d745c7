"""check-data: each rule against one grouped sum of the transactions, on the same connection.

    python -m benchmarks.check_data [--rounds N] [--transactions N] [--only DATABASE]

The books are made by the database itself, see :mod:`benchmarks.books`; nothing is wrong in them, so each rule looks at all there
is. Before each rule the sum is measured again, since the speed of a shared machine drifts. The last line is the whole command.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Final

from sqlalchemy import Connection, inspect, make_url, text

from benchmarks.books import make_books
from benchmarks.measure import Samples, Side, markdown, setting
from fininfra_db.connections import ensure_database, open_connection, read
from fininfra_db.data.checks.registry import RULES
from fininfra_db.data.checks.rule import Books
from fininfra_db.data.checks.runner import run_rule
from fininfra_db.database import Database
from fininfra_db.dialects import target_of
from fininfra_db.errors import DatabaseUnreachable
from fininfra_db.models import Base
from fininfra_db.security import generate_key, keyring_of
from fininfra_db.settings import Settings, load_settings

TARGET: Final = 2.0
PEER: Final = "SELECT account_id, count(*), sum(amount) FROM transactions GROUP BY account_id"
_SERVERS: Final = {
    "PostgreSQL": os.environ.get("FININFRA_TEST_POSTGRESQL_URL") or "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres",
    "MariaDB": os.environ.get("FININFRA_TEST_MYSQL_URL") or "mysql+aiomysql://root@127.0.0.1:3306/mysql",
}
_NAMES: Final = ("SQLite", *_SERVERS)

Ratios = Mapping[str, tuple[float, float]]
"""Of each rule its seconds, and the median of its ratios to the sum."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check_data", description="The rules of check-data against a grouped sum.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each rule runs")
    parser.add_argument("--transactions", type=int, default=1_000_000, help="rows of the largest table")
    parser.add_argument("--only", choices=_NAMES, help="one database")
    given = parser.parse_args()
    measured: dict[str, Ratios] = {}
    for name in [given.only] if given.only else _NAMES:
        with tempfile.TemporaryDirectory(prefix="fininfra-check-data-") as folder:
            found = asyncio.run(_on(name, Path(folder), given.transactions, given.rounds))
            if found is not None:
                measured[name] = found
    print(_report(measured, given.transactions, given.rounds))


async def _on(name: str, folder: Path, transactions: int, rounds: int) -> Ratios | None:
    """The figures of one database, which is made and dropped; None when there is no server."""
    scratch = f"fininfra_check_data_{os.getpid()}"
    url = f"sqlite:///{folder / scratch}.db" if name == "SQLite" else _SERVERS[name]
    settings = load_settings(project_root=folder, sql_url=url, environ={"FININFRA_DB_KEYS": generate_key()})
    try:
        if name != "SQLite":
            async with open_connection(settings, "reading"):
                pass
            url = make_url(url).set(database=scratch).render_as_string(hide_password=False)
            settings = load_settings(project_root=folder, sql_url=url, environ={"FININFRA_DB_KEYS": settings.keys or ""})
    except DatabaseUnreachable:
        return None
    try:
        await ensure_database(settings)
        await Database(settings).create_tables()
        await make_books(settings, transactions)
        ratios = await read(settings, lambda connection: _measure(connection, settings, rounds), takes_long=True)
        return {**ratios, "the whole command": _whole(folder, settings, ratios)}
    finally:
        if name != "SQLite":
            await _drop(_SERVERS[name], scratch)


async def _drop(server: str, name: str) -> None:
    async with open_connection(load_settings(sql_url=server, environ={}), "maintenance") as connection:
        await connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))


def _measure(connection: Connection, settings: Settings, rounds: int) -> dict[str, tuple[float, float]]:
    books = Books(target_of(settings).dialect, inspect(connection), Base.metadata.sorted_tables, keyring_of(settings))
    seconds: dict[str, list[float]] = {name: [] for name in (*RULES, "the sum")}
    ratios: dict[str, list[float]] = {name: [] for name in RULES}
    _sum(connection)  # warms the caches
    for _ in range(rounds):
        for name, rule in RULES.items():
            peer = _sum(connection)
            checked = run_rule(connection, books, rule)
            if checked.count:
                raise RuntimeError(f"{name} found {checked.faults} in books that are right")
            seconds[name].append(checked.seconds)
            seconds["the sum"].append(peer)
            ratios[name].append(checked.seconds / peer)
    found = {name: (statistics.median(seconds[name]), statistics.median(ratios[name])) for name in RULES}
    return {"the sum": (statistics.median(seconds["the sum"]), 1.0)} | found


def _sum(connection: Connection) -> float:
    started = perf_counter()
    connection.execute(text(PEER)).all()
    return perf_counter() - started


def _whole(folder: Path, settings: Settings, ratios: Ratios) -> tuple[float, float]:
    """One run of the command, start and all, against so many sums as there are rules."""
    program = str(Path(sys.executable).parent / "fininfra-db")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FININFRA_", "SQL_URL", "DATABASE_URL"))}
    environment |= {"SQL_URL": settings.sql_url, "FININFRA_DB_KEYS": settings.keys or ""}
    samples = Samples()
    samples.add(Side((program, "check-data"), folder, environment))
    return samples.seconds[0], samples.seconds[0] / (ratios["the sum"][0] * len(RULES))


def _report(measured: Mapping[str, Ratios], transactions: int, rounds: int) -> str:
    names = list(measured)
    header = ("rule", *(f"{name} {what}" for name in names for what in ("s", "ratio")), "target")
    rows = [
        (rule, *(f"{figure:.2f}" for name in names for figure in measured[name][rule]), "" if rule == "the sum" else f"{TARGET}")
        for rule in next(iter(measured.values()), {})
    ]
    return "\n".join(
        [
            markdown(header, rows),
            "",
            f"{setting('fininfra-db', 'sqlalchemy', 'aiosqlite', 'asyncpg', 'aiomysql')} {transactions:,} transactions. "
            f"The sum is `{PEER}`. Medians of {rounds} rounds; the whole command is set against {len(RULES)} sums.",
        ]
    )


if __name__ == "__main__":
    main()
