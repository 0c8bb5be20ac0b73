"""explain: its numbers match those of the models, and its formulas match the operations."""

import copy
import json
import math
import re
import shlex
from dataclasses import replace
from fractions import Fraction
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_numpy import GPTConfig
from gpt_numpy.cli import CLI
from gpt_numpy.explain import checks, differences
from gpt_numpy.explain.account import account, is_hidden, sums
from gpt_numpy.explain.checks import by_torch, check_all, checkable, four_ways, verdict, visible_entries
from gpt_numpy.explain.command import _affordable
from gpt_numpy.explain.fixed import fixed_contents
from gpt_numpy.explain.formulas import MASKED, Entry, Quantity, Term, parsed, quantities
from gpt_numpy.explain.problem import Problem
from gpt_numpy.explain.terminal import labels_of, show_matrix
from gpt_numpy.explain.trace import Trace
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.params import initial_weights
from minitensor import Tensor, grad
from minitensor.arrays import Array
from minitensor.ops.attention import (
    attention_scores_backward,
    attention_scores_forward,
    attention_values_backward,
    attention_values_forward,
    attention_weights_backward,
    attention_weights_forward,
)
from tests.equivalence import problems
from tests.equivalence.pair import run_numpy, run_torch
from tests.equivalence.problems import any_config, perturb
from tests.support import ROOT


class Drawn(NamedTuple):
    problem: Problem
    batch: problems.Problem  # the same as a batch of one text


def any_problem(seed: int) -> Drawn:
    """A random model, one text, and one head."""
    random = np.random.default_rng(seed)
    config = any_config(random)
    ids, targets = random.integers(0, config.vocab_size, (2, 1, random.integers(1, config.block_size + 1)))
    weights = perturb(initial_weights(config, 0), config, seed, 0.3)
    layer, head = int(random.integers(config.n_layer)), int(random.integers(config.n_head))
    all_weights = {"lm_head.weight": weights["tok_emb.weight"], **weights}
    return Drawn(
        Problem(config, all_weights, ids[0], targets[0], layer, head), problems.Problem(config, weights, ids, targets)
    )


def example(layer: int = 0, n_layer: int = 2, bias: bool = True) -> Problem:
    """Small enough to check every entry."""
    config = GPTConfig(vocab_size=3, block_size=4, n_layer=n_layer, n_head=2, n_embd=4, bias=bias)
    weights = perturb(initial_weights(config, 0), config, 1, 0.4)
    return Problem(config, weights, np.array([0, 1, 2, 1]), np.array([1, 2, 1, 0]), layer, 1)


drawn = st.builds(any_problem, problems.SEEDS)


def assert_close(found: Array, expected: Array, size: Any = None) -> None:
    """Equal up to rounding, relative to the largest entry, or to `size`, the sum of the absolute terms."""
    assert found.shape == expected.shape
    size = np.abs(expected).max(initial=0.0) if size is None else size
    assert (np.abs(found - expected) <= 1e-11 * size + 1e-18).all()


# ---- numbers ----------------------------------------------------------------------------------------------------


def numbers_of_head(numbers: dict[str, Array], problem: Problem) -> dict[str, Array]:
    """The numbers of this head in a run of the model, by the names of the explanation."""
    n, h, C = problem.layer, problem.head, problem.config.n_embd
    D = C // problem.config.n_head
    rows, block = slice(h * D, (h + 1) * D), f"blocks.{n}"
    found = {"L": numbers["loss"], "Z": numbers["logits"][0], "dZ": numbers["d logits"][0]}
    names = {"Q": "q", "K": "k", "V": "v", "S": "scores", "P": "weights", "O": "heads"}
    for name, theirs in names.items():
        found[name] = numbers[f"{block} {theirs}"][0, h]
        found[f"d{name}"] = numbers[f"d {block} {theirs}"][0, h]
    found["dP"] = np.tril(found["dP"])
    for third, name in enumerate("qkv"):
        found[f"dW_{name}"] = numbers[f"d {block}.attn.c_attn.weight"][third * C : (third + 1) * C][rows]
        if problem.config.bias:
            found[f"db_{name}"] = numbers[f"d {block}.attn.c_attn.bias"][third * C : (third + 1) * C][rows]
    found["dW_o"] = numbers[f"d {block}.attn.c_proj.weight"][:, rows]
    if problem.config.bias:
        found["db_o"] = numbers[f"d {block}.attn.c_proj.bias"]
    if n == 0:
        residual = Trace(problem).numbers["dY"]  # along the residual connection
        found["dR"] = numbers["d embedded"][0] - residual
    return found


