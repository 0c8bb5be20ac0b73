"""From text to numbers and back: by character, or by byte-level BPE trained on the user's own text.

Both are saved as tokenizer.json beside the weights, since weights mean nothing without their tokenizer.
"""

import codecs
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.io import table_from

Ids = NDArray[Any]
Kind = Literal["char", "bpe"]

LARGEST_VOCABULARY = 1_000_000
LARGEST_TOKENIZER = 100_000_000  # bytes of tokenizer.json; that of 250,000 tokens has 20 million


class Tokenizer(Protocol):
    kind: Kind
    vocab_size: int

    def encode(self, text: str) -> Ids:
        """The ids of a text; WrongUse for a character it does not know."""

    def decode(self, ids: Sequence[int]) -> bytes:
        """The UTF-8 of ids; a token may be a part of a character."""

    def to_json(self) -> str:
        """What tokenizer_from reads."""


def smallest_dtype(vocab_size: int) -> DTypeLike:
    return np.uint8 if vocab_size <= 1 << 8 else np.uint16 if vocab_size <= 1 << 16 else np.uint32


class CharTokenizer:
    """One id for each character, in the order of their code points."""

    kind: Kind = "char"

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = sorted(set(characters))
        if not self.characters:
            raise WrongUse("a tokenizer needs at least one character; the text is empty")
        if half := next((character for character in self.characters if "\ud800" <= character <= "\udfff"), ""):
            raise WrongUse(f"{_named(half)} is no character that UTF-8 has")
        self.vocab_size = len(self.characters)
        codes = [ord(character) for character in self.characters]
        self._unknown = self.vocab_size
        self._id_of = np.full(codes[-1] + 2, self._unknown, np.uint32)  # by code point; the last is for all beyond
        self._id_of[codes] = np.arange(self.vocab_size)

    def encode(self, text: str) -> Ids:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = self._id_of[np.minimum(codes, len(self._id_of) - 1)]
        if (unknown := ids == self._unknown).any():
            raise WrongUse(f"{_named(text[int(unknown.argmax())])} is not among the {self.vocab_size} characters "
                           f"that this tokenizer knows")  # fmt: skip
        return ids.astype(smallest_dtype(self.vocab_size))

    def decode(self, ids: Sequence[int]) -> bytes:
        return "".join(self.characters[i] for i in ids if i < self.vocab_size).encode("utf-8")  # a model may have more

    def to_json(self) -> str:
        return json.dumps({"kind": "char", "characters": "".join(self.characters)}, ensure_ascii=False)


class BPETokenizer:
    """Pieces of text that occur often, built up from bytes: every text has ids."""

    kind: Kind = "bpe"

    def __init__(self, model: Any) -> None:
        self._model = model
        model.no_truncation()
        model.no_padding()
        self.vocab_size = model.get_vocab_size()
        tokens = [model.id_to_token(i) for i in range(self.vocab_size)]
        if not isinstance(model.model, _bpe_library().models.BPE) or None in tokens or not tokens:
            raise ValueError("it is not BPE with tokens from 0 on")
        self._bytes = [_bytes_of(token) for token in tokens]

    @classmethod
    def train(cls, pieces: Iterator[str], vocab_size: int) -> "BPETokenizer":
        check_bpe(vocab_size)
        library = _bpe_library()
        model = _on_bytes(library.Tokenizer(library.models.BPE()))
        bytes_first = library.pre_tokenizers.ByteLevel.alphabet()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=bytes_first, show_progress=False, special_tokens=[]
        )
        model.train_from_iterator(itertools.chain.from_iterable(map(_paragraphs, pieces)), trainer)
        return cls(model)

    @classmethod
    def from_files(cls, vocabulary: Path, merges: Path) -> "BPETokenizer":
        """GPT-2's own two files."""
        library = _bpe_library()
        try:
            model = library.Tokenizer(library.models.BPE.from_file(str(vocabulary), str(merges)))
            return cls(_on_bytes(model))
        except Exception as error:  # the library raises nothing more special
            raise WrongUse(f"{vocabulary} and {merges.name} are not a tokenizer: {error}") from None

    def encode(self, text: str) -> Ids:
        pieces = list(_paragraphs(text))
        try:
            ids = [encoded.ids for encoded in self._model.encode_batch_fast(pieces, add_special_tokens=False)]
        except Exception as error:  # the library raises nothing more special
            half = next((character for character in text if "\ud800" <= character <= "\udfff"), "")
            reason = f"{_named(half)} is no character that UTF-8 has" if half else f"the tokenizer says: {error}"
            raise WrongUse(reason) from None
        return np.array(list(itertools.chain.from_iterable(ids)), smallest_dtype(self.vocab_size))

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join(self._bytes[i] for i in ids if i < self.vocab_size)

    def to_json(self) -> str:
        return str(self._model.to_str())


