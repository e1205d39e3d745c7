"""Sealing secrets at rest: ``encrypt_field``, ``decrypt_field`` and the keyring behind them.

The cipher is Fernet (AES-128-CBC with HMAC-SHA256), through ``cryptography``'s MultiFernet: the first key encrypts,
every key decrypts, so a key is replaced by putting the new one in front.
"""

import hashlib
import hmac
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from fininfra_db.errors import DecryptionFailed, KeyInvalid, KeyMissing, ValueRefused
from fininfra_db.settings import KEYS_VARIABLE, Settings, process_settings

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

_KEY: Final = re.compile(r"[A-Za-z0-9_\-+/]{43}=")
"""Fernet itself skips what is not base64 and stops at the padding: of two keys without a comma it would take the first."""


class Keyring:
    """The configured keys. Without any, everything works until a sealed value is touched.

    Neither ``repr`` nor any error shows a key.
    """

    def __init__(self, keys: str | None) -> None:
        """``keys`` is the text of ``FININFRA_DB_KEYS``: Fernet keys, comma-separated. None or empty is no key."""
        self._keys = tuple(key.strip() for key in (keys or "").split(",") if key.strip())

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._keys)} keys>"

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def fingerprint(self) -> str | None:
        """What tells one sealing key from another and gives neither away; None without a key."""
        if not self._keys:
            return None
        return hmac.new(self._keys[0].encode(), b"fininfra-db fingerprint", hashlib.sha256).hexdigest()[:16]

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
            return _fernet(self._keys).decrypt(sealed.encode()).decode()
        except (InvalidToken, UnicodeError):
            raise DecryptionFailed(
                "A sealed value cannot be opened with any of the configured keys: it was sealed with another key, or it was altered.",
                f"Add the key that sealed it to the end of {KEYS_VARIABLE}; the data is unchanged.",
            ) from None


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
    from cryptography.fernet import Fernet, MultiFernet

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
    return MultiFernet([Fernet(key) for key in keys])
