"""The engine on one page: how an operation is recorded, and how gradients travel back.

An operation is two plain functions on NumPy arrays:

    x_forward(*arrays, **settings)  ->  y, saved      y: an array, or a tuple of arrays where there are several outputs
    x_backward(dy, *saved)          ->  one gradient for each input array, in order; None where there is none

`saved` is exactly what the backward takes: its signature is the memory bill. A gradient is called `d` + the name of its
value. `apply` runs the forward and leaves a node, which has what was saved and the nodes of the inputs:

    p = a * b        mul saves a and b;   its inputs are a and b
    y = p + a        add saves nothing;   its inputs are p and a

`backward` applies the chain rule to each node, from the last to the first:

    add              sends dy to p and dy to a
    mul              sends dp b to a and dp a to b

A value that was used several times receives a gradient from each use, and its own is their sum: da = dy + dp b. So the
turn of a node comes after that of every node that uses it, which is depth-first order, reversed.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Self, TypeVar

import numpy as np
from numpy import ndarray

from minitensor.arrays import Array, check_dtypes, freeze, read_only, unbroadcast, upstream
from minitensor.grad_mode import mode

Saved = tuple[Any, ...]  # what a forward hands to its backward
Forward = Callable[..., tuple[Any, Saved]]
Backward = Callable[..., tuple[Array | None, ...]]
T = TypeVar("T", bound="Tensor")

OPS: dict[str, "Op"] = {}


class Op:
    """A forward and its backward. Both read their arrays and never write to them; constants are Python's numbers, so
    that the arrays decide the dtype. A backward need not undo broadcasting: the engine sums the gradient."""

    __slots__ = ("backward", "forward", "name")

    def __init__(self, name: str, forward: Forward, backward: Backward) -> None:
        if not (callable(forward) and callable(backward)):
            raise TypeError(f"Op {name!r} needs a forward and a backward, two functions on arrays")
        self.name, self.forward, self.backward = name, forward, backward
        OPS[name] = self

    def __repr__(self) -> str:
        return f"Op({self.name!r})"


class Node:
    """A recorded operation, or (without an op) a leaf. Nodes know no tensors, so there are no reference cycles.

    saved       what the backward takes; None once it is freed
    inputs      the node of each input; None for an input without gradient
    keeps_grad  whether a backward adds to `grad`: it does for leaves, and after retain_grad
    """

    __slots__ = ("dtype", "grad", "inputs", "keeps_grad", "op", "saved", "shape")

    def __init__(self, op: Any, saved: Saved, inputs: "Sequence[Node | None]", y: Any) -> None:
        self.op, self.inputs = op, inputs
        self.saved: Saved | None = saved
        freeze(saved)
        self.shape, self.dtype = y.shape, y.dtype
        self.grad: Any = None
        self.keeps_grad = op is None

    def __repr__(self) -> str:
        return f"<{self.op.name if self.op else 'leaf'}>"


class Tensor:
    """A read-only array, and the node that it came from; a constant has none."""

    __slots__ = ("__weakref__", "array", "node")
    array: Array
    node: Node | None
    of_results: "type[Tensor]"  # the subclass that results are made of; it has torch's methods

    def __init_subclass__(cls, of_results: bool = False) -> None:
        if of_results:
            Tensor.of_results = cls

    @property
    def requires_grad(self) -> bool:
        return self.node is not None

    @property
    def grad(self) -> Self | None:
        return None if self.node is None else self.node.grad

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to the grad of every leaf that self was made from."""
        for node, dy in gradients([self], [gradient], None, retain_graph).items():
            node.grad = wrap(dy if node.grad is None else np.asarray(node.grad.array + dy))


Tensor.of_results = Tensor


def wrap(array: Array, node: Node | None = None) -> Any:
    """A tensor around an array that nobody else writes to; it is read-only from now on."""
    tensor = object.__new__(Tensor.of_results)
    if array.base is None:
        array.setflags(False)  # type: ignore[call-arg]  # read_only without the call: this runs for every operation
    else:
        read_only(array)
    tensor.array, tensor.node = array, node
    return tensor


# ---- forward ----------------------------------------------------------------------------------------------------


def apply(op: Op, *inputs: T | None, **settings: Any) -> T:
    """Run op.forward on the inputs' arrays; record it if one of them requires grad. (Several outputs are a tuple.)"""
    try:
        arrays = [None if x is None else x.array for x in inputs]
    except AttributeError:
        wrong = next(x for x in inputs if x is not None and not isinstance(x, Tensor))
        raise TypeError(f"{op.name}: its inputs are tensors, not {type(wrong).__name__}; make one, tensor(x)") from None
    if len(arrays) > 1:
        check_dtypes(op.name, arrays)
    for name, setting in settings.items():
        if isinstance(setting, np.generic):  # it would bring its own dtype into the arithmetic
            settings[name] = setting.item()

    y, saved = op.forward(*arrays, **settings)

    nodes = [None if x is None else x.node for x in inputs] if mode.recording[-1] else []
    tracked = any(nodes)
    if type(y) is tuple:
        node = Node(MultiOutput(op, y), saved, nodes, y[0]) if tracked else None
        outputs = [Node(Output(op, i), (), [node], part) if tracked else None for i, part in enumerate(y)]
        return tuple(map(wrap, y, outputs))  # type: ignore[return-value]
    if type(y) is not ndarray:
        y = np.asarray(y)  # NumPy turns results without axes into scalars
    return wrap(y, Node(op, saved, nodes, y) if tracked else None)  # type: ignore[no-any-return]


