"""The engine (core.py): correct gradients in any graph, no memory leaks, and errors instead of wrong gradients."""

import copy
import gc
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minitensor as mt
from minitensor import Tensor, apply, core, enable_grad, is_grad_enabled, no_grad
from minitensor.arrays import Array
from minitensor.core import OPS, Op, wrap


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values), requires_grad=True)


def gradient(x: Tensor) -> Array:
    assert x.grad is not None
    return x.grad.array


# ---- accumulation -----------------------------------------------------------------------------------------------


def test_diamond() -> None:
    a = leaf(1.5)
    b = a + a
    c = b * b
    c.backward()
    assert gradient(a).tolist() == [12.0]  # c = 4 a^2, 8 a


def test_backward_visits_each_node_once() -> None:
    x = a = leaf(1.0)
    for _ in range(60):  # 2^60 paths
        a = a + a
    a.backward()
    assert gradient(x).tolist() == [2.0**60]


def test_leaf_used_at_several_depths() -> None:
    x = leaf(2.0, 3.0)
    y = x * (x + x.exp() * x)  # x^2 + x^2 e^x
    y.backward(np.array([1.0, -2.0]))
    v = np.array([2.0, 3.0])
    np.testing.assert_allclose(gradient(x), [1.0, -2.0] * (2 * v + (2 * v + v * v) * np.exp(v)), 1e-14)


def test_equal_constants_are_not_merged() -> None:
    a, b = leaf(1.0), leaf(1.0)
    (a * 2.0 + b * 3.0).backward()
    assert (gradient(a).item(), gradient(b).item()) == (2.0, 3.0)


def test_gradients_accumulate_over_backwards() -> None:
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    first = gradient(x)
    y.backward()
    assert gradient(x).tolist() == [4.0, 8.0]
    assert first.tolist() == [2.0, 4.0]  # a gradient read earlier is not modified


def test_unused_outputs_of_split_contribute_zeros() -> None:
    x = leaf(1.0, 2.0, 3.0, 4.0)
    first, _, last = x.split([1, 2, 1])
    (first * 5.0 + last * 7.0).backward()
    assert gradient(x).tolist() == [5.0, 0.0, 0.0, 7.0]
    narrow = mt.ones(3, requires_grad=True)
    (narrow.split(1)[1] * 2.0).backward()
    assert gradient(narrow).tolist() == [0.0, 2.0, 0.0]


def test_unused_outputs_of_split_have_no_gradient() -> None:
    first, second = leaf(1.0, 2.0).split(1)
    found = mt.grad(first * 5.0, [first, second], allow_unused=True)
    assert [None if g is None else g.tolist() for g in found] == [[5.0], None]
    second.retain_grad()
    (first * 5.0).backward()
    assert second.grad is None


def test_retain_grad_of_one_output_of_split() -> None:
    first, second = leaf(1.0, 2.0).split(1)
    first.retain_grad()
    (first * second).backward()
    assert gradient(first).tolist() == [2.0]
    assert second.grad is None


def test_gradient_of_scalar_is_an_array() -> None:
    """Although NumPy's operations on 0-d arrays return scalars."""
    x = leaf(2.0).sum().detach().requires_grad_()
    x.exp().backward()
    assert type(gradient(x)) is np.ndarray


def test_retained_gradients_of_intermediate_results() -> None:
    x = leaf(1.0, 2.0)
    y = x * 3.0
    parts = y.split(1)
    for result in (y, *parts):
        result.retain_grad()
    z = (parts[0] * 2.0 + parts[1] * parts[1]).sum()
    z.backward()
    assert [gradient(t).tolist() for t in (x, y, *parts)] == [[6.0, 36.0], [2.0, 12.0], [2.0], [12.0]]
    assert z.grad is None


def test_grad_does_not_set_grad_attributes() -> None:
    x, y, unused = leaf(2.0), leaf(3.0), leaf(4.0)
    inner = x * y
    z = inner * inner
    dx, dinner = mt.grad(z, (x, inner), retain_graph=True)
    assert dx is not None
    assert dinner is not None
    assert (dx.item(), dinner.item()) == (36.0, 12.0)
    with pytest.raises(RuntimeError, match="not made from input 1"):
        mt.grad(z, (x, unused), retain_graph=True)
    assert mt.grad(z, unused, allow_unused=True) == (None,)
    assert x.grad is None
    assert y.grad is None


