"""What a page with the model can do: read any text, show every layer and head, take steps, and continue the text."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_numpy import GPTConfig
from gpt_numpy.cli import CLI
from gpt_numpy.explain import command
from gpt_numpy.explain.account import account
from gpt_numpy.explain.living import living_contents
from gpt_numpy.explain.page import write_page
from gpt_numpy.explain.problem import Problem
from gpt_numpy.explain.subject import OfText, subject_of
from gpt_numpy.explain.trace import Trace
from gpt_numpy.workshop.params import initial_weights
from gpt_numpy.workshop.report.report import embedded
from minitensor.arrays import Array
from tests.equivalence.problems import SEEDS, any_config, perturb
from tests.explain.reader import TEXT, Reader, all_of, fragment, is_worker, make_page, split_page

pytestmark = pytest.mark.together("a browser for a page with the model")
in_detail = pytest.mark.slow("a browser, in detail")
OTHER = "robe not, or To"  # other words with the characters of TEXT, which are all that its model knows


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "WORK", 0.0)  # without differences
        yield make_page(tmp_path_factory.mktemp("page") / "attention.html", TEXT)


@pytest.fixture(scope="module")
def subject() -> OfText:
    return subject_of(CLI, {"text": TEXT})


@pytest.fixture
def reader(shared_reader: Reader, file: Path) -> Iterator[Reader]:
    """The page as it opens: what a test has typed, and the steps that it took, are no longer there."""
    shared_reader.messages.clear()
    shared_reader.requests.clear()
    shared_reader.page.set_default_timeout(10_000)
    shared_reader.open()
    shared_reader.page.evaluate("document.querySelector('#breaks-menu').open = false")  # it covers the heads
    yield shared_reader
    check_quiet(shared_reader)


def check_quiet(reader: Reader) -> None:
    assert reader.messages == []
    fetched = {url.partition("#")[0] for url in reader.requests if not is_worker(url)}
    assert fetched <= {"about:blank", reader.file.as_uri()}, "the page made requests"


def problem_of(subject: OfText, text: str, layer: int = 0, head: int = 0) -> Problem:
    """Another text in the model of the first one."""
    ids = np.array([subject.characters.index(one) for one in text])
    return replace(subject.problem, ids=ids[:-1], targets=ids[1:], layer=layer, head=head)


# ---- what is on the screen ----------------------------------------------------------------------------------------


def wait(reader: Reader, text: str, layer: int = 0, head: int = 0) -> None:
    """Until the page shows this text, layer and head."""
    reader.page.wait_for_function(
        """([title, about]) => document.title === title
            && document.querySelector("#about").textContent.startsWith(about)""",
        arg=[f"Attention gradients: {text}", f"Head {head} of layer {layer}:"],
    )


def show(reader: Reader, state: str, text: str = TEXT, layer: int = 0, head: int = 0) -> None:
    reader.go(state)
    wait(reader, text, layer, head)


def value(reader: Reader) -> float:
    return reader.number("#account [data-way=page]", "value")


def wait_for_value(reader: Reader, expected: float) -> None:
    """Until the open account has this number."""
    reader.page.wait_for_function(
        """expected => {
            const way = document.querySelector("#account [data-way=page]")
            return way && Math.abs(way.dataset.value - expected) <= 1e-10 * Math.abs(expected)
        }""",
        arg=float(expected),
    )


def wait_for_entry(reader: Reader, entry: str) -> None:
    """Until a link that was clicked has opened this entry."""
    reader.page.wait_for_selector(f"#entry[aria-label^='{entry} = ']")
    assert fragment(reader.page.evaluate("location.href")).partition("&")[0] == entry


def wait_for_text(reader: Reader, selector: str, part: str) -> str:
    found: str = reader.page.wait_for_function(
        """([selector, part]) => {
            const text = document.querySelector(selector)?.textContent ?? ""
            return text.includes(part) && text
        }""",
        arg=[selector, part],
    ).json_value()
    return found


def check_entries(reader: Reader, trace: Trace) -> None:
    """Entries of the open head, in their accounts and with all that is computed for them."""
    last = len(trace.problem.ids) - 1
    for name, index in (("S", (last, 1)), ("dS", (last, 0)), ("dK", (1, 1)), ("dX", (0, 3)), ("dW_o", (1, 1))):
        rest = [part for part in fragment(reader.page.evaluate("location.href")).split("&") if "=" in part]
        reader.go("#" + "&".join([f"{name}[{','.join(map(str, index))}]", *rest]))
        wait_for_value(reader, trace.numbers[name][index])
        if name.startswith("d"):
            reader.page.wait_for_selector("#account [data-way=difference][data-value]")
        assert not reader.page.query_selector_all("#account .wrong")


def check_numbers(trace: Trace, found: Mapping[str, Array]) -> None:
    """All numbers of all quantities are minitensor's."""
    assert set(found) == set(trace.quantities)
    for name in trace.quantities:
        expected = np.ravel(trace.numbers[name])
        finite = np.isfinite(expected)
        numbers = found[name]
        assert numbers.shape == expected.shape, name
        assert (numbers[~finite] == expected[~finite]).all(), name
        allowed = 1e-10 * np.abs(expected[finite]).max(initial=0.0)
        if name == "db_k":  # 0, but for the rounding of its sum
            allowed = 1e-10 * np.abs(trace.numbers["dK"]).max()
        errors = np.abs(numbers[finite] - expected[finite])
        assert errors.max(initial=0.0) <= allowed, name


# The page's own engine, with the model of the page or with another. Its worker runs the same script.
NUMBERS = """async ([problem, model]) => {
    answers.reset() // forgets the latest pass
    await answers.load(model ?? JSON.parse(document.querySelector("#data").textContent).model)
    const { numbers } = await answers.run(problem)
    return Object.entries(numbers).map(([name, all]) => [name, all.join()]) // a text crosses over fastest
}"""


