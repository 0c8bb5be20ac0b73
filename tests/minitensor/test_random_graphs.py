"""Random graphs, built step by step by hypothesis, against forward-mode derivatives and torch.

In forward mode a value carries its derivative with respect to every leaf entry: there is no graph, and no sum over
paths. torch builds the same graph, for gradients with respect to results, and for freed parts. Whatever the engine
does (order, sharing, accumulation, freeing), all must agree; and it may raise only where a part was freed.
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
class Dual:
    """A value, and its derivative with respect to each leaf entry: (*shape, total number of leaf entries)."""

    value: Array
    tangents: Array


@dataclass
class Pair:
    tensor: Tensor
    dual: Dual
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
            tangents = np.zeros((*shape, self.total))
            tangents[..., span] = np.eye(size).reshape(*shape, size)
            self.spans.append(span)
            theirs = torch.tensor(value, requires_grad=True)
            self.leaves.append(Pair(Tensor(value, requires_grad=True), Dual(value, tangents), theirs))
        self.expected: list[Array | None] = [None] * LEAVES
        self.retained: list[tuple[Pair, Array | None]] = []

    @rule(target=pairs, which=st.integers(0, LEAVES - 1))
    def leaf(self, which: int) -> Pair:
        return self.leaves[which]

    @rule(target=pairs, a=pairs, b=pairs, op=st.sampled_from(["add", "sub", "mul", "div"]))
    def combine(self, a: Pair, b: Pair, op: str) -> Pair:
        x, y = np.broadcast_arrays(a.dual.value, b.dual.value)
        shape = (*x.shape, self.total)
        dx, dy = (_broadcast(p.dual.tangents, shape) for p in (a, b))
        if op == "div":
            y = y * y + 1.0  # never 0
            dy = 2.0 * b.dual.value[..., None] * dy
            dual = Dual(x / y, (dx - (x / y)[..., None] * dy) / y[..., None])
            return Pair(a.tensor / (b.tensor * b.tensor + 1.0), dual, a.theirs / (b.theirs * b.theirs + 1.0))
        if op == "mul":
            dual = Dual(x * y, dx * y[..., None] + dy * x[..., None])
            return Pair(a.tensor * b.tensor, dual, a.theirs * b.theirs)
        if op == "add":
            return Pair(a.tensor + b.tensor, Dual(x + y, dx + dy), a.theirs + b.theirs)
        return Pair(a.tensor - b.tensor, Dual(x - y, dx - dy), a.theirs - b.theirs)

    @rule(target=pairs, a=pairs)
    def tanh(self, a: Pair) -> Pair:
        y = np.tanh(a.dual.value)
        return Pair(a.tensor.tanh(), Dual(y, (1.0 - y * y)[..., None] * a.dual.tangents), a.theirs.tanh())

    @rule(target=pairs, a=pairs)
    def sum_all(self, a: Pair) -> Pair:
        axes = tuple(range(a.dual.value.ndim))
        return Pair(a.tensor.sum(), Dual(np.asarray(a.dual.value.sum()), a.dual.tangents.sum(axes)), a.theirs.sum())

    @rule(target=pairs, a=pairs)
    def split_and_cat(self, a: Pair) -> Pair:
        if not a.dual.value.ndim:
            return a
        first, rest = a.tensor.split([1, len(a.tensor) - 1])
        theirs = torch.split(a.theirs, [1, len(a.tensor) - 1])
        swapped = [np.roll(array, -1, axis=0) for array in (a.dual.value, a.dual.tangents)]
        return Pair(mt.cat([rest, first]), Dual(swapped[0], swapped[1]), torch.cat(theirs[::-1]))

    @rule(target=pairs, a=pairs)
    def take_one_output_of_split(self, a: Pair) -> Pair:
        if not a.dual.value.ndim:
            return a
        _, last = a.tensor.split([len(a.tensor) - 1, 1])
        return Pair(last.sum(0), Dual(a.dual.value[-1], a.dual.tangents[-1]), a.theirs[-1])

    @rule(target=pairs, a=pairs)
    def detach(self, a: Pair) -> Pair:
        return Pair(a.tensor.detach(), Dual(a.dual.value, np.zeros_like(a.dual.tangents)), a.theirs.detach())

    @rule(target=pairs, a=pairs)
    def double_under_no_grad(self, a: Pair) -> Pair:
        with mt.no_grad():
            dual = Dual(a.dual.value * 2.0, np.zeros_like(a.dual.tangents))
            return Pair(a.tensor * 2.0, dual, a.theirs.detach() * 2.0)

    @rule(a=pairs, seed=st.integers(0, 2**16), retain_graph=st.booleans())
    def backward(self, a: Pair, seed: int, retain_graph: bool) -> None:
        if not a.tensor.requires_grad:
            return
        dy = np.random.default_rng(seed).standard_normal(a.dual.value.shape)
        graph = self._graph(a.tensor)
        if any(node.saved is None for node in graph):
            with pytest.raises(RuntimeError, match="freed"):
                a.tensor.backward(dy, retain_graph=retain_graph)
            return
        a.tensor.backward(dy, retain_graph=retain_graph)
        retained = self._by_torch([a], [dy], [pair for pair, _ in self.retained], retain_graph=True)
        for i, ((pair, before), new) in enumerate(zip(self.retained, retained, strict=True)):
            self.retained[i] = pair, new if before is None else before if new is None else before + new
        self._by_torch([a], [dy], self.leaves, retain_graph)
        added = (dy[..., None] * a.dual.tangents).reshape(-1, self.total).sum(0)
        for i, (leaf, span) in enumerate(zip(self.leaves, self.spans, strict=True)):
            if leaf.tensor.node in graph:
                before = self.expected[i]
                new = added[span].reshape(leaf.dual.value.shape)
                self.expected[i] = new if before is None else before + new

    @rule(outputs=st.lists(pairs, min_size=1, max_size=2), inputs=st.lists(pairs, min_size=1, max_size=3),
          seed=st.integers(0, 2**16), retain_graph=st.booleans())  # fmt: skip
    def grad(self, outputs: list[Pair], inputs: list[Pair], seed: int, retain_graph: bool) -> None:
        """With respect to any results, leaves or not."""
        if not all(pair.tensor.requires_grad for pair in (*outputs, *inputs)):
            return
        rng = np.random.default_rng(seed)
        dys = [rng.standard_normal(pair.dual.value.shape) for pair in outputs]
        ours = [pair.tensor for pair in outputs], [pair.tensor for pair in inputs], dys, retain_graph, True
        if self._is_path_freed(outputs, inputs):
            with pytest.raises(RuntimeError, match="freed"):
                mt.grad(*ours)
            return
        found = mt.grad(*ours)
        for dx, expected in zip(found, self._by_torch(outputs, dys, inputs, retain_graph), strict=True):
            assert (dx is None) == (expected is None)
            if dx is not None and expected is not None:
                np.testing.assert_allclose(dx.array, expected, 1e-9, 1e-9 * np.abs(expected).max())

    @rule(a=pairs)
    def retain_grad(self, a: Pair) -> None:
        if a.tensor.requires_grad and not a.tensor.is_leaf and all(pair is not a for pair, _ in self.retained):
            a.tensor.retain_grad()
            self.retained.append((a, None))

    @staticmethod
    def _by_torch(outputs: list[Pair], dys: list[Array], inputs: list[Pair], retain_graph: bool) -> list[Array | None]:
        found = torch.autograd.grad(
            [pair.theirs for pair in outputs], [pair.theirs for pair in inputs], [torch.tensor(dy) for dy in dys],
            retain_graph=retain_graph, allow_unused=True,
        ) if inputs else ()  # fmt: skip
        return [None if gradient is None else gradient.numpy() for gradient in found]

    @rule()
    def clear_gradients(self) -> None:
        for leaf in self.leaves:
            leaf.tensor.grad = None
        self.expected = [None] * LEAVES

    @rule(a=pairs)
    def values_agree(self, a: Pair) -> None:
        np.testing.assert_allclose(a.tensor.array, a.dual.value, 1e-12)

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
    def _is_path_freed(cls, outputs: list[Pair], inputs: list[Pair]) -> bool:
        """Whether a path to one of the inputs leads through a freed node."""
        wanted = {pair.tensor.node for pair in inputs}
        ancestors = (cls._ancestors(node) for pair in outputs for node in cls._graph(pair.tensor) if node.saved is None)
        return any(not wanted.isdisjoint(nodes) for nodes in ancestors)

    @staticmethod
    def _ancestors(node: Any) -> set[Any]:
        """All nodes that a node was computed from."""
        seen: set[Any] = set()
        unseen = [*node.inputs]
        while unseen:
            node = unseen.pop()
            if node is not None and node not in seen:
                seen.add(node)
                unseen.extend(node.inputs)
        return seen

    @staticmethod
    def _graph(tensor: Tensor) -> set[Any]:
        return set() if tensor.node is None else {tensor.node} | RandomGraphs._ancestors(tensor.node)


def _broadcast(tangents: Array, shape: tuple[int, ...]) -> Array:
    """Derivatives of a broadcast value: the leading axes broadcast, the last stays last."""
    front = (1,) * (len(shape) - tangents.ndim)
    return np.broadcast_to(tangents.reshape(front + tangents.shape), shape)


RandomGraphs.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_random_graphs = RandomGraphs.TestCase