@given(drawn)
def test_numbers_match_gpt_numpy(drawn: Drawn) -> None:
    numbers = Trace(drawn.problem).numbers
    theirs = numbers_of_head(run_numpy(drawn.batch, "staged"), drawn.problem)
    assert len(theirs) >= 19
    for name, expected in theirs.items():
        assert_close(np.where(np.isneginf(numbers[name]), 0.0, numbers[name]), expected)


@given(drawn)
def test_torch_numbers_match_gpt_torch(drawn: Drawn) -> None:
    numbers = by_torch(drawn.problem)
    for name, expected in numbers_of_head(run_torch(drawn.batch, "staged"), drawn.problem).items():
        if name not in ("L", "dR"):
            assert_close(np.where(np.isneginf(numbers[name]), 0.0, numbers[name]), expected)


@given(drawn)
def test_every_quantity_has_numbers(drawn: Drawn) -> None:
    trace = Trace(drawn.problem)
    assert set(trace.numbers) == set(trace.quantities)
    for quantity in trace.quantities.values():
        assert trace.numbers[quantity.name].ndim == len(quantity.indices)


# ---- formulas ---------------------------------------------------------------------------------------------------


@given(drawn)
def test_every_formula_matches_the_tape(drawn: Drawn) -> None:
    trace = Trace(drawn.problem)
    for quantity in trace.quantities.values():
        if quantity.terms:
            found, size = sums(trace, quantity)
            expected = np.where(np.isneginf(numbers := trace.numbers[quantity.name]), 0.0, numbers)
            assert_close(found, expected, size)


@pytest.mark.parametrize("layer", [0, 1])
def test_each_term_matches_the_backward_of_the_operation(layer: int) -> None:
    """With a single nonzero entry in the source gradient, the formula and the tape must agree."""
    trace = Trace(example(layer))
    steps = 0
    for quantity in trace.quantities.values():
        for source in sources(trace, quantity):
            for index in map(tuple, visible_entries(trace, source)):
                alone = np.zeros_like(trace.numbers[source])
                alone[index] = trace.numbers[source][index]
                assert_close(by_formula(trace, quantity, source, alone), by_tape(trace, quantity, source, alone))
                steps += 1
    assert steps > 350


def sources(trace: Trace, quantity: Quantity) -> set[str]:
    """The gradients from which one operation computes this one; none along the residual stream, whose factor is 1."""
    if not quantity.is_gradient or quantity.name.startswith(("dY", "dtok")):
        return set()
    named = {factor.name for term in quantity.terms for factor in term.factors}
    return {name for name in named if name.startswith("d") and name[1:] in trace.problem.places}


def by_formula(trace: Trace, quantity: Quantity, source: str, alone: Array) -> Array:
    others = {name: np.zeros_like(trace.numbers[name]) for name in trace.numbers if re.match("d[A-Z]", name)}
    only = copy.copy(trace)
    only.numbers = {**trace.numbers, **others, source: alone}
    return sums(only, quantity)[0]


def by_tape(trace: Trace, quantity: Quantity, source: str, alone: Array) -> Array:
    """Through the backward functions of the operations between two values of the tape."""
    start, end = trace.problem.places[source[1:]], trace.problem.places[quantity.name[1:]]
    dy = np.zeros(trace.tensors[start.name].shape)
    dy[(0, *start.part)] = alone
    (found,) = grad(trace.tensors[start.name], [trace.tensors[end.name]], Tensor(dy), retain_graph=True)
    assert found is not None
    gradient: Array = found.array[end.part if end.is_parameter else (0, *end.part)]
    return np.tril(gradient) if quantity.name in MASKED else gradient


