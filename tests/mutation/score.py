"""Breaks the sources one small change at a time, and checks whether the tests notice.

    uv run python -m tests.mutation                   minitensor's core, tensors and operations, and the model
    uv run python -m tests.mutation softmax linear    only the sources with such names
    uv run python -m tests.mutation --sample 200      random changes of the workshop, the engines and Hugging Face

The results go to mutation.md, where other sources keep theirs; those of a sample are only printed.

changes.py makes the changes. First the tests of the fast half run without any, to record which tests call which
function, and how long each takes. Then each changed source runs in its own process against the tests that call the
changed function, the shortest first, until one fails. What survives is either a line that no test checks, or a change
without effect; unchanging.toml lists the latter, each with its reason.
"""

import argparse
import ast
import contextlib
import datetime
import gc
import importlib.machinery
import importlib.util
import itertools
import multiprocessing
import os
import random
import re
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.mutation.changes import Change, changes, functions
from tests.support import ROOT

REPORT = ROOT / "tests" / "mutation" / "mutation.md"
UNCHANGING = ROOT / "tests" / "mutation" / "unchanging.toml"
SOURCES = [ROOT / "minitensor" / f"{name}.py" for name in ("core", "arrays", "grad_mode", "convert", "tensor")]
SOURCES += [
    *sorted(ROOT.glob("minitensor/ops/[a-z]*.py")),
    *(ROOT / "gpt_numpy" / f"{name}.py" for name in ("model", "head", "objectives", "cache")),
]
AUTOGRAD = [f"minitensor/test_{name}.py" for name in (
    "ops", "like_torch", "engine", "corners", "nn", "optim", "random_graphs", "gradcheck", "erf", "judge", "api_fuzz",
)]  # fmt: skip
AUTOGRAD += ["gpt_numpy/test_gpt.py", "equivalence/test_relations.py", "equivalence/test_head.py"]
MODEL = ["gpt_numpy/test_gpt.py", "equivalence/test_relations.py", "gpt_numpy/test_gpt_engine.py"]
MODEL += [f"equivalence/test_{name}.py" for name in ("engines", "equivalence", "head", "examples", "objectives")]

# What a sample is drawn from.
WORKSHOP = ["workshop", "gpt_torch/test_gpt_torch.py", "gpt_torch/test_distributed.py"]
STEPS = ["equivalence/test_engines.py", "equivalence/test_lockstep.py", "minitensor/test_optim.py", "gpt_numpy"]
STEPS += ["gpt_torch", "workshop/test_training.py", "workshop/test_checkpoint.py"]
HUGGING_FACE = ["gpt_torch/test_huggingface.py", "workshop/test_hostile.py"]
SAMPLED = {
    **{ROOT / "gpt_numpy" / "workshop" / f"{name}.py": WORKSHOP for name in (
        "train/trainer", "train/metrics", "train/evaluate", "train/signals", "runs/checkpoint", "runs/run_dir",
        "train/task", "train/ensemble", "runs/saver", "runs/lock", "io", "generate", "data/dataloader", "recipes",
        "cli/train", "cli/run", "cli/seeds", "cli/tune", "cli/distill", "tune/jsonl", "tune/sft",
        "tune/distill", "tune/rewards", "tune/rollouts", "tune/grpo", "tune/dpo", "tune/sums", "tune/rows",
    )},
    **{ROOT / "gpt_numpy" / name: STEPS for name in ("engine.py", "parts.py", "workshop/optim.py")},
    **{ROOT / "gpt_torch" / name: STEPS for name in (
        "engine.py", "options.py", "compiled.py", "optim.py", "step.py", "transfer.py", "head.py", "objectives.py",
        "reader.py",
    )},
    ROOT / "gpt_torch" / "huggingface.py": HUGGING_FACE,
}  # fmt: skip
QUIETLY = ["-x", "-q", "--tb=no", "-n0", "-m", "not slow", "-W", "ignore"]
QUIETLY += ["-p", "no:cacheprovider", "-p", "no:tests.support.tables"]
PATIENCE = 4.0  # times as long as without a change,
LOADING = 30.0  # and so many seconds for collecting the tests
NO_END = "no end"


