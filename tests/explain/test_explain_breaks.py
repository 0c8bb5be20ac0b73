"""Break it, on the page of explain: what a mistake changes, and how each wrong number comes about."""

import re
from typing import Any

import numpy as np
import pytest

from gpt_numpy.explain.trace import Trace
from tests.explain.reader import Reader, all_of, fragment
from tests.explain.test_explain_page import checked_boxes, gradients_with_mistake

pytestmark = pytest.mark.slow("a browser, in detail")


# ---- side by side -----------------------------------------------------------------------------------------------


BEGINS_WITH = {"rowsum": "dS", "saturate": "S", "scale": "dQ", "mask": "P", "equals": "dX", "transpose": "dK"}
MATRICES = [("rowsum", "dS"), ("rowsum", "dK"), ("scale", "dQ"), ("mask", "dS"), ("equals", "dX"), ("transpose", "dK")]


@pytest.mark.parametrize(("mistake", "name"), MATRICES)
def test_right_wrong_and_difference_have_one_scale(mistake: str, name: str, reader: Reader, trace: Trace) -> None:
    page = reader.page
    reader.go(f"#break={mistake}")
    page.click(f"#comparison [data-compare={name}]")
    right, wrong = trace.numbers[name], gradients_with_mistake(trace, mistake)[name]
    shown = {"right": right, "with the mistake": wrong, "difference": wrong - right}
    assert all_of(page, "#comparison figure", "side") == list(shown)
    largest = max(np.abs(numbers).max() for numbers in shown.values())
    assert reader.numbers("#comparison [data-scale]", "scale") == pytest.approx([largest], rel=1e-10)
    stops = {stop: page.evaluate(VARIABLE, f"--{stop}") for stop in STOPS}
    visible = trace.visible if name == "dS" else np.ones(right.shape, bool)
    for label, numbers in shown.items():
        hatched = ~visible & (mistake != "mask" or label == "right")
        found = np.array(page.evaluate(CELLS, [f"[data-side='{label}'] .box canvas", *right.shape]))
        expected = np.array([[colour(x / largest, stops) for x in row] for row in numbers])
        distance = np.abs(found - expected).max(-1)  # a number may be rounded to the next shade
        assert distance[~hatched].max() <= 3, label


STOPS = ("zero", "negative-mid", "negative-end", "positive-mid", "positive-end")
VARIABLE = "name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"
CELLS = """([selector, rows, cols]) => { // the colour of each cell, beside its number
    const canvas = document.querySelector(selector), {width, height} = canvas
    const {data} = canvas.getContext("2d").getImageData(0, 0, width, height)
    const at = (i, j) => {
        const pixel = (i * height / rows + 1) * width + j * width / cols + 1
        return Array.from(data.slice(4 * pixel, 4 * pixel + 3))
    }
    return Array.from({length: rows}, (_, i) => Array.from({length: cols}, (_, j) => at(i, j)))
}"""


def colour(fraction: float, stops: dict[str, str]) -> Any:
    """Of a number as a fraction of the largest: between the colours of the style sheet, by its square root."""
    sign = "negative" if fraction < 0 else "positive"
    place = np.sqrt(np.abs(fraction))
    names = ("zero", f"{sign}-mid", f"{sign}-end")
    channels = [[int(stops[name][at : at + 2], 16) for name in names] for at in (1, 3, 5)]
    return [np.interp(place, [0, 0.5, 1], three) for three in channels]


def test_comparison_says_how_far_the_mistake_is_followed(reader: Reader) -> None:
    page = reader.page
    page.check("input[name=break][value=rowsum]")
    said = page.text_content("#effects-summary")
    assert "through this head only: dY and everything after the head keep their right values" in said
    assert said.endswith("Why, and which checks catch it")
    page.click("#effects-summary a")
    assert page.evaluate("document.activeElement.textContent").startswith("The mistake, and which checks")
    size = page.text_content("[data-broken=dS] td:nth-of-type(2)")
    assert re.fullmatch(r"[\d.]+ × the largest right entry", size), size
    size = page.text_content("[data-broken=db_k] td:nth-of-type(2)")  # relative to 0 there is no error
    assert re.fullmatch(r"[\d.]+, where 0 is right", size), size


