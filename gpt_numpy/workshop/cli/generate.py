"""The command generate: text from a trained model."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt_numpy.workshop.cli.engine_cli import EngineCLI, add_engine_flags
from gpt_numpy.workshop.cli.flags import Flags, Parser, add_fields, build, pick
from gpt_numpy.workshop.console import Console, visible
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.generate import Sampling, decode_stream, generate, stop_before, text_start
from gpt_numpy.workshop.io import sha256
from gpt_numpy.workshop.runs.checkpoint import Checkpoint
from gpt_numpy.workshop.runs.run_dir import find_run_dir

SEPARATOR = "-" * 15  # between several texts


def generate_text(cli: EngineCLI, arguments: Sequence[str]) -> int:
    parser = Parser(f"{cli.name} generate", "Generate text with a trained model. Standard output gets only the text.")
    add_checkpoint_flags(parser)
    group = parser.add_argument_group("the text")
    group.add_argument("--prompt", metavar="TEXT", default="", help="the beginning of the text")
    group.add_argument("--length", metavar="N", type=int, default=500, help="tokens to write, at most (default 500)")
    group.add_argument("--stop", metavar="TEXT", help="end before the first such text; \\n is a newline")
    group.add_argument("--num-samples", metavar="N", type=int, default=1, help="number of texts (default 1)")
    group.add_argument("--seed", metavar="N", type=int, help="the same seed, the same text (default a new one)")
    add_fields(parser, "how each token is chosen", Sampling)
    add_engine_flags(parser, cli)
    flags = parser.flags(arguments)
    sampling = build(Sampling, pick(Sampling, flags))
    seed = flags.get("seed", int(np.random.SeedSequence().generate_state(1)[0]))
    for name, number, least in (
        ("length", flags["length"], 0),
        ("seed", seed, 0),
        ("num-samples", flags["num_samples"], 1),
    ):
        if number < least:
            raise UsageError(f"--{name} is at least {least}, not {number}")
    if flags.get("stop") == "":
        raise UsageError("--stop is a text of at least one character")

    checkpoint = chosen_checkpoint(flags)
    prompt = [int(token) for token in checkpoint.tokenizer.encode(flags["prompt"])]
    engine = load_engine(cli, checkpoint, cli.parse_options(flags))
    Console(sys.stderr).say(f"{checkpoint.folder}, step {checkpoint.state.step}, seed {seed}", "dim")
    show = visible if sys.stdout.isatty() else str
    tokenizer = checkpoint.tokenizer
    for sample in range(flags["num_samples"]):
        sys.stdout.write(f"{SEPARATOR}\n" * (sample > 0) + show(flags["prompt"]))
        own_seed = (seed, sample) if sample else seed
        tokens = generate(engine, prompt or text_start(tokenizer), flags["length"], sampling, own_seed, tokenizer.end)
        pieces = decode_stream(tokenizer, tokens)
        for text in stop_before(flags["stop"].replace("\\n", "\n"), pieces) if "stop" in flags else pieces:
            sys.stdout.write(show(text))
            sys.stdout.flush()
        print(flush=True)
    return 0


def add_checkpoint_flags(parser: Parser) -> None:
    group = parser.add_argument_group("the model")
    group.add_argument("--run", metavar="FOLDER", help="a run's folder (default latest, the newest)")
    add_which_checkpoint(group)


def add_which_checkpoint(group: Any) -> None:
    group.add_argument(
        "--checkpoint", choices=("best", "latest"),
        help="that of the best evaluation, or the last one (default best)",
    )  # fmt: skip


def chosen_checkpoint(flags: Flags, run: str | None = None) -> Checkpoint:
    """That of --run and --checkpoint, or of another run."""
    return find_run_dir(run or flags.get("run", "latest")).checkpoint(flags.get("checkpoint", "best"))


def load_engine(cli: EngineCLI, checkpoint: Checkpoint, options: Any) -> Engine:
    """An engine with the weights of a checkpoint, not to be trained."""
    state = checkpoint.state
    engine = cli.engine(state.config, state.recipe, options)
    engine.load(checkpoint.weights, {}, state.step)
    return engine


def load_engines(cli: EngineCLI, checkpoints: Sequence[Checkpoint], options: Any) -> list[Engine]:
    """An engine for each; all must have one vocabulary."""
    for other in checkpoints[1:]:
        if other.tokenizer.to_json() != checkpoints[0].tokenizer.to_json():
            raise UsageError(f"{other.folder} has other tokens than {checkpoints[0].folder}")
    return [load_engine(cli, checkpoint, options) for checkpoint in checkpoints]


def checkpoints_digest(checkpoints: Sequence[Checkpoint]) -> str:
    """One SHA-256 for the weights of all."""
    return sha256(" ".join(checkpoint.digest for checkpoint in checkpoints).encode("utf-8"))