def test_grad_does_not_free_the_graph_of_its_inputs() -> None:
    w = leaf(1.0, 2.0)
    h = w * w
    y = (h * h).sum()
    assert mt.grad(y, h)[0].tolist() == [2.0, 8.0]  # type: ignore[union-attr]
    h.sum().backward()  # its own graph was not traversed, so it is not freed
    assert gradient(w).tolist() == [2.0, 4.0]


def test_deepcopy_of_leaf_is_independent() -> None:
    x = leaf(1.0, 2.0)
    x.grad = mt.tensor(np.ones(2))
    twin = copy.deepcopy(x)
    (twin * 3.0).sum().backward()
    assert gradient(twin).tolist() == [4.0, 4.0]
    assert gradient(x).tolist() == [1.0, 1.0]
    another = copy.deepcopy(x)
    assert another.grad is not None
    another.grad *= 10.0
    assert gradient(x).tolist() == [1.0, 1.0]
    model = copy.deepcopy(mt.nn.Linear(2, 2))
    assert isinstance(model.weight, mt.nn.Parameter)
    with pytest.raises(RuntimeError, match=r"copy x\.detach"):
        copy.deepcopy(x * 2.0)
    with pytest.raises(TypeError, match="not pickled"):
        copy.copy(x)


def test_chain_of_100_000_operations() -> None:
    x = y = leaf(1.0)
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    assert gradient(x).tolist() == [1.0]
    z = x
    for _ in range(100_000):
        z = z * 1.0
    del z  # never traversed: deleting it must not recurse either


# ---- memory -----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without garbage collection, a reference cycle never frees its memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_results_not_needed_by_backward_are_freed() -> None:
    x = Tensor(np.ones(10), requires_grad=True)
    shifted, squashed = x + 1.0, x.exp()
    alive = [weakref.ref(shifted.array), weakref.ref(squashed.array)]
    y = (shifted - 2.0) + (squashed + 3.0)
    del shifted, squashed
    assert [array() is not None for array in alive] == [False, True]  # exp's backward needs its result, add's nothing
    y.backward(np.ones(10))
    assert alive[1]() is None  # freed by backward, although y is alive
    assert y.shape == (10,)


@pytest.mark.usefixtures("no_collector")
def test_dropped_graph_is_freed_immediately() -> None:
    x = leaf(1.0, 2.0)
    y = x.exp().tanh()
    node = weakref.ref(y)
    y.retain_grad()
    y.sum().backward()
    del y
    assert node() is None


@pytest.mark.usefixtures("no_collector")
def test_memory_does_not_grow_over_400_steps() -> None:
    mt.manual_seed(0)
    model = mt.nn.Sequential(mt.nn.Linear(8, 16), mt.nn.GELU(), mt.nn.LayerNorm(16), mt.nn.Linear(16, 4))
    optimizer = mt.optim.AdamW(model.parameters())
    x, target = mt.randn(32, 8), np.arange(32) % 4

    def step() -> None:
        optimizer.zero_grad()
        mt.functional.cross_entropy(model(x), target).backward()
        mt.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    # Python keeps up to 2,000 freed tuples of each length for reuse: fill these free lists first.
    assert [tuple(range(n)) for n in range(1, 20) for _ in range(2000)]
    tracemalloc.start()
    try:
        for _ in range(50):
            step()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(350):
            step()
        growth = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert abs(growth) < 3_500, f"{growth} bytes more after 350 steps"  # a step's arrays are 30 kB


def test_gradients_are_read_only() -> None:
    a, b, upstream = leaf(1.0, 2.0), leaf(3.0, 4.0), mt.tensor(np.array([[5.0], [6.0]]))
    c = (a + b).reshape(2, 1)
    c.retain_grad()
    c.backward(upstream)
    for tensor in (a, b, c):
        array: Any = gradient(tensor)
        while array is not None:
            assert not array.flags.writeable
            array = array.base


