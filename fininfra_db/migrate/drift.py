"""How models and database are compared, and what may never come out of it: the dropping of what is not ours."""

import ast
import functools
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from alembic.config import Config
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, DefaultClause, MetaData
from sqlalchemy.sql import functions
from sqlalchemy.sql.schema import SchemaItem

from fininfra_db.errors import Refused
from fininfra_db.migrate.neutral import NAMES_OF_NOW, QUOTED, neutralize, operations_of
from fininfra_db.types import utc_now

_PLUGINS: Final = ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"]
"""Alembic's comparisons, with the one for named CHECK constraints, which Alembic leaves to be asked for."""

_TABLE_MAKERS: Final = ("create_table", "rename_table")


def comparison_options(config: Config, scripts: ScriptDirectory) -> dict[str, Any]:
    """The options of ``context.configure`` that decide what autogenerate and ``check`` see."""
    owned = functools.cache(lambda: tables_made_by(scripts))

    def is_ours(_item: SchemaItem, name: str | None, kind: str, reflected: bool, compare_to: SchemaItem | None) -> bool:
        if kind != "table" or name is None:
            return True
        if not reflected or compare_to is not None:
            return True
        return name in owned()

    def guard(context: MigrationContext, _revision: Any, directives: list[ops.MigrationScript]) -> None:
        if not getattr(config.cmd_opts, "autogenerate", False):
            return
        if is_empty(directives):
            directives.clear()
            return
        if not config.attributes.get("allow_drop", False):
            refuse_drops(directives)
        models = context.opts["target_metadata"]
        for script in directives:
            neutralize(script, [models] if isinstance(models, MetaData) else models)
            leave_out_indexes_of_dropped_tables(script)
            put_foreign_keys_in_order(script)

    return {
        "include_object": is_ours,
        "compare_type": True,
        "compare_server_default": _compare_server_default,
        "autogenerate_plugins": _PLUGINS,
        "process_revision_directives": guard,
    }


def is_empty(directives: list[ops.MigrationScript]) -> bool:
    """Whether nothing would be written."""
    return all(script.upgrade_ops is None or script.upgrade_ops.is_empty() for script in directives)


def refuse_drops(directives: list[ops.MigrationScript]) -> None:
    """Raise ``Refused`` when a table or column would be dropped.

    A model that was not imported looks exactly like a table to drop, and a renamed column like one to drop and one to add.
    """
    drops = [_in_words(operation) for operation in _operations(directives) if isinstance(operation, ops.DropTableOp | ops.DropColumnOp)]
    if drops:
        raise Refused(
            f"The revision would lose data: {', '.join(drops)}. Nothing was written.",
            "If a model or import is missing, correct it. For a rename write the revision by hand. If it is meant, add --allow-drop.",
        )


def differences(directives: list[ops.MigrationScript]) -> tuple[str, ...]:
    """Each difference between the models and the database, in words."""
    return tuple(_in_words(operation) for operation in _operations(directives))


def leave_out_indexes_of_dropped_tables(script: ops.MigrationScript) -> None:
    """An index goes with its table. MySQL refuses to drop it before, when a foreign key needs it (error 1553)."""
    for container in (*script.upgrade_ops_list, *script.downgrade_ops_list):
        dropped = {operation.table_name for operation in container.ops if isinstance(operation, ops.DropTableOp)}
        _take(container, [each for each in operations_of([container]) if isinstance(each, ops.DropIndexOp) and each.table_name in dropped])


def put_foreign_keys_in_order(script: ops.MigrationScript) -> None:
    """A foreign key goes before, and comes after, what it needs: its table, the key it points to and, on MySQL, its index."""
    for container in (*script.upgrade_ops_list, *script.downgrade_ops_list):
        changes = operations_of([container])
        going = [each for each in changes if isinstance(each, ops.DropConstraintOp) and each.constraint_type == "foreignkey"]
        coming = [each for each in changes if isinstance(each, ops.CreateForeignKeyOp)]
        first, last = _take(container, going), _take(container, coming)
        container.ops = [*first, *container.ops, *last]


