"""A text as tokens, split into a training and a validation part. Those of a large text are in a memory-mapped file."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data.corpus import CHUNK, Corpus, cache_folder
from gpt_numpy.workshop.data.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, last_seam, smallest_dtype
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.io import write_fsynced

IN_MEMORY = 1 << 26  # bytes of text up to which its tokens are held in memory
MAX_UNCUT = 2 * CHUNK  # characters without a seam before they are cut anywhere
VALIDATION = 0.1  # the last part, never trained on
MAX_VALIDATION = 1_000_000  # tokens: more would make each evaluation slower, and the loss hardly more certain


@dataclass(frozen=True)
class TextStats:
    characters: int
    alphabet: str
    digest: str  # SHA-256 of the text


def read_stats(corpus: Corpus, console: Console) -> TextStats:
    """From one pass over the text."""
    characters, alphabet, digest = 0, set[str](), hashlib.sha256()
    with console.bar(f"reading {corpus.name}", corpus.size, live=corpus.size > CHUNK) as bar:
        for chunk in corpus.chunks(bar):
            characters += len(chunk)
            alphabet |= set(chunk)
            digest.update(chunk.encode("utf-8"))
    if not characters:
        raise UsageError(f"{corpus.name} is empty")
    return TextStats(characters, "".join(sorted(alphabet)), digest.hexdigest())


def train_tokenizer(kind: str, vocab_size: int, corpus: Corpus, stats: TextStats, console: Console) -> Tokenizer:
    """One token for each character; or BPE, trained on the training part."""
    if kind == "char":
        return CharTokenizer(stats.alphabet)
    with console.bar(f"learning {vocab_size:,} pieces of text", corpus.size) as bar:
        training = stats.characters - _validation_size(stats.characters)
        return BPETokenizer.train(_first(training, corpus.chunks(bar)), vocab_size)


def _first(characters: int, chunks: Iterator[str]) -> Iterator[str]:
    for chunk in chunks:
        yield chunk[:characters]
        characters -= len(chunk[:characters])
        if not characters:
            break


def _validation_size(length: int) -> int:
    return min(round(length * VALIDATION), MAX_VALIDATION)


@dataclass(frozen=True)
class Dataset:
    name: str
    data: str  # the value of --data that finds it again
    stats: TextStats
    train: NDArray[Any]
    validation: NDArray[Any]
    characters_per_token: float  # in the validation part
    floor: float | None  # the exact entropy of the validation part, in nats per character, if it is known

    def tokens(self, limit: int) -> NDArray[np.int64]:
        """Both parts, at most `limit` tokens of each."""
        return np.concatenate([self.train[:limit], self.validation[:limit]]).astype(np.int64)


def encode_corpus(corpus: Corpus, stats: TextStats, tokenizer: Tokenizer, console: Console) -> Dataset:
    if corpus.size <= IN_MEMORY:
        tokens = np.concatenate(list(_encoded(corpus, tokenizer, console)))
    else:
        tokens = _memory_mapped(corpus, stats, tokenizer, console)
    split = len(tokens) - _validation_size(len(tokens))
    validation = tokens[split:]
    predicted = tokenizer.count_characters(validation[1:])  # nothing predicts the first token
    characters = tokenizer.count_characters(validation[:1]) + predicted
    return Dataset(
        corpus.name,
        corpus.data,
        stats,
        tokens[:split],
        validation,
        characters / max(1, len(validation)),
        corpus.floor(stats.characters - predicted) if predicted else None,
    )


def _encoded(corpus: Corpus, tokenizer: Tokenizer, console: Console) -> Iterator[NDArray[Any]]:
    with console.bar(f"encoding {corpus.name}", corpus.size, live=corpus.size > CHUNK) as bar:
        for part in _cut_at_seams(corpus.chunks(bar)):
            yield tokenizer.encode(part)


def _cut_at_seams(chunks: Iterator[str]) -> Iterator[str]:
    """The same text cut where it has the same BPE tokens as uncut; anywhere, if there is no such place for long."""
    rest = ""
    for chunk in chunks:
        rest += chunk
        end = last_seam(rest) or (len(rest) if len(rest) > MAX_UNCUT else 0)
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def _memory_mapped(corpus: Corpus, stats: TextStats, tokenizer: Tokenizer, console: Console) -> NDArray[Any]:
    """Tokens in a file of the user's cache, whose name has the SHA-256 of its content. Writes would stay in memory:
    PyTorch takes no read-only arrays."""
    key = hashlib.sha256((stats.digest + tokenizer.to_json()).encode()).hexdigest()[:32]
    dtype = np.dtype(smallest_dtype(tokenizer.vocab_size))
    for path in cache_folder().glob(f"{key}-*.tokens"):
        with path.open("rb") as file:
            if path.stem == f"{key}-{hashlib.file_digest(file, 'sha256').hexdigest()}":
                return np.memmap(path, dtype, "c")
    temporary = cache_folder() / f"{key}.{uuid4().hex}"
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        digest = write_fsynced(temporary, (ids.astype(dtype).tobytes() for ids in _encoded(corpus, tokenizer, console)))
        path = temporary.with_name(f"{key}-{digest}.tokens")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{temporary.parent} cannot hold the tokens of {corpus.name}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return np.memmap(path, dtype, "c")
