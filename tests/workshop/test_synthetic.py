"""Synthetic plays: texts in 65 characters, and the exact probability of each of them."""

import hashlib
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Generator

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt_numpy.workshop.data.synthetic import Choice, Sampler, grammar, play_of, write_play

CHARACTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DIGEST = "cd534df0098f1da238ebb8986bdfd0935c54ef2deec8bdd452ca646856170858"
PLAY = write_play(200_000)


class Parser:
    """Chooses what a given text says; ValueError where no string fits."""

    def __init__(self, text: str) -> None:
        self._text, self._position = text, 0

    def __call__(self, choice: Choice) -> int:
        rest = self._text[self._position : self._position + max(map(len, choice.strings))]
        for chosen, string in enumerate(choice.strings):
            if rest.startswith(string) or (len(rest) < len(string) and string.startswith(rest)):
                self._position += len(string)
                return chosen
        raise ValueError(f"the grammar cannot produce {rest!r} at character {self._position}")


def surprisal_of(text: str) -> NDArray[np.float64]:
    """The surprisal of each character of a given play; ValueError where the grammar cannot have produced it."""
    return play_of(grammar(), Parser(text), len(text)).surprisal


# ---- exact probabilities ----------------------------------------------------------------------------------------

ANIMAL, ENDING, DOES = Choice({"cat": 2, "cow": 1, "dog": 3}), Choice({"s ": 1, " ": 2}), Choice({"ran.": 1, "sat.": 4})


def toy() -> Generator[Choice, str, None]:
    """A grammar small enough to enumerate all its texts."""
    while True:
        animal = yield ANIMAL
        if animal != "cow":
            yield ENDING
        else:
            yield Choice({" ": 1})
        yield DOES


def all_texts(characters: int) -> dict[str, float]:
    """Every text of this length with its probability, by trying all choices."""
    found: dict[str, float] = defaultdict(float)
    for choices in itertools.product(range(3), repeat=4):
        grammar, text, chance = toy(), "", 1.0
        table = next(grammar)
        for choice in choices:
            if choice >= len(table.strings):
                chance = 0.0  # out of range: no such choice
                break
            chance *= float(np.diff([0.0, *table.cumulative, 1.0])[choice])
            text += table.strings[choice]
            table = grammar.send(table.strings[choice])
        found[text[:characters]] += chance
    return {text: chance for text, chance in found.items() if chance}


@pytest.mark.parametrize("characters", [1, 2, 3, 4, 5, 9])
def test_surprisals_match_enumeration_of_all_texts(characters: int) -> None:
    texts = all_texts(characters)
    assert sum(texts.values()) == pytest.approx(1)
    for text, chance in texts.items():
        surprisal = play_of(toy(), Parser(text), characters).surprisal
        assert len(surprisal) == characters
        assert math.exp(-surprisal.sum()) == pytest.approx(chance)


def test_sampled_frequencies_match_probabilities() -> None:
    texts = all_texts(3)
    counts = Counter(play_of(toy(), Sampler(seed), 3).text for seed in range(3000))
    for text, chance in texts.items():
        assert counts[text] / 3000 == pytest.approx(chance, abs=4 * math.sqrt(chance / 3000))


def test_ambiguous_strings_are_refused() -> None:
    with pytest.raises(ValueError, match="'king' and 'kings' cannot be in one choice"):
        Choice({"kings": 1, "queen": 1, "king": 1})


# ---- plays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("characters", [0, 1, 10, 1000])
def test_length_of_a_play(characters: int) -> None:
    play = write_play(characters)
    assert len(play.text) == len(play.surprisal) == characters
    assert play.text == PLAY.text[:characters]


def test_play_depends_on_the_seed() -> None:
    assert write_play(1000, seed=5).text == write_play(1000, seed=5).text != write_play(1000, seed=6).text


def test_play_has_the_65_characters() -> None:
    assert "".join(sorted(set(PLAY.text))) == CHARACTERS


@pytest.mark.parametrize("seed", range(3))
def test_parsed_surprisals_match_sampled_surprisals(seed: int) -> None:
    play = write_play(20_000, seed)
    np.testing.assert_allclose(surprisal_of(play.text), play.surprisal, rtol=1e-12)


def test_text_outside_the_grammar_is_refused() -> None:
    for at in (0, 700, 19_000):
        text = PLAY.text[:at] + "#" + PLAY.text[at + 1 : 20_000]
        with pytest.raises(ValueError, match=r"the grammar cannot produce .* at character") as raised:
            surprisal_of(text)
        stopped = int(re.findall(r"character (\d+)", str(raised.value))[0])
        assert at - 20 <= stopped <= at  # where the choice with the wrong character begins


def test_default_play_is_unchanged() -> None:
    """Runs on it are resumed only with the very same text."""
    play = write_play()
    assert len(play.text) == 1_115_394
    assert hashlib.sha256(play.text.encode()).hexdigest() == DIGEST
    assert play.surprisal.mean() == pytest.approx(0.5832968480603018, rel=1e-9)


def test_entropy_is_the_same_for_every_play_and_far_below_bigram_entropy() -> None:
    other = write_play(200_000, seed=1)
    error = math.hypot(*(play.surprisal.std() / math.sqrt(len(play.text)) for play in (PLAY, other)))
    assert abs(PLAY.surprisal.mean() - other.surprisal.mean()) < 5 * error
    pairs, singles = Counter(itertools.pairwise(PLAY.text)), Counter(PLAY.text[:-1])
    by_pairs = -sum(n * math.log(n / singles[pair[0]]) for pair, n in pairs.items()) / (len(PLAY.text) - 1)
    assert 0.4 < PLAY.surprisal.mean() < 0.5 * by_pairs


def test_verbs_agree_with_their_subjects() -> None:
    lines = PLAY.text.splitlines()
    assert sum(line.startswith("Thou art ") for line in lines) > 50
    wrong = re.compile(
        r"\b(I (art|is|are)|[Tt]hou (am|is|are)|[Hh]e (am|art|are)|[Tt]hey (am|art|is)|[Aa] \w+s (is|are)) "
    )
    assert not wrong.search(PLAY.text)


def test_addressed_speaker_tends_to_answer() -> None:
    speeches = re.findall(r"^([A-Z ]+):\n(.*?)\n\n", PLAY.text, re.MULTILINE | re.DOTALL)
    answers = [
        (re.findall(r"(?:, )(\w+)[.!;?:-]+\n?$", speech), following[0])
        for (_, speech), following in itertools.pairwise(speeches)
    ]
    called = [(names[0].upper(), speaker) for names, speaker in answers if names]
    assert len(called) > 100
    assert 0.5 < sum(name == speaker for name, speaker in called) / len(called) < 0.8
    assert all(one[0] != other[0] for one, other in itertools.pairwise(speeches))
