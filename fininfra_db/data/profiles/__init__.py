"""The seed profiles by name: what each is for and what it takes. The rows are made by the files beside this one.

This file imports no SQLAlchemy: help and completion read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from fininfra_db.data.request import SeedRequest
from fininfra_db.errors import OptionsInvalid

if TYPE_CHECKING:
    from fininfra_db.data.profiles.plan import Plan

AS_OF: Final = date(2025, 12, 31)
"""The last day of the rows unless another is asked for. It is fixed, so that the same command gives the same rows on any day."""

_EPOCH: Final = 1970
"""The ids hold an instant since then."""
_LARGEST: Final[Mapping[str, int]] = {"users": 1 << 20, "months": 1200, "accounts": 1000, "per_account": 1_000_000_000}


@dataclass(frozen=True)
class Profile:
    """A kind of rows. ``takes`` are its arguments with their defaults; ``is_planned``: written from a :class:`Plan`, user by user."""

    name: str
    sentence: str
    takes: Mapping[str, Any]
    is_planned: bool = True

    def complete(self, request: SeedRequest) -> SeedRequest:
        """The request with every argument of the profile. Raises ``OptionsInvalid`` for those that it does not take or cannot make."""
        strange = [option(name) for name in request.given if name not in self.takes and name != "replace"]
        if strange:
            ways = ", ".join(map(option, self.takes)) or "no option but --replace"
            raise OptionsInvalid(f"The seed {self.name} does not take {', '.join(strange)}. Nothing was written.", f"It takes {ways}.")
        given = {name: getattr(request, name) for name in self.takes}
        full = replace(request, **{name: self.takes[name] if value is None else value for name, value in given.items()})
        _refuse_impossible(full, self.takes)
        return full


PROFILES: Final[Mapping[str, Profile]] = {
    profile.name: profile
    for profile in (
        Profile("household", "two people and their year 2025, always the same", {}, is_planned=False),
        Profile("demo", "people with salaries, homes, cards and loans", {"users": 8, "months": 24, "as_of": AS_OF, "random_seed": 0}),
        Profile(
            "load",
            "many plain transactions, to measure with",
            {"users": 100, "months": 12, "accounts": 5, "per_account": 200, "as_of": AS_OF, "random_seed": 0},
        ),
    )
}


def plan_of(request: SeedRequest) -> "Plan":
    """What the profile of ``request`` writes. Raises ``OptionsInvalid``."""
    assert request.name is not None
    full = PROFILES[request.name].complete(request)
    if request.name == "demo":
        from fininfra_db.data.profiles.demo import Demo

        return Demo(full)
    from fininfra_db.data.profiles.load import Load

    return Load(full)


def option(name: str) -> str:
    """An argument as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def _refuse_impossible(request: SeedRequest, takes: Mapping[str, Any]) -> None:
    for name, largest in _LARGEST.items():
        value = getattr(request, name)
        if name in takes and not 1 <= value <= largest:
            raise OptionsInvalid(f"{option(name)} is {value}, and goes from 1 to {largest:,}. Nothing was written.", "Correct it.")
    if request.as_of and first_month(request) < (_EPOCH, 1):
        raise OptionsInvalid(
            f"The months before {request.as_of} begin before {_EPOCH}. Nothing was written.", "Ask for fewer, or a later day."
        )


def first_month(request: SeedRequest) -> tuple[int, int]:
    """Year and month of the first day of the rows: ``months`` count the one that ``as_of`` is in."""
    assert request.as_of is not None
    assert request.months is not None
    year, month = divmod(request.as_of.year * 12 + request.as_of.month - request.months, 12)
    return year, month + 1
