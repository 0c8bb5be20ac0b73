"""Breaks the sources one small change at a time, and looks whether the tests notice.

    uv run python -m tests.mutation                   all sources; writes what it found to tests/mutation.md
    uv run python -m tests.mutation softmax tensor    sources with such names; only says what survived

changes.py has the changes. Each changed source runs in a process of its own against the tests that are quick, until one
fails. What survives is either a line that no test looks at, or a change that changes nothing; those of the second kind
are in unchanging.toml, each with its reason.
"""

import argparse
import importlib.machinery
import importlib.util
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import hypothesis
import numpy
import pytest
import torch
import transformers
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.fx.experimental import symbolic_shapes  # which the first backward pass of torch loads

from tests.changes import Change, changes

ROOT = Path(__file__).parent.parent
REPORT = ROOT / "tests" / "mutation.md"
UNCHANGING = ROOT / "tests" / "unchanging.toml"
SOURCES = [*sorted(ROOT.glob("minitensor/ops/[a-z]*.py")), ROOT / "minitensor/tensor.py", ROOT / "gpt_numpy/model.py"]
AUTOGRAD = ["corners", "like_torch", "random_graphs", "nn", "gradcheck", "erf", "engine", "judge", "gpt", "relations"]
MODEL = ["gpt", "relations", "gpt_engine", "engines", "equivalence"]
PATIENCE = 300.0  # seconds for the tests of one change, which take a fifth of it
PRELOADED = hypothesis, numpy, symbolic_shapes, transformers  # before processes fork: seconds for each of them


# ---- one change -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    change: Change
    noticed_by: str  # a test; nothing if the change survived


def judge(change: Change) -> Verdict:
    """Which test notices."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=ask, args=(change, there))
    process.start()
    there.close()
    try:
        noticed_by = here.recv() if here.poll(PATIENCE) else "no end"
    except EOFError:
        noticed_by = "crash"
    if process.is_alive():
        process.join(1)
    if process.is_alive() and process.pid:
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return Verdict(change, noticed_by)


def ask(change: Change, answer: Connection) -> None:
    """In a process of its own, where nothing of the project is loaded yet."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    sys.meta_path.insert(0, Changed(change))
    first = First()
    for arguments in tests_of(change):
        status = pytest.main(["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-W", "ignore", *arguments], [first])
        if status != pytest.ExitCode.OK:
            first.failed = first.failed or "import"
            break
    answer.send(first.failed)


class Changed(importlib.machinery.SourceFileLoader):
    """Finds and loads one module: the changed one."""

    def __init__(self, change: Change) -> None:
        super().__init__(".".join(change.path.relative_to(ROOT).with_suffix("").parts), str(change.path))
        self.source = change.source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec")


class First:
    """Remembers the first test that failed."""

    failed = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid.removeprefix("tests/")

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed = self.failed or "import"


def tests_of(change: Change) -> Iterator[list[str]]:
    """Arguments of pytest, those that are the likeliest to notice first."""
    ops = re.findall(r'Op\("(\w+)"', change.source)
    if own := [op for op in ops if change.where in (f"{op}_forward", f"{op}_backward")] or ops:
        yield ["tests/test_ops.py", "-k", " or ".join(f"{op}]" for op in own)]
    yield [f"tests/test_{name}.py" for name in (MODEL if change.path.name == "model.py" else AUTOGRAD)]


# ---- all of them ------------------------------------------------------------------------------------------------


def judged(wanted: list[Change], processes: int) -> Iterator[Verdict]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True) as progress, ThreadPoolExecutor(processes) as pool:
        task = progress.add_task("", total=len(wanted))
        for verdict in pool.map(judge, wanted):
            progress.update(task, advance=1, description=verdict.change.path.name)
            if not verdict.noticed_by:
                progress.console.print(shown(verdict.change), markup=False, highlight=False, soft_wrap=True)
            yield verdict


def shown(change: Change) -> str:
    return f"{change.path.relative_to(ROOT)}:{change.line} {change.where}: {change.before}  ->  {change.after}"


def key(change: Change) -> tuple[str, str, str, str]:
    return change.path.relative_to(ROOT).as_posix(), change.where, change.before, change.after


def unchanging() -> dict[tuple[str, str, str, str], str]:
    """Why a change changes nothing."""
    kept = tomllib.loads(UNCHANGING.read_text(encoding="utf-8"))["change"]
    return {(entry["file"], entry["in"], entry["before"], entry["after"]): entry["why"] for entry in kept}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only sources whose name has one of these; no report is written")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at once (default: %(default)s)")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    torch.set_num_threads(1)
    sources = [s for s in SOURCES if not arguments.names or any(name in s.stem for name in arguments.names)]
    wanted = [change for source in sources for change in changes(source)]
    began = time.monotonic()
    verdicts = list(judged(wanted, arguments.processes))
    text = report(verdicts, time.monotonic() - began)
    print(text)
    if not arguments.names:
        REPORT.write_text(text, encoding="utf-8")


# ---- what it says -----------------------------------------------------------------------------------------------


def report(verdicts: list[Verdict], seconds: float) -> str:
    known = unchanging()
    survived = [v.change for v in verdicts if not v.noticed_by]
    missed = [change for change in survived if key(change) not in known]
    lines = [
        "# What the tests notice",
        "",
        f"Written by `uv run python -m tests.mutation`, in {seconds / 60:.0f} minutes; [how](mutation.py).",
        "",
        "| source | changes | noticed | change nothing | survived |",
        "|---|---:|---:|---:|---:|",
    ]
    by_source = {v.change.path: [w for w in verdicts if w.change.path == v.change.path] for v in verdicts}
    for path, its in [*by_source.items(), (None, verdicts)]:
        noticed = sum(bool(v.noticed_by) for v in its)
        left = sum(v.change in missed for v in its)
        name = f"`{path.relative_to(ROOT).as_posix()}`" if path else "**all**"
        lines.append(f"| {name} | {len(its)} | {noticed} | {len(its) - noticed - left} | {left} |")
    lines += ["", "## Survived", "", *([listed(change) for change in missed] or ["Nothing."])]
    lines += ["", "## Changes that change nothing", ""]
    lines += [listed(change, known[key(change)]) for change in survived if key(change) in known]
    wrong = [name for name in known if name not in map(key, survived) and ROOT / name[0] in by_source]
    lines += [f"\nunchanging.toml has what was noticed, or is no change any more: {entry}" for entry in wrong]
    return "\n".join(lines) + "\n"


def listed(change: Change, why: str = "") -> str:
    place = f"{change.path.relative_to(ROOT).as_posix()}, {change.where}"
    return f"- {place}: `{change.before}` → `{change.after}`" + (f"  \n  {why}" if why else "")


if __name__ == "__main__":
    main()
