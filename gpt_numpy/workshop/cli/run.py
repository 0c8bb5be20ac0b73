"""From parsed flags to a run: begin or resume it, describe it, train it, and return its exit status."""

import math
import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.flags import Flags, T, build, override, pick
from gpt_numpy.workshop.cli.recipe_file import recipe_toml
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.io import write_atomic
from gpt_numpy.workshop.params import flops_per_token, parameter_count
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.report.report import write_report
from gpt_numpy.workshop.runs.checkpoint import (
    Checkpoint,
    State,
    find_checkpoint,
    read_state,
    save_checkpoint,
    versions,
)
from gpt_numpy.workshop.runs.run_dir import RUNS, Record, RunDir, find_run_dir, new_run_dir
from gpt_numpy.workshop.runs.saver import Saver
from gpt_numpy.workshop.train.budget import TimeBudget, process_start
from gpt_numpy.workshop.train.loggers import LOGGERS
from gpt_numpy.workshop.train.metrics import Metrics
from gpt_numpy.workshop.train.profile import StepProfiler
from gpt_numpy.workshop.train.task import Task
from gpt_numpy.workshop.train.trainer import Trainer, reason_to_end


@dataclass
class RunInputs:
    """What a run trains on, and its description."""

    task: Task
    about: str  # lines
    corpus: Record  # of config.json
    state_fields: dict[str, Any]  # fields of State, by which a resumed run finds it again
    files: Mapping[str, str] = field(default_factory=dict)  # texts for the run's folder, by name
    measure: str = "loss"  # that selects the best checkpoint
    reference: Checkpoint | None = None  # a model that the run keeps, since that of --run may change


@dataclass
class RunSpec:
    """A run that is about to begin or to go on."""

    run_dir: RunDir
    state: State
    options: Any  # of the engine
    inputs: RunInputs
    checkpoint: Checkpoint | None = None  # to resume from
    base: Checkpoint | None = None  # whose weights it begins with


REFERENCE = Path("checkpoints", "reference")  # in the run's folder
Begin = Callable[[ExitStack], RunSpec]  # opens its folder before any work
MakeInputs = Callable[[Checkpoint, Recipe, GPTConfig, Any], RunInputs]  # with the options of the engine


def train_run(
    cli: EngineCLI,
    flags: Flags,
    console: Console,
    method: str,
    begin: Begin,
    make_inputs: MakeInputs,
    start: float | None = None,
) -> int:
    """Begin a run or resume one, and train it to its end; its time counts from `start`, or from the process's."""
    console.is_optional = True
    budget = TimeBudget(process_start() if start is None else start)
    with ExitStack() as stack:
        spec = resumed_run(cli, flags, console, method, make_inputs, stack) if flags.get("resume") else begin(stack)
        _check_agreement(cli, spec)
        trainer = make_trainer(cli, spec, flags, console, budget)
        stop = trainer.train()
    if stop:
        return 128 + stop.signal
    _show_result(cli, spec, trainer)
    return 0


def make_trainer(cli: EngineCLI, spec: RunSpec, flags: Flags, console: Console, budget: TimeBudget) -> Trainer:
    folder, task, tokenizer = spec.run_dir.folder, spec.inputs.task, spec.inputs.task.tokenizer
    log = LOGGERS[flags["log"]](folder) if "log" in flags and cli.processes.first else None
    cli.check(spec.state.config, spec.options, console)
    engine = cli.engine(spec.state.config, spec.state.recipe, spec.options)
    state = spec.state = replace(spec.state, threads=engine.threads, processes=cli.processes.size)
    records, last_saved, best_loss = [], None, math.inf
    if checkpoint := spec.checkpoint:
        engine.load(checkpoint.weights, checkpoint.optimizer_state, state.step)
        records = spec.run_dir.records_until(state)
        last_saved = state if checkpoint.folder == find_checkpoint(spec.run_dir.latest) else None
        best_loss = _best_loss(spec.run_dir, state, console)
    if spec.base:
        engine.load(spec.base.weights, {}, 0)
    if cli.processes.first:
        spec.run_dir.truncate_to(records)
        recipe = "" if state.method else recipe_toml(cli.name, state, tokenizer)
        spec.run_dir.write_config(_config_json(cli, spec, engine), recipe)
        for name, text in spec.inputs.files.items():
            write_atomic(folder / name, text.encode("utf-8"))
        if spec.base and spec.inputs.reference:
            save_checkpoint(folder / REFERENCE, spec.inputs.reference, with_optimizer=False)
    _show_start(spec, engine, console)
    budget.seconds["start"] = budget.total
    metrics = Metrics(task.tokens_per_step, task.characters_per_token, budget, records, task.loss_factor)
    saver = Saver(spec.run_dir, console, write_report, last_saved, best_loss, log)
    profiler = StepProfiler(engine, folder, console) if "profile" in flags else None
    return Trainer(engine, task, state, saver, metrics, console, cli.processes, budget, profiler)


