"""What a model is tuned on, from a file with an object in each line.

pairs          {"prompt": "...", "answer": "..."}
preferences    {"prompt": "...", "chosen": "...", "rejected": "..."}
prompts        {"prompt": "..."}
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.generate import text_start
from gpt_numpy.workshop.io import read_limited, sha256

MAX_SIZE = 1 << 28  # bytes of the file
T = TypeVar("T")
Tokens = list[int]


@dataclass(frozen=True)
class Lines(Generic[T]):
    path: Path
    digest: str  # SHA-256 of the file
    items: list[T]


@dataclass(frozen=True)
class Pair:
    text: str  # of the prompt
    prompt: Tokens  # at least one token
    answer: Tokens
    characters: int  # of the answer


@dataclass(frozen=True)
class Preference:
    text: str  # of the prompt
    prompt: Tokens  # at least one token
    chosen: Tokens
    rejected: Tokens


def read_pairs(path: Path, tokenizer: Tokenizer, block_size: int) -> Lines[Pair]:
    """WrongUse, with its line, for whatever is no pair, has unknown characters, or does not fit the context."""

    def pair(prompt: str, answer: str) -> Pair:
        start, tokens = prompt_tokens(prompt, tokenizer), _answer_tokens("answer", answer, tokenizer)
        _check_length(len(start) + len(tokens), block_size)
        return Pair(prompt, start, tokens, len(answer))

    return _parse(path, _read(path), ("prompt", "answer"), pair)


def read_preferences(path: Path, tokenizer: Tokenizer, block_size: int) -> Lines[Preference]:
    return parse_preferences(path, _read(path), tokenizer, block_size)


def parse_preferences(path: Path, data: bytes, tokenizer: Tokenizer, block_size: int) -> Lines[Preference]:
    """Of a file that may not have been written yet."""

    def preference(prompt: str, chosen: str, rejected: str) -> Preference:
        start = prompt_tokens(prompt, tokenizer)
        better, worse = _answer_tokens("chosen", chosen, tokenizer), _answer_tokens("rejected", rejected, tokenizer)
        _check_length(len(start) + max(len(better), len(worse)), block_size)
        return Preference(prompt, start, better, worse)

    return _parse(path, data, ("prompt", "chosen", "rejected"), preference)


def read_prompts(path: Path, tokenizer: Tokenizer) -> Lines[Tokens]:
    return _parse(path, _read(path), ("prompt",), lambda prompt: prompt_tokens(prompt, tokenizer))


def prompt_tokens(text: str, tokenizer: Tokenizer) -> Tokens:
    return [int(token) for token in tokenizer.encode(text)] or text_start(tokenizer)


def _answer_tokens(name: str, text: str, tokenizer: Tokenizer) -> Tokens:
    if not text:
        raise ValueError(f"{name} is empty")
    return [int(token) for token in tokenizer.encode(text)] + ([] if tokenizer.end is None else [tokenizer.end])


def _check_length(length: int, block_size: int) -> None:
    if length > block_size + 1:
        raise ValueError(f"it has {length} tokens, and the context of the model takes {block_size + 1}")


def _read(path: Path) -> bytes:
    try:
        return read_limited(path, MAX_SIZE)
    except OSError as error:
        raise WrongUse(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise WrongUse(f"{path}: {error}") from None


def _parse(path: Path, data: bytes, names: tuple[str, ...], make: Callable[..., T]) -> Lines[T]:
    items = []
    try:
        lines = data.decode("utf-8-sig").split("\n")  # splitlines() would also split within texts, at U+2028 say
    except ValueError as error:
        raise WrongUse(f"{path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                items.append(make(*_texts(line, names)))
            except (ValueError, WrongUse) as error:
                raise WrongUse(f"{path}, line {number}: {error}") from None
    return Lines(path, sha256(data), items)


def _texts(line: str, names: tuple[str, ...]) -> list[str]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not all(isinstance(content.get(name), str) for name in names):
        raise ValueError("it is not {" + ", ".join(f'"{name}": "..."' for name in names) + "}")
    return [content[name] for name in names]
