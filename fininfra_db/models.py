"""The whole schema: eight tables of a personal-finance application.

    User 1-N BankConnection 1-N Account 1-N Transaction, and User 1-N Budget, Goal, NetWorthSnapshot, Document

Every row below a user carries ``user_id``. Accounts and transactions point at their parent by ``(user_id, parent id)``,
so that no row can ever hang below another user's. Deleting a user deletes everything below.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Date,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    String,
    Table,
    Unicode,
    UniqueConstraint,
    event,
    false,
    text,
)
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from fininfra_db.types import KEPT, Amounts, EncryptedString, Money, UtcDateTime, currency_code, new_id, utc_now
from fininfra_db.types import now as python_now

UNUSABLE_PASSWORD = "!"
"""What ``hashed_password`` holds until a password is set: no hash of any scheme, so no login matches it."""


class Base(DeclarativeBase):
    """The base of every model. Models of your own derive from it to live in the same schema."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


@event.listens_for(Table, "after_parent_attach")
def _compare_text_by_code_point(table: Table, metadata: MetaData) -> None:
    """MySQL's default collation takes 'aB' and 'Ab' for the same provider id; every other database does not."""
    if metadata is Base.metadata:
        for name, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin")):
            table.kwargs.setdefault(f"mysql_{name}", value)


def owned_by(parent: str, overlaps: str | None = None) -> Any:
    """The list side of a relationship whose rows go with their parent: the database deletes those not in memory.

    ``overlaps`` names the relationships that write ``user_id`` too; they always write the same value.
    """
    return relationship(back_populates=parent, cascade="all", passive_deletes=True, overlaps=overlaps)


class Identified:
    """``id``: any text of up to 36 characters; by default a time-ordered UUID."""

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id, sort_order=-2)


class Created:
    """``created_at``: when the row was made."""

    created_at: Mapped[datetime] = mapped_column(
        UtcDateTime(), default=python_now, server_default=utc_now(), info={KEPT: True}, sort_order=1
    )


class Owned:
    """``user_id``: whose row this is."""

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), sort_order=-1)


class SoftDeleted:
    """``deleted_at``: set, the row is kept for the audit trail and sessions of this package leave it out."""

    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime(), sort_order=2)


class User(Identified, Created, Base):
    """A person with a login, and everything that is theirs."""

    __tablename__ = "users"

    email: Mapped[str] = mapped_column(Unicode(255), unique=True)
    hashed_password: Mapped[str] = mapped_column(String(255), default=UNUSABLE_PASSWORD, server_default=text(f"'{UNUSABLE_PASSWORD}'"))

    bank_connections: Mapped[list["BankConnection"]] = owned_by("user")
    accounts: Mapped[list["Account"]] = owned_by("user", "accounts")
    transactions: Mapped[list["Transaction"]] = owned_by("user", "transactions")
    budgets: Mapped[list["Budget"]] = owned_by("user")
    goals: Mapped[list["Goal"]] = owned_by("user")
    net_worth_snapshots: Mapped[list["NetWorthSnapshot"]] = owned_by("user")
    documents: Mapped[list["Document"]] = owned_by("user")


class BankConnection(Identified, Owned, Created, Base):
    """A user's link to a bank through a provider (Plaid, Teller). The access token is sealed in the column."""

    __tablename__ = "bank_connections"

    access_token: Mapped[str] = mapped_column(EncryptedString(500))
    item_id: Mapped[str] = mapped_column(String(100))
    institution_name: Mapped[str] = mapped_column(Unicode(255))

    user: Mapped[User] = relationship(back_populates="bank_connections")
    accounts: Mapped[list["Account"]] = owned_by("connection", "accounts,user")

    __table_args__ = (UniqueConstraint("user_id", "id"),)


class Account(Identified, Owned, SoftDeleted, Base):
    """A linked account: ``type`` is checking, savings, credit, ...; ``balance`` is in units of ``currency``."""

    __tablename__ = "accounts"

    connection_id: Mapped[str] = mapped_column(String(36))
    account_id: Mapped[str] = mapped_column(String(100))
    name: Mapped[str] = mapped_column(Unicode(255))
    type: Mapped[str] = mapped_column(String(50))
    subtype: Mapped[str] = mapped_column(String(50))
    balance: Mapped[Decimal] = mapped_column(Money())
    currency: Mapped[str] = mapped_column(String(3), default="USD", server_default=text("'USD'"))
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime(), default=python_now, onupdate=python_now, server_default=utc_now())

    user: Mapped[User] = relationship(back_populates="accounts", overlaps="accounts")
    connection: Mapped[BankConnection] = relationship(back_populates="accounts", overlaps="accounts,user")
    transactions: Mapped[list["Transaction"]] = owned_by("account", "transactions,user")

    __table_args__ = (
        ForeignKeyConstraint(["user_id", "connection_id"], ["bank_connections.user_id", "bank_connections.id"], ondelete="CASCADE"),
        UniqueConstraint("user_id", "id"),
        UniqueConstraint("user_id", "connection_id", "account_id"),
        CheckConstraint(currency_code("currency"), name="currency"),
    )


