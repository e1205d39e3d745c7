"""A corpus of URLs with passwords that are easily taken apart, and runs of the program in this process with all that comes out."""

import contextlib
import io
import itertools
import logging
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote, quote_plus

from fininfra_db.cli.app import app
from tests.conftest import Project, clean_environment

LEFT, RIGHT = "Lk7CanaryLeft", "Rt9CanaryRight"
"""The halves of each password: what stands between them may make somebody take one of them for something else."""

BETWEEN = (
    *("%", "@", ":", "/", "#", "?", "[", "]", "&", "=", "+", "\\", "'", '"', " ", ";", "$", "é", "ß€", "😀"),
    *("%40", "%%", "@@", ":@", "/@", "?x=", "&x=", "\\'", "://", "%2"),
)
WHERE = "127.0.0.1:1/books"
"""A port where nobody listens."""

SHAPES = {
    "login, quoted": lambda scheme, password: f"{scheme}://bob:{quote(password, safe='')}@{WHERE}",
    "login, in small letters": lambda scheme, password: f"{scheme}://bob:{_small(quote(password, safe=''))}@{WHERE}?connect_timeout=2",
    "login, unquoted": lambda scheme, password: f"{scheme}://bob:{password}@{WHERE}",
    "query, quoted": lambda scheme, password: f"{scheme}://bob@{WHERE}?password={quote_plus(password)}",
    "query, unquoted": lambda scheme, password: f"{scheme}://bob@{WHERE}?sslmode=prefer&passwd={password}",
    "options": lambda scheme, password: f"{scheme}://bob@{WHERE}?options={quote('-c my.secret=' + password.replace(' ', '_'))}",
    "a wrong port": lambda scheme, password: f"{scheme}://bob:{quote(password, safe='')}@127.0.0.1:port/books",
    "a wrong option": lambda scheme, password: f"{scheme}://bob:{quote(password, safe='')}@{WHERE}?nonsense=1",
    "no scheme": lambda _, password: f"bob:{password}@{WHERE}",
    "no slashes": lambda scheme, password: f"{scheme}:bob:{password}@{WHERE}",
    "an unknown scheme": lambda _, password: f"oracle://bob:{password}@{WHERE}",
    "no host": lambda scheme, password: f"{scheme}://bob:{password}@",
}
SCHEMES = ("postgresql", "mysql", "postgresql+psycopg2", "mssql", "mariadb", "sqlite", "postgres", "mysql+pymysql")


def corpus(size: int) -> list[str]:
    """URLs in which every text between the halves and every shape comes about equally often."""
    passwords = [f"{LEFT}{between}{RIGHT}" for between in BETWEEN]
    schemes = itertools.cycle(SCHEMES)
    every = [shape(next(schemes), password) for shape, password in itertools.product(SHAPES.values(), passwords)]
    return [every[number * len(every) // size] for number in range(size)]


def _small(text: str) -> str:
    """Percent-encoding in small letters."""
    return re.sub("%..", lambda code: code[0].lower(), text)


@dataclass(frozen=True)
class Ran:
    """How a run in this process ended, and all that it printed and logged."""

    line: str
    code: int
    printed: str


def run_here(project: Project, line: str, **environ: str) -> Ran:
    """Run a command line in this process, as ``Project.run`` does in one of its own."""
    environment = clean_environment() | project.environ | {"SQL_URL": project.url} | environ
    out, here = io.StringIO(), Path.cwd()
    code = 0
    with patch.dict(os.environ, environment, clear=True), _bare_logging(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        os.chdir(project.root)
        try:
            app(line.split(), prog_name="fininfra-db")
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os.chdir(here)
    return Ran(line, code, out.getvalue())


@contextlib.contextmanager
def _bare_logging() -> Iterator[None]:
    """Logging and warnings as they are when a program starts, without what the tests' framework listens with."""
    root, factory = logging.getLogger(), logging.getLogRecordFactory()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        logging.captureWarnings(False)
        logging.setLogRecordFactory(factory)
        root.handlers[:] = handlers
        root.setLevel(level)


def leaks(printed: str, *secrets: str) -> list[str]:
    """The secrets that somebody could read there, in whatever letters."""
    text = printed.lower()
    return [secret for secret in secrets if secret.lower() in text]


def files_with(root: Path, *secrets: str) -> list[str]:
    """The files that hold a secret."""
    return [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and leaks(path.read_bytes().decode("utf-8", "replace"), *secrets)
    ]
