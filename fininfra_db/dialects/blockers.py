"""Who is in the way of a statement, in words."""

import re
from typing import Final

_NAMES: Final = re.compile(r'"((?:[^"]|"")+)"|([^\W\d]\w*)')
_VALUE: Final = re.compile(r"""['"#]|--|/\*|\$\D|(?<![\w$])\d""")
"""Where a value begins, or what may hide one: a quoted text, a number, a comment. ``$1`` stands for a value and is none."""
_LONGEST_QUERY: Final = 60


def names_in(statement: str) -> list[str]:
    """Whatever in a statement may be the name of a table, as the catalog has it: quoted as written, else in small letters."""
    return sorted({quoted.replace('""', '"') or bare.lower() for quoted, bare in _NAMES.findall(statement)})


def in_words(pid: int, user: str | None, program: str | None, state: str | None, seconds: int | None, doing: str, query: str | None) -> str:
    """One session, as in ``pid 4711 (app, web, idle in transaction for 12 s, holds accounts): SELECT ...``."""
    since = f"{state or 'busy'} for {seconds} s" if seconds is not None else state
    about = ", ".join(part for part in (user, program, since, doing) if part)
    return f"pid {pid} ({about})" + (f": {without_values(query)}" if query else "")


def without_values(query: str) -> str:
    """A statement as far as its first value, which may be anybody's data, and no longer than 60 characters."""
    value = _VALUE.search(query)
    bare = " ".join(query[: value.start() if value else None].split())
    return f"{bare[:_LONGEST_QUERY].rstrip()}..." if value or len(bare) > _LONGEST_QUERY else bare
