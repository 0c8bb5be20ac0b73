"""Random graphs, built step by step by hypothesis, next to a naive twin.

The twin knows derivatives only: a value carries its derivative by every leaf entry, forwards, with no graph and no
sums over paths. Whatever the tape does (order, sharing, accumulation, freeing), both must say the same.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

import minitensor as mt
from minitensor import Tensor
from minitensor.core import Array

SHAPES = [(), (2,), (3, 1), (3, 2)]
LEAVES = 3


@dataclass
class Twin:
    """A value of some shape, and its derivative by each entry of each leaf: (*shape, total number of leaf entries)."""

    value: Array
    slopes: Array


@dataclass
class Pair:
    tensor: Tensor
    twin: Twin


class RandomGraphs(RuleBasedStateMachine):
    pairs = Bundle("pairs")

    @initialize(seed=st.integers(0, 2**16), shapes=st.lists(st.sampled_from(SHAPES), min_size=LEAVES, max_size=LEAVES))
    def make_leaves(self, seed: int, shapes: list[tuple[int, ...]]) -> None:
        self.rng = np.random.default_rng(seed)
        sizes = [int(np.prod(shape)) for shape in shapes]
        self.total = sum(sizes)
        self.leaves, self.spans, start = [], [], 0
        for shape, size in zip(shapes, sizes, strict=True):
            value = self.rng.uniform(0.5, 1.5, shape)
            span = slice(start, start := start + size)
            slopes = np.zeros((*shape, self.total))
            slopes[..., span] = np.eye(size).reshape(*shape, size)
            self.spans.append(span)
            self.leaves.append(Pair(Tensor(value, requires_grad=True), Twin(value, slopes)))
        self.expected: list[Array | None] = [None] * LEAVES

    @rule(target=pairs, which=st.integers(0, LEAVES - 1))
    def take_a_leaf(self, which: int) -> Pair:
        return self.leaves[which]

    @rule(target=pairs, a=pairs, b=pairs, op=st.sampled_from(["add", "sub", "mul", "div"]))
    def combine(self, a: Pair, b: Pair, op: str) -> Pair:
        x, y = np.broadcast_arrays(a.twin.value, b.twin.value)
        shape = (*x.shape, self.total)
        dx, dy = (_stretched(p.twin.slopes, shape) for p in (a, b))
        if op == "div":
            y = y * y + 1.0  # never 0
            dy = 2.0 * b.twin.value[..., None] * dy
            return Pair(
                a.tensor / (b.tensor * b.tensor + 1.0), Twin(x / y, (dx - (x / y)[..., None] * dy) / y[..., None])
            )
        if op == "mul":
            return Pair(a.tensor * b.tensor, Twin(x * y, dx * y[..., None] + dy * x[..., None]))
        sign = 1.0 if op == "add" else -1.0
        return Pair(a.tensor + b.tensor if op == "add" else a.tensor - b.tensor, Twin(x + sign * y, dx + sign * dy))

    @rule(target=pairs, a=pairs)
    def squash(self, a: Pair) -> Pair:
        y = np.tanh(a.twin.value)
        return Pair(a.tensor.tanh(), Twin(y, (1.0 - y * y)[..., None] * a.twin.slopes))

    @rule(target=pairs, a=pairs)
    def sum_up(self, a: Pair) -> Pair:
        axes = tuple(range(a.twin.value.ndim))
        return Pair(a.tensor.sum(), Twin(np.asarray(a.twin.value.sum()), a.twin.slopes.sum(axes)))

    @rule(target=pairs, a=pairs)
    def cut_and_join(self, a: Pair) -> Pair:
        if not a.twin.value.ndim:
            return a
        first, rest = a.tensor.split([1, len(a.tensor) - 1])
        swapped = [np.roll(array, -1, axis=0) for array in (a.twin.value, a.twin.slopes)]
        return Pair(mt.cat([rest, first]), Twin(swapped[0], swapped[1]))

    @rule(target=pairs, a=pairs)
    def forget_the_history(self, a: Pair) -> Pair:
        return Pair(a.tensor.detach(), Twin(a.twin.value, np.zeros_like(a.twin.slopes)))

    @rule(target=pairs, a=pairs)
    def not_recorded(self, a: Pair) -> Pair:
        with mt.no_grad():
            return Pair(a.tensor * 2.0, Twin(a.twin.value * 2.0, np.zeros_like(a.twin.slopes)))

    @rule(a=pairs, seed=st.integers(0, 2**16))
    def backward(self, a: Pair, seed: int) -> None:
        if not a.tensor.requires_grad:
            return
        dy = np.random.default_rng(seed).standard_normal(a.twin.value.shape)
        a.tensor.backward(dy, retain_graph=True)
        added = (dy[..., None] * a.twin.slopes).reshape(-1, self.total).sum(0)
        reached = self._reached(a.tensor)
        for i, (leaf, span) in enumerate(zip(self.leaves, self.spans, strict=True)):
            if leaf.tensor.node in reached:
                before = self.expected[i]
                new = added[span].reshape(leaf.twin.value.shape)
                self.expected[i] = new if before is None else before + new

    @rule()
    def forget_the_gradients(self) -> None:
        for leaf in self.leaves:
            leaf.tensor.grad = None
        self.expected = [None] * LEAVES

    @rule(a=pairs)
    def values_agree(self, a: Pair) -> None:
        np.testing.assert_allclose(a.tensor.array, a.twin.value, 1e-12)

    @invariant()
    def gradients_agree(self) -> None:
        for leaf, expected in zip(getattr(self, "leaves", []), getattr(self, "expected", []), strict=True):
            found = leaf.tensor.grad
            assert (found is None) == (expected is None)
            if found is not None:
                np.testing.assert_allclose(found.array, expected, 1e-9, 1e-9 * np.abs(expected).max())

    @staticmethod
    def _reached(tensor: Tensor) -> set[Any]:
        seen, unseen = set(), [tensor.node]
        while unseen:
            node = unseen.pop()
            if node is not None and node not in seen:
                seen.add(node)
                unseen.extend(node.inputs)
        return seen


def _stretched(slopes: Array, shape: tuple[int, ...]) -> Array:
    """Derivatives of a broadcast value: the leading axes broadcast, the last stays last."""
    front = (1,) * (len(shape) - slopes.ndim)
    return np.broadcast_to(slopes.reshape(front + slopes.shape), shape)


RandomGraphs.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_random_graphs = RandomGraphs.TestCase
