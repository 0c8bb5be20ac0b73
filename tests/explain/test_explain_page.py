"""The page of explain in a browser: its sums match NumPy's, and all controls work."""

import base64
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from gpt_numpy import GPTConfig
from gpt_numpy.cli import CLI
from gpt_numpy.explain import command
from gpt_numpy.explain.account import account
from gpt_numpy.explain.checks import BEND, EXACT, by_torch, check_all
from gpt_numpy.explain.differences import resolution
from gpt_numpy.explain.page import FOLDER, SCRIPTS, contents, write_page
from gpt_numpy.explain.problem import Problem
from gpt_numpy.explain.subject import subject_of
from gpt_numpy.explain.trace import Trace
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.params import initial_weights
from gpt_numpy.workshop.report.report import embedded
from tests.equivalence.problems import perturb
from tests.support.browser import launched

TEXT = "To be, or not"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_page(tmp_path_factory.mktemp("page") / "attention.html", TEXT)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace(subject_of(CLI, {"text": TEXT}).problem)


def make_page(path: Path, *arguments: str) -> Path:
    assert run(CLI, ["explain", *arguments, "--out", str(path)]) == 0
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
        self.page.wait_for_selector("#own[data-largest]")

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


def all_of(page: Any, selector: str, name: str) -> list[str]:
    """A data attribute of all selected elements."""
    found: list[str] = page.eval_on_selector_all(
        selector, "(all, name) => all.map(one => one.getAttribute(name))", f"data-{name}"
    )
    return found


def pairs(page: Any, selector: str, first: str, second: str) -> list[tuple[str, str]]:
    return list(zip(all_of(page, selector, first), all_of(page, selector, second), strict=True))


@pytest.fixture(scope="module")
def shared_reader(browser: Any, file: Path) -> Reader:
    return Reader(browser, file)


@pytest.fixture
def reader(shared_reader: Reader, file: Path) -> Iterator[Reader]:
    shared_reader.go("#")
    yield shared_reader
    assert shared_reader.messages == []
    assert {url.partition("#")[0] for url in shared_reader.requests} <= {"about:blank", file.as_uri()}, (
        "the page made requests"
    )


# ---- contents ---------------------------------------------------------------------------------------------------


ENTRIES = "dS[3,1] dX[2,5] dW_q[0,3]"
MORE = """
    dP[5,2] dV[2,0] dQ[4,3] dK[1,7] dO[11,0] dZ[3,2] P[4,1] dS[0,0] dY[6,6] dW_o[15,7] db_k[1] db_o[3] dR[3,3]
    dN_f[0,0] dR_f[2,2] dU_mlp0[1,1] dR_mlp1[5,5] X[1,1] Q[2,2] S[4,1] O[5,0] Y[7,7] p[3,3] L
"""
in_detail = pytest.mark.slow("a browser, in detail")
more = [pytest.param(entry, marks=in_detail) for entry in MORE.split()]


@pytest.mark.parametrize("entry", [*ENTRIES.split(), *more])
def test_sum_of_entry_matches_numpy(entry: str, reader: Reader, trace: Trace) -> None:
    name, *index = re.findall(r"\w+", entry)
    expected = account(trace, name, tuple(map(int, index)))
    reader.go(f"#{entry}")
    size = sum(abs(part.value) for part in expected.parts)
    np.testing.assert_allclose(reader.number("#account [data-total]", "total"), expected.total, atol=1e-13 * size)
    terms = reader.numbers("#account tr[data-term]", "term")
    np.testing.assert_allclose(sorted(terms), sorted(part.value for part in expected.parts), rtol=1e-13, atol=1e-300)
    assert list(map(abs, terms)) == sorted(map(abs, terms), reverse=True)
    ways = dict(pairs(reader.page, "#account [data-way][data-value]", "way", "value"))
    differs = {"difference"} if name.startswith("d") else set()
    assert set(ways) >= {"formula", "tape"} | differs
    for way, value in ways.items():
        allowed = 1e-5 * size + 1e-9 if way == "difference" else 1e-12 * size
        assert abs(float(value) - expected.value) <= allowed, way
    assert not reader.page.query_selector_all("#account .wrong")


