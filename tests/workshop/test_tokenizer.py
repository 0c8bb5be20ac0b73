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
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.generate import decode_stream

ANY_TEXT = text(characters(exclude_categories=["Cs"]))  # everything that UTF-8 can encode
PLAY = "JOAN:\nThe zebra's question: who, if not thou, hath eaten my naïve 🥧?\n" * 20
BPE = BPETokenizer.train(iter([PLAY]), 300)


@given(ANY_TEXT)
def test_character_round_trip(text: str) -> None:
    tokenizer = CharTokenizer(text + "x")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids.tolist()).decode() == text
    assert len(ids) == len(text)
    assert tokenizer.vocab_size == len(set(text + "x"))


def test_ids_are_in_code_point_order() -> None:
    assert CharTokenizer("banana\n").encode("\nabn").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("size", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_ids_use_the_smallest_dtype(size: int, dtype: type) -> None:
    tokenizer = CharTokenizer(map(chr, range(1000, 1000 + size)))
    assert tokenizer.encode(chr(1000 + size - 1)).dtype == dtype
    assert tokenizer.encode(chr(1000 + size - 1)).tolist() == [size - 1]


@pytest.mark.parametrize("unknown", ["é", "A", "\0", "\U0010ffff", "b", "\udcff"])
def test_unknown_character_is_named(unknown: str) -> None:
    with pytest.raises(UsageError, match=rf"U\+{ord(unknown):04X}.* is not among the 2 characters"):
        CharTokenizer("ac").encode("aca" + unknown + "c")


@given(ANY_TEXT)
def test_bpe_round_trip(text: str) -> None:
    assert BPE.decode(BPE.encode(text).tolist()).decode() == text


def test_bpe_compresses_its_training_text() -> None:
    assert BPE.vocab_size == 300
    assert len(BPE.encode(PLAY)) < len(PLAY) / 1.4


@pytest.mark.parametrize("tokenizer", [CharTokenizer(PLAY), BPE], ids=["char", "bpe"])
def test_save_and_load(tokenizer: Tokenizer) -> None:
    loaded = tokenizer_from(tokenizer.to_json().encode())
    assert (loaded.kind, loaded.vocab_size) == (tokenizer.kind, tokenizer.vocab_size)
    assert np.array_equal(loaded.encode(PLAY), tokenizer.encode(PLAY))


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"kind": "char"}', '{"kind": "char", "characters": ""}', '{"a": 1}']
)
def test_invalid_tokenizer_is_a_one_line_error(content: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        tokenizer_from(content.encode())


@given(ANY_TEXT)
def test_decoded_stream_is_the_text(text: str) -> None:
    pieces = list(decode_stream(BPE, BPE.encode(text).tolist()))
    assert "".join(pieces) == text  # which may itself contain U+FFFD, the replacement character


@given(lists(integers(0, 299)))
def test_any_ids_can_be_decoded_as_a_stream(ids: list[int]) -> None:
    assert "".join(decode_stream(BPE, ids)) == BPE.decode(ids).decode("utf-8", "replace")


def test_invalid_bytes_are_replaced_without_delay() -> None:
    byte = int(BPE.encode("☃")[0])
    tokens = iter([byte] * 9)
    stream = decode_stream(BPE, tokens)
    assert [next(stream) for _ in range(3)] == ["", "\ufffd", "\ufffd"]
    assert len(list(tokens)) == 6
    assert "".join(decode_stream(BPE, [byte])) == "\ufffd"


@given(text("ab \n\t.", max_size=60), integers(1, 20))
def test_cutting_at_a_seam_keeps_the_tokens(text: str, long: int) -> None:
    whole = BPE.encode("x" + text)
    begun = ("x" + text)[: long + 1]
    cut = last_seam(begun)
    parts = ("x" + text)[:cut], ("x" + text)[cut:]
    assert [i for part in parts for i in BPE.encode(part)] == whole.tolist()


def test_encoding_in_parts_keeps_the_tokens() -> None:
    long = "\n".join(["a b\n", " c", "d  e", "", "f.\t"] * 3000)
    model = BPE._model.encode(long, add_special_tokens=False)
    assert BPE.encode(long).tolist() == model.ids


def test_parts_are_not_cut_in_white_space() -> None:
    tokenizer = BPETokenizer.train(iter(["a\n\n\nb " * 100]), 270)
    long = "a" * 5000 + "\n\n\nb"
    assert tokenizer.encode(long).tolist() == tokenizer._model.encode(long, add_special_tokens=False).ids


def test_dtype_grows_with_the_vocabulary() -> None:
    sizes = (256, 257, 1 << 16, (1 << 16) + 1)
    assert [smallest_dtype(size) for size in sizes] == [np.uint8, np.uint16, np.uint16, np.uint32]


def test_text_of_a_special_token_is_ordinary_text() -> None:
    assert len(BPE.encode("<|endoftext|>")) > 1


def test_added_token_decodes_to_its_name() -> None:
    import tokenizers

    model = tokenizers.Tokenizer.from_str(BPE.to_json())
    model.add_special_tokens(["<|endoftext|>"])
    assert BPETokenizer(model).decode([300, 0]) == b"<|endoftext|>" + BPE.decode([0])


@given(ANY_TEXT)
def test_characters_are_counted_without_decoding(text: str) -> None:
    """A character belongs to the token in which it begins, so that counts of any two parts add up."""
    for tokenizer in (CharTokenizer(text + "x"), BPE):
        ids = tokenizer.encode(text)
        for cut in range(len(ids)):
            assert tokenizer.count_characters(ids[:cut]) + tokenizer.count_characters(ids[cut:]) == len(text)


def test_bpe_needs_at_least_256_tokens() -> None:
    with pytest.raises(UsageError, match=r"--vocab-size 255: .* at least 256"):
        BPETokenizer.train(iter([PLAY]), 255)
