"""Corner cases that random examples may miss: defaults, infinities, empty arrays, and spurious warnings."""

import inspect
import math
import tracemalloc
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from minitensor import functional as F
from minitensor.arrays import ROWS, sum_of_rows
from minitensor.core import OPS, grad
from minitensor.ops import attention_blocked
from minitensor.ops.attention_blocked import BLOCK
from minitensor.ops.dropout import Draws
from minitensor.random import generator, manual_seed
from minitensor.tensor import Tensor
from tests.minitensor.cases import CASES, torch_attention
from tests.minitensor.judge import compare, operation, through_engine, upstream
from tests.minitensor.strategies import Example, Typical

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, for log(0) and the like

# ---- pieces -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gelu_of_transposed_array_in_pieces(approximate: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, dy = np.random.default_rng(0).standard_normal((2, 300, 201)).astype(dtype).swapaxes(1, 2)
    piece = 1 << 14
    monkeypatch.setattr("minitensor.arrays.PIECE", piece)
    assert x.size > 3 * piece
    assert x.size % piece
    y, saved = OPS["gelu"].forward(x, approximate=approximate)
    (dx,) = OPS["gelu"].backward(dy, *saved)
    theirs = torch.tensor(x).double().requires_grad_()
    expected = TF.gelu(theirs, approximate=approximate)
    torch.autograd.backward(expected, torch.tensor(dy).double())
    atol = 1e-14 if dtype == np.float64 else 1e-6
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=0, atol=atol)
    np.testing.assert_allclose(dx, theirs.grad, rtol=0, atol=atol)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-13), (np.float32, 3e-3)])
def test_gelu_far_below_zero_keeps_digits(dtype: Any, rtol: float) -> None:
    """1 + erf would lose them all."""
    x = np.linspace(-9.0, -4.0, 101).astype(dtype)
    y, _ = OPS["gelu"].forward(x)
    exact = [0.5 * value * math.erfc(-value / math.sqrt(2.0)) for value in x.tolist()]
    np.testing.assert_allclose(y, exact, rtol=rtol)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gelu_of_huge_numbers(dtype: Any) -> None:
    x = np.array([1e30, -1e30, 50.0, -50.0], dtype)  # the cube of the first is infinite in float32
    y, saved = OPS["gelu"].forward(x)
    (dx,) = OPS["gelu"].backward(np.ones_like(x), *saved)
    assert dx is not None
    np.testing.assert_array_equal(y, np.maximum(x, 0.0))
    np.testing.assert_array_equal(dx, [1.0, 0.0, 1.0, 0.0])


# ---- infinities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "cross_entropy", "attention_weights"])
@pytest.mark.parametrize("row", [[1000.0, 999.0, -1000.0], [-1000.0, -1001.0, -999.5], [-np.inf, 2000.0, 1.0]])
def test_large_scores_neither_overflow_nor_underflow(name: str, row: list[float]) -> None:
    example = Example([np.array([row, row[::-1]])])
    if name == "logsumexp":
        example.settings = {"axis": -1, "keepdims": False}
    elif name == "cross_entropy":
        example.arrays.append(np.array([1, 1]))
        example.settings = {"ignore_index": -100, "label_smoothing": 0.0, "reduction": "none"}
    elif name != "attention_weights":
        example.settings = {"axis": -1}
    compare(CASES[name], through_engine(operation(OPS[name])), example, upstream(0))


def test_logsumexp_of_infinities() -> None:
    for row in ([-np.inf, -np.inf], [np.inf, 1.0], [-np.inf, np.inf]):
        expected = torch.logsumexp(torch.tensor(row), 0).item()
        assert Tensor(row).logsumexp(0).item() == expected


