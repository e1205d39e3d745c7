"""Writing the profiles: the household as a whole, the planned ones user by user, in batches that are each all or nothing."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, MetaData, and_, func, or_, select
from sqlalchemy.exc import IntegrityError

from fininfra_db.connections import migration_lock, open_connection
from fininfra_db.data.household import Household, household
from fininfra_db.data.profiles.plan import Plan, Row
from fininfra_db.data.rows import Owned, chunks, insert_missing, present_ids, remove, table_of
from fininfra_db.data.transaction import failures_in_words, in_transaction, look_first
from fininfra_db.dialects import dialect_of
from fininfra_db.dialects.base import first_line
from fininfra_db.errors import SeedFailed
from fininfra_db.events import BlastRadius, Observer, Progress
from fininfra_db.migrate.config import load_metadata
from fininfra_db.migrate.seeds import forget, read_seed, record
from fininfra_db.models import Base, User
from fininfra_db.results import Seeded
from fininfra_db.settings import DEFAULT_SEED, Settings

_BETWEEN_REPORTS = 5_000
"""Rows."""


async def seed_household(
    settings: Settings, assessed: BlastRadius | None = None, *, replace: bool = False, observer: Observer | None = None
) -> Seeded:
    """Write the rows of the household that are not there yet.

    A row is there when its ``id`` is, soft-deleted or changed as it may be. Runs at the same time wait for each other,
    and for a migration. Raises ``SeedFailed`` when a row of somebody else holds a unique value of the household, such as
    an email; ``KeyMissing`` when there is a token to seal and no key; ``LockNotObtained``; ``DatabaseUnreachable``. Nothing is
    written then.
    """
    seed = household()
    rows = {model.__tablename__: len(each) for model, each in seed.items()}
    metadata = _metadata(settings)

    def write(connection: Connection) -> tuple[int, int]:
        removed = remove(connection, metadata, seed, _is_in(seed)) if replace else 0
        inserted = sum(insert_missing(connection, table_of(model), each) for model, each in seed.items())
        if inserted or read_seed(connection, DEFAULT_SEED, {}) is None:
            record(connection, DEFAULT_SEED, {}, rows, kind={})
        return removed, inserted

    async with migration_lock(settings, observer) as lock, lock.kept(), in_transaction(settings, DEFAULT_SEED, lock, assessed) as session:
        try:
            removed, inserted = await session.run_sync(lambda sync: write(sync.connection()))
        except IntegrityError as error:
            raise _in_the_way(settings, DEFAULT_SEED, error, "Nothing was written.") from None
    return Seeded(seed=DEFAULT_SEED, rows=rows, inserted=inserted, removed=removed)


async def seed_planned(
    settings: Settings, plan: Plan, assessed: BlastRadius | None = None, *, replace: bool = False, observer: Observer | None = None
) -> Seeded:
    """Write the users of a plan that are not there yet, each with everything that is theirs.

    A user is there when its ``id`` is: what belongs to it came in the same transaction. So a run that was killed is
    carried on with by the next one. ``replace`` first removes what the profile wrote, with whatever arguments. Raises as
    ``seed_household``; the batches that were committed before stay.
    """
    writer = _Writer(plan, observer)
    async with migration_lock(settings, observer) as lock, lock.kept():
        await look_first(settings, assessed)
        async with failures_in_words(settings, plan.name, lambda: writer.committed), open_connection(settings, "seeding") as connection:
            try:
                if replace:
                    await connection.run_sync(writer.replace, _metadata(settings))
                await connection.run_sync(writer.begin)
                for numbers in plan.batches():
                    await connection.run_sync(writer.write, numbers)
                    await lock.verify()
                    await connection.commit()
                    writer.committed = writer.inserted > 0
            except IntegrityError as error:
                state = "The batches before stay, the rest was rolled back." if writer.committed else "Nothing was written."
                raise _in_the_way(settings, plan.name, error, state) from None
    return Seeded(seed=plan.name, rows=dict(writer.rows), inserted=writer.inserted, removed=writer.removed)


@dataclass
class _Writer:
    """One run of a plan, and how far it has come. ``rows`` counts what the database holds of it, by table."""

    plan: Plan
    observer: Observer | None
    rows: Counter[str] = field(default_factory=Counter)
    inserted: int = 0
    removed: int = 0
    committed: bool = False
    _done: int = 0
    """Rows that need no work any more; of those that were there, about how many."""

    def replace(self, connection: Connection, metadata: Iterable[MetaData]) -> None:
        """Remove what the profile wrote. Users that somebody's rows hang below are completed again at once."""
        models = [model for model, _ in self.plan.rows(())]
        self.removed = remove(connection, metadata, models, _is_like(self.plan.ids.profile_pattern))
        forget(connection, self.plan.name)
        left = set(connection.scalars(select(User.id).where(User.id.like(self.plan.ids.pattern))))
        kept = [number for number in range(self.plan.users) if self.plan.user_id(number) in left] if left else []
        for model, rows in self.plan.rows(kept):
            self.inserted += insert_missing(connection, table_of(model), list(rows))

    def begin(self, connection: Connection) -> None:
        """Count what is there of the plan, if need be: its record tells, unless somebody has removed users since."""
        users = _count(connection, User, self.plan)
        known = read_seed(connection, self.plan.name, self.plan.kind)
        if users and known and known.rows and known.rows["users"] == users:
            self.rows.update(known.rows)
        elif users:
            self.rows.update({model.__tablename__: _count(connection, model, self.plan) for model, _ in self.plan.rows(())})

    def write(self, connection: Connection, numbers: Sequence[int]) -> None:
        """Write those users of a batch that are not there."""
        present = present_ids(connection, table_of(User), map(self.plan.user_id, numbers))
        missing = [number for number in numbers if self.plan.user_id(number) not in present]
        self._done += len(present) * self.plan.rows_of_user
        if not missing:
            return
        bulk_insert = dialect_of(connection.dialect.name).bulk_insert
        for model, rows in self.plan.rows(missing):
            inserted = bulk_insert(connection, table_of(model), self._watched(rows))
            self.rows[model.__tablename__] += inserted
            self.inserted += inserted
        record(connection, self.plan.name, self.plan.arguments, self.rows, kind=self.plan.kind)

    def _watched(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, with the observer told from time to time how many went by."""
        for chunk in chunks(rows, _BETWEEN_REPORTS):
            yield from chunk
            self._done += len(chunk)
            if self.observer:
                self.observer(Progress(self.plan.name, self._done, self.plan.users * self.plan.rows_of_user))


def _count(connection: Connection, model: type[Base], plan: Plan) -> int:
    table = table_of(model)
    return connection.scalar(select(func.count()).select_from(table).where(table.c.id.like(plan.ids.pattern))) or 0


def _is_like(pattern: str) -> Owned:
    """Rows with an id of this profile, below a user with such an id."""
    return lambda table: and_(*(column.like(pattern) for column in (table.c.id, table.c.get("user_id")) if column is not None))


def _is_in(seed: Household) -> Owned:
    """Rows of a seed that is known as a whole."""
    ids = {table_of(model).name: [row["id"] for row in rows] for model, rows in seed.items()}
    return lambda table: or_(*(table.c.id.in_(chunk) for chunk in chunks(ids[table.name], 500)))


def _metadata(settings: Settings) -> list[MetaData]:
    return [*dict.fromkeys((Base.metadata, *load_metadata(settings)))]


def _in_the_way(settings: Settings, seed: str, error: IntegrityError, state: str) -> SeedFailed:
    return SeedFailed(
        settings.redact(f"Rows of this database are in the way of the {seed}: {first_line(error)}. {state}"),
        "Change or remove the row that holds the value, or seed an empty database.",
    )
