"""The commands train, generate, eval and claims, the same for both engines."""

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.flags import Given, Parser, add_fields, chosen, made
from gpt_numpy.workshop.cli.program import Command, Program
from gpt_numpy.workshop.cli.seeds import train_seeds
from gpt_numpy.workshop.cli.train import begin, load_engine, resume, text_of
from gpt_numpy.workshop.console import Console, visible
from gpt_numpy.workshop.data.corpus import SHA256
from gpt_numpy.workshop.errors import Lost, RunFailed, WrongUse
from gpt_numpy.workshop.generate import Sampling, decode_stream, generate, text_start
from gpt_numpy.workshop.params import flops_per_token, parameter_count
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.report.claims import Evidence, claims, samples, table
from gpt_numpy.workshop.runs.run_dir import find_run
from gpt_numpy.workshop.train.advice import phase_of
from gpt_numpy.workshop.train.budget import process_began
from gpt_numpy.workshop.train.evaluate import bits, perplexity, running_loss
from gpt_numpy.workshop.train.trainer import Training


def run(program: Program, arguments: Sequence[str]) -> int:
    """The exit status: 0; 2 or 1 after a line that says what is wrong; 128 + its number after a signal."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before Python began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # on Windows a pipe would have another encoding
            stream.reconfigure(encoding="utf-8", errors="replace")
    commands = {**COMMANDS, **program.commands}
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_help(program.name, program.about, commands))
            return 0
        if arguments[0] not in commands:
            raise WrongUse(f"{arguments[0]!r} is not one of {', '.join(commands)}; see {program.name} --help")
        command = commands[arguments[0]]
        if program.processes.size > 1 and not command.together:
            raise WrongUse(f"{arguments[0]} is for one process; start it without torchrun")
        return command.run(program, arguments[1:])
    except WrongUse as error:
        return _ended(program, str(error), 2)
    except RunFailed as error:
        return _ended(program, str(error), 1, is_known=isinstance(error, Lost))
    except MemoryError:
        return _ended(program, "memory was not enough; a smaller --micro-batch, --block-size or --n-embd may fit", 1)
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a disk that is full, a folder that went away
        where = f"{error.filename}: " if error.filename else ""
        return _ended(program, f"{where}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        return 130


def leave(status: int, at_once: bool = False) -> int:
    """At once after a signal, since threads may be at work on a step that nobody waits for, and where that is wanted
    after any failure."""
    if status > 128 or (status and at_once):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _ended(program: Program, reason: str, status: int, is_known: bool = False) -> int:
    """`is_known`: no news where another process has said something."""
    if program.processes.to_say(reason, is_known):
        Console(sys.stderr).say(f"{program.name}: {reason}", "red")
    return status


def _help(name: str, about: str, commands: Mapping[str, Command]) -> str:
    lines = {f"{name} {example}": does for command in commands.values() for example, does in command.examples.items()}
    width = max(map(len, lines))
    return "\n".join([
        f"usage: {name} {' | '.join(commands)}  [flags]", "", about, "",
        *(f"  {line:<{width}}   {does}" for line, does in lines.items()), "",
        f"Each explains its flags: {name} train --help",
    ])  # fmt: skip


def train(program: Program, arguments: Sequence[str]) -> int:
    parser = Parser(f"{program.name} train", "Train a model on a text. All that comes of it is in the run's folder.")
    group = parser.add_argument_group("the run")
    presets = "; ".join(f"{name}: {preset.meaning}" for name, preset in PRESETS.items())
    usual = program.preset(program.options())
    group.add_argument("--preset", choices=PRESETS, help=f"where defaults come from. {presets} (default {usual})")
    group.add_argument(
        "--data", metavar="FILE",
        help="a UTF-8 text; or shakespeare, or synthetic (default data/input.txt, else shakespeare)",
    )  # fmt: skip
    group.add_argument("--out", metavar="FOLDER", help="the run's folder (default a new one in runs)")
    group.add_argument("--resume", action="store_true", help="go on with the run in --out, or with the newest")
    group.add_argument(
        "--seeds", metavar="N", type=int, help="train so many models, each from another seed, and compare them"
    )
    add_machine(parser, program)
    add_fields(parser, "the training", Recipe, {name: preset.recipe for name, preset in PRESETS.items()})
    add_fields(parser, "the model", GPTConfig, {name: preset.model for name, preset in PRESETS.items()})
    given = parser.given(arguments)

    console = Console()
    if "seeds" not in given:
        return _train(program, given, console, process_began())
    if program.processes.size > 1:
        raise WrongUse("--seeds is for one process; start it without torchrun")
    name = given.get("preset", usual)
    return train_seeds(
        given.pop("seeds"), name, given, lambda flags: _train(program, flags, console, time.monotonic()), console
    )


def _train(program: Program, given: Given, console: Console, began: float) -> int:
    training = (resume if given.get("resume") else begin)(program, given, console)
    training.budget.began = began
    training.budget.seconds["start"] = time.monotonic() - began
    try:
        return _trained(program, training, console)
    finally:
        training.run.release()


def _trained(program: Program, training: Training, console: Console) -> int:
    config, folder = training.state.config, training.run.folder
    console.say(
        f"model: {parameter_count(config):,} parameters in {config.n_layer} layers, {config.n_head} heads, "
        f"{config.n_embd} wide, context {config.block_size}"
    )
    console.say(f"engine: {training.engine.describe()}")
    console.say(f"run: {folder}   (Ctrl-C saves, --resume goes on)")
    stop = training.go()
    if stop:
        return 128 + stop.signal
    state = training.state
    if state.best_loss is not None:
        per_character = state.best_loss / training.data.characters_per_token
        console.say(
            f"best validation loss {state.best_loss:.4f} at step {state.best_step}: {bits(per_character):.3f} bits a "
            "character",
            "bold",
        )
    console.say(training.budget.line())
    if pace := _pace(training):
        console.say(pace)
    console.say(f"curves and samples: {folder / 'report.html'}")
    console.say(f"next: {program.name} generate --run {shlex.quote(str(folder))}")
    return 0


def _pace(training: Training) -> str:
    """How fast the steps were, but for the first."""
    steady, engine = training.steady, training.engine
    if steady is None or not steady.tokens:
        return ""
    rate = steady.speed * flops_per_token(engine.config)
    told = [
        f"steps: {steady.speed * training.data.characters_per_token:,.0f} characters per second",
        f"{rate / 1e12:.3g} TFLOP/s",
        *([f"{rate / engine.peak:.1%} of the peak"] if engine.peak else []),
    ]
    return ", ".join(told)


def write(program: Program, arguments: Sequence[str]) -> int:
    parser = Parser(f"{program.name} generate", "Let a trained model write on. The text alone goes to standard output.")
    add_which(parser)
    group = parser.add_argument_group("the text")
    group.add_argument("--prompt", metavar="TEXT", default="", help="what the text begins with")
    group.add_argument("--length", metavar="N", type=int, default=500, help="tokens to write (default 500)")
    group.add_argument("--seed", metavar="N", type=int, help="the same seed, the same text (default a new one)")
    add_fields(parser, "the choice of each token", Sampling)
    add_machine(parser, program)
    given = parser.given(arguments)
    how = made(Sampling, chosen(Sampling, given))
    seed = given.get("seed", int(np.random.SeedSequence().generate_state(1)[0]))
    for name, number in (("length", given["length"]), ("seed", seed)):
        if number < 0:
            raise WrongUse(f"--{name} is at least 0, not {number}")

    checkpoint = find_run(given["run"]).checkpoint(given["checkpoint"])
    prompt = [int(token) for token in checkpoint.tokenizer.encode(given["prompt"])]
    engine = load_engine(program, checkpoint, given)
    Console(sys.stderr).say(f"{checkpoint.folder}, step {checkpoint.state.step}, seed {seed}", "dim")
    show = visible if sys.stdout.isatty() else str
    sys.stdout.write(show(given["prompt"]))
    tokens = generate(engine, prompt or text_start(checkpoint.tokenizer), given["length"], how, seed)
    for text in decode_stream(checkpoint.tokenizer, tokens):
        sys.stdout.write(show(text))
        sys.stdout.flush()
    print(flush=True)
    return 0


def judge(program: Program, arguments: Sequence[str]) -> int:
    parser = Parser(f"{program.name} eval", "How good a trained model is, over the whole validation part of its text.")
    add_which(parser)
    parser.add_argument("--data", metavar="FILE", help="judge by the validation part of another text")
    add_machine(parser, program)
    given = parser.given(arguments)

    console = Console()
    checkpoint = find_run(given["run"]).checkpoint(given["checkpoint"])
    engine = load_engine(program, checkpoint, given)
    with program.processes.one_ahead():
        data = text_of(checkpoint, given.get("data"), console, another=True)
    program.processes.agree("flags, text or the run's folder", f"{data.stats.digest} {checkpoint.digest}")
    with console.bar("judging", 1.0) as bar:
        for judged in running_loss(engine, data.validation):
            bar.at(judged.part)
    per_character = judged.mean / data.characters_per_token
    console.say(f"{checkpoint.folder}, step {checkpoint.state.step}, on {len(data.validation):,} tokens of {data.name}")
    console.say(f"validation loss       {judged.mean:.4f}    {phase_of(per_character)}")
    if data.floor is not None:
        of_what = " a character" if data.characters_per_token != 1.0 else ""
        console.say(f"least possible        {data.floor:.4f}{of_what}")
    console.say(f"perplexity            {perplexity(judged.mean):.3f}")
    console.say(f"bits per character    {bits(per_character):.3f}")
    return 0


def check_claims(program: Program, arguments: Sequence[str]) -> int:
    parser = Parser(
        f"{program.name} claims", "Hold what the workshop says of such a model against a run of yours and its text."
    )
    parser.add_argument("--run", metavar="FOLDER", default="latest", help="a run's folder (default latest, the newest)")
    parser.add_argument("--data", metavar="FILE", help="its text, if that is no longer where it was")
    given = parser.given(arguments)
    console = Console()
    run = find_run(given["run"])
    checkpoint = run.checkpoint("latest")
    data = text_of(checkpoint, given.get("data"), console)
    evidence = Evidence(checkpoint.state, checkpoint.tokenizer, data, list(run.records()))
    console.say(f"{run.folder}, step {checkpoint.state.step:,}, on {data.name}")
    if data.stats.digest != SHA256:
        console.say("what is said of the text is said of tiny Shakespeare; this is another one", "yellow")
    console.table(table(list(claims(evidence))))
    for loss, evaluation in samples(evidence):
        console.say(f"\nabout {loss}: {evaluation['val_loss']:.3f} in validation, step {evaluation['step']:,}", "bold")
        for line in evaluation["sample"].strip("\n").splitlines():
            console.say(f"    {line}", "dim")
    return 0


def add_machine(parser: Parser, program: Program) -> None:
    add_fields(parser, "the machine", program.options)
    parser.elsewhere = program.elsewhere


def add_which(parser: Parser) -> None:
    group = parser.add_argument_group("the model")
    group.add_argument("--run", metavar="FOLDER", default="latest", help="a run's folder (default latest, the newest)")
    group.add_argument(
        "--checkpoint", choices=("best", "latest"), default="best",
        help="that of the lowest validation loss, or the last one (default best)",
    )  # fmt: skip


COMMANDS = {
    "train": Command(train, {
        "train": "learn to write plays; takes minutes, saves as it goes",
        "train --data my.txt": "learn from a text of your own",
        "train --resume": "go on with the newest run",
    }, together=True),
    "generate": Command(write, {'generate --prompt "ROMEO:"': "let the newest run write on"}),
    "eval": Command(judge, {"eval": "how good the newest run is"}, together=True),
    "claims": Command(check_claims, {"claims": "what the workshop says, held against the newest run"}),
}  # fmt: skip