def tests_of(path: Path) -> list[str]:
    return SAMPLED.get(path) or (MODEL if path.parent.name == "gpt_numpy" else AUTOGRAD)


# ---- which test calls what --------------------------------------------------------------------------------------


class Calls:
    """A plugin of pytest that records which tests call which function, and how long each test takes."""

    def __init__(self) -> None:
        self.tests: dict[tuple[Path, str], set[str]] = {}  # of a function; "" stands for all of them
        self.seconds: dict[str, float] = {}
        self.failed = ""
        self.current = ""  # while tests are collected

    def noting(self, path: Path) -> str:
        """The source, with a call of `note` at the start of each function."""
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for where, function in functions(tree):
            self.tests[path, where] = set()
            note = f"__import__('sys').modules[{__name__!r}].CALLS.note({str(path)!r}, {where!r})"
            function.body.insert(ast.get_docstring(function) is not None, ast.parse(note).body[0])
        return ast.unparse(tree)

    def note(self, path: str, where: str) -> None:
        self.tests[Path(path), where].add(self.current)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        self.current = item.nodeid
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, request: Any) -> Iterator[None]:
        test, self.current = self.current, request.node.nodeid  # a file, if all its tests share the fixture
        try:
            return (yield)
        finally:
            self.current = test

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed = self.failed or report.nodeid

    def of(self, change: Change) -> dict[str, float]:
        """The tests that call the changed function, the shortest first, and how long each takes."""
        callers = tuple(self.tests.get((change.path, change.where), [""]))  # outside functions: all tests
        return dict(sorted(((t, s) for t, s in self.seconds.items() if t.startswith(callers)), key=lambda one: one[1]))


CALLS = Calls()


def note_calls(sources: list[Path]) -> dict[Path, Calls]:
    """Runs the tests of the sources without a change."""
    by_tests: dict[tuple[str, ...], list[Path]] = {}
    for source in sources:
        by_tests.setdefault(tuple(tests_of(source)), []).append(source)
    found: dict[Path, Calls] = {}
    for tests, group in by_tests.items():
        print(f"the tests without a change: {', '.join(map(name_of, group))}")
        calls = forked(note_calls_of, group, tests)
        if not isinstance(calls, Calls) or calls.failed or not calls.seconds:
            sys.exit(f"{calls.failed if isinstance(calls, Calls) else calls} fails without a change")
        found |= dict.fromkeys(group, calls)
    return found


def note_calls_of(sources: list[Path], tests: tuple[str, ...]) -> Calls:
    sys.meta_path[:0] = [Replaced(path, CALLS.noting(path)) for path in sources]
    if pytest.main([*QUIETLY, *(f"tests/{name}" for name in tests)], [CALLS]) != pytest.ExitCode.OK:
        CALLS.failed = CALLS.failed or "a test"
    return CALLS


# ---- one change -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    change: Change
    noticed_by: str  # a test; nothing if the change survived


def verdict_on(change: Change, calls: Calls) -> Verdict:
    tests = calls.of(change)
    noticed_by = tests and forked(ask, change, tests, patience=LOADING + PATIENCE * sum(tests.values()))
    return Verdict(change, noticed_by or "")


def ask(change: Change, tests: dict[str, float]) -> str:
    """Which of the tests notices."""
    sys.meta_path.insert(0, Replaced(change.path, change.source))
    first = First(tests)
    status = pytest.main([*QUIETLY, *dict.fromkeys(test.partition("::")[0] for test in tests)], [first])
    return "" if status == pytest.ExitCode.OK else first.failed or "import"