def _best_loss(run_dir: RunDir, state: State, console: Console) -> float:
    """Of checkpoints/best, which stays until a lower loss replaces it, although it may be of a later step."""
    try:
        best = read_state(run_dir.best)
    except UsageError:  # there is none, or it is damaged
        return math.inf
    if best.step > state.step and best.best_loss is not None:
        console.say(f"checkpoints/best, of step {best.step}, stays until a loss is below {best.best_loss:.4f}", "dim")
    return math.inf if best.best_loss is None else best.best_loss


def _show_start(spec: RunSpec, engine: Engine, console: Console) -> None:
    config, state = spec.state.config, spec.state
    console.say(spec.inputs.about)
    if spec.checkpoint:
        console.say(f"resuming after step {state.step} of {state.recipe.steps}")
    console.say(
        f"model: {parameter_count(config):,} parameters in {config.n_layer} layers, {config.n_head} heads, "
        f"{config.n_embd} wide, context {config.block_size}"
    )
    console.say(f"engine: {engine.describe()}")
    console.say(f"run: {spec.run_dir.folder}   (Ctrl-C saves, --resume continues)")


def _config_json(cli: EngineCLI, spec: RunSpec, engine: Engine) -> Record:
    """What the run is, for people and for its report."""
    state, tokenizer = spec.state, spec.inputs.task.tokenizer
    return {
        "command": f"{cli.name} tune {state.method}" if state.method else cli.name,
        "method": state.method,
        "measure": spec.inputs.measure,
        "tuning": dict(state.tuning),
        "engine": engine.describe(),
        "name": spec.run_dir.folder.resolve().name,
        "started": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
        "corpus": spec.inputs.corpus,
        "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size},
        "characters_per_token": spec.inputs.task.characters_per_token,
        "tokens_per_step": spec.inputs.task.tokens_per_step,
        "parameters": parameter_count(state.config),
        "threads": state.threads,
        "model": asdict(state.config),
        "recipe": asdict(state.recipe),
        "versions": versions(),
    }


def _show_result(cli: EngineCLI, spec: RunSpec, trainer: Trainer) -> None:
    console, state, folder = trainer.console, trainer.state, spec.run_dir.folder
    if state.best_loss is not None:
        console.say(spec.inputs.task.best(state.best_loss, state.best_step), "bold")
    console.say(trainer.budget.line())
    if (warm := trainer.metrics.warm) and warm.tokens:
        flops, peak = warm.tokens_per_second * flops_per_token(state.config), trainer.engine.peak
        speed = f"steps: {warm.tokens_per_second * spec.inputs.task.characters_per_token:,.0f} characters per second"
        console.say(f"{speed}, {flops / 1e12:.3g} TFLOP/s{f', {flops / peak:.1%} of the peak' if peak else ''}")
    console.say(f"curves and samples: {folder / 'report.html'}")
    console.say(f"next: {cli.name} generate --run {shlex.quote(str(folder))}")


# ---- beginning and resuming -------------------------------------------------------------------------------------


def add_run_flags(group: Any) -> None:
    group.add_argument("--out", metavar="FOLDER", help="its folder (default a new one in runs)")
    group.add_argument("--resume", action="store_true", help="resume the run in --out, or the newest one")
    group.add_argument("--log", choices=LOGGERS, help="also log the curves there; needs the extra of that name")


def open_run_dir(cli: EngineCLI, flags: Flags, name: str, stack: ExitStack) -> RunDir:
    """That of --out, or a new one. The first of several processes makes it, and locks it until the stack ends."""
    if flags.get("out") == "latest":
        raise UsageError("--out latest: that name stands for the newest run; give another folder")
    run_dir = new_run_dir(flags.get("out"), name) if cli.processes.first else RunDir(Path(flags.get("out", RUNS)))
    stack.callback(run_dir.close)
    return run_dir


def settings_of(kind: type[T], flags: Flags, checkpoint: Checkpoint) -> T:
    """The settings of a run's method. A resumed run keeps its own, except for flags; UsageError for unknown ones."""
    saved = dict(checkpoint.state.tuning) if flags.get("resume") else {}
    if unknown := saved.keys() - pick(kind, saved).keys():
        raise UsageError(f"{checkpoint.folder} has settings that are not known here: {', '.join(sorted(unknown))}")
    return build(kind, {**saved, **pick(kind, flags)})


