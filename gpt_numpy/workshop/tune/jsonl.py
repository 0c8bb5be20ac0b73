"""What a model is tuned on, from a file with an object in each line.

pairs          {"prompt": "...", "answer": "..."}
preferences    {"prompt": "...", "chosen": "...", "rejected": "..."}
prompts        {"prompt": "..."}
"""

import json
from dataclasses import dataclass
from pathlib import Path

from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.generate import text_start
from gpt_numpy.workshop.io import read_limited, sha256

MAX_SIZE = 1 << 28  # bytes of the file
PAIR, PREFERENCE, PROMPT = ("answer",), ("chosen", "rejected"), ()  # the names of the answers in a line
Tokens = list[int]


@dataclass(frozen=True)
class Line:
    text: str  # of the prompt
    prompt: Tokens  # at least one token
    answers: list[Tokens]
    characters: int  # of the answers


@dataclass(frozen=True)
class Lines:
    path: Path
    digest: str  # SHA-256 of the file
    items: list[Line]


def read_lines(path: Path, answers: tuple[str, ...], tokenizer: Tokenizer, block_size: int) -> Lines:
    try:
        data = read_limited(path, MAX_SIZE)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    return parse_lines(path, data, answers, tokenizer, block_size)


def parse_lines(path: Path, data: bytes, answers: tuple[str, ...], tokenizer: Tokenizer, block_size: int) -> Lines:
    """Of a file that may not have been written yet. UsageError, with its line, for whatever has not a text for each of
    these names, has unknown characters, or does not fit the context."""
    items = []
    try:
        lines = data.decode("utf-8-sig").split("\n")  # splitlines() would also split within texts, at U+2028 say
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                items.append(_parse(line, answers, tokenizer, block_size))
            except (ValueError, UsageError) as error:
                raise UsageError(f"{path}, line {number}: {error}") from None
    return Lines(path, sha256(data), items)


def _parse(line: str, answers: tuple[str, ...], tokenizer: Tokenizer, block_size: int) -> Line:
    try:
        texts = json.loads(line)
    except (ValueError, RecursionError):
        texts = None
    names = "prompt", *answers
    if not isinstance(texts, dict) or not all(isinstance(texts.get(name), str) for name in names):
        raise ValueError("it is not {" + ", ".join(f'"{name}": "..."' for name in names) + "}")
    if empty := [name for name in answers if not texts[name]]:
        raise ValueError(f"{empty[0]} is empty")
    end = [] if tokenizer.end is None else [tokenizer.end]
    prompt, *tokens = ([int(token) for token in tokenizer.encode(texts[name])] for name in names)
    prompt, tokens = prompt or text_start(tokenizer), [answer + end for answer in tokens]
    length = len(prompt) + max(map(len, tokens), default=0)
    if answers and length > block_size + 1:
        raise ValueError(f"it has {length} tokens, and the context of the model takes {block_size + 1}")
    return Line(texts["prompt"], prompt, tokens, sum(len(texts[name]) for name in answers))
