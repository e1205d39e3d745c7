"""The fault cases live in ``benchmarks/faults``, where plain Alembic runs them too; here they must not fail.

``python -m pytest tests/faults --sweep`` tries every point of the long ones, else only some.
"""

import os

import pytest

from tests.conftest import DATABASES, LOCAL_SERVERS, server_url


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sweep", action="store_true", help="try every statement, page and schema, not only some")


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> bool:
    """Whether every point is to be tried."""
    return bool(request.config.getoption("--sweep", default=False))


@pytest.fixture(params=DATABASES)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of database; without its server a skip, in CI a failure."""
    return _required(request.param)


@pytest.fixture(params=LOCAL_SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    """Each kind that has a server."""
    return _required(request.param)


@pytest.fixture
def postgresql() -> str:
    return _required("postgresql")


def _required(kind: str) -> str:
    if kind in LOCAL_SERVERS:
        url, reason = server_url(kind)
        if url is None:
            (pytest.fail if os.environ.get("FININFRA_TEST_REQUIRE_SERVERS") else pytest.skip)(reason)
    return kind
