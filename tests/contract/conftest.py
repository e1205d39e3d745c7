"""Projects on the servers, for what only a server has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Project, make_project


@pytest.fixture(params=["postgresql", "mysql"])
def server_project(request: pytest.FixtureRequest, tmp_path: Path, key: str) -> Iterator[Project]:
    """A project on each server."""
    yield from make_project(request.param, tmp_path, key)


@pytest.fixture
def postgresql_project(tmp_path: Path, key: str) -> Iterator[Project]:
    yield from make_project("postgresql", tmp_path, key)


@pytest.fixture
def mysql_project(tmp_path: Path, key: str) -> Iterator[Project]:
    yield from make_project("mysql", tmp_path, key)
