"""Where the text comes from, and how it becomes tokens, in memory or, when it is large, in a file.

In this order: --data; data/input.txt; tiny Shakespeare, downloaded once; the dramatist.
"""

import codecs
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.workshop.data.choices import Written
from gpt_numpy.workshop.console import Bar, Console
from gpt_numpy.workshop.data.download import NotFetched, cache_folder, tiny_shakespeare
from gpt_numpy.workshop.data.synthetic import write_play
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.data.tokenizer import BPETokenizer, CharTokenizer, PairCount, Tokenizer, last_seam, smallest_dtype

PIECE = 1 << 20  # bytes read at once
IN_MEMORY = 1 << 26  # bytes of text up to which its tokens are kept in memory
VALIDATION = 0.1  # the last part, never trained on
AT_MOST = 1_000_000  # tokens in it: more would not make the loss more certain, but each evaluation slower


class Corpus(Protocol):
    """A text that is read in pieces, so that it may be larger than memory."""

    name: str  # what it is called on the screen
    data: str  # what --data finds it by

    @property
    def size(self) -> int:
        """Bytes."""

    def pieces(self, bar: Bar | None = None) -> Iterator[str]: ...

    def floor(self, begin: int) -> float | None:
        """The exact least loss from this character to the end, in nats per character, if anyone knows it."""