def test_gradients_share_no_memory_with_inputs() -> None:
    a, b, upstream = leaf(1.0, 2.0), leaf(3.0, 4.0), np.array([5.0, 6.0])
    c = a + b
    c.retain_grad()
    d = c.reshape(2, 1).expand(2, 3).transpose(0, 1)  # only views
    d.backward(np.broadcast_to(upstream, (3, 2)))
    c = a + b
    c.backward(upstream)
    for array in (gradient(a), gradient(b)):
        assert not any(np.shares_memory(array, given) for given in (upstream, a.array, b.array))
    upstream[:] = 0.0
    assert gradient(a).tolist() == gradient(b).tolist() == [20.0, 24.0]


# ---- saved arrays cannot change ---------------------------------------------------------------------------------


def test_changing_input_arrays_does_not_affect_gradients() -> None:
    data, constant, mask, index = np.array([2.0, 3.0]), np.array([5.0, 7.0]), np.array([True, False]), np.array([1, 1])
    x = Tensor(data, requires_grad=True)
    y = (x * x + x * constant + x.masked_fill(mask, 0.0)).sum() + x[index].sum() + x[None][:, index].sum()
    for array in (data, constant, index):
        array[:] = 0
    mask[:] = True
    y.backward()
    assert gradient(x).tolist() == [4.0 + 5.0, 6.0 + 7.0 + 1.0 + 4.0]


def test_read_only_view_of_writable_array_is_copied() -> None:
    data = np.array([2.0, 3.0])
    view = data[:]
    view.setflags(write=False)
    x = Tensor(view, requires_grad=True)
    y = (x * x).sum()
    data[:] = 0.0
    y.backward()
    assert gradient(x).tolist() == [4.0, 6.0]


def test_read_only_array_with_writable_view_is_copied() -> None:
    data = np.array([2.0, 3.0])
    earlier_view = data[:]
    data.setflags(write=False)
    x = Tensor(data, requires_grad=True)
    y = (x * x).sum()
    earlier_view[:] = 0.0
    y.backward()
    assert gradient(x).tolist() == [4.0, 6.0]


@pytest.mark.filterwarnings("ignore:Setting the shape")  # deprecated in NumPy 2.5
def test_setting_the_shape_of_numpy_result_does_not_affect_tensor() -> None:
    x, c = leaf(1.0, 1.0, 1.0), mt.tensor(np.array([1.0, 10.0, 100.0]))
    y = (x * c).sum()
    c.numpy().shape = (3, 1)
    np.asarray(c).shape = (3, 1)
    y.backward()
    assert gradient(x).tolist() == [1.0, 10.0, 100.0]


def test_results_and_their_bases_are_read_only() -> None:
    x = Tensor(np.ones((2, 3, 4)), requires_grad=True)
    w = Tensor(np.ones((5, 4)), requires_grad=True)
    for result in (mt.functional.linear(x, w), x.amax(1), x.transpose(0, 1), x[0], mt.cat(x.split(1))):
        array: Any = result.array
        while array is not None:
            assert not array.flags.writeable
            array = array.base


def test_core_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.Tensor, "of_results", core.Tensor)
    x, c = core.wrap(np.array([2.0, 3.0])), core.wrap(np.array([5.0, 7.0]))
    x.node = core.Node(None, (), (), x.array)
    y = mt.apply(OPS["sum"], mt.apply(OPS["mul"], mt.apply(OPS["mul"], x, x), c))
    assert type(y) is core.Tensor
    y.backward()
    assert x.grad.array.tolist() == [20.0, 42.0]
    assert [t.requires_grad for t in (x, c, y)] == [True, False, True]
    assert c.grad is y.grad is None


def test_from_numpy_shares_memory_with_writable_array() -> None:
    array = np.arange(6.0)
    with mt.no_grad():
        x = mt.from_numpy(array[::2])
        assert mt.from_numpy(np.array([3], np.int32)).dtype == np.int32
    array[2] = 10.0
    assert x.tolist() == [0.0, 10.0, 4.0]
    with pytest.raises(ValueError, match="read-only"):
        x.numpy()[0] = 1.0