def numbers_of(reader: Reader, trace: Trace, model: dict[str, Any] | None = None) -> dict[str, Array]:
    """The page's numbers of what the trace is of."""
    problem = trace.problem
    question = {"ids": problem.ids.tolist(), "targets": problem.targets.tolist(), "layer": problem.layer,
                "head": problem.head, "names": list(trace.quantities)}  # fmt: skip
    found = reader.page.evaluate(NUMBERS, [question, model])
    return {name: np.array(numbers.split(","), dtype=np.float64) for name, numbers in found}


# ---- a text ---------------------------------------------------------------------------------------------------------


def test_typing_another_text_shows_its_numbers(reader: Reader, subject: OfText) -> None:
    reader.go("#dK[3,1]")
    reader.page.fill("#text", OTHER)
    wait(reader, OTHER)
    trace = Trace(problem_of(subject, OTHER))
    assert value(reader) == pytest.approx(trace.numbers["dK"][3, 1], rel=1e-11)
    assert fragment(reader.page.evaluate("location.href")) == f"dK[3,1]&text={OTHER}"
    reads = reader.page.eval_on_selector_all("#characters > span", "all => all.map(one => one.childNodes[1].data)")
    assert reads == [one.replace(" ", "␣") for one in OTHER[:-1]]
    reader.go(f"#L&text={OTHER}")
    assert value(reader) == pytest.approx(float(trace.numbers["L"]), rel=1e-13)


@in_detail
def test_accounts_of_a_typed_text_are_right_in_every_head(reader: Reader, subject: OfText) -> None:
    reader.page.fill("#text", OTHER)
    wait(reader, OTHER)
    for layer, head in ((0, 0), (1, 1)):
        show(reader, f"#text={OTHER}&layer={layer}&head={head}", OTHER, layer, head)
        check_entries(reader, Trace(problem_of(subject, OTHER, layer, head)))


@in_detail
def test_text_is_typed_key_by_key(reader: Reader) -> None:
    """Each key of a text that can be read is a text of its own; the address is one step of the history."""
    before = reader.page.evaluate("history.length")
    reader.page.click("#text")
    reader.page.keyboard.press("End")
    reader.page.keyboard.type(" to be", delay=5)
    wait(reader, f"{TEXT} to be")
    assert reader.page.evaluate("history.length") == before
    assert reader.page.input_value("#text") == f"{TEXT} to be"
    assert reader.page.is_hidden("#text-note")
    assert reader.page.is_hidden("#account")  # t and f in the field begin no tour and change no type
    assert reader.page.is_hidden("#tour")


@in_detail
def test_open_entry_closes_if_the_text_has_become_too_short_for_it(reader: Reader) -> None:
    show(reader, "#dS[9,1]")
    reader.page.fill("#text", "To be, or n")
    wait(reader, "To be, or n")
    assert reader.page.is_visible("#account")
    assert reader.page.get_attribute("#entry", "aria-label").startswith("dS[9,1] = ")
    reader.page.fill("#text", "To be")
    wait(reader, "To be")
    assert reader.page.is_hidden("#account")
    assert fragment(reader.page.evaluate("location.href")) == "text=To be"
    assert reader.page.is_hidden("#notice")


REFUSED = {
    "To bee!": ["“!”"],
    "To \N{SMILING FACE WITH SMILING EYES}be": ["“\N{SMILING FACE WITH SMILING EYES}”"],
    "\N{HEBREW LETTER SHIN}\N{HEBREW LETTER ALEF}To\N{RIGHT-TO-LEFT OVERRIDE}": [
        "“\N{HEBREW LETTER SHIN}”, “\N{HEBREW LETTER ALEF}”, U+202E"
    ],
    "<script>alert(1)</script>": ["“<”, “s”, “c”"],
    "<img src=x onerror=alert(1)>": ["“<”, “i”, “m”, “g”"],
    "T": ["at least two"],
    "": ["at least two"],
    "be" * 5000: ["640 characters", "at most 64"],  # the field takes no more
}


@in_detail
def test_text_that_cannot_be_read_is_refused_in_one_line(reader: Reader, subject: OfText) -> None:
    """The last result stays, unknown characters are underlined and named, and nothing becomes markup."""
    for text, parts in REFUSED.items():
        page = reader.page
        page.fill("#text", OTHER)
        wait(reader, OTHER)
        elements = page.evaluate("document.querySelectorAll('script, img').length")
        page.fill("#text", text)
        page.wait_for_selector("#text-note:not([hidden])")
        note = page.text_content("#text-note")
        assert all(part in note for part in parts), note
        assert note.endswith("The last text that it could read stays.")
        assert len(note) < 160
        assert page.input_value("#text") == text[:640]
        assert page.get_attribute("#text", "aria-invalid") == "true"
        unknown = [one for one in text if one not in subject.characters]
        assert page.eval_on_selector_all("#unknown u", "all => all.map(one => one.textContent)") == unknown
        assert page.is_visible("#unknown") == bool(unknown)
        assert page.evaluate("document.querySelectorAll('script, img').length") == elements
        wait(reader, OTHER)
        assert fragment(page.evaluate("location.href")) == f"text={OTHER}"
        page.fill("#text", TEXT)
        wait(reader, TEXT)
        assert page.is_hidden("#text-note")
        assert page.is_hidden("#unknown")
        assert page.get_attribute("#text", "aria-invalid") == "false"


@in_detail
def test_address_with_a_text_that_cannot_be_read_says_so(reader: Reader) -> None:
    for text in ("x!", "T", "be" * 40, "<script>alert(1)</script>"):
        reader.open(f"#text={text}")
        assert reader.page.is_visible("#notice")
        assert 20 < len(reader.page.text_content("#notice")) < 120
        wait(reader, TEXT)


