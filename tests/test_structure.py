"""The house: who may import whom, read from the source, and what importing minitensor loads."""

import ast
import contextlib
import io
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import ROOT

ROOMS = ["minitensor", "gpt_numpy", "gpt_torch", "bench", "tests"]
SMALL_LIBRARIES = {"platformdirs", "rich", "safetensors", "tensorboard", "threadpoolctl", "tokenizers"}  # see pyproject
SETTINGS = {"gpt_numpy.checked", "gpt_numpy.config"}

# From a path to what it may import, beside the standard library; the longest path that fits a file counts.
MAY_IMPORT = {
    "minitensor": {"numpy", "minitensor"},
    "gpt_numpy": {"numpy", "minitensor", "gpt_numpy", *SMALL_LIBRARIES},
    "gpt_numpy/checked": set(),
    "gpt_numpy/config": {"gpt_numpy.checked"},
    "gpt_numpy/workshop": {"numpy", *SETTINGS, "gpt_numpy.workshop", *SMALL_LIBRARIES},
    "gpt_numpy/explain": {"numpy", "torch", "minitensor", "gpt_numpy", *SMALL_LIBRARIES},
    "gpt_torch": {"numpy", "torch", "gpt_torch", *SETTINGS, "gpt_numpy.workshop", *SMALL_LIBRARIES},
}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def statements_of(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement, anywhere. Not the expressions, which are most of a file, and contain no statements."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.expr):
            yield node
            yield from statements_of(node)


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, anywhere in it, by its full name."""
    found: list[str] = []
    for node in statements_of(parsed(path)):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written from the top"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append(whole if is_module(whole) else str(node.module))
    return tuple(found)


@cache
def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def allowed_for(path: Path) -> set[str]:
    name = path.relative_to(ROOT).with_suffix("").as_posix()
    return MAY_IMPORT[max((rule for rule in MAY_IMPORT if f"{name}/".startswith(f"{rule}/")), key=len)]


def is_allowed(module: str, allowed: set[str]) -> bool:
    if module.split(".")[0] in sys.stdlib_module_names:
        return True
    return any(f"{module}.".startswith(f"{room}.") for room in allowed)


def test_only_these_packages_at_the_top() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found == set(ROOMS)


def test_no_folder_of_the_sources_is_ignored() -> None:
    """By git, and by what builds the package."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    anywhere = {line.rstrip("/") for line in lines if line.endswith("/") and not line.startswith("/")}
    assert "__pycache__" in anywhere
    for path in (path for room in ROOMS for path in files(room)):
        assert not anywhere & set(path.relative_to(ROOT).parts), path


@pytest.mark.parametrize("room", ["minitensor", "gpt_numpy", "gpt_torch"])
def test_structure_import_only_what_they_may(room: str) -> None:
    assert files(room)
    for path in files(room):
        for module in imports(path):
            assert is_allowed(module, allowed_for(path)), f"{path.relative_to(ROOT)} may not import {module}"


def test_the_rule_itself_can_say_no() -> None:
    workshop = allowed_for(ROOT / "gpt_numpy" / "workshop" / "train" / "trainer.py")
    assert is_allowed("gpt_numpy.config", workshop)
    assert is_allowed("json", workshop)
    for module in ("gpt_numpy.model", "gpt_numpy", "minitensor", "torch"):
        assert not is_allowed(module, workshop)
    assert not is_allowed("minitensor.tensor", allowed_for(ROOT / "gpt_torch" / "model.py"))
    assert not is_allowed("rich", allowed_for(ROOT / "minitensor" / "core.py"))
    assert is_allowed("torch", allowed_for(ROOT / "gpt_numpy" / "explain" / "checks.py"))


# Of the workshop, from the top: what stands in one line imports its own folder and the lines below it.
LAYERS = (("cli",), ("report",), ("tune",), ("train",), ("runs", "generate"), ("data",))


def floor_of(module: str) -> int:
    """By the name after gpt_numpy.workshop; what is in no folder is at the bottom."""
    first = module.split(".")[0]
    return next((number for number, names in enumerate(LAYERS) if first in names), len(LAYERS))


def may_import(module: str, imported: str) -> bool:
    same_folder = module.split(".")[0] == imported.split(".")[0]
    ground = floor_of(module) == floor_of(imported) == len(LAYERS)
    return same_folder or ground or floor_of(module) < floor_of(imported)


def test_imports_of_the_workshop_run_one_way() -> None:
    prefix, arrows = "gpt_numpy.workshop.", 0
    for path in files("gpt_numpy/workshop"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix(prefix)
        for imported in (name.removeprefix(prefix) for name in imports(path) if name.startswith(prefix)):
            assert may_import(module, imported), f"{module} may not import {imported}"
            arrows += 1
    assert arrows > 50
    assert may_import("cli.train", "report.report")
    assert not may_import("train.trainer", "report.report")
    assert not may_import("train.trainer", "tune.sft")
    assert not may_import("generate", "runs.checkpoint")
    assert not may_import("io", "data.corpus")


def test_no_import_circles() -> None:
    graph = {}
    for room in ROOMS:
        for path in files(room):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            # A package's __init__ collects its own modules; the arrow back from them is Python's, not the code's.
            graph[name] = {m for m in imports(path) if m.split(".")[0] in ROOMS and not name.startswith(f"{m}.")}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "import circle: " + " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


UNSAFE = {"pickle", "dill", "joblib", "marshal", "shelve"}  # to read what they wrote is to run it
UNSAFE_CALLS = {"torch.load", "torch.save", "torch.jit.load", "eval", "exec", "np.load", "compile"}


def test_nothing_is_pickled_and_no_file_is_run() -> None:
    for room in ("minitensor", "gpt_numpy", "gpt_torch", "bench"):
        for path in files(room):
            assert not UNSAFE & {m.split(".")[0] for m in imports(path)}, path
            tree = ast.walk(parsed(path))
            calls = {ast.unparse(node.func) for node in tree if isinstance(node, ast.Call)}
            assert not UNSAFE_CALLS & calls, path


def test_importing_minitensor_loads_numpy_and_nothing_else() -> None:
    code = "import sys, numpy.random; before = set(sys.modules); import minitensor; print(*(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    tops = {name.split(".")[0] for name in loaded.split()}
    assert "minitensor" in tops
    assert tops - {"minitensor", "numpy"} <= set(sys.stdlib_module_names)


LESSONS = ("sft", "distill", "grpo", "dpo")


@pytest.mark.parametrize("readme", ["README.md", "minitensor/README.md", "gpt_numpy/README.md", "gpt_torch/README.md",
                                    "gpt_numpy/explain/README.md",
                                    *(f"gpt_numpy/workshop/tune/{page}.md" for page in LESSONS)])  # fmt: skip
def test_the_code_of_a_readme_prints_what_it_says(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {"__name__": "__main__"})
    expected = [line.split("# ", 1)[1] for line in code.splitlines() if line.startswith("print(")]
    assert expected
    assert printed.getvalue().splitlines() == expected


def test_the_names_that_a_readme_quotes_are_there() -> None:
    for readme in (ROOT / "README.md", *ROOT.glob("*/README.md"), ROOT / "CHANGELOG.md"):
        for name in re.findall(r"`(minitensor(?:\.\w+)+)", readme.read_text(encoding="utf-8")):
            assert pkgutil.resolve_name(name) is not None, f"{readme}: {name}"


STATEMENTS = ast.Assign, ast.AugAssign, ast.Return


def statements(tree: ast.Module) -> set[str]:
    """The statements of a program that compute something, as Python would write them; `x += 1` is none of them."""
    found = (node for node in statements_of(tree) if isinstance(node, STATEMENTS))
    computed = (node for node in found if not isinstance(node.value, ast.Constant))
    return {ast.unparse(n) for n in computed if isinstance(n, ast.AugAssign) or not isinstance(n.value, ast.Name)}


def quoted(readme: str) -> set[str]:
    """What a README shows of other files: a line of Python, indented or between backquotes."""
    lines = re.findall(r"^ {4}(.+)$|`([^`\n]+)`", re.sub(r"```.*?```", "", readme, flags=re.S), re.M)
    found = set()
    for indented, inline in lines:
        with contextlib.suppress(SyntaxError):
            found |= statements(ast.parse((indented or inline).strip()))
    return found


def test_code_that_a_readme_quotes_is_in_a_file_that_it_links() -> None:
    quotes = 0
    for readme in (path for room in ROOMS for path in (ROOT / room).rglob("README.md")):
        text = readme.read_text(encoding="utf-8")
        linked = {(readme.parent / link).resolve() for link in re.findall(r"\]\((\S+?\.py)\)", text)}
        there = {line for path in linked for line in statements(parsed(path))}
        assert quoted(text) <= there, readme
        quotes += len(quoted(text))
    assert quoted("    y = f(x)") == quoted("what `y = f(x)` does") == {"y = f(x)"}
    assert quotes > 10


def test_the_list_of_slow_tests_is_complete() -> None:
    marked: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        if reasons := set(re.findall(r'mark\.slow\("(.+?)"\)', path.read_text(encoding="utf-8"))):
            marked[path.relative_to(ROOT / "tests").as_posix()] = reasons
    rows = re.findall(r"^\| `(\S+)` \| (.+) \|$", (ROOT / "tests" / "README.md").read_text(encoding="utf-8"), re.M)
    assert {file: set(reasons.split("; ")) for file, reasons in rows} == marked