@pytest.mark.parametrize("weight", [[1.0, 1.0, 1.0], [1.0, 0.0, 2.0]])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_weighted_cross_entropy_of_a_class_that_cannot_be(weight: list[float], reduction: str) -> None:
    logits, targets = [[1.0, -np.inf, 0.5], [0.0, 1.0, 2.0]], [0, 2]
    x = Tensor(logits, requires_grad=True)
    loss = F.cross_entropy(x, Tensor(targets), Tensor(weight), reduction=reduction)
    theirs = torch.tensor(logits, requires_grad=True)
    expected: Any = TF.cross_entropy(theirs, torch.tensor(targets), torch.tensor(weight), reduction=reduction)
    np.testing.assert_allclose(loss.detach().numpy(), expected.detach().numpy(), 1e-6)
    loss.sum().backward()
    expected.sum().backward()
    assert x.grad is not None
    assert theirs.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), theirs.grad.numpy(), 1e-6, 1e-7)


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_std_of_numbers_whose_squares_float32_cannot_hold(size: float) -> None:
    values = (np.array([1.0, -1.0, 3.0]) * size).astype(np.float32)
    x, theirs = Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    y, expected = x.std(), cast("Any", theirs.std())
    assert y.dtype == np.float32
    assert y.item() == pytest.approx(expected.item(), rel=1e-6)
    y.backward()
    expected.backward()
    assert x.grad is not None
    assert theirs.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), theirs.grad.numpy(), 1e-6, 1e-7)


def test_gradient_of_unselected_entries_is_zero() -> None:
    """Also for infinite upstream gradients: the gradient is selected, not multiplied by 0, which would give NaN."""
    dy, mask = np.array([np.inf, np.nan, 3.0]), np.array([True, True, False])
    _, da, db = OPS["where"].backward(dy, mask)
    assert da is not None
    assert db is not None
    assert da[2] == 0.0
    assert db.tolist() == [0.0, 0.0, 3.0]
    dx, _ = OPS["masked_fill"].backward(dy, mask)
    assert dx is not None
    assert dx.tolist() == [0.0, 0.0, 3.0]


def test_zeroth_power_of_large_number_raises_no_warning() -> None:
    _, saved = OPS["pow"].forward(np.array([1e30], np.float32), np.array([0.0], np.float32))
    with np.errstate(all="raise"):
        da, db = OPS["pow"].backward(np.array([1.0], np.float32), *saved)
    assert da is not None
    assert db is not None
    assert da.tolist() == [0.0]
    assert db.tolist() == [pytest.approx(np.log(1e30))]


@pytest.mark.parametrize(("a", "b"), [(0.0, 2.0), (0.0, 0.0), (np.inf, 0.0)])
def test_gradient_of_constant_power_is_zero_for_any_upstream(a: float, b: float) -> None:
    """0^b is constant in b, and a^0 is constant in a."""
    a_array, b_array = np.array([a]), np.array([b])
    _, saved = OPS["pow"].forward(a_array, b_array)
    with np.errstate(all="raise" if np.isfinite(a) else "ignore"):
        da, db = OPS["pow"].backward(np.array([1.0]), *saved)
    assert da is not None
    assert db is not None
    if b == 0:
        assert da.tolist() == [0.0]
    if a == 0:
        assert db.tolist() == [0.0]
        _, db = OPS["pow"].backward(np.array([np.inf]), *saved)
        assert db is not None
        assert db.tolist() == [0.0]


def test_gradient_of_clip_is_zero_at_its_bounds() -> None:
    x = Tensor([-1.0, 0.0, 1.0], requires_grad=True)
    (gradient,) = grad(x.clip(-1.0, 1.0), x, [3.0, 5.0, 7.0])
    assert gradient is not None
    assert gradient.tolist() == [0.0, 5.0, 0.0]


def test_gradient_of_abs_is_zero_at_zero_and_at_nan() -> None:
    values = [-2.0, 0.0, math.nan, math.inf]
    x, x_torch = Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    abs(x_torch).sum().backward()  # type: ignore[no-untyped-call]
    (gradient,) = grad(abs(x).sum(), x)
    assert gradient is not None
    assert x_torch.grad is not None
    assert gradient.tolist() == x_torch.grad.tolist() == [-1.0, 0.0, 0.0, 1.0]


# ---- defaults, attention in blocks, and empty arrays ------------------------------------------------------------

DEFAULTS: dict[str, Any] = {  # the same function in torch, with default settings
    "softmax": lambda x: x.softmax(-1), "log_softmax": lambda x: x.log_softmax(-1), "gelu": TF.gelu,
    "layer_norm": lambda x, *_: TF.layer_norm(x, x.shape[-1:]), "cross_entropy": TF.cross_entropy, "linear": TF.linear,
    "linear_cross_entropy": lambda x, w, *, targets: TF.cross_entropy(x @ w.T, torch.from_numpy(targets)),
    "embedding": TF.embedding, "attention": lambda q, k, v, *_: TF.scaled_dot_product_attention(q, k, v),
    "attention_blocked": lambda q, k, v, *_: TF.scaled_dot_product_attention(q, k, v),
    "attention_scores": lambda q, k, _: q @ k.mT / q.shape[-1] ** 0.5,
    "clip": lambda x: x,
    "sum": torch.sum, "mean": torch.mean, "var": torch.var, "std": torch.std, "max": torch.amax, "min": torch.amin,
    "logsumexp": lambda x: x.flatten().logsumexp(0), "squeeze": torch.squeeze, "tril": torch.tril, "triu": torch.triu,
    "cat": lambda *xs: torch.cat(xs), "stack": lambda *xs: torch.stack(xs),
    "split": lambda x, sizes: x.split(sizes),
}  # fmt: skip