@in_detail
def test_address_of_a_text_opens_the_same_page(reader: Reader, subject: OfText) -> None:
    page = reader.page
    page.fill("#text", OTHER)
    wait(reader, OTHER)
    page.click("#heads [data-head='1.1']")
    wait(reader, OTHER, 1, 1)
    reader.go(f"#dS[5,2]{page.evaluate('location.hash').replace('#', '&')}")
    shown, url, about = value(reader), page.url, page.text_content("#about")
    reader.open(url.partition("#")[1] + url.partition("#")[2])
    wait(reader, OTHER, 1, 1)
    assert page.input_value("#text") == OTHER
    assert (page.url, page.text_content("#about"), value(reader)) == (url, about, shown)
    assert shown == pytest.approx(Trace(problem_of(subject, OTHER, 1, 1)).numbers["dS"][5, 2], rel=1e-11)


@in_detail
def test_going_back_goes_back_to_the_text_and_the_head(reader: Reader) -> None:
    page = reader.page
    show(reader, f"#text={OTHER}", OTHER)
    assert page.input_value("#text") == OTHER
    page.fill("#text", "no!")  # refused, and gone with the text
    page.wait_for_selector("#text-note:not([hidden])")
    page.click("#heads [data-head='1.0']")
    wait(reader, OTHER, 1, 0)
    assert page.input_value("#text") == "no!"
    page.go_back()
    wait(reader, OTHER)
    page.go_back()
    wait(reader, TEXT)
    assert page.input_value("#text") == TEXT
    assert page.is_hidden("#text-note")
    page.go_forward()
    wait(reader, OTHER)
    assert page.input_value("#text") == OTHER


# ---- the numbers ----------------------------------------------------------------------------------------------------


def test_numbers_of_the_page_are_those_of_minitensor(reader: Reader, subject: OfText) -> None:
    for layer, head, text in ((0, 0, TEXT), (1, 1, OTHER)):
        trace = Trace(problem_of(subject, text, layer, head))
        check_numbers(trace, numbers_of(reader, trace))


@in_detail
@given(length=st.integers(2, 40), seed=SEEDS)
@settings(max_examples=10)
def test_numbers_of_any_text_and_head(length: int, seed: int, shared_reader: Reader, subject: OfText) -> None:
    random = np.random.default_rng(seed)
    text = "".join(random.choice(list(TEXT), length))
    trace = Trace(problem_of(subject, text, int(random.integers(2)), int(random.integers(2))))
    check_numbers(trace, numbers_of(shared_reader, trace))


@in_detail
@given(seed=SEEDS)
@settings(max_examples=20)
def test_numbers_of_any_model(seed: int, shared_reader: Reader) -> None:
    """With and without biases, tied weights, one head and several, both forms of GELU."""
    random = np.random.default_rng(seed)
    problem = any_model(random, any_config(random), seed)
    trace = Trace(problem)
    contents = json.loads(json.dumps(living_contents(trace, {})))
    check_numbers(trace, numbers_of(shared_reader, trace, contents["model"]))


def any_model(random: np.random.Generator, config: GPTConfig, seed: int) -> Problem:
    weights = perturb(initial_weights(config, 0), config, seed, 0.3)
    ids = random.integers(0, config.vocab_size, int(random.integers(2, config.block_size + 2)))
    chosen = int(random.integers(config.n_layer)), int(random.integers(config.n_head))
    return Problem(config, {"lm_head.weight": weights["tok_emb.weight"], **weights}, ids[:-1], ids[1:], *chosen)


def living_page(problem: Problem, path: Path) -> Path:
    """A page of any model, whose characters are letters."""
    letters = [chr(ord("a") + n) for n in range(problem.config.vocab_size)]
    about = {"text": "".join(letters[n] for n in problem.ids), "vocabulary": letters, "characters": letters,
             "described": "a model", "command": ["gpt-numpy explain abc", ""], "program": "gpt-numpy", "flags": "",
             "torch": True, "learns": ""}  # fmt: skip
    write_page(path, living_contents(Trace(problem), about))
    return path


def model_of(seed: int, **changes: Any) -> Problem:
    config = GPTConfig(**{"vocab_size": 5, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8, **changes})
    random = np.random.default_rng(seed)
    ids = random.integers(0, 5, 8)
    return replace(any_model(random, config, seed), ids=ids[:-1], targets=ids[1:], layer=0, head=0)


MODELS = [
    {"bias": False, "tie_weights": True},
    {"n_head": 1, "gelu": "tanh"},
    {"n_layer": 3, "bias": False},
    {"n_layer": 1, "n_head": 4, "tie_weights": True, "gelu": "tanh"},
]


@in_detail
@pytest.mark.parametrize("changes", MODELS, ids=" ".join)
def test_page_of_another_model(changes: dict[str, Any], browser: Any, tmp_path: Path) -> None:
    """Every layer and head has its numbers, on the first text and on another, and steps are predicted."""
    problem = model_of(4, **changes)
    config = problem.config
    reader = Reader(browser, living_page(problem, tmp_path / "page.html"))
    first = "".join(chr(ord("a") + n) for n in [*problem.ids, problem.targets[-1]])
    assert reader.number("#own", "largest") < 1e-12
    assert "DO NOT" not in reader.page.text_content("#own")
    for layer in range(config.n_layer):
        head = (config.n_head - 1) * (layer % 2)
        trace = Trace(replace(problem, layer=layer, head=head))
        show(reader, f"#dS[2,1]&layer={layer}&head={head}", first, layer, head)
        wait_for_value(reader, trace.numbers["dS"][2, 1])
        assert "this matrix agrees" in reader.page.text_content("#account [data-way=libraries]")
        assert not reader.page.query_selector_all("#account .wrong")
        check_numbers(trace, numbers_of(reader, trace))
    show(reader, "#text=edcbabc", "edcbabc")
    ids = np.array([4, 3, 2, 1, 0, 1, 2])
    check_entries(reader, Trace(replace(problem, ids=ids[:-1], targets=ids[1:], layer=0, head=0)))
    take_step(reader, problem=replace(problem, ids=ids[:-1], targets=ids[1:]), rate=1e-2)
    check_quiet(reader)


