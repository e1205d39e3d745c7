"""The revision files as their headers tell it: read, never executed.

Reading is enough to know what exists, what follows what and which revision is the head; a large history costs a
fraction of loading it. This module imports neither SQLAlchemy nor Alembic, so completion can use it.
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Final

from fininfra_db.errors import RevisionBroken
from fininfra_db.results import RevisionInfo

_ASSIGNMENT: Final = re.compile(r"^(revision|down_revision|depends_on|branch_labels)\b[^=\n]*=[ \t]*(.+?)[ \t]*(?:#.*)?$", re.MULTILINE)
_PLAIN_STRING: Final = re.compile(r"""(["'])([^"'\\]*)\1""")
_DOCSTRING: Final = re.compile(r'\A\s*(?:#[^\n]*\n\s*)*[rRuU]?("""|\'\'\')(.*?)\1', re.DOTALL)
_CREATED: Final = re.compile(r"^Create Date:\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class History:
    """Every revision of a project, by identifier."""

    revisions: dict[str, RevisionInfo]

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """The revisions that no other follows, in order of identifier."""
        followed = {parent for info in self.revisions.values() for parent in info.down_revisions}
        return tuple(sorted(set(self.revisions) - followed))

    @cached_property
    def in_order(self) -> tuple[RevisionInfo, ...]:
        """Every revision, each after those that it follows or depends on; among equals by file name."""
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for name, info in sorted(self.revisions.items(), key=lambda item: item[1].path.name):
            below = self.ancestors([name]) - {name} if info.depends_on else info.down_revisions
            sorter.add(name, *sorted(below))
        return tuple(self.revisions[name] for name in sorter.static_order())

    @cached_property
    def has_dependencies(self) -> bool:
        """Whether a revision names others with ``depends_on``; then the version table may hold fewer rows than heads."""
        return any(info.depends_on for info in self.revisions.values())

    def is_at_head(self, versions: Iterable[str]) -> bool:
        """Whether a database with these rows in its version table has nothing left to apply."""
        found = set(versions)
        if not self.has_dependencies:
            return found == set(self.heads)
        return found <= set(self.revisions) and not set(self.revisions) - self.ancestors(found)

    def unknown(self, versions: Iterable[str]) -> tuple[str, ...]:
        """Those of ``versions`` that no file of this history has."""
        return tuple(version for version in versions if version not in self.revisions)

    def ancestors(self, versions: Iterable[str]) -> set[str]:
        """``versions`` and everything below them, through ``depends_on`` too."""
        by_label = {label: info.revision for info in self.revisions.values() for label in info.branch_labels}
        seen: set[str] = set()
        queue = list(versions)
        while queue:
            name = queue.pop()
            name = by_label.get(name, name)
            if name not in seen and name in self.revisions:
                seen.add(name)
                info = self.revisions[name]
                queue += (*info.down_revisions, *info.depends_on)
        return seen


def read_history(folders: Iterable[Path], *, recursive: bool = False) -> History:
    """Read the headers of the revision files in ``folders``.

    Raises ``RevisionBroken`` for a file that cannot be read, two files with one identifier, or a parent without a file.
    """
    found: dict[str, RevisionInfo] = {}
    for path in _revision_files(folders, recursive):
        info = read_header(path)
        if info is None:
            continue
        if info.revision in found:
            raise RevisionBroken(
                f"Two files have the revision identifier {info.revision}: {found[info.revision].path.name} and {path.name}.",
                "Give one of them a new identifier; nothing was run.",
            )
        found[info.revision] = info
    for info in found.values():
        for parent in info.down_revisions:
            if parent not in found:
                raise RevisionBroken(
                    f"The revision file {info.path.name} follows {parent}, which has no file. Nothing was run.",
                    "Restore the missing file, or correct down_revision.",
                )
    return _with_heads(History(found))


def read_header(path: Path) -> RevisionInfo | None:
    """The header of one file; None for a Python file that is no revision. Raises ``RevisionBroken``."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RevisionBroken(f"The revision file {path.name} cannot be read: {reason}.", f"Correct or remove {path}.") from None
    values = _assignments(source, path)
    if not values.get("revision"):
        return None
    docstring = _DOCSTRING.match(source)
    text = _unescaped(docstring).strip() if docstring else ""
    created = _CREATED.search(text)
    return RevisionInfo(
        revision=values["revision"],
        down_revisions=_as_tuple(values.get("down_revision")),
        depends_on=_as_tuple(values.get("depends_on")),
        branch_labels=_as_tuple(values.get("branch_labels")),
        message=message_in(text),
        created=created[1] if created else None,
        path=path,
    )


def message_in(docstring: str) -> str:
    """The message of a revision, in one line: the first paragraph of its file's docstring."""
    return f"\n{docstring.strip()}".split("\nRevision ID:")[0].strip().split("\n\n")[0].replace("\n", " ").strip()


def _unescaped(docstring: re.Match[str]) -> str:
    """The text of a docstring, as Python would read it."""
    if "\\" not in docstring[2]:
        return docstring[2]
    try:
        return str(ast.literal_eval(docstring[1] + docstring[2] + docstring[1]))
    except (SyntaxError, ValueError):
        return docstring[2]


def _revision_files(folders: Iterable[Path], recursive: bool) -> Iterable[Path]:
    for folder in folders:
        paths = folder.rglob("*.py") if recursive else folder.glob("*.py")
        yield from sorted((path for path in paths if not path.name.startswith((".#", "__init__"))), key=str)


def _assignments(source: str, path: Path) -> dict[str, Any]:
    """The four identifiers of a header, from their lines; from the whole file's syntax when a line is not enough."""
    try:
        return {name: _literal(value) for name, value in _ASSIGNMENT.findall(source)}
    except (SyntaxError, ValueError):
        return _assignments_of_tree(source, path)


def _literal(value: str) -> Any:
    plain = _PLAIN_STRING.fullmatch(value)  # nearly all are, and Python's own parser takes ten times as long
    return plain[2] if plain else None if value == "None" else ast.literal_eval(value)


def _assignments_of_tree(source: str, path: Path) -> dict[str, Any]:
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise RevisionBroken(f"The revision file {path.name} has a syntax error in line {error.lineno}.", f"Correct {path}.") from None
    values = {}
    for node in body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name) and target.id in ("revision", "down_revision", "depends_on", "branch_labels"):
                try:
                    values[target.id] = ast.literal_eval(node.value)
                except ValueError:
                    raise RevisionBroken(
                        f"In the revision file {path.name}, {target.id} is computed and cannot be read without running it.",
                        f"Write its value into {path}.",
                    ) from None
    return values


def _as_tuple(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _with_heads(history: History) -> History:
    from dataclasses import replace

    heads = {name: replace(history.revisions[name], is_head=True) for name in history.heads}
    return History(history.revisions | heads)
