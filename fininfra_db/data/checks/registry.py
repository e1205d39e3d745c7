"""Every rule, in the order in which they run."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from fininfra_db.data.checks import identity, links, money, sealed, storage
from fininfra_db.data.checks.names import RULE_NAMES
from fininfra_db.data.checks.rule import Rule
from fininfra_db.errors import OptionsInvalid

_RULES: Final = (
    links.CROSS_USERS,
    links.ORPHANS,
    identity.DUPLICATES,
    money.CURRENCY,
    money.SCALE,
    money.BALANCES,
    money.NET_WORTH,
    money.BREAKDOWNS,
    money.BUDGETS,
    sealed.PLAINTEXT,
    sealed.UNREADABLE,
    storage.LENGTHS,
    storage.STORAGE,
)

RULES: Final[Mapping[str, Rule]] = {rule.name: rule for rule in _RULES}


def rules_named(names: Sequence[str]) -> tuple[Rule, ...]:
    """The rules of these names, all when none is named, in the order of the registry. Raises ``OptionsInvalid``."""
    unknown = [name for name in names if name not in RULES]
    if unknown:
        near = [match for name in unknown for match in get_close_matches(name, RULE_NAMES, n=2)]
        meant = f"Did you mean {' or '.join(near)}? " if near else ""
        raise OptionsInvalid(f"There is no rule {', '.join(unknown)}. Nothing was checked.", f"{meant}The rules: {', '.join(RULE_NAMES)}.")
    return tuple(rule for rule in _RULES if not names or rule.name in names)
