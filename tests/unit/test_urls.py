"""From a URL to a connection: spellings, places, passwords, and TLS that is never weaker than what was asked for.

Where only the wire can tell, a small server of the test's own speaks the first words of PostgreSQL's or MySQL's protocol, asks
for the password in clear text, and notes what it was sent and whether that was inside TLS.
"""

import asyncio
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from sqlalchemy import make_url, text

from fininfra_db.dialects import Target, target_of
from fininfra_db.errors import DatabaseUnreachable, UrlInvalid
from fininfra_db.session import make_engine, open_connection
from fininfra_db.settings import Settings, load_settings
from tests.conftest import url_on

ROOT = Path("/srv/finance")
SECRET = "hunter2"
AWKWARD_PASSWORDS = ("50%off", "p@ss", "a/b", "#hash", "colon:ated", "with space", "a+b=c&d?e", "pässword", "пароль-日本", "back\\slash'\"", "%41")
DRIVERS = ["postgresql", "mysql", *(["mysql+asyncmy"] if find_spec("asyncmy") else [])]
ENCRYPTING = ("require", "verify-ca", "verify-full")


def settings_for(url: str, root: Path = ROOT) -> Settings:
    return load_settings(project_root=root if root.is_dir() else Path("/"), sql_url=url, environ={})


def target(url: str) -> Target:
    return target_of(settings_for(url))


def arguments(url: str) -> dict[str, Any]:
    """What the driver is told beside the URL."""
    found = target(url)
    return found.dialect.engine_arguments(found.url, "application")[1]


async def connect(url: str, query: str = "SELECT 1") -> Any:
    """Connect as the operations of the program do, and ask one question."""
    async with open_connection(settings_for(url), "maintenance") as connection:
        return await connection.scalar(text(query))


# Spellings.


@pytest.mark.parametrize(
    ("scheme", "drivername"),
    [
        ("postgres", "postgresql+asyncpg"),
        ("postgresql", "postgresql+asyncpg"),
        ("postgresql+asyncpg", "postgresql+asyncpg"),
        ("postgresql+psycopg2", "postgresql+asyncpg"),
        ("postgresql+pg8000", "postgresql+asyncpg"),
        ("postgresql+psycopg", "postgresql+psycopg"),
        ("mysql", "mysql+aiomysql"),
        ("mysql+pymysql", "mysql+aiomysql"),
        ("mysql+mysqldb", "mysql+aiomysql"),
        ("mysql+aiomysql", "mysql+aiomysql"),
        ("mysql+asyncmy", "mysql+asyncmy"),
        ("mariadb", "mysql+aiomysql"),
        ("mariadb+mariadbconnector", "mysql+aiomysql"),
        ("mariadb+asyncmy", "mysql+asyncmy"),
        ("mssql", "mssql+aioodbc"),
        ("mssql+pyodbc", "mssql+aioodbc"),
        ("mssql+pymssql", "mssql+aioodbc"),
        ("mssql+aioodbc", "mssql+aioodbc"),
    ],
)
def test_every_spelling_of_a_server_gets_an_asynchronous_driver(scheme: str, drivername: str) -> None:
    url = target(f"{scheme}://bob:secret@db.example:1234/finance").url
    assert url.drivername == drivername
    assert (url.username, url.password, url.host, url.port, url.database) == ("bob", "secret", "db.example", 1234, "finance")


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite", "sqlite+aiosqlite"])
def test_every_spelling_of_sqlite_gets_an_asynchronous_driver(scheme: str) -> None:
    assert target(f"{scheme}:////data/finance.db").url == make_url("sqlite+aiosqlite:////data/finance.db")


@pytest.mark.parametrize("url", ["postgresql://bob@h/db", "mysql://bob@h/db", "sqlite:///x.db"])
def test_an_engine_can_be_made_of_what_was_resolved(url: str) -> None:
    assert make_engine(settings_for(url), "application").dialect.is_async


# Where a SQLite file is.


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("dev.db", "{root}/dev.db"),
        ("./dev.db", "{root}/dev.db"),
        ("data/dev.db", "{root}/data/dev.db"),
        ("../shared.db", "{parent}/shared.db"),
        ("/var/data/dev.db", "/var/data/dev.db"),
        ("~/dev.db", "{home}/dev.db"),
        ("~backup.db", "{root}/~backup.db"),
        ("with space@50%.db", "{root}/with space@50%.db"),
        (":memory:", ":memory:"),
    ],
)
def test_a_relative_sqlite_path_is_below_the_project_root(
    written: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, home, elsewhere = (tmp_path / name for name in ("project", "home", "elsewhere"))
    for folder in (root, home, elsewhere):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    located = target_of(settings_for(f"sqlite:///{written}", root)).url.database
    assert located == path.format(root=root, parent=tmp_path, home=home)


async def test_the_sqlite_file_is_made_in_the_project_wherever_the_command_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    async with open_connection(settings_for("sqlite:///./dev.db", root), "migration") as connection:
        await connection.execute(text("CREATE TABLE t (id INTEGER)"))
        await connection.commit()
    assert [path.name for path in root.iterdir()] == ["dev.db"]
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["a b.db", "a#b.db", "a?b.db".replace("?", "%3F"), "a%b.db", "ä.db"])
async def test_a_sqlite_file_of_any_name_can_be_written_and_read(name: str, tmp_path: Path) -> None:
    settings = settings_for(f"sqlite:///{name}", tmp_path)
    async with open_connection(settings, "migration") as connection:
        await connection.execute(text("CREATE TABLE t (id INTEGER)"))
        await connection.commit()
    async with open_connection(settings, "reading") as connection:
        assert await connection.scalar(text("SELECT count(*) FROM t")) == 0
    assert len(list(tmp_path.iterdir())) == 1


