"""What goes wrong with a database while it is migrated, made to happen: the same cases for this program and for plain Alembic.

Each case runs a scenario and returns an :class:`Outcome`. ``tests/faults`` asserts that this program has no failure in
any; ``python -m benchmarks.faults`` runs both programs and prints one table.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """How often something was tried, each failure in words, and how often a half state was named and settled as told."""

    tries: int = 0
    failures: tuple[str, ...] = ()
    named: int = 0

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(self.tries + other.tries, self.failures + other.failures, self.named + other.named)

    @classmethod
    def of(cls, failures: Iterable[str], *, tries: int = 1, named: int = 0) -> "Outcome":
        """The outcome of one try, or of ``tries``, with what was wrong about it."""
        return cls(tries, tuple(failures), int(named))


def joined(outcomes: Iterable[Outcome]) -> Outcome:
    """All of them as one."""
    return sum(outcomes, Outcome())
