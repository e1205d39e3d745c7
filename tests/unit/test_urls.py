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
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from sqlalchemy import URL, make_url, text

from fininfra_db.connections import make_engine, open_connection
from fininfra_db.dialects import Target, target_of
from fininfra_db.errors import DatabaseUnreachable, UrlInvalid
from fininfra_db.settings import Settings, load_settings
from tests.conftest import url_on

ROOT = Path("/srv/finance")
SECRET = "hunter2"
AWKWARD_PASSWORDS = (
    "50%off",
    "p@ss",
    "a/b",
    "#hash",
    "colon:ated",
    "with space",
    "a+b=c&d?e",
    "pässword",
    "пароль-日本",
    "back\\slash'\"",
    "%41",
)
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


@pytest.fixture
def servers(tmp_path: Path) -> dict[str, URL]:
    """A database of each real server that is there whoever logs in."""
    existing = {"postgresql": "postgres", "mysql": "information_schema"}
    return {dialect: make_url(url_on(dialect, tmp_path, name)) for dialect, name in existing.items()}


def spelled(url: URL) -> str:
    return url.render_as_string(hide_password=False)


async def connect(url: str, query: str = "SELECT 1") -> Any:
    """Connect as the operations of the program do, ask one question, and return the last figure of its first row."""
    async with open_connection(settings_for(url), "maintenance") as connection:
        row = (await connection.execute(text(query))).first()
        return row[-1] if row else None


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


