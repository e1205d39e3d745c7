"""Settling a revision that an earlier run left unfinished: run the rest of it, or say what somebody did by hand."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from fininfra_db.connections import locked_transaction
from fininfra_db.errors import RevisionNotFound
from fininfra_db.events import Observer
from fininfra_db.migrate.aftermath import tells_interruption
from fininfra_db.migrate.config import Project, alembic_config
from fininfra_db.migrate.environment import load_scripts
from fininfra_db.migrate.journal import SETTLED, read_unfinished, rewrite
from fininfra_db.migrate.runner import run_steps
from fininfra_db.migrate.state import read_state, read_versions, refuse_unknown
from fininfra_db.migrate.watch import Resume
from fininfra_db.results import Entry, Repaired

Settlement = Literal["resume", "mark-applied", "mark-rolled-back"]


@tells_interruption
async def repair(project: Project, settlement: Settlement, *, observer: Observer | None = None) -> Repaired:
    """Settle the unfinished revision, if there is one.

    ``resume`` runs what is missing of it; the statements that were committed are not run again. ``mark-applied`` says that
    somebody finished it by hand: only the version is written. ``mark-rolled-back`` says that somebody undid it: the version
    stays. Raises ``UnfinishedRevision`` when the file does not do the same statements any more, ``RevisionNotFound``
    when there is no file, and what a run of a revision raises.
    """
    state = await read_state(project)
    if state.unfinished is None:
        return Repaired(way=settlement, after=state.versions)
    refuse_unknown(project.history(), state.versions)
    if settlement == "mark-rolled-back":
        is_settled = await _settle(project, state.unfinished, observer)
        return Repaired(way=settlement, settled=state.unfinished if is_settled else None, after=await read_versions(project))
    resume = Resume(state.unfinished, run_it=settlement == "resume")
    if resume.entry.revision not in project.history().revisions:
        raise RevisionNotFound(
            f"Revision {resume.entry.revision} was left unfinished, and this checkout has no file of it. Nothing was changed.",
            "Update the checkout; or undo the revision by hand, then run 'fininfra-db repair --mark-rolled-back'.",
        )
    config = alembic_config(project)
    scripts = load_scripts(config)

    def plan(versions: tuple[str, ...]) -> Iterable[Any]:
        """The one step that is unfinished; none when somebody has settled it meanwhile."""
        up = resume.entry.direction == "up"
        steps: Any = scripts._upgrade_revs if up else scripts._downgrade_revs
        found = steps(resume.entry.revision if up else "base", versions)
        return [step for step in found if step.revision.revision == resume.entry.revision]

    ran = await run_steps(project, config, scripts, plan, observer=observer, resume=resume, destination_rev=resume.entry.revision)
    is_settled = bool(ran.steps)
    if not is_settled and not resume.run_it:  # its version was written by hand too
        is_settled = await _settle(project, state.unfinished, observer)
    return Repaired(
        way=settlement, settled=state.unfinished if is_settled else None, steps=ran.steps if resume.run_it else (), after=ran.after
    )


async def _settle(project: Project, entry: Entry, observer: Observer | None) -> bool:
    """Whether there was still something to settle when the lock was taken: another run may have come to the end of it."""
    async with locked_transaction(project.settings, "migration", observer) as connection:
        if await connection.run_sync(lambda sync: read_unfinished(sync, entry.version_table)) != entry:
            return False
        await connection.run_sync(lambda sync: rewrite(sync, replace(entry, outcome=SETTLED)))
    return True