def test_copies_of_from_numpy_do_not_change_with_the_array() -> None:
    array = np.array([1.0, 2.0], np.float32)
    layer = mt.nn.Linear(2, 1, bias=False)
    with mt.no_grad():
        x = mt.from_numpy(array)
        copies = [x.clone(), copy.deepcopy(x), mt.tensor(x), Tensor(x.reshape(1, 2)), mt.nn.Parameter(x)]
        layer.load_state_dict({"weight": x.reshape(1, 2)})
        trained = mt.zeros(2, requires_grad=True)
        trained.data = x
    array[:] = 9.0
    assert x.tolist() == [9.0, 9.0]
    for other in (*copies, layer.weight, trained):
        assert other.reshape(2).tolist() == [1.0, 2.0]
        with pytest.raises(ValueError, match="read-only"):
            other.array[:] = 3.0


def test_from_numpy_refuses_unsupported_use() -> None:
    with pytest.raises(RuntimeError, match="the array may change, so nothing made from it can be recorded"):
        mt.from_numpy(np.ones(2))
    with mt.no_grad():
        with pytest.raises(TypeError, match="takes an array, not list"):
            mt.from_numpy([1.0])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="bytes in another order"):
            mt.from_numpy(np.ones(2, ">f8"))
        with pytest.raises(TypeError, match="float16"):
            mt.from_numpy(np.ones(2, np.float16))


WRITES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "x[0] = 1": lambda x, y: x.__setitem__(0, 1.0),
    "x.data[0] = 1": lambda x, y: x.data.__setitem__(0, 1.0),
    "x.detach().numpy()[0] = 1": lambda x, y: x.detach().numpy().__setitem__(0, 1.0),
    "x.array[0] = 1": lambda x, y: x.array.__setitem__(0, 1.0),
    "np.add(..., out=x.array)": lambda x, y: np.add(x.array, 1.0, out=x.array),
    "x += 1": lambda x, y: x.__iadd__(1.0),
    "y.array[:] = 0": lambda x, y: y.array.__setitem__(slice(None), 0.0),
    "y.T.array[:] = 0": lambda x, y: y.T.array.__setitem__(slice(None), 0.0),
}


@pytest.mark.parametrize("how", list(WRITES))
def test_writing_to_tensor_raises_and_changes_nothing(how: str) -> None:
    x = leaf(2.0, 3.0)
    y = x.exp()
    with pytest.raises((ValueError, TypeError, RuntimeError), match=r"read-only|in place"):
        WRITES[how](x, y)
    y.backward(np.ones(2))
    assert gradient(x).tolist() == np.exp([2.0, 3.0]).tolist()


def test_new_values_after_forward_do_not_affect_backward() -> None:
    x = leaf(2.0, 3.0)
    y = (x * x).sum()
    optimizer = mt.optim.SGD([x], lr=1.0)
    x.grad = mt.tensor(np.ones(2))
    optimizer.step()
    x.data = x.data * 100.0
    with no_grad():
        x -= 7.0
    x.grad = None
    y.backward()
    assert gradient(x).tolist() == [4.0, 6.0]
    assert x.tolist() == [93.0, 193.0]


def test_in_place_operations_on_results_are_recorded() -> None:
    x = leaf(2.0)
    y = x * 3.0
    other_name = y
    y *= x
    y += 1.0
    y /= 2.0
    y -= 1.0
    assert other_name is y
    y **= 2
    assert other_name is y
    y.backward()
    assert (y.item(), gradient(x).item()) == (5.5**2, 2 * 5.5 * 6.0)


def test_masks_are_changed_in_place() -> None:
    mask = mt.tensor([True, True, False])
    other_name = mask
    mask &= mt.tensor([True, False, True])
    assert other_name.tolist() == [True, False, False]
    mask |= mt.tensor([False, False, True])
    assert other_name.tolist() == [True, False, True]
    with pytest.raises(RuntimeError, match="cannot be changed in place"):
        leaf(2.0).__ipow__(2)