def _take(container: ops.OpContainer, unwanted: Sequence[ops.MigrateOperation]) -> list[ops.MigrateOperation]:
    """Take operations out of the changes of tables. Returns them, in changes of tables of their own."""
    taken: list[ops.MigrateOperation] = []
    for change in [each for each in container.ops if isinstance(each, ops.ModifyTableOps)]:
        found = [operation for operation in change.ops if operation in unwanted]
        if found:
            taken.append(ops.ModifyTableOps(change.table_name, found, schema=change.schema))
            change.ops = [operation for operation in change.ops if operation not in unwanted]
        if not change.ops:
            container.ops.remove(change)
    return taken


def tables_made_by(scripts: ScriptDirectory) -> set[str]:
    """The tables that the revision files create or rename, by reading their code: only these may ever be dropped."""
    names: set[str] = set()
    for script in scripts.walk_revisions():
        for node in ast.walk(ast.parse(Path(script.path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _TABLE_MAKERS:
                names |= {
                    argument.value for argument in node.args if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                }
    return names


def _compare_server_default(
    _context: MigrationContext,
    _inspected: Column[Any],
    metadata_column: Column[Any],
    inspected_default: str | None,
    _metadata_default: Any,
    rendered: str | None,
) -> bool | None:
    """Whether a default differs; None leaves the question to Alembic.

    Databases give a default back in words of their own: of ``utc_now()`` only its presence can be compared, of ``now()``
    its names. A number is compared as a number (MySQL: ``0.0000`` for 0, 0 for false), a text without its quotes.
    """
    default = metadata_column.server_default.arg if isinstance(metadata_column.server_default, DefaultClause) else None
    if isinstance(default, utc_now):
        return inspected_default is None
    if isinstance(default, functions.now):
        return (inspected_default or "").strip("()").lower() not in NAMES_OF_NOW
    text = QUOTED.fullmatch(inspected_default or "")
    if isinstance(default, str) and text and text[1].replace("''", "'") == default:
        return False
    found, wanted = _as_number(inspected_default), _as_number(rendered)
    return found != wanted if found is not None and wanted is not None else None


def _as_number(default: str | None) -> Decimal | None:
    text = (default or "").strip("()'\" ").lower()
    try:
        return Decimal({"false": "0", "true": "1"}.get(text, text))
    except InvalidOperation:
        return None


def _operations(directives: list[ops.MigrationScript]) -> list[ops.MigrateOperation]:
    return operations_of(container for script in directives for container in script.upgrade_ops_list)


def _in_words(operation: ops.MigrateOperation) -> str:
    match operation:
        case ops.CreateTableOp():
            return f"add table {operation.table_name}"
        case ops.DropTableOp():
            return f"drop table {operation.table_name}"
        case ops.AddColumnOp():
            return f"add column {operation.table_name}.{operation.column.name}"
        case ops.DropColumnOp():
            return f"drop column {operation.table_name}.{operation.column_name}"
        case ops.AlterColumnOp():
            return f"change {_changes(operation)} of column {operation.table_name}.{operation.column_name}"
        case ops.CreateIndexOp():
            return f"add index {operation.index_name} on {operation.table_name}"
        case ops.DropIndexOp():
            return f"drop index {operation.index_name} on {operation.table_name}"
        case ops.AddConstraintOp():
            constraint = operation.to_constraint()
            return f"add constraint {constraint.name or type(constraint).__name__} on {constraint.table.name}"
        case ops.DropConstraintOp():
            return f"drop constraint {operation.constraint_name} on {operation.table_name}"
        case _:
            return str(operation.to_diff_tuple())


def _changes(operation: ops.AlterColumnOp) -> str:
    changed = []
    if operation.modify_type is not None:
        changed.append("type")
    if operation.modify_nullable is not None:
        changed.append("nullability")
    if operation.modify_server_default is not False:
        changed.append("default")
    if operation.modify_comment is not False:
        changed.append("comment")
    return " and ".join(changed) or "attributes"
