"""tune sft: fine-tuning of a trained model on answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.flags import Flags, Parser, add_fields, override, pick
from gpt_numpy.workshop.cli.generate import add_checkpoint_flags
from gpt_numpy.workshop.cli.run import (
    Material,
    RunSpec,
    add_run_flags,
    check_memory,
    resumed_run,
    saved_options,
    train_run,
)
from gpt_numpy.workshop.cli.train import add_engine_flags
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint
from gpt_numpy.workshop.runs.run_dir import RUNS, RunDir, find_run_dir, new_run_dir
from gpt_numpy.workshop.train.budget import TimeBudget, process_start
from gpt_numpy.workshop.tune.pairs import read_pairs
from gpt_numpy.workshop.tune.sft import FineTuning

RECIPE = Recipe(
    steps=200, batch_size=16, order="epochs", lr=3e-4, schedule="linear", warmup=10, beta2=0.99, weight_decay=0.0,
    grad_clip=1.0, eval_every=50, checkpoint_every=50,
)  # fmt: skip
FIELDS = {field for field in vars(RECIPE) if field not in ("tokenizer", "order")}


def sft(cli: EngineCLI, arguments: Sequence[str]) -> int:
    about = "Fine-tune a model on pairs of a prompt and an answer. A new run is made; the old one stays as it is."
    parser = Parser(f"{cli.name} tune sft", about)
    add_checkpoint_flags(parser)
    group = parser.add_argument_group("the new run")
    help = 'pairs, one a line: {"prompt": "...", "answer": "..."}; the last tenth is for validation'
    group.add_argument("--data", metavar="FILE", help=help)
    add_run_flags(group)
    add_engine_flags(parser, cli)
    add_fields(parser, "the training", Recipe, {"": RECIPE}, only=FIELDS)
    add_fields(parser, "the model", GPTConfig, only={"dropout"})
    flags = parser.flags(arguments)
    console, budget = Console(), TimeBudget(process_start())
    if not flags.get("resume"):
        return train_run(cli, tuned_run(cli, flags, console), flags, console, budget)

    def learn(checkpoint: Checkpoint, recipe: Recipe, config: GPTConfig, options: Any) -> Material:
        path = flags.get("data", checkpoint.state.tuned_on)
        material = material_of_pairs(Path(path), checkpoint, recipe)
        if material.digest != checkpoint.state.tuned_on_digest:
            raise WrongUse(f"{path} is not the file that {checkpoint.folder} was tuned on; give that by --data")
        return material

    return train_run(cli, resumed_run(cli, flags, console, "sft", learn), flags, console, budget)


def tuned_run(cli: EngineCLI, flags: Flags, console: Console) -> RunSpec:
    if "data" not in flags:
        raise WrongUse(f"--data is missing: a file of pairs; see {cli.name} tune sft --help")
    options = cli.parse_options(flags)
    base = find_run_dir(flags["run"]).checkpoint(flags["checkpoint"])
    recipe = override(replace(RECIPE, tokenizer=base.state.recipe.tokenizer), pick(Recipe, flags))
    config = override(base.state.config, pick(GPTConfig, flags))
    check_memory(config, recipe)
    material = material_of_pairs(Path(flags["data"]), base, recipe)
    what = f"{config} {recipe} {material.digest} {base.tokenizer.to_json()} {base.digest}"
    cli.processes.check_agreement("flags, pairs or the run's folder", what)
    run_dir = new_run_dir(flags.get("out"), "sft") if cli.processes.first else RunDir(Path(flags.get("out", RUNS)))
    state = replace(
        base.state, config=config, recipe=recipe, step=0, last_eval_step=-1, best_step=0, best_loss=None,
        evals_since_best=0, engine_options=saved_options(cli, flags), method="sft", **material.in_state,
    )  # fmt: skip
    console.say(f"from {base.folder}, step {base.state.step}")
    return RunSpec(run_dir, state, options, base.tokenizer, material, base=base)


def material_of_pairs(path: Path, checkpoint: Checkpoint, recipe: Recipe) -> Material:
    pairs = read_pairs(path, checkpoint.tokenizer, checkpoint.state.config.block_size)
    task = FineTuning(pairs, recipe, checkpoint.tokenizer)
    parts = f"{len(task.training):,} to train on, {len(task.validation):,} for validation"
    about = f"pairs: {path.name}, {parts}, of {task.length + 1} tokens at most"
    characters = sum(pair.characters for pair in pairs.pairs)
    corpus = {"name": path.name, "characters": characters, "digest": pairs.digest, "floor": None}
    in_state = {"tuned_on": str(path.resolve()), "tuned_on_digest": pairs.digest}
    return Material(task, about, corpus, pairs.digest, in_state)
