"""Rules about amounts: currencies, decimals, balances and sums. Soft-deleted rows are left out.

Amounts are compared in whole ten-thousandths on SQLite, whose numbers are binary, and as decimals elsewhere.
"""

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, String, Table, and_, case, cast, func, select

from fininfra_db.data.checks.rule import Books, Rule, at_fault, live
from fininfra_db.data.currencies import MINOR_UNITS, codes_with
from fininfra_db.types import MONEY_SCALE, Money

OPENING: Final = "Opening balance"
"""The category of the transaction from which an account's balance is counted."""


def _unknown_currencies(books: Books) -> Iterator[Select[Any]]:
    for table in books.tables:
        if _has_currency(books, table):
            unknown = _code(table).not_in(sorted(MINOR_UNITS))
            yield at_fault(table, [("currency", and_(unknown, live(table)))])


def _has_currency(books: Books, table: Table) -> bool:
    """Whether a row says its currency by a code: in a text or an enumeration, and not by the number of another row."""
    return "currency" in table.c and isinstance(books.type_of(table.c.currency), String)


def _code(table: Table) -> ColumnElement[str]:
    """The currency as a text: an enumeration is not compared with what it does not have."""
    return cast(table.c.currency, String)


def _digits(table: Table) -> ColumnElement[int]:
    """How many decimals a currency has; NULL for one that is not known, which is another rule's finding."""
    return case(*((_code(table).in_(codes_with(digits)), digits) for digits in (2, 0, 3)))


def _excess_decimals(books: Books) -> Iterator[Select[Any]]:
    """Every amount of a table that has a currency, and the transactions, which are in that of their account.

    The transactions stand on the left of an outer join, which keeps them in the order in which they are stored.
    """
    for table in books.tables:
        if _has_currency(books, table):
            digits = _digits(table)
            amounts = [column for column in table.columns if isinstance(column.type, Money)]
            faults = [(column.name, and_(live(table), _has_more(books, column, digits))) for column in amounts]
            if faults:
                yield at_fault(table, faults)
    transactions, accounts = books.find("transactions", "account_id", "amount"), books.find("accounts", "id", "currency")
    if transactions is not None and accounts is not None and _has_currency(books, accounts):
        of_account = select(accounts.c.id, _digits(accounts).label("digits")).where(live(accounts)).subquery()
        joined = transactions.outerjoin(of_account, of_account.c.id == transactions.c.account_id)
        yield at_fault(transactions, [("amount", _has_more(books, transactions.c.amount, of_account.c.digits))], joined)


def _has_more(books: Books, amount: ColumnElement[Any], digits: ColumnElement[int]) -> ColumnElement[bool]:
    return books.dialect.has_more_decimals(amount, func.coalesce(digits, MONEY_SCALE))


def _wrong_balances(books: Books) -> Iterator[Select[Any]]:
    """Accounts whose ledger is known from its beginning: one pass over the transactions, and a look at each account."""
    transactions = books.find("transactions", "account_id", "amount", "category", "pending")
    accounts = books.find("accounts", "id", "balance")
    if transactions is None or accounts is None:
        return
    entry = transactions.c
    ledger = (
        select(entry.account_id, books.dialect.exact_sum(entry.amount).label("posted"))
        .where(~entry.pending)
        .group_by(entry.account_id)
        .having(func.max(case((entry.category == OPENING, 1), else_=0)) == 1)
        .subquery()
    )
    joined = accounts.join(ledger, ledger.c.account_id == accounts.c.id)
    differs = books.dialect.exact(accounts.c.balance) != ledger.c.posted
    yield at_fault(accounts, [("balance", and_(live(accounts), differs))], joined)


def _wrong_net_worth(books: Books) -> Iterator[Select[Any]]:
    table = books.find("net_worth_snapshots", "total_assets", "total_liabilities", "net_worth")
    if table is not None:
        exact = books.dialect.exact
        differs = exact(table.c.net_worth) != exact(table.c.total_assets) - exact(table.c.total_liabilities)
        yield at_fault(table, [("net_worth", and_(live(table), differs))])


def _wrong_breakdowns(books: Books) -> Iterator[Select[Any]]:
    """A breakdown with an entry that is no amount has no sum, and so is wrong too."""
    for breakdown, total in (("assets_breakdown", "total_assets"), ("liabilities_breakdown", "total_liabilities")):
        table = books.find("net_worth_snapshots", breakdown, total)
        if table is not None:
            agrees = books.dialect.json_total(table.c[breakdown]) == books.dialect.exact(table.c[total])
            known = and_(live(table), table.c[total].is_not(None))
            yield at_fault(table, [(breakdown, and_(known, case((agrees, 0), else_=1) == 1))])


def _backward_budgets(books: Books) -> Iterator[Select[Any]]:
    table = books.find("budgets", "start_date", "end_date")
    if table is not None:
        yield at_fault(table, [("end_date", and_(live(table), table.c.end_date < table.c.start_date))])


CURRENCY: Final = Rule("currency", "Currencies are not in ISO 4217.", _unknown_currencies)
SCALE: Final = Rule("scale", "Amounts have more decimals than their currency.", _excess_decimals)
BALANCES: Final = Rule("balances", "Balances are not the sum of the posted transactions, from the opening balance on.", _wrong_balances)
NET_WORTH: Final = Rule("net-worth", "Net worth is not assets minus liabilities.", _wrong_net_worth)
BREAKDOWNS: Final = Rule("breakdowns", "Breakdowns do not add up to their total.", _wrong_breakdowns)
BUDGETS: Final = Rule("budgets", "Budgets end before they start.", _backward_budgets)
