"""The arguments of a seed, which ``seed`` and ``reset`` take alike."""

from collections.abc import Iterator
from datetime import date
from typing import Annotated

import typer

from fininfra_db.data.profiles import AS_OF, PROFILES
from fininfra_db.data.request import SeedRequest
from fininfra_db.errors import OptionsInvalid


def complete_seed(incomplete: str) -> Iterator[tuple[str, str]]:
    """Shell completion of the profiles."""
    yield from ((profile.name, profile.sentence) for profile in PROFILES.values() if profile.name.startswith(incomplete))


Name = Annotated[
    str | None,
    typer.Argument(
        metavar="SEED", help=f"{', '.join(PROFILES)}, or module:callable. Default: seeds in alembic.ini.", autocompletion=complete_seed
    ),
]
Users = Annotated[int | None, typer.Option("--users", metavar="N", help="How many users.")]
Months = Annotated[int | None, typer.Option("--months", metavar="N", help="How many months of history.")]
Accounts = Annotated[int | None, typer.Option("--accounts", metavar="N", help="How many accounts each user has.")]
PerAccount = Annotated[int | None, typer.Option("--per-account", metavar="N", help="How many transactions each account has.")]
AsOf = Annotated[str | None, typer.Option("--as-of", metavar="DATE", help=f"The last day of the rows. Default: {AS_OF}.")]
RandomSeed = Annotated[int, typer.Option("--random-seed", metavar="N", help="Other rows of the same kind.")]
Replace = Annotated[bool, typer.Option("--replace", help="Remove what the profile wrote before.")]


def request_of(
    name: str | None,
    users: int | None,
    months: int | None,
    accounts: int | None,
    per_account: int | None,
    as_of: str | None,
    random_seed: int,
    *,
    replace: bool = False,
) -> SeedRequest:
    """The request of a command line. Raises ``OptionsInvalid`` for a day that is none."""
    day = None if as_of is None else _day(as_of)
    return SeedRequest(name, users, months, accounts, per_account, day, random_seed, replace)


def if_wanted(wanted: bool, request: SeedRequest) -> SeedRequest | None:
    """The request, if a seed was asked for with ``--seed``. Raises ``OptionsInvalid`` for a seed that was only described."""
    if not wanted and request != SeedRequest():
        raise OptionsInvalid("A seed is described and not asked for. Nothing was changed.", "Add --seed, or leave the rest out.")
    return request if wanted else None


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise OptionsInvalid(f"{text!r} is not a day. Nothing was written.", "Write it as in --as-of 2025-12-31.") from None
