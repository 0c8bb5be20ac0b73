"""A browser, a page of explain for a text, and the numbers that it shows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt_numpy.cli import CLI
from gpt_numpy.explain.subject import subject_of
from gpt_numpy.explain.trace import Trace
from tests.explain.reader import TEXT, Reader, is_worker, make_fixed_page, make_page
from tests.support.browser import launched


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_page(tmp_path_factory.mktemp("page") / "attention.html", TEXT)


@pytest.fixture(scope="module")
def fixed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fixed_page(tmp_path_factory.mktemp("page") / "fixed.html")


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace(subject_of(CLI, {"text": TEXT}).problem)


@pytest.fixture(scope="module")
def shared_reader(browser: Any, file: Path) -> Reader:
    return Reader(browser, file)


@pytest.fixture
def reader(shared_reader: Reader, file: Path) -> Iterator[Reader]:
    shared_reader.go("#")
    shared_reader.open_breaks()
    yield shared_reader
    assert shared_reader.messages == []
    fetched = {url.partition("#")[0] for url in shared_reader.requests if not is_worker(url)}
    assert fetched <= {"about:blank", file.as_uri()}, "the page made requests"
