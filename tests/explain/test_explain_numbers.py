"""A page with the model: all its numbers are minitensor's, for any text, head and model; a wrong digest is found."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_numpy.explain.living import living_contents
from gpt_numpy.explain.subject import OfText
from gpt_numpy.explain.trace import Trace
from gpt_numpy.workshop.report.report import embedded
from minitensor.arrays import Array
from tests.equivalence.problems import SEEDS, any_config
from tests.explain.reader import (
    OTHER,
    TEXT,
    Reader,
    all_of,
    any_model,
    check_entries,
    check_quiet,
    is_worker,
    living_page,
    model_of,
    problem_of,
    show,
    split_page,
    wait,
    wait_for_value,
)
from tests.explain.test_explain_steps import take_step

pytestmark = pytest.mark.together("a browser for a page with the model")
in_detail = pytest.mark.slow("a browser, in detail")


@pytest.fixture
def reader(reopened: Reader) -> Reader:
    return reopened


# ---- the numbers ----------------------------------------------------------------------------------------------------


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


REFUSALS = {
    "at once": "class { constructor() { throw new Error('no workers') } }",
    "when it starts": "class { constructor() { setTimeout(() => this.onerror(new Event('error'))) } postMessage() {} }",
}


@in_detail
@pytest.mark.parametrize("when", REFUSALS)
def test_page_computes_where_a_browser_refuses_workers(when: str, browser: Any, file: Path, subject: OfText) -> None:
    reader = Reader(browser, file)
    reader.page.add_init_script(f"window.Worker = {REFUSALS[when]}")
    reader.requests.clear()
    reader.open()
    assert not [url for url in reader.requests if is_worker(url)]
    assert reader.number("#own", "largest") < 1e-12
    check_numbers(Trace(subject.problem), numbers_of(reader, Trace(subject.problem)))
    reader.page.fill("#text", OTHER)
    wait(reader, OTHER)
    check_entries(reader, Trace(problem_of(subject, OTHER)))
    check_quiet(reader)


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
