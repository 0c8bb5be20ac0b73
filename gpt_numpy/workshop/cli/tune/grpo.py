"""tune grpo: a model learns from a reward of what it writes."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.flags import Parser, add_data_flag, add_fields, build, pick
from gpt_numpy.workshop.cli.generate import add_checkpoint_flags, load_engine
from gpt_numpy.workshop.cli.run import REFERENCE, Material, add_run_flags, saved_settings, tune_run
from gpt_numpy.workshop.cli.train import add_engine_flags, dataset_of
from gpt_numpy.workshop.cli.tune.sft import FIELDS
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, load_checkpoint
from gpt_numpy.workshop.tune.grpo import GRPO, GRPOSettings
from gpt_numpy.workshop.tune.rewards import find_reward
from gpt_numpy.workshop.tune.rollouts import prompts_of

RECIPE = Recipe(
    steps=100, batch_size=256, order="epochs", lr=1e-4, schedule="linear", final_lr=1.0, warmup=0, beta2=0.99,
    weight_decay=0.0, grad_clip=1.0, eval_every=25, checkpoint_every=25,
)  # fmt: skip


def grpo(cli: EngineCLI, arguments: Sequence[str]) -> int:
    about = (
        "Let a model answer prompts, and make the answers with the higher rewards of each group likelier. A new run is "
        "made; the old one stays as it is."
    )
    parser = Parser(f"{cli.name} tune grpo", about)
    add_checkpoint_flags(parser)
    group = parser.add_argument_group("the new run")
    add_data_flag(group, "the text of the model, if that is no longer where it was")
    add_run_flags(group)
    add_fields(parser, "the answers and their reward", GRPOSettings)
    add_engine_flags(parser, cli)
    add_fields(parser, "the training", Recipe, {"": RECIPE}, only=FIELDS - {"target_loss"})
    flags = parser.flags(arguments)
    one_process(cli, "grpo")
    begins = not flags.get("resume")
    if begins and "reward" not in flags:
        raise WrongUse(f"--reward is missing; see {cli.name} tune grpo --help")

    def learn(checkpoint: Checkpoint, recipe: Recipe, config: GPTConfig, options: Any) -> Material:
        state = checkpoint.state
        saved = {} if begins else saved_settings(GRPOSettings, checkpoint)
        settings = build(GRPOSettings, {**saved, **pick(GRPOSettings, flags)}).resolved()
        if not begins and "reward" not in flags and ".py:" in settings.reward:
            raise WrongUse(f"--reward {settings.reward} is in a file, which is run only if you name it again")
        base = checkpoint if begins else load_checkpoint(checkpoint.folder.parents[1] / REFERENCE)
        data = dataset_of(checkpoint, flags.get("data"), Console())
        prompts = prompts_of(settings, data, checkpoint.tokenizer, config.block_size)
        if not begins and prompts.digest != state.tuned_on_digest:
            raise WrongUse(f"{settings.prompts} has other prompts than those that {checkpoint.folder} began with")
        reference = load_engine(cli, base, options)
        task = GRPO(settings, find_reward(settings.reward), prompts, data, checkpoint.tokenizer, recipe, reference)
        about = (
            f"prompts: {prompts.about}, {len(prompts.training):,} to train on, {len(prompts.validation):,} for "
            f"validation\nreward: {settings.reward}, of {settings.group} answers to each prompt"
        )
        corpus = {"name": prompts.about, "characters": data.stats.characters, "digest": data.stats.digest}
        in_state = {
            "data": data.data, "digest": data.stats.digest, "tuned_on": settings.prompts,
            "tuned_on_digest": prompts.digest, "tuning": asdict(settings),
        }  # fmt: skip
        same = f"{settings} {prompts.digest}"
        return Material(task, about, corpus, same, in_state, measure="reward", reference=base)

    return tune_run(cli, flags, "grpo", RECIPE, learn, dropout=0.0)


def one_process(cli: EngineCLI, method: str) -> None:
    if cli.processes.size > 1:
        raise WrongUse(f"tune {method} draws answers in one process; start it without torchrun")
