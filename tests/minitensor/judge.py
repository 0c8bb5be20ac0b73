"""Runs an operation and its torch equivalent on the same example, and compares the results entry by entry.

An entry passes if it differs from torch's float64 result by at most

    float64    1e-10 of torch's entry + 1e-12 of the entry's natural size
    float32    the tolerance of the case times the largest natural size in the tensor

The natural size of an entry is its largest absolute value in torch, also with inputs perturbed by about 10 % and random
signs of the upstream gradient. It distinguishes small entries from what cancellation leaves, such as the 1e-17 that
remains when equal numbers are normalised. A tolerance relative to the entry alone would not allow for rounding there,
and a fixed one (1e-8, say) would accept wrong gradients.

NaN and infinity pass only where torch has the same.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from minitensor.arrays import Array
from minitensor.core import Op, apply, grad, wrap
from minitensor.functions import cat
from minitensor.gradcheck import central_difference, complex_step
from minitensor.tensor import Tensor
from tests.minitensor.cases import Case
from tests.minitensor.strategies import Example

RTOL, NATURAL = 1e-10, 1e-12


@dataclass
class Outcome:
    """The outputs, flattened and concatenated; the gradient of each input, or None; and the shapes of the outputs."""

    y: Array
    gradients: list[Array | None]
    shapes: list[tuple[int, ...]]


Run = Callable[[Example, Array], Outcome]


def upstream(seed: int) -> Array:
    """A random gradient for the outputs. Ones would hide errors: the gradient of the sum of a softmax is zero."""
    return np.random.default_rng(seed).standard_normal(4096, np.float32).astype(np.float64)  # longer than any output


def rounded_to_float32(example: Example) -> Example:
    """The same example with values exact in float32; those below 1e-8 become 0, so that quotients stay finite."""
    rounded: dict[int, Array] = {}
    for a in example.arrays:
        if _is_float(a):
            rounded[id(a)] = np.where(np.abs(a) < 1e-8, 0.0, a).astype(np.float32).astype(np.float64)
    return Example([rounded.get(id(a), a) for a in example.arrays], example.settings)


# ---- running an example -----------------------------------------------------------------------------------------


def through_engine(function: Callable[..., Any], dtype: Any = np.float64) -> Run:
    """Runs a function of tensors with minitensor."""

    def run(example: Example, dy: Array) -> Outcome:
        leaves: dict[int, Tensor] = {}
        inputs: list[Tensor | None] = []
        for array in example.arrays:
            if array is None:
                inputs.append(None)
            elif id(array) in leaves:  # the same array twice is the same tensor twice
                inputs.append(leaves[id(array)])
            else:
                floats = array.dtype.kind == "f"
                # Not copied, to keep the memory layout: operations must support any.
                tensor = wrap(array.astype(dtype, order="K", copy=False) if floats else array)
                leaves[id(array)] = tensor.requires_grad_(floats)
                inputs.append(tensor)
        y = function(*inputs, **example.settings)
        joined = y.reshape(-1) if isinstance(y, Tensor) else cat([part.reshape(-1) for part in y])
        wanted = [x for x in inputs if x is not None and x.requires_grad]
        upstream = wrap(dy.astype(joined.dtype)[: joined.numel()])
        first = grad(joined, wanted, upstream, retain_graph=True, allow_unused=True)
        again = grad(joined, wanted, upstream, allow_unused=True)
        for one, two in zip(first, again, strict=True):
            assert _same(one, two), "a second backward over the same graph gives a different gradient"
        found = dict(zip(map(id, wanted), first, strict=True))
        outputs = [y] if isinstance(y, Tensor) else y
        assert all(type(part.array) is np.ndarray for part in outputs), "the result is a NumPy scalar, not an array"
        shapes = [part.shape for part in outputs]
        return Outcome(joined.array, [_gradient(found, x) for x in inputs], shapes)

    return run


def operation(op: Any) -> Callable[..., Any]:
    """An op as a function of tensors. Saved arrays are read-only, so that a backward that writes to them raises."""

    def forward(*arrays: Any, **settings: Any) -> Any:
        y, saved = op.forward(*arrays, **settings)
        for array in itertools.chain(saved, *(arrays for arrays in saved if isinstance(arrays, list))):
            if isinstance(array, np.ndarray):
                array.setflags(write=False)
        return y, saved

    guarded = object.__new__(Op)
    guarded.name, guarded.forward, guarded.backward = op.name, forward, op.backward
    return lambda *inputs, **settings: apply(guarded, *inputs, **settings)


def through_torch(function: Callable[..., Any]) -> Run:
    """Runs a function of torch tensors, in float64."""

    def run(example: Example, dy: Array) -> Outcome:
        leaves: dict[int, torch.Tensor] = {}
        inputs = []
        for array in example.arrays:
            if array is not None and id(array) not in leaves:
                tensor = torch.tensor(np.ascontiguousarray(array).reshape(array.shape))
                leaves[id(array)] = tensor.double().requires_grad_() if array.dtype.kind == "f" else tensor
            inputs.append(None if array is None else leaves[id(array)])
        y = function(*inputs, **example.settings)
        joined = y.reshape(-1) if isinstance(y, torch.Tensor) else torch.cat([part.reshape(-1) for part in y])
        wanted = [x for x in leaves.values() if x.requires_grad]
        gradients = torch.autograd.grad(joined, wanted, torch.from_numpy(dy[: joined.numel()]), allow_unused=True)
        found = dict(zip(map(id, wanted), gradients, strict=True))
        shapes = [tuple(part.shape) for part in ([y] if isinstance(y, torch.Tensor) else y)]
        return Outcome(joined.detach().numpy(), [_gradient(found, x) for x in inputs], shapes)

    return run


def _gradient(found: dict[int, Any], x: Any) -> Array | None:
    if x is None or not x.requires_grad:
        return None
    gradient = found[id(x)]
    return np.zeros(tuple(x.shape)) if gradient is None else np.asarray(gradient.numpy())


def _same(one: Tensor | None, two: Tensor | None) -> bool:
    if one is None or two is None:
        return one is two
    return np.array_equal(one.array, two.array, equal_nan=True)


# ---- numerical gradients ----------------------------------------------------------------------------------------


def check_numerically(case: Case, op: Any, example: Example, dy: Array) -> None:
    """Checks the op's gradients against complex steps or central differences of its forward."""

    def forward(*arrays: Any) -> Array:
        y = op.forward(*arrays, **example.settings)[0]
        return np.concatenate([part.reshape(-1) for part in y]) if isinstance(y, tuple) else np.reshape(y, -1)

    dy = dy[: forward(*example.arrays).size]
    found = through_engine(operation(op))(example, dy).gradients
    numerical, rtol = (complex_step, 1e-12) if case.analytic else (central_difference, 1e-7)
    for i, (expected, got) in enumerate(zip(numerical(forward, example.arrays, dy), found, strict=True)):
        assert (expected is None) == (got is None), f"input {i}: expected {'no' if expected is None else 'a'} gradient"
        if expected is not None and got is not None:
            np.testing.assert_allclose(got, expected, rtol, rtol * np.abs(expected).max(initial=1.0), equal_nan=False)


