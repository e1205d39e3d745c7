"""Each result in words. On a terminal a grid becomes a table; in a pipe the lines are printed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path

from fininfra_db.events import Dropped, Snapshot
from fininfra_db.results import (
    Applied,
    Checked,
    Current,
    DataChecked,
    Environment,
    Initialized,
    KeyGenerated,
    KeysStatus,
    Marked,
    Migrated,
    Repaired,
    Resealed,
    Reset,
    Restored,
    Result,
    Revised,
    RevisionInfo,
    Revisions,
    RuleChecked,
    Script,
    SealedColumn,
    Seeded,
    SeedRecord,
    SetUp,
    Shown,
    SnapshotDeleted,
    Snapshots,
    SnapshotSaved,
    Stamped,
    Status,
    TablesCreated,
    Waited,
)

_NOTHING = "Nothing to do."


@dataclass(frozen=True)
class Grid:
    """Rows of cells below column titles, a line after them, and lines before them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    summary: str = ""
    introduction: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """A result in words. ``is_answer``: it was asked for, so ``--quiet`` does not keep it back."""

    lines: tuple[str, ...]
    grid: Grid | None = None
    is_answer: bool = False


def view(result: Result, *, verbose: bool = False) -> View:
    """The words for a result."""
    if (isinstance(result, Shown) or (verbose and isinstance(result, Revisions | Current))) and result.revisions:
        return View(tuple(line for info in result.revisions for line in _details(info)) + _unknown(result), is_answer=True)
    if isinstance(result, Status):
        return _status(result, all_of_it=verbose)
    return _view(result)


@singledispatch
def _view(result: Result) -> View:
    raise TypeError(f"no view for {type(result).__name__}")


@_view.register
def _(result: Initialized) -> View:
    return View(_written(result.written) or (_NOTHING,))


@_view.register
def _(result: Revised) -> View:
    return View(_written(result.paths) or (f"Nothing to do: {result.reason}." if result.reason else _NOTHING,))


@_view.register
def _(result: Migrated) -> View:
    if not result.steps:
        return View((f"Nothing to do: the database is at {_versions(result.after)}.",))
    verb = "applied" if result.steps[0].direction == "up" else "reverted"
    lines = tuple(f"{verb} {step.revision} {step.message} ({step.seconds:.2f} s)" for step in result.steps)
    return View((*_kept(result.snapshot), *lines, f"The database is at {_versions(result.after)}."))


@_view.register
def _(result: Repaired) -> View:
    if result.settled is None:
        return View((f"Nothing to do: no revision is unfinished. The database is at {_versions(result.after)}.",))
    name = result.settled.revision
    done = {
        "resume": f"ran the rest of {name}",
        "mark-applied": f"marked {name} as done; nothing was run",
        "mark-rolled-back": f"marked {name} as rolled back; nothing was run",
    }
    return View((done[result.way], f"The database is at {_versions(result.after)}."))


@_view.register
def _(result: Script) -> View:
    return View((result.sql.rstrip("\n"),), is_answer=True)


@_view.register
def _(result: Current) -> View:
    lines = tuple(f"{info.revision}{_marks(info, current=False)}" for info in result.revisions)
    lines += _unknown(result)
    return View(lines or ("base: no revision is applied",), is_answer=True)


@_view.register
def _(result: Revisions) -> View:
    lines = tuple(
        f"{', '.join(info.down_revisions) or '<base>'} -> {info.revision}{_marks(info)}, {info.message}".rstrip(", ")
        for info in result.revisions
    )
    rows = tuple(
        (info.revision, ", ".join(info.down_revisions) or "base", _marks(info).strip(), info.created or "", info.message)
        for info in result.revisions
    )
    return View(
        lines or ("No revision.",),
        Grid(("revision", "parent", "", "created", "message"), rows) if rows else None,
        is_answer=True,
    )


@_view.register
def _(result: Stamped) -> View:
    return View((f"Stamped {_versions(result.after)} (was {_versions(result.before)}). No revision was run.",))


@_view.register
def _(result: Checked) -> View:
    return View(() if result.findings else ("One head, nothing pending, and the models agree with the database.",), is_answer=True)


_STATES = ("applied", "pending", "missing", "edited")
_APPLIED_SHOWN = 10
"""How many of the revisions that are applied as they should be are shown; all with ``-v``."""


