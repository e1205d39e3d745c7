"""Seeds: ``seed load`` against the loader that comes with each database, and against the ORM.

    python -m benchmarks.seed [--rows N] [--rounds N] [--only DATABASE]

The peer loads a file with the same transactions, in the same order, into the same table with every key and index, where their users,
connections and accounts are already; ours makes the rows, and writes those of the parents too. ``add_all`` is the ORM with 10,000
objects at a time. Each run begins with a new copy of the database. The last lines are about memory and about growth.
"""

import argparse
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from benchmarks.measure import Samples, Side, markdown, measure, setting
from benchmarks.projects import OURS, Project

TARGETS: Final = {"SQLite": 0.8, "PostgreSQL": 0.9, "MariaDB": 0.8}
_ORM_TARGET: Final = 2.5
_ORM: Final = "add_all"
_ACCOUNTS: Final = 5
_PER_ACCOUNT: Final = 200
_COLUMNS: Final = "id, user_id, account_id, transaction_id, amount, date, name, merchant_name, category, pending, created_at"
_POSTGRESQL: Final = os.environ.get("FININFRA_TEST_POSTGRESQL_URL") or "postgresql://postgres@127.0.0.1:5432/postgres"
_MARIADB: Final = os.environ.get("FININFRA_TEST_MYSQL_URL") or "mysql://root@127.0.0.1:3306/mysql"

_ADD_ALL: Final = """
import asyncio, sys
from itertools import islice
from fininfra_db import get_async_session
from fininfra_db.data.profiles import plan_of
from fininfra_db.data.request import SeedRequest

async def main():
    plan = plan_of(SeedRequest("load", users=int(sys.argv[1]), accounts=5, per_account=200))
    async with get_async_session() as session:
        for model, rows in plan.rows(range(plan.users)):
            rows = iter(rows)
            while objects := [model(**row) for row in islice(rows, 10_000)]:
                session.add_all(objects)
                await session.flush()
                session.expunge_all()
        await session.commit()

asyncio.run(main())
"""