# ---- comparison -------------------------------------------------------------------------------------------------


@dataclass
class Reference:
    """torch's result for an example, and the natural size of each entry."""

    case: Case
    outcome: Outcome
    natural: Outcome

    def compare(self, found: Outcome, float32: bool = False) -> tuple[float, float]:
        """The largest error of the outputs and of the gradients, relative to the natural sizes; raises AssertionError
        if one exceeds the tolerance. `float32`: whether `found` was computed in float32."""
        expected, natural, tolerance = self.outcome, self.natural, self.case.float32 if float32 else None
        assert found.shapes == expected.shapes, f"output: shape {found.shapes}, torch has {expected.shapes}"
        forward = _error("output", found.y, expected.y, natural.y, tolerance)
        backward = 0.0
        for i, (g, e, n) in enumerate(zip(found.gradients, expected.gradients, natural.gradients, strict=True)):
            assert (g is None) == (e is None), f"input {i}: torch has {'no' if e is None else 'a'} gradient"
            if g is not None and e is not None and n is not None:
                backward = max(backward, _error(f"gradient of input {i}", g, e, n, tolerance))
        return forward, backward


def reference(case: Case, example: Example, dy: Array) -> Reference:
    torch_run = through_torch(case.torch)
    expected = torch_run(example, dy)
    natural = _natural_sizes(torch_run, example, dy, expected)
    if case.cancels is not None:
        largest = max(np.abs(a[np.isfinite(a)]).max(initial=1.0) for a in example.arrays if _is_float(a))
        slack = 0.1 * largest**case.cancels
        gradient_slack = slack * np.abs(dy[: expected.y.size]).max(initial=0.0)
        natural = Outcome(
            natural.y + slack, [None if g is None else g + gradient_slack for g in natural.gradients], natural.shapes
        )
    return Reference(case, expected, natural)