def _status(result: Status, *, all_of_it: bool) -> View:
    counts = ", ".join(f"{len(getattr(result, state))} {state}" for state in _STATES if state == "applied" or getattr(result, state))
    head = (
        f"{result.database}: {result.server}{'' if result.size is None else f', {_bytes(result.size)}'}",
        *((f"environment: {result.environment}",) if result.environment else ()),
        *((f"locked by {result.holder}",) if result.holder else ()),
        *map(_written_seed, result.seeds),
        f"revisions: {counts}",
    )
    old = [each for each in result.revisions if each.state == "applied"][:-_APPLIED_SHOWN]
    shown = [each for each in result.revisions if all_of_it or each not in old]
    rows = tuple((each.revision, each.state, *(_applied(each.applied) if each.applied else ("", "", "")), each.message) for each in shown)
    summary = f"{len(old)} older revisions are applied; -v shows them." if old and not all_of_it else ""
    lines = tuple(" ".join(cell for cell in row if cell) for row in rows)
    columns = ("revision", "state", "applied", "by", "took", "message")
    return View((*head, *lines, *filter(None, [summary])), Grid(columns, rows, summary, head) if rows else None, is_answer=True)


def _written_seed(seed: SeedRecord) -> str:
    words = [seed.name, *(f"--{name.replace('_', '-')} {value}" for name, value in seed.arguments.items())]
    rows = "" if seed.rows is None else f", {sum(seed.rows.values()):,} rows"
    return f"seed: {' '.join(words)}{rows}, {seed.written:%Y-%m-%d %H:%M:%S} UTC by {seed.by}"


def _applied(applied: Applied) -> tuple[str, str, str]:
    took = "" if applied.seconds is None else f"{applied.seconds:.2f} s"
    return f"{applied.started:%Y-%m-%d %H:%M:%S} UTC", applied.by, took


def _bytes(size: int) -> str:
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


@_view.register
def _(result: DataChecked) -> View:
    rows = tuple((each.rule, _found(each), f"{each.seconds:.2f} s") for each in result.rules)
    if not rows:
        return View(())
    checked = sum(each.reason is None for each in result.rules)
    summary = f"{checked} rule{'s' * (checked != 1)} checked, {len(result.findings) or 'none'} broken."
    return View((*(" ".join(row[:2]) for row in rows), summary), Grid(("rule", "found", "took"), rows, summary), is_answer=True)


def _found(checked: RuleChecked) -> str:
    if checked.reason is not None:
        return f"not checked: {checked.reason}"
    return f"{checked.count:,} row{'s' * (checked.count != 1)}" if checked.count else "ok"


@_view.register
def _(result: Waited) -> View:
    what = "The server answers" if result.waited_for == "server" else "The database is at head"
    return View(() if result.findings else (f"{what} (after {result.seconds:.1f} s).",))


@_view.register
def _(result: SetUp) -> View:
    lines = _written(result.initialized.written) + (("created the database",) if result.database_created else ())
    return View(lines + _written(result.revised.paths) + _view(result.migrated).lines)


@_view.register
def _(result: Seeded) -> View:
    rows = tuple((table, str(count)) for table, count in result.rows.items())
    summary = tuple(_seeded(part) for part in result.parts or (result,))
    return View((*(" ".join(row) for row in rows), *summary), Grid(("table", "rows"), rows, "\n".join(summary)) if rows else None)


def _seeded(result: Seeded) -> str:
    removed = f"{result.removed} removed, " if result.removed else ""
    what = f"{removed}{result.inserted} new of {sum(result.rows.values())} rows" if result.rows else "done"
    return f"Seed {result.seed}: {what}."


@_view.register
def _(result: Reset) -> View:
    dropped = Dropped(result.dropped, result.dropped_types)
    seeded = _view(result.seeded).lines if result.seeded else ()
    told = f"dropped {dropped}" if result.dropped else "there was nothing to drop"
    made = _view(result.migrated).lines if result.cached is None else _from_cache(result.cached)
    return View((*_kept(result.snapshot), told, *made, *seeded))


def _from_cache(snapshot: Snapshot) -> tuple[str, ...]:
    taken = f"put back what a reset made at {snapshot.taken:%Y-%m-%d %H:%M:%S} UTC ({snapshot.name})"
    return (taken, f"The database is at {snapshot.revision or 'base'}.")


@_view.register
def _(result: Snapshots) -> View:
    rows = tuple(
        (each.name, f"{each.taken:%Y-%m-%d %H:%M:%S} UTC", each.revision or "base", each.seed or "", each.server or "", f"{each.size:,}")
        for each in result.snapshots
    )
    lines = tuple(f"{row[0]} ({', '.join([*filter(None, row[3:-1]), f'{row[-1]} bytes'])})" for row in rows)
    grid = Grid(("snapshot", "taken", "revision", "seed", "server", "bytes"), rows) if rows else None
    return View(lines or ("There is no snapshot of this database.",), grid, is_answer=True)


