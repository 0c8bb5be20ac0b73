"""A run whose flags are read: its trainer, what is said of it, and how it ends."""

import math
import shlex
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.flags import Flags
from gpt_numpy.workshop.cli.recipe_file import recipe_toml
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data.dataset import Dataset
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.params import flops_per_token, parameter_count
from gpt_numpy.workshop.report.claims import MAX_TOKENS, pair_counts
from gpt_numpy.workshop.report.report import write_report
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State, find_checkpoint, read_state, versions
from gpt_numpy.workshop.runs.run_dir import Record, RunDir
from gpt_numpy.workshop.runs.saver import Saver
from gpt_numpy.workshop.train.budget import TimeBudget
from gpt_numpy.workshop.train.evaluate import bits
from gpt_numpy.workshop.train.loggers import LOGGERS
from gpt_numpy.workshop.train.metrics import Metrics
from gpt_numpy.workshop.train.profile import StepProfiler
from gpt_numpy.workshop.train.task import Pretraining
from gpt_numpy.workshop.train.trainer import Trainer


@dataclass
class RunSpec:
    """A run that is about to begin or to go on; its folder is locked."""

    run_dir: RunDir
    state: State
    options: Any  # of the engine
    tokenizer: Tokenizer
    data: Dataset
    checkpoint: Checkpoint | None  # to resume from


def train_run(cli: EngineCLI, spec: RunSpec, flags: Flags, console: Console, budget: TimeBudget) -> int:
    try:
        trainer = make_trainer(cli, spec, flags, console, budget)
        stop = trainer.train()
    finally:
        spec.run_dir.close()
    if stop:
        return 128 + stop.signal
    _show_result(cli, spec, trainer)
    return 0


def make_trainer(cli: EngineCLI, spec: RunSpec, flags: Flags, console: Console, budget: TimeBudget) -> Trainer:
    folder = spec.run_dir.folder
    log = LOGGERS[flags["log"]](folder).record if "log" in flags and cli.processes.first else None
    cli.check(spec.state.config, spec.options, console)
    engine = cli.engine(spec.state.config, spec.state.recipe, spec.options)
    state = spec.state = replace(spec.state, threads=engine.threads, processes=cli.processes.size)
    records, last_saved, best_loss = [], None, math.inf
    if checkpoint := spec.checkpoint:
        engine.load(checkpoint.weights, checkpoint.optimizer_state, state.step)
        records = spec.run_dir.records_until(state)
        last_saved = state if checkpoint.folder == find_checkpoint(spec.run_dir.latest) else None
        best_loss = _best_loss(spec.run_dir, state, console)
    if cli.processes.first:
        spec.run_dir.truncate_to(records)
        spec.run_dir.write_config(_config_json(cli, spec, engine), recipe_toml(cli.name, state, spec.tokenizer))
    _show_start(spec, engine, console)
    budget.seconds["start"] = budget.total
    task = Pretraining(spec.data, spec.tokenizer, state.recipe, state.config.block_size)
    metrics = Metrics(task.tokens_per_step, task.characters_per_token, budget, records)
    saver = Saver(spec.run_dir, console, write_report, last_saved, best_loss, log)
    profiler = StepProfiler(engine, folder, console) if "profile" in flags else None
    return Trainer(engine, spec.tokenizer, task, state, saver, metrics, console, cli.processes, budget, profiler)


def _best_loss(run_dir: RunDir, state: State, console: Console) -> float:
    """Of checkpoints/best, which stays until a lower loss replaces it, although it may be of a later step."""
    try:
        best = read_state(run_dir.best)
    except WrongUse:  # there is none, or it is damaged
        return math.inf
    if best.step > state.step and best.best_loss is not None:
        console.say(f"checkpoints/best, of step {best.step}, stays until a loss is below {best.best_loss:.4f}", "dim")
    return math.inf if best.best_loss is None else best.best_loss


def _show_start(spec: RunSpec, engine: Engine, console: Console) -> None:
    config, stats, data, state = spec.state.config, spec.data.stats, spec.data, spec.state
    text = [f"text: {data.name}", f"{stats.characters:,} characters", f"{len(stats.alphabet)} different"]
    size = spec.tokenizer.vocab_size
    if spec.tokenizer.kind == "char":
        text.append(f"{len(pair_counts(data.tokens(MAX_TOKENS), size)):,} of {size**2:,} pairs of characters occur")
    else:
        text.append(f"in {len(data.train) + len(data.validation):,} tokens, {size:,} different")
    console.say(", ".join(text))
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
    state, data = spec.state, spec.data
    text = {"name": data.name, "characters": data.stats.characters, "digest": state.digest, "floor": data.floor}
    return {
        "command": cli.name,
        "engine": engine.describe(),
        "name": spec.run_dir.folder.resolve().name,
        "started": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
        "corpus": text,
        "tokenizer": {"kind": spec.tokenizer.kind, "vocab_size": spec.tokenizer.vocab_size},
        "characters_per_token": data.characters_per_token,
        "parameters": parameter_count(state.config),
        "threads": state.threads,
        "model": asdict(state.config),
        "recipe": asdict(state.recipe),
        "versions": versions(),
    }


def _show_result(cli: EngineCLI, spec: RunSpec, trainer: Trainer) -> None:
    console, state, folder = trainer.console, trainer.state, spec.run_dir.folder
    if state.best_loss is not None:
        per_character = f"{bits(state.best_loss / spec.data.characters_per_token):.3f} bits a character"
        console.say(f"best validation loss {state.best_loss:.4f} at step {state.best_step}: {per_character}", "bold")
    console.say(trainer.budget.line())
    if (warm := trainer.metrics.warm) and warm.tokens:
        flops, peak = warm.tokens_per_second * flops_per_token(state.config), trainer.engine.peak
        speed = f"steps: {warm.tokens_per_second * spec.data.characters_per_token:,.0f} characters per second"
        console.say(f"{speed}, {flops / 1e12:.3g} TFLOP/s{f', {flops / peak:.1%} of the peak' if peak else ''}")
    console.say(f"curves and samples: {folder / 'report.html'}")
    console.say(f"next: {cli.name} generate --run {shlex.quote(str(folder))}")
