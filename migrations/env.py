"""Alembic's way into this project. The logic ships with fininfra-db; write your own here to take over."""

from fininfra_db.migrate.environment import run

run()