@_view.register
def _(result: SnapshotSaved) -> View:
    snapshot = result.snapshot
    where = snapshot.database or (snapshot.path and snapshot.path.name)
    return View((f"saved {snapshot.name} as {where}, at {snapshot.revision or 'base'}",))


@_view.register
def _(result: SnapshotDeleted) -> View:
    return View((f"deleted {result.snapshot.name}",))


@_view.register
def _(result: Restored) -> View:
    lines = [f"restored {result.snapshot.name}", *_kept(result.kept)]
    if result.moved is not None:
        lines.append(f"moved the damaged file to {result.moved}")
    return View((*lines, f"The database is at {result.snapshot.revision or 'base'}."))


@_view.register
def _(result: TablesCreated) -> View:
    return View(tuple(f"created {name}" for name in result.created) or (_NOTHING,))


@_view.register
def _(result: Environment) -> View:
    protected = " (protected)" if result.protected else ""
    none = "none: the database is not marked; 'fininfra-db environment set NAME' marks it"
    return View((f"{result.environment}{protected}" if result.environment else none,), is_answer=True)


@_view.register
def _(result: Marked) -> View:
    if result.environment == result.before:
        return View((f"Nothing to do: the database is marked {result.environment}." if result.environment else _NOTHING,))
    protected = ", which is protected" if result.protected else ""
    now = f"Marked {result.environment}{protected}" if result.environment else "The mark was taken away"
    return View((f"{now} (was {result.before or 'not marked'}).",))


@_view.register
def _(result: KeyGenerated) -> View:
    return View((result.key,), is_answer=True)


@_view.register
def _(result: KeysStatus) -> View:
    return View((*_keys(result), *map(_sealed, result.columns)), is_answer=True)


@_view.register
def _(result: Resealed) -> View:
    changed = sum(column.changed for column in result.columns)
    what = f"{changed:,} row{'' if changed == 1 else 's'} with key {result.keys[0]}"
    done = f"Would seal {what}. Nothing was written." if result.dry_run else f"Sealed {what}." if changed else "Nothing to do."
    return View((*map(_sealed, result.columns), done))


def _keys(result: KeysStatus) -> tuple[str, ...]:
    names = (f"key {name}{'' if number else ' (first)'}" for number, name in enumerate(result.keys))
    return (*names, *(() if result.columns else ("The models have no sealed column.",)))


def _sealed(column: SealedColumn) -> str:
    kinds = {"plaintext": column.plaintext.count, "unopened": column.unopened.count, "NULL": column.nulls}
    counts = ", ".join(f"{count:,} {name}" for name, count in (column.keys | kinds).items() if count)
    return f"{column.table}.{column.column}: {counts or 'no rows'}"


def _unknown(result: Revisions | Current) -> tuple[str, ...]:
    return tuple(f"{name} (unknown)" for name in result.unknown) if isinstance(result, Current) else ()


def _details(info: RevisionInfo) -> Sequence[str]:
    rows = (
        ("Revision", f"{info.revision}{_marks(info)}"),
        ("Parent", ", ".join(info.down_revisions) or "<base>"),
        ("Depends on", ", ".join(info.depends_on)),
        ("Branch labels", ", ".join(info.branch_labels)),
        ("Created", info.created or ""),
        ("Applied", " ".join(filter(None, _applied(info.applied))) if info.applied else ""),
        ("Edited", "since it was applied" if info.applied and info.applied.edited else ""),
        ("Path", str(info.path)),
        ("Message", info.message),
    )
    return [*(f"{name}: {text}" for name, text in rows if text), ""]


def _marks(info: RevisionInfo, *, current: bool = True) -> str:
    labels = f" ({', '.join(info.branch_labels)})" if info.branch_labels else ""
    marks = labels + (" (head)" if info.is_head else "")
    return marks + (" (current)" if current and info.is_current else "")


def _kept(snapshot: Snapshot | None) -> tuple[str, ...]:
    return (f"kept a snapshot of before: {snapshot.name}",) if snapshot is not None else ()


def _written(paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(f"wrote {_from_here(path)}" for path in paths)


def _from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _versions(versions: Sequence[str]) -> str:
    return ", ".join(versions) or "base"
