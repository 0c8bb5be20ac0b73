"""How a run begins, how it goes on, and how its model and its text are found again."""

import math
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.flags import Given, changed, chosen
from gpt_numpy.workshop.cli.program import Program
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data.corpus import find_corpus
from gpt_numpy.workshop.data.dataset import Dataset, encode_corpus, read_stats, train_tokenizer
from gpt_numpy.workshop.data.tokenizer import Tokenizer, check_bpe
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.memory import memory_of_machine
from gpt_numpy.workshop.params import parameter_count
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.report.claims import MAX_TOKENS, pair_counts
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State, saved_in, versions
from gpt_numpy.workshop.runs.run_dir import RUNS, Onlooker, Run, find_run, new_run
from gpt_numpy.workshop.train.trainer import Training

BPE_SIZE = 1024  # tokens that BPE learns if --vocab-size does not say


def begin(program: Program, given: Given, console: Console) -> Training:
    """A run from the start, as the preset and the flags say."""
    options = program.options_from(given)  # what is wrong with a flag is said before any work
    name = given.get("preset", program.preset(options))
    recipe = changed(PRESETS[name].recipe, chosen(Recipe, given))
    config = changed(PRESETS[name].model, chosen(GPTConfig, given))
    if recipe.tokenizer == "bpe":
        check_bpe(given.get("vocab_size", BPE_SIZE))
    run = new_run(given.get("out"), name) if program.processes.first else Onlooker(Path(given.get("out", RUNS)))
    try:
        return _begin(program, given, console, run, config, recipe)
    except BaseException:
        run.give_up()
        raise


def _begin(program: Program, given: Given, console: Console, run: Run, config: GPTConfig, recipe: Recipe) -> Training:
    with program.processes.one_ahead():
        corpus = find_corpus(given.get("data"), console)
        stats = read_stats(corpus, console)
        tokenizer = train_tokenizer(recipe.tokenizer, given.get("vocab_size", BPE_SIZE), corpus, stats, console)
        data = encode_corpus(corpus, stats, tokenizer, console)
    if tokenizer.kind == "char" and given.get("vocab_size", tokenizer.vocab_size) != tokenizer.vocab_size:
        raise WrongUse(
            f"--vocab-size {given['vocab_size']}: the text has {tokenizer.vocab_size} different characters, and as "
            "many tokens; for another number, --tokenizer bpe"
        )
    config = replace(config, vocab_size=tokenizer.vocab_size)
    _check_length(data, config)
    _check_memory(config, recipe)
    program.processes.agree("flags or text", f"{config} {recipe} {stats.digest} {tokenizer.to_json()}")
    program.check(config, program.options_from(given), console)
    engine = program.engine(config, recipe.seed, given)
    state = State(
        config, recipe, corpus.data, stats.digest, threads=engine.threads, processes=program.processes.size,
        machine=_machine(program, given),
    )  # fmt: skip
    run.keep_only([])  # there may be some of a run that ended before it had saved anything
    run.begin(_description(program, run, state, tokenizer, data, engine))
    console.say(_about(data, tokenizer))
    return Training(engine, tokenizer, data, state, run, console, program.processes)


def resume(program: Program, given: Given, console: Console) -> Training:
    """A run that goes on from its newest whole checkpoint as if it had never stopped. Flags change its recipe."""
    if "preset" in given:
        raise WrongUse("--preset is for a run that begins; one that is resumed has its recipe")
    run = find_run(given.get("out", "latest"))
    run = run if program.processes.first else Onlooker(run.folder)
    run.hold()
    try:
        return _resume(program, given, console, run)
    except BaseException:
        run.release()
        raise


def _resume(program: Program, given: Given, console: Console, run: Run) -> Training:
    checkpoint = run.newest_whole(console)
    is_latest = checkpoint.folder == saved_in(run.latest)
    state, tokenizer = checkpoint.state, checkpoint.tokenizer
    for name, value in chosen(GPTConfig, given).items():
        if name != "dropout" and value != getattr(state.config, name):
            raise WrongUse(f"{run.folder} is a model with {name} {getattr(state.config, name)}, which cannot change")
    if given.get("tokenizer", tokenizer.kind) != tokenizer.kind:
        raise WrongUse(f"{run.folder} is a model with a {tokenizer.kind} tokenizer, which cannot change")
    if given.get("optimizer", state.recipe.optimizer) != state.recipe.optimizer:
        raise WrongUse(f"{run.folder} is trained by {state.recipe.optimizer}, which cannot change")
    recipe = changed(state.recipe, chosen(Recipe, given))
    state = replace(state, recipe=recipe, config=changed(state.config, chosen(GPTConfig, given)))
    _check_memory(state.config, recipe)
    known = run.known_to(state)
    ended = any(record["kind"] == "end" for record in run.records())
    if ended and state.step >= recipe.steps and state.judged == state.step:
        raise WrongUse(f"{run.folder} has done its {recipe.steps} steps; to go on, --steps {2 * recipe.steps}")
    with program.processes.one_ahead():
        data = text_of(checkpoint, given.get("data"), console)
    kept = f"{tokenizer.to_json()} {state.step} {checkpoint.digest} {len(known)}"
    program.processes.agree("flags, text or the run's folder", f"{state.config} {recipe} {data.stats.digest} {kept}")
    given = {**chosen(program.options, dict(state.machine)), **given}
    program.check(state.config, program.options_from(given), console)
    if state.processes == program.processes.size:
        given = {"threads": state.threads, **given}  # as many as before, so that it goes on bit for bit
    engine = load_engine(program, replace(checkpoint, state=state), given)
    state = replace(
        state, data=data.data, digest=data.stats.digest, threads=engine.threads, processes=program.processes.size,
        machine={**state.machine, **_machine(program, given)},
    )  # fmt: skip
    run.keep_only(known)
    run.begin(_description(program, run, state, tokenizer, data, engine))
    console.say(_about(data, tokenizer))
    console.say(f"going on after step {state.step} of {recipe.steps}")
    return Training(engine, tokenizer, data, state, run, console, program.processes, known, is_latest)


