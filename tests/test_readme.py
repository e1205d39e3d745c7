"""The README is the manual: what it shows is run, in the order in which it stands, as one new user would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate import README, generate
from tests.conftest import clean_environment

BLOCK = re.compile(r"^```(console|python)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_generated_parts_are_current() -> None:
    text = README.read_text(encoding="utf-8")
    assert generate(text) == text, "run: python -m docs.generate"


def test_the_console_and_python_blocks_do_what_they_show(tmp_path: Path) -> None:
    blocks = BLOCK.findall(README.read_text(encoding="utf-8"))
    assert len(blocks) > 10
    for kind, file, body in blocks:
        if file:
            (tmp_path / file).write_text(body, encoding="utf-8")
        elif kind == "python":
            done = run([sys.executable, "-c", body], tmp_path)
            assert done.returncode == 0, f"{body}\n{done.stdout}"
        else:
            for command, shown in commands(body):
                printed = run(["bash", "-c", command], tmp_path).stdout
                assert matches(shown, printed), f"$ {command}\n--- the README shows\n{shown}\n--- it printed\n{printed}"


def commands(body: str) -> list[tuple[str, str]]:
    """Each ``$ command`` of a block with the lines below it."""
    parts = re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts]


def matches(shown: str, printed: str) -> bool:
    """``...`` stands for any text; runs of blanks count as one."""
    pattern = re.escape(" ".join(shown.split())).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, " ".join(printed.split()), re.DOTALL) is not None


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = clean_environment() | {"PATH": path, "PYTHONUNBUFFERED": "1"}
    out = subprocess.PIPE
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, text=True, check=False
    )


@pytest.mark.parametrize(("shown", "printed"), [("a ... c", "a b d"), ("a", "a b"), ("", "a")])
def test_a_block_that_shows_something_else_is_noticed(shown: str, printed: str) -> None:
    assert not matches(shown, printed)
