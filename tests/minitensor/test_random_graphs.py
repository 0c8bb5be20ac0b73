"""Random graphs, built step by step by hypothesis, next to a naive twin and to torch.

The twin knows derivatives only: a value carries its derivative by every leaf entry, forwards, with no graph and no
sums over paths. torch makes the same graph, for gradients by results and for what is freed. Whatever the engine does
(order, sharing, accumulation, freeing), all must say the same; and it refuses only where a part was freed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

import minitensor as mt
from minitensor import Tensor
from minitensor.arrays import Array

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
    theirs: torch.Tensor


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
            theirs = torch.tensor(value, requires_grad=True)
            self.leaves.append(Pair(Tensor(value, requires_grad=True), Twin(value, slopes), theirs))
        self.expected: list[Array | None] = [None] * LEAVES
        self.retained: list[tuple[Pair, Array | None]] = []

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
            twin = Twin(x / y, (dx - (x / y)[..., None] * dy) / y[..., None])
            return Pair(a.tensor / (b.tensor * b.tensor + 1.0), twin, a.theirs / (b.theirs * b.theirs + 1.0))
        if op == "mul":
            twin = Twin(x * y, dx * y[..., None] + dy * x[..., None])
            return Pair(a.tensor * b.tensor, twin, a.theirs * b.theirs)
        if op == "add":
            return Pair(a.tensor + b.tensor, Twin(x + y, dx + dy), a.theirs + b.theirs)
        return Pair(a.tensor - b.tensor, Twin(x - y, dx - dy), a.theirs - b.theirs)

    @rule(target=pairs, a=pairs)
    def squash(self, a: Pair) -> Pair:
        y = np.tanh(a.twin.value)
        return Pair(a.tensor.tanh(), Twin(y, (1.0 - y * y)[..., None] * a.twin.slopes), a.theirs.tanh())

    @rule(target=pairs, a=pairs)
    def sum_up(self, a: Pair) -> Pair:
        axes = tuple(range(a.twin.value.ndim))
        return Pair(a.tensor.sum(), Twin(np.asarray(a.twin.value.sum()), a.twin.slopes.sum(axes)), a.theirs.sum())

    @rule(target=pairs, a=pairs)
    def cut_and_join(self, a: Pair) -> Pair:
        if not a.twin.value.ndim:
            return a
        first, rest = a.tensor.split([1, len(a.tensor) - 1])
        theirs = torch.split(a.theirs, [1, len(a.tensor) - 1])
        swapped = [np.roll(array, -1, axis=0) for array in (a.twin.value, a.twin.slopes)]
        return Pair(mt.cat([rest, first]), Twin(swapped[0], swapped[1]), torch.cat(theirs[::-1]))

    @rule(target=pairs, a=pairs)
    def take_one_of_two_outputs(self, a: Pair) -> Pair:
        if not a.twin.value.ndim:
            return a
        _, last = a.tensor.split([len(a.tensor) - 1, 1])
        return Pair(last.sum(0), Twin(a.twin.value[-1], a.twin.slopes[-1]), a.theirs[-1])

    @rule(target=pairs, a=pairs)
    def forget_the_history(self, a: Pair) -> Pair:
        return Pair(a.tensor.detach(), Twin(a.twin.value, np.zeros_like(a.twin.slopes)), a.theirs.detach())

    @rule(target=pairs, a=pairs)
    def not_recorded(self, a: Pair) -> Pair:
        with mt.no_grad():
            twin = Twin(a.twin.value * 2.0, np.zeros_like(a.twin.slopes))
            return Pair(a.tensor * 2.0, twin, a.theirs.detach() * 2.0)

    @rule(a=pairs, seed=st.integers(0, 2**16), retain_graph=st.booleans())
    def backward(self, a: Pair, seed: int, retain_graph: bool) -> None:
        if not a.tensor.requires_grad:
            return
        dy = np.random.default_rng(seed).standard_normal(a.twin.value.shape)
        reached = self._reached(a.tensor)
        if any(node.saved is None for node in reached):
            with pytest.raises(RuntimeError, match="freed"):
                a.tensor.backward(dy, retain_graph=retain_graph)
            return
        a.tensor.backward(dy, retain_graph=retain_graph)
        arrived = self._theirs([a], [dy], [pair for pair, _ in self.retained], retain_graph=True)
        for i, ((pair, before), new) in enumerate(zip(self.retained, arrived, strict=True)):
            self.retained[i] = pair, new if before is None else before if new is None else before + new
        self._theirs([a], [dy], self.leaves, retain_graph)
        added = (dy[..., None] * a.twin.slopes).reshape(-1, self.total).sum(0)
        for i, (leaf, span) in enumerate(zip(self.leaves, self.spans, strict=True)):
            if leaf.tensor.node in reached:
                before = self.expected[i]
                new = added[span].reshape(leaf.twin.value.shape)
                self.expected[i] = new if before is None else before + new

    @rule(outputs=st.lists(pairs, min_size=1, max_size=2), inputs=st.lists(pairs, min_size=1, max_size=3),
          seed=st.integers(0, 2**16), retain_graph=st.booleans())  # fmt: skip
    def grad(self, outputs: list[Pair], inputs: list[Pair], seed: int, retain_graph: bool) -> None:
        """By any results, leaves or not."""
        if not all(pair.tensor.requires_grad for pair in (*outputs, *inputs)):
            return
        rng = np.random.default_rng(seed)
        dys = [rng.standard_normal(pair.twin.value.shape) for pair in outputs]
        ours = [pair.tensor for pair in outputs], [pair.tensor for pair in inputs], dys, retain_graph, True
        if self._is_freed_on_the_way(outputs, inputs):
            with pytest.raises(RuntimeError, match="freed"):
                mt.grad(*ours)
            return
        found = mt.grad(*ours)
        for dx, expected in zip(found, self._theirs(outputs, dys, inputs, retain_graph), strict=True):
            assert (dx is None) == (expected is None)
            if dx is not None and expected is not None:
                np.testing.assert_allclose(dx.array, expected, 1e-9, 1e-9 * np.abs(expected).max())

    @rule(a=pairs)
    def retain_grad(self, a: Pair) -> None:
        if a.tensor.requires_grad and not a.tensor.is_leaf and all(pair is not a for pair, _ in self.retained):
            a.tensor.retain_grad()
            self.retained.append((a, None))

    @staticmethod
    def _theirs(outputs: list[Pair], dys: list[Array], inputs: list[Pair], retain_graph: bool) -> list[Array | None]:
        found = torch.autograd.grad(
            [pair.theirs for pair in outputs], [pair.theirs for pair in inputs], [torch.tensor(dy) for dy in dys],
            retain_graph=retain_graph, allow_unused=True,
        ) if inputs else ()  # fmt: skip
        return [None if gradient is None else gradient.numpy() for gradient in found]

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
        for pair, expected in getattr(self, "retained", []):
            found = pair.tensor.grad
            assert (found is None) == (expected is None)
            if found is not None:
                np.testing.assert_allclose(found.array, expected, 1e-9, 1e-9 * np.abs(expected).max())

    @classmethod
    def _is_freed_on_the_way(cls, outputs: list[Pair], inputs: list[Pair]) -> bool:
        """Whether a freed node has to be passed to come to one of the inputs."""
        wanted = {pair.tensor.node for pair in inputs}
        below = (cls._below(node) for pair in outputs for node in cls._reached(pair.tensor) if node.saved is None)
        return any(not wanted.isdisjoint(nodes) for nodes in below)

    @staticmethod
    def _below(node: Any) -> set[Any]:
        """All nodes that a node was made from."""
        seen: set[Any] = set()
        unseen = [*node.inputs]
        while unseen:
            one = unseen.pop()
            if one is not None and one not in seen:
                seen.add(one)
                unseen.extend(one.inputs)
        return seen

    @staticmethod
    def _reached(tensor: Tensor) -> set[Any]:
        return set() if tensor.node is None else {tensor.node} | RandomGraphs._below(tensor.node)


def _stretched(slopes: Array, shape: tuple[int, ...]) -> Array:
    """Derivatives of a broadcast value: the leading axes broadcast, the last stays last."""
    front = (1,) * (len(shape) - slopes.ndim)
    return np.broadcast_to(slopes.reshape(front + slopes.shape), shape)


RandomGraphs.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_random_graphs = RandomGraphs.TestCase
