"""Keys: rotating sealed tokens in a database, against cryptography's bare ``MultiFernet.rotate`` in a loop.

    python -m benchmarks.keys [--rounds N] [--tokens N] [--only DATABASE]

The loop reads its tokens from a file, one a line, and writes nothing. Ours reads each from the database, seals it with the
other key, opens it again, writes it where it is still the same, reads it back and commits. Before each run the two keys
change places, so every run rotates every row; afterwards each row is looked at: it is under the first key.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from benchmarks.measure import Samples, Side, markdown, measure, setting
from benchmarks.projects import OURS, Project, scratch_database

TARGET: Final = 0.5
_PEER: Final = "MultiFernet.rotate"
_LOCAL: Final = "sqlite+aiosqlite:///dev.db"
_MYSQL: Final = os.environ.get("FININFRA_TEST_MYSQL_URL") or "mysql+aiomysql://root@127.0.0.1:3306/mysql"
_KEYS: Final = "keys"
_TOKENS: Final = "tokens"

_SEED: Final = """
from sqlalchemy import insert

from fininfra_db import BankConnection, User


def write(session):
    session.add(User(id="user", email="someone@example.com"))
    session.flush()
    for start in range(0, {count}, 5000):
        numbers = range(start, min(start + 5000, {count}))
        rows = [
            {{"user_id": "user", "access_token": f"access-sandbox-{{number:036d}}", "item_id": str(number), "institution_name": "Bank"}}
            for number in numbers
        ]
        session.execute(insert(BankConnection), rows)
"""

_WRITE_TOKENS: Final = """
import sys
from cryptography.fernet import Fernet
first = Fernet(open(sys.argv[1]).readline().strip())
with open(sys.argv[2], "w") as file:
    for number in range(int(sys.argv[3])):
        file.write(first.encrypt(f"access-sandbox-{number:036d}".encode()).decode() + "\\n")
"""

_LOOP: Final = """
import sys
from cryptography.fernet import Fernet, MultiFernet
keys = [Fernet(line.strip()) for line in open(sys.argv[1])]
ring = MultiFernet(reversed(keys))
for line in open(sys.argv[2]):
    ring.rotate(line.rstrip())
"""
"""The tokens are under the first key of the file; the loop seals them with the second."""

_DROP: Final = """
import asyncio, sys, aiomysql
async def main():
    connection = await aiomysql.connect(host=sys.argv[1], port=int(sys.argv[2]), user=sys.argv[3], password=sys.argv[4])
    await (await connection.cursor()).execute(sys.argv[5])
    connection.close()
asyncio.run(main())
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keys", description="Rotations against MultiFernet.rotate in a loop.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each command runs")
    parser.add_argument("--tokens", type=int, default=100_000, help="how many tokens are rotated")
    parser.add_argument("--only", help="one database: SQLite, PostgreSQL or MariaDB")
    given = parser.parse_args()
    name = f"fininfra_keys_{os.getpid()}"
    with (
        tempfile.TemporaryDirectory(prefix="fininfra-keys-") as folder,
        scratch_database(name) as postgresql,
        _scratch_mysql(name) as mysql,
    ):
        urls = {"SQLite": _LOCAL, "PostgreSQL": postgresql, "MariaDB": mysql}
        wanted = {database: url for database, url in urls.items() if url and given.only in (None, database)}
        projects = {database: _project(Path(folder) / database, url, given.tokens) for database, url in wanted.items()}
        sides = {_PEER: _loop(Path(folder) / "loop", given.tokens)} | {database: _side(each) for database, each in projects.items()}
        samples = measure(sides, given.rounds)
        for project in projects.values():
            project.side("keys", "status").output()
    print(_report(samples, given.tokens, given.rounds))


def _project(folder: Path, url: str, tokens: int) -> Project:
    """A database with so many tokens under the first of two keys, which are in a file."""
    folder.mkdir()
    made = Project.of_ours(folder / "project", url)
    project = Project(OURS, made.folder, made.environment | {"FININFRA_DB_KEYS_FILE": _KEYS})
    _write_keys(project.folder)
    (project.folder / "tokens.py").write_text(_SEED.format(count=tokens))
    project.side("setup-and-migrate").output()
    project.side("seed", "tokens:write").output()
    return project


def _side(project: Project) -> Side:
    side = project.side("keys", "rotate")
    return Side(side.arguments, side.folder, side.environment, partial(_exchange_keys, project.folder / _KEYS))


def _loop(folder: Path, tokens: int) -> Side:
    folder.mkdir()
    _write_keys(folder)
    subprocess.run([sys.executable, "-c", _WRITE_TOKENS, _KEYS, _TOKENS, str(tokens)], cwd=folder, check=True)
    return Side((sys.executable, "-c", _LOOP, _KEYS, _TOKENS), folder, dict(os.environ))


def _write_keys(folder: Path) -> None:
    make = "from cryptography.fernet import Fernet; print(*(Fernet.generate_key().decode() for _ in range(2)), sep='\\n')"
    (folder / _KEYS).write_text(subprocess.run([sys.executable, "-c", make], check=True, capture_output=True, text=True).stdout)


def _exchange_keys(file: Path) -> None:
    first, second = file.read_text().split()
    file.write_text(f"{second}\n{first}\n")


@contextmanager
def _scratch_mysql(name: str) -> Iterator[str | None]:
    """The URL of a database that is dropped at the end; None when no server answers."""
    server = urlsplit(_MYSQL)
    place = (server.hostname or "127.0.0.1", str(server.port or 3306), server.username or "root", server.password or "")

    def drop() -> bool:
        done = subprocess.run([sys.executable, "-c", _DROP, *place, f"DROP DATABASE IF EXISTS {name}"], capture_output=True)
        return done.returncode == 0

    answers = drop()
    try:
        yield server._replace(path=f"/{name}").geturl() if answers else None
    finally:
        if answers:
            drop()


def _report(samples: dict[str, Samples], tokens: int, rounds: int) -> str:
    loop = samples[_PEER]
    rows = [
        (
            name,
            f"{tokens / each.median * 1000:,.0f}",
            "" if each is loop else f"{loop.median / each.median:.2f} ({loop.fastest / each.fastest:.2f})",
            "" if each is loop else f"{TARGET}",
            f"{each.peak:.0f}",
        )
        for name, each in samples.items()
    ]
    packages = (OURS, "cryptography", "sqlalchemy", "aiosqlite", "asyncpg", "aiomysql")
    return "\n".join(
        [
            markdown(("rotation", "tokens/s", "of the loop's rate", "target", "peak MiB"), rows),
            "",
            f"{setting(*packages)} {tokens:,} tokens, whole processes. Medians of {rounds} rounds, the fastest in brackets.",
        ]
    )


if __name__ == "__main__":
    main()
