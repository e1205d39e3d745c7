"""libpq's TLS options (``sslmode``, ``sslrootcert``, ``sslcert``, ``sslkey``) as Python's ``ssl`` understands them.

The meaning of each mode is libpq's (PostgreSQL documentation, "SSL Mode Descriptions"); none is ever weakened.
"""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fininfra_db.errors import UrlInvalid

OPTIONS: Final = ("sslmode", "sslrootcert", "sslcert", "sslkey")
_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_LIBPQ_ROOT: Final = Path("~/.postgresql/root.crt")


@dataclass(frozen=True)
class Tls:
    """What a URL asks for. ``mode`` is None when it asks for nothing."""

    mode: str | None = None
    root_certificate: str | None = None
    certificate: str | None = None
    key: str | None = None

    @property
    def required(self) -> bool:
        return self.mode in ("require", "verify-ca", "verify-full")

    @property
    def verified(self) -> bool:
        return self.mode in ("verify-ca", "verify-full") or (self.mode == "require" and self.root_certificate is not None)

    def context(self) -> ssl.SSLContext:
        """A context for ``mode``. As in libpq, ``require`` with a root certificate verifies the server's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = self.mode == "verify-full"
        context.verify_mode = ssl.CERT_REQUIRED if self.verified else ssl.CERT_NONE
        try:
            if self.verified:
                self._trust(context)
            if self.certificate:
                context.load_cert_chain(os.path.expanduser(self.certificate), self.key and os.path.expanduser(self.key))
        except (OSError, ssl.SSLError) as error:
            raise UrlInvalid(
                f"A TLS certificate or key of the database URL cannot be loaded: {error.strerror or type(error).__name__}.",
                "Check sslrootcert, sslcert and sslkey.",
            ) from None
        return context

    def _trust(self, context: ssl.SSLContext) -> None:
        root = self.root_certificate
        if root is None and _LIBPQ_ROOT.expanduser().is_file():
            root = str(_LIBPQ_ROOT)
        if root is None or root == "system":
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.load_verify_locations(os.path.expanduser(root))


def tls_of(query: Mapping[str, str]) -> Tls:
    """Read the TLS options of a URL's query. Raises ``UrlInvalid`` for what libpq does not take."""
    mode = query.get("sslmode")
    root = query.get("sslrootcert")
    if mode is not None and mode not in _MODES:
        raise UrlInvalid(f"sslmode is not one of {', '.join(_MODES)}.", "Correct the database URL.")
    if root == "system" and mode not in (None, "verify-full"):
        raise UrlInvalid(
            "sslrootcert=system needs sslmode=verify-full: any public certificate would do otherwise.", "Correct the database URL."
        )
    if mode is None:
        mode = "verify-full" if root == "system" else "verify-ca" if root else "prefer" if query.get("sslcert") else None
    return Tls(mode, root, query.get("sslcert"), query.get("sslkey"))
