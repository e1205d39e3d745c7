"""Loading transactions: whole processes against what each database brings along, and against the ORM.

    python -m benchmarks.seed [--rows N] [--rounds N] [--database NAME ...]

Each side loads the same rows, in the same order, into the same table with all its keys and indexes, beside the same users and
accounts. Ours makes the rows as it goes; the others read them from a file that was exported from a database that ours loaded.
"""

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from benchmarks.measure import Samples, Side, markdown, measure, setting

OURS: Final = "ours"
ORM: Final = "ORM add_all"
_FEW: Final = 10_000
_SOME: Final = 100_000
_NAME: Final = f"fininfra_seed_{os.getpid()}"
_COLUMNS: Final = "id,user_id,account_id,transaction_id,amount,date,name,merchant_name,category,pending,created_at"
_POSTGRESQL: Final = os.environ.get("FININFRA_TEST_POSTGRESQL_URL") or "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres"
_MYSQL: Final = os.environ.get("FININFRA_TEST_MYSQL_URL") or "mysql+aiomysql://root@127.0.0.1:3306/mysql"


def seed_command(url: str, rows: int) -> tuple[str, ...]:
    """Our side: the command that loads ``rows`` transactions where everything else is there already."""
    return (sys.executable, "-m", "benchmarks.seeding", "bulk", url, str(rows))


