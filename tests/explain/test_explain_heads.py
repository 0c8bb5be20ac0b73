"""Layers and heads on a page with the model: their maps, two heads side by side, and the links between them."""

import re

import numpy as np
import pytest

from gpt_numpy.explain.subject import OfText
from gpt_numpy.explain.trace import Trace
from tests.explain.reader import TEXT, Reader, all_of, fragment, problem_of, show, value, wait, wait_for_entry

pytestmark = pytest.mark.together("a browser for a page with the model")
in_detail = pytest.mark.slow("a browser, in detail")


@pytest.fixture
def reader(reopened: Reader) -> Reader:
    return reopened


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
    address = "layer=1&pin=0.1&compare=dS"
    assert fragment(page.evaluate("location.href")) == address
    reader.open(f"#{address}")
    assert page.text_content("#pinned h3") == "Two heads: dS"
    page.evaluate("document.querySelector('#breaks-menu').open = false")  # it covers the heads
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
    for part in ("layer=2", "head=2", "layer=-1", "head=x", "pin=2.0", "pin=1", "layer=", "compare=O", "text=%"):
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
