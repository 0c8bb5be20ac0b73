"""Synthetic plays: a random grammar in the look and the 65 characters of Shakespeare's, with a known entropy.

It serves where no text can be had. The plays follow words, grammar and customs: a verb agrees with its subject, a
character who is called by name tends to answer, no one speaks twice in a row. A model that has learned all of it
reaches the mean of `surprisal`, the entropy of the plays, and none can do better.

A text is the result of choices: each takes one string from a list with probabilities, and the choices so far decide
which list comes next. No string of a list is a prefix of another one in it, so that at most one sequence of choices
leads to a text, and a text can be parsed. Within a choice, with the part s of its string written so far,

    P(next character is c)  =  sum of the probabilities of the strings that begin with s + c
                               -------------------------------------------------------------
                               sum of the probabilities of the strings that begin with s

and the surprisal of the character is -log of that, in nats.
"""

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, float]


class Play(NamedTuple):
    text: str
    surprisal: NDArray[np.float64]  # nats, for each character given all before it


def write_play(characters: int = 1_115_394, seed: int = 0) -> Play:
    """A play of exactly this many characters."""
    return play_of(grammar(), Sampler(seed), characters)


# ---- choices ----------------------------------------------------------------------------------------------------


class Choice:
    """One of several strings, each with a probability in proportion to its weight."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.strings = list(weights)
        for first, second in itertools.pairwise(sorted(self.strings)):
            if second.startswith(first):
                raise ValueError(f"{first!r} and {second!r} cannot be in one choice: one is a prefix of the other")
        total = sum(weights.values())
        begins: dict[str, float] = defaultdict(float)  # the probability of all strings with this prefix
        for string, weight in weights.items():
            for end in range(len(string) + 1):
                begins[string[:end]] += weight / total
        probabilities = [begins[string] for string in self.strings]
        self.cumulative = np.cumsum(probabilities)[:-1].tolist()
        self.surprisals = [
            np.log([begins[s[:end]] / begins[s[: end + 1]] for end in range(len(s))]) for s in self.strings
        ]


Grammar = Generator[Choice, str, Any]  # yields a choice, is sent the string that was chosen; never ends
Chooser = Callable[[Choice], int]  # the index of the chosen string


def play_of(grammar: Grammar, choose: Chooser, characters: int) -> Play:
    """What the choices lead to: exactly so many characters, so that the last string may be cut off."""
    strings, surprisals, length = [], [np.empty(0)], 0
    choice = next(grammar)
    while length < characters:
        chosen = choose(choice)
        strings.append(choice.strings[chosen])
        surprisals.append(choice.surprisals[chosen])
        length += len(strings[-1])
        choice = grammar.send(strings[-1])
    return Play("".join(strings)[:characters], np.concatenate(surprisals)[:characters])


class Sampler:
    """Chooses at random."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._draws = itertools.chain.from_iterable(random.random(4096).tolist() for _ in itertools.count())

    def __call__(self, choice: Choice) -> int:
        return bisect_right(choice.cumulative, next(self._draws))


# ---- words ------------------------------------------------------------------------------------------------------


def _ranked(words: str) -> Weights:
    """Words from common to rare."""
    return {word.replace("_", " "): 1.0 / (rank + 2.0) for rank, word in enumerate(words.split())}


def _with(words: Weights, before: str = "", after: str = "") -> Weights:
    return {before + word + after: weight for word, weight in words.items()}


def _mixed(*parts: tuple[float, Weights]) -> Choice:
    """A choice among several kinds of strings, each kind with its share."""
    return Choice({word: share * weight / sum(kind.values()) for share, kind in parts for word, weight in kind.items()})


