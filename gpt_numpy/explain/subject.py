"""Which text in which model is to be explained, from the command line."""

import shlex
from dataclasses import dataclass

import numpy as np

from gpt_numpy.config import GPTConfig
from gpt_numpy.explain.problem import Problem
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.flags import Flags
from gpt_numpy.workshop.cli.generate import load_engine
from gpt_numpy.workshop.data.tokenizer import CharTokenizer, Tokenizer
from gpt_numpy.workshop.engine import Arrays
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.params import initial_weights
from gpt_numpy.workshop.runs.run_dir import find_run_dir

MOST = 64  # characters of a text, and numbers of a head
LIVELY = 10.0  # a fresh model's matrices, times what training starts from: there attention would be flat


@dataclass(frozen=True)
class Subject:
    problem: Problem
    text: str
    reads: list[str]  # what stands at each position, to be shown
    vocabulary: list[str]
    model: str  # which one, in a phrase
    command: tuple[str, str]  # that explains the same again, before and after further flags

    def again(self, flag: str, value: str) -> str:
        return f"{self.command[0]} {flag} {shlex.quote(value)}{self.command[1]}"


@dataclass(frozen=True)
class Model:
    config: GPTConfig
    weights: Arrays
    tokenizer: Tokenizer
    name: str
    flags: list[str]  # that choose it


def subject_of(cli: EngineCLI, given: Flags) -> Subject:
    text = given["text"]
    if not 2 <= len(text) <= MOST:
        have = f"TEXT has {len(text)} character{'s' * (len(text) != 1)}"
        raise WrongUse(f"{have}; give 2 to {MOST}: all but the last are read, and after each the next is guessed")
    model = _trained(cli, given) if "run" in given else _fresh(text, given)
    config = model.config
    layer, head = _chosen(given, "layer", config.n_layer), _chosen(given, "head", config.n_head)
    if config.n_embd // config.n_head > MOST:
        raise WrongUse(f"the heads of {model.name} have {config.n_embd // config.n_head} numbers; up to {MOST} can be "
                       "shown")  # fmt: skip
    ids = model.tokenizer.encode(text).astype(np.int64)
    if not 2 <= len(ids) <= config.block_size + 1:
        raise WrongUse(f"TEXT is {len(ids)} tokens of {model.name}, which takes 2 to {config.block_size + 1}")
    weights = {"lm_head.weight": model.weights["tok_emb.weight"], **model.weights}  # where the two are tied
    doubles = {name: array.astype(np.float64) for name, array in weights.items()}
    vocabulary = [_shown(model.tokenizer, token) for token in range(model.tokenizer.vocab_size)]
    vocabulary += [""] * (config.vocab_size - len(vocabulary))  # a model may have tokens to spare
    flags = [*model.flags, "--layer", str(layer), "--head", str(head)]
    return Subject(
        Problem(config, doubles, ids[:-1], ids[1:], layer, head),
        text,
        [vocabulary[token] for token in ids[:-1]],
        vocabulary,
        f"{model.name}: {config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide",
        _command(cli.name, text, flags),
    )


def _command(program: str, text: str, flags: list[str]) -> tuple[str, str]:
    """A text that begins with a dash goes last, where no flag is looked for."""
    if text.startswith("-"):
        return shlex.join([program, "explain", *flags]), f" -- {shlex.quote(text)}"
    return shlex.join([program, "explain", text, *flags]), ""


def _trained(cli: EngineCLI, given: Flags) -> Model:
    if "seed" in given:
        raise WrongUse("--seed is for a fresh model; a run has its weights")
    run = find_run_dir(given["run"])
    checkpoint = run.checkpoint(given.get("checkpoint", "best"))
    weights = load_engine(cli, checkpoint, {}).weights()
    flags = ["--run", str(run.folder), "--checkpoint", given.get("checkpoint", "best")]
    name = f"{checkpoint.folder}, step {checkpoint.state.step}"
    return Model(checkpoint.state.config, weights, checkpoint.tokenizer, name, flags)


def _fresh(text: str, given: Flags) -> Model:
    """One that has learned nothing and knows the characters of the text, which it may meet anywhere."""
    if "checkpoint" in given:
        raise WrongUse("--checkpoint is of a run; name it by --run")
    seed = given.get("seed", 0)
    if seed < 0:
        raise WrongUse(f"--seed is at least 0, not {seed}")
    tokenizer = CharTokenizer(text)
    if tokenizer.vocab_size == 1:
        raise WrongUse("TEXT is one character again and again; a fresh model knows no other, and has nothing to guess")
    config = GPTConfig(vocab_size=tokenizer.vocab_size, block_size=MOST, n_layer=2, n_head=2, n_embd=16)
    drawn = initial_weights(config, seed)
    weights = {name: array * LIVELY if array.ndim == 2 else array for name, array in drawn.items()}
    flags = ["--seed", str(seed)] if seed else []
    return Model(config, weights, tokenizer, f"a small fresh model, seed {seed}", flags)


def _chosen(given: Flags, name: str, count: int) -> int:
    chosen: int = given.get(name, 0)
    if not 0 <= chosen < count:
        raise WrongUse(
            f"--{name} {chosen}: the model has {count} {name}{'s' * (count != 1)}, counted from 0 to {count - 1}"
        )
    return chosen


def _shown(tokenizer: Tokenizer, token: int) -> str:
    """A token so that it can be seen."""
    return plain("".join(_SIGNS.get(c, c) for c in tokenizer.decode([token]).decode("utf-8", "replace")))


def plain(text: str) -> str:
    """Without characters that are not seen but do something, such as turning the rest of a line around."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}
