"""Every case for plain Alembic and for this program, and one table of what failed.

    python -m benchmarks.faults [--rounds N] [--only WORD]

Alembic stands in a project made with its ``async`` template, on the same revisions and the same URL. A failure is what
the promise excludes; how a program words its errors counts for this program only, which promises that.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from benchmarks.faults import Outcome, accidents, files, generated, joined, kills, locks, network, signals, upgraders
from benchmarks.faults.databases import LABELS, POSTGRESQL, SERVERS, SQLITE, Database
from benchmarks.faults.places import ALEMBIC
from benchmarks.measure import markdown, setting
from benchmarks.projects import OURS

Run = Callable[[str], Outcome]
"""A case, waiting for its program."""


@dataclass(frozen=True)
class Case:
    """A line of the table. ``only_ours`` is for what plain Alembic does not have at all."""

    promise: str
    kind: str
    run: Run
    only_ours: bool = False


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description="Faults, for plain Alembic and for this program.")
    parser.add_argument("--rounds", type=int, default=5, help="how often several upgraders are released")
    parser.add_argument("--only", default="", help="run the promises that have this word in them")
    given = parser.parse_args()
    rows = []
    for kind in _reachable():
        for case in _cases(kind, given.rounds):
            if given.only in case.promise:
                rows.append(_row(case))
                print(" | ".join(rows[-1]), file=sys.stderr)  # the whole takes a while
    print(markdown(("promise", "database", "tries", "failures, plain Alembic", "failures now"), rows))
    print(f"\n{setting(OURS, 'alembic', 'sqlalchemy', 'aiosqlite', 'asyncpg', 'aiomysql')}")


def _cases(kind: str, rounds: int) -> Iterator[Case]:
    several = (2, 4, 8)
    yield Case(
        "of several upgraders at once one migrates, all end well",
        kind,
        lambda program: joined(upgraders.at_once(program, kind, number, rounds=rounds) for number in several),
    )
    for words in (kills.UP, kills.DOWN):
        yield Case(f"kill -9 at any statement of {words[0]}: the next run carries on", kind, partial(kills.killed, kind=kind, words=words))
    for number in (signal.SIGTERM, signal.SIGINT):
        yield Case(f"{number.name}: the server stops at once, at a revision", kind, partial(signals.signalled, kind=kind, number=number))
    yield Case("a second Ctrl-C ends the process", kind, partial(signals.interrupted_twice, kind=kind))
    yield Case("exit 0 means done, whatever env.py did", kind, partial(accidents.statement_before_configure, kind=kind))
    yield Case("an old checkout changes nothing", kind, partial(accidents.old_checkout, kind=kind))
    yield Case("looking writes nothing", kind, partial(accidents.looked_at, kind=kind))
    yield from _of_files() if kind == SQLITE else _of_servers(kind)


def _of_files() -> Iterator[Case]:
    yield Case("a rebuilt table loses no row below it", SQLITE, accidents.rows_kept)
    yield Case("random schemas, randomly rebuilt, lose no row", SQLITE, partial(generated.rebuilt, seeds=range(40)))
    yield Case("a full disk leaves a revision", SQLITE, files.disk_full)
    yield Case("a read-only file or folder is told", SQLITE, files.not_writable)
    yield Case("a damaged page is told, the file left alone", SQLITE, files.damaged)
    yield Case("a truncated file is told and left alone", SQLITE, files.truncated)
    yield Case("a foreign file is told and left alone", SQLITE, files.foreign)


def _of_servers(kind: str) -> Iterator[Case]:
    troubles: dict[network.Trouble, int] = {"reset": 12, "delay": 1, "silence": 3}
    for trouble, points in troubles.items():
        run = partial(network.disturbed, kind=kind, trouble=trouble, points=points)
        yield Case(f"network {trouble}: an end within a minute, no half state", kind, run)
    yield Case("no revision begins without the lock", kind, partial(locks.lock_lost, kind=kind), only_ours=True)
    if kind == POSTGRESQL:
        yield Case("readers wait no longer than lock_timeout + 1 s", kind, locks.read_while_altered)


def _reachable() -> Iterator[str]:
    for kind, url in SERVERS.items():
        try:
            if kind != SQLITE:
                Database(url).rows("SELECT 1")
        except (OSError, SQLAlchemyError) as error:
            print(f"No {LABELS[kind]} at hand: {type(error).__name__}.", file=sys.stderr)
            continue
        yield kind


def _row(case: Case) -> tuple[str, str, str, str, str]:
    before = None if case.only_ours else case.run(ALEMBIC)
    now = case.run(OURS)
    for failure in now.failures:
        print(f"{case.promise}, {LABELS[case.kind]}: {failure}", file=sys.stderr)
    tries = str(now.tries) if before is None or before.tries == now.tries else f"{now.tries} ({before.tries})"
    named = f" ({now.named} named, then settled)" if now.named else ""
    return case.promise, LABELS[case.kind], tries, "-" if before is None else str(len(before.failures)), f"{len(now.failures)}{named}"


if __name__ == "__main__":
    main()