def test_retained_gradient_is_that_of_the_modified_tensor() -> None:
    x = leaf(2.0)
    y = x * 3.0
    y.retain_grad()
    y *= 3.0
    y.backward()
    assert gradient(y).tolist() == [1.0]
    assert gradient(x).tolist() == [9.0]


def test_in_place_operation_under_no_grad_updates_leaf() -> None:
    x = leaf(2.0)
    with no_grad():
        for p in (x,):
            p -= 0.5
    assert x.is_leaf
    assert x.requires_grad
    assert x.tolist() == [1.5]


# ---- no_grad ----------------------------------------------------------------------------------------------------


def test_no_grad_ends_on_exception() -> None:
    with pytest.raises(ZeroDivisionError), no_grad():
        1 / 0  # noqa: B018
    assert is_grad_enabled()


def test_no_grad_can_be_nested_and_used_as_decorator() -> None:
    @no_grad()
    def inside(depth: int) -> list[bool]:
        return [is_grad_enabled(), *(inside(depth - 1) if depth else [])]

    again = no_grad()
    with again:
        with again, enable_grad():
            assert is_grad_enabled()
            assert not any(inside(3))
            assert is_grad_enabled()
        assert not is_grad_enabled()
        assert not (leaf(1.0) * 2.0).requires_grad
    assert is_grad_enabled()


def test_no_grad_refuses_generator_functions() -> None:
    """Its body runs between steps of the caller: operations would be recorded, or values sent to it would be lost."""

    def steps() -> Iterator[bool]:
        yield is_grad_enabled()

    with pytest.raises(TypeError, match="use `with` inside it"):
        no_grad()(steps)


def test_no_grad_is_thread_local() -> None:
    entered, leave, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with no_grad():
            entered.set()
            leave.wait(10)
            seen.append(is_grad_enabled())

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    assert is_grad_enabled()  # while the other thread is inside its no_grad
    assert (leaf(1.0) * 2.0).requires_grad
    leave.set()
    thread.join()
    assert seen == [False]
    assert is_grad_enabled()


def test_concurrent_grad_with_shared_leaves() -> None:
    w = Tensor(np.linspace(-1.0, 1.0, 12).reshape(3, 4), requires_grad=True)
    inputs = [np.random.default_rng(i).standard_normal((5, 3)) for i in range(8)]

    def one(x: Array) -> Array:
        (dw,) = mt.grad((Tensor(x) @ w).tanh().sum(), w)
        assert dw is not None
        return dw.array

    expected = [one(x) for x in inputs]
    found: dict[int, Array] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: one(inputs[i])})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[i], expected[i]) for i in range(8))


# ---- error messages ---------------------------------------------------------------------------------------------


def test_second_backward_over_freed_graph_raises() -> None:
    x = leaf(1.0)
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match=r"freed by an earlier backward, .*; pass retain_graph=True"):
        y.backward()
    assert gradient(x).tolist() == [2.0]


def test_backward_over_partly_freed_graph_raises_and_changes_nothing() -> None:
    x, other = leaf(1.0), leaf(2.0)
    shared = x * x
    first, second = shared * 2.0, shared * other
    first.backward()
    with pytest.raises(RuntimeError, match="a part of it, was freed"):
        second.backward()
    assert other.grad is None


@pytest.mark.parametrize("allow_unused", [False, True])
def test_grad_through_freed_part_raises(allow_unused: bool) -> None:
    x = leaf(1.0, 1.0)
    y = x * x * 2.0
    w = (y * y).sum() + (x * 3.0).sum()  # one path to x leads through y
    y.sum().backward()
    with pytest.raises(RuntimeError, match="a part of it, was freed"):
        mt.grad(w, x, allow_unused=allow_unused)
    with pytest.raises(RuntimeError, match="a part of it, was freed"):
        w.backward()


def test_freed_result_can_be_an_input_of_grad() -> None:
    x = leaf(3.0)
    y = x * x
    w = y * y
    y.backward()
    (dy,) = mt.grad(w, y)  # y's own backward is not needed
    assert dy is not None
    assert dy.tolist() == [18.0]


