"""Ids that follow from the arguments of a seed, sort by time and can be told from everybody else's.

    tttttttt-tttt-7aaa-8aac-ccccpppppppp

``t`` is the instant of the row in milliseconds, as in every UUID of version 7 (RFC 9562), so that ids sort by time. ``a`` stands
for the arguments, ``c`` is a counter that tells rows of the same millisecond apart, and ``p`` is the mark of the profile, by
which ``--replace`` knows its rows.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from random import Random
from typing import Any


class Ids:
    """The ids of one profile with one set of arguments; ``key`` is all of it in 16 bytes."""

    def __init__(self, profile: str, arguments: Mapping[str, Any]) -> None:
        told = json.dumps([profile, dict(arguments)], sort_keys=True, default=str)
        self.key = blake2b(told.encode(), digest_size=16).digest()
        self.tag = self.key.hex()[:5]
        self.mark = blake2b(f"fininfra-db seed {profile}".encode(), digest_size=4).hexdigest()
        self._middle = f"7{self.tag[:3]}-8{self.tag[3:]}"

    def make(self, milliseconds: int, counter: int) -> str:
        """The id of a row of this instant. ``counter`` is below 2 ** 20."""
        return f"{self.before(milliseconds)}{self.after(counter)}"

    def before(self, milliseconds: int) -> str:
        """The part of an id that goes with the instant."""
        time = f"{milliseconds:012x}"
        return f"{time[:8]}-{time[8:]}-{self._middle}"

    def after(self, counter: int) -> str:
        """The rest of it."""
        return f"{counter >> 16:x}-{counter & 0xFFFF:04x}{self.mark}"

    @property
    def pattern(self) -> str:
        """What is LIKE the ids of these arguments."""
        return f"________-____-{self._middle}_-____{self.mark}"

    @property
    def profile_pattern(self) -> str:
        """What is LIKE the ids of this profile, with any arguments."""
        return f"________-____-7___-8___-____{self.mark}"

    def chance(self, number: int) -> Random:
        """A source of chance for the user ``number``: the same on every machine, whichever users were made before.

        Only its ``random()`` is promised to stay the same in every version of Python.
        """
        digest = blake2b(str(number).encode(), key=self.key, digest_size=8).digest()
        return Random(int.from_bytes(digest, "big"))
