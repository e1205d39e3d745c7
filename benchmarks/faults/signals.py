"""Ctrl-C and SIGTERM in the middle of a long statement: the server stops at once, and the database is at a revision."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from benchmarks.faults import Outcome
from benchmarks.faults.databases import MARIADB, POSTGRESQL, SQLITE
from benchmarks.faults.histories import CUSTOMERS, ORDERS, STATES, Revision
from benchmarks.faults.kills import UP, recovered
from benchmarks.faults.places import Place, place, wait_until

LONGEST_END: Final = 2.0
LONGEST_WORK: Final = 0.5
"""Seconds after the signal until the process has ended, and until the server works for it no more."""

_SLOW: Final = {
    SQLITE: "SELECT count(*) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) SELECT i FROM n)",
    POSTGRESQL: "SELECT pg_sleep(6)",
    MARIADB: "SELECT SLEEP(6)",
}
_BUSY: Final = {
    POSTGRESQL: "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query LIKE '%pg_sleep%'"
    " AND pid <> pg_backend_pid()",
    MARIADB: "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND info LIKE '%SLEEP(6)%'"
    " AND id <> CONNECTION_ID()",
}
_STUBBORN: Final = Revision(
    "r3_stubborn",
    """
deadline = time.monotonic() + (0 if Path("quick").exists() else 20)
Path("begun").touch()
while time.monotonic() < deadline:
    try:
        time.sleep(1)
    except BaseException:
        pass
""",
)
"""A revision that takes no notice of being interrupted."""


def signalled(program: str, kind: str, number: signal.Signals) -> Outcome:
    """Send a signal while a statement of 6 seconds runs."""
    slow = Revision("r3_slow", f'Path("begun").touch()\nif not Path("quick").exists():\n    op.execute("{_SLOW[kind]}")')
    with place(program, kind, (CUSTOMERS, ORDERS, slow, STATES)) as here:
        wanted = _undisturbed(here)
        running = here.start(*UP)
        _require(wait_until((here.folder / "begun").exists), "the slow revision did not begin")
        if kind in _BUSY:
            _require(here.database.poll(_BUSY[kind], bool, 5) is not None, "the slow statement was not seen")
        else:
            time.sleep(0.5)
        began = time.monotonic()
        running.send(number)
        with ThreadPoolExecutor() as pool:
            ending = pool.submit(running.wait, 20)
            idle = here.database.poll(_BUSY[kind], lambda busy: not busy, 15) if kind in _BUSY else 0.0
            done = ending.result()
        took = running.started + done.seconds - began
        failures = [f"the server worked on for {idle or 15:.1f} s"] if idle is None or idle > LONGEST_WORK else []
        failures += [f"ended after {took:.1f} s"] if took > LONGEST_END else []
        if here.is_ours:
            failures += _not_as_told(here, done.code, 128 + number, done.output)
        (here.folder / "quick").touch()
        rest = recovered(here, UP, wanted, f"{number.name} in a slow statement")
        return Outcome.of([*failures, *rest.failures], named=rest.named)


def interrupted_twice(program: str, kind: str) -> Outcome:
    """Ctrl-C, and again a second later, while a revision takes no notice."""
    with place(program, kind, (CUSTOMERS, ORDERS, _STUBBORN, STATES)) as here:
        wanted = _undisturbed(here)
        running = here.start(*UP)
        _require(wait_until((here.folder / "begun").exists), "the stubborn revision did not begin")
        running.send(signal.SIGINT)
        time.sleep(1)
        began = time.monotonic()
        running.send(signal.SIGINT)
        done = running.wait(5)
        took = time.monotonic() - began
        failures = [f"the second Ctrl-C did not end it within {took:.1f} s"] if took > 2 else []
        if here.is_ours and done.code != 130:
            failures.append(f"not exit 130 but {done}")
        (here.folder / "quick").touch()
        rest = recovered(here, UP, wanted, "a second Ctrl-C")
        return Outcome.of([*failures, *rest.failures], named=rest.named)


def _undisturbed(here: Place) -> dict[str, object]:
    (here.folder / "quick").touch()
    here.must(*UP)
    wanted = here.database.snapshot()
    here.database.clear()
    for name in ("quick", "begun"):
        (here.folder / name).unlink()
    return wanted


def _not_as_told(here: Place, code: int | None, wanted: int, output: str) -> list[str]:
    """What our program promises beyond the state of the database: its exit code, and where the database is, in words."""
    versions = here.database.versions()
    failures = [f"exit {code}, not {wanted}: {output.strip()[-300:]}"] if code != wanted else []
    failures += [f"{version} is not named: {output.strip()[-300:]}" for version in versions if version not in output]
    return failures + (["a traceback was printed"] if "Traceback (most recent call last)" in output else [])


def _require(reached: bool, otherwise: str) -> None:
    if not reached:
        raise RuntimeError(otherwise)