class MultiOutput:
    """The backward of an operation with several outputs takes a gradient for each: zeros for one that was not used."""

    def __init__(self, op: Op, outputs: tuple[Array, ...]) -> None:
        self.op, self.name, self.zeros = op, op.name, [(y.shape, y.dtype) for y in outputs]

    def backward(self, dys: dict[int, Array], *saved: Any) -> Any:
        return self.op.backward(tuple(dys[i] if i in dys else np.zeros(*z) for i, z in enumerate(self.zeros)), *saved)


class Output:
    """One of those outputs: its gradient goes to the operation under its number."""

    def __init__(self, op: Op, number: int) -> None:
        self.name, self.number = op.name, number

    def backward(self, dy: Array) -> tuple[dict[int, Array]]:
        return ({self.number: dy},)


# ---- backward ---------------------------------------------------------------------------------------------------


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: T | Sequence[T],
    grad_outputs: Any = None,
    retain_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[T | None, ...]:
    """The gradient of the outputs by each input, leaf or not, leaving every .grad alone (torch.autograd.grad)."""
    if isinstance(outputs, Tensor):
        outputs, grad_outputs = [outputs], [grad_outputs]
    given = [None] * len(outputs) if grad_outputs is None else grad_outputs
    given = [given] if isinstance(given, Tensor) else given
    if len(given) != len(outputs):
        raise RuntimeError(f"grad: {len(given)} gradients are given for {len(outputs)} outputs")
    nodes = [getattr(x, "node", None) for x in ([inputs] if isinstance(inputs, Tensor) else inputs)]
    if None in nodes:
        raise RuntimeError(f"grad: input {nodes.index(None)} does not require grad")
    found: dict[Any, Array] = gradients(outputs, given, set(nodes), retain_graph)
    unused = [i for i, node in enumerate(nodes) if node not in found]
    if unused and not allow_unused:
        raise RuntimeError(f"grad: outputs were not made from input {unused[0]}; allow_unused=True gives None for it")
    return tuple(wrap(found[node]) if node in found else None for node in nodes)


def gradients(
    outputs: Sequence[Tensor], given: Sequence[Any], wanted: Collection[Node | None] | None, retain_graph: bool
) -> dict[Node, Array]:
    """The gradient, given one for each output, of the wanted nodes; if none are named, of those that keep theirs.

    Unless retain_graph, a node gives up what it saved as soon as its backward has run.
    """
    arrived: dict[Node, Any] = {}  # the gradient of each node, as far as it is known
    for y, gradient in zip(outputs, given, strict=True):
        if y.node is None:
            raise RuntimeError(NO_GRAPH)
        dy = upstream(y.array, gradient)
        arrived[y.node] = plus(arrived[y.node], dy) if y.node in arrived else dy
    order, needed = depth_first(arrived, wanted)

    # The chain rule. In reverse, all nodes that use this one have had their turn, so its gradient is complete.
    found: dict[Node, Array] = {}
    for node, leads_on, is_wanted in reversed(order):
        dy = arrived.pop(node)
        if is_wanted:
            found[node] = dy
        if not leads_on:
            continue
        if type(dy) is ndarray:
            dy.setflags(write=False)  # others may have received it too
        saved = node.saved
        if not retain_graph:
            node.saved = None
        dxs = node.op.backward(dy, *saved)  # type: ignore[misc]
        if len(dxs) != len(node.inputs):
            raise RuntimeError(f"{node.op.name}: backward gave {len(dxs)} gradients for {len(node.inputs)} inputs")
        for i, x in enumerate(node.inputs):
            if x is not None and needed[x]:
                dx = dxs[i]
                if (type(dx) is not ndarray or dx.shape != x.shape or dx.dtype is not x.dtype) and type(dx) is not dict:
                    dx = unbroadcast(dx, x.shape, x.dtype, f"{node.op.name}: gradient {i}")
                sum_so_far = arrived.get(x)
                arrived[x] = dx if sum_so_far is None else plus(sum_so_far, dx)
        del dy, saved, dxs, dx, sum_so_far  # or they would live through the next backward
    return found


def depth_first(
    outputs: Collection[Node], wanted: Collection[Node | None] | None
) -> tuple[list[tuple[Node, bool, bool]], dict[Node, bool]]:
    """The nodes that are wanted or lead to a wanted one, each after its inputs: (node, leads on, is wanted). Also, for
    every node visited, whether it is one of these. Without recursion: graphs are deeper than Python's stack."""
    order: list[tuple[Node, bool, bool]] = []
    needed: dict[Node, bool] = {}
    unseen = list(outputs)
    while unseen:
        node, before, leads_on = unseen[-1], len(unseen), False
        for x in node.inputs:
            if x is not None:
                if x not in needed:
                    unseen.append(x)
                elif needed[x]:
                    leads_on = True
        if len(unseen) == before:  # all its inputs are done
            unseen.pop()
            if node not in needed:
                if leads_on and node.saved is None:
                    raise RuntimeError(FREED)
                is_wanted = node.keeps_grad if wanted is None else node in wanted
                needed[node] = leads_on or is_wanted
                if leads_on or is_wanted:
                    order.append((node, leads_on, is_wanted))
    return order, needed


def plus(a: Any, b: Any) -> Any:
    return a | b if type(a) is dict else np.asarray(a + b)


NO_GRAPH = (
    "backward: this tensor has no graph: nothing it was made from requires grad, or it was made under no_grad(); set "
    "requires_grad=True on an input"
)
FREED = (
    "backward: this graph, or a part of it, was freed by an earlier backward, or by one that ended in an error; pass "
    "retain_graph=True to the earlier one, or compute the result again"
)
