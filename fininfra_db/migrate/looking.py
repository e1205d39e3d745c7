"""The reading verbs: current, history, heads, check. None of them writes a byte."""

from collections.abc import Iterable
from dataclasses import replace

from fininfra_db.migrate.config import Project
from fininfra_db.migrate.history import History
from fininfra_db.migrate.state import read_versions
from fininfra_db.results import Checked, Current, Finding, RevisionInfo, Revisions, Shown


def look_at_current(history: History, versions: tuple[str, ...], *, check_heads: bool) -> Current:
    """The database's revisions, as the history knows them."""
    findings = find_unknown(history, versions)
    if check_heads and not findings:
        findings = find_pending(history, versions)
    known = tuple(replace(history.revisions[version], is_current=True) for version in versions if version in history.revisions)
    return Current(revisions=known, unknown=history.unknown(versions), findings=findings)


def look_at_history(history: History, rev_range: str | None, versions: tuple[str, ...] | None) -> Revisions:
    """The revisions of a range, newest first; marked with the database's ``versions`` when they are known."""
    from fininfra_db.migrate.lookup import names_current, walk

    findings = find_unknown(history, versions or ())
    if findings and names_current(rev_range):
        return Revisions(findings=findings)
    known = tuple(version for version in versions or () if version in history.revisions)
    found = walk(history, rev_range, known)
    if versions is not None:
        found = tuple(replace(info, is_current=info.revision in known) for info in found)
    return Revisions(revisions=found, findings=findings)


def show_current(history: History, versions: tuple[str, ...]) -> Shown:
    """The database's revisions, in full."""
    known = tuple(history.revisions[version] for version in versions if version in history.revisions)
    return Shown(revisions=known, findings=find_unknown(history, versions))


def look_at_heads(history: History, *, resolve_dependencies: bool) -> Revisions:
    """The heads; with ``resolve_dependencies`` without those that another head depends on."""
    heads: Iterable[RevisionInfo] = (history.revisions[name] for name in history.heads)
    if resolve_dependencies and history.has_dependencies:
        from fininfra_db.migrate.lookup import find_revisions

        heads = find_revisions(history, "heads")
    return Revisions(revisions=tuple(heads))


async def check(project: Project) -> Checked:
    """Compare history, database and models. The models are compared only with a database that is at head."""
    history = project.history()
    versions = await read_versions(project, only_looking=True)
    findings = find_unknown(history, versions)
    if findings:
        return Checked(findings=findings)
    findings = find_heads(history)
    pending = find_pending(history, versions)
    if pending:
        return Checked(pending=pending_revisions(history, versions), findings=findings + pending)
    from fininfra_db.migrate.authoring import find_drift

    drift = await find_drift(project)
    if drift:
        findings += (
            Finding(
                "drift",
                f"The models differ from the database: {'; '.join(drift)}.",
                "Run 'fininfra-db revision --autogenerate -m \"...\"' to write what is missing, then 'fininfra-db upgrade'.",
            ),
        )
    return Checked(drift=drift, findings=findings)


def pending_revisions(history: History, versions: tuple[str, ...]) -> tuple[str, ...]:
    """The revisions that the database does not have yet, in order of file name."""
    missing = set(history.revisions) - history.ancestors(versions)
    return tuple(sorted(missing, key=lambda name: history.revisions[name].path.name))


def find_heads(history: History) -> tuple[Finding, ...]:
    """A finding for a history that has several heads."""
    if len(history.heads) <= 1:
        return ()
    files = ", ".join(f"{name} ({history.revisions[name].path.name})" for name in history.heads)
    return (Finding("multiple-heads", f"The history has several heads: {files}.", "Join them with 'fininfra-db merge heads'."),)


def find_unknown(history: History, versions: tuple[str, ...]) -> tuple[Finding, ...]:
    """A finding for a database that is at a revision without a file here."""
    unknown = history.unknown(versions)
    if not unknown:
        return ()
    return (
        Finding(
            "database-ahead",
            f"The database is at {', '.join(unknown)}, which this checkout does not have: it is ahead, or of another project.",
            "Update the checkout to the one that made the revision, or check the database URL.",
        ),
    )


def find_pending(history: History, versions: tuple[str, ...]) -> tuple[Finding, ...]:
    """A finding for revisions that the database does not have yet."""
    if history.is_at_head(versions):
        return ()
    pending = pending_revisions(history, versions)
    what = f"{len(pending)} revision{'s are' if len(pending) != 1 else ' is'} pending: {', '.join(pending[:5])}"
    return (Finding("pending", f"{what}{', ...' if len(pending) > 5 else ''}.", "Run 'fininfra-db upgrade'."),)
