"""Every operation against torch, against its own forward, and (the fused ones) against smaller operations."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from minitensor.core import OPS
from minitensor.ops import attention_blocked
from tests.minitensor.cases import CASES
from tests.minitensor.judge import check_by_forward, operation, rounded_to_float32, through_engine, truth, upstream
from tests.minitensor.strategies import Drawn, Example, Typical
from tests.support.report import REPORT

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning",  # NumPy's, for log(0) and the like
    "ignore:.*degrees of freedom",  # torch's, for the variance of one number
)

every_op = pytest.mark.parametrize("name", list(CASES))
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True, scope="module")
def _several_blocks_of_queries() -> Iterator[None]:
    """The examples are small: attention takes them two queries at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_blocked, "BLOCK", 2)
        yield


SUMMED = "linear", "layer_norm", "embedding"  # which add up over rows themselves, and leave nothing to the engine


def test_every_op_has_a_case_and_every_case_an_op() -> None:
    assert set(CASES) == set(OPS)


@every_op
@given(data=st.data(), seed=seeds)
def test_agrees_with_torch(name: str, data: Any, seed: int) -> None:
    """In float64 and, rounded, in float32; so do fused operations when composed of smaller ones."""
    case, op, dy = CASES[name], OPS[name], upstream(seed)
    drawn = case.make(Drawn(data.draw))
    note(repr(drawn))
    check_which_arrays_have_gradients(name, drawn)
    for dtype, example in (np.float64, drawn), (np.float32, rounded_to_float32(drawn)):
        note(f"in {dtype.__name__}")
        true, float32 = truth(case, example, dy), dtype is np.float32
        errors = true.compare(through_engine(operation(op), dtype)(example, dy), float32)
        REPORT.add_operation(name, "float32" if float32 else "float64", *errors)
        if case.composed:
            note("composed of smaller ones")
            true.compare(through_engine(case.composed, dtype)(example, dy), float32)


def check_which_arrays_have_gradients(name: str, example: Example) -> None:
    """A gradient comes back for each array of floats, and None for every other."""
    y, saved = OPS[name].forward(*example.arrays, **example.settings)
    dy = tuple(map(np.ones_like, y)) if isinstance(y, tuple) else np.ones_like(y)
    for array, gradient in zip(example.arrays, OPS[name].backward(dy, *saved), strict=True):
        assert (gradient is not None) == (array is not None and array.dtype.kind == "f")
        if gradient is not None and name in SUMMED:
            assert gradient.shape == array.shape


@every_op
@pytest.mark.parametrize("seed", range(5))
def test_backward_agrees_with_the_forward_alone(name: str, seed: int) -> None:
    check_by_forward(CASES[name], OPS[name], CASES[name].make(Typical(seed)), upstream(seed))
