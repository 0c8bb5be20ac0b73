"""Text to tokens and back, by character and by BPE."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import characters, integers, lists, text

from gpt_numpy.workshop.data.tokenizer import (
    BPETokenizer,
    CharTokenizer,
    Tokenizer,
    last_seam,
    smallest_dtype,
    tokenizer_from,
)
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.generate import decode_stream

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


@pytest.mark.parametrize("unknown", ["é", "A", "\0", "\U0010ffff", "b", "\udcff"])
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
def test_saved_and_loaded_it_is_the_same(tokenizer: Tokenizer) -> None:
    loaded = tokenizer_from(tokenizer.to_json().encode())
    assert (loaded.kind, loaded.vocab_size) == (tokenizer.kind, tokenizer.vocab_size)
    assert np.array_equal(loaded.encode(PLAY), tokenizer.encode(PLAY))


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"kind": "char"}', '{"kind": "char", "characters": ""}', '{"a": 1}']
)
def test_what_is_no_tokenizer_is_said_in_one_line(content: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        tokenizer_from(content.encode())


@given(ANY_TEXT)
def test_a_stream_is_the_text_and_never_half_a_character(text: str) -> None:
    pieces = list(decode_stream(BPE, BPE.encode(text).tolist()))
    assert "".join(pieces) == text  # U+FFFD, the sign for what is no character, may be in it as any other


@given(lists(integers(0, 299)))
def test_any_ids_can_be_decode_stream(ids: list[int]) -> None:
    assert "".join(decode_stream(BPE, ids)) == BPE.decode(ids).decode("utf-8", "replace")


def test_what_is_no_character_is_shown_at_once() -> None:
    byte = int(BPE.encode("☃")[0])
    tokens = iter([byte] * 9)
    stream = decode_stream(BPE, tokens)
    assert [next(stream) for _ in range(3)] == ["", "\ufffd", "\ufffd"]
    assert len(list(tokens)) == 6
    assert "".join(decode_stream(BPE, [byte])) == "\ufffd"


@given(text("ab \n\t.", max_size=60), integers(1, 20))
def test_cut_at_a_seam_a_text_has_the_same_tokens(text: str, long: int) -> None:
    whole = BPE.encode("x" + text)
    begun = ("x" + text)[: long + 1]
    cut = last_seam(begun)
    parts = ("x" + text)[:cut], ("x" + text)[cut:]
    assert [i for part in parts for i in BPE.encode(part)] == whole.tolist()


def test_a_long_text_is_encoded_in_parts_that_change_nothing() -> None:
    long = "\n".join(["a b\n", " c", "d  e", "", "f.\t"] * 3000)
    model = BPE._model.encode(long, add_special_tokens=False)
    assert BPE.encode(long).tolist() == model.ids


def test_parts_are_not_cut_in_white_space() -> None:
    tokenizer = BPETokenizer.train(iter(["a\n\n\nb " * 100]), 270)
    long = "a" * 5000 + "\n\n\nb"
    assert tokenizer.encode(long).tolist() == tokenizer._model.encode(long, add_special_tokens=False).ids


def test_ids_grow_with_the_vocabulary() -> None:
    sizes = (256, 257, 1 << 16, (1 << 16) + 1)
    assert [smallest_dtype(size) for size in sizes] == [np.uint8, np.uint16, np.uint16, np.uint32]


def test_no_text_is_special() -> None:
    assert len(BPE.encode("<|endoftext|>")) > 1


def test_a_token_that_was_added_is_its_name() -> None:
    import tokenizers

    model = tokenizers.Tokenizer.from_str(BPE.to_json())
    model.add_special_tokens(["<|endoftext|>"])
    assert BPETokenizer(model).decode([300, 0]) == b"<|endoftext|>" + BPE.decode([0])


@given(ANY_TEXT)
def test_characters_are_counted_without_decoding(text: str) -> None:
    """Those of a few tokens are the ones that begin there, wherever the text is cut."""
    for tokenizer in (CharTokenizer(text + "x"), BPE):
        ids = tokenizer.encode(text)
        for cut in range(len(ids)):
            assert tokenizer.count_characters(ids[:cut]) + tokenizer.count_characters(ids[cut:]) == len(text)


def test_bpe_needs_room_for_the_bytes() -> None:
    with pytest.raises(WrongUse, match=r"--vocab-size 255: .* at least 256"):
        BPETokenizer.train(iter([PLAY]), 255)
