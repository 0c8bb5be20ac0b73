"""The command tune: fine-tuning of a trained model, and distillation into a new one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.flags import Flags, Parser, add_data_flag, add_fields, override, pick
from gpt_numpy.workshop.cli.generate import add_checkpoint_flags, add_which_checkpoint, checkpoints_digest, load_engines
from gpt_numpy.workshop.cli.run import Material, RunSpec, check_memory, resumed_run, saved_options, train_run
from gpt_numpy.workshop.cli.train import add_engine_flags, dataset_of
from gpt_numpy.workshop.cli.train import material_of as text_material
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data.dataset import Dataset
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State
from gpt_numpy.workshop.runs.run_dir import RUNS, RunDir, find_run_dir, new_run_dir
from gpt_numpy.workshop.train.budget import TimeBudget, process_start
from gpt_numpy.workshop.train.ensemble import Ensemble
from gpt_numpy.workshop.train.loggers import LOGGERS
from gpt_numpy.workshop.tune.distill import Distillation
from gpt_numpy.workshop.tune.pairs import read_pairs
from gpt_numpy.workshop.tune.sft import FineTuning

RECIPE = Recipe(
    steps=200, batch_size=16, order="epochs", lr=3e-4, schedule="linear", warmup=10, beta2=0.99, weight_decay=0.0,
    grad_clip=1.0, eval_every=50, checkpoint_every=50,
)  # fmt: skip
FIELDS = {field for field in vars(RECIPE) if field not in ("tokenizer", "order")}


# ---- sft --------------------------------------------------------------------------------------------------------


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
    task = FineTuning(pairs, recipe)
    parts = f"{len(task.training):,} to train on, {len(task.validation):,} for validation"
    about = f"pairs: {path.name}, {parts}, of {task.length + 1} tokens at most"
    characters = sum(pair.characters for pair in pairs.pairs)
    corpus = {"name": path.name, "characters": characters, "digest": pairs.digest, "floor": None}
    in_state = {"tuned_on": str(path.resolve()), "tuned_on_digest": pairs.digest}
    return Material(task, about, corpus, pairs.digest, in_state)


def add_run_flags(group: Any) -> None:
    group.add_argument("--out", metavar="FOLDER", help="its folder (default a new one in runs)")
    group.add_argument("--resume", action="store_true", help="resume the run in --out, or the newest one")
    group.add_argument("--log", choices=LOGGERS, help="also log the curves there; needs the extra of that name")


# ---- distill ----------------------------------------------------------------------------------------------------


def distill(cli: EngineCLI, arguments: Sequence[str]) -> int:
    about = "Train a new model, the student, on what trained ones expect: the mean of their probabilities."
    parser = Parser(f"{cli.name} tune distill", about)
    group = parser.add_argument_group("the teachers")
    group.add_argument("--teacher", metavar="FOLDER", action="append", help="a run's folder; once for each teacher")
    add_which_checkpoint(group)
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
    add_fields(parser, "the training", Recipe, recipes, only=set(vars(RECIPE)) - {"tokenizer"})
    models = {name: preset.model for name, preset in PRESETS.items()}
    add_fields(parser, "the model", GPTConfig, models, only=set(vars(GPTConfig())) - {"vocab_size"})
    flags = parser.flags(arguments)
    console, budget = Console(), TimeBudget(process_start())
    if not flags.get("resume"):
        return train_run(cli, student_run(cli, flags, console), flags, console, budget)
    if "preset" in flags:
        raise WrongUse("--preset is for a run that begins; one that is resumed has its recipe")

    def learn(checkpoint: Checkpoint, recipe: Recipe, config: GPTConfig, options: Any) -> Material:
        names = flags.get("teacher", checkpoint.state.tuned_on.split("\n"))
        with cli.processes.local_first():
            data = dataset_of(checkpoint, flags.get("data"), console)
        material = material_of_teachers(cli, teachers_of(names, flags), data, recipe, config, options)
        if material.in_state["tuned_on_digest"] != checkpoint.state.tuned_on_digest:
            raise WrongUse(
                f"{' and '.join(names)} are not the teachers of {checkpoint.folder}; give those by --teacher"
            )
        return material

    return train_run(cli, resumed_run(cli, flags, console, "distill", learn), flags, console, budget)


def student_run(cli: EngineCLI, flags: Flags, console: Console) -> RunSpec:
    if "teacher" not in flags:
        raise WrongUse(f"--teacher is missing: the folder of a run; see {cli.name} tune distill --help")
    options = cli.parse_options(flags)
    preset = PRESETS[flags.get("preset", cli.default_preset(options))]
    teachers = teachers_of(flags["teacher"], flags)
    first = teachers[0]
    recipe = override(replace(preset.recipe, tokenizer=first.state.recipe.tokenizer), pick(Recipe, flags))
    config = override(replace(preset.model, vocab_size=first.state.config.vocab_size), pick(GPTConfig, flags))
    check_memory(config, recipe)
    with cli.processes.local_first():
        data = dataset_of(first, flags.get("data"), console)
    material = material_of_teachers(cli, teachers, data, recipe, config, options)
    same = f"{config} {recipe} {material.digest} {material.in_state['tuned_on_digest']}"
    cli.processes.check_agreement("flags, text or teachers", same)
    run_dir = new_run_dir(flags.get("out"), "distill") if cli.processes.first else RunDir(Path(flags.get("out", RUNS)))
    state = State(config, recipe, method="distill", **material.in_state, engine_options=saved_options(cli, flags))
    return RunSpec(run_dir, state, options, first.tokenizer, material)


def teachers_of(names: Sequence[str], flags: Flags) -> list[Checkpoint]:
    return [find_run_dir(name).checkpoint(flags["checkpoint"]) for name in names]


def material_of_teachers(
    cli: EngineCLI, teachers: Sequence[Checkpoint], data: Dataset, recipe: Recipe, config: GPTConfig, options: Any
) -> Material:
    ensemble = Ensemble(load_engines(cli, teachers, options))
    if config.block_size > ensemble.config.block_size:
        raise WrongUse(f"--block-size {config.block_size}: the teachers read {ensemble.config.block_size} tokens")
    tokenizer = teachers[0].tokenizer
    text = text_material(data, tokenizer, recipe, config)
    task = Distillation(data, tokenizer, recipe, config.block_size, ensemble)
    about = [text.about, *(f"teacher: {teacher.folder}, step {teacher.state.step}" for teacher in teachers)]
    in_state = {
        **text.in_state, "tuned_on_digest": checkpoints_digest(teachers),
        "tuned_on": "\n".join(str(teacher.folder.parents[1].resolve()) for teacher in teachers),
    }  # fmt: skip
    return replace(text, task=task, about="\n".join(about), in_state=in_state)


# ---- the command ------------------------------------------------------------------------------------------------

METHODS = {
    "sft": (sft, "fine-tuning on answers: the loss is that of the answers alone"),
    "distill": (distill, "distillation: a student learns what its teachers expect"),
}


def tune(cli: EngineCLI, arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {cli.name} tune {name:<7} --help   {does}" for name, (_, does) in METHODS.items()]
        print("\n".join([f"usage: {cli.name} tune METHOD [flags]", "", *lines]))
        return 0
    if arguments[0] not in METHODS:
        raise WrongUse(f"{arguments[0]!r} is not one of {', '.join(METHODS)}; see {cli.name} tune --help")
    method, _ = METHODS[arguments[0]]
    return method(cli, arguments[1:])
