"""The page of explain in a browser: its sums match NumPy's, and all controls work. One page is opened once for all."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_numpy.cli import CLI
from gpt_numpy.explain.account import account
from gpt_numpy.explain.page import ENGINE, FOLDER, SCRIPTS
from gpt_numpy.explain.subject import OfText
from gpt_numpy.explain.trace import Trace
from gpt_numpy.workshop.cli.main import run
from tests.explain.reader import GO, TEXT, Reader, all_of, fragment, pairs, problem_of, show, split_page

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
    if name.startswith("d"):
        reader.page.wait_for_selector("#account [data-way=difference][data-value]")
    size = sum(abs(part.value) for part in expected.parts)
    np.testing.assert_allclose(reader.number("#account [data-total]", "total"), expected.total, atol=1e-13 * size)
    terms = reader.numbers("#account tr[data-term]", "term")
    np.testing.assert_allclose(sorted(terms), sorted(part.value for part in expected.parts), rtol=1e-13, atol=1e-300)
    assert list(map(abs, terms)) == sorted(map(abs, terms), reverse=True)
    ways = dict(pairs(reader.page, "#account [data-way][data-value]", "way", "value"))
    differs = {"difference"} if name.startswith("d") else set()
    assert set(ways) >= {"formula", "page"} | differs
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
    assert f"{reader.number('#account [data-way=page]', 'value'):.6g}" in capsys.readouterr().out


@in_detail
def test_suggestions_are_the_largest_entries(reader: Reader, trace: Trace) -> None:
    for link in links(reader.page, "#suggestions a"):
        name, *index = re.findall(r"\w+", link)
        numbers = np.abs(trace.numbers[name])
        assert numbers[tuple(map(int, index))] == numbers.max()
    assert len(links(reader.page, "#suggestions a")) == 4


@in_detail
def test_arrows_connect_the_matrices(reader: Reader) -> None:
    assert len(reader.page.query_selector_all("#flow > svg > path")) == 13


@in_detail
def test_every_quantity_opens_without_errors(reader: Reader, trace: Trace) -> None:
    last = {name: tuple(length - 1 for length in trace.numbers[name].shape) for name in trace.quantities}
    entries = {name: f"{name}[{','.join(map(str, index))}]" if index else name for name, index in last.items()}
    opened = reader.page.evaluate(OPEN, [f"#{entry}" for entry in entries.values()])
    assert len(opened) == len(entries) > 80
    for (name, entry), (notice, heading, value, wrong) in zip(entries.items(), opened, strict=True):
        assert notice == "", entry
        assert heading.startswith(f"{entry} ="), entry
        assert float(value) == pytest.approx(float(trace.numbers[name][last[name]]), rel=1e-15)
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
            account.querySelector("[data-way=page]").dataset.value,
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
        assert fragment(reader.page.evaluate("location.href")).startswith(f"{name}[")
    for name in reversed(walked[:-1]):
        reader.page.go_back()
        reader.page.wait_for_function("name => decodeURIComponent(location.hash).startsWith(`#${name}[`)", arg=name)
    assert fragment(reader.page.evaluate("location.href")) == "dS[3,1]"
    assert reader.page.is_visible("#account")


def test_arithmetic_of_the_page_matches_the_file(reader: Reader) -> None:
    assert reader.number("#own", "largest") < 1e-13


# ---- mistakes ---------------------------------------------------------------------------------------------------


def gradients_with_mistake(trace: Trace, mistake: str) -> dict[str, Any]:
    """The gradients of a backward pass with one mistake, in NumPy."""
    n, c = trace.numbers, trace.constants["c"]
    c = 1.0 if mistake == "saturate" else c
    S, P, dP = n["S"], n["P"], n["dP"]
    if mistake in ("mask", "saturate"):
        S = np.where(trace.visible | (mistake == "mask"), c * n["Q"] @ n["K"].T, -np.inf)
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


MISTAKES = [
    "rowsum",
    *(pytest.param(name, marks=in_detail) for name in ("saturate", "scale", "mask", "equals", "transpose")),
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_has_the_same_effects_as_in_numpy(mistake: str, reader: Reader, trace: Trace) -> None:
    reader.page.check(f"input[name=break][value={mistake}]")
    assert f"break={mistake}" in fragment(reader.page.evaluate("location.href"))
    wrong = dict(pairs(reader.page, "tr[data-broken]", "broken", "wrong"))
    found = gradients_with_mistake(trace, mistake)
    for name, numbers in found.items():
        right = trace.numbers[name]
        off = np.abs(numbers - right) > 1e-9 * np.abs(right).max() + 1e-15
        assert int(wrong.get(name, 0)) == off.sum(), name
    agrees = dict(pairs(reader.page, "tr[data-agrees]", "broken", "agrees"))
    assert len(agrees) == 15
    for name, verdict in agrees.items():  # with a mistake in the forward pass the differences change too, and agree
        assert verdict == ("true" if mistake in ("mask", "saturate") or not int(wrong[name]) else "false"), name
    assert ("BROKEN" in reader.page.text_content("#causality")) == (mistake == "mask")
    assert ("NOT" in reader.page.text_content("#sums")) == (mistake == "rowsum")
    reader.page.uncheck(f"input[name=break][value={mistake}]")
    assert "break" not in fragment(reader.page.evaluate("location.href"))
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
    assert fragment(reader.page.evaluate("location.href")) == "dP[7,2]"
    assert reader.number("#account [data-way=page]", "value") == pytest.approx(trace.numbers["dP"][7, 2], rel=1e-12)


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
    assert fragment(page.evaluate("location.href")) == "dS[3,3]"
    assert page.is_visible("#account")
    assert page.evaluate("document.querySelector('#account').contains(document.activeElement)")
    page.keyboard.press("Escape")
    assert page.is_hidden("#account")
    assert page.evaluate("document.activeElement.dataset.matrix") == "dS"
    for key in ["Home", "ArrowUp", "End", "Enter"]:
        page.keyboard.press(key)
    assert fragment(page.evaluate("location.href")) == "dS[2,2]"


@in_detail
def test_escape_closes_the_menu_before_the_entry(reader: Reader) -> None:
    page = reader.page
    reader.go("#dS[3,1]")
    page.focus("#breaks-menu summary")
    page.evaluate("document.querySelector('#breaks-menu').open = true")
    page.focus("input[name=break][value=mask]")
    page.keyboard.press("Escape")
    assert page.is_hidden("#breaks")
    assert page.is_visible("#account")
    assert page.evaluate("document.activeElement.matches('#breaks-menu summary')")
    page.keyboard.press("Escape")
    assert page.is_hidden("#account")


@in_detail
def test_toolbar_stays_and_covers_nothing_that_a_link_leads_to(reader: Reader) -> None:
    page = reader.page
    for entry in ("dW_o[1,1]", "dS[3,1]", "db_o[2]", "Q[1,1]"):
        reader.go(f"#{entry}")
        toolbar = page.locator(".toolbar").bounding_box()
        assert toolbar["y"] == 0
        figure = page.locator(f"[data-figure={entry.partition('[')[0]}]").bounding_box()
        assert figure["y"] >= toolbar["height"]
    assert page.locator("#account").bounding_box()["y"] >= toolbar["height"]
    page.evaluate("scrollTo(0, 2000)")
    assert page.locator("#account").bounding_box()["y"] == pytest.approx(toolbar["height"], abs=1)


OVERFLOWING = """selector => Array.from(document.querySelectorAll(selector))
    .filter(one => one.checkVisibility() && one.scrollWidth > one.clientWidth).map(one => one.textContent)"""


@in_detail
def test_long_sums_break_into_lines(reader: Reader) -> None:
    for state in ("#dR[11,3]&tour=11", "#dR_mlp0[3,3]&tour=11", "#dR_mlp1[9,1]"):
        reader.go(state)
        assert reader.page.query_selector("#account .derivation .term")
        assert reader.page.evaluate(OVERFLOWING, "#account .derivation p, #tour .formulas > div") == []


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
def test_each_title_has_a_meaning(reader: Reader, trace: Trace) -> None:
    """In a few words under it, and in full in its tip, by the pointer or by the keyboard."""
    page = reader.page
    for name in ("Q", "K", "V", "S", "P", "O", "Z", "p", "dS", "dQ", "dP"):
        assert 10 < len(page.text_content(f"[data-figure={name}] .meaning")) < 40
    meaning = trace.quantities["dK"].meaning
    page.hover("[data-figure=dK] b")
    assert meaning[1:] in page.text_content("#tip")
    page.mouse.move(0, 0)
    assert page.is_hidden("#tip")
    page.keyboard.press("Tab")  # from now on the keyboard is used
    page.focus("[data-matrix=V]")
    assert trace.quantities["V"].meaning[1:] in page.text_content("#tip")
    page.keyboard.press("ArrowDown")
    assert trace.quantities["V"].meaning[1:] not in page.text_content("#tip")


@in_detail
def test_guide_explains_its_words(reader: Reader) -> None:
    words = reader.page.eval_on_selector_all("#guide .words dt", "all => all.map(one => one.textContent)")
    assert set(words) >= {"query", "key", "value", "logit", "residual stream", "embedding", "head", "channel"}
    assert len(reader.page.query_selector_all("#guide .words dd")) == len(words)


@in_detail
def test_tour_covers_the_backward_pass(reader: Reader) -> None:
    page = reader.page
    page.keyboard.press("t")
    texts = []
    while True:
        stop = page.get_attribute("#tour", "data-stop")
        texts.append(page.text_content("#tour"))
        assert f"tour={stop}" in fragment(page.evaluate("location.href"))
        page.keyboard.press("]")
        if page.get_attribute("#tour", "data-stop") == stop:
            break
    assert len(texts) == len(set(texts)) >= 10
    joined = " ".join(texts)
    for name in ("Z", "Y", "O", "V", "P", "S", "Q", "K", "X"):
        assert f"d{name}" in joined
    page.keyboard.press("[")
    assert page.get_attribute("#tour", "data-stop") == str(len(texts) - 1)


def test_link_restores_the_state(reader: Reader) -> None:
    reader.open("#dK[2,3]&tour=4&break=scale,transpose")
    assert reader.page.get_attribute("#tour", "data-stop") == "4"
    assert checked_boxes(reader.page) == ["scale", "transpose"]
    assert reader.page.query_selector("#account [data-total]")


def checked_boxes(page: Any) -> list[str]:
    return [box.get_attribute("value") for box in page.query_selector_all("input[name=break]:checked")]


@in_detail
@pytest.mark.parametrize(
    "address", ["dS[1,3]", "dS[99,0]", "dS", "dQQ[1,1]", "<b>", "dS[1", "tour=99", "break=all", "%", "dS[1,0]=2"]
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


# ---- the file ---------------------------------------------------------------------------------------------------


def test_page_fetches_nothing(file: Path) -> None:
    before, _, after = split_page(file)
    assert "default-src 'none'" in before
    assert not re.search(r"://|\bsrc\s*=|@import|url\((?!#)|\bimport\b|fetch\(|XMLHttpRequest", before + after)


def test_page_contains_all_files_of_its_folder() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*ENGINE, *SCRIPTS, "page.html", "style.css"}


# ---- the loss, and how sharp attention is -----------------------------------------------------------------------


@in_detail
def test_links_lead_from_a_key_to_the_loss(reader: Reader) -> None:
    """dK, dS, dP, dO, dY, dR_f, dN_f, dZ, and from there to l and L."""
    reader.go("#dZ[4,2]")
    links = [link.get_attribute("href") for link in reader.page.query_selector_all("#account a")]
    assert {"#L", "#l[4]"} <= {re.sub("&.*", "", link) for link in links if link}
    reader.go("#dK[4,2]")
    for name in ("dS", "dP", "dO", "dY", "dR_f", "dN_f", "dZ", "L"):
        reader.page.locator(f"#account a[href^='#{name}']").first.click()
        assert fragment(reader.page.evaluate("location.href")).startswith(name)


@in_detail
@pytest.mark.parametrize(("layer", "head"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_way_to_the_loss_of_every_gradient(layer: int, head: int, reader: Reader, subject: OfText) -> None:
    """Each step is the largest product that leads on to L; the gradients from other heads and layers lead nowhere."""
    trace, random = Trace(problem_of(subject, TEXT, layer, head)), np.random.default_rng(2 * layer + head)
    show(reader, f"#layer={layer}&head={head}", TEXT, layer, head)
    entries = {}
    for name in trace.quantities:
        if name.startswith("d"):
            index = tuple(int(random.integers(length)) for length in trace.numbers[name].shape)
            entries[name] = tuple(sorted(index, reverse=True)) if is_masked(name) else index
    states = [f"#{formatted(name, index)}&layer={layer}&head={head}" for name, index in entries.items()]
    ways = reader.page.evaluate(WAYS, states)
    outside = {f"dN_attn{n}" for n in range(layer + 1, 2)} | {"dX_others"}
    nowhere = outside | {name.replace("dN_", "dR_") for name in outside if "attn" in name}
    assert {name for name, way in zip(entries, ways, strict=True) if not way} == nowhere & set(entries)
    for (name, index), way in zip(entries.items(), ways, strict=True):
        if not way:
            continue
        assert way[-1] == "L"
        steps = [formatted(name, index), *way[:-2]]
        assert steps[-1].startswith("dZ["), way
        for step, after in pairwise(steps):
            name, *inside = re.findall(r"\w+", step)
            parts = account(trace, name, tuple(map(int, inside))).parts
            sizes: dict[str, float] = {}
            for part in parts:
                for factor in part.factors:
                    if factor.entry.name.startswith("d") and factor.entry.name not in nowhere:
                        sizes[str(factor.entry)] = max(abs(part.value), sizes.get(str(factor.entry), 0.0))
            assert sizes[after] >= max(sizes.values()) * (1 - 1e-9), (step, after)
    show(reader, "#", TEXT)


def formatted(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{','.join(map(str, index))}]"


def is_masked(name: str) -> bool:
    return name in ("dS", "dP")


WAYS = f"""async states => {{
    const found = []
    for (const state of states) {{
        await ({GO})(state)
        const links = document.querySelectorAll("#account .way a")
        found.push(Array.from(links, one => one.getAttribute("aria-label")))
    }}
    return found
}}"""


@in_detail
def test_saturated_softmax_is_shown_in_numbers(reader: Reader, trace: Trace) -> None:
    reader.page.check("input[name=break][value=saturate]")
    titles, *rows = [
        row.inner_text().split("\t") for row in reader.page.query_selector_all("#comparison .sharpness tr")
    ]
    assert titles[1:] == ["right", "with the mistake"]
    assert len(reader.page.query_selector_all(".sharpness")) == 1
    found = {name: (float(right.replace("\N{MINUS SIGN}", "-")), float(wrong.replace("\N{MINUS SIGN}", "-")))
             for name, right, wrong in rows}  # fmt: skip
    broken = gradients_with_mistake(trace, "saturate")["dS"]
    S = np.where(trace.visible, trace.numbers["Q"] @ trace.numbers["K"].T, -np.inf)
    for column, P, dS in (
        (0, trace.numbers["P"], trace.numbers["dS"]),
        (1, np.exp(S) / np.exp(S).sum(-1, keepdims=True), broken),
    ):
        rows = [P[i, : i + 1] for i in range(1, len(P))]
        assert found["largest weight"][column] == pytest.approx(np.mean([row.max() for row in rows]), rel=1e-2)
        entropy = np.mean([-(row * np.log(row)).sum() for row in rows])
        assert found["entropy, in nats"][column] == pytest.approx(entropy, rel=1e-2)
        mean = np.mean([np.abs(dS[i, : i + 1]).mean() for i in range(1, len(P))])
        assert found["|dS|"][column] == pytest.approx(mean, rel=1e-2)
    assert found["largest weight"][1] > found["largest weight"][0]
    assert found["entropy, in nats"][1] < found["entropy, in nats"][0]


@in_detail
def test_rows_without_the_mask_are_measured_as_a_whole(reader: Reader, trace: Trace) -> None:
    reader.page.check("input[name=break][value=mask]")
    S = trace.numbers["Q"] @ trace.numbers["K"].T * trace.constants["c"]
    P = (np.exp(S) / np.exp(S).sum(-1, keepdims=True))[1:]
    row = reader.page.query_selector_all("#comparison .sharpness tr")[2].inner_text().split("\t")
    assert row[0] == "entropy, in nats"
    assert float(row[2]) == pytest.approx(-(P * np.log(P)).sum(-1).mean(), rel=1e-2)


@in_detail
def test_colours_of_a_mistake_are_on_the_scale_of_the_right_numbers(reader: Reader, trace: Trace) -> None:
    scale = "[data-figure=dQ] .scale"
    before = reader.page.text_content(scale)
    reader.page.check("input[name=break][value=scale]")
    after = reader.page.text_content(scale)
    assert after.startswith(before)
    largest = np.abs(trace.numbers["dQ"]).max() / trace.constants["c"]
    assert after.endswith(f"wrong up to {float(f'{largest:.3g}')}")


@in_detail
@pytest.mark.parametrize(
    ("typed", "opened"),
    [
        ("dK[4,2]", "dK[4,2]"),
        (" dS[3,1] ", "dS[3,1]"),
        ("L", "L"),
        ("dQ", "dQ["),
        ("key, gradient", "dK["),
        ("quer", "Q["),
    ],
)
def test_find(typed: str, opened: str, reader: Reader) -> None:
    reader.go("#")
    reader.page.keyboard.press("/")
    reader.page.keyboard.type(typed)
    reader.page.keyboard.press("Enter")
    assert fragment(reader.page.evaluate("location.href")).startswith(opened)
    assert reader.page.is_visible("#account")


@in_detail
def test_find_says_what_is_wrong_and_takes_no_keys_from_the_page(reader: Reader) -> None:
    reader.go("#")
    reader.page.keyboard.press("/")
    for typed, reason in (("dS[1,3]", "is masked"), ("nothing", "This page has nothing called nothing.")):
        reader.page.fill("#find", typed)
        reader.page.keyboard.press("Enter")
        assert reason in reader.page.evaluate("document.querySelector('#find').validationMessage")
        assert fragment(reader.page.evaluate("location.href")) == ""
    reader.page.keyboard.type("n/p")  # neither a step nor another search
    assert reader.page.input_value("#find") == "nothingn/p"
    assert "step" not in reader.page.url
