"""Rollouts: answers that a model draws to prompts, many at once, and what a reward says of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.checked import Checked, at_least
from gpt_numpy.workshop.data.dataset import Dataset
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import Engine, Ids
from gpt_numpy.workshop.errors import RunFailed, UsageError
from gpt_numpy.workshop.probabilities import log_softmax
from gpt_numpy.workshop.rng import EVALUATIONS
from gpt_numpy.workshop.tune.jsonl import PROMPT, Tokens, read_lines
from gpt_numpy.workshop.tune.rewards import KNOWN, Reward

VALIDATION = 0.1  # the last prompts of a file, never trained on
ROWS = 256  # answers that are drawn at once
MAX_WORDS = 10_000_000  # tokens of a text whose words are known
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RolloutSettings(Checked):
    """Which prompts are answered, how, and what decides whether an answer is good."""

    reward: Annotated[str, f"{KNOWN}; naming a file runs it"] = ""
    prompts: Annotated[str, 'a file with {"prompt": "..."} in each line; without one, the lines of the text'] = ""
    prompt_length: Annotated[
        int, "tokens of a prompt from the text: the end of a line, and its newline", at_least(1)
    ] = 20
    answer_length: Annotated[int, "tokens of an answer, at most", at_least(1)] = 44
    stop: Annotated[str, "the text that ends an answer; \\n is a newline"] = "\\n"
    group: Annotated[int, "answers to each prompt", at_least(1)] = 16
    eval_prompts: Annotated[int, "prompts of an evaluation, at most", at_least(1)] = 512

    def resolved(self) -> Self:
        """With a path that another working folder can use."""
        return replace(self, prompts=str(Path(self.prompts).resolve()) if self.prompts else "")

    @property
    def end(self) -> str:
        return self.stop.replace("\\n", "\n")


# ---- prompts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompts:
    about: str
    training: Sequence[Tokens]
    validation: Sequence[Tokens]
    digest: str = ""  # of their file


def ends_of(tokenizer: Tokenizer, end: str) -> NDArray[np.bool_]:
    """For each token, whether it ends an answer: it has that character in it."""
    wanted = end.encode("utf-8")
    if len(end) > 1 or (len(wanted) > 1 and tokenizer.kind != "char"):
        raise UsageError(f"--stop {end!r}: several tokens may share such a text; give a single character, as \\n")
    ends = np.array([bool(end) and wanted in tokenizer.decode([token]) for token in range(tokenizer.vocab_size)])
    if end and not ends.any():
        raise UsageError(f"--stop {end!r} is in no token of the model")
    if tokenizer.end is not None:
        ends[tokenizer.end] = True
    return ends


def prompts_of(settings: RolloutSettings, data: Dataset, tokenizer: Tokenizer, block_size: int) -> Prompts:
    """UsageError if the prompts, their answers, or what ends these do not fit the model."""
    ends_of(tokenizer, settings.end)
    if settings.prompts:
        lines = read_lines(Path(settings.prompts), PROMPT, tokenizer, block_size)
        items = [line.prompt for line in lines.items]
        count = max(1, round(VALIDATION * len(items)))
        prompts = Prompts(lines.path.name, items[:-count], items[-count:], lines.digest)
        longest = max(map(len, items), default=0)
    else:
        if b"\n" not in b"".join(tokenizer.decode([token]) for token in range(tokenizer.vocab_size)):
            raise UsageError(f"{data.name} has no lines; give prompts by --prompts")
        newlines = ends_of(tokenizer, "\n")
        parts = [_line_ends(part, newlines, settings.prompt_length) for part in (data.train, data.validation)]
        prompts = Prompts(f"the lines of {data.name}", parts[0], parts[1])
        longest = settings.prompt_length
    if not prompts.training or not prompts.validation:
        raise UsageError(f"too few prompts in {prompts.about}: one to train on and one for validation are needed")
    if longest > block_size:
        shorter = "shorter --prompts" if settings.prompts else "a smaller --prompt-length"
        raise UsageError(
            f"a prompt of {longest} tokens leaves no room for an answer: the context has {block_size}; give {shorter}"
        )
    if longest + settings.answer_length > block_size + 1:
        raise UsageError(
            f"--answer-length {settings.answer_length}: with a prompt of {longest} tokens an answer may have "
            f"{block_size + 1 - longest}, since the context has {block_size}"
        )
    return prompts


def sampled(prompts: Sequence[Tokens], settings: RolloutSettings, seed: int = 0) -> list[Tokens]:
    """As many as an evaluation takes, always the same."""
    places = np.random.default_rng((seed, 0, 1, EVALUATIONS)).permutation(len(prompts))[: settings.eval_prompts]
    return [prompts[int(place)] for place in places]


class _Cuts(Sequence[Tokens]):
    """The pieces of a text that end at these places."""

    def __init__(self, tokens: NDArray[Any], ends: NDArray[np.int64], length: int) -> None:
        self.tokens, self.ends, self.length = tokens, ends, length

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: Any) -> Any:
        end = int(self.ends[place])
        return [int(token) for token in self.tokens[end - self.length : end]]


def _line_ends(tokens: NDArray[Any], newlines: NDArray[np.bool_], length: int) -> _Cuts:
    """The last tokens of each line that has as many, with its newline."""
    after = np.flatnonzero(newlines[tokens]) + 1
    return _Cuts(tokens, after[np.diff(after, prepend=0) >= length], length)


# ---- answers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """Prompts and what follows them: rows of tokens padded with zeros on the right, which no token before them sees."""

    ids: Ids  # (B, T)
    targets: Ids  # (B, T)
    answer_mask: NDArray[np.bool_]  # (B, T): whether a target is of the answer
    log_p: Floats  # (B, T): of each target, when it was drawn
    entropy: Floats  # (B, T): of what it was drawn from
    prompts: list[str]
    texts: list[str]  # without what ended them
    ended: NDArray[np.bool_]  # (B); others have as many tokens as were allowed

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.asarray(self.answer_mask.sum(1))


def draw_answers(
    engine: Engine, prompts: Sequence[Tokens], tokenizer: Tokenizer, end: str, length: int, seed: Any,
    greedy: bool = False,
) -> Answers:  # fmt: skip
    """An answer to each prompt, drawn from all that the model predicts, or always its likeliest token."""
    ends, B = ends_of(tokenizer, end), len(prompts)
    unused = engine.config.vocab_size - len(ends)  # tokens that the tokenizer does not have
    ends = np.append(ends, np.zeros(unused, np.bool_))
    T = max(map(len, prompts)) + length - 1
    tokens = np.zeros((B, T + 1), np.int64)
    answer_mask, log_p, entropy = np.zeros((B, T), np.bool_), np.zeros((B, T), np.float32), np.zeros((B, T), np.float32)
    place = np.array([len(prompt) for prompt in prompts])  # of the next token of each row
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    numbers = np.random.default_rng(seed).random((length, B))
    reader, rows, ended = engine.reader(B), np.arange(B), np.zeros(B, np.bool_)
    read: Sequence[Tokens] = prompts
    for number in numbers:
        log_of_all = log_softmax(reader.read(read).astype(np.float64))
        if not np.isfinite(log_of_all).all():
            raise RunFailed("the logits of the model are not finite: its weights are far too large, or NaN")
        p = np.exp(log_of_all)
        drawn = log_of_all.argmax(-1) if greedy else _drawn(p, number)
        open_rows, at = rows[~ended], place[~ended]
        tokens[open_rows, at] = drawn[open_rows]
        answer_mask[open_rows, at - 1] = True
        log_p[open_rows, at - 1] = log_of_all[open_rows, drawn[open_rows]]
        entropy[open_rows, at - 1] = -(p * log_of_all).sum(-1)[open_rows]
        place += ~ended
        ended |= ends[drawn]
        if ended.all():
            break
        read = drawn[:, None].tolist()
    T = int(place.max()) - 1
    of_rows = zip(tokens, prompts, place, strict=True)
    texts = [_decoded(tokenizer, row[len(prompt) : stop]) for row, prompt, stop in of_rows]
    return Answers(
        tokens[:, :T], tokens[:, 1 : T + 1], answer_mask[:, :T], log_p[:, :T], entropy[:, :T],
        [_decoded(tokenizer, prompt) for prompt in prompts],
        [text.partition(end)[0] if end else text for text in texts], ended,
    )  # fmt: skip


def rewards_of(answers: Answers, reward: Reward) -> Floats:
    pairs = zip(answers.prompts, answers.texts, strict=True)
    return np.array([reward(prompt, text) for prompt, text in pairs], np.float32)


def _drawn(p: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    """One class of each row of p, by a number between 0 and 1."""
    below = p.cumsum(-1)
    below /= below[:, -1:]
    return np.asarray((below <= numbers[:, None]).sum(-1))


def _decoded(tokenizer: Tokenizer, tokens: Sequence[int] | Ids) -> str:
    kept = [int(token) for token in tokens if token != tokenizer.end]
    return tokenizer.decode(kept).decode("utf-8", "replace")


# ---- words ------------------------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text.lower())


def known_words(data: Dataset, tokenizer: Tokenizer) -> frozenset[str]:
    return frozenset(words_of(_decoded(tokenizer, data.train[:MAX_WORDS])))


def share_of_words(texts: Sequence[str], known: frozenset[str]) -> float | None:
    """How many of the words in these texts are known; None if there are no words."""
    words = [word for text in texts for word in words_of(text)]
    return sum(word in known for word in words) / len(words) if words else None
