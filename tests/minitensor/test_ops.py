"""Every operation against torch and numerical gradients, and the fused ones against smaller operations."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from minitensor.core import OPS
from minitensor.ops import attention_blocked
from tests.minitensor.cases import CASES
from tests.minitensor.judge import check_numerically, operation, reference, rounded_to_float32, through_engine, upstream
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
    """Two queries each, since the examples are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_blocked, "BLOCK", 2)
        patch.setattr(attention_blocked, "SAVED", 3)  # more have their weights computed again
        yield


SUMMED = "linear", "layer_norm", "embedding"  # their backward sums over rows itself, so the engine need not


def test_every_op_has_a_case_and_every_case_has_an_op() -> None:
    assert set(CASES) == set(OPS)


@every_op
@given(data=st.data(), seed=seeds)
def test_agrees_with_torch(name: str, data: Any, seed: int) -> None:
    """In float64 and, with rounded inputs, in float32; so do the compositions of fused operations."""
    case, op, dy = CASES[name], OPS[name], upstream(seed)
    drawn = case.make(Drawn(data.draw))
    note(repr(drawn))
    check_only_floats_have_gradients(name, drawn)
    for dtype, example in (np.float64, drawn), (np.float32, rounded_to_float32(drawn)):
        note(f"in {dtype.__name__}")
        expected, float32 = reference(case, example, dy), dtype is np.float32
        errors = expected.compare(through_engine(operation(op), dtype)(example, dy), float32)
        REPORT.add_operation(name, "float32" if float32 else "float64", *errors)
        if case.composed:
            note("composed of smaller operations")
            expected.compare(through_engine(case.composed, dtype)(example, dy), float32)


def check_only_floats_have_gradients(name: str, example: Example) -> None:
    """backward returns a gradient for each float array, and None for all other inputs."""
    y, saved = OPS[name].forward(*example.arrays, **example.settings)
    dy = tuple(map(np.ones_like, y)) if isinstance(y, tuple) else np.ones_like(y)
    for array, gradient in zip(example.arrays, OPS[name].backward(dy, *saved), strict=True):
        assert (gradient is not None) == (array is not None and array.dtype.kind == "f")
        if gradient is not None and name in SUMMED:
            assert gradient.shape == array.shape


@every_op
@pytest.mark.parametrize("seed", range(5))
def test_backward_agrees_with_numerical_gradients(name: str, seed: int) -> None:
    check_numerically(CASES[name], OPS[name], CASES[name].make(Typical(seed)), upstream(seed))
