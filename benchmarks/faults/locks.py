"""Locks on a live database: a migration lock that is lost, and a table that somebody reads while a revision wants to alter it."""

import asyncio
import time
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from benchmarks.faults import Outcome
from benchmarks.faults.databases import MARIADB, POSTGRESQL
from benchmarks.faults.histories import CUSTOMERS, EMAILS, ORDERS, SHOP, STATES, waiting
from benchmarks.faults.kills import UP, recovered
from benchmarks.faults.places import Place, place, wait_until

DDL_LOCK_TIMEOUT: Final = 0.5
READING: Final = 3.0
"""Seconds that a revision may wait for a table, and for how long somebody reads it."""

_HOLDER: Final = {
    POSTGRESQL: "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    MARIADB: "SELECT IS_USED_LOCK(CONCAT('fininfra-db:', DATABASE()))",
}
_END: Final = {POSTGRESQL: "SELECT pg_terminate_backend({})", MARIADB: "KILL {}"}


def lock_lost(program: str, kind: str) -> Outcome:
    """End the session that holds the migration lock while a revision runs: no other revision begins."""
    with place(program, kind, (CUSTOMERS, ORDERS, waiting("r3_waiting", "wait"), EMAILS, STATES)) as here:
        end = here.folder / "wait.end"
        end.touch()
        here.must(*UP)
        wanted = here.database.snapshot()
        here.database.clear()
        (here.folder / "wait.begun").unlink()
        end.unlink()
        running = here.start(*UP)
        if not wait_until((here.folder / "wait.begun").exists):
            raise RuntimeError("the waiting revision did not begin")
        holders = [row[0] for row in here.database.rows(_HOLDER[kind]) if row[0] is not None]
        failures = [] if len(holders) == 1 else [f"{len(holders)} sessions hold the migration lock"]
        here.database.execute(*(_END[kind].format(holder) for holder in holders))
        time.sleep(0.3)
        end.touch()
        done = running.wait()
        if done.code == 0 or "lock" not in done.output.lower() or done.has_traceback:
            failures.append(f"the loss of the lock was not told: {done}")
        applied = {row[0] for row in here.database.rows("SELECT revision FROM applied")}
        failures += [f"{later.name} began without the lock" for later in (EMAILS, STATES) if later.name in applied]
        rest = recovered(here, UP, wanted, "the lock was lost")
        return Outcome.of([*failures, *rest.failures], named=rest.named)


def read_while_altered(program: str) -> Outcome:
    """Hold a table of PostgreSQL open for reading while revisions alter it: other readers come through, the revisions in the end."""
    with place(program, POSTGRESQL, SHOP) as here:
        if here.is_ours:
            ini = here.folder / "alembic.ini"
            ini.write_text(ini.read_text().replace("[fininfra_db]\n", f"[fininfra_db]\nddl_lock_timeout = {DDL_LOCK_TIMEOUT}\n"))
        here.must(*UP)
        wanted = here.database.snapshot()
        here.database.clear()
        here.must("upgrade", ORDERS.name)
        running = here.start(*UP)
        # The reader is there before a forked child gets as far as its first statement.
        worst = asyncio.run(_read(here))
        done = running.wait()
        failures = [f"a reader waited {worst:.1f} s"] if worst > DDL_LOCK_TIMEOUT + 1 else []
        if done.code != 0:
            return Outcome.of([*failures, str(done)])
        rest = recovered(here, UP, wanted, "a table was being read")
        return Outcome.of([*failures, *rest.failures])


async def _read(here: Place) -> float:
    """Hold ``customers`` and ``orders``, and read every 20 ms beside it; the longest that a read took, in seconds."""
    engine = create_async_engine(here.database.url, poolclass=NullPool)
    query: Any = text("SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM orders)")
    worst = 0.0
    async with engine.connect() as holder, engine.connect() as reader:
        await holder.execute(query)
        leave = asyncio.create_task(_leave(holder))
        while not leave.done():
            began = time.monotonic()
            await reader.execute(query)
            await reader.rollback()
            worst = max(worst, time.monotonic() - began)
            await asyncio.sleep(0.02)
    return worst


async def _leave(holder: Any) -> None:
    await asyncio.sleep(READING)
    await holder.rollback()
