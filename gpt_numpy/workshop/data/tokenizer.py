"""From text to numbers and back: by character, or by byte-level BPE trained on the user's own text.

Both are saved as tokenizer.json beside the weights, since weights mean nothing without their tokenizer.
"""

import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.io import parse_object

Ids = NDArray[Any]
Kind = Literal["char", "bpe"]

MAX_VOCABULARY = 1_000_000
MAX_JSON = 100_000_000  # bytes of tokenizer.json; one with 250,000 tokens has 20 million


class Tokenizer(Protocol):
    kind: Kind
    vocab_size: int
    end: int | None  # the token after the end of a text, if there is one

    def encode(self, text: str) -> Ids:
        """The ids of a text; UsageError for a character it does not know."""

    def decode(self, ids: Sequence[int]) -> bytes:
        """The UTF-8 of ids; a token may be a part of a character."""

    def count_characters(self, ids: Ids) -> int:
        """How many characters begin in these tokens."""

    def to_json(self) -> str:
        """The content of tokenizer.json, which tokenizer_from reads."""


def smallest_dtype(vocab_size: int) -> DTypeLike:
    return np.uint8 if vocab_size <= 1 << 8 else np.uint16 if vocab_size <= 1 << 16 else np.uint32


class CharTokenizer:
    """One id for each character, in the order of their code points."""

    kind: Kind = "char"
    end: int | None = None

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = sorted(set(characters))
        if not self.characters:
            raise UsageError("a tokenizer needs at least one character; the text is empty")
        if surrogate := next((character for character in self.characters if "\ud800" <= character <= "\udfff"), ""):
            raise UsageError(_not_utf8(surrogate))
        self.vocab_size = len(self.characters)
        codes = [ord(character) for character in self.characters]
        self._unknown = self.vocab_size
        self._id_of = np.full(codes[-1] + 2, self._unknown, np.uint32)  # by code point; the last entry for all beyond
        self._id_of[codes] = np.arange(self.vocab_size)

    def encode(self, text: str) -> Ids:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = self._id_of[np.minimum(codes, len(self._id_of) - 1)]
        if (unknown := ids == self._unknown).any():
            raise UsageError(f"{_named(text[int(unknown.argmax())])} is not among the {self.vocab_size} characters "
                           f"that this tokenizer knows")  # fmt: skip
        return ids.astype(smallest_dtype(self.vocab_size))

    def decode(self, ids: Sequence[int]) -> bytes:
        known = (self.characters[i] for i in ids if i < self.vocab_size)  # a model's vocabulary may be larger
        return "".join(known).encode("utf-8")

    def count_characters(self, ids: Ids) -> int:
        return len(ids)

    def to_json(self) -> str:
        return json.dumps({"kind": "char", "characters": "".join(self.characters)}, ensure_ascii=False)


class BPETokenizer:
    """Byte-level BPE: frequent pieces of text, merged from bytes, so that every text can be encoded."""

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
        self.end = model.token_to_id("<|endoftext|>")  # of GPT-2; a tokenizer trained here has none

    @classmethod
    def train(cls, pieces: Iterator[str], vocab_size: int) -> "BPETokenizer":
        check_bpe(vocab_size)
        library = _bpe_library()
        model = _byte_level(library.Tokenizer(library.models.BPE()))
        alphabet = library.pre_tokenizers.ByteLevel.alphabet()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
        )
        model.train_from_iterator(itertools.chain.from_iterable(map(_paragraphs, pieces)), trainer)
        return cls(model)

    @classmethod
    def from_files(cls, vocabulary: Path, merges: Path) -> "BPETokenizer":
        """GPT-2's own two files."""
        library = _bpe_library()
        try:
            model = library.Tokenizer(library.models.BPE.from_file(str(vocabulary), str(merges)))
            return cls(_byte_level(model))
        except Exception as error:  # the library raises no narrower class
            raise UsageError(f"{vocabulary} and {merges.name} are not a tokenizer: {error}") from None

    def encode(self, text: str) -> Ids:
        pieces = list(_paragraphs(text))
        try:
            ids = [encoded.ids for encoded in self._model.encode_batch_fast(pieces, add_special_tokens=False)]
        except Exception as error:  # the library raises no narrower class
            surrogate = next((character for character in text if "\ud800" <= character <= "\udfff"), "")
            raise UsageError(_not_utf8(surrogate) if surrogate else f"the tokenizer says: {error}") from None
        return np.array(list(itertools.chain.from_iterable(ids)), smallest_dtype(self.vocab_size))

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join(self._bytes[i] for i in ids if i < self.vocab_size)

    def count_characters(self, ids: Ids) -> int:
        begun = np.array([sum(byte & 0xC0 != 0x80 for byte in token) for token in self._bytes])  # not continued
        return int(begun[ids].sum())

    def to_json(self) -> str:
        return str(self._model.to_str())


def check_bpe(vocab_size: int) -> None:
    """UsageError unless BPE can be trained with so many tokens."""
    _bpe_library()
    if not 256 <= vocab_size <= MAX_VOCABULARY:
        raise UsageError(
            f"--vocab-size {vocab_size}: byte-level BPE starts from the 256 bytes; give at least 256, and at most "
            f"{MAX_VOCABULARY:,}"
        )


def last_seam(text: str) -> int:
    """The end of the last newline between two visible characters; 0 if there is none.

    BPE never merges across words and runs of white space. Cut at a seam, a text has the same tokens as uncut.
    """
    end = len(text) - 1
    while (end := text.rfind("\n", 1, end)) > 0:
        if not (text[end - 1].isspace() or text[end + 1].isspace()):
            return end + 1
    return 0


def _paragraphs(text: str) -> Iterator[str]:
    """A text cut at seams into parts of some thousand characters, which the library encodes in parallel."""
    start = 0
    while start < len(text):
        seam = _SEAM.search(text, start + 4096)
        end = seam.end() if seam else len(text)
        yield text[start:end]
        start = end


_SEAM = re.compile(r"(?<=\S)\n(?=\S)")


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a token stands for: printable ones themselves, the others from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _bytes_of(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:  # a special token such as <|endoftext|>
        return token.encode("utf-8")


def _byte_level(model: Any) -> Any:
    """The same tokenizer on the bytes of a text."""
    library = _bpe_library()
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    return model


def _bpe_library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UsageError(
            "--tokenizer bpe needs the library tokenizers: pip install tokenizers, or uv run --extra bpe ..."
        ) from None
    return tokenizers


def tokenizer_from(data: bytes) -> Tokenizer:
    """From what is in tokenizer.json; ValueError where that is something else."""
    content = parse_object(data)
    if content.get("kind") == "char":
        characters = content.get("characters")
        if not (isinstance(characters, str) and characters):
            raise ValueError("its characters are not a text")
        return CharTokenizer(characters)
    library = _bpe_library()
    try:
        model = library.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(str(error)) from None
    return BPETokenizer(model)


def _not_utf8(surrogate: str) -> str:
    return f"{_named(surrogate)} is half of a surrogate pair, which UTF-8 cannot encode"


def _named(character: str) -> str:
    name = unicodedata.name(character, "")
    return f"the character {character!r} (U+{ord(character):04X}{' ' + name if name else ''})"
