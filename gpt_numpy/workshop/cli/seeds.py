"""Train several models, each from another seed, and compare them.

The runs are in one folder: seed-1337, seed-1338, ..., each like any other, and seeds.json with their results.
"""

import json
import shlex
import statistics
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path

from rich.box import HORIZONTALS
from rich.table import Table

from gpt_numpy.workshop.cli.flags import Flags
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.io import parse_object, read_limited, write_atomic
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.runs.checkpoint import read_state
from gpt_numpy.workshop.runs.run_dir import RUNS, Record, RunDir
from gpt_numpy.workshop.train.budget import in_words
from gpt_numpy.workshop.train.trainer import reason_to_end

SUMMARY = "seeds.json"
MAX_SEEDS = 1000


def train_seeds(count: int, preset: str, flags: Flags, train: Callable[[Flags], int], console: Console) -> int:
    """`train` does one run; the exit status is the first that is not 0."""
    if not 1 <= count <= MAX_SEEDS:
        raise UsageError(f"--seeds is from 1 to {MAX_SEEDS}, not {count}")
    if flags.get("resume") and "out" not in flags:
        raise UsageError("--resume continues one run; with --seeds, name their folder with --out")
    folder = Path(flags.get("out", RUNS / f"{datetime.now():%Y-%m-%d-%H%M%S}-{preset}"))
    if RunDir(folder).has_checkpoint:
        raise UsageError(f"{folder} holds a run; give another folder for those of several seeds")
    first = flags.get("seed", Recipe().seed)
    runs = {seed: RunDir(folder / f"seed-{seed}") for seed in range(first, first + count)}
    for run in runs.values():
        check_same_recipe(run, preset, flags)
    for seed, run in runs.items():
        console.say(f"seed {seed}, in {run.folder}", "bold")
        own = {**flags, "out": str(run.folder), "seed": seed}
        is_resumed = bool(own.pop("resume", False)) and run.has_checkpoint
        if is_resumed and has_ended(run, own.get("steps", 0)):
            console.say("done already")
            continue
        if is_resumed:
            own = {"resume": True, **{name: flag for name, flag in own.items() if name not in ("preset", "seed")}}
        if status := train(own):
            console.say(
                f"for the other seeds, the same command with --resume --out {shlex.quote(str(folder))}", "yellow"
            )
            return status
    summary = [{"seed": seed, **result(run)} for seed, run in runs.items()]
    write_atomic(folder / SUMMARY, json.dumps(description(preset, runs[first], summary), indent=1).encode("utf-8"))
    console.table(table(preset, summary))
    console.say(f"all results: {folder / SUMMARY}")
    return 0


def check_same_recipe(run: RunDir, preset: str, flags: Flags) -> None:
    """UsageError where a run that exists was trained in another way than these flags ask for: no mean is of both."""
    try:
        had = read_state(run.latest).recipe if flags.get("resume") and run.has_checkpoint else None
    except UsageError:  # damaged: it is trained anew
        had = None
    for field in fields(Recipe) if had else ():
        was, asked = getattr(had, field.name), flags.get(field.name, getattr(PRESETS[preset].recipe, field.name))
        if was != asked and field.name not in {"seed", *flags}:
            name = field.name.replace("_", "-")
            raise UsageError(f"{run.folder} was trained with --{name} {was}, not {asked}; repeat the flags that it had")


def has_ended(run: RunDir, steps: int) -> bool:
    """By itself, after at least so many steps, at the target, or without any more improvement."""
    try:
        state = read_state(run.latest)
    except UsageError:  # damaged, say
        return False
    is_done = state.step >= (steps or state.recipe.steps) or reason_to_end(state)
    return bool(is_done) and any(record["kind"] == "end" for record in run.records())


def result(run: RunDir) -> Record:
    """The last evaluation, which nothing but the recipe selects, and the best one."""
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


def description(preset: str, run: RunDir, results: Sequence[Record]) -> Record:
    """seeds.json: the recipe, the machine, and the result of each run."""
    config = parse_object(read_limited(run.folder / "config.json", 1_000_000))
    copied = ("command", "engine", "corpus", "tokenizer", "parameters", "model", "recipe", "versions")
    means = {of: dict(zip(("mean", "deviation"), spread(results, of), strict=True)) for of in COLUMNS}
    return {"preset": preset, **{key: config.get(key) for key in copied}, "mean": means, "runs": list(results)}


def spread(results: Sequence[Record], of: str) -> tuple[float | None, float | None]:
    """The mean and the standard deviation."""
    values = [one[of] for one in results if one[of] is not None]
    if len(values) < len(results):
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "val_loss": ("validation loss, last step", "{:.4f}".format),
    "best_val_loss": ("at its best step", "{:.4f}".format),
    "seconds": ("time", in_words),
    "seconds_in_steps": ("in steps, but the first", in_words),
}


def table(preset: str, results: Sequence[Record]) -> Table:
    title = f"{preset}, {len(results)} seed{'s' * (len(results) > 1)}"
    shown = Table(title=title, title_justify="left", box=HORIZONTALS)
    shown.add_column("seed")
    for title, _ in COLUMNS.values():
        shown.add_column(title, justify="right")
    rows = list(results)
    if len(results) > 1:
        spreads = {of: spread(results, of) for of in COLUMNS}
        rows.append({"seed": "mean", **{of: mean for of, (mean, _) in spreads.items()}})
        rows.append({"seed": "±", **{of: deviation for of, (_, deviation) in spreads.items()}})
    for row in rows:
        cells = ("" if row[of] is None else show(row[of]) for of, (_, show) in COLUMNS.items())
        shown.add_row(str(row["seed"]), *cells)
    return shown