def test_freed_part_that_does_not_lead_to_input_is_ignored() -> None:
    x, z = leaf(3.0), leaf(2.0)
    y = x * x
    w = y * z
    y.backward()
    (dz,) = mt.grad(w, z)
    assert dz is not None
    assert dz.tolist() == [9.0]


def test_grad_of_several_outputs_is_that_of_their_sum() -> None:
    x = leaf(2.0, 3.0)
    y, z = x * x, (x * 5.0).sum()
    (dx,) = mt.grad([y, z], x, [mt.tensor(np.array([1.0, 10.0])), None], retain_graph=True)
    assert dx is not None
    assert dx.tolist() == [9.0, 65.0]
    (dx,) = mt.grad([z, z, x.sum()], [x])  # one output twice; and a leaf's sum
    assert dx is not None
    assert dx.tolist() == [11.0, 11.0]
    (dx,) = mt.grad([y], x, mt.tensor(np.array([1.0, 10.0])))  # a gradient by itself, for the only output
    assert dx is not None
    assert dx.tolist() == [4.0, 60.0]
    with pytest.raises(RuntimeError, match="1 gradients are given for 2 outputs"):
        mt.grad([z, z], x, [None])
    with pytest.raises(RuntimeError, match="input 1 does not require grad"):
        mt.grad(z, [x, None])  # type: ignore[type-var]


def test_gradient_that_a_result_keeps_survives_a_change_in_place() -> None:
    y = leaf(1.0, 2.0) * 2.0
    y.retain_grad()
    y.sum().backward(retain_graph=True)
    y += 1.0
    assert y.grad is not None
    assert y.grad.tolist() == [1.0, 1.0]


def test_data_is_not_converted() -> None:
    for x, values in (
        (mt.tensor([1, 2]), mt.tensor([1.5, 2.5])),
        (leaf(1.0), mt.ones(1)),
        (mt.ones(1), mt.tensor([1])),
    ):
        before = x.tolist()
        with pytest.raises(RuntimeError, match="convert them"):
            x.data = values
        assert x.tolist() == before


def test_data_may_be_a_list_or_an_array() -> None:
    x = mt.ones(2)
    for values in ([3.0, 4.5], np.array([3.0, 4.5])):
        x.data = values
        assert x.dtype == np.float32
        assert x.tolist() == [3.0, 4.5]


def test_array_does_not_become_a_tensor_in_place() -> None:
    array = np.ones(2)
    with pytest.raises(TypeError):
        array *= mt.ones(2)
    assert array.tolist() == [1.0, 1.0]
    assert isinstance(array * mt.ones(2), mt.Tensor)


def test_backward_after_failed_backward_raises() -> None:
    def failing(dy: Array) -> tuple[Array]:
        raise ArithmeticError("no derivative")

    x = leaf(1.0)
    y = apply(Op("failing", lambda x: (x * 1.0, ()), failing), x).exp()
    del OPS["failing"]
    for error, message in ((ArithmeticError, "no derivative"), (RuntimeError, "or by one that ended in an error")):
        with pytest.raises(error, match=message):
            y.backward()


def backward_twice(x: Tensor) -> None:
    x.sum().backward()
    assert x.grad is not None
    x.grad.sum().backward()


