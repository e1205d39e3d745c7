"""How the engines of a foreign ``env.py`` come to connect as those of this program do."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy import Dialect as SqlalchemyDialect

from fininfra_db.connections import session_options
from fininfra_db.dialects import target_of
from fininfra_db.dialects.base import Purpose
from fininfra_db.settings import Settings


@contextmanager
def connecting_as_ours(settings: Settings, purpose: Purpose, *, only_looking: bool) -> Iterator[None]:
    """Let the engines that this thread uses with our driver understand libpq's options too, and wait no longer than ours.

    With ``only_looking`` they cannot write. The options are no part of the URL that a foreign ``env.py`` reads, since not
    every driver takes them from there. Nor need its URL be the one whose lock was taken, so nothing is known of a pooler there.
    """
    engines = _Engines(settings, purpose, only_looking)
    listeners = engines.listeners()
    for moment, listener in listeners:
        event.listen(Engine, moment, listener)
    try:
        yield
    finally:
        for moment, listener in listeners:
            event.remove(Engine, moment, listener)
        for record in engines.connecting:
            record.invalidate(soft=True)  # an engine that env.py keeps is for others too, who connect for themselves


class _Engines:
    """What happens to engines that this thread uses with our driver."""

    def __init__(self, settings: Settings, purpose: Purpose, only_looking: bool) -> None:
        self.target, self.purpose, self.only_looking = target_of(settings), purpose, only_looking
        self.connecting: list[Any] = []
        self._thread = threading.get_ident()
        self._url, self._options = self.target.dialect.engine_arguments(self.target.url, "application")
        self._session = replace(session_options(settings, purpose), is_proven=False)

    def listeners(self) -> list[tuple[str, Callable[..., Any]]]:
        """Pairs of an event of ``Engine`` and what to do then."""
        hooks = [(moment, self._if_ours(hook)) for moment, hook in self._hooks().items()]
        return [("do_connect", self._connect), ("connect", self._set_up), *hooks]

    def _hooks(self) -> Mapping[str, Callable[[Connection], None]]:
        if self.only_looking:
            return self.target.dialect.reading_hooks()
        return self.target.dialect.writing_hooks(self.purpose, self._session) if self.purpose == "migration" else {}

    def _is_ours(self, dialect: SqlalchemyDialect) -> bool:
        return threading.get_ident() == self._thread and dialect.driver == self._url.get_driver_name()

    def _if_ours(self, hook: Callable[[Connection], None]) -> Callable[[Connection], None]:
        return lambda connection: hook(connection) if self._is_ours(connection.dialect) else None

    def _connect(self, dialect: SqlalchemyDialect, record: Any, arguments: list[Any], options: dict[str, Any]) -> None:
        if not self._is_ours(dialect):
            return
        if self.only_looking and not self.target.dialect.features.has_server:
            self._open_for_reading(dialect, arguments, options)
        options.update(self._options)
        self.connecting.append(record)

    def _open_for_reading(self, dialect: SqlalchemyDialect, arguments: list[Any], options: dict[str, Any]) -> None:
        """Open our file as we do for reading; another file that ``env.py`` opens is its own business."""
        if arguments == list(dialect.create_connect_args(self._url)[0]):
            url, _ = self.target.dialect.engine_arguments(self.target.url, "reading")
            arguments[:], more = dialect.create_connect_args(url)
            options.update(more)

    def _set_up(self, dbapi_connection: Any, record: Any) -> None:
        if self.purpose == "migration" and threading.get_ident() == self._thread and record in self.connecting:
            self.target.dialect.set_up_session(dbapi_connection, self.target.url, self.purpose, self._session)
