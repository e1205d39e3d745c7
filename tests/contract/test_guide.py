"""The guide's walk through the library, on every database."""

from tests.conftest import Project


async def test_setup_and_migrate_takes_nothing_to_head_and_then_changes_nothing(project: Project) -> None:
    first = await project.database().setup_and_migrate()
    assert first.database_created
    assert [step.direction for step in first.migrated.steps] == ["up"]
    files = {path: path.read_bytes() for path in project.root.rglob("*") if path.is_file() and path.suffix != ".db"}

    second = await project.database().setup_and_migrate()
    assert not second.database_created
    assert second.migrated.steps == ()
    assert second.migrated.after == first.migrated.after
    assert second.warnings == ()
    assert files == {path: path.read_bytes() for path in files}


async def test_check_is_clean_on_the_shipped_history(project: Project) -> None:
    await project.database().setup_and_migrate()
    checked = await project.database().check()
    assert checked.findings == ()


async def test_down_and_up_again_leaves_a_clean_database(project: Project) -> None:
    await project.database().setup_and_migrate()
    down = await project.database().downgrade("base")
    assert down.after == ()
    up = await project.database().upgrade()
    assert up.after == down.before
    assert (await project.database().check()).findings == ()
