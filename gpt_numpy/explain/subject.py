"""The text and the model to explain, from the command line."""

import shlex
from dataclasses import dataclass

import numpy as np

from gpt_numpy.config import GPTConfig
from gpt_numpy.explain.loss_flags import check_loss_flags, loss_flags, objective_of
from gpt_numpy.explain.problem import Problem
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.flags import Flags
from gpt_numpy.workshop.cli.generate import load_engine
from gpt_numpy.workshop.data.tokenizer import CharTokenizer, Tokenizer
from gpt_numpy.workshop.engine import Arrays, Engine
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.params import initial_weights, parameter_count
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.run_dir import find_run_dir

MAX_SIZE = 64  # characters of a text, and channels of a head
LIVELY = 10.0  # scales a fresh model's matrices: with the usual initialisation attention is nearly uniform


@dataclass(frozen=True)
class Subject:
    text: str
    reads: list[str]  # the token at each position, as displayed
    vocabulary: list[str]  # as displayed
    characters: list[str]  # as typed
    model: str  # its description
    loss: str  # the same of the loss; empty for that of training on a text
    said: list[str]  # about both, in the terminal
    command: tuple[str, str]  # that repeats the explanation, before and after further flags
    program: str  # of that command
    model_flags: str  # of that command, those that select the model

    def again(self, flag: str, value: str) -> str:
        return f"{self.command[0]} {flag} {shlex.quote(value)}{self.command[1]}"


@dataclass(frozen=True)
class OfText(Subject):
    problem: Problem


@dataclass(frozen=True)
class Model:
    config: GPTConfig
    weights: Arrays
    tokenizer: Tokenizer
    name: str
    flags: list[str]  # that select it
    engine: Engine


def subject_of(cli: EngineCLI, flags: Flags) -> OfText:
    text = flags["text"]
    if not 2 <= len(text) <= MAX_SIZE:
        have = f"TEXT has {len(text)} character{'s' * (len(text) != 1)}"
        raise UsageError(
            f"{have}; give 2 to {MAX_SIZE}: the model reads all but the last, and predicts the next after each"
        )
    check_loss_flags(flags)
    answers = "".join(flags.get(name, "") for name in ("chosen", "rejected"))
    model = _trained(cli, flags) if "run" in flags else _fresh(cli, text + answers, flags)
    config = model.config
    layer, head = _chosen(flags, "layer", config.n_layer), _chosen(flags, "head", config.n_head)
    if config.n_embd // config.n_head > MAX_SIZE:
        raise UsageError(
            f"the heads of {model.name} have {config.n_embd // config.n_head} numbers; up to {MAX_SIZE} can be shown"
        )
    ids, objective, about = objective_of(flags, model.engine, lambda: _other(cli, flags, model), model.tokenizer, text)
    text = model.tokenizer.decode(ids.tolist()).decode("utf-8", "replace")
    if not 2 <= len(ids) <= config.block_size + 1:
        raise UsageError(f"TEXT is {len(ids)} tokens of {model.name}, which takes 2 to {config.block_size + 1}")
    weights = {"lm_head.weight": model.weights["tok_emb.weight"], **model.weights}  # if the two are tied
    doubles = {name: array.astype(np.float64) for name, array in weights.items()}
    vocabulary = [_shown(model.tokenizer, token) for token in range(model.tokenizer.vocab_size)]
    vocabulary += [""] * (config.vocab_size - len(vocabulary))  # the model may have unused tokens
    command_flags = [*model.flags, "--layer", str(layer), "--head", str(head)]
    described = f"{model.name}: {config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide"
    said = [f"model: {described}, {parameter_count(config):,} parameters", *([f"loss: {about}"] if about else [])]
    said.append(f"explained: head {head} of layer {layer}; others by --layer and --head")
    return OfText(
        text,
        [vocabulary[token] for token in ids[:-1]],
        vocabulary,
        [model.tokenizer.decode([token]).decode("utf-8", "replace") for token in range(config.vocab_size)],
        described,
        about,
        said,
        _command(cli.name, flags["text"], [*command_flags, *loss_flags(flags)]),
        cli.name,
        shlex.join(model.flags),
        Problem(config, doubles, ids[:-1], ids[1:], layer, head, objective),
    )


