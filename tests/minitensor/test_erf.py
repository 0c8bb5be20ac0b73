"""erf against the C library's, which is accurate to the last digit."""

import math
from typing import Any

import numpy as np
import pytest

from minitensor.ops.erf import erf_of

POINTS = np.concatenate(
    [np.linspace(-7.0, 7.0, 200_001), np.logspace(-300.0, 0.0, 3001), -np.logspace(-300.0, 0.0, 3001)]
)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-15), (np.float32, 4e-7)])
def test_relative_error(dtype: Any, tolerance: float) -> None:
    x = POINTS.astype(dtype)
    x = x[(np.abs(x) >= np.finfo(dtype).tiny) | (x == 0)]
    exact = np.array([math.erf(value) for value in x.tolist()])
    found = erf_of(x)
    assert found.dtype == dtype
    scale = np.where(exact == 0.0, 1.0, np.abs(exact))
    assert np.max(np.abs(found - exact) / scale) <= tolerance


def test_zeros_infinities_and_nan() -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, 1e200, -1e200, np.nan])
    np.testing.assert_array_equal(erf_of(x), [0.0, 0.0, 1.0, -1.0, 1.0, -1.0, np.nan])
    assert np.signbit(erf_of(np.array([-0.0]))).all()
