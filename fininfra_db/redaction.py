"""The one redactor: which texts are secrets, and how they are kept out of everything that is shown.

Settings know their own secrets (``Settings.redact``); ``without_logins`` needs none and masks what looks like a login in a URL,
for text that comes before there are settings, such as a word too many on the command line.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import unquote, unquote_plus

MASK: Final = "***"

_SECRET_NAMES: Final = re.compile(r"passw|pwd|passphrase|secret|token|credential|api_?key|odbc_connect", re.IGNORECASE)
"""What an option of a URL is called whose value is a secret or holds one."""

_ASSIGNMENT: Final = re.compile(
    rf"[\w.]*(?:{_SECRET_NAMES.pattern})[\w.]*\s*(?:=|\s)\s*(?P<value>'[^']*'|\"[^\"]*\"|(?:\\.|\S)+)", re.IGNORECASE
)
"""``name=value`` inside the value of an option, as in ``options=-c my.password=value``."""

_LOGIN: Final = re.compile(r"(?P<before>\b[a-zA-Z][\w+.-]*://[^\s:/@'\"]*:)\S+@")
_EVERYWHERE: Final = 8
"""A secret of so many characters is masked inside longer words too; a shorter one only as a word of its own, since it may be one."""


def is_secret_option(name: str) -> bool:
    """Whether an option of a URL's query holds a secret, by its name."""
    return _SECRET_NAMES.search(unquote_plus(name)) is not None


def masked_options(query: Mapping[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
    """The options of a URL, with a mask for those that hold a secret."""
    return {name: MASK if _holds_secret(name, value) else value for name, value in query.items()}


def _holds_secret(name: str, value: str | tuple[str, ...]) -> bool:
    values = (value,) if isinstance(value, str) else value
    return is_secret_option(name) or any(_ASSIGNMENT.search(unquote_plus(each)) for each in values)


def secrets_of_url(url: str) -> frozenset[str]:
    """The password of a URL and whatever its query keeps secret, as written.

    Works on URLs that do not parse: where a password may end at one of several '@', each of the texts counts.
    """
    login = re.match(r"[^:/]*://[^:/]*:(?P<rest>.*)", url, re.DOTALL)
    rest = login["rest"] if login else ""
    found = {rest[: at.start()] for at in re.finditer("@", rest)}
    for option in re.finditer(r"[?&](?P<name>[^=&?]+)=(?P<value>[^&]*(?:&[^&=]*(?=&|$))*)", url):
        if is_secret_option(option["name"]):
            found |= {option["value"], *option["value"].split("&")}  # a bare '&' in a password, and where the URL's parser cuts it
        found |= {inner["value"].strip("'\"") for inner in _ASSIGNMENT.finditer(unquote_plus(option["value"]))}
    return frozenset(found)


def redact(text: str, secrets: Iterable[str]) -> str:
    """``text`` with ``***`` for each of ``secrets``, however it is percent-encoded or escaped, and for each login in a URL."""
    pattern = _pattern(frozenset(secrets))
    return without_logins(pattern.sub(MASK, text) if pattern else text)


def without_logins(text: str) -> str:
    """``text`` with ``***`` for the password of each URL in it."""
    return _LOGIN.sub(rf"\g<before>{MASK}@", text)


@lru_cache(maxsize=32)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    plain = {form for secret in secrets for form in (secret, unquote(secret), unquote_plus(secret)) if form}
    spelled = [_spelled(secret) for secret in sorted(plain, key=len, reverse=True)]
    return re.compile("|".join(spelled), re.IGNORECASE) if spelled else None


def _spelled(secret: str) -> str:
    """A pattern for a secret in which each character may be written as it is or in any way that programs write it."""
    body = "".join(map(_character, secret))
    return body if len(secret) >= _EVERYWHERE else rf"(?<!\w){body}(?!\w)"


def _character(character: str) -> str:
    """A character as it is, percent-encoded (once or twice, or with the '%' doubled for an ini file), or escaped in a string."""
    encoded = "".join(f"%(?:25)?%?{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
    forms = [re.escape(character), encoded]
    if not (character.isascii() and character.isalnum()):
        code = ord(character)
        forms += [rf"\\+{re.escape(character)}", rf"\\+u{code:04x}", rf"\\+U{code:08x}"]
        forms += [rf"\\+x{code:02x}"] if code < 256 else []
        forms += ["".join(rf"\\+x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))]
        forms += {" ": [r"\+"], "%": ["%%"], "\n": [r"\\+n"], "\r": [r"\\+r"], "\t": [r"\\+t"]}.get(character, [])
    return f"(?:{'|'.join(forms)})"
