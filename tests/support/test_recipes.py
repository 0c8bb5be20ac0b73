"""The recipes of tests/README.md, applied to a copy of the project."""

import re
import shutil
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.fork_server import ForkServer

LOADED = "import hypothesis, numpy, pytest, torch._dynamo, gpt_numpy.cli"  # and so the libraries that these load
# The tests of a copy, in a child of a process that has loaded this. The project's own modules are those of the copy.
PYTEST = """
import os, sys
for name in list(sys.modules):
    if name.partition(".")[0] in ("minitensor", "gpt_numpy", "gpt_torch", "tests"):
        del sys.modules[name]
sys.path[0] = os.getcwd()
import pytest
status = pytest.main(sys.argv[1:])
sys.stdout.flush()
os._exit(status)  # at once: nothing is to be tidied up
"""


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


def outcomes(server: ForkServer, folder: Path, names: str) -> dict[str, str]:
    """How the tests of operations and optimizers end that have one of these in their names."""
    output = folder / "output"
    output.unlink(missing_ok=True)
    files = [f"tests/minitensor/test_{name}.py" for name in ("ops", "optim")]
    command = ["-n0", "-q", "-rA", "-p", "no:cacheprovider", *files, "-k", names]
    status = server.start(PYTEST, *command, output=output, cwd=folder).wait()
    text = output.read_text(encoding="utf-8")
    found = {name: outcome for outcome, name in re.findall(r"^([A-Z]+) \S+::(.+?)(?: - .*)?$", text, re.M)}
    assert status == ("FAILED" in found.values()), text
    return found


@pytest.mark.slow("tests of a copy")
def test_following_a_recipe_makes_its_tests_pass(tmp_path: Path) -> None:
    for folder in ("minitensor", "gpt_numpy", "gpt_torch", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)  # with what is compiled of it, which saves seconds
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    *operation, case = changes("an elementwise operation")
    optimizer = changes("an optimizer")
    assert len(operation) > 1
    assert len(optimizer) > 1
    for change in (*operation, *optimizer):
        make(change, tmp_path)
    server = ForkServer(LOADED)
    try:
        before = outcomes(server, tmp_path, "every_op or rmsprop")
        make(case, tmp_path)
        after = outcomes(server, tmp_path, "every_op or sin]")
    finally:
        server.end()
    has_case = "test_every_op_has_a_case_and_every_case_has_an_op"
    assert before.pop(has_case) == "FAILED"  # until the operation has a case
    assert after.pop(has_case) == "PASSED"
    for found in (before, after):
        assert set(found.values()) == {"PASSED"}
    assert all("rmsprop" in name for name in before)
    assert all("sin]" in name for name in after)