def test_comparison_is_as_low_as_without_its_table(reader: Reader) -> None:
    """The picture begins on the first screen."""
    page = reader.page
    page.set_viewport_size({"width": 1440, "height": 900})
    page.check("input[name=break][value=saturate]")
    height = "document.querySelector('#comparison').offsetHeight"
    before = page.evaluate(height)
    page.evaluate("document.querySelector('.sharpness').remove()")
    assert page.evaluate(height) == before
    page.evaluate("scrollTo(0, 0)")
    assert page.locator("#flow").bounding_box()["y"] < 700


@pytest.mark.parametrize("mistake", BEGINS_WITH)
def test_comparison_begins_with_the_broken_line(mistake: str, reader: Reader) -> None:
    page = reader.page
    assert page.is_hidden("#comparison")
    page.check(f"input[name=break][value={mistake}]")
    assert compared(page) == [BEGINS_WITH[mistake]]
    reader.go(f"#dX[2,5]&break={mistake}")
    assert compared(page) == ["dX"]
    reader.go(f"#Z[2,5]&break={mistake}")  # which is right
    assert compared(page) == ["dX"]
    reader.go("#")
    assert page.is_hidden("#comparison")


def compared(page: Any) -> list[str]:
    """The matrices that are shown side by side, each once."""
    shown = set(all_of(page, "#comparison .box", "compared"))
    assert shown == set(all_of(page, "#comparison [aria-pressed=true]", "compare"))
    return list(shown)


def test_cells_side_by_side_can_be_opened(reader: Reader, trace: Trace) -> None:
    page = reader.page
    reader.go("#break=rowsum")
    canvas = page.locator("[data-side=difference] .box canvas")
    size = canvas.bounding_box()
    canvas.click(position={"x": size["width"] * 2.5 / 12, "y": size["height"] * 7.5 / 12})
    assert fragment(page.evaluate("location.href")) == "dS[7,2]&break=rowsum"
    other = "document.querySelector('[data-side=right] .box canvas').toDataURL()"
    before = page.evaluate(other)
    tip = hovered(page, canvas, 7.5 / 12, 1.5 / 12)
    assert page.evaluate(other) != before  # a frame around the same cell
    for word in ("right", "with the mistake", "difference"):
        assert word in tip
    page.focus("[data-side=right] .box")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert fragment(page.evaluate("location.href")) == "dS[6,2]&break=rowsum"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.closest('figure').dataset.side") == "right"


def hovered(page: Any, canvas: Any, down: float, right: float) -> str:
    """The tip of a cell; empty if it has none."""
    size = canvas.bounding_box()
    canvas.hover(position={"x": size["width"] * right, "y": size["height"] * down})
    return page.text_content("#tip") if page.is_visible("#tip") else ""


# ---- the account of a wrong number ------------------------------------------------------------------------------


WRONG = {
    "rowsum": "dS[3,1] dQ[4,3] dK[2,2] dX[5,5] dR[3,3] dW_q[1,2] db_q[3]",
    "saturate": "S[5,2] P[5,1] O[4,4] Y[3,3] dV[2,0] dS[4,3] dQ[4,3] dK[1,2] dX[2,5]",
    "scale": "dQ[4,3] dK[1,2] dX[2,5] dW_q[0,3]",
    "mask": "P[4,3] P[2,5] S[2,5] dP[2,5] dS[3,1] dS[2,7] O[3,2] Y[1,1] dV[6,1] dK[4,4] dW_v[2,2] dW_o[3,3]",
    "equals": "dX[2,5] dR[1,4]",
    "transpose": "dK[4,3] dX[2,5] dW_k[2,2]",
    "scale,transpose": "dK[4,3]",
    "saturate,mask,rowsum": "S[5,2] P[4,3] P[2,5] dS[2,7] dQ[3,3]",
}


