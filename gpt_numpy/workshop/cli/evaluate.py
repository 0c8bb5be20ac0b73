"""The commands eval and claims: the loss of a trained model, and how it compares with the workshop's claims."""

from collections.abc import Sequence

import numpy as np

from gpt_numpy.workshop.cli.engine_cli import EngineCLI, add_engine_flags
from gpt_numpy.workshop.cli.flags import Parser, add_data_flag, add_fields, build, pick
from gpt_numpy.workshop.cli.generate import add_checkpoint_flags, checkpoints_digest, chosen_checkpoint, load_engines
from gpt_numpy.workshop.cli.train import dataset_of
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data.corpus import SHA256
from gpt_numpy.workshop.data.dataset import Dataset
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.report.claims import Evidence, claims, samples, table
from gpt_numpy.workshop.rng import EVALUATIONS
from gpt_numpy.workshop.runs.checkpoint import Checkpoint
from gpt_numpy.workshop.runs.run_dir import find_run_dir
from gpt_numpy.workshop.train.ensemble import Ensemble
from gpt_numpy.workshop.train.evaluate import bits, evaluate, perplexity
from gpt_numpy.workshop.train.phases import phase_of
from gpt_numpy.workshop.tune.rewards import Reward, find_reward
from gpt_numpy.workshop.tune.rollouts import (
    ROWS,
    Answers,
    RolloutSettings,
    draw_answers,
    known_words,
    prompts_of,
    rewards_of,
    sampled,
    share_of_words,
)


def evaluate_run(cli: EngineCLI, arguments: Sequence[str]) -> int:
    parser = Parser(f"{cli.name} eval", "How good a trained model is, over the whole validation part of its text.")
    add_checkpoint_flags(parser)
    help = "several runs: the mean of their probabilities"
    parser.add_argument("--ensemble", metavar="FOLDER", nargs="+", action="extend", help=help)
    add_data_flag(parser, "evaluate on the validation part of another text")
    add_fields(parser, "the reward of what it writes, with --reward", RolloutSettings, {"": RolloutSettings(group=8)})
    add_engine_flags(parser, cli)
    flags = parser.flags(arguments)

    console = Console()
    settings = build(RolloutSettings, {"group": 8, **pick(RolloutSettings, flags)}) if "reward" in flags else None
    reward = find_reward(settings.reward) if settings else None
    if not settings and (given := pick(RolloutSettings, flags)):
        raise UsageError(f"--{next(iter(given)).replace('_', '-')} goes with --reward")
    if settings and ("ensemble" in flags or cli.processes.size > 1):
        raise UsageError("--reward is for one model in one process")
    if "ensemble" in flags and "run" in flags:
        raise UsageError("--ensemble names all of its runs; leave out --run")
    checkpoints = [chosen_checkpoint(flags, name) for name in flags.get("ensemble", [None])]
    checkpoint, engines = checkpoints[0], load_engines(cli, checkpoints, cli.parse_options(flags))
    model = Ensemble(engines) if "ensemble" in flags else engines[0]
    with cli.processes.local_first():
        data = dataset_of(checkpoint, flags.get("data"), console, may_differ=True)
    cli.processes.check_agreement(
        "flags, files or the run's folder", f"{data.stats.digest} {checkpoints_digest(checkpoints)}"
    )
    with console.bar("evaluating", 1.0) as bar:
        for progress in evaluate(model, data.validation):
            bar.at(progress.done)
    loss = float(progress.loss)
    per_character = loss / data.characters_per_token
    for one in checkpoints[:-1]:
        console.say(f"{one.folder}, step {one.state.step}, and")
    last = checkpoints[-1]
    console.say(f"{last.folder}, step {last.state.step}, on {len(data.validation):,} tokens of {data.name}")
    meaning = phase_of(per_character, at_start=all(one.state.step == 0 for one in checkpoints))
    console.say(f"validation loss       {loss:.4f}    {meaning}")
    if data.floor is not None:
        unit = " per character" if data.characters_per_token != 1.0 else ""
        console.say(f"least possible        {data.floor:.4f}{unit}")
    console.say(f"perplexity            {perplexity(loss):.3f}")
    console.say(f"bits per character    {bits(per_character):.3f}")
    if settings and reward:
        _show_reward(engines[0], checkpoint, data, settings, reward, console)
    return 0


def _show_reward(
    engine: Engine, checkpoint: Checkpoint, data: Dataset, settings: RolloutSettings, reward: Reward, console: Console
) -> None:
    tokenizer, group = checkpoint.tokenizer, settings.group
    prompts = prompts_of(settings, data, tokenizer, checkpoint.state.config.block_size)
    some = sampled([*prompts.training, *prompts.validation] if settings.prompts else prompts.validation, settings)
    random, greedy = list[Answers](), list[Answers]()
    at_once = max(1, ROWS // group)
    with console.bar("answering prompts", len(some)) as bar:
        for first in range(0, len(some), at_once):
            part = some[first : first + at_once]
            end, length = settings.end, settings.answer_length
            each = [prompt for prompt in part for _ in range(group)]
            random.append(draw_answers(engine, each, tokenizer, end, length, (0, first, EVALUATIONS)))
            greedy.append(draw_answers(engine, part, tokenizer, end, length, 0, greedy=True))
            bar.at(first + len(part))
    rewards = np.concatenate([rewards_of(answers, reward) for answers in random]).reshape(-1, group)
    likeliest = np.concatenate([rewards_of(answers, reward) for answers in greedy])
    words = share_of_words([text for answers in random for text in answers.texts], known_words(data, tokenizer))
    lengths = np.concatenate([answers.lengths for answers in random])
    console.say(f"\nreward {settings.reward}, {group} answers to each of {len(some):,} prompts of {prompts.about}")
    console.say(f"mean                  {rewards.mean():.3f}     (of a reward that is 0 or 1, the accuracy)")
    console.say(f"best of {group:<3}           {rewards.max(1).mean():.3f}")
    console.say(f"likeliest answer      {likeliest.mean():.3f}")
    console.say(f"tokens of an answer   {lengths.mean():.1f}")
    if words is not None:
        console.say(f"words of the text     {words:.3f}")


def check_claims(cli: EngineCLI, arguments: Sequence[str]) -> int:
    parser = Parser(f"{cli.name} claims", "Compare what the workshop says of such a model with a run and its text.")
    parser.add_argument("--run", metavar="FOLDER", default="latest", help="a run's folder (default latest, the newest)")
    add_data_flag(parser, "its text, if that is no longer where it was")
    flags = parser.flags(arguments)
    console = Console()
    run_dir = find_run_dir(flags.get("run", "latest"))
    checkpoint = run_dir.checkpoint("latest")
    if checkpoint.state.method not in ("", "distill"):
        raise UsageError(f"{run_dir.folder} is a run of tune {checkpoint.state.method}; the claims are about train")
    data = dataset_of(checkpoint, flags.get("data"), console)
    evidence = Evidence(checkpoint.state, checkpoint.tokenizer, data, list(run_dir.records()))
    console.say(f"{run_dir.folder}, step {checkpoint.state.step:,}, on {data.name}")
    if data.stats.digest != SHA256:
        console.say("the claims about the text are about tiny Shakespeare; this is another one", "yellow")
    console.table(table(list(claims(evidence))))
    for loss, evaluation in samples(evidence):
        console.say(f"\nabout {loss}: {evaluation['val_loss']:.3f} in validation, step {evaluation['step']:,}", "bold")
        for line in evaluation["sample"].strip("\n").splitlines():
            console.say(f"    {line}", "dim")
    return 0