def _machine(program: Program, given: Given) -> Given:
    """What the engine was asked for that decides its numbers. The device, and who shares the work, may change."""
    return {name: value for name, value in chosen(program.options, given).items() if name not in program.may_change}


def load_engine(program: Program, checkpoint: Checkpoint, given: Given) -> Engine:
    """An engine with the weights of a checkpoint, and what its optimizer remembers where that was read."""
    state = checkpoint.state
    engine = program.engine(state.config, state.recipe.seed, given)
    engine.load(checkpoint.weights, checkpoint.optimizer_state, state.step)
    return engine


def text_of(checkpoint: Checkpoint, data: str | None, console: Console, another: bool = False) -> Dataset:
    """The text that a checkpoint was trained on, from where it was or from --data; `another` allows for other texts."""
    known = checkpoint.state
    if not (data or known.data):
        raise WrongUse(f"{checkpoint.folder} came without a text; give one by --data")
    corpus = find_corpus(data or known.data, console)
    stats = read_stats(corpus, console)
    if known.digest not in (stats.digest, "") and not (another and data):
        raise WrongUse(f"{corpus.name} is not the text that {checkpoint.folder} was trained on; give that by --data")
    found = encode_corpus(corpus, stats, checkpoint.tokenizer, console)
    _check_length(found, known.config)
    return found


def _check_length(data: Dataset, config: GPTConfig) -> None:
    if len(data.train) <= config.block_size or len(data.validation) < 2:
        raise WrongUse(
            f"{data.name} is too short: {len(data.train)} tokens to train on, {len(data.validation)} to judge by. A "
            f"window takes {config.block_size + 1}, judging 2; give more text or a smaller --block-size"
        )


def _check_memory(config: GPTConfig, recipe: Recipe) -> None:
    """Refuse what can never fit: on any device the weights are here once as they are drawn, once as the model's."""
    there = memory_of_machine() or math.inf
    for what, number, needed in (
        ("a model of {:,} parameters", parameter_count(config), 2 * 4 * parameter_count(config)),
        ("a batch of {:,} sequences", recipe.batch_size, 2 * 8 * recipe.batch_size * (config.block_size + 1)),
    ):
        if needed > there:
            raise WrongUse(
                f"{what.format(number)} takes {needed / 1e9:,.0f} GB and more; this machine has {there / 1e9:,.0f} GB"
            )


def _about(data: Dataset, tokenizer: Tokenizer) -> str:
    stats = data.stats
    told = [f"text: {data.name}", f"{stats.characters:,} characters", f"{len(stats.alphabet)} different"]
    if tokenizer.kind != "char":
        told.append(f"in {len(data.train) + len(data.validation):,} tokens, {tokenizer.vocab_size:,} different")
    else:
        size = tokenizer.vocab_size
        told.append(f"{len(pair_counts(data.tokens(MAX_TOKENS), size)):,} of {size**2:,} pairs of characters occur")
    return ", ".join(told)


def _description(
    program: Program, run: Run, state: State, tokenizer: Tokenizer, data: Dataset, engine: Engine
) -> dict[str, Any]:
    """config.json: what the run is, for people and for its report."""
    text = {"name": data.name, "characters": data.stats.characters, "digest": state.digest, "floor": data.floor}
    return {
        "command": program.name,
        "engine": engine.describe(),
        "name": run.folder.resolve().name,
        "started": f"{datetime.now():%Y-%m-%dT%H:%M:%S}",
        "corpus": text,
        "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size},
        "characters_per_token": data.characters_per_token,
        "parameters": parameter_count(state.config),
        "threads": state.threads,
        "model": asdict(state.config),
        "recipe": asdict(state.recipe),
        "versions": versions(),
    }
