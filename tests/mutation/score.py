"""Breaks the sources one small change at a time, and looks whether the tests notice.

    uv run python -m tests.mutation                   tape, tensors, operations and the model: two thousand changes
    uv run python -m tests.mutation softmax linear    those of these sources that have such names
    uv run python -m tests.mutation --sample 200      random ones of the workshop, the engines and Hugging Face

What it finds goes to mutation.md, where what was found of sources that are not tried stays; a sample is only printed.

changes.py has the changes. Each changed source runs in a process of its own against the tests that are quick, until one
fails. What survives is either a line that no test looks at, or a change that changes nothing; those of the second kind
are in unchanging.toml, each with its reason.
"""

import argparse
import contextlib
import datetime
import importlib.machinery
import importlib.util
import itertools
import multiprocessing
import os
import random
import re
import signal
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
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

from tests.mutation.changes import Change, changes
from tests.support import ROOT

REPORT = ROOT / "tests" / "mutation" / "mutation.md"
UNCHANGING = ROOT / "tests" / "mutation" / "unchanging.toml"
SOURCES = [ROOT / "minitensor" / f"{name}.py" for name in ("core", "arrays", "grad_mode", "convert", "tensor")]
SOURCES += [*sorted(ROOT.glob("minitensor/ops/[a-z]*.py")), ROOT / "gpt_numpy/model.py", ROOT / "gpt_numpy/cache.py"]
AUTOGRAD = [f"minitensor/test_{name}.py" for name in (
    "like_torch", "engine", "corners", "nn", "optim", "random_graphs", "gradcheck", "erf", "judge",
)]  # fmt: skip
AUTOGRAD += ["gpt_numpy/test_gpt.py", "equivalence/test_relations.py"]
MODEL = ["gpt_numpy/test_gpt.py", "equivalence/test_relations.py", "gpt_numpy/test_gpt_engine.py"]
MODEL += ["equivalence/test_engines.py", "equivalence/test_equivalence.py"]

# What a sample is drawn from, by the tests of the fast half that may notice: first those that are the likeliest to.
WORKSHOP = [["workshop/test_training.py", "workshop/test_checkpoint.py"]]
WORKSHOP += [["workshop", "gpt_torch/test_gpt_torch.py", "gpt_torch/test_distributed.py"]]
STEPS = [["equivalence/test_engines.py", "gpt_numpy/test_gpt_engine.py", "gpt_torch/test_gpt_torch_engine.py"]]
STEPS += [["equivalence/test_lockstep.py", "minitensor/test_optim.py", *WORKSHOP[0], "gpt_torch", "gpt_numpy"]]
HUGGING_FACE = [["gpt_torch/test_huggingface.py", "workshop/test_hostile.py"]]
SAMPLED = {
    **{ROOT / "gpt_numpy" / "workshop" / f"{name}.py": WORKSHOP for name in (
        "loop", "checkpoint", "files", "runs", "keeping", "starting", "lock", "stopping", "judging", "sampling",
        "batches", "streams", "recipes", "seeds",
    )},
    **{ROOT / "gpt_numpy" / name: STEPS for name in ("engine.py", "parts.py", "workshop/optimizers.py")},
    **{ROOT / "gpt_torch" / name: STEPS for name in ("engine.py", "muon.py")},
    ROOT / "gpt_torch" / "huggingface.py": HUGGING_FACE,
}  # fmt: skip
SAMPLES_PATIENCE = 600.0
QUIETLY = ["-x", "-q", "--tb=no", "-n0", "-p", "no:cacheprovider", "-p", "no:tests.support.tables", "-W", "ignore"]
PATIENCE = 4.0  # times as long as without a change
NO_END = "no end"
PRELOADED = hypothesis, numpy, symbolic_shapes, transformers  # before processes fork: seconds for each of them


# ---- one change -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    change: Change
    noticed_by: str  # a test; nothing if the change survived
    seconds: float


def judge(change: Change, patience: float | None = None) -> Verdict:
    """Which test notices, in so many seconds."""
    start = time.perf_counter()
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=ask, args=(change, there))
    process.start()
    there.close()
    try:
        noticed_by = here.recv() if here.poll(patience) else NO_END
    except EOFError:
        noticed_by = "crash"
    if process.is_alive():
        process.join(1)
    if process.is_alive() and process.pid:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return Verdict(change, noticed_by, time.perf_counter() - start)


def ask(change: Change, answer: Connection) -> None:
    """In a process of its own, where nothing of the project is loaded yet."""
    import resource  # Windows has none; nor can it fork

    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    sys.meta_path.insert(0, Changed(change))
    first = First()
    for arguments in tests_of(change):
        status = pytest.main([*QUIETLY, *arguments], [first])
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


def unchanged(path: Path) -> Change:
    return Change(path, 0, "", "", "", path.read_text(encoding="utf-8"))


def tests_of(change: Change) -> Iterator[list[str]]:
    """Arguments of pytest, those that are the likeliest to notice first."""
    if groups := SAMPLED.get(change.path):
        yield from (["-m", "not slow", *(f"tests/{name}" for name in group)] for group in groups)
        return
    ops = re.findall(r"Op\(['\"](\w+)", change.source)
    if own := [op for op in ops if change.where in (f"{op}_forward", f"{op}_backward")] or ops:
        yield ["tests/minitensor/test_ops.py", "-k", " or ".join(f"{op}]" for op in own)]
    yield [f"tests/{name}" for name in (MODEL if change.path.parent.name == "gpt_numpy" else AUTOGRAD)]


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
    patience = {}
    for verdict in judged(list(map(unchanged, sources)), arguments.processes):
        if verdict.noticed_by:  # and so would be every change
            sys.exit(f"{name_of(verdict.change.path)}: {verdict.noticed_by} fails without any change")
        patience[verdict.change.path] = PATIENCE * verdict.seconds
    wanted = [change for source in sources for change in changes(source)]
    sections, survived = read_report(), 0
    found = judged(wanted, arguments.processes, patience)
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
        for verdict in judged(drawn, processes, dict.fromkeys(SAMPLED, SAMPLES_PATIENCE)):
            tried += 1
            if not verdict.noticed_by:
                explained = key(verdict.change) in reasons.get(name_of(verdict.change.path), {})
                nothing, survived = nothing + explained, survived + (not explained)
    noticed = tried - nothing - survived
    print(f"{tried} of {count} changes, seed {seed}: {noticed} noticed, {nothing} change nothing, {survived} survived")
    return survived


def judged(wanted: list[Change], processes: int, patience: Mapping[Path, float] = {}) -> Iterator[Verdict]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    pool = ThreadPoolExecutor(processes)
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("", total=len(wanted))
        try:
            for number, verdict in enumerate(pool.map(lambda c: judge(c, patience.get(c.path)), wanted), 1):
                change = verdict.change
                progress.update(task, advance=1, description=change.path.name)
                if not verdict.noticed_by and change.line:
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