NAMES = _ranked(
    "Romeo Juliet Queen_Zenobia Duke_Frederick Xavier Viola Watchman Yorick Hector Beatrix Gravedigger Page Claudio "
    "Katharine Sylvia Umberto Old_Jack Isolde Lord_Maxwell Nurse Perdita"
)
NOUNS = _ranked(  # with regular plurals, and no vowel in front, where "a" would be "an"
    "lord king heart night crown sword friend star queen father storm letter jewel tear grave horse castle prince fool "
    "garden daughter promise moon candle vow ghost poison messenger throne zealot soldier winter fox riddle bridge "
    "knave quarrel wound plot tale secret"
)
ADJECTIVES = _ranked(
    "sweet noble cold false gentle silent bright bloody proud pale quick bitter half-mad golden weary jealous crooked "
    "fair-haired lazy vexed dear true wretched royal"
)
VERBS = _ranked("love fear know seek hear keep follow need doubt mourn")
OWNERS = {"the ": 8.0, "my ": 6.0, "thy ": 5.0, "no ": 2.0, "our ": 2.0}  # a singular or a plural may follow
ONE = {"a ": 4.0, "this ": 2.0}  # a singular follows

# by person: to be, to have, and the ending of the other verbs
FORMS = {
    "I": ("am ", "have ", ""),
    "thou": ("art ", "hast ", "st"),
    "he": ("is ", "hath ", "s"),
    "they": ("are ", "have ", ""),
}
PRONOUNS = {"I ": "I", "Thou ": "thou", "He ": "he", "She ": "he", "We ": "they", "They ": "they"}

OPENINGS = (
    (0.45, {"I ": 8.0, "Thou ": 6.0, "He ": 3.0, "She ": 3.0, "We ": 3.0, "They ": 2.0}),
    (0.3, {owner.capitalize(): weight for owner, weight in (OWNERS | ONE).items()}),
    (0.12, {"Art thou ": 3.0, "Is she ": 2.0, "Dost thou ": 3.0, "Why do they ": 1.0}),
    (0.05, {"O ": 1.0}),
    (0.03, {"'Tis ": 1.0}),
    (0.05, {"Farewell, ": 2.0, "Come, ": 2.0, "Good night, ": 1.0, "Look, ": 1.0, "Zounds, ": 0.3}),
)
ENDS = (0.15, 0.35, 0.5, 0.6, 0.8)  # how likely a speech ends after so many lines
FIRST = _mixed(*OPENINGS)
NEXT = [
    _mixed((end, {"\n\n": 1.0}), *(((1.0 - end) * share, _with(kind, "\n")) for share, kind in OPENINGS))
    for end in ENDS
]
ONWARD = Choice({"And ": 4.0, "But ": 2.0, "For ": 1.0, "Yet ": 1.0, "When ": 1.0, "If ": 1.0})
SUBJECTS = _mixed((0.6, {who if who == "I " else who.lower(): 1.0 for who in PRONOUNS}), (0.4, OWNERS | ONE))
COUNT = {True: Choice({" ": 3.0, "s ": 1.0}), False: Choice({" ": 1.0})}  # by whether a plural may follow


def _verbs(ending: str) -> Weights:
    return {
        verb + ("e" if ending == "st" and not verb.endswith("e") else "") + ending + " ": weight
        for verb, weight in VERBS.items()
    }


PREDICATES = {
    who: _mixed((0.35, {be: 1.0}), (0.15, {have: 1.0}), (0.5, _verbs(ending)))
    for who, (be, have, ending) in FORMS.items()
}
STATES = _mixed((0.6, ADJECTIVES), (0.3, OWNERS | ONE), (0.1, {"not ": 1.0}))
NOT_STATES = _mixed((0.7, ADJECTIVES), (0.3, OWNERS | ONE))
THINGS = _mixed((0.7, OWNERS | ONE), (0.29, {"thee": 4.0, "him": 2.0, "me": 3.0}), (0.01, {"$3 & a song": 1.0}))
DESCRIBED = _mixed((0.65, NOUNS), (0.35, _with(ADJECTIVES, after=" ")))
ADJECTIVE, NOUN, NAME = Choice(_with(ADJECTIVES, after=" ")), Choice(NOUNS), Choice(NAMES)
VERB, OWNER = Choice(_verbs("")), Choice(OWNERS | ONE)


class Closing(NamedTuple):
    """How a clause ends or goes on."""

    one: Choice  # after one thing
    many: Choice  # after what may be one thing or many
    name: Choice  # after a name

    @classmethod
    def of(cls, marks: Weights, *others: tuple[float, Weights]) -> "Closing":
        """With these marks, or in other ways, each with its share."""
        parts = [(1.0 - sum(share for share, _ in others), marks), *others]
        many = _mixed((0.25, {"s": 1.0}), *((0.75 * share, kind) for share, kind in parts))
        return cls(_mixed(*parts), many, Choice(marks))