class Transaction(Identified, Owned, Created, Base):
    """One movement on an account, in the account's currency. ``transaction_id`` is the provider's."""

    __tablename__ = "transactions"

    account_id: Mapped[str] = mapped_column(String(36))
    transaction_id: Mapped[str] = mapped_column(String(100))
    amount: Mapped[Decimal] = mapped_column(Money())
    date: Mapped[date] = mapped_column(Date)
    name: Mapped[str] = mapped_column(Unicode(255))
    merchant_name: Mapped[str | None] = mapped_column(Unicode(255))
    category: Mapped[str | None] = mapped_column(Unicode(255))
    pending: Mapped[bool] = mapped_column(default=False, server_default=false())

    user: Mapped[User] = relationship(back_populates="transactions", overlaps="transactions")
    account: Mapped[Account] = relationship(back_populates="transactions", overlaps="transactions,user")

    __table_args__ = (
        ForeignKeyConstraint(["user_id", "account_id"], ["accounts.user_id", "accounts.id"], ondelete="CASCADE"),
        UniqueConstraint("user_id", "account_id", "transaction_id"),
        Index("ix_transactions_user_date", "user_id", "date"),
        Index("ix_transactions_account", "account_id"),
    )


class Budget(Identified, Owned, Created, SoftDeleted, Base):
    """A plan of spending: ``type`` is monthly, weekly, annual; ``categories`` maps each to its amount."""

    __tablename__ = "budgets"

    name: Mapped[str] = mapped_column(Unicode(255))
    type: Mapped[str] = mapped_column(String(50))
    start_date: Mapped[date] = mapped_column(Date)
    end_date: Mapped[date | None] = mapped_column(Date)
    categories: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(Amounts()))

    user: Mapped[User] = relationship(back_populates="budgets")

    __table_args__ = (Index(None, "user_id"),)


class Goal(Identified, Owned, Created, SoftDeleted, Base):
    """An amount to save by a day: ``priority`` is low, medium, high."""

    __tablename__ = "goals"

    name: Mapped[str] = mapped_column(Unicode(255))
    target_amount: Mapped[Decimal] = mapped_column(Money())
    current_amount: Mapped[Decimal] = mapped_column(Money(), default=Decimal(0), server_default=text("0"))
    target_date: Mapped[date] = mapped_column(Date)
    priority: Mapped[str] = mapped_column(String(50))

    user: Mapped[User] = relationship(back_populates="goals")

    __table_args__ = (Index(None, "user_id"),)


class NetWorthSnapshot(Identified, Owned, Created, Base):
    """What a user owned and owed on a day. ``net_worth`` is assets minus liabilities; the breakdowns add up to them."""

    __tablename__ = "net_worth_snapshots"

    snapshot_date: Mapped[date] = mapped_column(Date)
    total_assets: Mapped[Decimal] = mapped_column(Money())
    total_liabilities: Mapped[Decimal] = mapped_column(Money())
    net_worth: Mapped[Decimal] = mapped_column(Money())
    assets_breakdown: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(Amounts()))
    liabilities_breakdown: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(Amounts()))

    user: Mapped[User] = relationship(back_populates="net_worth_snapshots")

    __table_args__ = (Index(None, "user_id", "snapshot_date"),)


class Document(Identified, Owned, Created, SoftDeleted, Base):
    """A stored file: ``document_type`` is w2, 1099, receipt, ...; ``extracted_data`` is what was read from it."""

    __tablename__ = "documents"

    filename: Mapped[str] = mapped_column(Unicode(255))
    document_type: Mapped[str] = mapped_column(String(50))
    file_path: Mapped[str] = mapped_column(Unicode(500))
    extracted_data: Mapped[dict[str, Any] | None] = mapped_column(MutableDict.as_mutable(JSON(none_as_null=True)))

    user: Mapped[User] = relationship(back_populates="documents")

    __table_args__ = (Index(None, "user_id"),)
