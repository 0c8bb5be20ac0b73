"""How gradients travel back: nodes, edges, and the walk over them.

While a result is computed, every operation leaves a node. A node keeps what its backward needs, and an edge to the
place that each gradient will go to:

    p = a * b        node mul: keeps a and b;   edges to a and b
    y = p + a        node add: keeps nothing;   edges to p and a

Going back is the chain rule, node by node, from the last to the first:

    dy               given
    add              sends dy to p, and dy to a
    mul              sends dp b to a, and dp a to b

A value that was used several times gets a gradient from each use, and its true gradient is their sum: da = dy + dp b.
So a node's turn comes when all its uses have reported, which is why they are counted first.

Nodes know nothing of tensors, and tensors point to nodes, never back: no reference cycles. A value that no backward
needs is kept by nobody.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Collection, Container, Iterable
from contextlib import ContextDecorator
from typing import Any, TypeVar, cast

import numpy as np

from minitensor.op import Array, Op

F = TypeVar("F", bound=Callable[..., Any])
Place = tuple["Node", int]  # a value in the graph: the node that made it, and which of its outputs it is


class Node:
    """One recorded operation, or (without an op) a leaf: a tensor made by hand that wants its gradient.

    outputs   shape and dtype of each value that the operation made
    several   whether it made a tuple of values, so that its backward takes a tuple of gradients
    saved     what its backward takes; None once the graph is freed
    edges     for each input, the place its gradient goes to; None where none is wanted
    grads     the gradients to be kept for reading, by output; None (most nodes) keeps none
    """

    __slots__ = ("edges", "grads", "op", "outputs", "saved", "several")

    def __init__(
        self,
        op: Op | None,
        outputs: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...],
        saved: tuple[Any, ...] = (),
        edges: list[Place | None] | tuple[()] = (),
        several: bool = False,
    ) -> None:
        self.op = op
        self.outputs = outputs
        self.saved: tuple[Any, ...] | None = saved
        self.edges = edges
        self.several = several
        self.grads: dict[int, Any] | None = None

    def __repr__(self) -> str:
        return f"<{self.op.name if self.op else 'leaf'}>"


def backpropagate(root: Place, dy: Array, wanted: Collection[Place] | None, retain_graph: bool) -> dict[Place, Array]:
    """The gradient, given dy at the root, of each place that is wanted; if none are named, of each that keeps its own.

    Nodes that lead to nothing wanted are left alone. Unless retain_graph, each other node gives up what it saved as
    soon as its backward has run.
    """
    uses = _count_uses(root[0], _leading_to(wanted, root[0]) if wanted is not None else None)
    ends = (
        {root[0], *(node for node, _ in wanted)} if wanted is not None else set()
    )  # below these may be nothing wanted
    sums = {root: dy}  # what has arrived so far at each place
    ours: set[Place] = set()  # the places whose sum is an array made here, which may be added to in place
    found: dict[Place, Array] = {}
    ready = [root]

    while ready:
        place = ready.pop()
        node = place[0]
        if node.op is None:  # a leaf
            found[place] = sums[place]
            continue
        if node in ends or node.grads is not None:
            found.update(_to_keep(node, wanted, sums))
        if node in ends and not any(edge and edge[0] in uses for edge in node.edges):
            continue  # as far down as is wanted

        arrived: Any = _joined(node, sums) if node.several else sums.pop(place)
        saved, edges = node.saved, node.edges
        assert saved is not None  # _count_uses has seen that nothing here is freed
        if not retain_graph:
            node.saved, node.edges = None, ()
        gradients = node.op.backward(arrived, *saved)
        if len(gradients) != len(edges):
            raise RuntimeError(f"{node.op.name}: backward gave {len(gradients)} gradients for {len(edges)} inputs")

        for position, edge in enumerate(edges):
            if edge is None:
                continue
            target, index = edge
            left = uses.get(target)
            if left is None:  # nothing wanted is there
                continue
            shape, dtype = target.outputs[index]
            gradient = gradients[position]
            if type(gradient) is not np.ndarray or gradient.shape != shape or gradient.dtype is not dtype:
                gradient = _fitted(gradient, shape, dtype, node.op, position)
            held = sums.get(edge)
            if held is None:
                sums[edge] = gradient
            elif edge in ours:
                held += gradient
            else:  # the first may be anyone's array, dy itself or a view: the second makes a new one
                sums[edge] = np.asarray(held + gradient)
                ours.add(edge)
            uses[target] = left - 1
            if left == 1:
                ready.append(edge)
        del arrived, saved, gradients, gradient, held  # or they would live through the next node's backward
    return found


def _count_uses(root: Node, among: Container[Node] | None) -> dict[Node, int]:
    """For every node that the root can reach (among these nodes), how many edges lead to it."""
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
            if edge is not None and (among is None or edge[0] in among):
                target = edge[0]
                count = uses.get(target, 0)
                uses[target] = count + 1
                if not count:
                    unseen.append(target)
    return uses


def _leading_to(wanted: Iterable[Place], root: Node) -> set[Node]:
    """The nodes below the root from which a wanted place can be reached."""
    users: dict[Node, list[Node]] = {root: []}
    unseen = [root]
    while unseen:
        node = unseen.pop()
        for edge in node.edges:
            if edge is not None:
                if edge[0] not in users:
                    users[edge[0]] = []
                    unseen.append(edge[0])
                users[edge[0]].append(node)
    leading: set[Node] = set()
    ahead = [node for node, _ in wanted if node in users]
    while ahead:
        node = ahead.pop()
        if node not in leading:
            leading.add(node)
            ahead.extend(users[node])
    return leading


def _to_keep(node: Node, wanted: Collection[Place] | None, sums: dict[Place, Array]) -> dict[Place, Array]:
    """The gradients of this node's outputs that somebody will read."""
    if wanted is None:
        wanted = {(node, index) for index in node.grads or ()}
    places = [(node, index) for index in range(len(node.outputs))]
    return {place: sums[place] for place in places if place in sums and place in wanted}


def _joined(node: Node, sums: dict[Place, Array]) -> tuple[Array, ...]:
    """dy for several outputs, zeros for those from which nothing was made."""
    dys = (sums.pop((node, index), None) for index in range(len(node.outputs)))
    return tuple(np.zeros(*output) if dy is None else dy for dy, output in zip(dys, node.outputs, strict=True))


def _fitted(gradient: Any, shape: tuple[int, ...], dtype: np.dtype[Any], op: Op, position: int) -> Array:
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
    """Each thread's own: whether it records now, and what held before each block that it is in."""

    def __init__(self) -> None:
        self.recording = True
        self.before: list[bool] = []


mode = _Mode()


class _Recording(ContextDecorator):
    recording: bool

    def __enter__(self) -> None:
        mode.before.append(mode.recording)
        mode.recording = self.recording

    def __exit__(self, *exception: object) -> None:
        mode.recording = mode.before.pop()

    def __call__(self, function: F) -> F:
        """As a decorator; around a generator, for each of its steps."""
        if not inspect.isgeneratorfunction(function):
            return super().__call__(function)

        @functools.wraps(function)
        def steps(*inputs: Any, **settings: Any) -> Any:
            generator = function(*inputs, **settings)
            while True:
                with self:
                    try:
                        item = next(generator)
                    except StopIteration as end:
                        return end.value
                yield item

        return cast(F, steps)


class no_grad(_Recording):
    """Nothing is recorded: `with no_grad(): ...`, or `@no_grad()` over a function."""

    recording = False


class enable_grad(_Recording):
    """Recording again, inside a no_grad."""

    recording = True


def is_grad_enabled() -> bool:
    return mode.recording
