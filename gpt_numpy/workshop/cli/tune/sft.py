"""tune sft: fine-tuning of a trained model on answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.flags import Parser, add_fields
from gpt_numpy.workshop.cli.generate import add_checkpoint_flags
from gpt_numpy.workshop.cli.run import Material, add_run_flags, tune_run
from gpt_numpy.workshop.cli.train import add_engine_flags
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint
from gpt_numpy.workshop.tune.jsonl import read_pairs
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
    begins = not flags.get("resume")
    if begins and "data" not in flags:
        raise WrongUse(f"--data is missing: a file of pairs; see {cli.name} tune sft --help")

    def learn(checkpoint: Checkpoint, recipe: Recipe, config: GPTConfig, options: Any) -> Material:
        path = flags["data"] if begins else flags.get("data", checkpoint.state.tuned_on)
        material = material_of_pairs(Path(path), checkpoint, recipe)
        if not begins and material.digest != checkpoint.state.tuned_on_digest:
            raise WrongUse(f"{path} is not the file that {checkpoint.folder} was tuned on; give that by --data")
        return material

    return tune_run(cli, flags, "sft", RECIPE, learn)


def material_of_pairs(path: Path, checkpoint: Checkpoint, recipe: Recipe) -> Material:
    pairs = read_pairs(path, checkpoint.tokenizer, checkpoint.state.config.block_size)
    task = FineTuning(pairs, recipe, checkpoint.tokenizer)
    parts = f"{len(task.training):,} to train on, {len(task.validation):,} for validation"
    about = f"pairs: {path.name}, {parts}, of {task.length + 1} tokens at most"
    characters = sum(pair.characters for pair in pairs.items)
    corpus = {"name": path.name, "characters": characters, "digest": pairs.digest, "floor": None}
    in_state = {"tuned_on": str(path.resolve()), "tuned_on_digest": pairs.digest}
    return Material(task, about, corpus, pairs.digest, in_state)
