"""The recipes of tests/README.md, applied to a copy of the project."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT


def changes(title: str) -> list[tuple[str, str, str]]:
    """The file to change, and a part of it before and after, in the order of the recipe."""
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    recipe = text.split(f"\n## Recipe: {title}\n", 1)[1].split("\n## ", 1)[0]
    found, path = [], ""
    for named, diff in re.findall(r"`(\w+/\S+\.py)`|```diff\n(.*?)```", recipe, re.S):
        if diff:
            lines = diff.splitlines(keepends=True)
            before, after = ("".join(line[1:] for line in lines if line[0] in kind) for kind in (" -", " +"))
            found.append((path, before, after))
        path = named or path
    return found


def make(change: tuple[str, str, str], folder: Path) -> None:
    path, before, after = folder / change[0], *change[1:]
    text = path.read_text(encoding="utf-8") if before else ""
    assert text.count(before) == 1, f"{path} does not contain this exactly once:\n{before}"
    path.write_text(text.replace(before, after), encoding="utf-8")


def passes(folder: Path, tests: str, name: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", tests, "-k", name]
    return subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.slow("tests of a copy")
@pytest.mark.parametrize(
    ("title", "tests", "name"),
    [
        ("an elementwise operation", "tests/minitensor/test_ops.py", "sin] or every"),
        ("an optimizer", "tests/minitensor/test_optim.py", "rmsprop"),
    ],
)
def test_following_a_recipe_makes_its_tests_pass(title: str, tests: str, name: str, tmp_path: Path) -> None:
    for folder in ("minitensor", "gpt_numpy", "gpt_torch", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)  # with what is compiled of it, which saves seconds
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    *others, last = changes(title)
    assert others
    for change in others:
        make(change, tmp_path)
    if "operation" in title:  # a test fails until the operation has a case
        assert not passes(tmp_path, tests, name)
    make(last, tmp_path)
    assert passes(tmp_path, tests, name)