@given(drawn)
def test_formulas_that_are_not_sums(drawn: Drawn) -> None:
    numbers = Trace(drawn.problem).numbers
    off = numbers["R"] - numbers["mean"][:, None]
    assert_close(numbers["var"], (off**2).mean(-1))
    assert_close(numbers["r"], 1 / np.sqrt(numbers["var"] + 0.00001))
    assert_close(numbers["n"], off * numbers["r"][:, None])
    assert_close(numbers["l"], -np.log((numbers["p"] * numbers["next"]).sum(-1)))
    with np.errstate(over="raise"):
        for name, scores in (("P", numbers["S"]), ("p", numbers["Z"])):
            exponentials = np.exp(scores)
            assert_close(numbers[name], exponentials / exponentials.sum(-1, keepdims=True))


def test_gradient_of_key_bias_is_zero() -> None:
    """It adds the same to all scores of a row."""
    trace = Trace(example())
    assert np.abs(trace.numbers["db_k"]).max() < 1e-17 < 1e-4 < np.abs(trace.numbers["db_q"]).max()


def test_formula_is_parsed() -> None:
    factors = (Entry("P", ("i", "k")), Entry("dP", ("i", "k")))
    assert parsed("1/T l[i] - Σ_k P[i,k] dP[i,k]") == (
        Term(1, "", (Entry("1/T"), Entry("l", ("i",)))),
        Term(-1, "k", factors),
    )


@pytest.mark.parametrize("bias", [True, False])
def test_factors_lead_from_scores_to_the_loss(bias: bool) -> None:
    for layer in (0, 1):
        problem = example(layer, bias=bias)
        known = quantities(problem.config, layer)
        reached, new = set(), {"dS"}
        while new:
            reached |= new
            factors = {f.name for name in new for term in known[name].terms for f in term.factors if f.indices}
            assert factors <= set(known)
            new = factors - reached
        assert {"dP", "dY", "dR_f", "dN_f", "dZ", "p", "next"} <= reached


# ---- one entry --------------------------------------------------------------------------------------------------


@given(drawn, st.randoms(use_true_random=False))
def test_account_matches_the_value(drawn: Drawn, random: Any) -> None:
    trace = Trace(drawn.problem)
    name = random.choice(sorted(name for name, quantity in trace.quantities.items() if quantity.kind != "given"))
    index = tuple(int(n) for n in random.choice(visible_entries(trace, name)))
    found = account(trace, name, index)
    assert found.value == trace.numbers[name][index]
    if found.formula is not None:
        assert abs(found.formula - found.value) <= 1e-11 * found.size + 1e-18
        assert abs(math.fsum(part.value for part in found.parts) - found.total) <= 1e-11 * abs(found.total)
    sizes = [abs(part.value) for part in found.parts]
    assert sizes == sorted(sizes, reverse=True)
    for part in found.parts:
        assert not any(is_hidden(factor.entry) for factor in part.factors)
        if trace.quantities[name].kind == "sum":
            assert part.value == part.sign * math.prod(factor.value for factor in part.factors)
        for factor in part.factors:
            if factor.entry.indices:
                assert factor.value == trace.numbers[factor.entry.name][tuple(map(int, factor.entry.indices))]


def test_dS_has_its_own_term_and_one_for_each_visible_key() -> None:
    found = account(Trace(example()), "dS", (2, 1))
    assert sorted(" ".join(str(factor.entry) for factor in part.factors) for part in found.parts) == [
        "P[2,1] P[2,0] dP[2,0]", "P[2,1] P[2,1] dP[2,1]", "P[2,1] P[2,2] dP[2,2]", "P[2,1] dP[2,1]",
    ]  # fmt: skip
    assert [part.sign for part in found.parts].count(-1) == 3


# ---- four ways --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1])
def test_all_ways_agree_on_every_gradient(layer: int) -> None:
    trace = Trace(example(layer))
    found = verdict(trace, check_all(trace, by_torch(trace.problem), 10**9))
    assert found.wrong == 0
    assert found.has_torch
    assert found.entries == found.differences == sum(len(visible_entries(trace, name)) for name in checkable(trace))
    assert 0 < found.exact < 1e-13
    assert 0 < found.slopes < 1e-6