ONES: Any = np.ones(2)
ERRORS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "not a scalar": (lambda x: (x * 2.0).backward(), r"shape \(2,\) is not one number: reduce it"),
    "gradient of another shape": (lambda x: (x * 2.0).backward(np.ones(3)), r"has shape \(3,\), the tensor \(2,\)"),
    "no graph": (lambda x: x.detach().sum().backward(), "has no graph.*set requires_grad=True"),
    "under no_grad": (lambda x: no_grad()(lambda: x.sum())().backward(), "made under no_grad"),
    "grad of a gradient": (lambda x: backward_twice(x), "has no graph"),
    "grad for a constant": (lambda x: mt.grad(x.sum(), mt.ones(2)), "input 0 does not require grad"),
    "grad for an unused input": (lambda x: mt.grad(x.sum(), leaf(1.0)), "not made from input 0; allow_unused=True"),
    "numpy of a tensor that requires grad": (lambda x: x.numpy(), r"use \.detach\(\)\.numpy\(\)"),
    "no_grad without parentheses": (lambda x: mt.no_grad(lambda: x), r"write @no_grad\(\), with parentheses"),
    "np function of a tensor": (lambda x: np.exp(x), "does not support ufuncs"),
    "item of several": (lambda x: x.item(), r"shape \(2,\) is not one number"),
    "bool of several": (lambda x: bool(x > 0), "not one number"),
    "integers that require grad": (lambda x: Tensor([1, 2], requires_grad=True), "only floats have gradients"),
    "requires_grad_(False) on a result": (lambda x: (x * 2.0).requires_grad_(False), r"use \.detach\(\)"),
    "retain_grad of a constant": (lambda x: mt.ones(2).retain_grad(), "does not require grad"),
    "grad of another dtype": (
        lambda x: setattr(x, "grad", mt.ones(2)),
        r"float32 \(2,\) is no gradient for .*float64",
    ),
    "grad of another shape": (lambda x: setattr(x, "grad", mt.tensor(np.ones(3))), r"\(3,\) is no gradient"),
    "grad of a constant": (lambda x: setattr(x.detach(), "grad", x.detach()), "keeps no gradient; call requires_grad_"),
    "not a tensor": (lambda x: mt.exp(ONES), "exp: its inputs are tensors, not ndarray; make one"),
    "third input not a tensor": (
        lambda x: mt.apply(OPS["layer_norm"], x, None, 3.0),  # type: ignore[arg-type]
        "layer_norm: its inputs are tensors, not float",
    ),
    "softmax of an array": (lambda x: mt.functional.softmax(ONES, 0), "softmax: its inputs are tensors, not ndarray"),
    "size that is no whole number": (lambda x: x.reshape(1.5), "sizes: takes whole numbers, not 1.5"),
    "None as a dtype": (
        lambda x: x.to(None),  # type: ignore[arg-type]
        "None is not a dtype; float32, float64, int64 and bool are",
    ),
    "matmul of a number": (lambda x: x[0] @ x, r"\(\) @ \(2,\) do not fit"),
    "matmul by a number": (lambda x: x @ x[0], r"\(2,\) @ \(\) do not fit"),
    "matmul mismatch": (lambda x: x @ np.ones((3, 2)), r"\(2,\) @ \(3, 2\) do not fit"),
    "id out of range": (lambda x: mt.functional.embedding([3], mt.ones(3, 2)), "id 3 is outside .* rows 0 to 2"),
    "target out of range": (
        lambda x: mt.functional.cross_entropy(mt.ones(1, 3), [3]),
        "target 3 is not one of the 3 classes",
    ),
    "linear mismatch": (lambda x: mt.functional.linear(x, mt.ones(3, 4)), r"\(2,\) and weight \(3, 4\) do not fit"),
    "layer_norm mismatch": (
        lambda x: mt.functional.layer_norm(x, (2,), mt.ones(3)),
        r"weight has shape \(3,\), normalized_shape is \(2,\)",
    ),
    "attention mismatch": (
        lambda x: mt.functional.scaled_dot_product_attention(mt.ones(2, 3), mt.ones(2, 4), mt.ones(2, 4)),
        r"query \(2, 3\), key \(2, 4\) and value \(2, 4\) do not fit",
    ),
    "data of another shape": (lambda x: setattr(x, "data", np.ones(3)), r"shape \(2,\) cannot take .* \(3,\)"),
    "two dtypes": (lambda x: x + mt.ones(2), r"add: inputs are float64 and float32; convert one, x.to\('float64'\)"),
    "text": (lambda x: Tensor(["a"]), "holds floats, integers or booleans"),
    "None": (lambda x: mt.tensor(None), "holds floats, integers or booleans"),  # type: ignore[arg-type]
    "None as floats": (lambda x: mt.tensor(None, dtype=np.float32), "holds floats"),  # type: ignore[arg-type]
    "None as a target": (lambda x: mt.functional.mse_loss(x, None), "holds floats"),  # type: ignore[arg-type]
    "complex": (lambda x: x * 1j, "holds floats, integers or booleans, not complex128"),
    "half precision": (lambda x: x.to(np.float16), "computes in float32 and float64, not in float16"),
    "an array in half precision": (lambda x: Tensor(np.ones(2, np.float16)), "not in float16; convert"),
    "zeros in half precision": (lambda x: mt.zeros(2, dtype=np.float16), "not in float16; convert"),
    "not a dtype": (lambda x: x.to("cpu"), "'cpu' is not a dtype"),
    "gradient without numbers": (lambda x: x.backward(["a", "b"]), "a gradient holds numbers"),
    "leaf in place": (lambda x: x.__iadd__(1.0), r"write x = x \+"),
    "in place to another shape": (lambda x: (x * 1.0).__iadd__(np.ones((3, 2))), r"cannot become .* in place"),
}