class First:
    """A plugin of pytest that runs only these tests, in this order, and records the first that failed."""

    def __init__(self, tests: dict[str, float]) -> None:
        self.order = {test: number for number, test in enumerate(tests)}
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.order), key=lambda i: self.order[i.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid.removeprefix("tests/")


@cache
def preload() -> None:
    """What the tests load, before processes fork: seconds for each of them."""
    for name in ("hypothesis", "numpy", "transformers", "torch.fx.experimental.symbolic_shapes"):
        importlib.import_module(name)  # the last is loaded by torch's first backward pass


def forked(function: Callable[..., Any], *arguments: Any, patience: float | None = None) -> Any:
    """The result of the function in its own process, in which nothing of the project is loaded yet."""
    preload()
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=answer, args=(there, function, *arguments))
    gc.freeze()  # or the new process would look for garbage in all that is loaded, several times
    process.start()
    there.close()
    try:
        found = here.recv() if here.poll(patience) else NO_END
    except EOFError:
        found = "crash"
    if process.is_alive():
        process.join(1)
    if process.is_alive() and process.pid:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return found


def answer(there: Connection, function: Callable[..., Any], *arguments: Any) -> None:
    import resource  # Windows has none; nor can it fork

    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (16 << 30, 16 << 30))  # a browser reserves more addresses than that
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    there.send(function(*arguments))


class Replaced(importlib.machinery.SourceFileLoader):
    """Finds and loads one module, from another source."""

    def __init__(self, path: Path, source: str) -> None:
        super().__init__(".".join(path.relative_to(ROOT).with_suffix("").parts), str(path))
        self.source = source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec")


# ---- all of them ------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="only sources whose name has one of these; default: all")
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="N random changes of the workshop, the engines and Hugging Face; only printed",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample; default: %(default)s")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at once; default: %(default)s")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    torch.set_num_threads(1)
    sources = [s for s in SOURCES if not arguments.names or any(name in s.stem for name in arguments.names)]
    if not hasattr(os, "fork"):
        parser.error("this system has no fork()")
    if arguments.sample:
        sys.exit(sample(arguments.sample, arguments.seed, arguments.processes) > 0)
    if not sources:
        parser.error(f"no source has such a name; there are {', '.join(source.stem for source in SOURCES)}")
    calls = note_calls(sources)
    wanted = [change for source in sources for change in changes(source)]
    sections, survived = read_report(), 0
    found = verdicts_on(wanted, arguments.processes, calls)
    for path, verdicts in itertools.groupby(found, lambda verdict: verdict.change.path):
        sections[name_of(path)] = section(list(verdicts))
        survived = write_report(sections)
    print(f"{len(wanted)} changes were tried; in {REPORT.relative_to(ROOT)} {survived} survived")
    sys.exit(survived > 0)


def sample(count: int, seed: int, processes: int) -> int:
    """Tries so many changes, and says how many of them survived; Ctrl-C ends it early, with the figures until then."""
    drawn = random.Random(seed).sample([change for source in SAMPLED for change in changes(source)], count)
    reasons, tried, survived, nothing = unchanging(), 0, 0, 0
    with contextlib.suppress(KeyboardInterrupt):
        for verdict in verdicts_on(drawn, processes, note_calls(list(SAMPLED))):
            tried += 1
            if not verdict.noticed_by:
                explained = key(verdict.change) in reasons.get(name_of(verdict.change.path), {})
                nothing, survived = nothing + explained, survived + (not explained)
    noticed = tried - nothing - survived
    print(f"{tried} of {count} changes, seed {seed}: {noticed} noticed, {nothing} change nothing, {survived} survived")
    return survived


def verdicts_on(wanted: list[Change], processes: int, calls: dict[Path, Calls]) -> Iterator[Verdict]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    pool = ThreadPoolExecutor(processes)
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("", total=len(wanted))
        try:
            for number, verdict in enumerate(pool.map(lambda c: verdict_on(c, calls[c.path]), wanted), 1):
                change = verdict.change
                progress.update(task, advance=1, description=change.path.name)
                if not verdict.noticed_by:
                    found = f"{number}: {name_of(change.path)}:{change.line} {change.before} -> {change.after}"
                    progress.console.print(found, markup=False, highlight=False, soft_wrap=True)
                yield verdict
        finally:
            pool.shutdown(cancel_futures=True)


# ---- the report -------------------------------------------------------------------------------------------------