@in_detail
def test_account_shows_all_details(reader: Reader, trace: Trace) -> None:
    reader.go("#dS[3,1]")
    page, found = reader.page, account(trace, "dS", (3, 1))
    assert "“b” at 3 attends to “o” at 1" in page.text_content("#account")
    derivation = page.text_content("#account .derivation")
    for factor in found.parts[0].factors:
        assert f"{factor.value:.4g}" in derivation
    assert "They agree: off by" in page.text_content("#account")
    assert page.text_content("tr[data-term]:last-child td:last-child") == page.text_content("#account [data-total]")
    users = [
        name for name, one in trace.quantities.items() if any(f.name == "dS" for t in one.terms for f in t.factors)
    ]
    assert {href.partition("[")[0] for href in links(page, "#account .uses a")} == set(users) == {"dQ", "dK"}
    assert set(all_of(page, "figure[data-lit]", "figure")) == {
        factor.entry.name for p in found.parts for factor in p.factors
    }


def links(page: Any, selector: str) -> list[str]:
    """The entries that links lead to."""
    found = page.eval_on_selector_all(selector, "all => all.map(one => one.getAttribute('href'))")
    return [fragment(link).partition("&")[0] for link in found]


@in_detail
def test_command_of_entry_prints_the_same_number(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    reader.go("#dK[5,3]")
    command = shlex.split(reader.page.text_content("#account pre"))
    capsys.readouterr()
    assert run(CLI, command[1:]) == 0
    assert f"{reader.number('#account [data-way=tape]', 'value'):.6g}" in capsys.readouterr().out


@in_detail
def test_suggestions_are_the_largest_entries(reader: Reader, trace: Trace) -> None:
    for link in links(reader.page, "#suggestions a"):
        name, *index = re.findall(r"\w+", link)
        numbers = np.abs(trace.numbers[name])
        assert numbers[tuple(map(int, index))] == numbers.max()
    assert len(links(reader.page, "#suggestions a")) == 4


@in_detail
def test_arrows_connect_the_matrices(reader: Reader) -> None:
    assert len(reader.page.query_selector_all("#flow > svg > path")) > 20


@in_detail
def test_every_quantity_opens_without_errors(reader: Reader, trace: Trace) -> None:
    last = {name: tuple(length - 1 for length in trace.numbers[name].shape) for name in trace.quantities}
    entries = {name: f"{name}[{','.join(map(str, index))}]" if index else name for name, index in last.items()}
    opened = reader.page.evaluate(OPEN, [f"#{entry}" for entry in entries.values()])
    assert len(opened) == len(entries) > 80
    for (name, entry), (notice, heading, tape, wrong) in zip(entries.items(), opened, strict=True):
        assert notice == "", entry
        assert heading.startswith(f"{entry} ="), entry
        assert float(tape) == pytest.approx(float(trace.numbers[name][last[name]]), rel=1e-15)
        assert wrong == 0, entry


# One call for all entries: a call for each question about each of them would take longer than the page itself.
OPEN = f"""async entries => {{
    const found = [], account = document.querySelector("#account")
    for (const entry of entries) {{
        await ({GO})(entry)
        const notice = document.querySelector("#notice")
        found.push([
            notice.checkVisibility() ? notice.textContent || "shown" : "",
            account.querySelector("#entry").getAttribute("aria-label"),
            account.querySelector("[data-way=tape]").dataset.value,
            account.querySelectorAll(".wrong").length,
        ])
    }}
    return found
}}"""


def test_links_lead_from_score_to_loss_and_back(reader: Reader) -> None:
    reader.go("#dS[3,1]")
    walked = ["dS"]
    for name in ("dP", "dO", "dY", "dR_f", "dN_f", "dZ", "p", "Z"):
        reader.page.click(f"#account tr[data-term] a[href^='#{name}'], #account tr[data-term] a[href^='#{name}%5B']")
        walked.append(name)
        assert fragment(reader.page.url).startswith(f"{name}[")
    for name in reversed(walked[:-1]):
        reader.page.go_back()
        reader.page.wait_for_function("name => decodeURIComponent(location.hash).startsWith(`#${name}[`)", arg=name)
    assert fragment(reader.page.url) == "dS[3,1]"
    assert reader.page.is_visible("#account")


def fragment(url: str) -> str:
    """The part of a URL after #, decoded."""
    return unquote(url.partition("#")[2])


def test_arithmetic_of_the_page_matches_the_file(reader: Reader) -> None:
    assert reader.number("#own", "largest") < 1e-13


@in_detail
@pytest.mark.parametrize("wrong", ["torch", "difference"])
def test_page_and_python_have_the_same_tolerances(
    wrong: str, browser: Any, file: Path, trace: Trace, tmp_path: Path
) -> None:
    """Two numbers of an entry are changed in the file: one by twice its tolerance, the other by half of it."""
    smallest = np.unravel_index(np.abs(trace.numbers["dU_mlp0"]).argmin(), trace.numbers["dU_mlp0"].shape)
    # The second is a single product, tiny beside the other entries of its matrix.
    entries = {"dS": (3, 1), "dU_mlp0": tuple(map(int, smallest))}
    sizes = {name: account(trace, name, index).size for name, index in entries.items()}
    amounts = {
        (name, way, entries[name]): (2.0 if way == wrong else 0.5) * allowed
        for name, size in sizes.items()
        for way, allowed in {"torch": EXACT * size, "difference": BEND * size + resolution(trace)}.items()
    }
    reader = Reader(browser, with_changed_numbers(file, tmp_path, amounts))
    for (name, way, index), amount in amounts.items():
        reader.go(f"#{name}[{','.join(map(str, index))}]")
        assert all_of(reader.page, "#account [data-way].wrong", "way") == [wrong]
        relative = reader.number(f"#account [data-way={way}]", "relative")
        assert relative == pytest.approx(amount / sizes[name], rel=0.35)  # the correct number has a rounding error, too


def with_changed_numbers(file: Path, folder: Path, amounts: dict[tuple[str, str, tuple[int, ...]], float]) -> Path:
    """The page with an amount added to some numbers, each named by its quantity, its way, and its index."""
    before, text, after = split_page(file)
    data = json.loads(text)
    for (name, way, index), amount in amounts.items():
        record = next(one for one in data["quantities"] if one["name"] == name)
        numbers = unpack(record[way])
        position = int(np.ravel_multi_index(index, record["shape"]))
        if way == "difference" and "measured" in record:
            position = int(np.flatnonzero(unpack(record["measured"]) == position)[0])
        numbers[position] += amount
        record[way] = base64.b64encode(numbers.tobytes()).decode("ascii")
    page = folder / "changed.html"
    page.write_text(before + embedded(data) + after, encoding="utf-8")
    return page


@in_detail
@pytest.mark.parametrize("ways", [["torch", "difference"], ["numbers"]], ids=" and ".join)
def test_wrong_number_in_the_file_is_shown_as_wrong(ways: list[str], browser: Any, file: Path, tmp_path: Path) -> None:
    """Numbers of dS are changed: their accounts show it, and, if it is the tape's, the page's own arithmetic too."""
    indices = dict(zip(ways, [(3, 1), (6, 2)], strict=False))
    amounts = {("dS", way, index): 1e-4 for way, index in indices.items()}
    reader = Reader(browser, with_changed_numbers(file, tmp_path, amounts))
    for way, (row, column) in indices.items():
        reader.go(f"#dS[{row},{column}]")
        wrong = all_of(reader.page, "#account [data-way].wrong", "way")
        assert wrong == (["tape", "torch", "difference"] if way == "numbers" else [way])
        assert "WRONG" in reader.page.text_content("#account [data-way].wrong")
        assert "They do NOT agree" in reader.page.text_content("#account")
    assert (reader.number("#own", "largest") > 1e-4) == ("numbers" in ways)


def split_page(file: Path) -> tuple[str, str, str]:
    """The page before its data, the data, and the page after."""
    before, rest = file.read_text(encoding="utf-8").split(' id="data">')
    text, after = rest.split("</script>", 1)
    return f'{before} id="data">', text, f"</script>{after}"


def unpack(text: str) -> Any:
    kind = "<f4" if text.startswith(",") else "<f8"
    return np.frombuffer(base64.b64decode(text.removeprefix(",")), kind).astype("<f8")


@in_detail
def test_difference_that_was_not_taken_is_shown_as_not_measured(browser: Any, tmp_path: Path) -> None:
    reader = Reader(browser, make_page(tmp_path / "page.html", "To be, or", "--differences", "60"))
    reader.go("#dS[7,7]")
    measured = reader.number("#account [data-way=difference]", "value")
    assert measured == pytest.approx(reader.number("#account [data-way=tape]", "value"), rel=1e-4, abs=1e-9)
    reader.go("#dS[3,1]")
    assert reader.page.get_attribute("#account [data-way=difference]", "data-value") is None
    assert "not measured" in reader.page.text_content("#account [data-way=difference]")
    assert not reader.page.query_selector_all("#account .wrong")


# ---- mistakes ---------------------------------------------------------------------------------------------------


def gradients_with_mistake(trace: Trace, mistake: str) -> dict[str, Any]:
    """The gradients of a backward pass with one mistake, in NumPy."""
    n, c = trace.numbers, trace.constants["c"]
    S, P, dP = n["S"], n["P"], n["dP"]
    if mistake == "mask":
        S = c * n["Q"] @ n["K"].T
        P = np.exp(S) / np.exp(S).sum(-1, keepdims=True)
        dP = n["dO"] @ n["V"].T
    O = P @ n["V"]  # noqa: E741
    dS = P * (dP - (0 if mistake == "rowsum" else (P * dP).sum(-1, keepdims=True)))
    c = 1.0 if mistake == "scale" else c
    dQ, dK, dV = c * dS @ n["K"], c * (dS if mistake == "transpose" else dS.T) @ n["Q"], P.T @ n["dO"]
    uses = [dQ @ n["W_q"], dK @ n["W_k"], dV @ n["W_v"]]
    dX = uses[2] if mistake == "equals" else sum(uses)
    return {
        "dP": np.tril(dP), "dV": dV, "dS": dS, "dQ": dQ, "dK": dK, "dX": dX + n["dX_others"], "dW_o": n["dY"].T @ O,
        **{f"dW_{x}": d.T @ n["X"] for x, d in zip("qkv", (dQ, dK, dV), strict=True)},
        **{f"db_{x}": d.sum(0) for x, d in zip("qkv", (dQ, dK, dV), strict=True)},
    }  # fmt: skip


MISTAKES = ["rowsum", *(pytest.param(name, marks=in_detail) for name in ("scale", "mask", "equals", "transpose"))]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_has_the_same_effects_as_in_numpy(mistake: str, reader: Reader, trace: Trace) -> None:
    reader.page.check(f"input[name=break][value={mistake}]")
    assert f"break={mistake}" in fragment(reader.page.url)
    wrong = dict(pairs(reader.page, "tr[data-broken]", "broken", "wrong"))
    found = gradients_with_mistake(trace, mistake)
    for name, numbers in found.items():
        right = trace.numbers[name]
        off = np.abs(numbers - right) > 1e-9 * np.abs(right).max() + 1e-15
        assert int(wrong.get(name, 0)) == off.sum(), name
    agrees = dict(pairs(reader.page, "tr[data-agrees]", "broken", "agrees"))
    assert len(agrees) == 15
    for name, verdict in agrees.items():  # without the mask, the differences change too, and agree
        assert verdict == ("true" if mistake == "mask" or not int(wrong[name]) else "false"), name
    assert ("BROKEN" in reader.page.text_content("#causality")) == (mistake == "mask")
    assert ("NOT" in reader.page.text_content("#sums")) == (mistake == "rowsum")
    reader.page.uncheck(f"input[name=break][value={mistake}]")
    assert "break" not in fragment(reader.page.url)
    assert not [count for count in all_of(reader.page, "tr[data-broken]", "wrong") if int(count)]


@in_detail
def test_account_with_a_mistake_shows_both_numbers(reader: Reader, trace: Trace) -> None:
    reader.go("#dQ[4,3]&break=scale")
    text = reader.page.text_content("#account").replace("\N{MINUS SIGN}", "-")
    right = trace.numbers["dQ"][4, 3]
    for number in (right, right / trace.constants["c"]):
        assert f"{number:.4g}".lstrip("-")[:5] in text


# ---- interaction ------------------------------------------------------------------------------------------------


def test_clicking_a_cell_opens_its_account(reader: Reader, trace: Trace) -> None:
    canvas = reader.page.locator("[data-matrix=dP] canvas")
    size, (rows, columns) = canvas.bounding_box(), trace.numbers["dP"].shape
    canvas.click(position={"x": size["width"] * 2.5 / columns, "y": size["height"] * 7.5 / rows})
    assert fragment(reader.page.url) == "dP[7,2]"
    assert reader.number("#account [data-way=tape]", "value") == trace.numbers["dP"][7, 2]


@in_detail
def test_hovering_shows_the_number(reader: Reader, trace: Trace) -> None:
    canvas = reader.page.locator("[data-matrix=P] canvas")
    size = canvas.bounding_box()
    canvas.hover(position={"x": size["width"] * 1.5 / 12, "y": size["height"] * 5.5 / 12})
    tip = reader.page.text_content("#tip")
    assert f"{trace.numbers['P'][5, 1]:.4f}"[:6] in tip
    assert "," in tip  # the character at position 5
    assert "o" in tip


@in_detail
def test_matrices_can_be_navigated_by_keyboard(reader: Reader) -> None:
    page = reader.page
    reader.go("#L")  # away from where another test has left a matrix
    reader.go("#")
    page.focus("[data-matrix=dS]")
    for key in ["ArrowDown"] * 3 + ["ArrowRight"] * 7 + ["Enter"]:  # cells further right are masked
        page.keyboard.press(key)
    assert fragment(page.url) == "dS[3,3]"
    assert page.is_visible("#account")
    assert page.evaluate("document.querySelector('#account').contains(document.activeElement)")
    page.keyboard.press("Escape")
    assert page.is_hidden("#account")
    assert page.evaluate("document.activeElement.dataset.matrix") == "dS"
    for key in ["Home", "ArrowUp", "End", "Enter"]:
        page.keyboard.press(key)
    assert fragment(page.url) == "dS[2,2]"


@in_detail
def test_every_matrix_has_an_accessible_name(reader: Reader) -> None:
    page = reader.page
    boxes = page.eval_on_selector_all(
        "[data-matrix][tabindex]", "all => all.map(one => [one.dataset.matrix, one.getAttribute('aria-label')])"
    )
    assert len(boxes) > 30
    for name, label in boxes:
        assert name.split("_")[0].lstrip("d") in label
        assert re.search(r"\d|single", label)
    page.focus("[data-matrix=dS]")
    page.keyboard.press("ArrowDown")
    assert re.search(r"dS.* row 1 o, column 0 T: ", page.text_content("#say"))


@in_detail
def test_steps_cover_the_backward_pass(reader: Reader) -> None:
    page = reader.page
    page.keyboard.press("n")
    texts = []
    while True:
        step = page.get_attribute("#step", "data-step")
        texts.append(page.text_content("#step"))
        assert f"step={step}" in fragment(page.url)
        page.keyboard.press("n")
        if page.get_attribute("#step", "data-step") == step:
            break
    assert len(texts) == len(set(texts)) >= 10
    joined = " ".join(texts)
    for name in ("Z", "Y", "O", "V", "P", "S", "Q", "K", "X"):
        assert f"d{name}" in joined
    page.keyboard.press("p")
    assert page.get_attribute("#step", "data-step") == str(len(texts) - 1)


def test_link_restores_the_state(reader: Reader) -> None:
    reader.open("#dK[2,3]&step=4&break=scale,transpose")
    assert reader.page.get_attribute("#step", "data-step") == "4"
    assert checked_boxes(reader.page) == ["scale", "transpose"]
    assert reader.page.query_selector("#account [data-total]")


def checked_boxes(page: Any) -> list[str]:
    return [box.get_attribute("value") for box in page.query_selector_all("input[name=break]:checked")]


@in_detail
@pytest.mark.parametrize(
    "address", ["dS[1,3]", "dS[99,0]", "dS", "dQQ[1,1]", "<b>", "dS[1", "step=99", "break=all", "%", "dS[1,0]=2"]
)
def test_invalid_address_is_reported_in_one_line(address: str, reader: Reader) -> None:
    if address == "dS[1,3]":
        reader.open(f"#{address}")
    else:
        reader.go(f"#{address}")
    assert reader.page.is_visible("#notice")
    assert 10 < len(reader.page.text_content("#notice")) < 150
    reader.go("#dS[1,0]")
    assert reader.page.is_hidden("#notice")
    assert reader.page.is_visible("#account")


@in_detail
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_page_fits_every_screen(width: int, browser: Any, file: Path) -> None:
    reader = Reader(browser, file, "#dS[3,1]&step=6&break=rowsum", viewport={"width": width, "height": 800})
    for scheme in ("light", "dark"):
        reader.page.emulate_media(color_scheme=scheme)
        for state in ("#dS[3,1]&step=6&break=rowsum", "#dR_mlp0[3,3]", "#"):
            reader.go(state)
            assert reader.page.evaluate("document.documentElement.scrollWidth") <= width, state
        assert (brightness(reader.page) > 384) == (scheme == "light")
    assert reader.messages == []


@in_detail
def test_matrices_have_the_same_size_before_and_after_the_steps(browser: Any, file: Path) -> None:
    """A narrow screen shows only the matrices of a step."""
    narrow = {"width": 360, "height": 800}
    sizes = "Array.from(document.querySelectorAll('#flow canvas'), one => [one.width, one.height])"
    reader = Reader(browser, file, "#step=6", viewport=narrow)
    reader.go("#")
    found = reader.page.evaluate(sizes)
    reader.open()
    assert found == reader.page.evaluate(sizes)
    assert len(found) > 50


def brightness(page: Any) -> int:
    """The brightness of the background, from 0 to 765."""
    red, green, blue = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
    return int(red) + int(green) + int(blue)


@in_detail
def test_print_is_light_and_has_no_switches(browser: Any, file: Path) -> None:
    reader = Reader(browser, file, "#dS[3,1]", color_scheme="dark")
    assert brightness(reader.page) < 384
    reader.page.emulate_media(media="print")
    assert brightness(reader.page) > 600
    assert not reader.page.is_visible("input[name=break]")
    assert reader.page.is_visible("#account table")


# ---- the file ---------------------------------------------------------------------------------------------------


@in_detail
@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>\u2028\u202e\x1b[1m é☃", "<img src=x onerror=alert(1)>{{data}}"]
)
def test_text_is_never_markup(text: str, browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WORK", 0.0)  # without differences
    reader = Reader(browser, make_page(tmp_path / "page.html", text), "#dS[3,1]")
    assert reader.page.is_visible("#account")
    assert reader.messages == []
    assert not reader.page.query_selector("img")
    assert len(reader.page.query_selector_all("script")) == 2


def test_page_fetches_nothing(file: Path) -> None:
    before, _, after = split_page(file)
    assert "default-src 'none'" in before
    assert not re.search(r"://|\bsrc\s*=|@import|url\((?!#)|\bimport\b|fetch\(|XMLHttpRequest", before + after)


def test_page_contains_all_files_of_its_folder() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*SCRIPTS, "page.html", "style.css"}


@in_detail
@pytest.mark.parametrize(
    "changes", [{"bias": False, "tie_weights": True, "n_head": 1, "n_layer": 1}, {"gelu": "tanh", "n_layer": 3}]
)
def test_page_works_for_other_models(changes: dict[str, Any], browser: Any, tmp_path: Path) -> None:
    config = GPTConfig(**{"vocab_size": 3, "block_size": 4, "n_layer": 2, "n_head": 2, "n_embd": 8, **changes})
    layer, head = config.n_layer - 1, config.n_head - 1
    problem = Problem(config, float64_weights(config), np.array([0, 1, 2, 1]), np.array([1, 2, 1, 0]), layer, head)
    reader = Reader(browser, page_of(problem, tmp_path))
    assert reader.number("#own", "largest") < 1e-13
    for name in ("dS[2,1]", "dX[1,3]", "dR[3,3]", "dY[0,0]", "P[3,2]"):
        reader.go(f"#{name}")
        assert reader.page.query_selector("#account [data-total]")
        assert not reader.page.query_selector_all("#account .wrong")
    assert reader.messages == []


@in_detail
def test_large_page_opens_quickly(browser: Any, tmp_path: Path) -> None:
    """32 characters, width 128. It should take at most two seconds; a busy machine gets four, and three tries."""
    config = GPTConfig(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128)
    ids = np.random.default_rng(0).integers(0, 65, 32)
    page = page_of(Problem(config, float64_weights(config), ids[:-1], ids[1:], 0, 0), tmp_path, most=0)
    assert 4e6 < page.stat().st_size < 5e6
    reader, times = Reader(browser, page), []
    while not times or min(times) >= 4 and len(times) < 3:
        if times:
            reader.open()
        times.append(reader.page.evaluate("performance.now()") / 1000)
    assert min(times) < 4, times


@in_detail
def test_nan_is_shown_as_wrong(browser: Any, tmp_path: Path) -> None:
    config = GPTConfig(vocab_size=3, block_size=4, n_layer=1, n_head=2, n_embd=8)
    weights = float64_weights(config)
    weights["blocks.0.attn.c_attn.weight"][0, 0] = np.nan
    reader = Reader(browser, page_of(Problem(config, weights, np.arange(3), np.arange(3), 0, 0), tmp_path))
    assert not reader.number("#own", "largest") < 1
    reader.go("#dS[2,1]")
    assert set(all_of(reader.page, "#account [data-way].wrong", "way")) >= {"tape", "torch"}
    assert "NaN" in reader.page.text_content("#account")
    assert reader.messages == []


def float64_weights(config: GPTConfig) -> dict[str, Any]:
    weights = {
        name: array.astype(np.float64) for name, array in perturb(initial_weights(config, 0), config, 1, 0.3).items()
    }
    return {"lm_head.weight": weights["tok_emb.weight"], **weights}


def page_of(problem: Problem, folder: Path, most: int = 10**9) -> Path:
    trace, torch = Trace(problem), by_torch(problem)
    labels = [str(n) for n in range(problem.config.vocab_size)]
    about = {"text": "012", "reads": [labels[n] for n in problem.ids], "vocabulary": labels, "model": "a model",
             "command": ["gpt-numpy explain 012", ""], "torch": True}  # fmt: skip
    write_page(folder / "page.html", contents(trace, torch, check_all(trace, torch, most), about))
    return folder / "page.html"
