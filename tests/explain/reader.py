"""The page of explain in a browser, for the tests of one page and of many."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from gpt_numpy import GPTConfig
from gpt_numpy.cli import CLI
from gpt_numpy.explain.checks import by_torch, check_all
from gpt_numpy.explain.fixed import fixed_contents
from gpt_numpy.explain.living import living_contents
from gpt_numpy.explain.page import write_page
from gpt_numpy.explain.problem import Problem
from gpt_numpy.explain.subject import OfText, subject_of
from gpt_numpy.explain.trace import Trace
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.params import initial_weights
from tests.equivalence.problems import perturb

TEXT = "To be, or not"
OTHER = "robe not, or To"  # other words with the characters of TEXT, which are all that its model knows


def make_page(path: Path, *arguments: str) -> Path:
    assert run(CLI, ["explain", *arguments, "--out", str(path)]) == 0
    return path


def make_fixed_page(path: Path, text: str = TEXT, most: int = 10**9) -> Path:
    """A page without the model, as it is written for a large one."""
    subject = subject_of(CLI, {"text": text})
    trace, torch = Trace(subject.problem), by_torch(subject.problem)
    about = {"text": text, "vocabulary": subject.vocabulary, "described": "a model", "torch": True,
             "command": subject.command}  # fmt: skip
    write_page(path, fixed_contents(trace, torch, check_all(trace, torch, most), about))
    return path


def living_page(problem: Problem, path: Path) -> Path:
    """A page of any model, whose characters are letters."""
    letters = [chr(ord("a") + n) for n in range(problem.config.vocab_size)]
    about = {"text": "".join(letters[n] for n in problem.ids), "vocabulary": letters, "characters": letters,
             "described": "a model", "command": ["gpt-numpy explain abc", ""], "program": "gpt-numpy", "flags": "",
             "torch": True, "learns": ""}  # fmt: skip
    write_page(path, living_contents(Trace(problem), about))
    return path


def any_model(random: np.random.Generator, config: GPTConfig, seed: int) -> Problem:
    weights = perturb(initial_weights(config, 0), config, seed, 0.3)
    ids = random.integers(0, config.vocab_size, int(random.integers(2, config.block_size + 2)))
    chosen = int(random.integers(config.n_layer)), int(random.integers(config.n_head))
    return Problem(config, {"lm_head.weight": weights["tok_emb.weight"], **weights}, ids[:-1], ids[1:], *chosen)


def model_of(seed: int, **changes: Any) -> Problem:
    config = GPTConfig(**{"vocab_size": 5, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8, **changes})
    random = np.random.default_rng(seed)
    ids = random.integers(0, 5, 8)
    return replace(any_model(random, config, seed), ids=ids[:-1], targets=ids[1:], layer=0, head=0)


def problem_of(subject: OfText, text: str, layer: int = 0, head: int = 0) -> Problem:
    """Another text in the model of the first one."""
    ids = np.array([subject.characters.index(one) for one in text])
    return replace(subject.problem, ids=ids[:-1], targets=ids[1:], layer=layer, head=head)


class Reader:
    """The page in a browser. All messages, errors and requests of the page are recorded."""

    def __init__(self, browser: Any, file: Path, state: str = "", **settings: Any) -> None:
        self.file = file
        self.page = browser.new_context(**settings).new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: self.messages.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.open(state)

    def open(self, state: str = "") -> None:
        self.page.goto("about:blank")
        self.page.goto(f"{self.file.as_uri()}{state}")
        self.page.wait_for_selector("#own[data-largest]", state="attached")
        self.open_breaks()

    def open_breaks(self) -> None:
        """The menu of mistakes, which a click elsewhere closes."""
        self.page.evaluate("document.querySelector('#breaks-menu').open = true")

    def reset(self) -> None:
        """For the next test, whatever the last one left: no entry, each matrix at its first cell, no pointer, no focus.

        An entry that was closed by a key leaves the keyboard at its cell; one that an address replaces does not.
        """
        self.page.mouse.move(0, 0)
        self.page.evaluate("document.activeElement.blur()")
        self.go("#L")
        self.go("#")
        self.open_breaks()

    def go(self, state: str) -> None:
        """Goes to another address of the same page."""
        self.page.evaluate(f"state => ({GO})(state)", state)

    def number(self, selector: str, name: str) -> float:
        return float(self.page.get_attribute(selector, f"data-{name}"))

    def numbers(self, selector: str, name: str) -> list[float]:
        return list(map(float, all_of(self.page, selector, name)))


# Waits for the page's own listener, which comes first. The same address again is no event.
GO = """state => new Promise(done => {
    const before = location.href
    addEventListener("hashchange", () => done(), {once: true})
    location.hash = state
    if (location.href === before) done()
})"""


def is_worker(url: str) -> bool:
    """The page's own worker, which it makes of a part of itself."""
    return url.startswith("blob:")


def check_quiet(reader: Reader) -> None:
    assert reader.messages == []
    fetched = {url.partition("#")[0] for url in reader.requests if not is_worker(url)}
    assert fetched <= {"about:blank", reader.file.as_uri()}, "the page made requests"


def all_of(page: Any, selector: str, name: str) -> list[str]:
    """A data attribute of all selected elements."""
    found: list[str] = page.eval_on_selector_all(
        selector, "(all, name) => all.map(one => one.getAttribute(name))", f"data-{name}"
    )
    return found


def pairs(page: Any, selector: str, first: str, second: str) -> list[tuple[str, str]]:
    return list(zip(all_of(page, selector, first), all_of(page, selector, second), strict=True))


def fragment(url: str) -> str:
    """The part of a URL after #, decoded."""
    return unquote(url.partition("#")[2])


def brightness(page: Any) -> int:
    """The brightness of the background, from 0 to 765."""
    red, green, blue = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
    return int(red) + int(green) + int(blue)


def split_page(file: Path) -> tuple[str, str, str]:
    """The page before its data, the data, and the page after."""
    before, rest = file.read_text(encoding="utf-8").split(' id="data">')
    text, after = rest.split("</script>", 1)
    return f'{before} id="data">', text, f"</script>{after}"


# ---- a page with the model ------------------------------------------------------------------------------------------


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


def set_range(reader: Reader, selector: str, number: float) -> None:
    script = "(range, value) => { range.value = value; range.dispatchEvent(new Event('input', { bubbles: true })) }"
    reader.page.eval_on_selector(selector, script, str(number))


def numbers_in(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text.replace("\N{MINUS SIGN}", "-"))]


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