Key = tuple[str, str, str]  # the function, the statement before and after
Reasons = dict[str, dict[Key, str]]  # why a change changes nothing, by source
TITLES = SURVIVED, NOTHING, ENDLESS = "Survived", "Change nothing", "Noticed by tests that do not end"


@dataclass(frozen=True)
class Section:
    """What there is to say of a source."""

    date: str
    tried: int
    silent: list[Key]  # what no test noticed
    endless: list[Key]

    def text(self, reasons: dict[Key, str]) -> str:
        listed = {title: list[Key]() for title in TITLES} | {ENDLESS: self.endless}
        for change in self.silent:
            listed[NOTHING if change in reasons else SURVIVED].append(change)
        lines = [
            f"{self.tried} changes, {self.tried - len(self.silent)} noticed, {len(listed[NOTHING])} change nothing, "
            f"{len(listed[SURVIVED])} survived ({self.date})"
        ]
        for title, entries in listed.items():
            lines += ["", f"{title}:", ""] if entries else []
            for where, before, after in entries:
                why = f"  \n  {reasons[where, before, after]}" if title == NOTHING else ""
                lines.append(f"- {where}: `{before}` → `{after}`{why}")
        wrong = sorted(reasons.keys() - set(self.silent))
        lines += [f"\nSaid to change nothing, yet noticed: {where}: `{after}`" for where, _, after in wrong]
        return "\n".join(lines)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def key(change: Change) -> Key:
    return change.where, change.before, change.after


def unchanging() -> Reasons:
    reasons: Reasons = {name_of(path): {} for path in [*SOURCES, *SAMPLED]}
    for entry in tomllib.loads(UNCHANGING.read_text(encoding="utf-8"))["change"]:
        reasons[entry["file"]][entry["in"], entry["before"], entry["after"]] = entry["why"]
    return reasons


def section(verdicts: list[Verdict]) -> Section:
    silent = [key(verdict.change) for verdict in verdicts if not verdict.noticed_by]
    endless = [key(verdict.change) for verdict in verdicts if verdict.noticed_by == NO_END]
    return Section(str(datetime.date.today()), len(verdicts), silent, endless)


def read_report() -> dict[str, Section]:
    """By source, what the last report has found."""
    found = {}
    text = REPORT.read_text(encoding="utf-8") if REPORT.exists() else ""
    for name, body in re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.M | re.S):
        listed: dict[str, list[Key]] = {title: [] for title in TITLES}
        for title, entries in re.findall(r"^(\w[\w ]+):\n\n((?:- .*\n(?:  .*\n)?)+)", body, re.M):
            listed[title] = re.findall(r"^- (.*?): `(.*)` → `(.*)`", entries, re.M)
        tried, date = re.findall(r"^(\d+) changes, .* \((\S+)\)$", body, re.M)[0]
        found[name] = Section(date, int(tried), listed[SURVIVED] + listed[NOTHING], listed[ENDLESS])
    return found


def write_report(sections: dict[str, Section]) -> int:
    """With the reasons that there are now; how many changes survived."""
    reasons = unchanging()
    texts = {name: sections[name].text(reasons[name]) for name in map(name_of, SOURCES) if name in sections}
    counts = {name: [int(number) for number in re.findall(r"\d+", text)[:4]] for name, text in texts.items()}
    counts["**all**"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    rows = [f"| {' | '.join([name, *map(str, numbers)])} |" for name, numbers in counts.items()]
    untried = [name for name in map(name_of, SOURCES) if name not in texts]
    text = "\n".join([
        "# What the tests notice", "",
        "Written by `uv run python -m tests.mutation`, which [`score.py`](score.py) explains.", "",
        "| source | changes | noticed | change nothing | survived |", "|---|---:|---:|---:|---:|", *rows, "",
        *[f"Not tried since they changed: {', '.join(untried)}.", ""] * bool(untried),
        *(f"## {name}\n\n{text}\n" for name, text in texts.items()),
    ])  # fmt: skip
    REPORT.write_text(text, encoding="utf-8")
    return counts["**all**"][-1]


if __name__ == "__main__":
    main()