# What cannot be used.


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bob:hun@ter2@h/db",
        "postgresql://bob:hun@ter2/x@h/db",
        "postgresql://bob:hun@ter2:5@h/db",
        "mysql://bob:hun@ter2@h/db?charset=utf8mb4",
        "mssql://bob:hun@ter2@h/db",
    ],
)
def test_a_bare_at_sign_in_a_password_is_refused_without_showing_any_of_it(url: str) -> None:
    with pytest.raises(UrlInvalid) as caught:
        target(url)
    shown = f"{caught.value.message} {caught.value.hint}"
    assert "hun" not in shown
    assert "ter2" not in shown
    assert "percent-encode" in shown
    assert "--sql-url" in shown


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://bob:{SECRET}@h:port/db",
        f"postgresql://bob:{SECRET}@h:/db",
        f"postgresql://bob:{SECRET}@h:54 32/db",
        f"bob:{SECRET}@h/db",
        f"postgresql:bob:{SECRET}@h/db",
        f"://bob:{SECRET}@h/db",
        f"oracle://bob:{SECRET}@h/db",
        f"http://bob:{SECRET}@h/db",
        f"postgresql://bob:{SECRET}@h",
        f"postgresql://bob:{SECRET}@h/",
        f"mysql://bob:{SECRET}@h",
        f"mssql://bob:{SECRET}@h",
        f"mssql+pyodbc:///?odbc_connect=DRIVER=x;PWD={SECRET}",
        SECRET,
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UrlInvalid) as caught:
        target(url)
    assert SECRET not in f"{caught.value.message}{caught.value.hint}{caught.value!r}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert caught.value.hint
    assert caught.value.exit_code == 2


async def test_a_port_that_does_not_exist_is_a_server_that_cannot_be_reached() -> None:
    for scheme in ("postgresql", "mysql"):
        with pytest.raises(DatabaseUnreachable):
            await connect(f"{scheme}://bob:{SECRET}@127.0.0.1:99999/db")


# What is shown.


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://bob:{SECRET}@h:5432/db?sslmode=require",
        f"postgresql://bob@h/db?password={SECRET}",
        f"postgresql://bob@h/db?PassWord={SECRET}&sslpassword={SECRET}",
        f"mysql://bob@h/db?passwd={SECRET}&charset=utf8mb4",
        f"mssql://bob@h/db?odbc_connect=PWD%3D{SECRET}",
    ],
)
def test_what_is_shown_of_a_url_holds_no_secret(url: str) -> None:
    found = target(url)
    assert SECRET not in found.display
    assert SECRET not in repr(found)
    assert "bob" in found.display
    assert "@h" in found.display


def test_what_is_shown_of_a_url_is_the_rest_of_it() -> None:
    shown = target(f"postgres://bob:{SECRET}@h:5432/db?sslmode=require").display
    assert shown == "postgresql+asyncpg://bob:***@h:5432/db?sslmode=require"


# Passwords.


@pytest.mark.parametrize("password", AWKWARD_PASSWORDS)
@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mssql"])
def test_an_encoded_password_is_decoded_once(scheme: str, password: str) -> None:
    url = target(f"{scheme}://bob:{quote(password, safe='')}@h/db").url
    assert (url.password, url.host, url.database) == (password, "h", "db")


@pytest.mark.parametrize("password", ["a/b", "#hash", "colon:ated", "50%off", "with space"])
def test_a_password_that_can_be_told_apart_needs_no_encoding(password: str) -> None:
    url = target(f"postgresql://bob:{password}@h/db").url
    assert (url.password, url.host, url.database) == (password, "h", "db")


# The test's own server.


@dataclass
class Seen:
    """What reached the server: each login, as ``tls`` or ``plain``, with its password."""

    logins: list[tuple[str, str]] = field(default_factory=list)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, protocol: str, certificate: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.speak = {"postgresql": speak_postgresql, "mysql": speak_mysql}[protocol]
        self.certificate = certificate
        self.seen = Seen()


class Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        self.request.settimeout(5)
        with suppress(OSError, EOFError):
            server.speak(self.request, server.certificate, server.seen)


