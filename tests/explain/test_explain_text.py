"""A text on a page with the model: typed or from an address, refused if it cannot be read, and continued."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_numpy.explain.subject import OfText
from gpt_numpy.explain.trace import Trace
from tests.explain.reader import (
    OTHER,
    TEXT,
    Reader,
    check_entries,
    check_quiet,
    fragment,
    make_page,
    numbers_in,
    problem_of,
    set_range,
    show,
    value,
    wait,
)

pytestmark = pytest.mark.together("a browser for a page with the model")
in_detail = pytest.mark.slow("a browser, in detail")


@pytest.fixture
def reader(reopened: Reader) -> Reader:
    return reopened


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
def test_text_of_several_lines_is_typed_and_pasted(browser: Any, tmp_path: Path) -> None:
    reader = Reader(browser, make_page(tmp_path / "page.html", "to be\nor not"))
    page = reader.page
    assert page.input_value("#text") == "to be↵or not"
    page.focus("#text")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.keyboard.type("to")
    page.wait_for_function(READS, arg=14)
    assert fragment(page.evaluate("location.href")) == "text=to be\nor not\nto"
    assert page.input_value("#text") == "to be↵or not↵to"
    page.locator("#text").select_text()
    page.evaluate(PASTE, "be\r\nto\n")
    page.wait_for_function(READS, arg=5)
    assert fragment(page.evaluate("location.href")) == "text=be\nto\n"
    assert reader.page.input_value("#text") == "be↵to↵"
    page.fill("#text", "t")  # one character is predicted after a line break
    page.wait_for_function(READS, arg=1)
    assert fragment(page.evaluate("location.href")) == "text=\nt"
    assert page.input_value("#text") == "t"
    reader.go("#L&text=\nt")
    (probability,) = map(float, re.findall(r"gave it (\S+),", page.get_attribute("#characters > span", "title")))
    assert value(reader) == pytest.approx(-np.log(probability), rel=1e-2)
    check_quiet(reader)


READS = "count => document.querySelectorAll('#characters > span').length === count"
PASTE = """text => {
    const clipboardData = new DataTransfer()
    clipboardData.setData("text", text)
    document.querySelector("#text").dispatchEvent(new ClipboardEvent("paste", { clipboardData, cancelable: true }))
}"""


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
        assert note.endswith("The last text that it could read is still shown.")
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


@in_detail
def test_guide_follows_the_text(reader: Reader) -> None:
    page = reader.page
    for text in (TEXT, "To be"):
        page.fill("#text", text)
        wait(reader, text)
        terms = page.eval_on_selector_all("#indices dt", "all => all.map(one => one.textContent)")
        assert sorted(terms) == sorted(set(terms))
        assert f"the number of positions, {len(text) - 1};" in page.text_content("#indices")


@in_detail
def test_marks_of_an_account_lead_to_its_four_ways(reader: Reader) -> None:
    """On another text they say why the libraries have no number."""
    page, own = reader.page, "✓ this page\N{RIGHT SINGLE QUOTATION MARK}s model"
    for text, mark in ((TEXT, "✓ minitensor and torch"), (OTHER, "\N{EN DASH} minitensor and torch: first text only")):
        show(reader, f"#dS[5,2]&text={text}", text)
        page.wait_for_selector("#account [data-way=difference][data-value]")
        marks = page.eval_on_selector_all("#account .marks span", "all => all.map(one => [one.textContent, one.title])")
        assert [one for one, _ in marks] == ["✓ this formula", own, mark, "✓ central difference"]
        assert ("the file has their numbers on the first text only" in marks[2][1]) == (text == OTHER)
        page.focus("#account .marks")
        page.keyboard.press("Enter")
        ways, account = (page.locator(one).bounding_box() for one in ("#account .ways", "#account"))
        assert page.evaluate("document.activeElement.querySelector(':scope > .ways') !== null")
        assert account["y"] <= ways["y"]
        assert ways["y"] + ways["height"] <= min(720, account["y"] + account["height"])
    assert "rounding of L limits it to ± " in page.text_content("#account [data-way=difference]")


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