def has_defaults(name: str) -> bool:
    parameters = inspect.signature(OPS[name].forward).parameters.values()
    return any(parameter.default is not parameter.empty for parameter in parameters)


def test_every_op_with_defaults_is_listed() -> None:
    assert set(DEFAULTS) == set(filter(has_defaults, OPS))


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_defaults_match_torch(name: str) -> None:
    source = Typical(0)
    x = source.values((2, 1, 3, 4))
    arrays: Any
    settings: Any
    arrays, settings = {
        **dict.fromkeys(("attention", "attention_blocked"), ([x, *source.values((2, 2, 1, 3, 4)), None, None], {})),
        "attention_scores": ([x, source.values((2, 1, 3, 4)), None], {}),
        "layer_norm": ([x, None, None], {}),
        "linear": ([x, source.values((5, 4)), None], {}),
        "embedding": ([source.integers((2, 3), 0, 4), source.values((5, 4))], {}),
        "cross_entropy": ([source.values((4, 3)), np.array([2, -100, 0, 1])], {}),
        "linear_cross_entropy": (
            [source.values((4, 3)), source.values((5, 3))],
            {"targets": source.integers((4,), 0, 4)},
        ),
        "cat": ([x, x + 1.0], {}),
        "stack": ([x, x + 1.0], {}),
        "split": ([x], {"sizes": (1, 1)}),
    }.get(name, ([x], {}))
    case, run = replace(CASES[name], torch=DEFAULTS[name]), through_engine(operation(OPS[name]))
    compare(case, run, Example(arrays, settings), upstream(0))


@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])  # scale of queries and keys; e^1000 would overflow
@pytest.mark.parametrize(
    "kind",
    ["causal", "boolean", "added", "dropout", "more keys", "fewer keys", "shared keys", "no heads", "heads", "batches",
     "scaled"],
)  # fmt: skip
def test_attention_over_several_blocks_of_queries(kind: str, size: float) -> None:
    source = Typical(0)
    T, U = {"more keys": (150, 170), "fewer keys": (100, 40)}.get(kind, (150, 150))
    batch = {"no heads": (), "shared keys": (1,), "heads": (2, 3), "batches": (2, 1, 3)}.get(kind, (2,))
    shared = () if kind == "shared keys" else batch
    q, k, v = source.values((*batch, T, 3)), source.values((*shared, U, 3)), source.values((*shared, U, 2))
    mask = {"boolean": source.booleans((T, U)), "added": source.values((T, U)) * 400.0}.get(kind)
    keep = source.booleans((*batch, T, U)) if kind == "dropout" else None
    scale = 1000.0 if kind == "scaled" else None
    settings = {"is_causal": True, "p": 0.0 if keep is None else 0.25, "scale": scale}
    assert T > BLOCK
    example = Example([size * q, size * k, v, mask, keep], settings)
    compare(CASES["attention_blocked"], through_engine(operation(OPS["attention_blocked"])), example, upstream(0))


def test_weights_that_are_computed_again_are_the_same() -> None:
    """In every bit, with and without a mask, for large and small scores."""
    source = Typical(0)
    q, k, v, dy = source.values((4, 2, 150, 3))
    mask = source.booleans((150, 150))
    for arrays, size in ((None, 1.0), (None, 1000.0), (mask, 1.0)):
        found = []
        for kept in (150, 149):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(attention_blocked, "SAVED", kept)
                y, saved = OPS["attention_blocked"].forward(size * q, k, v, arrays, is_causal=True)
                assert all((weights is None) == (kept < 150) for weights in saved[3])
                found.append([y, *OPS["attention_blocked"].backward(dy, *saved)[:3]])
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_number_that_is_the_chance_to_drop_keeps() -> None:
    """As in dropout: of numbers from 0 on, below 1, the part below p is dropped."""

    class Exactly:
        def random(self, shape: tuple[int, ...], dtype: Any) -> Any:
            return np.full(shape, 0.25, dtype)

        def __deepcopy__(self, memo: Any) -> "Exactly":
            return self

    ones = np.ones((3, 2))
    y, _ = OPS["attention_blocked"].forward(ones, ones, ones, p=0.25, draws=Draws(cast("Any", Exactly())))
    np.testing.assert_allclose(y, ones / 0.75)


