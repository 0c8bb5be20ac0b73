"""tune dpo: a model learns which of two answers is preferred."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.flags import Parser, add_fields, build, pick
from gpt_numpy.workshop.cli.generate import add_checkpoint_flags, load_engine
from gpt_numpy.workshop.cli.run import REFERENCE, Material, add_run_flags, saved_settings, tune_run
from gpt_numpy.workshop.cli.train import add_engine_flags, dataset_of
from gpt_numpy.workshop.cli.tune.grpo import one_process
from gpt_numpy.workshop.cli.tune.sft import FIELDS
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, load_checkpoint
from gpt_numpy.workshop.tune.dpo import DPO, DPOSettings, pairs_from_reward
from gpt_numpy.workshop.tune.jsonl import parse_preferences, read_preferences
from gpt_numpy.workshop.tune.rewards import find_reward
from gpt_numpy.workshop.tune.rollouts import prompts_of

PAIRS = "preferences.jsonl"  # in the run's folder, if they were made from a reward
RECIPE = Recipe(
    steps=200, batch_size=32, order="epochs", lr=1e-4, schedule="linear", warmup=10, beta2=0.99, weight_decay=0.0,
    grad_clip=1.0, eval_every=50, checkpoint_every=50,
)  # fmt: skip


def dpo(cli: EngineCLI, arguments: Sequence[str]) -> int:
    about = (
        "Train a model on pairs of answers, of which one is preferred: from a file, or the best and the worst of each "
        "group that it draws, by a reward. A new run is made; the old one stays as it is."
    )
    parser = Parser(f"{cli.name} tune dpo", about)
    add_checkpoint_flags(parser)
    group = parser.add_argument_group("the new run")
    help = 'pairs, one a line: {"prompt": "...", "chosen": "...", "rejected": "..."}; the last tenth is for validation'
    group.add_argument("--data", metavar="FILE", help=help)
    add_run_flags(group)
    only = set(vars(DPOSettings())) - {"eval_prompts"}
    add_fields(parser, "the preferences, and how they are made", DPOSettings, only=only)
    add_engine_flags(parser, cli)
    add_fields(parser, "the training", Recipe, {"": RECIPE}, only=FIELDS)
    flags = parser.flags(arguments)
    begins = not flags.get("resume")
    if begins and ("data" in flags) == ("reward" in flags):
        raise WrongUse(f"either --data, a file of pairs, or --reward is needed; see {cli.name} tune dpo --help")
    of_reward = sorted(set(pick(DPOSettings, flags)) - {"beta"})
    if of_reward and not (begins and "reward" in flags):
        name = of_reward[0].replace("_", "-")
        raise WrongUse(f"--{name} is for pairs that are made by --reward when a run begins")

    def learn(checkpoint: Checkpoint, recipe: Recipe, config: GPTConfig, options: Any) -> Material:
        state, tokenizer, size = checkpoint.state, checkpoint.tokenizer, config.block_size
        saved = {} if begins else saved_settings(DPOSettings, checkpoint)
        settings = build(DPOSettings, {**saved, **pick(DPOSettings, flags)}).resolved()
        run = checkpoint.folder.parents[1]
        base = checkpoint if begins else load_checkpoint(run / REFERENCE)
        reference, files = load_engine(cli, base, options), dict[str, str]()
        if begins and settings.reward:
            one_process(cli, "dpo --reward")
            place, files = PAIRS, {PAIRS: _drawn(settings, checkpoint, recipe, size, reference)}
            pairs = parse_preferences(Path(PAIRS), files[PAIRS].encode("utf-8"), tokenizer, size)
        else:
            place = str(Path(flags["data"]).resolve()) if "data" in flags else state.tuned_on
            pairs = read_preferences(run / PAIRS if place == PAIRS else Path(place), tokenizer, size)
        if not begins and pairs.digest != state.tuned_on_digest:
            raise WrongUse(f"{pairs.path} has other pairs than those that {checkpoint.folder} began with")
        task = DPO(pairs.items, pairs.path.name, settings.beta, tokenizer, recipe, reference)
        parts = f"{len(task.training):,} to train on, {len(task.validation):,} for validation"
        corpus = {"name": pairs.path.name, "digest": pairs.digest}
        in_state = {"tuned_on": place, "tuned_on_digest": pairs.digest, "tuning": asdict(settings)}
        about, same = f"preferences: {pairs.path.name}, {parts}", f"{settings} {pairs.digest}"
        return Material(task, about, corpus, same, in_state, files, "preferences", base)

    def _drawn(settings: DPOSettings, base: Checkpoint, recipe: Recipe, block_size: int, engine: Engine) -> str:
        console = Console()
        data = dataset_of(base, None, console)
        prompts = prompts_of(settings, data, base.tokenizer, block_size)
        reward = find_reward(settings.reward)
        return pairs_from_reward(settings, reward, prompts, engine, base.tokenizer, recipe.seed, console)

    return tune_run(cli, flags, "dpo", RECIPE, learn, dropout=0.0)
