"""The command train: from flags to a run, which begins or resumes."""

import math
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.flags import Flags, Parser, add_data_flag, add_fields, override, pick
from gpt_numpy.workshop.cli.recipe_file import read_recipe, recipe_toml
from gpt_numpy.workshop.cli.seeds import train_seeds
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data.corpus import find_corpus
from gpt_numpy.workshop.data.dataset import Dataset, encode_corpus, read_stats, train_tokenizer
from gpt_numpy.workshop.data.tokenizer import Tokenizer, check_bpe
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.params import flops_per_token, parameter_count
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.report.claims import MAX_TOKENS, pair_counts
from gpt_numpy.workshop.report.report import write_report
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State, find_checkpoint, read_state, versions
from gpt_numpy.workshop.runs.run_dir import RUNS, Record, RunDir, find_run_dir, new_run_dir
from gpt_numpy.workshop.runs.saver import Saver
from gpt_numpy.workshop.train.budget import TimeBudget, process_start
from gpt_numpy.workshop.train.evaluate import bits
from gpt_numpy.workshop.train.loggers import LOGGERS
from gpt_numpy.workshop.train.metrics import Metrics
from gpt_numpy.workshop.train.profile import StepProfiler
from gpt_numpy.workshop.train.task import Pretraining
from gpt_numpy.workshop.train.trainer import Trainer

BPE_SIZE = 1024  # tokens of BPE without --vocab-size


def train(cli: EngineCLI, arguments: Sequence[str]) -> int:
    parser = Parser(f"{cli.name} train", "Train a model on a text. All results are in the run's folder.")
    group = parser.add_argument_group("the run")
    presets = "; ".join(f"{name}: {preset.meaning}" for name, preset in PRESETS.items())
    default_preset = cli.default_preset(cli.options())
    group.add_argument("--preset", choices=PRESETS, help=f"a set of defaults. {presets} (default {default_preset})")
    add_data_flag(
        group,
        "UTF-8 texts or folders of .txt files; or shakespeare, or synthetic (default data/input.txt, else shakespeare)",
    )
    group.add_argument("--config", metavar="FILE", help="flags from a file, such as the recipe.toml of a run")
    group.add_argument("--out", metavar="FOLDER", help="the run's folder (default a new one in runs)")
    group.add_argument("--resume", action="store_true", help="resume the run in --out, or the newest one")
    group.add_argument("--seeds", metavar="N", type=int, help="train N models from different seeds, and compare them")
    group.add_argument("--log", choices=LOGGERS, help="also log the curves there; needs the extra of that name")
    group.add_argument("--profile", action="store_true", help="show how the time of ten steps is spent")
    add_engine_flags(parser, cli)
    add_fields(parser, "the training", Recipe, {name: preset.recipe for name, preset in PRESETS.items()})
    add_fields(parser, "the model", GPTConfig, {name: preset.model for name, preset in PRESETS.items()})
    flags = parser.flags(arguments)
    if "config" in flags:
        flags = {**read_recipe(Path(flags["config"]), parser), **flags}

    console = Console()
    if "seeds" not in flags:
        return train_once(cli, flags, console, process_start())
    if cli.processes.size > 1:
        raise WrongUse("--seeds is for one process; start it without torchrun")
    count, preset = flags.pop("seeds"), flags.get("preset", default_preset)
    return train_seeds(count, preset, flags, lambda own: train_once(cli, own, console, time.monotonic()), console)


def add_engine_flags(parser: Parser, cli: EngineCLI) -> None:
    add_fields(parser, "the machine", cli.options)
    parser.flags_of_other_cli = cli.flags_of_other_cli


def train_once(cli: EngineCLI, flags: Flags, console: Console, start: float) -> int:
    budget = TimeBudget(start)
    spec = (resumed_run if flags.get("resume") else new_run)(cli, flags, console)
    try:
        trainer = make_trainer(cli, spec, flags, console, budget)
        stop = trainer.train()
    finally:
        spec.run_dir.close()
    if stop:
        return 128 + stop.signal
    _show_result(cli, spec, trainer)
    return 0


# ---- a run, from flags or from its folder -----------------------------------------------------------------------


@dataclass
class RunSpec:
    """A run that is about to begin or to go on; its folder is locked."""

    run_dir: RunDir
    state: State
    options: Any  # of the engine
    tokenizer: Tokenizer
    data: Dataset
    checkpoint: Checkpoint | None  # to resume from


def new_run(cli: EngineCLI, flags: Flags, console: Console) -> RunSpec:
    options = cli.parse_options(flags)  # errors in flags come before any work
    name = flags.get("preset", cli.default_preset(options))
    recipe = override(PRESETS[name].recipe, pick(Recipe, flags))
    config = override(PRESETS[name].model, pick(GPTConfig, flags))
    vocab_size = flags.get("vocab_size", BPE_SIZE)
    if recipe.tokenizer == "bpe":
        check_bpe(vocab_size)
    run_dir = new_run_dir(flags.get("out"), name) if cli.processes.first else RunDir(Path(flags.get("out", RUNS)))
    try:
        with cli.processes.local_first():
            corpus = find_corpus(flags.get("data"), console)
            stats = read_stats(corpus, console)
            tokenizer = train_tokenizer(recipe.tokenizer, vocab_size, corpus, stats, console)
            data = encode_corpus(corpus, stats, tokenizer, console)
        if tokenizer.kind == "char" and flags.get("vocab_size", tokenizer.vocab_size) != tokenizer.vocab_size:
            raise WrongUse(
                f"--vocab-size {vocab_size}: the text has {tokenizer.vocab_size} different characters, and as many "
                "tokens; for another number, --tokenizer bpe"
            )
        config = replace(config, vocab_size=tokenizer.vocab_size)
        _check_length(data, config)
        _check_memory(config, recipe)
        cli.processes.check_agreement("flags or text", f"{config} {recipe} {stats.digest} {tokenizer.to_json()}")
        state = State(config, recipe, data.data, stats.digest, engine_options=_saved_options(cli, flags))
        return RunSpec(run_dir, state, options, tokenizer, data, checkpoint=None)
    except BaseException:
        run_dir.close()
        raise


