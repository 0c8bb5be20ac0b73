"""Sampling of the next token, and the end of a text."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import floats, integers, lists, text

from gpt_numpy.workshop.data.tokenizer import CharTokenizer
from gpt_numpy.workshop.generate import Sampling, generate, probabilities, stop_before, text_start
from tests.support.engines import CONFIG, numpy_engine

PLAIN = Sampling(temperature=1.0, top_k=0)
LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3]))


def test_default_probabilities_are_the_models() -> None:
    np.testing.assert_allclose(probabilities(LOGITS, PLAIN), [0.1, 0.4, 0.2, 0.3], rtol=1e-12)


def test_temperature_is_an_exponent_of_probabilities() -> None:
    squares = np.array([0.01, 0.16, 0.04, 0.09])
    np.testing.assert_allclose(probabilities(LOGITS, Sampling(0.5, 0)), squares / squares.sum(), rtol=1e-12)


def test_top_k_keeps_most_likely_tokens() -> None:
    np.testing.assert_allclose(probabilities(LOGITS, Sampling(1.0, 2)), [0, 4 / 7, 0, 3 / 7], rtol=1e-12)
    of_equals = probabilities(np.tile(np.array([0.0, 1.0, 0.5], np.float32), 2000), Sampling(1.0, 3))
    assert np.flatnonzero(of_equals).tolist() == [1, 4, 7]  # the first


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.3, [1]), (0.4, [1]), (0.41, [1, 3]), (0.75, [1, 2, 3]), (1.0, [0, 1, 2, 3])]
)
def test_top_p_keeps_fewest_tokens_that_reach_it(top_p: float, kept: list[int]) -> None:
    assert np.flatnonzero(probabilities(LOGITS, Sampling(1.0, 0, top_p))).tolist() == kept


def test_temperature_0_picks_most_likely_token() -> None:
    with np.errstate(all="raise"):
        for temperature in (0.0, 1e-320):
            assert probabilities(LOGITS, Sampling(temperature=temperature)).tolist() == [0, 1, 0, 0]


@given(text("ab", max_size=12), text("ab", min_size=1, max_size=4), lists(integers(0, 12), max_size=5))
def test_stop_text_ends_a_stream_cut_anywhere(whole: str, stop: str, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
    assert "".join(stop_before(stop, pieces)) == whole.partition(stop)[0]


def test_text_before_a_possible_stop_is_not_held_back() -> None:
    pieces = iter(["to be ", "or n", "ot"])
    shown = stop_before("not", pieces)
    assert next(shown) == "to be "
    assert next(shown) == "or "
    assert list(shown) == [""]


def test_end_token_ends_the_text_and_is_not_part_of_it() -> None:
    engine = numpy_engine(CONFIG)
    sampling = Sampling(temperature=1.0)
    tokens = list(generate(engine, [1], 40, sampling, 0))
    end = tokens[20]
    assert list(generate(engine, [1], 40, sampling, 0, end)) == tokens[: tokens.index(end)]


@given(
    arrays(np.float32, integers(1, 20), elements=floats(-1e4, 1e4, width=32)),
    floats(0.01, 100),
    integers(0, 30),
    floats(0.001, 1),
)
def test_probabilities_are_valid_for_any_logits(logits: np.ndarray, temperature: float, k: int, p: float) -> None:
    found = probabilities(logits, Sampling(temperature, k, p))
    assert found.shape == logits.shape
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1)
    assert found[logits.argmax()] == found.max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature is a number of at least 0, not -0.1"),
        ({"temperature": float("nan")}, "temperature is a number of at least 0, not nan"),
        ({"temperature": float("inf")}, "temperature is a number of at least 0, not inf"),
        ({"top_k": -1}, "top_k is a whole number of at least 0, not -1"),
        ({"top_p": 0.0}, "top_p is a number above 0 and at most 1, not 0.0"),
        ({"top_p": 1.5}, "top_p is a number above 0 and at most 1, not 1.5"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Sampling(**settings)  # type: ignore[arg-type]


def test_default_settings() -> None:
    assert Sampling() == Sampling(temperature=0.7, top_k=50, top_p=1.0)


def test_default_prompt_is_a_newline() -> None:
    assert text_start(CharTokenizer("\tab\n")) == [1]
    assert text_start(CharTokenizer("ab")) == [0]
