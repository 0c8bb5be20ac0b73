"""The page of explain in a browser, for the tests of one page and of many."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gpt_numpy.cli import CLI
from gpt_numpy.explain.checks import by_torch, check_all
from gpt_numpy.explain.fixed import fixed_contents
from gpt_numpy.explain.page import write_page
from gpt_numpy.explain.subject import subject_of
from gpt_numpy.explain.trace import Trace
from gpt_numpy.workshop.cli.main import run

TEXT = "To be, or not"


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
