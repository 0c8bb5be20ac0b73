"""tune distill: a new model that learns from trained ones."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.engine_cli import EngineCLI, add_engine_flags
from gpt_numpy.workshop.cli.flags import Flags, Parser, add_data_flag, add_fields, build, override, pick
from gpt_numpy.workshop.cli.generate import add_which_checkpoint, checkpoints_digest, chosen_checkpoint, load_engines
from gpt_numpy.workshop.cli.run import (
    RunInputs,
    RunSpec,
    add_run_flags,
    check_memory,
    open_run_dir,
    saved_options,
    settings_of,
    train_run,
)
from gpt_numpy.workshop.cli.train import dataset_of, text_inputs
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data.dataset import Dataset
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State, load_checkpoint
from gpt_numpy.workshop.train.ensemble import Ensemble
from gpt_numpy.workshop.tune.distill import Distillation, DistillSettings


def distill(cli: EngineCLI, arguments: Sequence[str]) -> int:
    about = "Train a new model, the student, on the predictions of trained ones: the mean of their probabilities."
    parser = Parser(f"{cli.name} tune distill", about)
    group = parser.add_argument_group("the teachers")
    group.add_argument("--teacher", metavar="FOLDER", action="append", help="a run's folder; once for each teacher")
    add_which_checkpoint(group)
    add_fields(parser, "what they teach", DistillSettings)
    group = parser.add_argument_group("the student")
    default_preset = cli.default_preset(cli.options())
    presets = ", ".join(PRESETS)
    group.add_argument(
        "--preset", choices=PRESETS, help=f"defaults: {presets} (default {default_preset}); see train --help"
    )
    add_data_flag(group, "its text, if that is no longer where the first teacher found it")
    add_run_flags(group)
    add_engine_flags(parser, cli)
    recipes = {name: preset.recipe for name, preset in PRESETS.items()}
    add_fields(parser, "the training", Recipe, recipes, only=set(vars(Recipe())) - {"tokenizer"})
    models = {name: preset.model for name, preset in PRESETS.items()}
    add_fields(parser, "the model", GPTConfig, models, only=set(vars(GPTConfig())) - {"vocab_size"})
    flags = parser.flags(arguments)
    console = Console()

    def make_inputs(checkpoint: Checkpoint, recipe: Recipe, config: GPTConfig, options: Any) -> RunInputs:
        folders = checkpoint.state.tuned_on.split("\n")
        teachers = teachers_of(flags) if "teacher" in flags else [load_checkpoint(Path(folder)) for folder in folders]
        with cli.processes.local_first():
            data = dataset_of(checkpoint, flags.get("data"), console)
        settings = settings_of(DistillSettings, flags, checkpoint)
        return teacher_inputs(cli, teachers, settings, data, recipe, config, options)

    return train_run(cli, flags, console, "distill", lambda stack: student_run(cli, flags, console, stack), make_inputs)


def student_run(cli: EngineCLI, flags: Flags, console: Console, stack: ExitStack) -> RunSpec:
    if "teacher" not in flags:
        raise UsageError(f"--teacher is missing: the folder of a run; see {cli.name} tune distill --help")
    options, settings = cli.parse_options(flags), build(DistillSettings, pick(DistillSettings, flags))
    preset = PRESETS[flags.get("preset", cli.default_preset(options))]
    teachers = teachers_of(flags)
    first = teachers[0]
    recipe = override(replace(preset.recipe, tokenizer=first.state.recipe.tokenizer), pick(Recipe, flags))
    config = override(replace(preset.model, vocab_size=first.state.config.vocab_size), pick(GPTConfig, flags))
    check_memory(config, recipe)
    run_dir = open_run_dir(cli, flags, "distill", stack)
    with cli.processes.local_first():
        data = dataset_of(first, flags.get("data"), console)
    inputs = teacher_inputs(cli, teachers, settings, data, recipe, config, options)
    state = State(config, recipe, method="distill", **inputs.state_fields, engine_options=saved_options(cli, flags))
    return RunSpec(run_dir, state, options, inputs)


def teachers_of(flags: Flags) -> list[Checkpoint]:
    return [chosen_checkpoint(flags, name) for name in flags["teacher"]]


def teacher_inputs(
    cli: EngineCLI, teachers: Sequence[Checkpoint], settings: DistillSettings, data: Dataset, recipe: Recipe,
    config: GPTConfig, options: Any,
) -> RunInputs:  # fmt: skip
    ensemble = Ensemble(load_engines(cli, teachers, options))
    if config.block_size > ensemble.config.block_size:
        raise UsageError(f"--block-size {config.block_size}: the teachers read {ensemble.config.block_size} tokens")
    tokenizer = teachers[0].tokenizer
    text = text_inputs(data, tokenizer, recipe, config)
    task = Distillation(data, tokenizer, recipe, config.block_size, ensemble, settings.temperature)
    about = [text.about, *(f"teacher: {teacher.folder}, step {teacher.state.step}" for teacher in teachers)]
    state_fields = {
        **text.state_fields, "tuned_on_digest": checkpoints_digest(teachers), "tuning": asdict(settings),
        "tuned_on": "\n".join(str(teacher.folder.resolve()) for teacher in teachers),
    }  # fmt: skip
    return replace(text, task=task, about="\n".join(about), state_fields=state_fields)
