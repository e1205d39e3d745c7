"""Everything that touches Alembic."""