def exactly(connection: socket.socket, length: int) -> bytes:
    """Read no more than this: what follows may be the beginning of TLS."""
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def speak_postgresql(plain: socket.socket, certificate: ssl.SSLContext | None, seen: Seen) -> None:
    """SSLRequest, StartupMessage, AuthenticationCleartextPassword (PostgreSQL documentation, "Message Formats")."""
    ssl_request = 80877103
    connection, manner = plain, "plain"
    length, code = struct.unpack("!ii", exactly(connection, 8))
    if code == ssl_request:
        connection.sendall(b"S" if certificate else b"N")
        if certificate:
            connection, manner = certificate.wrap_socket(plain, server_side=True), "tls"
        length, code = struct.unpack("!ii", exactly(connection, 8))
    exactly(connection, length - 8)
    connection.sendall(b"R" + struct.pack("!ii", 8, 3))
    _, length = struct.unpack("!ci", exactly(connection, 5))
    seen.logins.append((manner, exactly(connection, length - 4).rstrip(b"\0").decode()))
    refusal = b"SFATAL\0VFATAL\0C28P01\0Mlogin refused\0\0"
    connection.sendall(b"E" + struct.pack("!i", len(refusal) + 4) + refusal)
    connection.close()


def speak_mysql(plain: socket.socket, certificate: ssl.SSLContext | None, seen: Seen) -> None:
    """HandshakeV10, SSLRequest, HandshakeResponse41, AuthSwitchRequest (MySQL documentation, "Connection Phase Packets")."""
    connect_with_db, protocol_41, offers_tls, secure_connection, plugin_auth, lenenc = 0x8, 0x200, 0x800, 0x8000, 0x80000, 0x200000
    capabilities = connect_with_db | protocol_41 | secure_connection | plugin_auth | lenenc | (offers_tls if certificate else 0)
    connection, manner = plain, "plain"

    def send(number: int, payload: bytes) -> None:
        connection.sendall(struct.pack("<I", len(payload))[:3] + bytes([number]) + payload)

    def receive() -> tuple[int, bytes]:
        header = exactly(connection, 4)
        return header[3], exactly(connection, int.from_bytes(header[:3], "little"))

    low, high = struct.pack("<H", capabilities & 0xFFFF), struct.pack("<H", capabilities >> 16)
    greeting = b"\x0a8.0.0\0" + struct.pack("<I", 1) + b"12345678\0" + low + b"\x21\x02\0" + high + b"\x15" + b"\0" * 10 + b"123456789012\0"
    send(0, greeting + b"mysql_native_password\0")
    number, payload = receive()
    if len(payload) == 32:
        if not certificate:
            return
        connection, manner = certificate.wrap_socket(plain, server_side=True), "tls"
        number, payload = receive()
    send(number + 1, b"\xfemysql_clear_password\0")
    number, payload = receive()
    seen.logins.append((manner, payload.rstrip(b"\0").decode()))
    send(number + 1, b"\xff" + struct.pack("<H", 1045) + b"#28000login refused")
    connection.close()


@contextmanager
def serving(driver: str, certificate: ssl.SSLContext | None = None) -> Iterator[tuple[str, Seen]]:
    """A server for ``driver``: the beginning of a URL for it, and what it sees."""
    with Server(driver.partition("+")[0], certificate) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}/db", server.seen
        server.shutdown()
        thread.join()


async def log_in(driver: str, options: str = "", *, password: str = SECRET, certificate: ssl.SSLContext | None = None) -> Seen:
    """Connect with ``options``, be refused, and tell what the server saw until then."""
    with serving(driver, certificate) as (place, seen):
        with pytest.raises((DatabaseUnreachable, UrlInvalid)) as caught:
            await connect(f"{driver}://bob:{quote(password, safe='')}@{place}{options}")
        assert password not in f"{caught.value.message}{caught.value.hint}"
    return seen


@pytest.mark.parametrize("password", AWKWARD_PASSWORDS)
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_password_reaches_the_server_unchanged(driver: str, password: str) -> None:
    assert (await log_in(driver, password=password)).logins[0][1] == password


async def test_a_user_with_an_awkward_password_logs_in_to_the_real_mysql(tmp_path: Path) -> None:
    server = url_on("mysql", tmp_path, "information_schema")
    user, password = "fininfra_awkward", "p@ss/w%rd: ü日"
    url = make_url(server).set(username=user, password=password).render_as_string(hide_password=False)
    await connect(server, f"CREATE OR REPLACE USER {user}@'%' IDENTIFIED BY '{password.replace('%', '%')}'") if False else None
    async with open_connection(settings_for(server), "maintenance") as connection:
        await connection.exec_driver_sql(f"DROP USER IF EXISTS {user}@'%%'")
        await connection.exec_driver_sql(f"CREATE USER {user}@'%%' IDENTIFIED BY '{password.replace('%', '%%')}'")
        try:
            assert await connect(url, "SELECT CURRENT_USER()") == f"{user}@%"
        finally:
            await connection.exec_driver_sql(f"DROP USER {user}@'%%'")