def check_bpe(vocab_size: int) -> None:
    """WrongUse where BPE cannot be trained."""
    _bpe_library()
    if not 256 <= vocab_size <= LARGEST_VOCABULARY:
        raise WrongUse(
            f"--vocab-size {vocab_size}: byte-level BPE starts from the 256 bytes; give at least 256, and at most "
            f"{LARGEST_VOCABULARY:,}"
        )


def last_seam(text: str) -> int:
    """Behind the last line end that stands between two visible characters; 0 if there is none.

    BPE looks at words and at runs of white space. Cut at a seam, a text has the same tokens as in one piece.
    """
    end = len(text) - 1
    while (end := text.rfind("\n", 1, end)) > 0:
        if not (text[end - 1].isspace() or text[end + 1].isspace()):
            return end + 1
    return 0


def _paragraphs(text: str) -> Iterator[str]:
    """A text cut at seams into parts of some thousand characters, on which the library works side by side."""
    start = 0
    while start < len(text):
        seam = _SEAM.search(text, start + 4096)
        end = seam.end() if seam else len(text)
        yield text[start:end]
        start = end


_SEAM = re.compile(r"(?<=\S)\n(?=\S)")


def _byte_alphabet() -> dict[str, int]:
    """Which byte each character of a token stands for: those that can be seen for themselves, others from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + i): byte for i, byte in enumerate(unseen)}


_BYTE_OF = _byte_alphabet()


def _bytes_of(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:  # a token that was added to the alphabet, as <|endoftext|> is
        return token.encode("utf-8")


def _on_bytes(model: Any) -> Any:
    """The same tokenizer taking text as bytes, and giving it back."""
    library = _bpe_library()
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    return model


def _bpe_library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise WrongUse(
            "--tokenizer bpe needs the library tokenizers; install it with the extra: uv run --extra bpe ..."
        ) from None
    return tokenizers


def tokenizer_from(data: bytes) -> Tokenizer:
    """From what is in tokenizer.json; ValueError where that is something else."""
    content = table_from(data)
    if content.get("kind") == "char":
        characters = content.get("characters")
        if not (isinstance(characters, str) and characters):
            raise ValueError("its characters are not a text")
        return CharTokenizer(characters)
    library = _bpe_library()
    try:
        model = library.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises nothing more special
        raise ValueError(str(error)) from None
    return BPETokenizer(model)


def streamed(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Text as soon as it is certain: the bytes of one character may be spread over several tokens."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        yield decoder.decode(tokenizer.decode([token]))
    yield decoder.decode(b"", final=True)


class PairCount:
    """How many of the possible pairs of neighbouring characters occur; fed piece by piece."""

    def __init__(self, vocab_size: int) -> None:
        self._seen = np.zeros((vocab_size, vocab_size), np.bool_)
        self._last: Ids = np.empty(0, np.intp)

    def feed(self, ids: Ids) -> None:
        joined = np.concatenate((self._last, ids)).astype(np.intp)
        self._seen[joined[:-1], joined[1:]] = True
        self._last = joined[-1:]

    def __bool__(self) -> bool:
        return bool(self._seen.any())

    def __str__(self) -> str:
        return f"{self._seen.sum():,} of {self._seen.size:,} pairs of characters occur"


def _named(character: str) -> str:
    name = unicodedata.name(character, "")
    return f"the character {character!r} (U+{ord(character):04X}{' ' + name if name else ''})"
