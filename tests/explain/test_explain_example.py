"""explain --example: the worked example of the README, in the terminal and on a page."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_numpy.cli import CLI
from gpt_numpy.explain.account import account, sums
from gpt_numpy.explain.checks import check_all, checkable, four_ways, verdict
from gpt_numpy.explain.example import GIVEN, Example
from gpt_numpy.explain.terminal import _exact
from gpt_numpy.workshop.cli.main import run
from tests.explain.reader import Reader, all_of, make_page, pairs
from tests.explain.test_explain import assert_close, matrices
from tests.explain.test_explain_pages import COLOURS
from tests.support import ROOT

in_detail = pytest.mark.slow("a browser, in detail")
GRADIENTS = ["dP", "dV", "dS", "dQ", "dK"]


@pytest.fixture(scope="module")
def example() -> Example:
    return Example()


@pytest.fixture(scope="module")
def example_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_page(tmp_path_factory.mktemp("example") / "page.html", "--example", "paper")


@pytest.fixture
def paper(browser: Any, example_file: Path) -> Iterator[Reader]:
    reader = Reader(browser, example_file, viewport={"width": 1440, "height": 900})
    yield reader
    assert reader.messages == []


# ---- numbers and terminal ---------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_readme(example: Example) -> None:
    readme = matrices((ROOT / "gpt_numpy" / "explain" / "README.md").read_text(encoding="utf-8"))
    assert set(readme) == set(example.quantities) - {"S", "l", "L"}
    for name, numbers in readme.items():
        assert_close(example.numbers[name], numbers)
    assert float(example.numbers["L"]) == pytest.approx(1 + 0 + 3 / 5)


def test_four_ways_agree_and_notice_a_wrong_number(example: Example) -> None:
    assert set(checkable(example)) == set(GRADIENTS)
    torch = example.by_torch()
    assert set(torch) >= {*GRADIENTS, "S", "P", "O", "L"}
    found = verdict(example, check_all(example, torch, 10**9))
    assert (found.wrong, found.entries, found.differences, found.has_torch) == (0, 30, 30, True)
    for name in GRADIENTS:
        ways = four_ways(example, torch, account(example, name, (2, 1)))
        assert [way.value is not None for way in ways] == [True] * 4
    wrong = Example()
    wrong.numbers["dK"] = wrong.numbers["dK"] + 1e-6
    assert verdict(wrong, check_all(wrong, torch, 10**9)).wrong == 6


def test_formulas_give_the_numbers(example: Example) -> None:
    for name, quantity in example.quantities.items():
        if quantity.terms:
            expected = np.where(example.visible, example.numbers[name], 0.0) if name == "S" else example.numbers[name]
            assert_close(sums(example, quantity)[0], expected)
    assert [name for name, quantity in example.quantities.items() if quantity.kind == "given"] == list(GIVEN)


def test_entry_and_matrix_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(CLI, ["explain", "--example", "paper", "--entry", "dK[0,1]"]) == 0
    out = capsys.readouterr().out
    assert "dK[0,1] = 0.826667 = 62/75" in out
    assert "1/2 √2 × 2/3 × √2 + 1/2 √2 × 4/25 × √2" in out
    assert "they agree" in out
    assert "gpt-numpy explain --example paper --entry 'dS[1,0]'" in out
    assert run(CLI, ["explain", "--show", "dS", "--example", "paper"]) == 0
    rows = [line.split()[2:] for line in capsys.readouterr().out.splitlines() if re.match(r"\d '", line)]
    assert rows == [["0", "·", "·"], ["2/3", "-2/3", "·"], ["4/25", "-6/25", "2/25"]]


@pytest.mark.parametrize(
    ("value", "text"),
    [(62 / 75, "62/75"), (-2.0, "-2"), (2**0.5, "√2"), (-(2**-0.5), "-1/2 √2"), (np.log(2), "ln 2"), (0.0, "0"),
     (0.123456, ""), (1 / 3 + 1e-10, ""), (np.inf, ""), (np.nan, ""), (1 / 101, "")],
)  # fmt: skip
def test_a_number_is_written_exactly_if_it_is_simple(value: float, text: str) -> None:
    assert _exact(value) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --example or a TEXT; see gpt-numpy explain --help"),
        (["--entry", "L"], "give --example or a TEXT"),
        (["abc", "--example", "paper"], "--example has numbers of its own, and takes no TEXT"),
        (["--example", "paper", "--", "-a"], "takes no TEXT"),
        (["--example", "paper", "--run", "latest"], "--example has numbers of its own; --run is for a TEXT"),
        (["--example", "paper", "--layer", "0"], "--layer is for a TEXT"),
        (["--example", "paper", "--head", "0"], "--head is for a TEXT"),
        (["--example", "paper", "--seed", "0"], "--seed is for a TEXT"),
        (["--example", "paper", "--loss", "dpo"], "--loss is for a TEXT"),
        (["--example", "paper", "--answer-length", "2"], "--answer-length is for a TEXT"),
        (["--example", "pencil"], "invalid choice: 'pencil' (choose from"),
        (["--example", "paper", "--entry", "dX[0,0]"], "--entry dX: there is no such matrix"),
        (["--example", "paper", "--entry", "dS[0,1]"], "lies above the mask"),
    ],
)
def test_usage_error_of_an_example_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(CLI, ["explain", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not list(tmp_path.iterdir())


def test_text_may_follow_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """Though it is not required by the parser."""
    assert run(CLI, ["explain", "--entry", "L", "abc"]) == 0
    assert "the loss: the mean of -log p of the true next token" in capsys.readouterr().out


# ---- the page ---------------------------------------------------------------------------------------------------


@in_detail
def test_guide_of_the_example_has_no_word_of_a_model(paper: Reader) -> None:
    words = paper.page.eval_on_selector_all("#guide .words dt", "all => all.map(one => one.textContent)")
    assert words == ["channel", "head", "query", "key", "value"]


@in_detail
def test_way_to_the_loss_of_the_example_ends_at_its_own_gradient(paper: Reader) -> None:
    """There are no logits: the loss is the sum of dO O."""
    way = "all => all.map(one => one.getAttribute('aria-label'))"
    for entry in ("dK[0,1]", "dQ[2,0]", "dV[1,1]", "dS[2,1]", "dP[2,1]", "dO[2,0]"):
        paper.go(f"#{entry}")
        found = [entry, *paper.page.eval_on_selector_all("#account .way a", way)]
        assert [one.partition("[")[0] for one in found[-3:]] == ["dO", "l", "L"]
    paper.go("#")


@in_detail
def test_page_shows_the_example(paper: Reader) -> None:
    page = paper.page
    assert paper.number("#own", "largest") < 1e-13
    assert "A worked example, of T = 3 positions and D = 2 channels" in page.text_content("#about")
    shown = {"Q", "K", "V", "S", "P", "O", "l", "L", "dO", *GRADIENTS}
    assert set(all_of(page, "figure[data-figure]", "figure")) == shown
    assert len(page.query_selector_all("[name=break]")) == 5
    for part in ("#around", "#weights", "#sublayers", "#loss", "#heads-box"):
        assert page.is_hidden(part), part
    paper.go("#dK[0,1]")
    assert paper.number("#account [data-way=formula]", "value") == pytest.approx(62 / 75)
    assert "= 62/75 = 0.826667" in page.text_content("#entry")
    assert "gpt-numpy explain --example paper --entry 'dK[0,1]'" in page.text_content("#account pre")


@in_detail
def test_every_entry_of_the_example_adds_up(paper: Reader, example: Example) -> None:
    for name, numbers in example.numbers.items():
        for index in np.ndindex(numbers.shape):
            if name in ("S", "P", "dS", "dP") and index[1] > index[0]:
                continue
            paper.go(f"#{name}[{','.join(map(str, index))}]" if index else f"#{name}")
            assert paper.page.is_hidden("#notice")
            ways = dict(pairs(paper.page, "#account [data-way]", "way", "value"))
            values = {way: float(value) for way, value in ways.items() if value}
            assert values["tape"] == pytest.approx(float(numbers[index]), abs=1e-12)
            if name in GRADIENTS:
                assert set(values) == {"formula", "tape", "torch", "difference"}
            if name not in ("P", *GIVEN):
                terms = paper.numbers("#account [data-term]", "term")
                assert sum(terms) == pytest.approx(values["formula"], abs=1e-12)
            for value in values.values():
                assert value == pytest.approx(float(numbers[index]), abs=1e-8)
            assert not paper.page.query_selector_all("#account .wrong")


MISTAKES = {
    "saturate": {"S", "P", "O", "dV", "dS", "dQ", "dK"}, "scale": {"dQ", "dK"}, "rowsum": {"dS", "dQ", "dK"},
    "mask": {"S", "P", "O", "dV", "dS", "dQ", "dK"}, "transpose": {"dK"},
}  # fmt: skip


@in_detail
@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_shows_its_wrong_matrices(mistake: str, paper: Reader) -> None:
    page = paper.page
    assert page.eval_on_selector_all("[name=break]", "all => all.map(one => one.value)") == list(MISTAKES)
    page.check(f"input[name=break][value={mistake}]")
    wrong = {name: int(count) for name, count in pairs(page, "tr[data-broken]", "broken", "wrong")}
    assert {name for name, count in wrong.items() if count} == MISTAKES[mistake]
    agrees = dict(pairs(page, "tr[data-agrees]", "broken", "agrees"))
    assert set(agrees) == {"dO", *GRADIENTS}
    disagree = {"scale": {"dQ", "dK"}, "rowsum": {"dS", "dQ", "dK"}, "transpose": {"dK"}}.get(mistake, set())
    assert {name for name, verdict in agrees.items() if verdict == "false"} == disagree
    assert ("BROKEN" in page.text_content("#causality")) == (mistake == "mask")
    assert ("NOT" in page.text_content("#sums")) == (mistake == "rowsum")
    assert "dY" not in page.text_content("#effects") + page.text_content("#effects-summary")
    paper.go(f"#dK[0,1]&break={mistake}")
    terms = paper.numbers("#account [data-wrong-term]", "wrong-term")
    assert sum(terms) == pytest.approx(paper.number("#account [data-wrong-total]", "wrong-total"))


@in_detail
def test_mistake_that_needs_X_is_not_known(paper: Reader) -> None:
    paper.go("#break=equals")
    assert paper.page.is_visible("#notice")


@in_detail
def test_tour_of_the_example(paper: Reader) -> None:
    page, titles = paper.page, []
    for stop in range(1, 7):
        paper.go(f"#tour={stop}")
        titles.append(page.text_content("#tour h3"))
        assert "of 6" in page.text_content("#tour .buttons")
    assert [re.sub(r"\d+\. ", "", title) for title in titles] == [
        "To the values", "To the attention weights", "Through softmax", "To the queries", "To the keys", "Now you",
    ]  # fmt: skip
    page.click("#tour .questions button:text-is('positive')")
    assert page.get_attribute("#tour [role=status]", "data-is-right") == "true"
    paper.go("#tour=7")
    assert page.is_visible("#notice")


@in_detail
def test_numbers_stand_in_every_cell_of_the_example(browser: Any, example_file: Path) -> None:
    for view in ({"width": 1440, "height": 900}, {"width": 390, "height": 844}):
        reader = Reader(browser, example_file, viewport=view)
        chips = all_of(reader.page, "[data-chip]", "chip") if view["width"] == 390 else [""]
        for chip in chips:
            if chip:
                reader.page.click(f"[data-chip={chip}]")
            names = all_of(reader.page, ".cell.chosen figure" if chip else "figure[data-figure]", "figure")
            for name in names:
                assert name in "lL" or reader.page.evaluate(COLOURS, name) > 3, name
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= view["width"]
        assert reader.messages == []
