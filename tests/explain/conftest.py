"""A browser, a page of explain for a text, and the numbers that it shows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt_numpy.cli import CLI
from gpt_numpy.explain import command
from gpt_numpy.explain.subject import OfText, subject_of
from gpt_numpy.explain.trace import Trace
from tests.explain.reader import TEXT, Reader, check_quiet, make_fixed_page, make_page
from tests.support.browser import launched


@pytest.fixture(scope="package")  # closed before another test starts one: only one can run in a process
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "WORK", 0.0)  # without differences, of which the page has its own
        return make_page(tmp_path_factory.mktemp("page") / "attention.html", TEXT)


@pytest.fixture(scope="module")
def fixed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fixed_page(tmp_path_factory.mktemp("page") / "fixed.html")


@pytest.fixture(scope="module")
def subject() -> OfText:
    return subject_of(CLI, {"text": TEXT})


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace(subject_of(CLI, {"text": TEXT}).problem)


@pytest.fixture(scope="module")
def shared_reader(browser: Any, file: Path) -> Reader:
    return Reader(browser, file)


@pytest.fixture
def reader(shared_reader: Reader) -> Iterator[Reader]:
    shared_reader.reset()
    yield shared_reader
    check_quiet(shared_reader)


@pytest.fixture
def reopened(shared_reader: Reader) -> Iterator[Reader]:
    """The page as it opens: what a test has typed, and the steps that it took, are no longer there."""
    shared_reader.messages.clear()
    shared_reader.requests.clear()
    shared_reader.page.set_default_timeout(10_000)
    shared_reader.open()
    shared_reader.page.evaluate("document.querySelector('#breaks-menu').open = false")  # it covers the heads
    yield shared_reader
    check_quiet(shared_reader)
