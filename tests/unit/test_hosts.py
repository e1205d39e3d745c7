"""Which URLs lead to this machine: what is not surely local counts as another machine."""

import pytest

from fininfra_db.dialects import target_of
from fininfra_db.settings import load_settings

LOCAL = (
    "sqlite:///dev.db",
    "sqlite:////srv/shared/dev.db",
    "postgresql://u@localhost/d",
    "postgresql://u@LOCALHOST:5432/d",
    "postgresql://u@127.0.0.1:5432/d",
    "postgresql://u@127.1.2.3/d",
    "postgresql://u@[::1]:5432/d",
    "postgresql:///d",
    "postgresql://u@/d?host=/var/run/postgresql",
    "postgresql://u@/d?host=localhost:5432&host=127.0.0.1",
    "postgresql+psycopg://u@/d?host=localhost,127.0.0.1",
    "postgresql+psycopg://u@db.example.com/d?hostaddr=127.0.0.1&host=localhost",
    "mysql://root@localhost/d",
    "mysql://root@127.0.0.1:3306/d",
    "mysql://root@/d?unix_socket=/run/mysqld.sock",
    "mariadb://root@/d",
    "mssql://sa:p@localhost:1433/d",
)
ELSEWHERE = (
    "postgresql://u@db.example.com/d",
    "postgresql://u@localhost.example.com/d",
    "postgresql://u@127.0.0.1.example.com/d",
    "postgresql://u@10.0.0.5/d",
    "postgresql://u@0.0.0.0/d",
    "postgresql://u@[2001:db8::1]/d",
    "postgresql://u@128.0.0.1/d",
    "postgresql://u@127.1/d",
    "postgresql://u@2130706433/d",
    "postgresql:///d?host=db.example.com",
    "postgresql://u@localhost/d?host=db.example.com",
    "postgresql://u@/d?host=localhost:5432&host=db.example.com:5432",
    "postgresql+psycopg://u@/d?host=localhost,db.example.com",
    "postgresql+psycopg://u@localhost/d?hostaddr=10.0.0.5",
    "postgresql+psycopg://u@/d?service=production",
    "mysql://root@db.example.com/d",
    "mysql://root@localhost/d?host=db.example.com",
    "mysql://root@/d?read_default_file=/etc/production.cnf",
    "mssql://sa:p@sql.example.com/d",
    "mssql://sa:p@localhost/d?server=sql.example.com",
)


def is_local(url: str) -> bool:
    target = target_of(load_settings(sql_url=url, environ={}))
    return target.dialect.is_local(target.url)


@pytest.fixture(autouse=True)
def no_libpq_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("url", LOCAL)
def test_this_machine(url: str) -> None:
    assert is_local(url)


@pytest.mark.parametrize("url", ELSEWHERE)
def test_another_machine(url: str) -> None:
    assert not is_local(url)


@pytest.mark.parametrize(
    ("name", "value", "local"),
    [
        ("PGHOST", "db.example.com", False),
        ("PGHOST", "/run/postgresql", True),
        ("PGSERVICE", "production", False),
        ("PGHOSTADDR", "10.0.0.5", False),
    ],
)
def test_libpqs_variables_name_the_host_where_the_url_names_none(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, local: bool
) -> None:
    monkeypatch.setenv(name, value)
    assert is_local("postgresql:///d") == local
    assert is_local("postgresql://u@localhost/d")
    assert not is_local("postgresql://u@db.example.com/d")
