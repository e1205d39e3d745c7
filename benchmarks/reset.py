"""Reset: a seeded database put back from the cache, against building it; and what a test pays for its own database.

    python -m benchmarks.reset [--rounds N] [--transactions N] [--tests N]

Both resets begin with the database that the one before has left, a row of which was changed. A test's price is the median time
of its set-up, call and teardown, in one run of pytest with as many empty tests.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.measure import Samples, Side, markdown, measure, setting
from benchmarks.projects import OURS, Project, scratch_database

TARGET: Final = 0.15
TARGETS: Final = {"SQLite": 30, "PostgreSQL": 150}
"""Milliseconds that a test may pay."""
_LOCAL: Final = "sqlite+aiosqlite:///dev.db"
_USERS: Final = 100
_ACCOUNTS: Final = 5

_CHANGE: Final = """
import asyncio, sys
from sqlalchemy import text
from fininfra_db import get_async_session
async def main():
    async with get_async_session() as session:
        await session.execute(text("UPDATE users SET hashed_password = 'changed'"))
        await session.commit()
asyncio.run(main())
"""
_TIMES: Final = """
import json, pathlib, time
import pytest
times = {}
@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    started = time.perf_counter()
    try:
        return (yield)
    finally:
        times.setdefault(item.originalname, []).append(time.perf_counter() - started)
def pytest_sessionfinish():
    pathlib.Path("times.json").write_text(json.dumps(times))
"""
_TESTS: Final = """
import pytest
NUMBERS = pytest.mark.parametrize("number", range({tests}))
@NUMBERS
def test_empty(number): pass
@NUMBERS
def test_database(number, fininfra_database): pass
@NUMBERS
@pytest.mark.asyncio
async def test_session(number, fininfra_session): pass
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reset", description="Resets from the cache against building.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each reset runs")
    parser.add_argument("--transactions", type=int, default=100_000, help="how many transactions the database has")
    parser.add_argument("--tests", type=int, default=30, help="how many tests of each kind run")
    given = parser.parse_args()
    resets: dict[str, tuple[Samples, Samples]] = {}
    prices: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="fininfra-reset-") as folder, ExitStack() as stack:
        server = stack.enter_context(scratch_database(f"fininfra_reset_{os.getpid()}"))
        for database, url in (("SQLite", _LOCAL), ("PostgreSQL", server)):
            if url is not None:
                project = Project.of_ours(Path(folder) / database, url)
                resets[database] = _resets(project, given.transactions, given.rounds)
                prices[database] = _prices(project, "sqlite://" if url == _LOCAL else url, given.tests)
                _forget(project)
    print(_report(resets, prices, given.transactions, given.rounds, given.tests))


def _resets(project: Project, transactions: int, rounds: int) -> tuple[Samples, Samples]:
    each = str(max(1, transactions // (_USERS * _ACCOUNTS)))
    words = ("reset", "--yes", "--seed", "load", "--users", str(_USERS), "--accounts", str(_ACCOUNTS), "--per-account", each)
    change = Side((sys.executable, "-c", _CHANGE), project.folder, project.environment)
    sides = {
        name: replace(project.side(*words, *more), prepare=change.output) for name, more in (("cache", ()), ("build", ("--no-cache",)))
    }
    project.side(*words).output()
    if json.loads(project.side(*words, "--json").output())["result"]["cached"] is None:
        raise RuntimeError("the reset did not come from the cache")
    samples = measure(sides, rounds)
    return samples["cache"], samples["build"]


def _prices(project: Project, url: str, tests: int) -> dict[str, float]:
    (project.folder / "conftest.py").write_text(_TIMES)
    (project.folder / "test_prices.py").write_text(_TESTS.format(tests=tests))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--fininfra-url", url]
    subprocess.run(command, cwd=project.folder, env=project.environment, check=True, capture_output=True)
    times = json.loads((project.folder / "times.json").read_text())
    return {name: statistics.median(taken) * 1000 for name, taken in times.items()}


def _forget(project: Project) -> None:
    """Remove the copies, which on a server are databases of their own."""
    for snapshot in json.loads(project.side("snapshot", "list", "--json").output())["result"]["snapshots"]:
        project.side("snapshot", "delete", snapshot["name"]).output()


def _report(
    resets: dict[str, tuple[Samples, Samples]], prices: dict[str, dict[str, float]], transactions: int, rounds: int, tests: int
) -> str:
    rows = [
        (
            database,
            f"{cache.median:,.0f} ({cache.fastest:,.0f})",
            f"{build.median:,.0f} ({build.fastest:,.0f})",
            f"{cache.median / build.median:.2f} ({cache.fastest / build.fastest:.2f})",
            f"{TARGET}",
            f"{cache.peak:.1f}",
            f"{build.peak:.1f}",
        )
        for database, (cache, build) in resets.items()
    ]
    costs = [
        (database, f"{price['test_database'] - price['test_empty']:.1f}", f"{price['test_session'] - price['test_empty']:.1f}", f"{limit}")
        for (database, price), limit in ((item, TARGETS[item[0]]) for item in prices.items())
    ]
    return "\n".join(
        [
            markdown(("database", "from the cache ms", "built ms", "ratio", "target", "cache MB", "build MB"), rows),
            "",
            markdown(("database", "fininfra_database ms", "fininfra_session ms", "target"), costs),
            "",
            f"{setting(OURS, 'sqlalchemy', 'aiosqlite', 'asyncpg', 'pytest')} {transactions:,} transactions. Medians of {rounds} rounds, "
            f"the fastest in brackets, and of {tests} tests, beyond an empty test.",
        ]
    )


if __name__ == "__main__":
    main()
