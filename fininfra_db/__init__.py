"""fininfra-db: the database manager of fin-infra applications.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fininfra_db.version import __version__

if TYPE_CHECKING:
    from fininfra_db.data.request import SeedRequest
    from fininfra_db.database import Database
    from fininfra_db.errors import FininfraDbError, RowRefused
    from fininfra_db.migrate.authoring import Draft
    from fininfra_db.models import (
        Account,
        BankConnection,
        Base,
        Budget,
        Document,
        Goal,
        NetWorthSnapshot,
        Transaction,
        User,
    )
    from fininfra_db.results import Upserted
    from fininfra_db.security import decrypt_field, encrypt_field, generate_key
    from fininfra_db.session import bulk_insert, bulk_upsert, get_async_session, get_engine
    from fininfra_db.settings import Settings, load_settings
    from fininfra_db.types import EncryptedString, Money, UtcDateTime

_HOMES = {
    "Account": "models",
    "BankConnection": "models",
    "Base": "models",
    "Budget": "models",
    "Database": "database",
    "Document": "models",
    "Draft": "migrate.authoring",
    "EncryptedString": "types",
    "FininfraDbError": "errors",
    "Goal": "models",
    "Money": "types",
    "NetWorthSnapshot": "models",
    "RowRefused": "errors",
    "SeedRequest": "data.request",
    "Settings": "settings",
    "Transaction": "models",
    "Upserted": "results",
    "User": "models",
    "UtcDateTime": "types",
    "bulk_insert": "session",
    "bulk_upsert": "session",
    "decrypt_field": "security",
    "encrypt_field": "security",
    "generate_key": "security",
    "get_async_session": "session",
    "get_engine": "session",
    "load_settings": "settings",
}

__all__ = [
    "Account",
    "BankConnection",
    "Base",
    "Budget",
    "Database",
    "Document",
    "Draft",
    "EncryptedString",
    "FininfraDbError",
    "Goal",
    "Money",
    "NetWorthSnapshot",
    "RowRefused",
    "SeedRequest",
    "Settings",
    "Transaction",
    "Upserted",
    "User",
    "UtcDateTime",
    "__version__",
    "bulk_insert",
    "bulk_upsert",
    "decrypt_field",
    "encrypt_field",
    "generate_key",
    "get_async_session",
    "get_engine",
    "load_settings",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fininfra_db' has no attribute {name!r}")
    return getattr(import_module(f"fininfra_db.{home}"), name)


def __dir__() -> list[str]:
    return [*__all__]
