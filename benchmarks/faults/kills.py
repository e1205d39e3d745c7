"""``kill -9`` at every statement of a run: the next run carries on, and what it leaves is what an undisturbed run leaves.

Where DDL commits by itself the next run may refuse instead, naming the revision and the statement; then the command that
it tells of must settle it.
"""

import signal
from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from typing import Final

from benchmarks.faults import Outcome, child, joined
from benchmarks.faults.databases import MARIADB, Snapshot, differences
from benchmarks.faults.histories import SHOP
from benchmarks.faults.places import Done, Place, place

UP: Final = ("upgrade", "head")
DOWN: Final = ("downgrade", "base")
_MOMENTS: Final[tuple[child.Moment, ...]] = ("before", "after")


def killed(program: str, kind: str, words: tuple[str, ...], *, step: int = 1) -> Outcome:
    """Kill a run of ``words`` at every ``step``-th point: before statement 1, after it, before statement 2..."""
    with place(program, kind, SHOP) as here:
        _begin(here, words)
        here.must(*words)
        wanted = here.database.snapshot()
        return joined(_tries(here, words, wanted, step))


def _tries(here: Place, words: tuple[str, ...], wanted: Snapshot, step: int) -> Iterator[Outcome]:
    points = ((number, moment) for number in count(1) for moment in _MOMENTS)
    for number, moment in islice(points, 0, None, step):
        _begin(here, words)
        done = here.run(*words, faults=[partial(child.kill_at, number, moment)])
        if done.code == 0:
            return  # the run has fewer statements
        point = f"killed {moment} statement {number} of {words[0]}"
        if done.code != -signal.SIGKILL:
            yield Outcome.of([f"{point}: {done}"])
            return
        yield recovered(here, words, wanted, point)


def _begin(here: Place, words: tuple[str, ...]) -> None:
    here.database.clear()
    if words == DOWN:
        here.must(*UP)


def recovered(here: Place, words: tuple[str, ...], wanted: Snapshot, point: str) -> Outcome:
    """Run again after a fault, undisturbed, and look at what is there then."""
    done = here.run(*words)
    named = here.database.kind == MARIADB and _names_the_statement(here, done)
    if named:
        done = here.run("repair", "--resume")
        if done.code != 0:
            return Outcome.of([f"{point}, then repair --resume: {done}"])
        done = here.run(*words)
    if done.code != 0:
        return Outcome.of([f"{point}, then run again: {done}"])
    wrong = differences(here.database.snapshot(), wanted) + _unfinished(here)
    return Outcome.of([f"{point}: {'; '.join(wrong)}"] if wrong else [], named=named)


def _names_the_statement(here: Place, done: Done) -> bool:
    """Whether a run refused as it should where a part of a revision may be left behind."""
    return here.is_ours and done.code == 1 and "statement" in done.output and any(one.name in done.output for one in SHOP)


def _unfinished(here: Place) -> list[str]:
    """What our own ledger still takes for unfinished."""
    return [f"the ledger has {revision} as unfinished" for revision, outcome in here.database.ledger() if outcome == "running"]
