"""Sealing secrets at rest: ``encrypt_field``, ``decrypt_field`` and the keyring behind them.

The cipher is Fernet (AES-128-CBC with HMAC-SHA256), through ``cryptography``'s MultiFernet: the first key encrypts,
every key decrypts, so a key is replaced by putting the new one in front.
"""

import re
from base64 import urlsafe_b64decode
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeVar

from fininfra_db.errors import DecryptionFailed, KeyInvalid, KeyMissing, ValueRefused
from fininfra_db.settings import KEYS_VARIABLE, Settings, process_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.fernet import Fernet, MultiFernet

R = TypeVar("R")

Verdict = tuple[int | None, str | None]
"""The number of the key that sealed a value, None when no key did; and what the value is to become, None when it stays as it is."""

_KEY: Final = re.compile(r"[A-Za-z0-9_\-+/]{43}=")
"""Fernet itself skips what is not base64 and stops at the padding: of two keys without a comma it would take the first."""
_FINGERPRINT: Final = 8
"""Hexadecimal digits of a fingerprint: enough to tell a handful of keys apart."""
SEALED_BEGINNINGS: Final = ("gAAAAA", "Z0FBQUFB")
"""How a Fernet token begins (its version and the high bytes of a time before 2106), and one that was put into base64 once more."""


class Keyring:
    """The configured keys. Without any, everything works until a sealed value is touched.

    Neither ``repr`` nor any error shows a key.
    """

    def __init__(self, keys: str | None) -> None:
        """``keys`` is the text of ``FININFRA_DB_KEYS``: Fernet keys, comma-separated. None or empty is no key, and twice is once."""
        self._keys = tuple(dict.fromkeys(key.strip() for key in (keys or "").split(",") if key.strip()))

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._keys)} keys>"

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """A short name for each key, in their order: the beginning of its hash, which tells nothing of the key.

        Raises ``KeyMissing`` or ``KeyInvalid``.
        """
        _fernets(self._keys)
        return tuple(sha256(b"fininfra-db " + urlsafe_b64decode(key)).hexdigest()[:_FINGERPRINT] for key in self._keys)

    def sealer(self) -> "Sealer":
        """What opens and seals many values in a row. Raises ``KeyMissing`` or ``KeyInvalid``."""
        return Sealer(_fernets(self._keys))

    def encrypt(self, value: str) -> str:
        """Seal ``value`` with the first key. Raises ``KeyMissing``, ``KeyInvalid``, or ``ValueRefused`` for half a surrogate pair."""
        try:
            plain = value.encode()
        except UnicodeEncodeError:
            raise ValueRefused("This text holds half a surrogate pair, which is no character and cannot be stored.") from None
        return _fernet(self._keys).encrypt(plain).decode("ascii")

    def decrypt(self, sealed: str) -> str:
        """Open ``sealed`` with whichever key fits. Raises ``DecryptionFailed`` when none does, never returns garbage."""
        from cryptography.fernet import InvalidToken

        try:
            return _fernet(self._keys).decrypt(str(sealed).encode()).decode()  # SQLite may give back what is no text
        except (InvalidToken, UnicodeError):
            raise DecryptionFailed(
                "A sealed value cannot be opened with any of the configured keys: it was sealed with another key, or it was altered.",
                f"Add the key that sealed it to the end of {KEYS_VARIABLE}; the data is unchanged.",
            ) from None


class Sealer:
    """Looks at many values in a row, and seals them with the first key. What is inside a value is bytes, whatever they mean.

    A value was mostly sealed with the key of the one before it, so that key is tried first.
    """

    def __init__(self, fernets: "tuple[Fernet, ...]") -> None:
        from cryptography.fernet import InvalidToken

        self._first = fernets[0]
        self._opens: list[tuple[int, Callable[[str], bytes]]] = [(number, each.decrypt) for number, each in enumerate(fernets)]
        self._signs: list[tuple[int, Callable[[str], int]]] = [(number, each.extract_timestamp) for number, each in enumerate(fernets)]
        self._refusals = (InvalidToken, ValueError)  # base64 has an error of its own for what is not ASCII

    def look(self, value: str) -> Verdict:
        """Which key sealed a value, by its signature and without opening it."""
        found = self._try(self._signs, value)
        return None if found is None else found[0], None

    def rotate(self, value: str) -> Verdict:
        """Seal with the first key what another one sealed."""
        number, plain = self._try(self._opens, value) or (None, b"")
        return number, self._seal(plain) if number else None

    def encrypt(self, value: str) -> Verdict:
        """Seal what is plaintext. What looks sealed is never sealed again."""
        found = self._try(self._opens, value)
        if found is not None or looks_sealed(value):
            return None if found is None else found[0], None
        return None, self._seal(value.encode())

    def _seal(self, plain: bytes) -> str:
        """Seal, and open the result again to see that the same is inside."""
        sealed = self._first.encrypt(plain)
        if self._first.decrypt(sealed) != plain:
            raise DecryptionFailed("A value that was just sealed does not open to what it was. It was not written.")
        return sealed.decode("ascii")

    def _try(self, attempts: "list[tuple[int, Callable[[str], R]]]", value: str) -> tuple[int, R] | None:
        if not isinstance(value, str):  # SQLite keeps a BLOB or a number in any column
            return None
        for place, (number, attempt) in enumerate(attempts):
            try:
                done = attempt(value)
            except self._refusals:
                continue
            if place:
                attempts.insert(0, attempts.pop(place))
            return number, done
        return None


def looks_sealed(value: object) -> bool:
    """Whether a value was sealed by somebody, with whatever key, or is what is left of such a value.

    So is what is no text, which SQLite keeps in any column: it is not anybody's plaintext.
    """
    return not isinstance(value, str) or value.startswith(SEALED_BEGINNINGS)


def encrypt_field(value: str) -> str:
    """Seal ``value`` with the keys of this process's settings. Raises ``KeyMissing`` or ``KeyInvalid``."""
    return default_keyring().encrypt(value)


def decrypt_field(sealed: str) -> str:
    """Open what :func:`encrypt_field` sealed. Raises ``KeyMissing``, ``KeyInvalid`` or ``DecryptionFailed``."""
    return default_keyring().decrypt(sealed)


def generate_key() -> str:
    """A new random key for ``FININFRA_DB_KEYS``."""
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode("ascii")


def keyring_of(settings: Settings) -> Keyring:
    """The keyring of these settings."""
    return Keyring(settings.keys)


def default_keyring() -> Keyring:
    """The keyring of this process: its environment, else the ``.env`` of the project around the working directory."""
    return keyring_of(process_settings(sql_url="sqlite://"))


@lru_cache(maxsize=8)
def _fernet(keys: tuple[str, ...]) -> "MultiFernet":
    from cryptography.fernet import MultiFernet

    return MultiFernet(_fernets(keys))


@lru_cache(maxsize=8)
def _fernets(keys: tuple[str, ...]) -> "tuple[Fernet, ...]":
    from cryptography.fernet import Fernet

    if not keys:
        raise KeyMissing(
            "No encryption key is configured, and this needs one.",
            f"Run 'fininfra-db keys generate' and set the key as {KEYS_VARIABLE} in .env or the environment.",
        )
    if not all(_KEY.fullmatch(key) for key in keys):
        raise KeyInvalid(
            f"{KEYS_VARIABLE} holds a value that is not a Fernet key (32 bytes in URL-safe base64).",
            "Run 'fininfra-db keys generate' for a new one; several keys are separated by commas.",
        )
    return tuple(Fernet(key) for key in keys)
