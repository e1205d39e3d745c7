"""The pytest plugin: ``fininfra_database``, a private database for each test, and ``fininfra_session``, of which nothing stays.

Nothing but pytest is imported until a test asks for a fixture: whoever has this package installed and does not use it in tests
does not wait for it.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from fininfra_db.data.request import SeedRequest
    from fininfra_db.database import Database
    from fininfra_db.testing import PrivateDatabases

_SQLITE = "sqlite://"
_URL = "fininfra_url"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the databases are made, and what is in them."""
    group = parser.getgroup("fininfra-db")
    group.addoption("--fininfra-url", action="append", metavar="URL", help="make databases there; sqlite:// is in a temporary folder")
    parser.addini("fininfra_urls", "the servers to make databases on, one a line; $NAME stands for a variable", type="linelist")
    parser.addini("fininfra_seed", "the seed that is in every database")
    parser.addini("fininfra_project", "the folder with alembic.ini, from pytest's root", default=".")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "fininfra(seed): the seed in this test's database, a name or a SeedRequest; None is none.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each place."""
    urls = _urls(metafunc.config)
    if len(urls) > 1 and _URL in metafunc.fixturenames:
        metafunc.parametrize(_URL, urls, indirect=True, scope="session", ids=[url.partition(":")[0].partition("+")[0] for url in urls])


@pytest.fixture(scope="session")
def fininfra_url(request: pytest.FixtureRequest) -> str:
    """The URL of the server on which databases are made; ``sqlite://`` stands for files."""
    given: str = getattr(request, "param", None) or _urls(request.config)[0]
    url = os.path.expandvars(given)
    if url.startswith("$"):
        pytest.skip(f"{given} is not set")
    return url


@pytest.fixture(scope="session")
def _fininfra_databases(
    fininfra_url: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[PrivateDatabases]":
    from dataclasses import replace

    from fininfra_db.security import generate_key
    from fininfra_db.settings import load_settings
    from fininfra_db.testing import private_databases

    root = request.config.rootpath / request.config.getini("fininfra_project")
    settings = load_settings(project_root=root, sql_url=fininfra_url)
    settings = replace(settings, app_env=None, keys=settings.keys or generate_key(), direct_url=None)
    made = private_databases(settings, tmp_path_factory.mktemp("fininfra"))
    yield made
    made.close()


@pytest.fixture
def fininfra_database(_fininfra_databases: "PrivateDatabases", request: pytest.FixtureRequest) -> "Iterator[Database]":
    """A database at head that is this test's alone, as a ``fininfra_db.Database``; ``.settings`` leads to it."""
    made = _fininfra_databases.make(_seed(request))
    yield made
    _fininfra_databases.remove(made)


@pytest.fixture(scope="session")
def _fininfra_shared(_fininfra_databases: "PrivateDatabases") -> "Iterator[dict[Any, Database]]":
    """One database for each seed, for sessions that leave nothing in it."""
    made: dict[Any, Database] = {}
    yield made
    for database in made.values():
        _fininfra_databases.remove(database)


def _async_fixture(function: F) -> F:
    """A fixture that is a coroutine: pytest-asyncio wants to be told, anyio takes what pytest declares."""
    try:
        import pytest_asyncio
    except ImportError:
        return cast(F, pytest.fixture(function))
    return cast(F, pytest_asyncio.fixture(function))


@_async_fixture
async def fininfra_session(
    _fininfra_databases: "PrivateDatabases", _fininfra_shared: "dict[Any, Database]", request: pytest.FixtureRequest
) -> "AsyncIterator[AsyncSession]":
    """An ``AsyncSession`` on a database at head. Whatever the test does, and commits, is rolled back at its end.

    It is on ``fininfra_database`` in a test that has that, too.
    """
    from fininfra_db.testing import rolled_back_session

    if "fininfra_database" in request.fixturenames:
        database = request.getfixturevalue("fininfra_database")
    else:
        seed = _seed(request)
        if seed not in _fininfra_shared:
            _fininfra_shared[seed] = _fininfra_databases.make(seed)
        database = _fininfra_shared[seed]
    async with rolled_back_session(database.settings) as session:
        yield session


def _urls(config: pytest.Config) -> list[str]:
    return config.getoption("--fininfra-url") or config.getini("fininfra_urls") or [_SQLITE]


def _seed(request: pytest.FixtureRequest) -> "SeedRequest | str | None":
    marker = request.node.get_closest_marker("fininfra")
    if marker is not None and "seed" in marker.kwargs:
        seed: SeedRequest | str | None = marker.kwargs["seed"]
        return seed
    return request.config.getini("fininfra_seed") or None
