"""One recipe from several seeds: a run for each, one after the other, and what they come to together.

All are in one folder: seed-1337, seed-1338, ..., each a run like any other, and seeds.json: what they reached.
"""

import json
import shlex
import statistics
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.box import HORIZONTALS
from rich.table import Table

from gpt_numpy.workshop.cli.flags import Given
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.io import read_limited, table_from, write_whole
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.run_dir import RUNS, Record, Run

SUMMARY = "seeds.json"
MOST = 1000


def train_seeds(count: int, name: str, given: Given, train: Callable[[Given], int], console: Console) -> int:
    """`train` does one run from its flags; the status is the first that is not 0."""
    if not 1 <= count <= MOST:
        raise WrongUse(f"--seeds is from 1 to {MOST}, not {count}")
    if given.get("resume") and "out" not in given:
        raise WrongUse("--resume goes on with one run; with --seeds, say by --out in which folder they are")
    folder = Path(given.get("out", RUNS / f"{datetime.now():%Y-%m-%d-%H%M%S}-{name}"))
    if Run(folder).has_checkpoint:
        raise WrongUse(f"{folder} holds a run; give another folder for those of several seeds")
    first = given.get("seed", Recipe().seed)
    runs = {seed: Run(folder / f"seed-{seed}") for seed in range(first, first + count)}
    for seed, run in runs.items():
        console.say(f"seed {seed}, in {run.folder}", "bold")
        flags = {**given, "out": str(run.folder), "seed": seed}
        resumed = bool(flags.pop("resume", False)) and run.has_checkpoint
        if resumed and ended(run, flags.get("steps", 0)):
            console.say("done already")
            continue
        if resumed:
            flags = {"resume": True, **{name: flag for name, flag in flags.items() if name not in ("preset", "seed")}}
        if status := train(flags):
            console.say(f"the rest: the same command with --resume --out {shlex.quote(str(folder))}", "yellow")
            return status
    summary = [{"seed": seed, **result(run)} for seed, run in runs.items()]
    write_whole(folder / SUMMARY, json.dumps(described(name, runs[first], summary), indent=1).encode("utf-8"))
    console.table(table(name, summary))
    console.say(f"all of it: {folder / SUMMARY}")
    return 0


def ended(run: Run, steps: int) -> bool:
    """Whether it came to its own end, after at least so many steps, or where nothing improved any more."""
    ends = [record for record in run.records() if record["kind"] == "end"]
    return any(
        end["reason"].endswith("evaluations") or (end["reason"].endswith("done") and end["step"] >= steps)
        for end in ends
    )


def result(run: Run) -> Record:
    """What a run reached: its last evaluation, which nothing but the recipe chose, and its best one."""
    records = list(run.records())
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    end = next(record for record in records if record["kind"] == "end")
    best, last = min(evaluations, key=lambda record: float(record["val_loss"])), evaluations[-1]
    return {
        "step": last["step"], "val_loss": last["val_loss"], "train_loss": last["train_loss"],
        "best_step": best["step"], "best_val_loss": best["val_loss"],
        "seconds": end.get("seconds"), "seconds_in_steps": end.get("seconds_in_steps"),
        "sample": last["sample"],
        "evaluations": [[record["step"], record["train_loss"], record["val_loss"]] for record in evaluations],
    }  # fmt: skip


def described(name: str, run: Run, results: Sequence[Record]) -> Record:
    """seeds.json: the recipe, the machine, and what each run reached."""
    config = table_from(read_limited(run.folder / "config.json", 1_000_000))
    kept = ("command", "engine", "corpus", "tokenizer", "parameters", "model", "recipe", "versions")
    means = {of: dict(zip(("mean", "deviation"), spread(results, of), strict=True)) for of, _ in COLUMNS}
    return {"preset": name, **{key: config.get(key) for key in kept}, "mean": means, "runs": list(results)}


def spread(results: Sequence[Record], of: str) -> tuple[float | None, float | None]:
    """The mean, and how far a single run usually is from it."""
    values = [one[of] for one in results if one[of] is not None]
    if len(values) < len(results):
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if seconds >= 100 else f"{seconds:.1f} s"


COLUMNS: Sequence[tuple[str, tuple[str, Callable[[float], str]]]] = (
    ("val_loss", ("validation loss, last step", _loss)),
    ("best_val_loss", ("at its best step", _loss)),
    ("seconds", ("time", _time)),
    ("seconds_in_steps", ("in steps, but the first", _time)),
)


def table(name: str, results: Sequence[Record]) -> Table:
    shown = Table(title=f"{name}, {len(results)} seed{'s' * (len(results) > 1)}", title_justify="left", box=HORIZONTALS)
    shown.add_column("seed")
    for _, (title, _) in COLUMNS:
        shown.add_column(title, justify="right")
    for row in _rows(results):
        shown.add_row(*row)
    return shown


def _rows(results: Sequence[Record]) -> Iterator[list[str]]:
    def cell(value: Any, show: Callable[[float], str]) -> str:
        return "" if value is None else show(value)

    for one in results:
        yield [str(one["seed"]), *(cell(one[of], show) for of, (_, show) in COLUMNS)]
    if len(results) > 1:
        spreads = [(*spread(results, of), show) for of, (_, show) in COLUMNS]
        yield ["mean", *(cell(mean, show) for mean, _, show in spreads)]
        yield ["±", *(cell(deviation, show) for _, deviation, show in spreads)]
