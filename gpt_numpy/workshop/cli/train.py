"""The command train: from flags to a run, which begins or resumes."""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.flags import Flags, Parser, add_data_flag, add_fields, override, pick
from gpt_numpy.workshop.cli.recipe_file import read_recipe
from gpt_numpy.workshop.cli.run import RunSpec, train_run
from gpt_numpy.workshop.cli.seeds import train_seeds
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data.corpus import find_corpus
from gpt_numpy.workshop.data.dataset import Dataset, encode_corpus, read_stats, train_tokenizer
from gpt_numpy.workshop.data.tokenizer import check_bpe
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.params import parameter_count
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State
from gpt_numpy.workshop.runs.run_dir import RUNS, RunDir, find_run_dir, new_run_dir
from gpt_numpy.workshop.train.budget import TimeBudget, process_start
from gpt_numpy.workshop.train.loggers import LOGGERS

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
    return train_run(cli, spec, flags, console, budget)


# ---- a run, from flags or from its folder -----------------------------------------------------------------------


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