@dataclass(frozen=True)
class Kind:
    """One kind of database: where it is, how its table is emptied and its rows are exported, and what loads them."""

    label: str
    peer: str
    target: float
    url: str
    empty: Callable[[], object]
    export: Callable[[Path], object]
    load: Callable[[Path], tuple[str, ...]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seed", description="Loading transactions.")
    parser.add_argument("--rows", type=int, default=_SOME, help="how many transactions are loaded")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs")
    parser.add_argument("--database", nargs="*", default=["sqlite", "postgresql", "mysql"], help="which databases")
    given = parser.parse_args()
    table: list[tuple[str, ...]] = []
    growth: list[tuple[str, ...]] = []
    for name in given.database:
        with tempfile.TemporaryDirectory(prefix="fininfra-seed-") as folder, ExitStack() as stack:
            kind = stack.enter_context(_KINDS[name](Path(folder)))
            if kind is None:
                print(f"{name}: the server or its client program is missing", file=sys.stderr)
                continue
            samples = _measured(kind, Path(folder), given.rows, given.rounds)
            table += _compared(kind, samples, given.rows)
            growth.append(_grown(kind, samples[OURS], given.rows))
    print(markdown(("database", "against", "ours rows/s", "theirs rows/s", "ratio", "target", "ours MiB", "theirs MiB"), table))
    print()
    print(markdown(("database", f"exponent from {_FEW:,} rows", f"MiB at {min(_SOME, given.rows):,}", f"MiB at {given.rows:,}"), growth))
    print(f"\n{setting('sqlalchemy', 'aiosqlite', 'asyncpg', 'aiomysql')} {given.rows:,} rows. Medians of {given.rounds} rounds.")


def _measured(kind: Kind, folder: Path, rows: int, rounds: int) -> dict[str, Samples]:
    _run(sys.executable, "-m", "benchmarks.seeding", "parents", kind.url, str(rows))
    kind.empty()
    _run(*seed_command(kind.url, rows))
    exported, plain = folder / "rows", folder / "rows.csv"
    kind.export(exported)
    _write_csv(kind, exported, plain)
    commands = {
        OURS: seed_command(kind.url, rows),
        kind.peer: kind.load(exported),
        ORM: (sys.executable, "-m", "benchmarks.seeding", "orm", kind.url, str(rows), str(plain)),
    }
    sides = {name: Side(command, Path.cwd(), os.environ, kind.empty) for name, command in commands.items()}
    return measure(sides, rounds)


def _compared(kind: Kind, samples: dict[str, Samples], rows: int) -> list[tuple[str, ...]]:
    ours = samples[OURS]
    return [
        (
            kind.label,
            name,
            f"{rows / ours.median * 1000:,.0f}",
            f"{rows / theirs.median * 1000:,.0f}",
            f"{theirs.median / ours.median:.2f}",
            f"{2.5 if name == ORM else kind.target}",
            f"{ours.peak:.0f}",
            f"{theirs.peak:.0f}",
        )
        for name, theirs in samples.items()
        if name != OURS
    ]


def _grown(kind: Kind, most: Samples, rows: int) -> tuple[str, ...]:
    """How time grows with the rows, and whether memory does: a run with few of them, and one with some."""
    few, some = Samples(), Samples()
    for samples, count in ((few, _FEW), (some, min(_SOME, rows))):
        samples.add(Side(seed_command(kind.url, count), Path.cwd(), os.environ, kind.empty))
    exponent = math.log(most.median / few.median) / math.log(rows / _FEW) if rows > _FEW else 1.0
    return kind.label, f"{exponent:.2f}", f"{some.peak:.0f}", f"{most.peak:.0f}"


def _write_csv(kind: Kind, exported: Path, plain: Path) -> None:
    """What the ORM side reads: the same lines with a header, and nothing for NULL."""
    with exported.open(encoding="utf-8") as source, plain.open("w", encoding="utf-8") as target:
        target.write(_COLUMNS + "\n")
        for line in source:
            target.write(line if kind.label == "SQLite" else line.replace("\\N", "").replace("\t", ","))


@contextmanager
def _sqlite(folder: Path) -> Iterator[Kind | None]:
    if shutil.which("sqlite3") is None:
        yield None
        return
    file, before = folder / "dev.db", folder / "parents.db"

    def empty() -> None:
        if not before.exists():
            shutil.copy(file, before)
        shutil.copy(before, file)

    def export(path: Path) -> None:
        _run("sqlite3", "-csv", str(file), f".once {path}", f"SELECT {_COLUMNS} FROM transactions ORDER BY id")

    def load(path: Path) -> tuple[str, ...]:
        return ("sqlite3", str(file), "PRAGMA foreign_keys = ON", ".mode csv", f".import {path} transactions")

    yield Kind("SQLite", "sqlite3 .import", 0.8, f"sqlite+aiosqlite:///{file}", empty, export, load)


@contextmanager
def _postgresql(folder: Path) -> Iterator[Kind | None]:
    server = urlsplit(_POSTGRESQL)._replace(scheme="postgresql")
    own = server._replace(path=f"/{_NAME}").geturl()

    def psql(*statements: str, url: str = own) -> tuple[str, ...]:
        return ("psql", "-q", "-X", "-d", url, *[word for statement in statements for word in ("-c", statement)])

    if shutil.which("psql") is None or subprocess.run(psql("SELECT 1", url=server.geturl()), capture_output=True).returncode:
        yield None
        return
    yield Kind(
        "PostgreSQL",
        "psql \\copy",
        0.9,
        own,
        lambda: _run(*psql("TRUNCATE transactions", "VACUUM ANALYZE")),
        lambda path: _run(*psql(f"\\copy (SELECT {_COLUMNS} FROM transactions ORDER BY id) TO '{path}'")),
        lambda path: psql(f"\\copy transactions ({_COLUMNS}) FROM '{path}'"),
    )
    _run(*psql(f'DROP DATABASE IF EXISTS "{_NAME}" WITH (FORCE)', url=server.geturl()))


@contextmanager
def _mysql(folder: Path) -> Iterator[Kind | None]:
    server = urlsplit(_MYSQL)
    client = shutil.which("mariadb") or shutil.which("mysql")
    login = (
        client or "",
        f"-h{server.hostname}",
        f"-P{server.port or 3306}",
        f"-u{server.username}",
        "--local-infile=1",
        "-N",
        "-B",
        "--raw",
    )
    if client is None or subprocess.run((*login, "-e", "SELECT 1"), capture_output=True).returncode:
        yield None
        return
    exported = ", ".join(f"ifnull({name}, '\\\\N')" for name in _COLUMNS.split(","))

    def export(path: Path) -> None:
        with path.open("wb") as file:
            statement = f"SELECT {exported} FROM transactions ORDER BY id"
            subprocess.run((*login, "--default-character-set=utf8mb4", _NAME, "-e", statement), check=True, stdout=file)

    yield Kind(
        "MariaDB",
        "LOAD DATA LOCAL INFILE",
        0.8,
        server._replace(path=f"/{_NAME}").geturl(),
        lambda: _run(*login, _NAME, "-e", "TRUNCATE transactions"),
        export,
        lambda path: (
            *login,
            _NAME,
            "-e",
            f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE transactions CHARACTER SET utf8mb4 ({_COLUMNS})",
        ),
    )
    _run(*login, "-e", f"DROP DATABASE IF EXISTS {_NAME}")


_KINDS: Final = {"sqlite": _sqlite, "postgresql": _postgresql, "mysql": _mysql}


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