class TextFile:
    """A UTF-8 file."""

    def __init__(self, path: Path, name: str | None = None, data: str | None = None) -> None:
        try:
            self.path, self.name, self.data = path, name or str(path), data or str(path.resolve())
            if path.is_dir():
                raise WrongUse(f"{path} is a folder; give the text file in it")
            self.size = path.stat().st_size
            if not path.is_file():
                raise WrongUse(f"{path} is not a file; the text is read more than once, so a pipe will not do")
            with path.open("rb"):
                pass
        except OSError as error:
            raise WrongUse(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:  # what cannot be a name of a file
            raise WrongUse(f"{str(path)!r} cannot be read: {error}") from None
        if not self.size:
            raise WrongUse(f"{path} is empty")

    def open(self) -> BinaryIO:
        return self.path.open("rb")

    def pieces(self, bar: Bar | None = None) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        done = 0
        try:
            with self.open() as file:
                while data := file.read(PIECE):
                    if b"\0" in data:
                        raise WrongUse(f"{self.path} is not text: it has a zero byte at {done + data.index(0):,}")
                    yield decoder.decode(data)
                    done += len(data)
                    if bar is not None:
                        bar.at(done)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise WrongUse(
                f"{self.path} is not UTF-8: {error.reason} near byte {done + error.start:,}; save it as UTF-8"
            ) from None
        except OSError as error:
            raise WrongUse(f"{self.path} cannot be read: {error.strerror}") from None

    def floor(self, begin: int) -> float | None:
        return None


class InMemory(TextFile):
    """UTF-8 that nobody could keep."""

    def __init__(self, content: bytes, name: str, data: str) -> None:
        self.path, self.name, self.data, self.size = Path(name), name, data, len(content)
        self.content = content

    def open(self) -> BinaryIO:
        return BytesIO(self.content)


class Dramatist:
    """Made on the spot, the same each time; no network needed."""

    name = data = "dramatist"

    @cached_property
    def play(self) -> Written:
        return write_play()

    @property
    def size(self) -> int:
        return len(self.play.text)

    def pieces(self, bar: Bar | None = None) -> Iterator[str]:
        yield self.play.text

    def floor(self, begin: int) -> float | None:
        return float(self.play.surprisal[begin:].mean())


def find_corpus(data: str | None, console: Console) -> Corpus:
    if data is not None and data not in ("dramatist", "shakespeare"):
        return TextFile(Path(data))
    if data is None and Path("data/input.txt").exists():
        return TextFile(Path("data/input.txt"))
    if data != "dramatist":
        try:
            fetched, name = tiny_shakespeare(console), ("tiny Shakespeare", "shakespeare")
            return InMemory(fetched, *name) if isinstance(fetched, bytes) else TextFile(fetched, *name)
        except NotFetched as reason:
            if data == "shakespeare":
                raise WrongUse(f"{reason}; give a text by --data, or --data dramatist") from None
            console.say(f"{reason}. Using the dramatist's plays instead; --data gives a text of your own.", "yellow")
    return Dramatist()


@dataclass(frozen=True)
class Survey:
    """What one reading of the whole text shows."""

    characters: int
    alphabet: str
    digest: str  # SHA-256 of the text


def survey(corpus: Corpus, console: Console) -> Survey:
    characters, alphabet, digest = 0, set[str](), hashlib.sha256()
    with console.bar(f"reading {corpus.name}", corpus.size, live=corpus.size > PIECE) as bar:
        for piece in corpus.pieces(bar):
            characters += len(piece)
            alphabet |= set(piece)
            digest.update(piece.encode("utf-8"))
    if not characters:
        raise WrongUse(f"{corpus.name} is empty")
    return Survey(characters, "".join(sorted(alphabet)), digest.hexdigest())


def train_tokenizer(kind: str, vocab_size: int, corpus: Corpus, surveyed: Survey, console: Console) -> Tokenizer:
    """Of the text's characters; or BPE, which learns its pieces from the part that is trained on."""
    if kind == "char":
        return CharTokenizer(surveyed.alphabet)
    with console.bar(f"learning {vocab_size:,} pieces of text", corpus.size) as bar:
        return BPETokenizer.train(_first(corpus.pieces(bar), surveyed.characters), vocab_size)


def _first(pieces: Iterator[str], characters: int) -> Iterator[str]:
    left = characters - _validation(characters)
    for piece in pieces:
        yield piece[:left]
        left -= len(piece[:left])
        if not left:
            break


def _validation(length: int) -> int:
    return min(round(length * VALIDATION), AT_MOST)


@dataclass(frozen=True)
class Data:
    """A text as tokens, divided into the part to train on and the part to judge by."""

    name: str
    found_by: str  # --data
    survey: Survey
    train: NDArray[Any]
    validation: NDArray[Any]
    characters_per_token: float  # in the validation part
    floor: float | None  # nats per character, in the validation part
    pairs: str | None  # how many pairs of characters occur, if the text was encoded just now


def tokenize(corpus: Corpus, surveyed: Survey, tokenizer: Tokenizer, console: Console) -> Data:
    """The whole text as tokens. A large one goes through a file in the cache, and is made once."""
    pairs = PairCount(tokenizer.vocab_size) if tokenizer.kind == "char" and tokenizer.vocab_size <= 4096 else None
    if corpus.size <= IN_MEMORY:
        tokens = np.concatenate(list(_encoded(corpus, tokenizer, pairs, console)))
    else:
        tokens = _encoded_in_file(corpus, surveyed, tokenizer, pairs, console)
    split = len(tokens) - _validation(len(tokens))
    validation = tokens[split:]
    characters = len(_text(tokenizer, validation))
    predicted = characters - len(_text(tokenizer, validation[:1]))  # all but the first token
    floor = corpus.floor(surveyed.characters - predicted) if predicted else None
    return Data(
        corpus.name,
        corpus.data,
        surveyed,
        tokens[:split],
        validation,
        characters / max(1, len(validation)),
        floor,
        str(pairs) if pairs else None,
    )


def _text(tokenizer: Tokenizer, tokens: NDArray[Any]) -> str:
    return tokenizer.decode(tokens.tolist()).decode("utf-8", "replace")


def _encoded(corpus: Corpus, tokenizer: Tokenizer, pairs: PairCount | None, console: Console) -> Iterator[NDArray[Any]]:
    with console.bar(f"encoding {corpus.name}", corpus.size, live=corpus.size > PIECE) as bar:
        for piece in _cut_at_seams(corpus.pieces(bar)):
            ids = tokenizer.encode(piece)
            if pairs is not None:
                pairs.feed(ids)
            yield ids


def _cut_at_seams(pieces: Iterator[str]) -> Iterator[str]:
    """The same text cut where BPE may be cut; where that is nowhere for long, anywhere."""
    begun = ""
    for piece in pieces:
        begun += piece
        end = last_seam(begun) or (len(begun) if len(begun) > 2 * PIECE else 0)
        if end:
            yield begun[:end]
            begun = begun[end:]
    if begun:
        yield begun


def _encoded_in_file(
    corpus: Corpus, surveyed: Survey, tokenizer: Tokenizer, pairs: PairCount | None, console: Console
) -> NDArray[Any]:
    key = hashlib.sha256((surveyed.digest + tokenizer.to_json()).encode()).hexdigest()[:32]
    dtype = np.dtype(smallest_dtype(tokenizer.vocab_size))
    for path in cache_folder().glob(f"{key}-*.tokens"):
        with path.open("rb") as file:
            if path.stem == f"{key}-{hashlib.file_digest(file, 'sha256').hexdigest()}":  # as it was written
                return np.memmap(path, dtype, "r")
    beside = cache_folder() / f"{key}.{uuid4().hex}"
    digest = hashlib.sha256()
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            for ids in _encoded(corpus, tokenizer, pairs, console):
                data = ids.astype(dtype).tobytes()
                file.write(data)
                digest.update(data)
            file.flush()
            os.fsync(file.fileno())
        path = beside.with_name(f"{key}-{digest.hexdigest()}.tokens")
        beside.replace(path)
    except OSError as error:
        raise WrongUse(f"{beside.parent} cannot keep the tokens of {corpus.name}: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
    return np.memmap(path, dtype, "r")