# ---- layers and heads -----------------------------------------------------------------------------------------------


@in_detail
def test_click_on_a_map_opens_its_head(reader: Reader, subject: OfText) -> None:
    page = reader.page
    reader.go("#dS[5,2]")
    pressed = "#heads [aria-pressed=true]"
    assert all_of(page, pressed, "head") == ["0.0"]
    assert all_of(page, "#heads button", "head") == ["0.0", "0.1", "1.0", "1.1"]
    page.click("#heads [data-head='1.0']")
    wait(reader, TEXT, 1, 0)
    assert fragment(page.evaluate("location.href")) == "dS[5,2]&layer=1"
    assert all_of(page, pressed, "head") == ["1.0"]
    assert value(reader) == pytest.approx(Trace(problem_of(subject, TEXT, 1, 0)).numbers["dS"][5, 2], rel=1e-11)
    page.focus("#heads [data-head='1.1']")
    page.keyboard.press("Enter")
    wait(reader, TEXT, 1, 1)
    assert fragment(page.evaluate("location.href")) == "dS[5,2]&layer=1&head=1"
    assert page.evaluate("document.activeElement.dataset.head") == "1.1"
    assert "--layer 1 --head 1 --entry 'dS[5,2]'" in page.text_content("#account pre")


MAP = """([selector, size]) => { // the brightness of each cell of a map
    const { width, height } = document.querySelector(selector)
    const { data } = document.querySelector(selector).getContext("2d").getImageData(0, 0, width, height)
    return Array.from({ length: size * size }, (_, n) => {
        const at = (k, length) => Math.floor((k + .5) * length / size)
        const first = 4 * (at(Math.floor(n / size), height) * width + at(n % size, width))
        return data[first] + data[first + 1] + data[first + 2]
    })
}"""


@in_detail
def test_maps_show_the_weights_of_every_head(reader: Reader, subject: OfText) -> None:
    """The larger a weight, the darker its cell."""
    size = len(TEXT) - 1
    for layer, head in ((0, 1), (1, 0)):
        found = np.array(reader.page.evaluate(MAP, [f"#heads [data-head='{layer}.{head}'] canvas", size]))
        P = Trace(problem_of(subject, TEXT, layer, head)).numbers["P"].ravel()
        visible = np.tri(size, dtype=bool).ravel()
        assert P[found == found[visible].min()].max() == P.max()
        darkening = -np.diff(found[visible][np.argsort(P[visible])])
        assert darkening.min() >= -3  # a larger weight is darker, but for the rounding of its colour
        assert darkening.sum() > 100


@in_detail
def test_pinned_head_is_compared_on_one_scale(reader: Reader, subject: OfText) -> None:
    page = reader.page
    assert page.is_hidden("#pinned")
    page.click("#heads [data-head='0.1']", modifiers=["Shift"])
    page.wait_for_selector("#pinned canvas")
    assert fragment(page.evaluate("location.href")) == "pin=0.1"
    page.click("#heads [data-head='1.0']")
    wait(reader, TEXT, 1, 0)
    assert fragment(page.evaluate("location.href")) == "layer=1&pin=0.1"
    labels = ["layer 1, head 0", "layer 0, head 1", "difference"]
    assert all_of(page, "#pinned figure", "side") == labels
    assert page.get_attribute("#heads [data-head='0.1']", "class") == "pinned"
    own, other = (Trace(problem_of(subject, TEXT, *pair)).numbers for pair in ((1, 0), (0, 1)))
    for name in ("S", "P", "dS"):
        page.locator("#pinned .head button", has_text=re.compile(f"^{name}$")).click()
        parts = [np.tril(one) for one in (np.where(np.isfinite(n[name]), n[name], 0) for n in (own, other))]
        expected = [*parts, parts[0] - parts[1]]
        assert reader.number("#pinned [data-scale]", "scale") == pytest.approx(max(np.abs(x).max() for x in expected))
        page.focus(f"#pinned [data-side='difference'] [data-compared={name}]")
        page.keyboard.press("ArrowDown")
        tip = page.inner_text("#tip").replace("\N{MINUS SIGN}", "-")
        for label, numbers in zip(labels, expected, strict=True):
            found = re.search(f"{label} (\\S+)", tip)
            assert found, (label, tip)
            assert float(found[1]) == pytest.approx(numbers[1, 0], rel=1e-4)
        page.keyboard.press("ArrowUp")
    page.click("#heads [data-head='0.1']", modifiers=["Shift"])
    page.wait_for_selector("#pinned", state="hidden")
    assert fragment(page.evaluate("location.href")) == "layer=1"


@in_detail
def test_head_is_pinned_by_keyboard(reader: Reader) -> None:
    page = reader.page
    page.focus("#pin")
    page.keyboard.press("Enter")
    page.wait_for_selector("#pinned canvas")
    assert fragment(page.evaluate("location.href")) == "pin=0.0"
    assert page.text_content("#pin") == "Unpin"
    assert page.evaluate("document.activeElement.id") == "pin"
    page.keyboard.press("Enter")
    page.wait_for_selector("#pinned", state="hidden")
    assert page.text_content("#pin") == "Pin this head"
    assert fragment(page.evaluate("location.href")) == ""


@in_detail
def test_address_of_what_is_not_there_is_reported(reader: Reader) -> None:
    for part in ("layer=2", "head=2", "layer=-1", "head=x", "pin=2.0", "pin=1", "layer=", "text=%"):
        show(reader, f"#{part}")
        assert 10 < len(reader.page.text_content("#notice")) < 150


# ---- links into other layers and heads ------------------------------------------------------------------------------