def resumed_run(cli: EngineCLI, flags: Flags, console: Console) -> RunSpec:
    """From its latest checkpoint, as if it had never stopped. Flags change its recipe."""
    if "preset" in flags:
        raise WrongUse("--preset is for a run that begins; one that is resumed has its recipe")
    run_dir = find_run_dir(flags.get("out", "latest"))
    if cli.processes.first:
        run_dir.lock()
    try:
        checkpoint = run_dir.checkpoint_to_resume(console)
        state, tokenizer = checkpoint.state, checkpoint.tokenizer
        _check_unchanged(run_dir.folder, state, flags)
        recipe, config = override(state.recipe, pick(Recipe, flags)), override(state.config, pick(GPTConfig, flags))
        _check_memory(config, recipe)
        has_ended = any(record["kind"] == "end" for record in run_dir.records())
        if has_ended and state.step >= recipe.steps and state.last_eval_step == state.step:
            raise WrongUse(f"{run_dir.folder} has done its {recipe.steps} steps; to go on, --steps {2 * recipe.steps}")
        with cli.processes.local_first():
            data = dataset_of(checkpoint, flags.get("data"), console)
        cli.processes.check_agreement(
            "flags, text or the run's folder",
            f"{config} {recipe} {data.stats.digest} {tokenizer.to_json()} {state.step} {checkpoint.digest}",
        )
        same_threads = {"threads": state.threads} if state.processes == cli.processes.size else {}  # bit for bit
        options = cli.parse_options({**state.engine_options, **same_threads, **flags})
        state = replace(
            state, config=config, recipe=recipe, data=data.data, digest=data.stats.digest,
            engine_options={**state.engine_options, **_saved_options(cli, flags)},
        )  # fmt: skip
        return RunSpec(run_dir, state, options, tokenizer, data, checkpoint)
    except BaseException:
        run_dir.close()
        raise


def _check_unchanged(folder: Path, state: State, flags: Flags) -> None:
    for name, value in pick(GPTConfig, flags).items():
        if name != "dropout" and value != getattr(state.config, name):
            raise WrongUse(f"{folder} is a model with {name} {getattr(state.config, name)}, which cannot change")
    for name, what in {"tokenizer": "has a {} tokenizer", "optimizer": "is trained by {}"}.items():
        if flags.get(name, getattr(state.recipe, name)) != getattr(state.recipe, name):
            raise WrongUse(f"{folder} {what.format(getattr(state.recipe, name))}, which cannot change")


def _saved_options(cli: EngineCLI, flags: Flags) -> Flags:
    """Those that decide the engine's numbers. The device, and the number of processes, may change."""
    return {name: value for name, value in pick(cli.options, flags).items() if name not in cli.not_saved}


def dataset_of(checkpoint: Checkpoint, data: str | None, console: Console, may_differ: bool = False) -> Dataset:
    """The text that a model was trained on, from where it was or from --data; which may also be a different one."""
    state = checkpoint.state
    if not (data or state.data):
        raise WrongUse(f"{checkpoint.folder} came without a text; give one by --data")
    corpus = find_corpus(data or state.data, console)
    stats = read_stats(corpus, console)
    if state.digest not in (stats.digest, "") and not (may_differ and data):
        raise WrongUse(f"{corpus.name} is not the text that {checkpoint.folder} was trained on; give that by --data")
    found = encode_corpus(corpus, stats, checkpoint.tokenizer, console)
    _check_length(found, state.config)
    return found


def _check_length(data: Dataset, config: GPTConfig) -> None:
    if len(data.train) <= config.block_size or len(data.validation) < 2:
        raise WrongUse(
            f"{data.name} is too short: {len(data.train)} tokens to train on, {len(data.validation)} for validation. A "
            f"window takes {config.block_size + 1}, validation 2; give more text or a smaller --block-size"
        )


def _check_memory(config: GPTConfig, recipe: Recipe) -> None:
    """Refuse what can never fit: on any device, the host holds the weights twice while the model is made."""
    names = getattr(os, "sysconf_names", {})
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in names else math.inf
    for what, number, needed in (
        ("a model of {:,} parameters", parameter_count(config), 2 * 4 * parameter_count(config)),
        ("a batch of {:,} sequences", recipe.batch_size, 2 * 8 * recipe.batch_size * (config.block_size + 1)),
    ):
        if needed > has:
            raise WrongUse(
                f"{what.format(number)} takes {needed / 1e9:,.0f} GB and more; this machine has {has / 1e9:,.0f} GB"
            )


# ---- its trainer ------------------------------------------------------------------------------------------------


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
