"""The command tune: sft, grpo and dpo, which train the model of a run further; distill.py has the fourth method."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.distill import distill
from gpt_numpy.workshop.cli.engine_cli import EngineCLI, add_engine_flags
from gpt_numpy.workshop.cli.flags import Flags, Parser, add_data_flag, add_fields, override, pick
from gpt_numpy.workshop.cli.generate import add_checkpoint_flags, chosen_checkpoint, load_engine
from gpt_numpy.workshop.cli.run import (
    REFERENCE,
    MakeInputs,
    RunInputs,
    RunSpec,
    add_run_flags,
    check_memory,
    open_run_dir,
    saved_options,
    settings_of,
    train_run,
)
from gpt_numpy.workshop.cli.train import dataset_of
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State, load_checkpoint
from gpt_numpy.workshop.tune.dpo import DPO, DPOSettings, pairs_from_reward
from gpt_numpy.workshop.tune.grpo import GRPO, GRPOSettings
from gpt_numpy.workshop.tune.jsonl import PAIR, PREFERENCE, parse_lines, read_lines
from gpt_numpy.workshop.tune.rewards import find_reward
from gpt_numpy.workshop.tune.rollouts import prompts_of
from gpt_numpy.workshop.tune.sft import FineTuning

PAIRS = "preferences.jsonl"  # in the run's folder, if they were made from a reward
OF_SFT = Recipe(
    steps=200, batch_size=16, order="epochs", lr=3e-4, schedule="linear", warmup=10, beta2=0.99, weight_decay=0.0,
    grad_clip=1.0, eval_every=50, checkpoint_every=50,
)  # fmt: skip
OF_GRPO = replace(
    OF_SFT, steps=100, batch_size=256, lr=1e-4, final_lr=1.0, warmup=0, eval_every=25, checkpoint_every=25
)
OF_DPO = replace(OF_SFT, batch_size=32, lr=1e-4)
FIELDS = set(vars(OF_SFT)) - {"tokenizer", "order"}  # of a recipe, with a flag for each


def parser_of(cli: EngineCLI, method: str, about: str) -> tuple[Parser, Any]:
    """The parser of a method, and its group of flags for the new run."""
    parser = Parser(f"{cli.name} tune {method}", f"{about} A new run is made; the old one stays as it is.")
    add_checkpoint_flags(parser)
    return parser, parser.add_argument_group("the new run")


def tune_run(
    cli: EngineCLI, flags: Flags, method: str, defaults: Recipe, make_inputs: MakeInputs, dropout: float | None = None
) -> int:
    """Begin from the weights of --run, which stays as it is, perhaps with another dropout; or resume."""
    console = Console()

    def begin(stack: ExitStack) -> RunSpec:
        options = cli.parse_options(flags)
        base = chosen_checkpoint(flags)
        recipe = override(replace(defaults, tokenizer=base.state.recipe.tokenizer), pick(Recipe, flags))
        config = base.state.config if dropout is None else replace(base.state.config, dropout=dropout)
        config = override(config, pick(GPTConfig, flags))
        check_memory(config, recipe)
        run_dir = open_run_dir(cli, flags, method, stack)
        console.say(f"from {base.folder}, step {base.state.step}")
        inputs = make_inputs(base, recipe, config, options)
        state_fields = {"data": base.state.data, "digest": base.state.digest, **inputs.state_fields}
        state = State(config, recipe, method=method, **state_fields, engine_options=saved_options(cli, flags))
        return RunSpec(run_dir, state, options, inputs, base=base)

    return train_run(cli, flags, console, method, begin, make_inputs)


def sft(cli: EngineCLI, arguments: Sequence[str]) -> int:
    parser, group = parser_of(cli, "sft", "Fine-tune a model on pairs of a prompt and an answer.")
    help = 'pairs, one a line: {"prompt": "...", "answer": "..."}; the last tenth is for validation'
    group.add_argument("--data", metavar="FILE", help=help)
    add_run_flags(group)
    add_engine_flags(parser, cli)
    add_fields(parser, "the training", Recipe, {"": OF_SFT}, only=FIELDS)
    add_fields(parser, "the model", GPTConfig, only={"dropout"})
    flags = parser.flags(arguments)
    begins = not flags.get("resume")
    if begins and "data" not in flags:
        raise UsageError(f"--data is missing: a file of pairs; see {cli.name} tune sft --help")

    def make_inputs(checkpoint: Checkpoint, recipe: Recipe, config: GPTConfig, options: Any) -> RunInputs:
        path = Path(flags["data"] if begins else flags.get("data", checkpoint.state.tuned_on))
        pairs = read_lines(path, PAIR, checkpoint.tokenizer, config.block_size)
        task = FineTuning(pairs, recipe, checkpoint.tokenizer)
        parts = f"{len(task.training):,} to train on, {len(task.validation):,} for validation"
        about = f"pairs: {path.name}, {parts}, of {task.length + 1} tokens at most"
        characters = sum(pair.characters for pair in pairs.items)
        corpus = {"name": path.name, "characters": characters, "digest": pairs.digest, "floor": None}
        state_fields = {"tuned_on": str(path.resolve()), "tuned_on_digest": pairs.digest}
        return RunInputs(task, about, corpus, state_fields)

    return tune_run(cli, flags, "sft", OF_SFT, make_inputs)


def grpo(cli: EngineCLI, arguments: Sequence[str]) -> int:
    about = "Let a model answer prompts, and make the answers with the higher rewards of each group likelier."
    parser, group = parser_of(cli, "grpo", about)
    add_data_flag(group, "the text of the model, if that is no longer where it was")
    add_run_flags(group)
    add_fields(parser, "the answers and their reward", GRPOSettings)
    add_engine_flags(parser, cli)
    add_fields(parser, "the training", Recipe, {"": OF_GRPO}, only=FIELDS - {"target_loss"})
    flags = parser.flags(arguments)
    one_process(cli, "grpo")
    begins = not flags.get("resume")
    if begins and "reward" not in flags:
        raise UsageError(f"--reward is missing; see {cli.name} tune grpo --help")

    def make_inputs(checkpoint: Checkpoint, recipe: Recipe, config: GPTConfig, options: Any) -> RunInputs:
        settings = settings_of(GRPOSettings, flags, checkpoint).resolved()
        if not begins and "reward" not in flags and ".py:" in settings.reward:
            raise UsageError(f"--reward {settings.reward} is in a file, which is run only if you name it again")
        base = checkpoint if begins else load_checkpoint(checkpoint.folder.parents[1] / REFERENCE)
        data = dataset_of(checkpoint, flags.get("data"), Console())
        prompts = prompts_of(settings, data, checkpoint.tokenizer, config.block_size)
        reference = load_engine(cli, base, options)
        task = GRPO(settings, find_reward(settings.reward), prompts, data, checkpoint.tokenizer, recipe, reference)
        about = (
            f"prompts: {prompts.about}, {len(prompts.training):,} to train on, {len(prompts.validation):,} for "
            f"validation\nreward: {settings.reward}, of {settings.group} answers to each prompt"
        )
        corpus = {"name": prompts.about, "characters": data.stats.characters, "digest": data.stats.digest}
        state_fields = {
            "data": data.data, "digest": data.stats.digest, "tuned_on": settings.prompts,
            "tuned_on_digest": prompts.digest, "tuning": asdict(settings),
        }  # fmt: skip
        return RunInputs(task, about, corpus, state_fields, measure="reward", reference=base)

    return tune_run(cli, flags, "grpo", OF_GRPO, make_inputs, dropout=0.0)


def one_process(cli: EngineCLI, method: str) -> None:
    if cli.processes.size > 1:
        raise UsageError(f"tune {method} draws answers in one process; start it without torchrun")


def dpo(cli: EngineCLI, arguments: Sequence[str]) -> int:
    about = (
        "Train a model on pairs of answers, of which one is preferred: from a file, or the best and the worst of each "
        "group that it draws, by a reward."
    )
    parser, group = parser_of(cli, "dpo", about)
    help = 'pairs, one a line: {"prompt": "...", "chosen": "...", "rejected": "..."}; the last tenth is for validation'
    group.add_argument("--data", metavar="FILE", help=help)
    add_run_flags(group)
    only = set(vars(DPOSettings())) - {"eval_prompts"}
    add_fields(parser, "the preferences, and how they are made", DPOSettings, only=only)
    add_engine_flags(parser, cli)
    add_fields(parser, "the training", Recipe, {"": OF_DPO}, only=FIELDS)
    flags = parser.flags(arguments)
    begins = not flags.get("resume")
    if begins and ("data" in flags) == ("reward" in flags):
        raise UsageError(f"either --data, a file of pairs, or --reward is needed; see {cli.name} tune dpo --help")
    of_reward = sorted(set(pick(DPOSettings, flags)) - {"beta"})
    if of_reward and not (begins and "reward" in flags):
        name = of_reward[0].replace("_", "-")
        raise UsageError(f"--{name} is for pairs that are made by --reward when a run begins")

    def make_inputs(checkpoint: Checkpoint, recipe: Recipe, config: GPTConfig, options: Any) -> RunInputs:
        state, tokenizer, size = checkpoint.state, checkpoint.tokenizer, config.block_size
        settings = settings_of(DPOSettings, flags, checkpoint).resolved()
        run = checkpoint.folder.parents[1]
        base = checkpoint if begins else load_checkpoint(run / REFERENCE)
        reference, files = load_engine(cli, base, options), dict[str, str]()
        if begins and settings.reward:
            one_process(cli, "dpo --reward")
            console = Console()
            prompts = prompts_of(settings, dataset_of(base, None, console), tokenizer, size)
            reward = find_reward(settings.reward)
            drawn = pairs_from_reward(settings, reward, prompts, reference, tokenizer, recipe.seed, console)
            pairs = parse_lines(Path(PAIRS), drawn.encode("utf-8"), PREFERENCE, tokenizer, size)
            place, files = PAIRS, {PAIRS: drawn}
        else:
            place = str(Path(flags["data"]).resolve()) if "data" in flags else state.tuned_on
            pairs = read_lines(run / PAIRS if place == PAIRS else Path(place), PREFERENCE, tokenizer, size)
        task = DPO(pairs, recipe, tokenizer, settings.beta, reference)
        parts = f"{len(task.training):,} to train on, {len(task.validation):,} for validation"
        corpus = {"name": pairs.path.name, "digest": pairs.digest}
        state_fields = {"tuned_on": place, "tuned_on_digest": pairs.digest, "tuning": asdict(settings)}
        about = f"preferences: {pairs.path.name}, {parts}"
        return RunInputs(task, about, corpus, state_fields, files, "preferences", base)

    return tune_run(cli, flags, "dpo", OF_DPO, make_inputs, dropout=0.0)


METHODS = {
    "sft": (sft, "fine-tuning on answers: the loss is that of the answers alone"),
    "grpo": (grpo, "policy gradient: what the model writes is rewarded, and the better answers become likelier"),
    "dpo": (dpo, "preferences: of two answers to a prompt, one becomes likelier than the other"),
    "distill": (distill, "distillation: a student learns its teachers' predictions"),
}


def tune(cli: EngineCLI, arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {cli.name} tune {name:<7} --help   {does}" for name, (_, does) in METHODS.items()]
        print("\n".join([f"usage: {cli.name} tune METHOD [flags]", "", *lines]))
        return 0
    if arguments[0] not in METHODS:
        raise UsageError(f"{arguments[0]!r} is not one of {', '.join(METHODS)}; see {cli.name} tune --help")
    method, _ = METHODS[arguments[0]]
    return method(cli, arguments[1:])
