"""Every operation against torch, against its own forward, and (the fused ones) against smaller operations."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st

from minitensor.op import OPS
from minitensor.tensor import Tensor, grad
from tests.cases import CASES
from tests.judge import check_by_forward, compare, operation, rounded_to_float32, through_engine, upstream
from tests.report import REPORT
from tests.strategies import Drawn, Example, Typical

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning",  # NumPy's, for log(0) and the like
    "ignore:.*degrees of freedom",  # torch's, for the variance of one number
)

every_op = pytest.mark.parametrize("name", list(CASES))
fused_ops = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.composed])
seeds = st.integers(0, 2**32 - 1)


def test_every_op_has_a_case_and_every_case_an_op() -> None:
    assert set(CASES) == set(OPS)


@every_op
@given(data=st.data(), seed=seeds)
def test_float64_agrees_with_torch(name: str, data: Any, seed: int) -> None:
    example = CASES[name].make(Drawn(data.draw))
    note(repr(example))
    errors = compare(CASES[name], through_engine(operation(OPS[name])), example, upstream(seed))
    REPORT.add_operation(name, "float64", *errors)


@every_op
@given(data=st.data(), seed=seeds)
def test_float32_agrees_with_torch_in_float64(name: str, data: Any, seed: int) -> None:
    example = rounded_to_float32(CASES[name].make(Drawn(data.draw)))
    note(repr(example))
    run = through_engine(operation(OPS[name]), np.float32)
    errors = compare(CASES[name], run, example, upstream(seed), float32=True)
    REPORT.add_operation(name, "float32", *errors)


@every_op
@pytest.mark.parametrize("seed", range(5))
def test_backward_agrees_with_the_forward_alone(name: str, seed: int) -> None:
    check_by_forward(CASES[name], OPS[name], CASES[name].make(Typical(seed)), upstream(seed))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "cross_entropy", "attention_weights"])
@pytest.mark.parametrize("row", [[1000.0, 999.0, -1000.0], [-1000.0, -1001.0, -999.5], [-np.inf, 2000.0, 1.0]])
def test_large_scores_neither_overflow_nor_vanish(name: str, row: list[float]) -> None:
    example = Example([np.array([row, row[::-1]])])
    if name == "logsumexp":
        example.settings = {"axis": -1, "keepdims": False}
    elif name == "cross_entropy":
        example.arrays.append(np.array([1, 1]))
        example.settings = {"ignore_index": -100, "label_smoothing": 0.0, "reduction": "none"}
    elif name != "attention_weights":
        example.settings = {"axis": -1}
    compare(CASES[name], through_engine(operation(OPS[name])), example, upstream(0))


def test_logsumexp_of_infinities() -> None:
    for row in ([-np.inf, -np.inf], [np.inf, 1.0], [-np.inf, np.inf]):
        expected = torch.logsumexp(torch.tensor(row), 0).item()
        assert Tensor(row).logsumexp(0).item() == expected


def test_the_branch_not_taken_does_not_matter() -> None:
    """An infinite gradient times 0 would be NaN: the gradient is chosen, not multiplied."""
    dy, mask = np.array([np.inf, np.nan, 3.0]), np.array([True, True, False])
    _, da, db = OPS["where"].backward(dy, mask)
    assert da is not None
    assert db is not None
    assert da[2] == 0.0
    assert db.tolist() == [0.0, 0.0, 3.0]
    kept, _ = OPS["masked_fill"].backward(dy, mask)
    assert kept is not None
    assert kept.tolist() == [0.0, 0.0, 3.0]


def test_clip_has_slope_zero_at_its_bounds() -> None:
    x = Tensor([-1.0, 0.0, 1.0], requires_grad=True)
    (gradient,) = grad(x.clip(-1.0, 1.0), x, [3.0, 5.0, 7.0])
    assert gradient is not None
    assert gradient.tolist() == [0.0, 5.0, 0.0]


@fused_ops
@given(data=st.data(), seed=seeds)
def test_composed_agrees_with_torch(name: str, data: Any, seed: int) -> None:
    """With the tests above: fused = composed = torch."""
    case = CASES[name]
    assert case.composed is not None
    example = case.make(Drawn(data.draw))
    note(repr(example))
    compare(case, through_engine(case.composed), example, upstream(seed))


@fused_ops
@given(data=st.data(), seed=seeds)
def test_composed_agrees_with_torch_in_float32(name: str, data: Any, seed: int) -> None:
    case = CASES[name]
    assert case.composed is not None
    example = rounded_to_float32(case.make(Drawn(data.draw)))
    note(repr(example))
    compare(case, through_engine(case.composed, np.float32), example, upstream(seed), float32=True)
