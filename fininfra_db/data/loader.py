"""Writing seeds: what is asked for by name, one seed after the other."""

from collections import Counter
from collections.abc import Sequence

from fininfra_db.data.callables import find_callable, seed_callable
from fininfra_db.data.profiles import PROFILES, option, plan_of
from fininfra_db.data.request import SeedRequest
from fininfra_db.data.writing import seed_household, seed_planned
from fininfra_db.errors import OptionsInvalid
from fininfra_db.events import BlastRadius, Observer
from fininfra_db.results import Seeded
from fininfra_db.security import keyring_of
from fininfra_db.settings import Settings

__all__ = ["require_seeds", "seed_callable", "seed_household", "write_seeds"]


async def write_seeds(
    settings: Settings, request: SeedRequest, *, observer: Observer | None = None, assessed: BlastRadius | None = None
) -> Seeded:
    """Write what ``request`` stands for.

    Raises ``Refused`` when the database was marked otherwise since it was ``assessed``. Of several seeds those before the
    one that fails stay.
    """
    parts = [await _write(settings, each, observer, assessed) for each in request.named(settings)]
    return parts[0] if len(parts) == 1 else _together(parts)


def require_seeds(settings: Settings, request: SeedRequest) -> None:
    """Raise what would keep the seeds of ``request`` from starting: a name or options that mean nothing, or no key.

    Nothing is written or contacted.
    """
    for each in request.named(settings):
        name = each.name or ""
        if name not in PROFILES:
            find_callable(settings, name)
            _refuse_options(each)
            continue
        PROFILES[name].complete(each)
        keyring_of(settings).encrypt("")


async def _write(settings: Settings, request: SeedRequest, observer: Observer | None, assessed: BlastRadius | None) -> Seeded:
    name = request.name or ""
    if name not in PROFILES:
        return await seed_callable(settings, name, assessed, observer=observer)
    if PROFILES[name].is_planned:
        return await seed_planned(settings, plan_of(request), assessed, replace=request.replace, observer=observer)
    return await seed_household(settings, assessed, replace=request.replace, observer=observer)


def _refuse_options(request: SeedRequest) -> None:
    if request.given:
        raise OptionsInvalid(
            f"The seed {request.name} is a function of the project, which takes no options: {', '.join(map(option, request.given))}. "
            "Nothing was written.",
            f"Options are for the profiles {', '.join(PROFILES)}.",
        )


def _together(parts: Sequence[Seeded]) -> Seeded:
    """Several seeds as one result."""
    rows: Counter[str] = Counter()
    for part in parts:
        rows.update(part.rows)
    return Seeded(
        seed=", ".join(part.seed for part in parts),
        rows=dict(rows),
        inserted=sum(part.inserted for part in parts),
        removed=sum(part.removed for part in parts),
        parts=tuple(parts),
    )
