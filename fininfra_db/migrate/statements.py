"""What a statement does, by its first words: whether it only reads, changes the schema, or ends a transaction."""

import re
from typing import Final

_LEADING: Final = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_READS: Final = re.compile(
    r"(SELECT|SHOW|EXPLAIN|DESCRIBE|DESC|SET|USE|PRAGMA|BEGIN|START|SAVEPOINT|RELEASE|VALUES|TABLE)\b", re.IGNORECASE
)
_CHANGES_ROWS: Final = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE|REPLACE)\b", re.IGNORECASE)
_SCHEMA: Final = re.compile(r"(CREATE|ALTER|DROP|RENAME|COMMENT)\b(?!.*\bAS\s+(?:SELECT|WITH)\b)", re.IGNORECASE | re.DOTALL)
_MAKES: Final = re.compile(r"(CREATE|ALTER\s+TABLE\s+\S+\s+ADD)\b", re.IGNORECASE)
_TAKES_AWAY: Final = re.compile(r"(DROP|ALTER\s+TABLE\s+\S+\s+DROP)\b", re.IGNORECASE)
_ENDS: Final = re.compile(r"(COMMIT|END|ROLLBACK(?!\s+TO\b))\b", re.IGNORECASE)


def only_reads(statement: str) -> bool:
    """Whether a statement changes nothing that is kept; a function that it calls may, which cannot be seen."""
    text = _bare(statement)
    if text[:4].upper() == "WITH":
        return _CHANGES_ROWS.search(text) is None
    return _READS.match(text) is not None


def changes_schema(statement: str) -> bool:
    """Whether a statement is DDL, of which the schema shows whether it was done."""
    return _SCHEMA.match(_bare(statement)) is not None


def makes(statement: str) -> bool:
    """Whether a statement makes something that was not there."""
    return _MAKES.match(_bare(statement)) is not None


def takes_away(statement: str) -> bool:
    """Whether a statement drops something."""
    return _TAKES_AWAY.match(_bare(statement)) is not None


def ends_transaction(statement: str) -> bool:
    """Whether a statement ends the transaction that it runs in, behind everybody's back."""
    return _ENDS.match(_bare(statement)) is not None


def _bare(statement: str) -> str:
    """The statement from its first word on: without comments and parentheses before it."""
    return _LEADING.sub("", statement, count=1)
