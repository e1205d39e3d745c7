"""The SQL of an upgrade, a downgrade or a stamp, rendered instead of executed; no database is contacted."""

from typing import TYPE_CHECKING, Any

from fininfra_db.errors import OptionsInvalid
from fininfra_db.migrate.config import Project
from fininfra_db.results import Script

if TYPE_CHECKING:
    from fininfra_db.migrate.watch import Direction


async def render_upgrade(project: Project, revision: str, tag: str | None = None) -> Script:
    """The SQL of an upgrade. ``revision`` is a target, or ``from:to``."""
    start, _, target = revision.rpartition(":")
    return await _render(project, "up", start or None, target, tag)


async def render_downgrade(project: Project, revision: str, tag: str | None = None) -> Script:
    """The SQL of a downgrade. ``revision`` is ``from:to``, since no database is asked where it is."""
    start, colon, target = revision.rpartition(":")
    if not colon:
        raise OptionsInvalid("downgrade --sql needs <from>:<to>: no database is asked where it is.", "For example head:base.")
    return await _render(project, "down", start, target, tag)


async def render_stamp(project: Project, revisions: tuple[str, ...], tag: str | None = None) -> Script:
    """The SQL that writes ``revisions`` into the version table; each may be ``from:to``."""
    from fininfra_db.migrate.config import alembic_config
    from fininfra_db.migrate.environment import load_scripts, render

    starts = {start for start, colon, _ in (revision.rpartition(":") for revision in revisions) if colon}
    if len(starts) > 1:
        raise OptionsInvalid("stamp --sql takes one starting revision for all.", "Give the same <from> in each <from>:<to>.")
    targets = tuple(revision.rpartition(":")[2] for revision in revisions)
    scripts = load_scripts(alembic_config(project))
    start = starts.pop() if starts else None
    sql = await render(
        project, lambda versions, _: scripts._stamp_revs(targets, versions), starting_rev=start, destination_rev=targets, tag=tag
    )
    return Script(sql=sql)


async def _render(project: Project, direction: "Direction", start: str | None, target: str, tag: str | None) -> Script:
    from fininfra_db.migrate.config import alembic_config
    from fininfra_db.migrate.environment import load_scripts, render

    scripts = load_scripts(alembic_config(project))
    plan: Any = scripts._upgrade_revs if direction == "up" else scripts._downgrade_revs
    sql = await render(project, lambda versions, _: plan(target, versions), starting_rev=start, destination_rev=target, tag=tag)
    return Script(sql=sql)
