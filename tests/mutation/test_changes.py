"""The mutation score's own tests: the changes are those meant, and a changed source is what its tests run."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation import score
from tests.mutation.changes import Change, changes
from tests.mutation.score import SOURCES, key, name_of, unchanging
from tests.support import ROOT


@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("y = a + b", {"y = a - b", "y = a", "y = b"}),
        ("y = a @ b", {"y = b @ a", "y = a", "y = b"}),
        ("y = -a", {"y = a"}),
        ("y += a", {"y = a", "y -= a", "pass"}),
        ("np.exp(y, out=y)", {"np.exp(y)", "pass"}),
        ("y = a.swapaxes(i, j)", {"y = a"}),
        ("y = a.sum(i, keepdims=True)", {"y = a.mean(i, keepdims=True)", "y = a.sum(i, keepdims=False)"}),
        ("y = np.where(a, b, c)", {"y = b", "y = c"}),
        ("y = f(axis=-1)", {"y = f(axis=1)", "y = f(axis=-2)", "y = f(axis=-0)", "y = f()"}),
        ("y = 0.5", {"y = 1.0"}),
        ("y = a < b", {"y = a <= b"}),
        ("y = a and b", {"y = a or b", "y = a", "y = b"}),
        ("y = a if b else c", {"y = a", "y = c"}),
        ("if a:\n        f", {"if True:", "if False:"}),
        ("return a, b", {"return (b, a)"}),
        ("y = x[a:]", {"y = x[:]"}),
        ("y: Axis | None", set()),
        ("raise ValueError(f'{a - b}', a - b)", set()),
        ("'A sentence, 1 + 1.'", set()),
    ],
)
def test_what_is_changed_and_what_is_not(line: str, after: set[str], tmp_path: Path) -> None:
    path = tmp_path / "source.py"
    path.write_text(f"def f(x: A | B) -> A | B:\n    {line}\n", encoding="utf-8")
    found = list(changes(path))
    assert {change.after for change in found} == after
    assert all(change.where == "f" and change.line == 2 for change in found)


def test_the_rest_of_a_class_stays_as_it_is(tmp_path: Path) -> None:
    source = """@c
class A(B, metaclass=C):
    'What it is.'
    n: int = 10

    def f(self, x: int=20) -> int:
        return x

    class Inner:
        m = 30
k = 40
"""
    path = tmp_path / "source.py"
    path.write_text(source, encoding="utf-8")
    expected = [source.replace(f"{n}", f"{n + by}") for n in (10, 20, 30, 40) for by in (1, -1)]
    assert [ast.dump(ast.parse(change.source)) for change in changes(path)] == [
        ast.dump(ast.parse(other)) for other in expected
    ]


@pytest.fixture(scope="module")
def tried() -> list[Change]:
    return [change for path in SOURCES for change in changes(path)]


@pytest.mark.slow("thousands of changes")
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_each_change_is_another_program(tried: list[Change]) -> None:
    assert len({(change.path, change.source) for change in tried}) == len(tried)
    assert {change.path for change in tried} >= {path for path in SOURCES if "Op(" in path.read_text(encoding="utf-8")}
    for change in tried[::20]:
        compile(change.source, change.path, "exec")


@pytest.mark.slow("thousands of changes")
def test_what_is_said_to_change_nothing_is_a_change(tried: list[Change]) -> None:
    for name, reasons in unchanging().items():
        if reasons:
            own = [change for change in tried if name_of(change.path) == name]
            assert reasons.keys() <= {key(change) for change in own or changes(ROOT / name)}


def test_a_report_keeps_what_was_found_and_takes_the_reasons_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "REPORT", tmp_path / "mutation.md")
    monkeypatch.setattr(score, "UNCHANGING", tmp_path / "unchanging.toml")
    known, other, slow = ("f", "y = a @ b", "y = a"), ("", "x: A | B = 1", "x: A | B = 2"), ("g.h", "while a:", "if a:")
    sections = {name_of(SOURCES[0]): score.Section("2026-11-21", 9, [known, other], [slow])}
    sections |= {name_of(SOURCES[1]): score.Section("2026-11-20", 5, [], [])}

    score.UNCHANGING.write_text("change = []\n", encoding="utf-8")
    assert score.write_report(sections) == 2
    assert score.read_report() == sections
    reason = {"file": name_of(SOURCES[0]), "in": "f", "before": "y = a @ b", "after": "y = a", "why": "b is 1."}
    lines = "\n".join(f'{key} = "{value}"' for key, value in reason.items())
    score.UNCHANGING.write_text(f"[[change]]\n{lines}\n", encoding="utf-8")
    assert score.write_report(score.read_report()) == 1
    text = score.REPORT.read_text(encoding="utf-8")
    assert "9 changes, 7 noticed, 1 change nothing, 1 survived (2026-11-21)" in text
    assert "- f: `y = a @ b` → `y = a`  \n  b is 1.\n" in text
    assert "| **all** | 14 | 12 | 1 | 1 |" in text


@pytest.mark.slow("thousands of changes")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
def test_a_changed_source_is_what_the_tests_run() -> None:
    """In a new process, where nothing of the project is loaded: a change is noticed by a test that calls what is
    changed, no change is not."""
    code = """
from dataclasses import replace
from tests.mutation import score
path = score.ROOT / "minitensor" / "ops" / "dropout.py"
score.AUTOGRAD = ["minitensor/test_erf.py", "minitensor/test_ops.py"]
score.QUIETLY += ["-k", "erf or (test_agrees_with_torch and dropout)"]
calls = score.note_calls([path])[path]
change = next(c for c in score.changes(path) if c.after == "return (dy * keep / _scale(p), None)")
print(len(calls.seconds), *calls.of(change), score.verdict_on(change, calls).noticed_by, sep="\\n")
same = replace(change, source=path.read_text(encoding="utf-8"))
print([score.verdict_on(same, calls).noticed_by])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=ROOT, check=True, env={**os.environ, "HYPOTHESIS_PROFILE": "mutation"},
    )  # fmt: skip
    _, tests, *callers, noticed_by, unchanged = done.stdout.splitlines()
    dropout = "minitensor/test_ops.py::test_agrees_with_torch[dropout]"
    assert callers == [f"tests/{dropout}"]
    assert int(tests) > 1
    assert noticed_by == dropout
    assert unchanged == "['']"
