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

_ROWS: Final[tuple[tuple[str, str, Mapping[str, str]], ...]] = (
    ("users", "{users}", {"id": "'user-' || n", "email": "'user-' || n || '@example.com'"}),
    (
        "bank_connections",
        "{users}",
        {
            "id": "'connection-' || n",
            "user_id": "'user-' || n",
            "access_token": "'{token}'",
            "item_id": "'item-' || n",
            "institution_name": "'Harbor Street Bank'",
        },
    ),
    (
        "accounts",
        "{accounts}",
        {
            "id": "'account-' || (1000000 + n) || '-of-a-bank-connection'",
            "user_id": "'user-' || (1 + n % {users})",
            "connection_id": "'connection-' || (1 + n % {users})",
            "account_id": "'provider-' || n",
            "name": "'Everyday Checking'",
            "type": "'checking'",
            "subtype": "'checking'",
            "balance": "0",
            "currency": "CASE n % 10 WHEN 0 THEN 'JPY' WHEN 1 THEN 'KWD' ELSE 'USD' END",
        },
    ),
    (
        "transactions",
        "{transactions}",
        {
            "id": "'transaction-' || (100000000 + n) || '-of-the-ledger0'",
            "user_id": "'user-' || (1 + (1 + n % {accounts}) % {users})",
            "account_id": "'account-' || (1000001 + n % {accounts}) || '-of-a-bank-connection'",
            "transaction_id": "'provider-' || n",
            "amount": "CASE WHEN (1 + n % {accounts}) % 10 = 0 THEN n % 9000 ELSE (n * 37 % 90000) / 100.0 END",
            "date": "{day}",
            "name": "'KESTREL MARKET'",
            "merchant_name": "'Kestrel Market'",
            "category": "CASE WHEN n <= {accounts} THEN 'Opening balance' ELSE 'Food' END",
            "pending": "CASE WHEN n > {accounts} AND n % 97 = 0 THEN {true} ELSE {false} END",
        },
    ),
    (
        "net_worth_snapshots",
        "{users}",
        {
            "id": "'snapshot-' || n",
            "user_id": "'user-' || n",
            "snapshot_date": "{day}",
            "total_assets": "150.5",
            "total_liabilities": "50",
            "net_worth": "100.5",
            "assets_breakdown": "'{assets}'",
            "liabilities_breakdown": "'{liabilities}'",
        },
    ),
    (
        "budgets",
        "{users}",
        {
            "id": "'budget-' || n",
            "user_id": "'user-' || n",
            "name": "'Home'",
            "type": "'monthly'",
            "start_date": "{day}",
            "end_date": "{day}",
            "categories": "'{liabilities}'",
        },
    ),
)
"""Table, how many rows, and what is in each column of row ``n``."""
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
        for table, count, values in _ROWS:
            numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})"
            rows = f"INSERT INTO {table} ({', '.join(values)}) {numbers} SELECT {', '.join(values.values())} FROM numbers"
            await connection.execute(text(_filled(rows, figures)))
        await connection.execute(text(_filled(_BALANCES, figures)))
        await connection.commit()
        for statement in _AFTER[dialect]:
            await connection.execute(text(statement))
        await connection.commit()


def _filled(statement: str, figures: Mapping[str, str]) -> str:
    for name, figure in figures.items():
        statement = statement.replace(f"{{{name}}}", figure)
    return statement
