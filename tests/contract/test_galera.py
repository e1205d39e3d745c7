"""A node of a Galera cluster, which keeps a lock to itself."""

import asyncio
import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fininfra_db.connections import open_connection
from fininfra_db.errors import FininfraDbError
from fininfra_db.settings import load_settings
from tests.conftest import Project

PROVIDERS = [Path(folder, "libgalera_smm.so") for folder in ("/usr/lib/galera", "/usr/lib", "/usr/lib64/galera", "/usr/lib64/galera-4")]


def free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one node, made for this module. Its URL without a database."""
    search = f"{os.environ.get('PATH', '')}:/usr/sbin"
    programs = [shutil.which(name, path=search) for name in ("mariadbd", "mariadb-install-db")]
    provider = next((path for path in PROVIDERS if path.exists()), None)
    if None in programs or provider is None:
        (pytest.fail if os.environ.get("FININFRA_TEST_REQUIRE_SERVERS") else pytest.skip)("MariaDB's Galera library is not installed.")
    server, install = programs
    data = tmp_path_factory.mktemp("galera")
    as_user = []
    if os.getuid() == 0:
        as_user = ["--user=mysql"]
        shutil.chown(data, "mysql")
        for folder in itertools.takewhile(lambda folder: "pytest" in str(folder), data.parents):  # pytest's own, which it shuts
            folder.chmod(0o755)
    made = [install, "--no-defaults", *as_user, f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run(made, check=True, capture_output=True)
    port, group = free_ports(2)
    process = subprocess.Popen(
        [
            server,
            "--no-defaults",
            *as_user,
            f"--datadir={data}",
            f"--socket={data}/socket",
            f"--pid-file={data}/pid",
            "--bind-address=127.0.0.1",
            f"--port={port}",
            "--innodb-buffer-pool-size=16M",
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-on=ON",
            f"--wsrep-provider={provider}",
            "--wsrep-cluster-address=gcomm://",
            "--wsrep-node-address=127.0.0.1",
            f"--wsrep-provider-options=base_port={group};gmcast.listen_addr=tcp://127.0.0.1:{group};gcache.size=1M",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"mysql://root@127.0.0.1:{port}"
    _wait_for(f"{url}/mysql", process)
    yield url
    process.terminate()
    process.wait(timeout=60)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    async def knock() -> None:
        async with open_connection(load_settings(sql_url=url, environ={}), "reading"):
            pass

    deadline = time.monotonic() + 60
    while True:
        try:
            asyncio.run(knock())
            return
        except FininfraDbError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.fixture
def galera_project(node: str, tmp_path: Path, key: str) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    return Project("mysql", root, f"{node}/finance_{os.urandom(4).hex()}", {"FININFRA_DB_KEYS": key})


def test_a_lock_on_a_cluster_is_refused_with_the_reason(galera_project: Project) -> None:
    code, document = galera_project.answer("setup-and-migrate")
    assert (code, document["error"]["code"]) == (5, "lock-unsafe")
    assert "Galera" in document["error"]["message"]
    assert "lock = off" in document["error"]["hint"]
    assert galera_project.run("current").stdout == "base: no revision is applied\n"


def test_somebody_who_is_sure_goes_without_a_lock(galera_project: Project) -> None:
    assert galera_project.run("init").returncode == 0
    ini = galera_project.root / "alembic.ini"
    ini.write_text(ini.read_text().replace("[fininfra_db]", "[fininfra_db]\nlock = off"))
    done = galera_project.run("setup-and-migrate")
    assert done.returncode == 0, done.stderr
    assert galera_project.run("check").returncode == 0
