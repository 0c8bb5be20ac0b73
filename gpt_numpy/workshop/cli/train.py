"""The command train: from flags to a run, which begins or resumes."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.engine_cli import EngineCLI, add_engine_flags
from gpt_numpy.workshop.cli.flags import Flags, Parser, add_data_flag, add_fields, override, pick
from gpt_numpy.workshop.cli.recipe_file import read_recipe
from gpt_numpy.workshop.cli.run import (
    RunInputs,
    RunSpec,
    add_run_flags,
    check_memory,
    open_run_dir,
    saved_options,
    train_run,
)
from gpt_numpy.workshop.cli.seeds import train_seeds
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data.corpus import find_corpus
from gpt_numpy.workshop.data.dataset import Dataset, encode_corpus, read_stats, train_tokenizer
from gpt_numpy.workshop.data.tokenizer import Tokenizer, check_bpe
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State
from gpt_numpy.workshop.train.task import Pretraining

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
    add_run_flags(group)
    group.add_argument("--seeds", metavar="N", type=int, help="train N models from different seeds, and compare them")
    group.add_argument("--profile", action="store_true", help="show how the time of ten steps is spent")
    add_engine_flags(parser, cli)
    add_fields(parser, "the training", Recipe, {name: preset.recipe for name, preset in PRESETS.items()})
    models = {name: preset.model for name, preset in PRESETS.items()}
    group = add_fields(parser, "the model", GPTConfig, models, only=set(vars(GPTConfig())) - {"vocab_size"})
    help = f"different tokens of BPE (default {BPE_SIZE}); with characters, as many as the text has"
    group.add_argument("--vocab-size", metavar="N", type=int, help=help)
    flags = parser.flags(arguments)
    if "config" in flags:
        flags = {**read_recipe(Path(flags["config"]), parser), **flags}

    console = Console()
    if "seeds" not in flags:
        return train_once(cli, flags, console)
    if cli.processes.size > 1:
        raise UsageError("--seeds is for one process; start it without torchrun")
    count, preset = flags.pop("seeds"), flags.get("preset", default_preset)
    return train_seeds(count, preset, flags, lambda own: train_once(cli, own, console, time.monotonic()), console)


def train_once(cli: EngineCLI, flags: Flags, console: Console, start: float | None = None) -> int:
    def make_inputs(checkpoint: Checkpoint, recipe: Recipe, config: GPTConfig, options: Any) -> RunInputs:
        with cli.processes.local_first():
            data = dataset_of(checkpoint, flags.get("data"), console)
        return text_inputs(data, checkpoint.tokenizer, recipe, config)

    return train_run(cli, flags, console, "", lambda stack: new_run(cli, flags, console, stack), make_inputs, start)


# ---- a run, from flags or from its folder -----------------------------------------------------------------------


def new_run(cli: EngineCLI, flags: Flags, console: Console, stack: ExitStack) -> RunSpec:
    options = cli.parse_options(flags)  # errors in flags come before any work
    name = flags.get("preset", cli.default_preset(options))
    recipe = override(PRESETS[name].recipe, pick(Recipe, flags))
    config = override(PRESETS[name].model, pick(GPTConfig, flags))
    vocab_size = flags.get("vocab_size", BPE_SIZE)
    if recipe.tokenizer == "bpe":
        check_bpe(vocab_size)
    run_dir = open_run_dir(cli, flags, name, stack)
    with cli.processes.local_first():
        corpus = find_corpus(flags.get("data"), console)
        stats = read_stats(corpus, console)
        tokenizer = train_tokenizer(recipe.tokenizer, vocab_size, corpus, stats, console)
        data = encode_corpus(corpus, stats, tokenizer, console)
    if tokenizer.kind == "char" and flags.get("vocab_size", tokenizer.vocab_size) != tokenizer.vocab_size:
        raise UsageError(
            f"--vocab-size {vocab_size}: the text has {tokenizer.vocab_size} different characters, and as many tokens; "
            "for another number, --tokenizer bpe"
        )
    config = replace(config, vocab_size=tokenizer.vocab_size)
    _check_length(data, config)
    check_memory(config, recipe)
    inputs = text_inputs(data, tokenizer, recipe, config)
    state = State(config, recipe, **inputs.state_fields, engine_options=saved_options(cli, flags))
    return RunSpec(run_dir, state, options, inputs)


def text_inputs(data: Dataset, tokenizer: Tokenizer, recipe: Recipe, config: GPTConfig) -> RunInputs:
    stats = data.stats
    about = [f"text: {data.name}", f"{stats.characters:,} characters", f"{len(stats.alphabet)} different"]
    if tokenizer.kind != "char":
        about.append(f"in {len(data.train) + len(data.validation):,} tokens, {tokenizer.vocab_size:,} different")
    corpus = {"name": data.name, "characters": stats.characters, "digest": stats.digest, "floor": data.floor}
    task = Pretraining(data, tokenizer, recipe, config.block_size)
    return RunInputs(task, ", ".join(about), corpus, {"data": data.data, "digest": stats.digest})


def dataset_of(checkpoint: Checkpoint, data: str | None, console: Console, may_differ: bool = False) -> Dataset:
    """The text that a model was trained on, from where it was or from --data; which may also be a different one."""
    state = checkpoint.state
    if not (data or state.data):
        raise UsageError(f"{checkpoint.folder} came without a text; give one by --data")
    try:
        corpus = find_corpus(data or state.data, console)
        stats = read_stats(corpus, console)
    except UsageError as error:
        raise UsageError(f"{error}" if data else f"{error}; --data says where that text is now") from None
    if state.digest not in (stats.digest, "") and not (may_differ and data):
        raise UsageError(f"{corpus.name} is not the text that {checkpoint.folder} was trained on; give that by --data")
    found = encode_corpus(corpus, stats, checkpoint.tokenizer, console)
    _check_length(found, state.config)
    return found


def _check_length(data: Dataset, config: GPTConfig) -> None:
    if len(data.train) <= config.block_size or len(data.validation) < 2:
        raise UsageError(
            f"{data.name} is too short: {len(data.train)} tokens to train on, {len(data.validation)} for validation. A "
            f"window takes {config.block_size + 1}, validation 2; give more text or a smaller --block-size"
        )
