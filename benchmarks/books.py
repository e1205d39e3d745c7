"""Books to check: as many transactions as are asked for, made by the database itself, in which nothing is wrong.

Transactions of all accounts come in turn, as they do in life: those of one account are far apart in the table.
"""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import text

from fininfra_db.connections import open_connection
from fininfra_db.dialects import target_of
from fininfra_db.security import keyring_of
from fininfra_db.settings import Settings

PER_ACCOUNT: Final = 250
ACCOUNTS_PER_USER: Final = 4

_DAY: Final = {
    "sqlite": "date('2024-01-01', '+' || (n / {per_day}) || ' days')",
    "postgresql": "DATE '2024-01-01' + CAST(n / {per_day} AS integer)",
    "mysql": "DATE '2024-01-01' + INTERVAL (n DIV {per_day}) DAY",
}
_BEFORE: Final = {
    "mysql": ("SET SESSION sql_mode = 'PIPES_AS_CONCAT,STRICT_ALL_TABLES'", "SET SESSION max_recursive_iterations = 100000000")
}
_AFTER: Final = {
    "sqlite": ("ANALYZE",),
    "postgresql": ("ANALYZE",),
    "mysql": ("ANALYZE TABLE users, bank_connections, accounts, transactions",),
}

_ROWS: Final[Mapping[str, tuple[str, str]]] = {
    "users (id, email)": ("{users}", "SELECT 'user-' || n, 'user-' || n || '@example.com' FROM numbers"),
    "bank_connections (id, user_id, access_token, item_id, institution_name)": (
        "{users}",
        "SELECT 'connection-' || n, 'user-' || n, '{token}', 'item-' || n, 'Harbor Street Bank' FROM numbers",
    ),
    "accounts (id, user_id, connection_id, account_id, name, type, subtype, balance, currency)": (
        "{accounts}",
        "SELECT 'account-' || (1000000 + n) || '-of-a-bank-connection', 'user-' || (1 + n % {users}), 'connection-' || (1 + n % {users}), "
        "'provider-' || n, 'Everyday Checking', 'checking', 'checking', 0, CASE n % 10 WHEN 0 THEN 'JPY' WHEN 1 THEN 'KWD' ELSE 'USD' END "
        "FROM numbers",
    ),
    "transactions (id, user_id, account_id, transaction_id, amount, date, name, merchant_name, category, pending)": (
        "{transactions}",
        "SELECT 'transaction-' || (100000000 + n) || '-of-the-ledger0', 'user-' || (1 + (1 + n % {accounts}) % {users}), "
        "'account-' || (1000001 + n % {accounts}) || '-of-a-bank-connection', 'provider-' || n, "
        "CASE WHEN (1 + n % {accounts}) % 10 = 0 THEN n % 9000 ELSE (n * 37 % 90000) / 100.0 END, {day}, 'KESTREL MARKET', 'Kestrel Market', "
        "CASE WHEN n <= {accounts} THEN 'Opening balance' ELSE 'Food' END, CASE WHEN n > {accounts} AND n % 97 = 0 THEN {true} ELSE {false} END FROM numbers",
    ),
    "net_worth_snapshots (id, user_id, snapshot_date, total_assets, total_liabilities, net_worth, assets_breakdown, liabilities_breakdown)": (
        "{users}",
        "SELECT 'snapshot-' || n, 'user-' || n, {day}, 150.5, 50, 100.5, '{assets}', '{liabilities}' FROM numbers",
    ),
    "budgets (id, user_id, name, type, start_date, end_date, categories)": (
        "{users}",
        "SELECT 'budget-' || n, 'user-' || n, 'Home', 'monthly', {day}, {day}, '{liabilities}' FROM numbers",
    ),
}
_BALANCES: Final = (
    "UPDATE accounts SET balance = (SELECT round(sum(amount), 2) FROM transactions WHERE account_id = accounts.id AND pending = {false})"
)


async def make_books(settings: Settings, transactions: int) -> None:
    """Fill the empty tables of the models."""
    dialect = target_of(settings).dialect.name
    accounts = max(transactions // PER_ACCOUNT, ACCOUNTS_PER_USER)
    figures = {
        "users": str(accounts // ACCOUNTS_PER_USER),
        "accounts": str(accounts),
        "transactions": str(transactions),
        "day": _DAY[dialect].replace("{per_day}", str(transactions // 365 + 1)),
        "token": keyring_of(settings).encrypt("access-sandbox-of-a-connection"),
        "assets": '{"cash" : "100.50", "savings" : 50}',
        "liabilities": '{"credit" : 50}',
        "true": "true" if dialect == "postgresql" else "1",
        "false": "false" if dialect == "postgresql" else "0",
    }
    async with open_connection(settings, "migration") as connection:
        for statement in _BEFORE.get(dialect, ()):
            await connection.execute(text(statement))
        for table, (count, rows) in _ROWS.items():
            numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})"
            await connection.execute(text(_filled(f"INSERT INTO {table} {numbers} {rows}", figures)))
        await connection.execute(text(_filled(_BALANCES, figures)))
        await connection.commit()
        for statement in _AFTER[dialect]:
            await connection.execute(text(statement))
        await connection.commit()


def _filled(statement: str, figures: Mapping[str, str]) -> str:
    for name, figure in figures.items():
        statement = statement.replace(f"{{{name}}}", figure)
    return statement