ELSEWHERE = [  # an entry of a head; the layer and head that a link leads to, the entry there, and the link's text
    ("dY_mlp0[2,3]&layer=1", (0, 0), "dY_mlp0[2,3]", "layer 0"),
    ("Y_mlp0[2,3]&layer=1&head=1", (0, 1), "Y_mlp0[2,3]", "layer 0"),
    ("Y_attn0[4,1]&layer=1", (0, 0), "Y[4,1]", "layer 0"),
    ("Y_attn1[4,1]", (1, 0), "Y[4,1]", "layer 1"),
    ("dN_attn1[3,2]&head=1", (1, 1), "dX[3,2]", "layer 1"),
]


@in_detail
def test_links_lead_to_the_same_number_of_another_layer(reader: Reader) -> None:
    for start, to, entry, label in ELSEWHERE:
        layer, head = (int(found[1]) if (found := re.search(f"{name}=(.)", start)) else 0 for name in ("layer", "head"))
        show(reader, f"#{start}", TEXT, layer, head)
        before = value(reader)
        link = reader.page.locator("#account .elsewhere a")
        assert link.all_text_contents() == [f"{label}: {entry}"]
        link.click()
        wait(reader, TEXT, *to)
        assert fragment(reader.page.evaluate("location.href")).partition("&")[0] == entry
        assert value(reader) == pytest.approx(before, rel=1e-12)
        assert not reader.page.query_selector_all("#account .wrong")


@in_detail
def test_links_lead_to_other_heads(reader: Reader) -> None:
    for start, entry in (("Y_others[3,2]", "O[3,0]"), ("dX_others[3,2]", "dQ[3,0]")):
        show(reader, f"#{start}&layer=1", TEXT, 1, 0)
        reader.page.click("#account .elsewhere a >> text=head 1")
        wait(reader, TEXT, 1, 1)
        assert fragment(reader.page.evaluate("location.href")) == f"{entry}&layer=1&head=1"


@in_detail
def test_gradient_of_the_embedding_is_what_bypasses_and_what_comes_through(reader: Reader) -> None:
    """From dR of the first layer, the account leads to dtok = dY + dR; in the second, to the MLP below."""
    for layer, name in ((0, "dtok"), (1, "dY_mlp0")):
        show(reader, f"#dR[2,3]&layer={layer}", TEXT, layer)
        reader.page.click(f"#account .uses a[href^='#{name}']")
        wait_for_entry(reader, f"{name}[2,3]")
        terms = reader.numbers("#account tr[data-term]", "term")
        assert len(terms) == 2
        parts = []
        for part in ("dY", "dR"):
            reader.go(f"#{part}[2,3]&layer={layer}")
            parts.append(value(reader))
        assert sorted(terms) == sorted(parts)


# ---- steps ----------------------------------------------------------------------------------------------------------


def gradients(problem: Problem, is_own: bool = False) -> dict[str, Array]:
    """Of all parameters, each once; or of the head's own alone, with 0 for the rest."""
    trace = Trace(problem)
    found = {name: trace._gradient(name) for name in problem.weights}
    if is_own:
        kept = {name: np.zeros_like(array) for name, array in found.items()}
        for name in ("W_q", "W_k", "W_v", "b_q", "b_k", "b_v", "W_o"):
            if name in problem.places:
                of, part, _ = problem.places[name]
                kept[of][part] = found[of][part]
        return kept
    if problem.config.tie_weights:
        found["tok_emb.weight"] = found["tok_emb.weight"] + found.pop("lm_head.weight")
    return found


def after_step(problem: Problem, rate: float, is_own: bool = False) -> Problem:
    weights = {name: problem.weights[name] - rate * g for name, g in gradients(problem, is_own).items()}
    return replace(problem, weights={"lm_head.weight": weights["tok_emb.weight"], **weights})


def loss(problem: Problem) -> float:
    return float(Trace(problem).numbers["L"])


def set_range(reader: Reader, selector: str, number: float) -> None:
    script = "(range, value) => { range.value = value; range.dispatchEvent(new Event('input', { bubbles: true })) }"
    reader.page.eval_on_selector(selector, script, str(number))


def open_steps(reader: Reader, rate: float) -> None:
    if reader.page.is_hidden("#learn"):
        reader.page.click("#toggle-learn")
    wait_for_text(reader, "#prediction", "L =")
    set_range(reader, "#rate", np.log10(rate))


def numbers_in(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text.replace("\N{MINUS SIGN}", "-"))]


def take_step(reader: Reader, problem: Problem, rate: float, is_own: bool = False) -> Problem:
    """The page's step is one of gradient descent. The problem after it."""
    open_steps(reader, rate)
    reader.page.select_option("#scope", "head" if is_own else "all")
    reader.page.click("#one-step")
    said = wait_for_text(reader, "#step-result", "After: ")
    before, after, predicted = numbers_in(said)
    then = after_step(problem, rate, is_own)
    squared = sum(float(np.sum(g * g)) for g in gradients(problem, is_own).values())
    assert before == pytest.approx(loss(problem), rel=1e-4)
    assert after == pytest.approx(loss(then), rel=1e-4)
    assert predicted == pytest.approx(loss(problem) - rate * squared, rel=1e-4)
    return then


def test_step_lowers_the_loss_as_in_minitensor(reader: Reader, subject: OfText) -> None:
    reader.go("#L")
    before = value(reader)
    then = take_step(reader, subject.problem, 0.01)
    wait_for_value(reader, loss(then))
    assert value(reader) < before - 0.1


