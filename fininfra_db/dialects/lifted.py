"""A connection for coroutines without SQLAlchemy's own asynchronous interface, which brings its ORM along."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.util import greenlet_spawn

R = TypeVar("R")


class Lifted(Protocol):
    """What this package needs of a connection in a coroutine; an ``AsyncConnection`` has it, too."""

    async def run_sync(self, work: Callable[..., R], /, *arguments: Any) -> R:
        """Run synchronous code on the connection."""

    async def close(self) -> None:
        """Give the connection back; one that is closed stays so."""


class LiftedConnection:
    """A synchronous connection on an asynchronous driver, each use of which is lifted."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def run_sync(self, work: Callable[..., R], /, *arguments: Any) -> R:
        return await greenlet_spawn(work, self.connection, *arguments)

    async def close(self) -> None:
        await greenlet_spawn(self.connection.close)
