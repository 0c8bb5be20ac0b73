"""Text to tokens and back, by character and by BPE."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import characters, integers, lists, text

from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.tokenizers import (
    BPETokenizer,
    CharTokenizer,
    PairCount,
    Tokenizer,
    load_tokenizer,
    streamed,
)

ANY_TEXT = text(characters(exclude_categories=["Cs"]))  # all that UTF-8 can hold
PLAY = "JOAN:\nThe zebra's question: who, if not thou, hath eaten my naïve 🥧?\n" * 20
BPE = BPETokenizer.train(iter([PLAY]), 300)


@given(ANY_TEXT)
def test_characters_make_the_round_trip(text: str) -> None:
    tokenizer = CharTokenizer(text + "x")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids.tolist()).decode() == text
    assert len(ids) == len(text)
    assert tokenizer.vocab_size == len(set(text + "x"))


def test_ids_are_in_the_order_of_code_points() -> None:
    assert CharTokenizer("banana\n").encode("\nabn").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("size", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_ids_take_as_few_bytes_as_will_do(size: int, dtype: type) -> None:
    tokenizer = CharTokenizer(map(chr, range(1000, 1000 + size)))
    assert tokenizer.encode(chr(1000 + size - 1)).dtype == dtype
    assert tokenizer.encode(chr(1000 + size - 1)).tolist() == [size - 1]


@pytest.mark.parametrize("unknown", ["é", "A", "\0", "\U0010ffff", "b"])
def test_an_unknown_character_is_named(unknown: str) -> None:
    with pytest.raises(WrongUse, match=rf"U\+{ord(unknown):04X}.* is not among the 2 characters"):
        CharTokenizer("ac").encode("aca" + unknown + "c")


@given(ANY_TEXT)
def test_bpe_makes_the_round_trip_of_any_text(text: str) -> None:
    assert BPE.decode(BPE.encode(text).tolist()).decode() == text


def test_bpe_makes_familiar_text_shorter() -> None:
    assert BPE.vocab_size == 300
    assert len(BPE.encode(PLAY)) < len(PLAY) / 1.4


@pytest.mark.parametrize("tokenizer", [CharTokenizer(PLAY), BPE], ids=["char", "bpe"])
def test_saved_and_loaded_it_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    loaded = load_tokenizer(path)
    assert (loaded.kind, loaded.vocab_size) == (tokenizer.kind, tokenizer.vocab_size)
    assert np.array_equal(loaded.encode(PLAY), tokenizer.encode(PLAY))


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"kind": "char"}', '{"kind": "char", "characters": ""}', '{"a": 1}']
)
def test_a_bad_tokenizer_file_is_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(WrongUse, match=r"^[^\n]+$"):
        load_tokenizer(path)


@given(ANY_TEXT)
def test_a_stream_is_the_text_and_never_half_a_character(text: str) -> None:
    pieces = list(streamed(BPE, BPE.encode(text).tolist()))
    assert "".join(pieces) == text
    assert "\ufffd" in text or all("\ufffd" not in piece for piece in pieces)


@given(lists(integers(0, 299)))
def test_any_ids_can_be_streamed(ids: list[int]) -> None:
    pieces = list(streamed(BPE, ids))
    assert len(pieces) <= len(ids) + 1


@given(lists(text("abc\n", max_size=5)))
def test_pairs_are_counted_across_pieces(pieces: list[str]) -> None:
    tokenizer, whole = CharTokenizer("abc\n"), "".join(pieces)
    count = PairCount(4)
    for piece in pieces:
        count.feed(tokenizer.encode(piece))
    assert str(count) == f"{len(set(pairwise(whole)))} of 16 pairs of characters occur"


def test_bpe_needs_room_for_the_bytes() -> None:
    with pytest.raises(WrongUse, match=r"--vocab-size 255: .* at least 256"):
        BPETokenizer.train(iter([PLAY]), 255)