@in_detail
def test_step_changes_every_number(reader: Reader, subject: OfText) -> None:
    """In another head and on another text, too; the check of the file was of the weights before it."""
    page = reader.page
    reader.go("#dS[5,2]")
    assert "this matrix agrees" in page.text_content("#account [data-way=libraries]")
    then = take_step(reader, subject.problem, 0.1)
    wait_for_value(reader, Trace(then).numbers["dS"][5, 2])
    assert "on the first text only, before any step" in page.text_content("#account [data-way=libraries]")
    assert not page.query_selector_all("#account .wrong")
    show(reader, f"#text={OTHER}&layer=1&head=1", OTHER, 1, 1)
    check_entries(reader, Trace(replace(problem_of(subject, OTHER, 1, 1), weights=then.weights)))
    page.click("#undo")
    wait_for_text(reader, "#step-result", "undone")
    check_entries(reader, Trace(problem_of(subject, OTHER, 1, 1)))


@in_detail
def test_small_step_of_one_head_alone(reader: Reader, subject: OfText) -> None:
    """Its loss is on the straight line; the other head's queries stay."""
    problem = problem_of(subject, TEXT, 1, 1)
    show(reader, "#L&layer=1&head=1", TEXT, 1, 1)
    then = take_step(reader, problem, 1e-4, is_own=True)
    wait_for_value(reader, loss(then))
    squared = sum(float(np.sum(g * g)) for g in gradients(problem, True).values())
    assert value(reader) == pytest.approx(loss(problem) - 1e-4 * squared, abs=1e-6 * squared)
    show(reader, "#W_q[1,1]&layer=1&head=1", TEXT, 1, 1)
    changed = value(reader) - Trace(problem).numbers["W_q"][1, 1]
    assert changed == pytest.approx(-1e-4 * Trace(problem).numbers["dW_q"][1, 1], rel=1e-6)
    show(reader, "#W_q[1,1]&layer=1", TEXT, 1, 0)
    assert value(reader) == Trace(replace(problem, head=0)).numbers["W_q"][1, 1]


@in_detail
def test_ten_steps_undo_and_reset(reader: Reader, subject: OfText) -> None:
    page, problem = reader.page, subject.problem
    reader.go("#L")
    first = page.get_attribute("#account [data-way=page]", "data-value")
    assert page.is_disabled("#undo")
    assert page.is_disabled("#reset")
    open_steps(reader, 0.01)
    losses, problems = [loss(problem)], [problem]
    page.click("#ten-steps")
    for _ in range(10):
        problems.append(after_step(problems[-1], 0.01))
        losses.append(loss(problems[-1]))
    said = wait_for_text(reader, "#step-result", "10 steps: ")
    np.testing.assert_allclose(numbers_in(said)[1:], losses, rtol=1e-4)
    wait_for_value(reader, losses[10])
    page.click("#undo")
    wait_for_value(reader, losses[9])
    page.click("#undo")
    wait_for_value(reader, losses[8])
    page.click("#reset")
    wait_for_value(reader, losses[0])
    assert page.get_attribute("#account [data-way=page]", "data-value") == first
    page.wait_for_selector("#undo:disabled")
    page.click("#one-step")
    wait_for_value(reader, losses[1])
    page.click("#undo")
    wait_for_value(reader, losses[0])
    assert page.get_attribute("#account [data-way=page]", "data-value") == first
    page.wait_for_selector("#undo:disabled")
    assert "this matrix agrees" not in page.text_content("#account")  # L is no matrix
    assert not page.query_selector_all("#account .wrong")


def prediction(reader: Reader) -> str:
    text: str = reader.page.text_content("#prediction")
    return text.replace("\N{MINUS SIGN}", "-")


@in_detail
def test_curve_is_the_loss_by_the_rate(reader: Reader, subject: OfText) -> None:
    open_steps(reader, 1e-4)
    wait_for_text(reader, "#prediction", "L =")
    now = loss(subject.problem)
    squared = sum(float(np.sum(g * g)) for g in gradients(subject.problem).values())
    for rate in (1e-3, 1e-2, 1.0, 10.0):
        set_range(reader, "#rate", np.log10(rate))
        found = re.search(r"L = (\S+) now.* predicts (\S+) .*the curve says ([\d.e+]*\d)", said := prediction(reader))
        assert found, said
        L, predicted, curve = map(float, found.groups())
        assert curve == pytest.approx(loss(after_step(subject.problem, rate)), rel=1e-3), rate
    assert "too far, the loss rises" in said
    assert (L, predicted) == pytest.approx((now, now - 10 * squared), rel=1e-4)


@in_detail
def test_steps_that_are_too_far_are_refused_without_nan(reader: Reader, subject: OfText) -> None:
    """At the largest rate the loss explodes until it is no longer a number; then no step of the ten is taken."""
    page = reader.page
    reader.go("#L")
    open_steps(reader, 10**1.3)
    taken: list[float] = []
    for _ in range(8):
        before = page.text_content("#about")
        page.evaluate("document.querySelector('#step-result').textContent = ''")
        page.click("#ten-steps")
        said = page.wait_for_function("() => document.querySelector('#step-result').textContent").json_value()
        if "no longer a number" in said:
            break
        taken = numbers_in(said)
        page.wait_for_function("before => document.querySelector('#about').textContent !== before", arg=before)
        assert "NaN" not in page.inner_text("body")
    assert reader.page.is_enabled("#undo")
    assert "no longer a number" in said
    shown = value(reader)
    page.click("#toggle-learn")
    page.click("#toggle-learn")
    wait_for_text(reader, "#prediction", "L =")
    assert "NaN" not in page.inner_text("body")
    assert "NaN" not in page.inner_html("#curve")
    reader.go("#dS[1,0]")
    reader.go("#L")
    page.click("#heads [data-head='1.0']")  # computed anew, with the weights before the steps that were refused
    wait(reader, TEXT, 1, 0)
    assert value(reader) == shown
    page.click("#undo")  # the last of the steps that were taken
    page.wait_for_function(
        "shown => Number(document.querySelector('#account [data-way=page]').dataset.value) !== shown", arg=shown
    )
    assert value(reader) == pytest.approx(taken[-2], rel=1e-4)
    page.click("#reset")
    wait_for_value(reader, loss(subject.problem))


