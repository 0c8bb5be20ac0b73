"""The tour on a page with the model, and the keys."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_numpy.explain.account import account
from gpt_numpy.explain.subject import OfText
from gpt_numpy.explain.trace import Trace
from tests.explain.reader import (
    OTHER,
    TEXT,
    Reader,
    check_quiet,
    fragment,
    numbers_in,
    problem_of,
    show,
    value,
    wait_for_entry,
)

pytestmark = pytest.mark.together("a browser for a page with the model")
in_detail = pytest.mark.slow("a browser, in detail")


@pytest.fixture
def reader(reopened: Reader) -> Reader:
    return reopened


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


@in_detail
def test_dS_is_covered_while_its_sign_is_asked_for(reader: Reader) -> None:
    page, shown = reader.page, "getComputedStyle(document.querySelector('[data-figure=dS] .box')).visibility"
    reader.go("#tour=12")
    assert "What sign does dS[" in page.text_content("#tour")
    assert page.evaluate(shown) == "hidden"
    page.click("#tour [role=group] button")
    assert page.evaluate(shown) == "visible"
    reader.go("#tour=11")
    reader.go("#tour=12")
    assert page.evaluate(shown) == "hidden"
    reader.go("#")
    assert page.evaluate(shown) == "visible"


@in_detail
def test_worked_entries_name_their_terms_and_characters(reader: Reader, trace: Trace) -> None:
    reader.go("#tour=2")
    i, m = np.unravel_index(np.abs(trace.numbers["dY"]).argmax(), trace.numbers["dY"].shape)
    names = [part.factors[0].entry.name for part in account(trace, "dY", (int(i), int(m))).parts]
    worked = reader.page.text_content("#tour .worked")
    places = [worked.index(f"{name.replace('_', '')}\N{NO-BREAK SPACE}{i},{m}") for name in names[:3]]
    assert places == sorted(places)
    reader.go("#tour=8")
    assert reader.page.text_content("#tour .worked").count("dS") == 1  # one product of three factors fits
    reader.go("#tour=1")
    i, v = np.unravel_index(np.abs(trace.numbers["dZ"]).argmax(), trace.numbers["dZ"].shape)
    labels = reader.page.evaluate("JSON.parse(document.querySelector('#data').textContent).vocabulary")
    text = reader.page.text_content("#tour .worked")
    assert f"position {i}, “{labels[trace.problem.ids[i]]}”; token {v}, “{labels[v]}”" in text


@in_detail
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_buttons_stay_where_they_are(size: tuple[int, int], reader: Reader) -> None:
    """From stop to stop, so that the next click is on them too; and the card does not cover all that is computed."""
    page = reader.page
    before = page.viewport_size
    page.set_viewport_size({"width": size[0], "height": size[1]})
    reader.go("#tour=1")
    page.evaluate("new Promise(requestAnimationFrame)")
    places = []
    for stop in range(1, 12):
        places.append(page.evaluate(PLACE))
        if size[0] > 1000:
            assert page.evaluate(UNCOVERED), stop
        page.mouse.click(*places[0])
        assert page.get_attribute("#tour", "data-stop") == str(stop + 1)
    assert np.ptp(places, axis=0).max() < 2
    page.set_viewport_size(before)


PLACE = """() => {
    const {left, top, width, height} = document.querySelector("[aria-label='next stop']").getBoundingClientRect()
    return [left + width / 2, top + height / 2]
}"""
UNCOVERED = """() => {
    const {bottom} = document.querySelector("#tour").getBoundingClientRect()
    return Array.from(document.querySelectorAll("figure[data-role=computed]")).some(one => {
        const {top} = one.getBoundingClientRect()
        return top >= bottom - 1 && top < innerHeight
    })
}"""


# ---- keys -----------------------------------------------------------------------------------------------------------


@in_detail
def test_projector_has_larger_type_and_no_guide(reader: Reader) -> None:
    page, size = reader.page, "parseFloat(getComputedStyle(document.querySelector('[data-figure=dS] b')).fontSize)"
    before = page.evaluate(size)
    page.keyboard.press("f")
    assert page.get_attribute("#toggle-projector", "aria-pressed") == "true"
    assert page.is_hidden("#guide")
    assert page.evaluate(size) > 1.2 * before
    assert fragment(page.evaluate("location.href")) == "view=projector"
    reader.open("#view=projector")
    assert page.evaluate(size) > 1.2 * before
    page.keyboard.press("f")
    assert page.is_visible("#guide")
    assert page.evaluate(size) == before


@in_detail
def test_projector_leaves_the_picture_its_whole_width(browser: Any, file: Path) -> None:
    """An open entry covers the lower part, nothing in the picture is cut off, and what was scrolled aside is back."""
    reader = Reader(browser, file, "#dS[5,2]", viewport={"width": 1440, "height": 900})
    page = reader.page
    before = page.locator("[data-matrix=S] canvas").bounding_box()["width"]
    page.evaluate(SCROLL_ASIDE)
    page.keyboard.press("f")
    assert page.evaluate("document.querySelector('[data-figure=dQ] .formula').scrollLeft") == 0
    page.evaluate("document.querySelector('[data-figure=dQ] .formula').style.width = ''")
    for state in ("#dS[5,2]&view=projector", "#dW_q[1,1]&view=projector&tour=6", "#view=projector"):
        reader.go(state)
        assert page.locator("#flow").bounding_box()["width"] > 1300
        assert page.locator("[data-matrix=S] canvas").bounding_box()["width"] > before
        assert page.evaluate(CUT_OFF) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 1440
        if "[" in state:
            account = page.locator("#account").bounding_box()
            assert account["y"] > 350
            assert account["y"] + account["height"] == pytest.approx(900, abs=1)
    check_quiet(reader)


SCROLL_ASIDE = """() => {
    const formula = document.querySelector("[data-figure=dQ] .formula")
    formula.style.width = "40px"
    formula.scrollLeft = 20
}"""
CUT_OFF = """() => { // whatever is wider than its box, and numbers of a scale on two lines
    const all = Array.from(document.querySelectorAll("#flow :is(.formula, .box, .scale, figcaption)"))
    const wide = all.filter(one => one.scrollWidth > one.clientWidth)
    const scales = Array.from(document.querySelectorAll("#flow .scale span"))
    const broken = scales.filter(one => one.offsetHeight > 1.5 * parseFloat(getComputedStyle(one).lineHeight))
    return [...wide, ...broken].map(one => one.textContent)
}"""


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