def test_dropout_of_long_texts_is_drawn_block_by_block_and_again_in_the_backward() -> None:
    T, p = 150, 0.25
    arrays = Typical(0).values((3, 2, T, 3))
    random = np.random.default_rng(5)  # draws what attention will
    keep = np.zeros((2, T, T), bool)
    for start in range(0, T, BLOCK):
        end = min(start + BLOCK, T)
        keep[:, start:end, :end] = random.random((2, end - start, end), np.float32) >= p
    theirs = [torch.from_numpy(array).requires_grad_() for array in arrays]
    q, k, v = theirs
    expected = torch_attention(q, k, v, None, torch.from_numpy(keep), is_causal=True, p=p, scale=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_blocked, "SAVED", 149)
        manual_seed(5)
        leaves = [Tensor(array, requires_grad=True) for array in arrays]
        y = F.scaled_dot_product_attention(leaves[0], leaves[1], leaves[2], dropout_p=p, is_causal=True)
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), 1e-10, 1e-12)
    assert generator().random() == random.random()  # the mask was drawn once from here
    expected.sum().backward()
    for _ in range(2):  # a second backward draws the same again
        gradients = grad(y.sum(), leaves, retain_graph=True)
        for found, leaf in zip(gradients, theirs, strict=True):
            assert found is not None
            assert leaf.grad is not None
            np.testing.assert_allclose(found.numpy(), leaf.grad.numpy(), 1e-9, 1e-12)


def test_memory_of_causal_attention_grows_like_the_context() -> None:
    """Of 4,096 queries all weights would take 201 MB in six heads, a mask of dropout 100 MB."""
    peaks = []
    for T in (2048, 4096):
        q, k, v, dy = np.random.default_rng(0).standard_normal((4, 6, T, 16), np.float32)
        draws = Draws(np.random.default_rng(0))
        tracemalloc.start()
        _, saved = OPS["attention_blocked"].forward(q, k, v, is_causal=True, p=0.1, draws=draws)
        OPS["attention_blocked"].backward(dy, *saved)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2.3 * peaks[0]
    assert peaks[1] < 60e6


@pytest.mark.parametrize(
    ("dtype", "q", "k", "keys"),
    [
        (np.float64, 1.0, 705.0, 1000),  # e^705 is finite in float64, 1000 e^705 is not
        (np.float32, 1.0, 85.0, 1000),
        (np.float16, 1.0, 10.0, 1000),
        (np.float32, 1.0, 88.7 - math.log(1000) + 0.5, 1000),
        (np.float32, 7.0, 12.674691, 1),  # rounded up, the product is the smallest number whose exponential overflows
    ],
)
def test_sums_of_exponentials_do_not_overflow(dtype: Any, q: float, k: float, keys: int) -> None:
    """Equal keys have equal weights, whatever their scores."""
    ones = np.ones((keys, 1), dtype)
    y, _ = OPS["attention_blocked"].forward(np.full((2, 1), q, dtype), ones * dtype(k), ones, scale=1.0)
    assert y.tolist() == [[pytest.approx(1.0, rel=1e-2)]] * 2


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, of 0 / 0
def test_cross_entropy_of_ignored_targets_alone_is_nan_and_has_no_gradient() -> None:
    loss, saved = OPS["cross_entropy"].forward(np.ones((2, 3)), np.array([-100, -100]))
    assert math.isnan(loss)
    dlogits, _ = OPS["cross_entropy"].backward(np.array(1.0), *saved)
    assert dlogits is not None
    assert dlogits.tolist() == np.zeros((2, 3)).tolist()


def test_reduction_of_cross_entropy_is_one_of_three() -> None:
    with pytest.raises(ValueError, match=r"reduction is .*, not 'median'"):
        OPS["cross_entropy"].forward(np.ones((2, 3)), np.array([0, 1]), reduction="median")