@dataclass(frozen=True)
class Loader:
    """A database and the loader that comes with it.

    ``copy`` makes the second URL a copy of the first. ``export`` writes the transactions of a URL into a file, by id,
    and deletes them. ``load`` is the command that loads the file.
    """

    name: str
    peer: str
    url: Callable[[str], str]
    copy: Callable[[str, str], None]
    drop: Callable[[str], None]
    export: Callable[[str, Path], None]
    load: Callable[[str, Path], tuple[str, ...]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seed", description="seed load against each database's own loader.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many transactions are written")
    parser.add_argument("--rounds", type=int, default=3, help="how often each command runs")
    parser.add_argument("--only", choices=[*TARGETS], help="measure one database only")
    given = parser.parse_args()
    users = max(1, given.rows // (_ACCOUNTS * _PER_ACCOUNT))
    samples: dict[tuple[str, str], Samples] = {}
    growth: dict[str, dict[int, Samples]] = {}
    with tempfile.TemporaryDirectory(prefix="fininfra-seed-") as folder, ExitStack() as stack:
        for loader in _loaders(Path(folder)):
            if given.only in (None, loader.name):
                sides, ours = stack.enter_context(_sides(loader, Path(folder), users))
                samples |= measure({(loader.name, name): side for name, side in sides.items()}, given.rounds)
                growth[loader.name] = measure({count: ours(count) for count in (users // 100, users // 10) if count}, given.rounds)
                growth[loader.name][users] = samples[loader.name, OURS]
    print(_report(samples, growth, users, given.rounds))


@contextmanager
def _sides(loader: Loader, folder: Path, users: int) -> Iterator[tuple[dict[str, Side], Callable[[int], Side]]]:
    """What is compared on one database, and how ours is run with another number of users."""
    empty, parents, work = (loader.url(f"fininfra_seed_{name}_{os.getpid()}") for name in ("empty", "parents", "work"))
    file = folder / f"{loader.name}.csv"
    try:
        project = Project.of_ours(folder / loader.name, empty)
        project.side("setup-and-migrate").output()
        loader.copy(empty, parents)
        at_parents = replace(project, environment={**project.environment, "SQL_URL": parents})
        at_parents.side(*_seed(users)).output()
        loader.export(parents, file)
        environment = {**project.environment, "SQL_URL": work}
        fresh = partial(loader.copy, empty, work)

        def ours(count: int) -> Side:
            return replace(project.side(*_seed(count)), environment=environment, prepare=fresh)

        key = next(line for line in (project.folder / ".env").read_text().splitlines() if line.startswith("FININFRA_DB_KEYS="))
        orm = {**environment, "FININFRA_DB_KEYS": key.partition("=")[2].strip("'\"")}
        yield (
            {
                OURS: ours(users),
                loader.peer: Side(loader.load(work, file), project.folder, environment, partial(loader.copy, parents, work)),
                _ORM: Side((sys.executable, "-c", _ADD_ALL, str(min(users, 50))), project.folder, orm, fresh),
            },
            ours,
        )
    finally:
        for url in (empty, parents, work):
            loader.drop(url)


def _seed(users: int) -> tuple[str, ...]:
    return ("seed", "load", "--users", str(users), "--accounts", str(_ACCOUNTS), "--per-account", str(_PER_ACCOUNT))


def _loaders(folder: Path) -> Iterator[Loader]:
    yield Loader(
        "SQLite",
        "sqlite3 .import",
        lambda name: f"sqlite:///{folder / name}.db",
        lambda source, target: Path(shutil.copyfile(_file(source), _file(target))) and None,
        lambda url: _file(url).unlink(missing_ok=True),
        _export_sqlite,
        lambda url, file: ("sqlite3", "-cmd", "PRAGMA foreign_keys=ON", str(_file(url)), ".mode csv", f".import {file} transactions"),
    )
    if _run("psql", _server(_POSTGRESQL), "-c", "SELECT 1"):
        yield Loader(
            "PostgreSQL",
            r"psql \copy",
            lambda name: _server(_POSTGRESQL, name),
            lambda source, target: _admin(f'DROP DATABASE IF EXISTS "{_name(target)}"', _create(target, source)),
            lambda url: _admin(f'DROP DATABASE IF EXISTS "{_name(url)}" WITH (FORCE)'),
            lambda url, file: _require(
                *("psql", url, "-c", rf"\copy (SELECT {_COLUMNS} FROM transactions ORDER BY id) TO '{file}' CSV"),
                *("-c", "TRUNCATE transactions"),
            ),
            lambda url, file: ("psql", url, "-q", "-c", rf"\copy transactions ({_COLUMNS}) FROM '{file}' CSV"),
        )
    if _run(*_mysql(_MARIADB), "-e", "SELECT 1"):
        yield Loader(
            "MariaDB",
            "LOAD DATA LOCAL",
            lambda name: urlsplit(_MARIADB)._replace(scheme="mysql", path=f"/{name}").geturl(),
            _copy_mariadb,
            lambda url: _require(*_mysql(_MARIADB), "-e", f"DROP DATABASE IF EXISTS `{_name(url)}`"),
            _export_mariadb,
            lambda url, file: (
                *(*_mysql(url), "--local-infile=1", _name(url), "-e"),
                f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE transactions CHARACTER SET utf8mb4 ({_COLUMNS})",
            ),
        )


def _file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def _name(url: str) -> str:
    return urlsplit(url).path[1:]


def _server(url: str, name: str | None = None) -> str:
    """A URL that ``psql`` takes too."""
    parts = urlsplit(url)._replace(scheme="postgresql")
    return (parts if name is None else parts._replace(path=f"/{name}")).geturl()


def _mysql(url: str) -> tuple[str, ...]:
    parts = urlsplit(url)
    password = (f"--password={parts.password}",) if parts.password else ()
    return ("mysql", f"--host={parts.hostname}", f"--port={parts.port or 3306}", f"--user={parts.username}", *password)


def _create(target: str, source: str) -> str:
    return f'CREATE DATABASE "{_name(target)}" TEMPLATE "{_name(source)}"'


def _admin(*statements: str) -> None:
    _require("psql", _server(_POSTGRESQL), "-q", *(part for statement in statements for part in ("-c", statement)))


def _export_sqlite(url: str, file: Path) -> None:
    _require("sqlite3", "-csv", "-cmd", f".output {file}", str(_file(url)), f"SELECT {_COLUMNS} FROM transactions ORDER BY id")
    connection = sqlite3.connect(_file(url), isolation_level=None)
    connection.execute("DELETE FROM transactions")
    connection.execute("VACUUM")
    connection.close()


def _copy_mariadb(source: str, target: str) -> None:
    name = _name(target)
    _require(*_mysql(_MARIADB), "-e", f"DROP DATABASE IF EXISTS `{name}`; CREATE DATABASE `{name}`")
    dump = subprocess.run((*_dump(source), _name(source)), check=True, capture_output=True)
    subprocess.run((*_mysql(_MARIADB), name), check=True, input=dump.stdout)


def _dump(url: str) -> tuple[str, ...]:
    return ("mysqldump", *_mysql(url)[1:], "--skip-comments")


def _export_mariadb(url: str, file: Path) -> None:
    query = f"SELECT {_COLUMNS} FROM transactions ORDER BY id"
    client = (*_mysql(url), "--quick", "--batch", "--skip-column-names", "--raw", _name(url), "-e", query)
    with file.open("wb") as output, subprocess.Popen(client, stdout=subprocess.PIPE) as exporting:
        assert exporting.stdout is not None
        output.writelines(line.replace(b"\tNULL\t", b"\t\\N\t") for line in exporting.stdout)  # this process stays small
    if exporting.returncode:
        raise subprocess.CalledProcessError(exporting.returncode, client)
    _require(*_mysql(url), _name(url), "-e", "TRUNCATE transactions")


def _run(*command: str) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


def _require(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _report(samples: Mapping[tuple[str, str], Samples], growth: Mapping[str, Mapping[int, Samples]], users: int, rounds: int) -> str:
    rows, size = [], _ACCOUNTS * _PER_ACCOUNT
    for (database, peer), theirs in samples.items():
        if peer == OURS:
            continue
        count = min(users, 50) if peer == _ORM else users
        ours, target = samples[database, OURS], _ORM_TARGET if peer == _ORM else TARGETS[database]
        rates = users * size / ours.median * 1000, count * size / theirs.median * 1000
        rows.append((database, peer, f"{rates[0]:,.0f}", f"{rates[1]:,.0f}", f"{rates[0] / rates[1]:.2f}", f"{target}"))
    lines = [markdown(("database", "peer", "ours rows/s", "peer rows/s", "ratio", "target"), rows), ""]
    for database, by_users in growth.items():
        few, many = min(by_users), max(by_users)
        exponent = math.log(by_users[many].median / by_users[few].median) / math.log(many / few) if many > few else 1.0
        peaks = ", ".join(f"{by_users[count].peak:.0f} MiB at {count * size:,}" for count in sorted(by_users))
        lines.append(f"{database}: peak memory {peaks}; time grows with rows to the power of {exponent:.2f}.")
    packages = (OURS, "sqlalchemy", "aiosqlite", "asyncpg", "aiomysql")
    return "\n".join([*lines, "", f"{setting(*packages)} {users * size:,} transactions. Medians of {rounds} rounds, whole processes."])


if __name__ == "__main__":
    main()
