"""Writing the profiles: the household as a whole, the planned ones user by user, in batches that are each all or nothing."""

from asyncio import CancelledError
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, and_, func, or_, select
from sqlalchemy.exc import IntegrityError

from fininfra_db.connections import migration_lock, open_connection
from fininfra_db.data.household import Household, household
from fininfra_db.data.profiles.plan import Plan, Row
from fininfra_db.data.removing import Owned, Removal
from fininfra_db.data.rows import chunks, insert_missing, present_ids, table_of
from fininfra_db.data.transaction import failures_in_words, in_transaction, look_first
from fininfra_db.dialects import dialect_of
from fininfra_db.dialects.base import first_line
from fininfra_db.errors import RowRefused, SeedFailed
from fininfra_db.events import BlastRadius, Observer, Progress
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

    def write(connection: Connection) -> tuple[int, int]:
        removed = Removal(connection, seed, _is_in(seed)).remove() if replace else 0
        inserted = sum(insert_missing(connection, table_of(model), each) for model, each in seed.items())
        if inserted or read_seed(connection, DEFAULT_SEED, {}) is None:
            record(connection, DEFAULT_SEED, {}, rows, kind={})
        return removed, inserted

    async with migration_lock(settings, observer) as lock, lock.kept(), in_transaction(settings, DEFAULT_SEED, lock, assessed) as session:
        try:
            removed, inserted = await session.run_sync(lambda sync: write(sync.connection()))
        except (IntegrityError, RowRefused) as error:
            raise _in_the_way(settings, DEFAULT_SEED, error, "Nothing was written.") from None
    return Seeded(seed=DEFAULT_SEED, rows=rows, inserted=inserted, removed=removed)


async def seed_planned(
    settings: Settings, plan: Plan, assessed: BlastRadius | None = None, *, replace: bool = False, observer: Observer | None = None
) -> Seeded:
    """Write the users of a plan that are not there yet, each with everything that is theirs.

    A user is there when its ``id`` is: what belongs to it came in the same transaction. So a run that was killed is
    carried on with by the next one. ``replace`` first removes what the profile wrote, with whatever arguments; a user below whom
    somebody's row hangs stays as it is. Raises as ``seed_household``; the batches that were committed before stay.
    """
    writer = _Writer(plan, observer)
    async with migration_lock(settings, observer) as lock, lock.kept():
        await look_first(settings, assessed)
        async with failures_in_words(settings, plan.name, lambda: writer.has_committed), open_connection(settings, "seeding") as connection:
            try:
                if replace:
                    await connection.run_sync(writer.replace)
                await connection.run_sync(writer.begin)
                for numbers in plan.batches():
                    await connection.run_sync(writer.write, numbers)
                    await lock.verify()
                    await connection.commit()
                    writer.note_commit()
            except (IntegrityError, RowRefused) as error:
                raise _in_the_way(settings, plan.name, error, writer.state) from None
            except (KeyboardInterrupt, CancelledError) as interruption:
                removed = f"removed {writer.removed} rows and " if writer.removed and writer.has_committed else ""
                again = "the same command without --replace" if removed else "the same command"
                interruption.add_note(f"The seed {plan.name} has {removed}written {writer.committed} rows, and {again} goes on from there.")
                raise
    return Seeded(seed=plan.name, rows=dict(writer.rows), inserted=writer.inserted, removed=writer.removed)


@dataclass
class _Writer:
    """One run of a plan, and how far it has come. ``rows`` counts what the database holds of it, by table."""

    plan: Plan
    observer: Observer | None
    rows: Counter[str] = field(default_factory=Counter)
    inserted: int = 0
    removed: int = 0
    committed: int = 0
    """Of those inserted, the ones that stay whatever happens."""
    has_committed: bool = False
    _is_recorded: bool = False
    _done: int = 0
    """Rows that need no work any more; of those that were there, about how many."""

    @property
    def state(self) -> str:
        """What stays when a batch fails."""
        if not self.has_committed:
            return "Nothing was written."
        removed = f", {self.removed} rows that were there are removed" if self.removed else ""
        return f"The batches before stay{removed}, the rest was rolled back."

    def note_commit(self) -> None:
        """What was done so far is there to stay."""
        self.committed, self.has_committed = self.inserted, True

    def replace(self, connection: Connection) -> None:
        """Remove what the profile wrote, but for users that somebody's rows hang below."""
        models, pattern = [model for model, _ in self.plan.rows(())], self.plan.ids.profile_pattern
        self.removed = Removal(connection, models, _is_like(pattern)).remove_users(pattern)
        forget(connection, self.plan.name)

    def begin(self, connection: Connection) -> None:
        """Count what is there of the plan, if need be: its record tells, unless somebody has removed users since."""
        users = _count(connection, User, self.plan)
        known = read_seed(connection, self.plan.name, self.plan.kind)
        self._is_recorded = known is not None
        if users and known and known.rows and known.rows["users"] == users:
            self.rows.update(known.rows)
        elif users:
            self.rows.update({model.__tablename__: _count(connection, model, self.plan) for model, _ in self.plan.rows(())})

    def write(self, connection: Connection, numbers: Sequence[int]) -> None:
        """Write those users of a batch that are not there."""
        present = present_ids(connection, table_of(User), map(self.plan.user_id, numbers))
        missing = [number for number in numbers if self.plan.user_id(number) not in present]
        self._done += len(present) * self.plan.rows_of_user
        if missing:
            self._insert(connection, missing)
        if missing or not self._is_recorded:
            record(connection, self.plan.name, self.plan.arguments, self.rows, kind=self.plan.kind)
            self._is_recorded = True

    def _insert(self, connection: Connection, numbers: Sequence[int]) -> None:
        bulk_insert = dialect_of(connection.dialect.name).bulk_insert
        for model, rows in self.plan.rows(numbers):
            inserted = bulk_insert(connection, table_of(model), self._watched(rows))
            self.rows[model.__tablename__] += inserted
            self.inserted += inserted

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


def _in_the_way(settings: Settings, seed: str, error: IntegrityError | RowRefused, state: str) -> SeedFailed:
    reason = error.reason if isinstance(error, RowRefused) else first_line(error)
    return SeedFailed(
        settings.redact(f"Rows of this database are in the way of the {seed}: {reason.rstrip('.')}. {state}"),
        "Change or remove the row that holds the value, or seed an empty database.",
    )
