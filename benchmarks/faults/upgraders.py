"""Several upgraders at once: one of them migrates, each of them ends well, and nothing is applied twice."""

from collections import Counter

from benchmarks.faults import Outcome, joined
from benchmarks.faults.databases import POSTGRESQL
from benchmarks.faults.histories import CUSTOMERS, EMAILS, ORDERS, STATES, Revision, concurrent_index
from benchmarks.faults.places import Place, place
from benchmarks.projects import Project

LAST = Revision("r5_last", 'op.execute("UPDATE orders SET amount = amount + 1")', 'op.execute("UPDATE orders SET amount = amount - 1")')


def at_once(program: str, kind: str, upgraders: int, *, rounds: int = 1) -> Outcome:
    """``upgraders`` processes, ready and then released together, on an empty database; once in each round."""

    def history(project: Project) -> list[Revision]:
        return [CUSTOMERS, ORDERS, concurrent_index(project), EMAILS, STATES, LAST]

    with place(program, kind, history) as here:
        return joined(_round(here, upgraders) for _ in range(rounds))


def _round(here: Place, upgraders: int) -> Outcome:
    here.database.clear()
    together = here.barrier(upgraders)
    running = [here.start("upgrade", "head", faults=[together]) for _ in range(upgraders)]
    failures = [f"one of {upgraders}: {done}" for done in [one.wait() for one in running] if done.code != 0]
    return Outcome.of(failures + _wrong(here), tries=upgraders)


def _wrong(here: Place) -> list[str]:
    """What is not as one undisturbed run would have left it."""
    if here.database.versions() != [here.head]:
        return [f"at {here.database.versions()}, not at {here.head}"]
    times = Counter(row[0] for row in here.database.rows("SELECT revision FROM applied"))
    wrong = [f"{revision} was applied {number} times" for revision, number in times.items() if number > 1]
    if here.is_ours:
        done = Counter(revision for revision, outcome in here.database.ledger() if outcome == "done")
        if done != times:
            wrong.append(f"the ledger has {dict(done)}")
    if here.database.kind == POSTGRESQL:
        invalid = here.database.rows("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
        wrong += [f"the index {row[0]} is invalid" for row in invalid]
    return wrong
