"""Two workers run a small suite: slow tests are left out, others run alone, and the tables cover both workers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import ROOT

SETTINGS = """
[pytest]
markers = slow
    alone
"""
TESTS = """
import json, os, time
import pytest
from tests.support.report import REPORT

def noted(name, seconds=0.05):
    began = time.monotonic()
    time.sleep(seconds)
    with open(os.environ["NOTES"], "a", encoding="utf-8") as file:
        file.write(json.dumps([name, os.environ["PYTEST_XDIST_WORKER"], began, time.monotonic()]) + "\\n")
"""
SUITE = {
    "test_first.py": TESTS + """
@pytest.mark.alone
@pytest.mark.parametrize("i", range(4))
def test_alone(i):
    noted("alone")

@pytest.mark.slow
def test_slow():
    noted("slow")
""",
    "test_many.py": TESTS + """
@pytest.mark.parametrize("i", range(12))
def test_many(i):
    noted("many", 1.0 if i == 11 else 0.05)  # the last one is still running when only tests that run alone are left
    REPORT.add_operation("softmax", "float64", i * 1e-17, 0.0)
""",
    "test_shared.py": TESTS + """
@pytest.fixture(scope="module")
def shared():
    noted("set up")

@pytest.mark.parametrize("i", range(4))
def test_shared(i, shared):
    noted("shared")
""",
}  # fmt: skip


class Note(NamedTuple):
    name: str
    worker: str
    began: float
    ended: float


def run(folder: Path, *arguments: str) -> tuple[str, list[Note]]:
    """What pytest prints, and the notes of the tests. Other plugins would double the time that each worker takes."""
    for name, text in {"pytest.ini": SETTINGS, **SUITE}.items():
        (folder / name).write_text(text, encoding="utf-8")
    notes = folder / "notes"
    notes.unlink(missing_ok=True)
    plugins = ["-p", "xdist", "-p", "tests.support.speeds", "-p", "tests.support.tables"]
    environment = {"PYTHONPATH": str(ROOT), "NOTES": str(notes), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, *arguments], cwd=folder, text=True, encoding="utf-8",
        capture_output=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, [Note(*json.loads(line)) for line in notes.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow("workers of its own")
def test_slow_and_alone_tests_with_two_workers(tmp_path: Path) -> None:
    output, notes = run(tmp_path, "-n2")
    names = [note.name for note in notes]
    assert {name: names.count(name) for name in names} == {"many": 12, "set up": 1, "shared": 4, "alone": 4}
    assert len({note.worker for note in notes}) == 2
    for together in (("set up", "shared"), ("alone",)):
        assert len({note.worker for note in notes if note.name in together}) == 1
    for note in notes:
        if note.name == "alone":
            assert all(other.ended <= note.began or note.ended <= other.began for other in notes if other is not note)
    assert "1 slow tests were left out; with them: uv run pytest --all" in output
    (row,) = (line.split() for line in output.splitlines() if line.startswith("softmax"))
    assert row == ["softmax", "12", "1.1e-16", "0"]
    _, notes = run(tmp_path, "-n1", "--all")
    assert "slow" in [note.name for note in notes]
    _, notes = run(tmp_path, "-n1", "test_first.py::test_slow")
    assert [note.name for note in notes] == ["slow"]
