"""Pairs of a prompt and an answer, from a file with one in each line: {"prompt": "...", "answer": "..."}."""

import json
from dataclasses import dataclass
from pathlib import Path

from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.generate import text_start
from gpt_numpy.workshop.io import read_limited, sha256

MAX_SIZE = 1 << 28  # bytes of the file


@dataclass(frozen=True)
class Pair:
    text: str  # of the prompt
    prompt: list[int]  # at least one token
    answer: list[int]
    characters: int  # of the answer


@dataclass(frozen=True)
class Pairs:
    path: Path
    digest: str  # SHA-256 of the file
    pairs: list[Pair]


def read_pairs(path: Path, tokenizer: Tokenizer, block_size: int) -> Pairs:
    """WrongUse, with its line, for whatever is no pair, has unknown characters, or does not fit the context."""
    try:
        data = read_limited(path, MAX_SIZE)
        lines = data.decode("utf-8").split("\n")  # splitlines() would also split within texts, at U+2028 say
    except OSError as error:
        raise WrongUse(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise WrongUse(f"{path}: {error}") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                pairs.append(_pair(line, tokenizer, block_size))
            except (ValueError, RecursionError, WrongUse) as error:
                raise WrongUse(f"{path}, line {number}: {error}") from None
    return Pairs(path, sha256(data), pairs)


def _pair(line: str, tokenizer: Tokenizer, block_size: int) -> Pair:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not all(isinstance(content.get(key), str) for key in ("prompt", "answer")):
        raise ValueError('it is not {"prompt": "...", "answer": "..."}')
    if not content["answer"]:
        raise ValueError("the answer is empty")
    prompt = [int(token) for token in tokenizer.encode(content["prompt"])] or text_start(tokenizer)
    answer = [int(token) for token in tokenizer.encode(content["answer"])]
    answer += [] if tokenizer.end is None else [tokenizer.end]
    if (length := len(prompt) + len(answer)) > block_size + 1:
        raise ValueError(f"it has {length} tokens, and the context of the model takes {block_size + 1}")
    return Pair(content["prompt"], prompt, answer, len(content["answer"]))
