"""What a planned profile is: users by number, each with an id that is known beforehand, and their rows in batches."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, ClassVar, Final

from fininfra_db.data.profiles import PROFILES, first_month
from fininfra_db.data.profiles.ids import Ids
from fininfra_db.data.request import SeedRequest
from fininfra_db.models import Base

Row = dict[str, Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

BATCH: Final = 50_000
"""About as many rows are committed together: more gain nothing, and fewer wait for the disk more often."""


class Plan(ABC):
    """The rows of one request, which is complete.

    The arguments but ``users`` make the ids, as ``kind``: more users of the same kind are added to those that are there.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Counts up when the same arguments give other rows than before, which then have other ids."""

    def __init__(self, request: SeedRequest) -> None:
        assert request.users is not None
        assert request.as_of is not None
        self.request, self.users, self.as_of = request, request.users, request.as_of
        self.start = date(*first_month(request), 1)
        self.arguments: Mapping[str, Any] = {name: getattr(request, name) for name in PROFILES[self.name].takes}
        self.kind = {name: value for name, value in self.arguments.items() if name != "users"} | {"version": self.version}
        self.ids = Ids(self.name, self.kind)

    @property
    @abstractmethod
    def rows_of_user(self) -> int:
        """About how many rows a user has, for the progress and the size of a batch."""

    @abstractmethod
    def user_id(self, number: int) -> str:
        """The id of a user, who counts from 0."""

    @abstractmethod
    def rows(self, numbers: Sequence[int]) -> Iterator[tuple[type[Base], Iterable[Row]]]:
        """The rows of these users, parents before children. They are to be taken in this order, and each once."""

    def batches(self) -> Iterator[range]:
        """The numbers of the users that are committed together."""
        size = max(1, BATCH // self.rows_of_user)
        return (range(first, min(first + size, self.users)) for first in range(0, self.users, size))


def noon(day: date) -> datetime:
    """Twelve o'clock UTC: the same day on the calendars of nearly all zones, and no clock is ever turned then."""
    return datetime.combine(day, time(12), UTC)


def milliseconds(instant: datetime) -> int:
    """Since 1970."""
    return (instant - _EPOCH) // timedelta(milliseconds=1)