@pytest.mark.parametrize("mistakes", WRONG)
def test_products_add_up_to_the_wrong_number(mistakes: str, reader: Reader, trace: Trace) -> None:
    page = reader.page
    found = gradients_with_mistake(trace, mistakes) if "," not in mistakes else {}
    for entry in WRONG[mistakes].split():
        name, *numbers = re.findall(r"\w+", entry)
        index = tuple(map(int, numbers))
        reader.go(f"#{entry}&break={mistakes}")
        wrong = shown_number(page)
        terms = reader.numbers("#account [data-wrong-term]", "wrong-term")
        total = reader.number("#account [data-wrong-total]", "wrong-total")
        size = np.abs(terms).sum()
        assert sum(terms) == pytest.approx(total, abs=1e-13 * size)
        value = reader.number("#account [data-wrong-value]", "wrong-value") if name == "P" else total
        assert value == pytest.approx(wrong, abs=1e-9 * size if index[-1] <= index[0] else 1e-5 * size), entry
        if name in found and not is_masked(name, index):
            assert wrong == pytest.approx(found[name][index], rel=1e-9), entry
        if is_masked(name, index):
            assert not page.query_selector("#account [data-right-term]")
            continue
        rights = reader.numbers("#account [data-right-term]", "right-term")
        right = reader.number("#account [data-right-total]", "right-total")
        assert sum(rights) == pytest.approx(right, abs=1e-13 * np.abs(rights).sum())
        assert right == reader.number("#account [data-total]", "total")


def is_masked(name: str, index: tuple[int, ...]) -> bool:
    return name in ("S", "P", "dS", "dP") and index[1] > index[0]


def shown_number(page: Any) -> float:
    """With the mistake: in the note, or, of an entry that only the mistake has, in the heading."""
    note = page.query_selector("#account dd.wrong")
    text = note.text_content() if note else page.get_attribute("#entry", "aria-label").partition("= ")[2]
    return float(text.replace("\N{MINUS SIGN}", "-"))


def test_account_leads_from_a_wrong_number_to_the_mistake(reader: Reader) -> None:
    """From dW_q over dQ to dS, whose line is broken."""
    page = reader.page
    reader.go("#dW_q[1,2]&break=rowsum")
    for name in ("dQ", "dS"):
        assert "This line is right" in page.text_content("[data-reason]")
        page.click("[data-reason] a")
        assert fragment(page.evaluate("location.href")).startswith(f"{name}[")
        assert page.query_selector("#account dd.wrong")
    assert page.text_content("[data-reason]") == "The mistake is in this line."
    reader.go("#Q[1,2]&break=rowsum")
    assert not page.query_selector("[data-reason]")
    for position in range(1, 12):  # dQ is computed before dK, whichever of their products is larger
        reader.go(f"#dX[{position},5]&break=rowsum")
        assert page.get_attribute("[data-reason] a", "href").startswith("#dQ")


# ---- above the mask ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dP", "S", "P", "dS"])
def test_masked_cells_open_with_the_mistake_only(name: str, reader: Reader) -> None:
    page, canvas = reader.page, reader.page.locator(f"[data-matrix={name}] canvas")
    reader.go(f"#{name}[2,5]&break=scale")
    assert "is masked" in page.text_content("#notice")
    assert page.is_hidden("#account")
    click = {"x": 5.5 / 12, "y": 2.5 / 12}
    reader.go("#")
    page.mouse.move(0, 0)
    for state, opened in (("#", ""), ("#break=mask", f"{name}[2,5]&break=mask")):
        reader.go(state)
        assert ("with the mistake" in hovered(page, canvas, click["y"], click["x"])) == bool(opened)
        size = canvas.bounding_box()
        canvas.click(position={"x": click["x"] * size["width"], "y": click["y"] * size["height"]})
        assert fragment(page.evaluate("location.href")) == (opened)
        page.mouse.move(0, 0)
    assert page.is_hidden("#notice")
    assert "cannot look ahead" in page.text_content("#account")
    page.keyboard.press("Escape")
    page.focus(f"[data-matrix={name}]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert fragment(page.evaluate("location.href")) == f"{name}[2,6]&break=mask"
    reader.open_breaks()
    page.uncheck("input[name=break][value=mask]")
    assert fragment(page.evaluate("location.href")) == ""
    assert page.is_hidden("#notice")


def test_link_opens_a_masked_cell_in_either_order(reader: Reader) -> None:
    for state in ("#dP[2,5]&break=mask", "#break=mask&dP[2,5]"):
        reader.open(state)
        assert checked_boxes(reader.page) == ["mask"]
        assert reader.page.get_attribute("#entry", "aria-label").startswith("dP[2,5] = ")
