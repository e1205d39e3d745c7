"""Schemas that nobody thought of: random tables that hang on each other, with rows, and random batch operations on them.

No row is lost, and no key points nowhere afterwards. The generator keeps to operations that every database can do.
"""

import random

from benchmarks.faults import Outcome, joined
from benchmarks.faults.accidents import enforce_foreign_keys
from benchmarks.faults.databases import SQLITE
from benchmarks.faults.histories import Revision
from benchmarks.faults.places import place

ROWS = 5


def rebuilt(program: str, seeds: range) -> Outcome:
    """For each seed, a schema on SQLite and a revision that rebuilds its tables."""
    return joined(_rebuild(program, seed) for seed in seeds)


def _rebuild(program: str, seed: int) -> Outcome:
    chance = random.Random(seed)
    tables = [f"t{number}" for number in range(chance.randint(2, 5))]
    parents = {table: chance.sample(tables[:number], chance.randint(1, min(number, 2))) for number, table in enumerate(tables) if number}
    make = Revision(
        "r1_make", "\n".join(["op.create_table('applied', sa.Column('revision', sa.String(40)))", *_made(chance, tables, parents)])
    )
    change = Revision("r2_change", "\n".join(_changed(chance, table) for table in chance.sample(tables, chance.randint(1, len(tables)))))
    with place(program, SQLITE, (make, change)) as here:
        enforce_foreign_keys(here)
        here.must("upgrade", make.name)
        done = here.run("upgrade", "head")
        if done.code != 0:
            return Outcome.of([f"schema {seed}: {done}"])
        counts = {table: here.database.rows(f"SELECT count(*) FROM {table}")[0][0] for table in tables}
        failures = [f"schema {seed}: {ROWS - count} of {ROWS} rows of {table} are gone" for table, count in counts.items() if count != ROWS]
        nowhere = here.database.rows("PRAGMA foreign_key_check")
        return Outcome.of(failures + ([f"schema {seed}: {len(nowhere)} rows point nowhere"] if nowhere else []))


def _made(chance: random.Random, tables: list[str], parents: dict[str, list[str]]) -> list[str]:
    """The code that makes the tables and their rows."""
    lines = []
    for table in tables:
        keys = parents.get(table, [])
        columns = [
            "sa.Column('id', sa.Integer, primary_key=True)",
            "sa.Column('a', sa.String(20), nullable=False)",
            "sa.Column('b', sa.Integer)",
        ]
        columns += [f"sa.Column('{parent}_id', sa.Integer, nullable=False)" for parent in keys]
        columns += [
            f"sa.ForeignKeyConstraint(['{parent}_id'], ['{parent}.id'], name='fk_{table}_{parent}', ondelete='CASCADE')" for parent in keys
        ]
        if chance.random() < 0.5:
            columns.append(f"sa.UniqueConstraint('a', name='uq_{table}_a')")
        lines.append(f"op.create_table('{table}', {', '.join(columns)})")
        if chance.random() < 0.5:
            lines.append(f"op.create_index('ix_{table}_b', '{table}', ['b'])")
        for row in range(1, ROWS + 1):
            values = [str(row), f"'{table} {row}'", str(row * 10), *(str(chance.randint(1, ROWS)) for _ in keys)]
            lines.append(f'op.execute("INSERT INTO {table} VALUES ({", ".join(values)})")')
    return lines


def _changed(chance: random.Random, table: str) -> str:
    """The code that rebuilds one table."""
    operations = [
        "batch.alter_column('a', existing_type=sa.String(20), type_=sa.String(200), existing_nullable=False)",
        "batch.alter_column('b', existing_type=sa.Integer(), type_=sa.BigInteger())",
        "batch.add_column(sa.Column('c', sa.String(10), nullable=False, server_default='new'))",
        f"batch.create_unique_constraint('uq_{table}_id_a', ['id', 'a'])",
        f"batch.create_check_constraint('ck_{table}_b', 'b > 0')",
        f"batch.create_index('ix_{table}_a', ['a'])",
    ]
    chosen = chance.sample(operations, chance.randint(1, len(operations)))
    return "\n".join([f"with op.batch_alter_table('{table}', recreate='always') as batch:", *(f"    {line}" for line in chosen)])