def test_gradient_of_the_power_0_is_0_at_0() -> None:
    y, saved = OPS["pow_number"].forward(np.array([0.0, -2.0]), number=0.0)
    (dx,) = OPS["pow_number"].backward(np.ones(2), *saved)
    assert dx is not None
    assert (y.tolist(), dx.tolist()) == ([1.0, 1.0], [0.0, 0.0])


def test_causal_attention_without_keys_is_zero() -> None:
    q, none = np.ones((3, 2)), np.ones((0, 2))
    y, saved = OPS["attention_blocked"].forward(q, none, none, is_causal=True)
    assert y.tolist() == np.zeros((3, 2)).tolist()
    gradients: Any = OPS["attention_blocked"].backward(np.ones((3, 2)), *saved)
    assert [dx.tolist() for dx in gradients[:3]] == [np.zeros((3, 2)).tolist(), [], []]


def test_attention_if_squared_norms_underflow_or_overflow() -> None:
    q, k = np.full((2, 1), 1e-23, np.float32), np.array([[3e18], [2e18]], np.float32)
    y, _ = OPS["attention_blocked"].forward(q, k, np.array([[1.0], [0.0]], np.float32), scale=1e8)
    assert y.tolist() == [[1.0], [1.0]]  # the scores are 3000 and 2000
    big = np.full((2, 1), 1e30, np.float32)
    with np.errstate(all="raise"):
        y, _ = OPS["attention_blocked"].forward(big, big * 1e-40, big, scale=1e8)
    assert y.tolist() == big.tolist()


@pytest.mark.parametrize("value", [3.3, 1e6])
def test_layer_norm_of_constant_row_is_zero_up_to_rounding(value: float) -> None:
    x = np.full((2, 384), value, np.float32)
    y, _ = OPS["layer_norm"].forward(x, eps=1e-5)
    largest = np.abs(y).max()
    assert largest <= 4 * np.spacing(np.float32(value)) / 1e-5**0.5
    assert value != 1e6 or largest == 0


def test_attention_without_queries() -> None:
    k = np.ones((2, 3))
    y, saved = OPS["attention_blocked"].forward(np.ones((0, 3)), k, k)
    dq, dk, dv, *_ = OPS["attention_blocked"].backward(np.ones((0, 3)), *saved)
    assert y.shape == (0, 3) == dq.shape  # type: ignore[union-attr]
    assert dk.tolist() == dv.tolist() == [[0.0] * 3] * 2  # type: ignore[union-attr]


def test_attention_without_keys_is_zero() -> None:
    q, empty = np.ones((2, 3)), np.ones((0, 3))
    y, saved = OPS["attention_blocked"].forward(q, empty, empty)
    assert y.tolist() == [[0.0] * 3] * 2
    dq, dk, dv, *_ = OPS["attention_blocked"].backward(np.ones((2, 3)), *saved)
    assert (dq.tolist(), dk.shape, dv.shape) == ([[0.0] * 3] * 2, (0, 3), (0, 3))  # type: ignore[union-attr]


def test_layer_norm_of_empty_rows() -> None:
    x, empty = np.ones((2, 0)), np.ones(0)
    y, saved = OPS["layer_norm"].forward(x, empty, empty)
    assert [a.shape for a in (y, *OPS["layer_norm"].backward(x, *saved)) if a is not None] == [
        (2, 0),
        (2, 0),
        (0,),
        (0,),
    ]


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "attention_weights"])
def test_softmax_of_empty_rows(name: str) -> None:
    y, saved = OPS[name].forward(np.ones((2, 0)))
    (dx,) = OPS[name].backward(np.ones((2, 0)), *saved)
    assert y.shape == (2, 0) == dx.shape  # type: ignore[union-attr]


def test_gradient_of_embedding_without_ids_is_zero() -> None:
    y, saved = OPS["embedding"].forward(np.zeros((2, 0), int), np.ones((5, 3)))
    _, dweight = OPS["embedding"].backward(np.ones((2, 0, 3)), *saved)
    assert y.shape == (2, 0, 3)
    assert dweight is not None
    assert not dweight.any()


@pytest.mark.parametrize("wrong", [-1, 5])
def test_embedding_reports_invalid_id(wrong: int) -> None:
    with pytest.raises(IndexError, match=f"id {wrong} is outside"):
        OPS["embedding"].forward(np.array([0, 1, wrong, 4]), np.ones((5, 3)))


