"""Steps of gradient descent on a page with the model: what they change, what predicts them, and undoing them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_numpy.explain.problem import Problem
from gpt_numpy.explain.subject import OfText
from gpt_numpy.explain.trace import Trace
from minitensor.arrays import Array
from tests.explain.reader import (
    OTHER,
    TEXT,
    Reader,
    check_entries,
    check_quiet,
    living_page,
    model_of,
    numbers_in,
    problem_of,
    set_range,
    show,
    value,
    wait,
    wait_for_text,
    wait_for_value,
)

pytestmark = pytest.mark.together("a browser for a page with the model")
in_detail = pytest.mark.slow("a browser, in detail")


@pytest.fixture
def reader(reopened: Reader) -> Reader:
    return reopened


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


def open_steps(reader: Reader, rate: float) -> None:
    if reader.page.is_hidden("#learn"):
        reader.page.click("#toggle-learn")
    wait_for_text(reader, "#prediction", "L =")
    set_range(reader, "#rate", np.log10(rate))


def take_step(reader: Reader, problem: Problem, rate: float, is_own: bool = False) -> Problem:
    """The page's step is one of gradient descent. The problem after it."""
    open_steps(reader, rate)
    reader.page.select_option("#scope", "head" if is_own else "all")
    reader.page.click("#one-step")
    said = wait_for_text(reader, "#step-result", "After: ")
    before, after, predicted = numbers_in(said)[:3]
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
    for rate in (1e-3, 10**-1.62, 10**-0.14, 10.0):
        set_range(reader, "#rate", np.log10(rate))
        assert "about" in prediction(reader)  # between the points of the curve, until it is measured
        wait_until_measured(reader)
        found = re.search(r"L = (\S+) now.* predicts (\S+) .*the curve says ([\d.e+]*\d)", said := prediction(reader))
        assert found, said
        L, predicted, curve = map(float, found.groups())
        assert curve == pytest.approx(loss(after_step(subject.problem, rate)), rel=1e-4), rate
        assert ("No loss can be below 0" in said) == (predicted < 0)
    assert "too far, the loss rises" in said
    assert (L, predicted) == pytest.approx((now, now - 10 * squared), rel=1e-4)


def wait_until_measured(reader: Reader) -> None:
    reader.page.wait_for_function(
        "() => /the curve says [^a]|no longer/.test(document.querySelector('#prediction').textContent)"
    )


@in_detail
def test_curve_says_what_the_step_then_gives(reader: Reader) -> None:
    open_steps(reader, 10**-0.14)
    wait_until_measured(reader)
    said = re.search(r"the curve says ([\d.]*\d)", prediction(reader))
    reader.page.click("#one-step")
    assert said
    assert numbers_in(wait_for_text(reader, "#step-result", "After: "))[1] == float(said[1])


@in_detail
def test_nothing_of_other_weights_stays(reader: Reader) -> None:
    """From the moment that a step, or its undoing, changes the weights, until the new curve is there."""
    page = reader.page
    page.evaluate(RECORD)
    for button in ("#toggle-learn", "#one-step", "#undo"):
        page.evaluate("window.shown = []")
        page.click(button)
        page.wait_for_function(f"() => window.shown.some({MEASURED})")
        shown = page.evaluate("window.shown")
        assert shown[0] == "Measuring the curve …"
        now = re.search(r"L = ([\d.]+)\.", page.text_content("#about"))
        assert now
        assert {float(one.split()[2]) for one in shown if one.startswith("L =")} == {float(now[1])}


MEASURED = "one => one.startsWith('L =') && !one.includes('about')"  # at the very rate, after which nothing comes
RECORD = """() => new MutationObserver(() => window.shown.push(document.querySelector("#prediction").textContent))
    .observe(document.querySelector("#prediction"), {childList: true})"""


@in_detail
def test_first_rate_lowers_the_loss_by_a_fifth_on_the_line(reader: Reader, subject: OfText) -> None:
    """Of whatever a step takes, until the slider is moved."""
    page = reader.page
    assert page.is_disabled("#one-step")
    page.click("#toggle-learn")
    for scope, is_own in (("all", False), ("head", True)):
        page.select_option("#scope", scope)
        wait_for_text(reader, "#prediction", "L =")
        squared = sum(float(np.sum(g * g)) for g in gradients(subject.problem, is_own).values())
        log = np.log10(0.2 * loss(subject.problem) / squared)
        assert float(page.input_value("#rate")) == pytest.approx(np.clip(log, -4, 1.3), abs=0.0101)
    page.select_option("#scope", "all")
    wait_for_text(reader, "#prediction", "L =")
    L, predicted = map(float, re.findall(r"(?:L =|predicts) (\S+)", prediction(reader)))
    assert predicted == pytest.approx(0.8 * L, rel=0.02)
    set_range(reader, "#rate", 0.5)
    page.select_option("#scope", "head")
    wait_for_text(reader, "#prediction", "L =")
    assert page.input_value("#rate") == "0.5"


@in_detail
def test_drawing_names_its_axes_and_keeps_the_dot(reader: Reader) -> None:
    page = reader.page
    open_steps(reader, 10**1.3)
    wait_until_measured(reader)
    assert {"loss", "rate"} <= set(page.eval_on_selector_all("#curve text", "all => all.map(one => one.textContent)"))
    assert float(page.get_attribute("#curve circle", "cy")) == 4
    page.click("#one-step")
    assert "No loss can be below 0" in wait_for_text(reader, "#step-result", "After: ")


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
