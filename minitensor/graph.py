"""How gradients travel back: nodes, edges, and the walk over them.

While a result is computed, every operation leaves a node. A node keeps what its backward needs, and an edge to the
node of each input that wants a gradient:

    y = a * b + a            add ──> mul ──> a
                              └───────────────┘ (and mul ──> b)

Going back is the chain rule, node by node. A value that was used several times gets a gradient from each use, and
its true gradient is their sum; so a node's turn comes when all its uses have reported:

    dy at the root  ->  op.backward(dy, *saved)  ->  one gradient an edge, added up at its far end  ->  next node

Nodes know nothing of tensors, and tensors point to nodes, never back: no reference cycles. A value that no backward
needs is kept by nobody.
"""

import threading
from collections.abc import Container
from contextlib import ContextDecorator
from typing import Any

import numpy as np

from minitensor.op import Array, Op

Place = tuple["Node", int]  # a value in the graph: the node that made it, and which of its outputs it is


class Node:
    """One recorded operation, or (without an op) a leaf: a tensor made by hand that wants its gradient.

    outputs   shape and dtype of each value that the operation made
    saved     what its backward takes; None once the graph is freed
    edges     for each input, the place its gradient goes to; None where none is wanted
    grads     the gradients to be kept for reading, by output; None (most nodes) keeps none
    """

    __slots__ = ("edges", "grads", "op", "outputs", "saved")

    def __init__(
        self,
        op: Op | None,
        outputs: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...],
        saved: tuple[Any, ...] = (),
        edges: list[Place | None] | tuple[()] = (),
    ) -> None:
        self.op = op
        self.outputs = outputs
        self.saved: tuple[Any, ...] | None = saved
        self.edges = edges
        self.grads: dict[int, Any] | None = None

    def __repr__(self) -> str:
        return f"<{self.op.name if self.op else 'leaf'}>"


def backpropagate(
    root: Place, dy: Array, wanted: Container[Place] = (), retain_graph: bool = False
) -> dict[Place, Array]:
    """The gradient, given dy at the root, of each place that is wanted or that keeps its gradient.

    Unless retain_graph, each node gives up what it saved as soon as its backward has run.
    """
    uses = _count_uses(root[0])
    pending: dict[Node, list[Array | None]] = {root[0]: [None] * len(root[0].outputs)}
    pending[root[0]][root[1]] = dy
    ours: set[Place] = set()  # sums in arrays that this walk made, and may add to in place
    found: dict[Place, Array] = {}
    ready = [root[0]]

    while ready:
        node = ready.pop()
        dys = pending.pop(node)
        for index, held in enumerate(dys):
            place = (node, index)
            if held is not None and (place in wanted or (node.grads is not None and index in node.grads)):
                found[place] = held
        if node.op is None:
            continue

        saved, edges = node.saved, node.edges
        assert saved is not None  # _count_uses has seen that nothing here is freed
        if not retain_graph:
            node.saved, node.edges = None, ()
        gradients = node.op.backward(_as_argument(dys, node), *saved)
        if len(gradients) != len(edges):
            raise RuntimeError(f"{node.op.name}: backward gave {len(gradients)} gradients for {len(edges)} inputs")

        for position, (edge, gradient) in enumerate(zip(edges, gradients, strict=True)):
            if edge is None:
                continue
            target, index = edge
            shape, dtype = target.outputs[index]
            gradient = _checked(gradient, shape, dtype, node.op, position)
            if target not in pending:
                pending[target] = [None] * len(target.outputs)
            held = pending[target][index]
            if held is None:
                pending[target][index] = gradient
            else:
                # The first may be anyone's array (dy itself, a view), so the second sum goes to a new one.
                total = held if edge in ours else np.empty_like(held)
                pending[target][index] = np.add(held, gradient, out=total)
                ours.add(edge)
            uses[target] -= 1
            if not uses[target]:
                ready.append(target)
        del dys, held, gradient, gradients  # or these arrays would live through the next node's backward
    return found


def _count_uses(root: Node) -> dict[Node, int]:
    """For every node that the root can reach, how many edges lead to it."""
    uses = {root: 0}
    unseen = [root]
    while unseen:
        node = unseen.pop()
        if node.saved is None:
            raise RuntimeError(
                "backward: this graph, or a part of it, was freed by an earlier backward; "
                "pass retain_graph=True to the earlier one, or compute the result again"
            )
        for edge in node.edges:
            if edge is not None:
                target = edge[0]
                if target in uses:
                    uses[target] += 1
                else:
                    uses[target] = 1
                    unseen.append(target)
    return uses


def _as_argument(dys: list[Array | None], node: Node) -> Any:
    """dy as the backward takes it: an array, or for several outputs a tuple, zeros where no gradient came."""
    if len(dys) == 1:
        return dys[0]
    return tuple(np.zeros(*output) if dy is None else dy for dy, output in zip(dys, node.outputs, strict=True))


def _checked(gradient: Any, shape: tuple[int, ...], dtype: np.dtype[Any], op: Op, position: int) -> Array:
    """The gradient for an input of this shape and dtype, summed over the axes along which the input broadcast."""
    if gradient is None:
        raise RuntimeError(f"{op.name}: input {position} requires grad, but has no gradient; pass it detached")
    if type(gradient) is not np.ndarray:
        gradient = np.asarray(gradient)  # NumPy turns results without axes into scalars
    if gradient.dtype != dtype:
        raise RuntimeError(f"{op.name}: gradient {position} is {gradient.dtype}, its input is {dtype}")
    if gradient.shape != shape:
        extra = gradient.ndim - len(shape)
        aligned = gradient.shape[max(extra, 0) :]
        if extra < 0 or any(n not in (1, g) for n, g in zip(shape, aligned, strict=True)):
            raise RuntimeError(f"{op.name}: gradient {position} has shape {gradient.shape}, its input has {shape}")
        stretched = tuple(extra + i for i, n in enumerate(shape) if n != aligned[i])
        gradient = np.asarray(gradient.sum((*range(extra), *stretched))).reshape(shape)
    return gradient  # type: ignore[no-any-return]


# ---- whether operations are recorded ----------------------------------------------------------------------------


class _Mode(threading.local):
    recording = True


mode = _Mode()


class _Recording(ContextDecorator):
    """Sets for this thread whether operations are recorded, and puts it back at the end, after an exception too."""

    recording: bool

    def __init__(self) -> None:
        self.before: list[bool] = []

    def __enter__(self) -> None:
        self.before.append(mode.recording)
        mode.recording = self.recording

    def __exit__(self, *exception: object) -> None:
        mode.recording = self.before.pop()

    def _recreate_cm(self) -> "_Recording":
        return type(self)()  # as a decorator: one for each call, whatever the thread


class no_grad(_Recording):
    """Nothing is recorded: `with no_grad(): ...`, or `@no_grad()` over a function."""

    recording = False


class enable_grad(_Recording):
    """Recording again, inside a no_grad."""

    recording = True


def is_grad_enabled() -> bool:
    return mode.recording
