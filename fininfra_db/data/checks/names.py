"""The names of the rules, in the order in which they run; apart, so that completion does not load a database library."""

from typing import Final

RULE_NAMES: Final = (
    "cross-users",
    "orphans",
    "duplicates",
    "currency",
    "scale",
    "balances",
    "net-worth",
    "breakdowns",
    "budgets",
    "plaintext",
    "unreadable",
    "lengths",
    "storage",
)