def compare(case: Case, got: Run, example: Example, dy: Array, float32: bool = False) -> tuple[float, float]:
    return reference(case, example, dy).compare(got(example, dy), float32)


def _natural_sizes(run: Run, example: Example, dy: Array, expected: Outcome) -> Outcome:
    rng = np.random.default_rng(0)
    y, dy = np.abs(expected.y), dy[: expected.y.size]
    gradients = [None if g is None else np.abs(g) for g in expected.gradients]
    for _ in range(2):
        moved = [a * (1.0 + 0.1 * rng.standard_normal(a.shape)) if _is_float(a) else a for a in example.arrays]
        outcome = run(Example(moved, example.settings), dy * rng.choice([-1.0, 1.0], dy.shape))
        y = np.fmax(y, np.abs(outcome.y))
        for i, own in enumerate(gradients):
            if own is not None:  # the gradients of both uses of an array passed twice are added, and may cancel
                both = zip(example.arrays, outcome.gradients, strict=True)
                uses = [np.abs(g) for a, g in both if a is example.arrays[i] and g is not None]
                gradients[i] = np.fmax(own, np.sum(uses, axis=0))
    return Outcome(y, gradients, expected.shapes)


def _is_float(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


def _error(what: str, got: Array, expected: Array, natural: Array, tolerance32: float | None) -> float:
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, torch has {expected.shape}"
    finite = np.isfinite(expected)
    special = np.where(finite, 0.0, expected)
    wrong = ~np.isfinite(got) if finite.all() else ~(np.isfinite(got) == finite)
    wrong |= ~finite & ~((got == special) | (np.isnan(got) & np.isnan(special)))
    assert not wrong.any(), f"{what}: {got[wrong][:3]} where torch has {expected[wrong][:3]}"
    if not finite.any():
        return 0.0

    difference = np.abs(got[finite] - expected[finite])
    size = np.where(np.isfinite(natural[finite]), natural[finite], np.abs(expected[finite]))
    if tolerance32 is None:
        allowed = RTOL * np.abs(expected[finite]) + NATURAL * size
    else:
        size = np.broadcast_to(size.max(), difference.shape)
        allowed = tolerance32 * size
    worst = np.argmax(difference - allowed)
    assert (difference <= allowed).all(), (
        f"{what}: {got[finite][worst]!r} where torch has {expected[finite][worst]!r}, off by {difference[worst]:.3g}, "
        f"allowed {allowed[worst]:.3g}; {np.sum(difference > allowed)} of {got.size} entries are wrong"
    )
    relative = np.divide(difference, size, out=np.zeros_like(difference), where=size > 0)
    return float(relative.max())
