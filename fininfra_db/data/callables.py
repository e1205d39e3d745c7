"""Seeds of the project: functions that are named ``module:callable`` and take a session."""

import inspect
from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from typing import Any

from fininfra_db.connections import migration_lock
from fininfra_db.data.profiles import PROFILES
from fininfra_db.data.transaction import in_transaction, reason_of
from fininfra_db.errors import OptionsInvalid
from fininfra_db.events import BlastRadius, Observer
from fininfra_db.migrate.config import make_importable
from fininfra_db.migrate.seeds import record
from fininfra_db.results import Seeded
from fininfra_db.settings import Settings


async def seed_callable(settings: Settings, name: str, assessed: BlastRadius | None = None, *, observer: Observer | None = None) -> Seeded:
    """Call ``name``, a ``module:callable`` of the project, with a session in a transaction that is committed at the end.

    An ``async def`` is given an ``AsyncSession``, any other callable a ``Session``; what it returns is ignored. It may
    commit by itself: what it committed stays, whatever comes after. The result counts no rows, since nobody knows them.
    Raises ``OptionsInvalid`` for a name that is no such callable, ``SeedFailed`` when the callable raises (its transaction
    is rolled back), ``KeyMissing`` when it sealed or opened a token without a key, ``DatabaseUnreachable``.
    """
    function = find_callable(settings, name)
    async with migration_lock(settings, observer) as lock, lock.kept(), in_transaction(settings, name, lock, assessed) as session:
        if _is_asynchronous(function):
            await function(session)
        else:
            _refuse_awaitable(await session.run_sync(function))
        await session.run_sync(lambda sync: record(sync.connection(), name, {}, kind={}))
    return Seeded(seed=name)


def find_callable(settings: Settings, name: str) -> Callable[[Any], Any]:
    """Import the callable that ``name`` stands for: a module, a colon, and a dotted path in it. Raises ``OptionsInvalid``."""
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise OptionsInvalid(
            f"There is no seed {name!r}. Nothing was written.", f"Name {', '.join(PROFILES)}, or module:callable as in seeds:testers."
        )
    make_importable(settings.project_root)
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # importing runs the project's code, which may raise anything and may even exit
        raise OptionsInvalid(
            settings.redact(f"The module of the seed {name!r} does not import: {reason_of(error)}. Nothing was written."),
            f"Modules are looked for in {settings.project_root} and among the installed packages.",
        ) from error
    try:
        function: Callable[[Any], Any] = attrgetter(path)(module)
    except AttributeError:
        raise OptionsInvalid(
            f"The module {module_name!r} has no {path!r}. Nothing was written.", "Check the name after the colon."
        ) from None
    if not callable(function) or not _takes_one_argument(function):
        raise OptionsInvalid(
            f"The seed {name!r} cannot be called with a session. Nothing was written.", "Make it a function of one argument, the session."
        )
    return function


def _takes_one_argument(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # some callables written in C have no signature to look at
        return True
    return True


def _is_asynchronous(function: Callable[..., Any]) -> bool:
    """Also for a decorated function and for an object whose ``__call__`` is asynchronous."""
    return inspect.iscoroutinefunction(inspect.unwrap(function)) or inspect.iscoroutinefunction(type(function).__call__)


def _refuse_awaitable(returned: object) -> None:
    """Nobody waits for what a plain function returns: a seed that is still to be run would be reported as done."""
    if inspect.iscoroutine(returned):
        returned.close()
    if inspect.isawaitable(returned):
        raise TypeError("it is not an 'async def' and returned something to be awaited")