def _command(program: str, text: str, flags: list[str]) -> tuple[str, str]:
    """A text that begins with a dash goes last, after --, so that it is not parsed as a flag."""
    if text.startswith("-"):
        return shlex.join([program, "explain", *flags]), f" -- {shlex.quote(text)}"
    return shlex.join([program, "explain", text, *flags]), ""


def _trained(cli: EngineCLI, flags: Flags) -> Model:
    if "seed" in flags:
        raise UsageError("--seed is for a fresh model; a run has its weights")
    run = find_run_dir(flags["run"])
    checkpoint = run.checkpoint(flags.get("checkpoint", "best"))
    engine = load_engine(cli, checkpoint, cli.parse_options({}))
    model_flags = ["--run", str(run.folder), "--checkpoint", flags.get("checkpoint", "best")]
    name = f"{checkpoint.folder}, step {checkpoint.state.step}"
    return Model(checkpoint.state.config, engine.weights(), checkpoint.tokenizer, name, model_flags, engine)


def _other(cli: EngineCLI, flags: Flags, model: Model) -> Engine:
    """A reference or a teacher."""
    if "other" not in flags:
        return _fresh_engine(cli, model.config, flags.get("seed", 0) + 1)
    checkpoint = find_run_dir(flags["other"]).checkpoint("best")
    if checkpoint.tokenizer.to_json() != model.tokenizer.to_json():
        raise UsageError(f"{checkpoint.folder} has other tokens than {model.name}")
    return load_engine(cli, checkpoint, cli.parse_options({}))


def _fresh(cli: EngineCLI, text: str, flags: Flags) -> Model:
    """An untrained model, whose vocabulary is the characters of the text."""
    if "checkpoint" in flags:
        raise UsageError("--checkpoint is for a run; give it by --run")
    seed = flags.get("seed", 0)
    if not 0 <= seed < (1 << 63) - 1:  # the next one is the other model's
        raise UsageError(f"--seed is at least 0 and below 2^63 - 1, not {seed}")
    tokenizer = CharTokenizer(text)
    if tokenizer.vocab_size == 1:
        raise UsageError("TEXT repeats one character; a fresh model knows no other, and has nothing to predict")
    config = GPTConfig(vocab_size=tokenizer.vocab_size, block_size=MAX_SIZE, n_layer=2, n_head=2, n_embd=16)
    model_flags = ["--seed", str(seed)] if seed else []
    name = f"a small fresh model, seed {seed}, its matrices times {LIVELY:g} so that attention is not uniform"
    engine = _fresh_engine(cli, config, seed)
    return Model(config, engine.weights(), tokenizer, name, model_flags, engine)


def _fresh_engine(cli: EngineCLI, config: GPTConfig, seed: int) -> Engine:
    drawn = initial_weights(config, seed)
    engine = cli.engine(config, Recipe(seed=seed), cli.parse_options({}))
    engine.load({name: array * LIVELY if array.ndim == 2 else array for name, array in drawn.items()}, {}, 0)
    return engine


def _chosen(flags: Flags, name: str, count: int) -> int:
    chosen: int = flags.get(name, 0)
    if not 0 <= chosen < count:
        raise UsageError(
            f"--{name} {chosen}: the model has {count} {name}{'s' * (count != 1)}, counted from 0 to {count - 1}"
        )
    return chosen


def _shown(tokenizer: Tokenizer, token: int) -> str:
    """A token with its white space made visible."""
    return plain("".join(_SIGNS.get(c, c) for c in tokenizer.decode([token]).decode("utf-8", "replace")))


def plain(text: str) -> str:
    """Without invisible characters that have an effect, such as reversing the rest of a line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}
