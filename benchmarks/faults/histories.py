"""The revisions that the cases run: a small shop, with rows, that every database can have.

Each revision writes its name into the table ``applied``, which has no key: one that is applied twice is there twice.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import indent
from typing import Final

from benchmarks.projects import Project


@dataclass(frozen=True)
class Revision:
    """One revision: its name, and the Python code of both its functions."""

    name: str
    up: str
    down: str = ""

    def text(self, parent: str | None) -> str:
        """The revision file."""
        up = f"{self.up.strip()}\nop.execute(\"INSERT INTO applied (revision) VALUES ('{self.name}')\")\n"
        down = f"op.execute(\"DELETE FROM applied WHERE revision = '{self.name}'\")\n{self.down.strip()}\n"
        return _FILE.format(name=self.name, parent=parent, up=indent(up, "    "), down=indent(down, "    "))


_FILE: Final = '''"""{name}"""
import time
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "{name}"
down_revision = {parent!r}


def upgrade():
{up}

def downgrade():
{down}'''

CUSTOMERS: Final = Revision(
    "r1_customers",
    """
op.create_table("applied", sa.Column("revision", sa.String(40), nullable=False))
op.create_table(
    "customers",
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("email", sa.String(50), nullable=False),
    sa.UniqueConstraint("email", name="uq_customers_email"),
)
op.execute("INSERT INTO customers (id, email) VALUES (1, 'ann@example.org'), (2, 'bob@example.org')")
""",
    """
op.drop_table("customers")
op.drop_table("applied")
""",
)
ORDERS: Final = Revision(
    "r2_orders",
    """
op.create_table(
    "orders",
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("customer_id", sa.Integer, nullable=False),
    sa.Column("amount", sa.Numeric(19, 4)),
    sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name="fk_orders_customer", ondelete="CASCADE"),
)
op.create_index("ix_orders_customer", "orders", ["customer_id"])
op.execute("INSERT INTO orders (id, customer_id, amount) VALUES (1, 1, 10), (2, 1, 20), (3, 2, 30)")
""",
    """
op.drop_table("orders")
""",
)
EMAILS: Final = Revision(
    "r3_emails",
    """
with op.batch_alter_table("customers") as batch:
    batch.alter_column("email", existing_type=sa.String(50), type_=sa.String(255), existing_nullable=False)
    batch.add_column(sa.Column("name", sa.String(50)))
op.execute("UPDATE customers SET name = 'Customer'")
""",
    """
with op.batch_alter_table("customers") as batch:
    batch.drop_column("name")
    batch.alter_column("email", existing_type=sa.String(255), type_=sa.String(50), existing_nullable=False)
""",
)
STATES: Final = Revision(
    "r4_states",
    """
op.add_column("orders", sa.Column("state", sa.String(20), nullable=False, server_default="open"))
op.execute("UPDATE orders SET state = 'paid' WHERE id > 1")
op.create_index("ix_orders_state", "orders", ["state"])
""",
    """
op.drop_index("ix_orders_state", table_name="orders")
with op.batch_alter_table("orders") as batch:
    batch.drop_column("state")
""",
)
SHOP: Final = (CUSTOMERS, ORDERS, EMAILS, STATES)


def concurrent_index(project: Project) -> Revision:
    """An index that is made while others write, as each program's manual says."""
    ours = 'from fininfra_db.migrate import operations\noperations.create_index_concurrently("ix_orders_amount", "orders", ["amount"])'
    alembic = """
with op.get_context().autocommit_block():
    op.create_index("ix_orders_amount", "orders", ["amount"], postgresql_concurrently=True)
"""
    return Revision("r2b_index", ours if project.is_ours else alembic, 'op.drop_index("ix_orders_amount", table_name="orders")')


def waiting(name: str, signal: str) -> Revision:
    """A revision that says by a file that it runs, and ends when there is another: ``signal.begun`` and ``signal.end``."""
    return Revision(
        name,
        f"""
op.execute("UPDATE customers SET email = email")
Path("{signal}.begun").touch()
deadline = time.monotonic() + 30
while not Path("{signal}.end").exists() and time.monotonic() < deadline:
    time.sleep(0.02)
""",
    )


def write(project: Project, revisions: Iterable[Revision]) -> str:
    """Write the files of a history, one after the other. Returns the head."""
    parent = None
    for revision in revisions:
        project.add_revision(revision.name, revision.text(parent))
        parent = revision.name
    return str(parent)