@in_detail
def test_rate_at_which_the_loss_is_no_number_is_drawn(browser: Any, tmp_path: Path) -> None:
    """A model with enormous logits: a step of a large rate overflows."""
    problem = model_of(1)
    weights = {name: array * (1e80 if name == "lm_head.weight" else 1) for name, array in problem.weights.items()}
    reader = Reader(browser, living_page(replace(problem, weights=weights), tmp_path / "page.html"))
    open_steps(reader, 1.0)
    set_range(reader, "#rate", 1.3)
    assert "NaN" not in reader.page.inner_html("#learn")
    assert "NaN" not in reader.page.inner_text("#learn")
    check_quiet(reader)


# ---- what comes next ------------------------------------------------------------------------------------------------


def chances(subject: OfText, text: str, position: int, temperature: float) -> dict[str, float]:
    ids = np.array([subject.characters.index(one) for one in text])
    logits = Trace(replace(subject.problem, ids=ids, targets=ids)).numbers["Z"][position] / temperature
    powers = np.exp(logits - logits.max())
    return dict(zip(subject.vocabulary, (powers / powers.sum()).tolist(), strict=True))


@in_detail
def test_likeliest_next_characters(reader: Reader, subject: OfText) -> None:
    page, last = reader.page, len(TEXT) - 1
    reader.go("#dS[5,2]")
    before = page.get_attribute("#account [data-way=page]", "data-value")
    page.wait_for_selector("#outputs li")
    for exponent in (0.0, -0.5, 0.3):
        set_range(reader, "#temperature", exponent)
        for position in (last, 3):
            set_range(reader, "#position", position)
            expected = chances(subject, TEXT, position, 10**exponent)
            order = sorted(expected, key=lambda one: -expected[one])[:10]
            found = page.eval_on_selector_all(
                "#outputs li", "all => all.map(one => one.innerText.split(/\\s+(?=\\S+ %)/))"
            )
            assert [one for one, _ in found] == order
            for one, share in found:
                assert numbers_in(share)[0] == pytest.approx(100 * expected[one], rel=0.06)
            came = page.eval_on_selector_all("#outputs .came b", "all => all.map(one => one.textContent)")
            assert came == ([] if position == last else [TEXT[position + 1]])
        assert f"after “{TEXT[3]}” at 3" == page.text_content("#position-label")
        assert page.get_attribute("#account [data-way=page]", "data-value") == before
    show(reader, f"#dS[5,2]&text={OTHER}", OTHER)  # computed at another temperature than 1
    assert value(reader) == pytest.approx(Trace(problem_of(subject, OTHER)).numbers["dS"][5, 2], rel=1e-11)


@in_detail
def test_write_one_appends_a_likely_character(reader: Reader, subject: OfText) -> None:
    page = reader.page
    page.wait_for_selector("#outputs li")
    set_range(reader, "#temperature", -0.7)
    written = TEXT
    for _ in range(3):
        likely = chances(subject, written, len(written) - 1, 10**-0.7)
        page.click("#write")
        page.wait_for_function("text => document.querySelector('#text').value !== text", arg=written)
        longer = page.input_value("#text")
        assert longer[:-1] == written
        assert likely[longer[-1].replace(" ", "␣")] > 1e-4
        wait(reader, longer)
        written = longer
        page.wait_for_function("last => Number(document.querySelector('#position').max) === last", arg=len(written) - 1)
    assert fragment(page.evaluate("location.href")) == f"text={written}"
    page.go_back()
    wait(reader, written[:-1])
    assert page.input_value("#text") == written[:-1]


@in_detail
def test_longest_text_cannot_be_continued(reader: Reader) -> None:
    page = reader.page
    page.wait_for_selector("#outputs li")
    assert page.is_enabled("#write")
    page.fill("#text", "be" * 32)
    wait(reader, "be" * 32)
    page.wait_for_selector("#write:disabled")


# ---- the tour -------------------------------------------------------------------------------------------------------


@in_detail
def test_tour_by_keys_and_by_address(reader: Reader) -> None:
    page = reader.page
    page.keyboard.press("t")
    assert page.get_attribute("#tour", "data-stop") == "1"
    assert fragment(page.evaluate("location.href")) == "tour=1"
    page.keyboard.press("]")
    page.keyboard.press("]")
    page.keyboard.press("[")
    assert page.get_attribute("#tour", "data-stop") == "2"
    assert fragment(page.evaluate("location.href")) == "tour=2"
    titles = []
    for stop in range(1, 13):
        reader.go(f"#tour={stop}")
        assert page.get_attribute("#tour", "data-stop") == str(stop)
        assert f"{stop} of 12" in page.text_content("#tour")
        titles.append(page.text_content("#tour h3"))
    assert len(set(titles)) == 12
    page.keyboard.press("]")  # there is no further one
    assert fragment(page.evaluate("location.href")) == "tour=12"
    page.keyboard.press("t")
    assert page.is_hidden("#tour")
    reader.open("#tour=6")
    assert page.text_content("#tour h3") == "6. Through softmax"


@in_detail
def test_worked_entry_of_a_stop_is_that_of_the_text(reader: Reader, subject: OfText) -> None:
    for text in (TEXT, OTHER):
        show(reader, f"#tour=6&text={text}", text)
        dS = Trace(problem_of(subject, text)).numbers["dS"]
        i, j = np.unravel_index(np.abs(dS).argmax(), dS.shape)
        reader.page.click("#tour .worked a")
        wait_for_entry(reader, f"dS[{i},{j}]")
        assert value(reader) == pytest.approx(dS[i, j], rel=1e-11)


