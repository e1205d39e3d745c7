"""Alembic's plugin that keeps autogenerate away from this program's own tables, in every project and in plain ``alembic`` too.

Alembic loads it through the entry point ``alembic.plugins``. Its name is below ``alembic.autogenerate``, since those are
the comparisons that an ``env.py`` takes unless it says otherwise.
"""

from typing import TYPE_CHECKING, Any, Final

from alembic.util import DispatchPriority, PriorityDispatchResult

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.runtime.plugins import Plugin

PREFIX: Final = "fininfra_"
"""What the names of this program's own tables begin with."""


def setup(plugin: "Plugin") -> None:
    """Called by Alembic."""
    plugin.add_autogenerate_comparator(_leave_out_our_tables, "autogenerate", priority=DispatchPriority.FIRST)


def _leave_out_our_tables(autogen_context: "AutogenContext", _operations: Any) -> PriorityDispatchResult:
    autogen_context._name_filters.append(_is_not_ours)
    return PriorityDispatchResult.CONTINUE


def _is_not_ours(name: str | None, kind: str, _parents: Any) -> bool:
    return kind != "table" or not (name or "").startswith(PREFIX)