MARKS = {".": 6.0, ";": 1.0, ":": 0.7, "!": 1.5, "--": 0.4}
PLAIN = Closing.of(MARKS)
SAID = Closing.of(MARKS, (0.2, {",\n": 1.0}), (0.07, {", ": 1.0}), (0.08, {" in ": 2.0, " for ": 1.0}))
ASKED = Closing.of({"?": 1.0}, (0.1, {", ": 1.0}))
CRIED = Closing.of({"!": 1.0})

# ---- grammar ----------------------------------------------------------------------------------------------------
#
# Each part yields choices and is sent the chosen strings. It returns the name that was called, if any.

Part = Generator[Choice, str, str]


def grammar() -> Part:
    speaker = called = ""
    while True:
        speaker = (yield _speakers(speaker, called)).removesuffix(":\n")
        called = yield from _speech()


@cache
def _speakers(before: str, called: str) -> Choice:
    """A character who was called tends to answer; no one speaks twice in a row."""
    others = {f"{name.upper()}:\n": weight for name, weight in NAMES.items() if name.upper() != before}
    answer = f"{called.upper()}:\n"
    if answer not in others:
        return Choice(others)
    del others[answer]
    return _mixed((0.7, {answer: 1.0}), (0.3, others))


def _speech() -> Part:
    called = ""
    opening = yield FIRST
    for line in itertools.count():
        called = (yield from _line(opening)) or called
        opening = yield NEXT[min(line, len(NEXT) - 1)]
        if opening == "\n\n":
            break
        opening = opening.removeprefix("\n")
    return called


def _line(opening: str) -> Part:
    if opening == "O ":
        yield ADJECTIVE
        return (yield from _noun("a ", CRIED))
    if opening.endswith(", "):
        return (yield from _name(PLAIN))
    if opening == "'Tis ":
        return (yield from _state(SAID))
    if opening in ("Art thou ", "Is she "):
        return (yield from _state(ASKED))
    if opening in ("Dost thou ", "Why do they "):
        yield VERB
        return (yield from _thing(ASKED))
    return (yield from _clause(opening))


def _clause(subject: str) -> Part:
    """Who does what; the verb agrees with the subject."""
    person = PRONOUNS.get(subject.capitalize())
    if person is None:
        described = yield DESCRIBED
        if described.endswith(" "):
            yield NOUN
        person = "he" if (yield COUNT[subject.lower() in OWNERS]) == " " else "they"
    verb = yield PREDICATES[person]
    be, have, _ = FORMS[person]
    if verb == be:
        return (yield from _state(SAID))
    if verb == have:
        return (yield from _noun((yield OWNER), SAID))
    return (yield from _thing(SAID))


def _state(closing: Closing) -> Part:
    """What somebody is."""
    state = yield STATES
    if state == "not ":
        state = yield NOT_STATES
    if state in OWNER.strings:
        return (yield from _noun(state, closing))
    return (yield from _end((yield closing.one), closing))


def _thing(closing: Closing) -> Part:
    """To whom or what something is done."""
    thing = yield THINGS
    if thing in OWNER.strings:
        return (yield from _noun(thing, closing))
    return (yield from _end((yield closing.one), closing))


def _noun(owner: str, closing: Closing) -> Part:
    if (yield DESCRIBED).endswith(" "):
        yield NOUN
    end = yield closing.many if owner in OWNERS else closing.one
    return (yield from _end((yield closing.one) if end == "s" else end, closing))


def _end(end: str, closing: Closing) -> Part:
    if end == ", ":
        return (yield from _name(closing))
    if end in (" in ", " for "):
        return (yield from _noun((yield OWNER), PLAIN))
    if end == ",\n":
        yield ONWARD
        return (yield from _clause((yield SUBJECTS)))
    return ""


def _name(closing: Closing) -> Part:
    name = yield NAME
    yield closing.name
    return name