@given(drawn)
@hypothesis.example(any_problem(9800420))  # a layer norm of nearly equal numbers, where the loss curves sharply
def test_correct_gradients_are_not_reported_as_wrong(drawn: Drawn) -> None:
    trace = Trace(drawn.problem)
    assert verdict(trace, check_all(trace, by_torch(drawn.problem), 12)).wrong == 0


def test_every_gradient_of_attention_is_checked() -> None:
    of_attention = {f"d{name}" for name in [*"YOPVSQKXRZ", *(f"{kind}_{x}" for kind in "Wb" for x in "qkvo")]}
    assert of_attention <= set(checkable(Trace(example())))


@pytest.mark.parametrize("name", ["dS", "dW_k", "dY", "db_o", "dN_f"])
@pytest.mark.parametrize("way", ["tape", "torch", "difference"])
@pytest.mark.parametrize("error", [1e-4, math.nan])
def test_differing_way_is_shown_as_wrong(name: str, way: str, error: float, monkeypatch: Any) -> None:
    trace = Trace(example())
    index = (2,) * trace.numbers[name].ndim if name != "dW_k" else (1, 2)
    torch = by_torch(trace.problem)
    if way == "tape":  # its formula uses other entries, and stays correct
        trace.numbers[name] = with_error(trace.numbers[name], index, error)
    elif way == "torch":
        torch[name] = with_error(torch[name], index, error)
    else:
        right = differences.differences
        for module in (checks, differences):
            monkeypatch.setattr(module, "differences", lambda *given, **named: right(*given, **named) + error)
    labels = {"tape": "minitensor's tape", "torch": "torch, float64", "difference": "central difference"}
    ways = four_ways(trace, torch, account(trace, name, index))
    assert [one.label for one in ways if one.is_wrong] == [labels[way]]
    monkeypatch.setattr(checks, "checkable", lambda trace: [name])
    assert verdict(trace, check_all(trace, torch, 10**9)).wrong == (
        1 if way != "difference" else len(visible_entries(trace, name))
    )