@pytest.mark.parametrize("scheme", ["postgresql+foo", "postgresql+aiomysql", "mysql+asyncpg", "mssql+x", "sqlite+pysqlcipher"])
def test_a_driver_that_is_not_known_is_refused(scheme: str) -> None:
    """``pysqlcipher`` would open the file with a key: without it, the default would find another database there."""
    with pytest.raises(UrlInvalid, match="names a driver that is not known") as caught:
        target(f"{scheme}://bob:{SECRET}@h/db")
    assert caught.value.exit_code == 2
    assert SECRET not in f"{caught.value.message}{caught.value.hint}"


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
def test_a_relative_sqlite_path_is_below_the_project_root(written: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("name", ["a b.db", "a#b.db", "a%3Fb.db", "a%b.db", "ä.db"])
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


async def test_a_user_with_an_awkward_password_logs_in_to_a_real_mysql(servers: dict[str, URL]) -> None:
    server = servers["mysql"]
    user, password = f"fininfra_{uuid4().hex[:12]}", "p@ss/w%rd: ü日'"
    async with open_connection(settings_for(spelled(server)), "maintenance") as connection:
        await connection.execute(text(f"CREATE USER {user} IDENTIFIED BY :password"), {"password": password})
        try:
            url = server.set(username=user, password=password)
            assert (await connect(spelled(url), "SELECT CURRENT_USER()")).startswith(f"{user}@")
        finally:
            await connection.execute(text(f"DROP USER {user}"))


# TLS, as the drivers are told.


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two certificate authorities, ``ours`` and ``another``, and certificates of ours for two hosts."""
    folder = tmp_path_factory.mktemp("authorities")
    ours = issue(folder, "ours")
    issue(folder, "another")
    issue(folder, "this-host", x509.IPAddress(IPv4Address("127.0.0.1")), ours)
    issue(folder, "other-host", x509.DNSName("db.example"), ours)
    return folder


Authority = tuple[x509.Certificate, EllipticCurvePrivateKey]


def issue(folder: Path, name: str, host: x509.GeneralName | None = None, issuer: Authority | None = None) -> Authority:
    """Write a certificate and its key: an authority's, or a host's signed by one."""
    key, subject = generate_private_key(SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day, now = timedelta(days=1), datetime.now(UTC)
    authority = issuer[0].subject if issuer else subject
    builder = x509.CertificateBuilder(authority, subject, key.public_key(), x509.random_serial_number(), now - day, now + day)
    if host:
        builder = builder.add_extension(x509.SubjectAlternativeName([host]), critical=False)
    else:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without certificates in it, where libpq and its followers look for some."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def options(authorities: Path, mode: str | None, root: str | None = None) -> str:
    named = {"sslmode": mode, "sslrootcert": root and (root if root == "system" else f"{authorities / root}.crt")}
    query = "&".join(f"{name}={quote(value)}" for name, value in named.items() if value)
    return f"?{query}" if query else ""


@pytest.mark.parametrize(
    ("mode", "root", "verified", "host_checked"),
    [
        ("require", None, False, False),
        ("require", "ours", True, False),
        ("verify-ca", None, True, False),
        ("verify-ca", "ours", True, False),
        ("verify-full", None, True, True),
        ("verify-full", "ours", True, True),
        (None, "ours", True, False),
        ("verify-full", "system", True, True),
        (None, "system", True, True),
    ],
)
@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_required_mode_is_a_context_that_checks_what_libpq_would(
    scheme: str, mode: str | None, root: str | None, verified: bool, host_checked: bool, authorities: Path, home: Path
) -> None:
    context = arguments(f"{scheme}://bob@h/db{options(authorities, mode, root)}")["ssl"]
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is (ssl.CERT_REQUIRED if verified else ssl.CERT_NONE)
    assert context.check_hostname is host_checked
    if root == "ours":
        assert [found["subject"] for found in context.get_ca_certs()] == [((("commonName", "ours"),),)]


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca"])
@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mssql"])
def test_the_systems_authorities_are_trusted_for_a_checked_host_only(scheme: str, mode: str) -> None:
    with pytest.raises(UrlInvalid, match="verify-full"):
        arguments(f"{scheme}://bob@h/db?sslmode={mode}&sslrootcert=system")


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_without_a_named_authority_libpqs_own_file_is_trusted(scheme: str, authorities: Path, home: Path) -> None:
    (home / ".postgresql").mkdir()
    (home / ".postgresql" / "root.crt").write_bytes((authorities / "ours.crt").read_bytes())
    context = arguments(f"{scheme}://bob@h/db?sslmode=verify-ca")["ssl"]
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_nothing_is_asked_of_the_driver_when_the_url_asks_for_nothing(scheme: str) -> None:
    assert "ssl" not in arguments(f"{scheme}://bob@h/db")


@pytest.mark.parametrize(
    ("mode", "encrypt", "trust"),
    [
        ("disable", "no", "yes"),
        ("allow", "optional", "yes"),
        ("prefer", "optional", "yes"),
        ("require", "yes", "yes"),
        ("verify-ca", "yes", "no"),
        ("verify-full", "yes", "no"),
    ],
)
def test_sql_server_is_told_in_its_own_words(mode: str, encrypt: str, trust: str) -> None:
    found = target(f"mssql://bob@h/db?sslmode={mode}")
    url, told = found.dialect.engine_arguments(found.url, "application")
    assert (url.query["Encrypt"], url.query["TrustServerCertificate"]) == (encrypt, trust)
    assert "sslmode" not in url.query
    assert told == {"timeout": 10}


def test_sql_servers_own_words_are_left_alone() -> None:
    found = target("mssql://bob@h/db?driver=ODBC+Driver+17+for+SQL+Server&Encrypt=yes&TrustServerCertificate=no")
    url, _ = found.dialect.engine_arguments(found.url, "application")
    assert url.query == {"driver": "ODBC Driver 17 for SQL Server", "Encrypt": "yes", "TrustServerCertificate": "no"}


@pytest.mark.parametrize("option", ["sslrootcert=/x.crt", "sslcert=/x.crt", "sslkey=/x.key", "odbc_connect=DRIVER%3Dx"])
def test_what_sql_servers_driver_would_ignore_is_refused(option: str) -> None:
    with pytest.raises(UrlInvalid):
        arguments(f"mssql://bob@h/db?sslmode=verify-full&{option}")


@pytest.mark.parametrize("mode", ["on", "true", "REQUIRE", "verify_full", "verify-identity"])
@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mssql"])
def test_a_mode_that_libpq_does_not_have_is_refused(scheme: str, mode: str) -> None:
    with pytest.raises(UrlInvalid, match="sslmode is not one of"):
        arguments(f"{scheme}://bob@h/db?sslmode={mode}")


@pytest.mark.parametrize("mode", [*ENCRYPTING, None])
@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "garbage"])
def test_an_authority_that_cannot_be_loaded_is_refused(scheme: str, mode: str | None, content: str | None, tmp_path: Path) -> None:
    if content:
        (tmp_path / "root.crt").write_text(content)
    with pytest.raises(UrlInvalid, match="certificate"):
        arguments(f"{scheme}://bob@h/db{options(tmp_path, mode, 'root')}")


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_client_certificate_that_cannot_be_loaded_is_refused(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(UrlInvalid, match="certificate"):
        arguments(f"{scheme}://bob@h/db?sslmode=require&sslcert={tmp_path}/client.crt&sslkey={tmp_path}/client.key")


def test_a_sqlite_file_has_no_connection_to_encrypt() -> None:
    with pytest.raises(UrlInvalid, match="SQLite"):
        arguments("sqlite:///dev.db?sslmode=require")


# TLS, as the server sees it.


def contexts(authorities: Path, kind: str, *, client_authority: str | None = None) -> ssl.SSLContext | None:
    """The TLS side of a server: None for one that offers none, else one with the certificate named ``kind``."""
    if kind == "no TLS":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authorities / f"{kind}.crt", authorities / f"{kind}.key")
    if client_authority:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authorities / f"{client_authority}.crt")
    return context


TRUSTING = [("require", None)]
TRUSTING_OURS = [("require", "ours"), ("verify-ca", "ours"), (None, "ours")]
TRUSTING_OTHERS = [("verify-ca", None), ("require", "another"), ("verify-ca", "another"), ("verify-full", "another"), (None, "another")]
CHECKING_HOST = [("verify-full", "ours")]
EVERY_REQUIRED = [*TRUSTING, *TRUSTING_OURS, *TRUSTING_OTHERS, *CHECKING_HOST]


@pytest.mark.parametrize(("mode", "root"), EVERY_REQUIRED)
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_server_without_tls_gets_no_login_when_tls_is_required(
    driver: str, mode: str | None, root: str | None, authorities: Path, home: Path
) -> None:
    assert (await log_in(driver, options(authorities, mode, root))).logins == []


@pytest.mark.parametrize(("mode", "root"), [*TRUSTING, *TRUSTING_OURS, *CHECKING_HOST])
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_server_that_proves_itself_gets_the_login_inside_tls(
    driver: str, mode: str | None, root: str | None, authorities: Path, home: Path
) -> None:
    seen = await log_in(driver, options(authorities, mode, root), certificate=contexts(authorities, "this-host"))
    assert seen.logins == [("tls", SECRET)]


@pytest.mark.parametrize(("mode", "root"), TRUSTING_OTHERS)
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_server_of_an_unknown_authority_gets_no_login(
    driver: str, mode: str | None, root: str | None, authorities: Path, home: Path
) -> None:
    seen = await log_in(driver, options(authorities, mode, root), certificate=contexts(authorities, "this-host"))
    assert seen.logins == []


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_server_with_the_certificate_of_another_host_gets_no_login_under_verify_full(
    driver: str, authorities: Path, home: Path
) -> None:
    seen = await log_in(driver, options(authorities, "verify-full", "ours"), certificate=contexts(authorities, "other-host"))
    assert seen.logins == []


@pytest.mark.parametrize(("mode", "root"), [*TRUSTING, *TRUSTING_OURS])
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_weaker_mode_than_verify_full_does_not_look_at_the_host(
    driver: str, mode: str | None, root: str | None, authorities: Path, home: Path
) -> None:
    seen = await log_in(driver, options(authorities, mode, root), certificate=contexts(authorities, "other-host"))
    assert seen.logins == [("tls", SECRET)]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_disable_uses_no_tls_even_where_there_is_some(driver: str, authorities: Path) -> None:
    seen = await log_in(driver, "?sslmode=disable", certificate=contexts(authorities, "this-host"))
    assert seen.logins == [("plain", SECRET)]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_prefer_uses_tls_where_there_is_some(driver: str, authorities: Path, home: Path) -> None:
    seen = await log_in(driver, "?sslmode=prefer", certificate=contexts(authorities, "other-host"))
    assert seen.logins[0] == ("tls", SECRET)


@pytest.mark.parametrize("mode", ["allow", "prefer"])
@pytest.mark.parametrize("driver", ["postgresql", "mysql"])
async def test_a_server_without_tls_can_be_used_when_tls_is_not_required(driver: str, mode: str, home: Path) -> None:
    assert (await log_in(driver, f"?sslmode={mode}")).logins == [("plain", SECRET)]


@pytest.mark.parametrize("mode", [None, "prefer", "require", "verify-full"])
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_client_certificate_is_presented(driver: str, mode: str | None, authorities: Path, home: Path) -> None:
    client = f"sslcert={authorities}/other-host.crt&sslkey={authorities}/other-host.key&sslrootcert={authorities}/ours.crt"
    query = f"?{client}&sslmode={mode}" if mode else f"?{client.rpartition('&')[0]}"
    demanding = contexts(authorities, "this-host", client_authority="ours")
    assert (await log_in(driver, query, certificate=demanding)).logins[0] == ("tls", SECRET)


# Real servers.

LOOK_AT_TLS = {
    "postgresql": ("SHOW ssl", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"),
    "mysql": ("SHOW GLOBAL VARIABLES LIKE 'have_ssl'", "SHOW SESSION STATUS LIKE 'Ssl_cipher'"),
}
"""For each kind of server: whether it offers TLS, and whether the session that asks is inside it."""
NO_TLS = ("off", "NO", "DISABLED")


@pytest.mark.parametrize("dialect", LOOK_AT_TLS)
@pytest.mark.parametrize("mode", ["require", "verify-full"])
async def test_a_real_server_is_reached_inside_tls_or_not_at_all_when_tls_is_required(
    dialect: str, mode: str, servers: dict[str, URL], home: Path
) -> None:
    offers_tls, is_inside = LOOK_AT_TLS[dialect]
    offered = await connect(spelled(servers[dialect]), offers_tls) not in NO_TLS
    required = spelled(servers[dialect].update_query_dict({"sslmode": mode}))
    if offered and mode == "require":
        assert await connect(required, is_inside)
    else:
        with pytest.raises(DatabaseUnreachable, match=r"TLS|SSL|certificate"):
            await connect(required)


@pytest.mark.parametrize("dialect", LOOK_AT_TLS)
@pytest.mark.parametrize("mode", [None, "disable", "prefer"])
async def test_a_real_server_works_as_it_is_when_tls_is_not_required(
    dialect: str, mode: str | None, servers: dict[str, URL], home: Path
) -> None:
    asked = servers[dialect].update_query_dict({"sslmode": mode} if mode else {})
    assert await connect(spelled(asked)) == 1


@pytest.mark.parametrize("dialect", LOOK_AT_TLS)
@pytest.mark.parametrize("option", ["channel_binding=require", "gssencmode=disable", "keepalives=1", "no_such_option=1"])
async def test_an_option_that_the_driver_does_not_know_is_named(dialect: str, option: str, servers: dict[str, URL]) -> None:
    with pytest.raises(UrlInvalid, match=option.partition("=")[0]) as caught:
        await connect(spelled(servers[dialect].update_query_string(option)))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("query", "setting", "value"),
    [
        ("application_name=payroll%20job", "application_name", "payroll job"),
        ("options=-c%20statement_timeout%3D1234", "statement_timeout", "1234ms"),
        ("options=--search_path%3Da%2Cb", "search_path", "a,b"),
    ],
)
async def test_libpqs_session_options_reach_postgresql(query: str, setting: str, value: str, servers: dict[str, URL]) -> None:
    assert await connect(spelled(servers["postgresql"].update_query_string(query)), f"SHOW {setting}") == value


def test_options_that_are_not_understood_are_refused() -> None:
    with pytest.raises(UrlInvalid, match="options"):
        arguments("postgresql://bob@h/db?options=statement_timeout")


# What is said.


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_certificate_that_is_not_trusted_is_said_to_be_the_trouble(driver: str, authorities: Path, home: Path) -> None:
    for mode, root, trouble in (("verify-full", "another", "issuer certificate"), ("verify-full", "ours", "127.0.0.1")):
        with serving(driver, contexts(authorities, "other-host")) as (place, _):
            with pytest.raises(DatabaseUnreachable, match=f"certificate .* not trusted: .*{trouble}") as caught:
                await connect(f"{driver}://bob:{SECRET}@{place}{options(authorities, mode, root)}")
            assert "sslrootcert" in (caught.value.hint or "")


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_host_that_does_not_exist_is_said_to_be_unknown(driver: str) -> None:
    with pytest.raises(DatabaseUnreachable, match=r"host of .* at no-such-host\.invalid is unknown"):
        await connect(f"{driver}://bob:{SECRET}@no-such-host.invalid/db")


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_port_where_nobody_listens_is_named(driver: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(DatabaseUnreachable, match=f"127.0.0.1:{port}"):
        await connect(f"{driver}://bob:{SECRET}@127.0.0.1:{port}/db")


# Time.


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_server_that_never_answers_is_given_up_after_connect_timeout(driver: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        started = time.monotonic()
        with pytest.raises(DatabaseUnreachable, match="in time"):
            await asyncio.wait_for(connect(f"{driver}://bob:{SECRET}@127.0.0.1:{mute.getsockname()[1]}/db?connect_timeout=0.3"), 5)
        assert 0.2 < time.monotonic() - started < 3


@pytest.mark.parametrize(("given", "seconds"), [(None, 10.0), ("3", 3.0), ("2.5", 2.5), ("0", None), ("-1", None)])
def test_connect_timeout_is_libpqs(given: str | None, seconds: float | None) -> None:
    query = f"?connect_timeout={given}" if given else ""
    assert arguments(f"postgresql://bob@h/db{query}")["timeout"] == seconds
    assert arguments(f"mssql://bob@h/db{query}")["timeout"] == int(seconds or 0)


@pytest.mark.parametrize("given", ["soon", "nan", "inf", "1s"])
@pytest.mark.parametrize("url", ["postgresql://bob@h/db", "mysql://bob@h/db", "mssql://bob@h/db", "sqlite:///dev.db"])
def test_connect_timeout_is_a_number(url: str, given: str) -> None:
    with pytest.raises(UrlInvalid, match="connect_timeout"):
        arguments(f"{url}?connect_timeout={given}")


@pytest.mark.parametrize("url", ["postgresql://bob@h/db", "mysql://bob@h/db", "mssql://bob@h/db", "sqlite:///dev.db"])
def test_none_of_libpqs_options_is_left_for_a_driver_that_does_not_know_it(url: str, authorities: Path) -> None:
    tls = "" if url.startswith("sqlite") else "sslmode=disable&"
    found = target(f"{url}?{tls}connect_timeout=3")
    bare, _ = found.dialect.engine_arguments(found.url, "application")
    assert not {"sslmode", "connect_timeout"} & set(bare.query)
