"""What is asked of a seed. This file imports no SQLAlchemy, so that a command line is read quickly."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date

from fininfra_db.errors import OptionsInvalid
from fininfra_db.settings import Settings

ARGUMENTS = ("users", "months", "accounts", "per_account", "as_of", "random_seed")
"""What a profile may take beside its name, in the order in which it is written down."""


@dataclass(frozen=True)
class SeedRequest:
    """One seed, and how much of it.

    ``name`` is a profile (``household``, ``demo``, ``load``) or ``module:callable`` of the project; None stands for the ``seeds`` of
    ``alembic.ini``, or the household. The rest is for profiles: how many ``users``, ``months`` of history up to the day ``as_of``,
    ``accounts`` of each user and transactions ``per_account``; None is the profile's own default. ``random_seed`` makes other
    rows of the same kind. ``replace`` removes what the profile wrote before, with whatever arguments, and writes it again.
    """

    name: str | None = None
    users: int | None = None
    months: int | None = None
    accounts: int | None = None
    per_account: int | None = None
    as_of: date | None = None
    random_seed: int = 0
    replace: bool = False

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the arguments that were given, ``replace`` among them."""
        default = SeedRequest()
        return tuple(name for name in (*ARGUMENTS, "replace") if getattr(self, name) != getattr(default, name))

    def named(self, settings: Settings) -> Iterator["SeedRequest"]:
        """The seeds that this stands for, each with its name. Raises ``OptionsInvalid`` for arguments of nobody knows which."""
        if self.name is not None:
            yield self
            return
        if self.given and len(settings.seeds) > 1:
            raise OptionsInvalid(
                f"alembic.ini lists several seeds ({', '.join(settings.seeds)}), and the options do not say for which one they are. "
                "Nothing was written.",
                "Name the seed.",
            )
        for name in settings.seeds:
            yield replace(self, name=name)


def as_request(asked: SeedRequest | str | None) -> SeedRequest:
    """A name alone is a request, too."""
    return asked if isinstance(asked, SeedRequest) else SeedRequest(name=asked)