@pytest.mark.parametrize("way", ["torch", "difference"])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_errors_are_tolerated_up_to_the_tolerance(way: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace(example())
    torch, found = by_torch(trace.problem), account(trace, "dV", (2, 1))
    slope = checks.BEND * found.size + differences.resolution(trace)
    if way == "torch":
        torch["dV"] = with_error(torch["dV"], (2, 1), factor * checks.EXACT * found.size)
    else:
        for module in (checks, differences):
            monkeypatch.setattr(module, "differences", lambda *_, **__: np.array([found.value + factor * slope]))
    assert any(one.is_wrong for one in four_ways(trace, torch, found)) == (factor > 1)
    if way == "torch":
        one = verdict(trace, [one for one in check_all(trace, torch, 0) if one.name == "dV"])
        assert (one.wrong > 0) == (factor > 1)
        assert one.exact == pytest.approx(factor * checks.EXACT, rel=1e-4)


def test_tolerances_are_small() -> None:
    """Compared with 1e-16, the rounding error of float64, and 1e-10, the error of a difference with this step."""
    trace = Trace(example())
    assert checks.EXACT <= 1e-10
    assert checks.BEND <= 1e-5
    assert differences.resolution(trace) < 1e-9


def with_error(numbers: Array, index: tuple[int, ...], amount: float) -> Array:
    changed = numbers.copy()
    changed[index] += amount
    return changed


def test_difference_is_central_difference_of_the_loss() -> None:
    trace = Trace(example())
    change = np.zeros((2, *trace.numbers["K"].shape))
    change[0, 1, 0], change[1, 1, 0] = differences.STEP, -differences.STEP
    above, below = differences.losses(trace.problem, "K", change)
    assert differences.differences(trace, "K", np.array([[1, 0]])).tolist() == [
        (above - below) / (2 * differences.STEP)
    ]
    assert above != trace.numbers["L"] != below


def test_limited_differences_are_shared_among_gradients() -> None:
    trace = Trace(example())
    checked = check_all(trace, {}, 100)
    taken = {one.name: len(one.slopes) for one in checked}
    assert sum(taken.values()) == 100
    assert taken["db_q"] == 2  # all entries of a small one
    assert taken["dW_q"] == 5
    assert taken["dS"] == taken["dX"] == 6
    assert taken["dY_mlp1"] == 0  # those of attention come first
    found = verdict(trace, checked)
    assert (found.differences, found.has_torch, found.wrong) == (100, False, 0)


def test_torch_column_is_empty_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    trace = Trace(example())
    assert by_torch(trace.problem) == {}
    ways = four_ways(trace, {}, account(trace, "dS", (2, 1)))
    assert [(way.value is None, way.note) for way in ways if way.label.startswith("torch")] == [
        (True, "is not installed")
    ]


# ---- the lesson ---------------------------------------------------------------------------------------------------


def matrices(text: str) -> dict[str, Array]:
    """The matrices of the worked example in the README: fractions, with empty cells above the mask."""
    found = {}
    for name, factor, rows in re.findall(r"(d?[A-Z]) = ([^$\n]*?)\\begin\{pmatrix\}(.*?)\\end", text, re.DOTALL):
        scale = {"": 1.0, "\\sqrt 2": 2**0.5, "\\ln 2": math.log(2), "\\frac{\\ln 2}{\\sqrt 2}": math.log(2) / 2**0.5}
        cells = [[float(Fraction(cell.strip() or "0")) for cell in row.split("&")] for row in rows.split("\\\\")]
        found[name] = scale[factor.strip()] * np.array(cells)
    return found


def test_worked_example_matches_the_operations() -> None:
    readme = matrices((ROOT / "gpt_numpy" / "explain" / "README.md").read_text(encoding="utf-8"))
    assert set(readme) == {"Q", "K", "V", "P", "O", "dO", "dP", "dS", "dQ", "dK", "dV"}
    scores, saved = attention_scores_forward(readme["Q"], readme["K"], is_causal=True)
    P, _ = attention_weights_forward(scores)
    dP, dV = attention_values_backward(readme["dO"], P, readme["V"])
    (dS,) = attention_weights_backward(dP, P)
    dQ, dK, _ = attention_scores_backward(dS, *saved)
    found = {"P": P, "O": attention_values_forward(P, readme["V"])[0], "dP": np.tril(dP), "dS": dS, "dQ": dQ, "dK": dK}
    for name, numbers in {**found, "dV": dV}.items():
        assert_close(numbers, readme[name])


# ---- the page ---------------------------------------------------------------------------------------------------


@pytest.mark.slow("the full model")
def test_page_of_the_full_model_is_smaller_than_5_MB(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPTConfig(vocab_size=65, block_size=64)
    weights = {name: array.astype(np.float64) for name, array in initial_weights(config, 0).items()}
    ids = np.random.default_rng(0).integers(0, 65, 32)
    trace = Trace(Problem(config, weights, ids[:-1], ids[1:], 0, 0))
    torch = by_torch(trace.problem)
    # The size depends on how many differences there are, and not on their values; each takes a tenth of a second.
    monkeypatch.setattr(checks, "measured", lambda trace, name, places, *_: np.full(len(places), 0.1))
    checked = check_all(trace, torch, _affordable(trace.problem))
    assert 100 < sum(len(one.slopes) for one in checked) < 200
    page = fixed_contents(trace, torch, checked, {})
    assert 2e6 < len(json.dumps(page)) < 4.8e6
    included = {one["name"] for one in page["tables"][trace.problem.layer] if "numbers" in one}
    needed = {*"XQKVSPOYZp", *(f"W_{x}" for x in "qkvo"), "next", "N_f", "W_lm"}
    assert needed | {f"d{name}" for name in needed if name[0] not in "pn"} - {"dW_lm"} <= included


# ---- the command ------------------------------------------------------------------------------------------------


def explain(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = run(CLI, ["explain", *arguments])
    return status, *capsys.readouterr()


def test_entry_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = explain(capsys, "To be, or not", "--entry", "dS[3,1]")
    assert (status, err) == (0, "")
    assert "dS[i,j] = P[i,j] (dP[i,j] - Σ_k P[i,k] dP[i,k])" in out
    assert "dS[3,1] = P[3,1] (dP[3,1] - Σ_k P[3,k] dP[3,k])" in out
    assert "i = 3 'b', j = 1 'o'" in out
    running = [line.split()[-1] for line in out.splitlines() if "dP[3," in line and "×" in line]
    assert len(running) == 5
    four = re.findall(
        r"^  (this formula|minitensor's tape|torch, float64|central difference) +(\S+)", out, re.MULTILINE
    )
    assert len({label for label, _ in four}) == 4
    for _, value in four:
        assert float(value) == pytest.approx(float(running[-1]), rel=1e-5)
    assert "they agree" in out


def test_matrix_in_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = explain(capsys, "abcab", "--show", "P")
    assert status == 0
    rows = [line.split()[2:] for line in out.splitlines() if re.match(r"\d '", line)]
    assert [[cell == "·" for cell in row] for row in rows] == np.triu(np.ones((4, 4), bool), 1).tolist()
    for row in rows:
        assert sum(float(cell) for cell in row if cell != "·") == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["dS", "dW_q", "db_o", "L", "dX", "next"])
def test_every_kind_of_matrix_fits_the_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    status, out, _ = explain(capsys, "To be, or not", "--show", name)
    assert status == 0
    cells = [line for line in out.splitlines() if re.match(r"(\d+ .*)? +[-+·0-9]", line)]
    assert cells
    assert max(map(len, cells)) <= 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "TEXT has 0 characters; give 2 to 64"),
        (["a"], "TEXT has 1 character;"),
        (["x" * 65], "TEXT has 65 characters"),
        (["aaaa"], "TEXT repeats one character"),
        (["abc", "--show", "dS[1,0]"], "for one number, --entry 'dS[1,0]'"),
        (["abc", "--entry", "ds[1,0]"], "perhaps dS"),
        (["abc", "--entry", "L", "--differences", "5"], "--differences is for a page"),
        (["abc", "--out", ""], "--out names no file, it is empty"),
        ([], "TEXT; see gpt-numpy explain --help"),
        (["abc", "--entry", "dS[0,1]"], "--entry dS[0,1] lies above the mask: position 0 does not look ahead to 1"),
        (["abc", "--entry", "dS[2,0]"], "i goes from 0 to 1 in dS[i,j]"),
        (["abc", "--entry", "dS[-1,0]"], "i goes from 0 to 1"),
        (["abc", "--entry", "dS[1]"], "dS[i,j] takes 2 whole numbers, as in dS[0,0]"),
        (["abc", "--entry", "dS[a,b]"], "dS[i,j] takes 2 whole numbers"),
        (["abc", "--entry", "dS[1,,0]"], "dS[i,j] takes 2 whole numbers"),
        (["abc", "--entry", "dS[1,0,]"], "dS[i,j] takes 2 whole numbers"),
        (["abc", "--entry", "L[,]"], "L takes 0 whole numbers"),
        (["abc", "--entry", "dS["], "is not an entry"),
        (["abc", "--entry", "dW_x[1,0]"], "there is no such matrix, perhaps dW_"),
        (["abc", "--show", "dSS"], "perhaps dS"),
        (["abc", "--layer", "2"], "--layer 2: the model has 2 layers, counted from 0 to 1"),
        (["abc", "--head", "-1"], "--head -1: the model has 2"),
        (["abc", "--seed", "-1"], "--seed is at least 0"),
        (["abc", "--seed", f"{(1 << 63) - 1}"], "--seed is at least 0 and below 2^63 - 1, not 9223372036854775807"),
        (["abc", "--run", "nowhere"], "nowhere is not the folder of a run"),
        (["abc", "--checkpoint", "best"], "--checkpoint is for a run"),
        (["abc", "--out", "nowhere/page.html"], "nowhere/page.html cannot be written"),
        (["abc", "--differences", "many"], "--differences many: give a whole number, or all"),
        (["abc", "--heads", "1"], "--heads is not known; did you mean --head?"),
    ],
)
def test_usage_error_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = explain(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_large_logits_do_not_overflow(capsys: pytest.CaptureFixture[str]) -> None:
    problem = example()
    problem = replace(problem, weights={**problem.weights, "lm_head.weight": 1e4 * problem.weights["lm_head.weight"]})
    trace = Trace(problem)
    found = account(trace, "p", (1, 2))
    assert found.formula == trace.numbers["p"][1, 2]
    assert not any(way.is_wrong for way in four_ways(trace, by_torch(problem), found))


def test_nan_is_shown_as_wrong() -> None:
    problem = example()
    weight = problem.weights["blocks.0.attn.c_attn.weight"].copy()
    weight[2, 0] = np.nan
    trace = Trace(replace(problem, weights={**problem.weights, "blocks.0.attn.c_attn.weight": weight}))
    torch = by_torch(trace.problem)
    found = verdict(trace, check_all(trace, torch, 100))
    assert found.wrong > 100
    assert math.isnan(found.exact)
    assert any(way.is_wrong for way in four_ways(trace, torch, account(trace, "dS", (2, 1))))
    shown = StringIO()
    for name in ("P", "W_q"):
        labels = labels_of(list("abcd"), list("abc"))
        show_matrix(Console(shown), trace, trace.quantities[name], labels, 80)
    assert "nan" in shown.getvalue()


def test_seeds_give_different_models(capsys: pytest.CaptureFixture[str]) -> None:
    losses = {explain(capsys, "abc", "--entry", "L", "--seed", seed)[1].splitlines()[0] for seed in "0123"}
    assert len(losses) == 4


@pytest.mark.parametrize("text", ["-ab", 'it\'s "so"', "two\nlines", "$HOME `x` é☃", "a b"])
def test_printed_command_works(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, first, _ = explain(capsys, "--entry", "l[0]", "--", text)
    _, out, _ = explain(capsys, "--entry", "L", "--", text)
    printed = next(line for line in out.splitlines() if line.startswith("each factor")).partition(": ")[2]
    assert run(CLI, shlex.split(re.sub(r"l\[\d\]", "l[0]", out[out.index(printed) :]))[1:]) == 0
    again = capsys.readouterr().out
    assert again == first


def test_invisible_characters_are_shown_as_symbols(capsys: pytest.CaptureFixture[str]) -> None:
    out = explain(capsys, "a\n\t \u202eb", "--show", "P")[1]
    for symbol in ("↵", "⇥", "␣", "\N{REPLACEMENT CHARACTER}"):
        assert symbol in out


def test_smaller_terms_are_summed_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    out = explain(capsys, "To be, or not", "--entry", "dR[3,1]")[1]
    rows = [line.split() for line in out.splitlines() if re.search(r"×|smaller ones", line)][1:]
    assert re.search(r"and 9 smaller ones", out)
    assert sum(float(row[-2]) for row in rows) == pytest.approx(float(rows[-1][-1]), rel=1e-4)


def test_list_of_names(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = explain(capsys, "abc", "--show", "list")
    assert status == 0
    assert {"dS[i,j]", "W_q[d,m]", "L"} <= {line.split()[0] for line in out.splitlines()}


def test_softmax_entry_is_a_share_of_the_sum_of_exponentials() -> None:
    found = account(Trace(example()), "P", (2, 1))
    assert len(found.parts) == 3
    assert found.formula == pytest.approx(found.value)
    scores = Trace(example()).numbers["S"][2, :3]
    assert found.total == pytest.approx(np.exp(scores - scores.max()).sum())


def test_only_a_page_of_explain_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, other = tmp_path / "page.html", tmp_path / "other.html"
    for _ in range(2):
        assert run(CLI, ["explain", "abab", "--differences", "0", "--out", str(page)]) == 0
    other.write_text("my own", encoding="utf-8")
    capsys.readouterr()
    assert run(CLI, ["explain", "abab", "--differences", "0", "--out", str(other)]) == 2
    assert capsys.readouterr().err.endswith("exists, and is not a page of explain; give another file by --out\n")
    assert other.read_text(encoding="utf-8") == "my own"