def resumed_run(
    cli: EngineCLI, flags: Flags, console: Console, method: str, make_inputs: MakeInputs, stack: ExitStack
) -> RunSpec:
    """From its latest checkpoint, as if it had never stopped. Flags change its recipe."""
    if "preset" in flags:
        raise UsageError("--preset is for a run that begins; one that is resumed has its recipe")
    for name in ("run", "checkpoint"):
        if name in flags and method != "distill":
            raise UsageError(f"--{name} is for a run that begins; --out names the one to resume")
    run_dir = find_run_dir(flags.get("out", "latest"))
    run_dir.checkpoints("latest")  # UsageError if there is none, before the folder is locked
    if cli.processes.first:
        run_dir.lock()
    stack.callback(run_dir.close)
    checkpoint = run_dir.checkpoint_to_resume(console)
    state = checkpoint.state
    if state.method != method:
        command = f"tune {state.method}" if state.method else "train"
        raise UsageError(f"{run_dir.folder} is a run of {cli.name} {command}; resume it with that")
    _check_unchanged(run_dir.folder, state, flags)
    recipe = override(state.recipe, pick(Recipe, flags))
    config = override(state.config, {**pick(GPTConfig, flags), "vocab_size": state.config.vocab_size})
    check_memory(config, recipe)
    has_ended = any(record["kind"] == "end" for record in run_dir.records())
    if has_ended and state.last_eval_step == state.step:
        if state.step >= recipe.steps:
            done = f"has done its {state.step} steps; to train further, --steps {2 * state.step}"
            raise UsageError(f"{run_dir.folder} {done}")
        if reason := reason_to_end(replace(state, recipe=recipe)):
            done = f"has ended, since {reason}; to train further, another --patience or --target-loss"
            raise UsageError(f"{run_dir.folder} {done}")
    same_threads = {"threads": state.threads} if state.processes == cli.processes.size else {}  # bit for bit
    options = cli.parse_options({**state.engine_options, **same_threads, **flags})
    inputs = make_inputs(checkpoint, recipe, config, options)
    if inputs.state_fields.get("tuned_on_digest", "") != state.tuned_on_digest:
        given = " and ".join(inputs.state_fields["tuned_on"].split("\n"))
        raise UsageError(f"{given} is not what {run_dir.folder} was tuned on, or has changed since")
    state = replace(
        state, config=config, recipe=recipe, **inputs.state_fields,
        engine_options={**state.engine_options, **saved_options(cli, flags)},
    )  # fmt: skip
    return RunSpec(run_dir, state, options, inputs, checkpoint)


def _check_agreement(cli: EngineCLI, spec: RunSpec) -> None:
    """UsageError unless all processes are about to train the same run."""
    state, source = spec.state, spec.checkpoint or spec.base
    cli.processes.check_agreement(
        "flags, files or the run's folder",
        f"{state.config} {state.recipe} {state.digest} {state.tuned_on_digest} {state.tuning} {state.step} "
        f"{spec.inputs.task.tokenizer.to_json()} {source.digest if source else ''}",
    )


def _check_unchanged(folder: Path, state: State, flags: Flags) -> None:
    for name, value in pick(GPTConfig, flags).items():
        own = getattr(state.config, name)
        has_fewer = name == "vocab_size" and state.recipe.tokenizer == "bpe" and own < value  # its text is short
        if name != "dropout" and value != own and not has_fewer:
            raise UsageError(f"{folder} is a model with {name} {own}, which cannot change")
    for name, what in {"tokenizer": "has a {} tokenizer", "optimizer": "is trained by {}"}.items():
        if flags.get(name, getattr(state.recipe, name)) != getattr(state.recipe, name):
            raise UsageError(f"{folder} {what.format(getattr(state.recipe, name))}, which cannot change")


def saved_options(cli: EngineCLI, flags: Flags) -> Flags:
    """Those that decide the engine's numbers. The device, and the number of processes, may change."""
    return {name: value for name, value in pick(cli.options, flags).items() if name not in cli.not_saved}


def check_memory(config: GPTConfig, recipe: Recipe) -> None:
    """Refuse what can never fit: on any device, the host holds the weights twice while the model is made."""
    names = getattr(os, "sysconf_names", {})
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in names else math.inf
    for what, number, needed in (
        ("a model of {:,} parameters", parameter_count(config), 2 * 4 * parameter_count(config)),
        ("a batch of {:,} sequences", recipe.batch_size, 2 * 8 * recipe.batch_size * (config.block_size + 1)),
    ):
        if needed > has:
            raise UsageError(
                f"{what.format(number)} takes {needed / 1e9:,.0f} GB and more; this machine has {has / 1e9:,.0f} GB"
            )