@in_detail
def test_answers_of_the_last_stop(reader: Reader, subject: OfText) -> None:
    for layer, head in ((0, 0), (0, 1), (1, 0), (1, 1)):
        page, numbers = reader.page, Trace(problem_of(subject, TEXT, layer, head)).numbers
        show(reader, f"#tour=12&layer={layer}&head={head}", TEXT, layer, head)
        dS = numbers["dS"]
        i, j = np.unravel_index(np.abs(dS).argmax(), dS.shape)
        is_positive = dS[i, j] > 0
        assert abs(dS[i].sum()) < 1e-12
        groups = page.query_selector_all("#tour [role=group]")
        right = ["positive" if is_positive else "negative", "0", "lower it" if is_positive else "raise it"]
        asked = groups[0].get_attribute("aria-label").replace("\N{MINUS SIGN}", "-")
        mean = float(numbers["P"][i] @ numbers["dP"][i])
        assert asked.startswith(f"dP[{i},{j}] is ")
        assert numbers_in(asked.partition(" is ")[2])[:2] == pytest.approx([numbers["dP"][i, j], mean], rel=1e-2)
        assert f"row {i} of dS" in groups[1].get_attribute("aria-label")
        for group, answer in zip(groups, right, strict=True):
            verdicts = {}
            for button in group.query_selector_all("button"):
                button.click()
                assert button.get_attribute("aria-pressed") == "true"
                assert len(group.query_selector_all("[aria-pressed=true]")) == 1
                verdicts[button.text_content()] = group.query_selector("[role=status]").text_content().partition(" ")[0]
            assert len(verdicts) == 3
            assert [text for text, verdict in verdicts.items() if verdict == "Yes."] == [answer]
            assert sum(verdict == "No." for verdict in verdicts.values()) == 2


# ---- keys -----------------------------------------------------------------------------------------------------------


@in_detail
def test_projector_has_larger_type_and_no_guide(reader: Reader) -> None:
    page, size = reader.page, "parseFloat(getComputedStyle(document.querySelector('[data-figure=dS] b')).fontSize)"
    before = page.evaluate(size)
    page.keyboard.press("f")
    assert page.get_attribute("#toggle-projector", "aria-pressed") == "true"
    assert page.is_hidden("#guide")
    assert page.evaluate(size) > 1.2 * before
    page.keyboard.press("f")
    assert page.is_visible("#guide")
    assert page.evaluate(size) == before


@in_detail
def test_letters_in_the_fields_do_nothing_else(reader: Reader) -> None:
    """And after a switch or a slider has been used, keys work."""
    page = reader.page
    for field in ("#text", "#find"):
        page.fill(field, "")
        page.focus(field)
        page.keyboard.type("tf/[]")
        assert page.input_value(field) == "tf/[]"
        assert page.is_hidden("#tour")
        assert page.is_visible("#guide")
        assert page.evaluate("document.activeElement.id") == field.strip("#")
    page.evaluate("document.querySelector('#breaks-menu').open = true")
    page.check("input[name=break][value=scale]")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"
    page.focus("#temperature")
    page.keyboard.press("t")
    assert page.is_visible("#tour")


@in_detail
def test_find_opens_an_entry_of_the_open_head(reader: Reader, subject: OfText) -> None:
    show(reader, f"#text={OTHER}&layer=1&head=1", OTHER, 1, 1)
    reader.page.keyboard.press("/")
    reader.page.keyboard.type("dK[4,2]")
    reader.page.keyboard.press("Enter")
    assert fragment(reader.page.evaluate("location.href")) == f"dK[4,2]&text={OTHER}&layer=1&head=1"
    expected = account(Trace(problem_of(subject, OTHER, 1, 1)), "dK", (4, 2))
    assert value(reader) == pytest.approx(expected.value, rel=1e-11)
    assert reader.number("#account [data-total]", "total") == pytest.approx(expected.total, rel=1e-11)


# ---- the check of the file ------------------------------------------------------------------------------------------


@in_detail
@pytest.mark.parametrize(("library", "which"), [("minitensor", 0), ("torch", 1), ("minitensor", 2)])
def test_wrong_digest_is_found(library: str, which: int, browser: Any, file: Path, tmp_path: Path) -> None:
    """The file's number of one matrix is changed by a millionth: the page's account says that it is wrong."""
    page = with_changed_digest(file, tmp_path / "changed.html", library, "dS0.1", which)
    reader = Reader(browser, page, "#dS[5,2]&head=1")
    assert 0.5e-6 < reader.number("#own", "largest") < 2e-6
    assert "DO NOT AGREE" in reader.page.text_content("#own")
    assert "wrong" in reader.page.get_attribute("#own", "class")
    assert all_of(reader.page, "#account [data-way].wrong", "way") == ["libraries"]
    assert "They do NOT agree" in reader.page.text_content("#account")
    show(reader, "#dS[5,2]")
    assert not reader.page.query_selector_all("#account .wrong")
    check_quiet(reader)


def with_changed_digest(file: Path, page: Path, library: str, name: str, which: int) -> Path:
    before, text, after = split_page(file)
    data = json.loads(text)
    digest = data["digests"][library][name]
    digest[which] += 1e-6 * digest[0]
    page.write_text(before + embedded(data) + after, encoding="utf-8")
    return page


@in_detail
def test_digests_are_of_all_layers_and_heads(reader: Reader, file: Path, subject: OfText) -> None:
    """Whatever stands in the file is compared; by the names that the page's own numbers have."""
    digests = json.loads(split_page(file)[1])["digests"]
    assert set(digests) == {"minitensor", "torch"}
    assert set(digests["minitensor"]) == set(digests["torch"])
    heads = [f"{n}.{h}" for n in (0, 1) for h in (0, 1)]
    expected = {f"{mark}{name}{pair}" for mark in ("", "d") for name in "QKVSPO" for pair in heads}
    expected |= {f"d{name}" for name in subject.problem.weights}
    assert expected <= set(digests["minitensor"])
    assert f"{len(digests['minitensor'])} matrices" in reader.page.text_content("#own")
    assert reader.number("#own", "largest") < 1e-12