@pytest.mark.parametrize(
    ("a", "b"), [((2, 3, 4), (4, 5)), ((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4,))]
)
def test_matmul_backward_sums_over_broadcast_axes(a: Any, b: Any) -> None:
    """If the engine summed, it would need the gradients of all uses in memory first."""
    y, saved = OPS["matmul"].forward(np.ones(a), np.ones(b))
    da, db = OPS["matmul"].backward(np.ones_like(y), *saved)
    assert da is not None
    assert db is not None
    assert (da.shape, db.shape) == (a, b)


def test_gradient_of_mean_of_empty_array_is_empty() -> None:
    _, saved = OPS["mean"].forward(np.ones((0, 3)), axis=None, keepdims=False)
    with np.errstate(all="raise"):
        (dx,) = OPS["mean"].backward(np.array(1.0), *saved)
    assert dx is not None
    assert dx.shape == (0, 3)


# ---- sums of float32 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["sum", "mean", "logsumexp", "var", "broadcast", "linear", "layer_norm weight", "layer_norm bias"]
)
def test_many_rows_are_added_without_losing_digits(name: str) -> None:
    """Also where a gradient is the sum. NumPy alone adds rows one after another."""
    rows = np.random.default_rng(0).uniform(0.5, 1.5, (300_000, 2)).astype(np.float32)

    def run(dtype: Any) -> Any:
        x = Tensor(rows.astype(dtype), requires_grad=True)
        w, b = Tensor(np.ones((2, 2), dtype), requires_grad=True), Tensor(np.ones(2, dtype), requires_grad=True)
        if name in ("sum", "mean", "logsumexp", "var"):
            return getattr(x, name)(0).array
        if name == "broadcast":
            return grad(((x + b) * x.detach()).sum(), b)[0].array  # type: ignore[union-attr]
        if name == "linear":
            return grad((F.linear(x, w, b) * x.detach()).sum(), b)[0].array  # type: ignore[union-attr]
        if name == "layer_norm bias":
            return grad((F.layer_norm(x, (2,), b, b) * x.detach()).sum(), b)[0].array  # type: ignore[union-attr]
        shifted = Tensor(np.array([2.0, 1.0], dtype), requires_grad=True)
        return grad((F.layer_norm(x, (2,), shifted) * x.detach()).sum(), shifted)[0].array  # type: ignore[union-attr]

    np.testing.assert_allclose(run(np.float32), run(np.float64), 3e-6 if "layer" in name else 1e-6)
    if name in ("broadcast", "linear"):
        np.testing.assert_allclose(run(np.float32), rows.sum(0, np.float64), 1e-6)


@pytest.mark.parametrize("rows", [0, 1, ROWS, ROWS + 1, 3 * ROWS - 1])
def test_sum_of_rows(rows: int) -> None:
    x = np.arange(2.0 * rows, dtype=np.float32).reshape(rows, 2) % 8.0
    found = sum_of_rows(x)
    assert found.dtype == np.float32
    assert found.tolist() == x.sum(0, np.float64).tolist()


@pytest.mark.parametrize("C", [64, 768, 4096])
@pytest.mark.parametrize("value", [3.3, 1000.1, 1e6 + 0.5])
def test_layer_norm_and_var_of_rows_far_from_zero(value: float, C: int) -> None:
    constant = np.full((2, C), value, np.float32)
    assert np.abs(F.layer_norm(Tensor(constant), (C,)).array).max() < 2e-3
    assert Tensor(constant).var(-1).tolist() == Tensor(constant.T.copy()).var(0).tolist() == [0.0, 0.0]
    noisy = (value + np.random.default_rng(0).standard_normal((2, C))).astype(np.float32)
    expected = torch.tensor(noisy, dtype=torch.float64)
    np.testing.assert_allclose(Tensor(noisy).var(-1).array, expected.var(-1), 1e-6)
    found = F.layer_norm(Tensor(noisy), (C,)).array
    np.testing.assert_allclose(found, TF.layer_norm(expected, (C,)), atol=2e-4)


def test_weighted_mean_of_targets_without_weight_is_nan() -> None:
    x, weight = Tensor([[1.0, 2.0, 3.0]]), Tensor([0.0, 1.0, 1.0])
    assert math.isnan(F.cross_entropy(x, [0], weight, label_smoothing=0.1).item())