@pytest.mark.parametrize("what", list(ERRORS))
def test_error_message(what: str) -> None:
    act, message = ERRORS[what]
    with pytest.raises((RuntimeError, TypeError, ValueError, IndexError, NotImplementedError), match=message):
        act(leaf(1.0, 2.0))


# ---- invalid operations -----------------------------------------------------------------------------------------

BACKWARDS: dict[str, tuple[Callable[..., Any], str]] = {
    "too few": (lambda dy: (dy,), "bad: backward gave 1 gradients for 2 inputs"),
    "too many": (lambda dy: (dy, dy, dy), "bad: backward gave 3 gradients for 2 inputs"),
    "wrong shape": (lambda dy: (dy, dy[:1]), r"bad: gradient 1 has shape \(1,\), its input has \(2,\)"),
    "too few axes": (lambda dy: (dy.sum(), dy), r"bad: gradient 0 has shape \(\), its input has \(2,\)"),
    "wrong dtype": (lambda dy: (dy.astype(np.float32), dy), "bad: gradient 0 is float32, its input is float64"),
    "missing": (lambda dy: (dy, None), "bad: gradient 1 is None, but its input requires grad; pass it detached"),
}


@pytest.mark.parametrize("how", list(BACKWARDS))
def test_invalid_backward_result_names_the_op(how: str) -> None:
    backward, message = BACKWARDS[how]
    bad = Op("bad", lambda a, b: (a + b, ()), backward)
    try:
        a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
        with pytest.raises(RuntimeError, match=message):
            apply(bad, a, b).backward(np.ones(2))
        assert a.grad is None
        assert b.grad is None
    finally:
        del OPS["bad"]


def test_backward_that_writes_to_shared_array_raises() -> None:
    def write_to_dy(dy: Array, saved: Array) -> tuple[Array]:
        return (np.multiply(dy, 2.0, out=dy),)

    def write_to_saved(dy: Array, saved: Array) -> tuple[Array]:
        return (np.multiply(saved, dy, out=saved),)

    def write_to_nested(dy: Array, saved: tuple[Array]) -> tuple[Array]:
        return write_to_saved(dy, *saved)

    for backward in (write_to_dy, write_to_saved, write_to_nested):
        two = np.full(2, 2.0)
        saved = ((two,),) if backward is write_to_nested else (two,)
        op = Op("writes", lambda x, saved=saved: (x * 2.0, saved), backward)
        del OPS["writes"]
        a, b = leaf(1.0, 2.0), leaf(1.0, 2.0)
        both = apply(op, a) + b * 1.0  # both terms read the same gradient
        with pytest.raises(ValueError, match="read-only"):
            both.backward(np.ones(2))


def test_op_needs_forward_and_backward() -> None:
    for forward, backward in ((lambda x: (x, ()), None), (None, lambda dy: (dy,))):
        with pytest.raises(TypeError, match="'half' needs a forward and a backward"):
            Op("half", forward, backward)  # type: ignore[arg-type]
    assert "half" not in OPS


def test_dtype_with_metadata_is_accepted() -> None:
    """In NumPy, float32 with metadata is equal to float32, but not the same object."""
    annotated = np.dtype(np.float32, metadata={"unit": "m"})
    assert annotated is not np.dtype(np.float32)
    assert (wrap(np.ones(3, annotated)) + mt.ones(3)).tolist() == [2.0, 2.0, 2.0]
