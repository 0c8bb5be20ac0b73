"""The same lines of code with torch and with minitensor.

Each line runs twice, with `torch`, `F` and the tensors of torch or of minitensor. Values and gradients (for a random
upstream gradient) must agree, and lines that raise an error in torch must raise one in minitensor.
"""

from typing import Any

import numpy as np
import pytest
import torch

import minitensor
from minitensor import functional
from tests.minitensor.judge import upstream

rng = np.random.default_rng(7)
ARRAYS = {
    "x": rng.uniform(-2.0, 2.0, (2, 3)),
    "y": rng.uniform(0.5, 2.0, (2, 3)),
    "row": rng.uniform(-2.0, 2.0, (3,)),
    "square": rng.uniform(-2.0, 2.0, (3, 3)),
    "cube": rng.uniform(-2.0, 2.0, (2, 3, 4)),
    "one": rng.uniform(-2.0, 2.0, (1, 3, 1)),
    "number": rng.uniform(0.5, 2.0, ()),
    "w": rng.uniform(-2.0, 2.0, (4, 3)),
    "b": rng.uniform(-2.0, 2.0, (4,)),
    "q": rng.uniform(-2.0, 2.0, (2, 2, 3, 4)),
    "k": rng.uniform(-2.0, 2.0, (2, 2, 5, 4)),
    "v": rng.uniform(-2.0, 2.0, (2, 2, 5, 6)),
    "scores": rng.uniform(-2.0, 2.0, (3, 5)),
    "ids": np.array([[2, 0], [2, 1]]),
    "targets": np.array([1, -100]),
    "classes": np.array([[2, 0, 1, 1], [0, 2, 2, -100]]),
    "mask": np.array([[True, False, True], [False, False, True]]),
    "seen": rng.random((3, 5)) < 0.6,
}

SAME = """
x + y
x + 1
1 + x
x - row
2.5 - x
x * y
x * 3
3 * x
x * row
x / y
1 / y
x / 4
x ** 2
x ** 3.0
y ** -0.5
y ** row
2.0 ** x
-x
+x
abs(x)
x @ square
row @ square
square @ row
row @ row
cube.transpose(1, 2) @ cube
x.add(y)
x.sub(y)
x.mul(y)
x.div(y)
x.pow(2)
x.neg()
x.abs()
x.exp()
y.log()
y.sqrt()
x.tanh()
x.erf()
x.sigmoid()
x.relu()
x.square()
x.maximum(y)
x.minimum(y)
x.clip(-1, 1)
x.clamp(min=0)
x.clamp(max=0.5)
x.clip(1, -1)
x.clip(np.float64(-1), 1)
x.masked_fill(mask, -5.0)
x.where(mask, y)
torch.where(mask, x, y)
torch.where(mask, x, 0.0)
torch.where(mask, 0.0, x)
torch.where(x > 0, x, -x)
square.tril()
square.triu(1)
square.triu()
torch.tril(square, diagonal=-1)
x.sum()
x.sum(0)
x.sum(-1, keepdim=True)
x.sum(dim=1)
x.sum(dim=(0, 1))
x.sum(dim=[0, 1])
x.sum(axis=1)
x.sum(axis=0, keepdims=True)
cube.sum((0, 2))
x.mean()
x.mean(1)
x.mean(dim=(0, 1), keepdim=True)
x.mean(axis=0, keepdims=True)
x.var()
x.var(1)
x.var(dim=1, correction=0, keepdim=True)
x.var(axis=1, keepdims=True)
x.std(1)
x.std(dim=1, correction=0, keepdim=True)
x.std(axis=0, keepdims=True)
square.std()
torch.var(x, dim=1, correction=0)
x.max()
x.min()
x.amax(1)
x.max(1)
x.max(dim=0, keepdim=True)
x.min(-1)
x.max(1)[0]
x.min(dim=1).values
torch.max(x, y)
x.min(y)
torch.min(x, 1).values
x.amin(dim=0, keepdim=True)
x.amin(1)
x.amin(axis=1, keepdims=True)
x.amax(0, keepdim=True)
x.amax(axis=0, keepdims=True)
torch.amax(x, 1)
x.logsumexp(1)
x.logsumexp([0, 1])
x.logsumexp(dim=-1, keepdim=True)
torch.logsumexp(x, dim=0)
x.softmax(-1)
torch.softmax(x, dim=0)
x.log_softmax(dim=1)
x.reshape(3, 2)
x.reshape((6,))
x.reshape(-1)
x.view(3, -1)
cube.flatten()
cube.flatten(1)
cube.flatten(0, 1)
cube.flatten(-2)
row.flatten(-1)
x[:0].flatten(1)
number.flatten()
cube.permute(2, 0, 1)
cube.permute((0, -1, 1))
cube.transpose(1, 2)
cube.transpose(-1, 0)
torch.transpose(x, 0, 1)
x.T
cube.mT
row.expand(4, 3)
one.expand(2, -1, 5)
one.expand(7, 2, -1, 5)
one.squeeze()
one.squeeze(0)
one.squeeze(1)
one.squeeze((0, 2))
x.unsqueeze(0)
x.unsqueeze(-1)
x[0]
x[1, 2]
x[:, 1]
x[..., -1]
x[None, 1:, ::2]
w[ids]
x[mask]
x[[1, 0, 1]]
x[:, (0, 0)]
x[(0, 0),]
x[torch.tensor([1, 1])]
x[[]]
x[ids[0, 1]]
cube[:, [0, 2], 1]
cube.mT[:, ids, [[0, 1], [2, 2]]]
torch.cat([x, y])
torch.cat([x, y, x], dim=1)
torch.stack([x, y])
torch.stack((x, y), dim=-1)
torch.cat([x.detach() > 0, x])
torch.cat([ids, x[:, :2]])
x[:, :2] + ids
cube.split(2, dim=2)
cube.split([1, 2], dim=1)
cube.split([0, 3], dim=1)
cube.split(3, 2)
cube.chunk(2, dim=-1)
cube.chunk(3, 2)
cube.chunk(2)
cube.chunk(1)
x[:0].chunk(2)
x.split(2)
cube.split([4], dim=2)
x[:0].split(2)
x.chunk(5, 1)
torch.split(x, 1)
list(x)
list(row)
[part * 2 for part in cube.split(1)]
x.contiguous().view(-1)
x.clone()
x.detach() * x
x.data * x
number * x
x * number
number.exp()
x.to(x.dtype)
x.float().double()
torch.matmul(x, square)
torch.exp(x)
torch.sum(x, dim=0)
torch.mean(x)
torch.permute(cube, (1, 2, 0))
torch.unsqueeze(x, 1)
torch.maximum(x, y)
F.linear(x, w)
F.linear(x, w, b)
F.linear(row, w, bias=b)
F.linear(cube.transpose(1, 2), w, b)
F.embedding(ids, w)
F.embedding(ids, w, padding_idx=2)
F.embedding(input=ids, weight=w, padding_idx=-1)
F.relu(x)
F.sigmoid(x)
F.tanh(x)
F.gelu(x)
F.gelu(x, approximate='tanh')
F.softmax(x, dim=-1)
F.log_softmax(x, dim=0)
F.layer_norm(x, (3,))
F.layer_norm(x, [3], row)
F.layer_norm(x, (3,), None, row)
F.layer_norm(x, (3,), weight=row, bias=row, eps=1e-3)
F.layer_norm(cube, (3, 4))
F.cross_entropy(x, targets)
F.cross_entropy(x, targets, reduction='sum')
F.cross_entropy(x, targets, reduction='none')
F.cross_entropy(x, ids[1], ignore_index=1, reduction='none')
F.cross_entropy(x, targets * 0 - 100, reduction='sum')
F.cross_entropy(x, ids[0], label_smoothing=0.2)
F.cross_entropy(row, ids[0, 0])
F.cross_entropy(cube, classes, label_smoothing=0.1)
F.cross_entropy(cube.unsqueeze(2).expand(-1, -1, 5, -1), classes.unsqueeze(1).expand(-1, 5, -1))
F.dropout(x, p=0.0)
F.dropout(x, 0.5, training=False)
F.dropout(x, p=1.0)
F.mse_loss(x, y)
F.mse_loss(x, y, reduction='sum')
F.mse_loss(x, y, reduction='none')
F.scaled_dot_product_attention(q, k, v)
F.scaled_dot_product_attention(q, k, v, is_causal=True)
F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
F.scaled_dot_product_attention(q, k, v, scores)
F.scaled_dot_product_attention(q, k, v, scale=0.1)
F.scaled_dot_product_attention(q, k, v, scale=0.0)
F.scaled_dot_product_attention(q, k, v, scale=np.sqrt(0.5))
F.scaled_dot_product_attention(q, k, v, dropout_p=1.0)
F.scaled_dot_product_attention(q, q, q, is_causal=True)
F.scaled_dot_product_attention(query=x, key=x, value=y)
x.add(y, alpha=3)
x.sub(y, alpha=0.5)
torch.add(x, y, alpha=2)
torch.sub(input=x, other=y)
torch.sum(input=x, dim=1)
x.var(0, False)
x.var(False)
x.std(unbiased=False)
x.var(dim=1, unbiased=True, keepdim=True)
x.mean(dim=())
x.sum(dim=())
x.amax(dim=())
x.max(1, keepdims=True)
x.max(axis=0)
x.min(axis=1, keepdims=True)
x.softmax(axis=1)
torch.cat((x, y), axis=1)
torch.stack([x, y], axis=1)
x.squeeze(axis=0)
x.clamp(min=row)
x.clamp(max=row)
x.clamp(y - 1.0, y)
x.masked_fill(mask, number)
torch.masked_fill(x, mask, number)
x[0, :]
cube[0, :, [0, 2]]
cube[:, 1, [0, 2]]
cube[[0, 1], :, 2]
cube[1, [0, 2]]
cube[0, ..., [0, 2]]
cube[0, None, :, [0, 2]]
cube[[1, 0], :, [0, 2]]
cube[0, ids[0], :]
cube[ids[0, 0] - 2, :, [0, 2]]
cube[0, :, cube[0, 0] > 0]
square[0, [0, 1, 2]]
number.mean(0)
number.sum(0)
number.amax(0)
number.max(0)
number.min(-1)
number.softmax(0)
number.log_softmax(-1)
number.logsumexp(0)
number.squeeze(0)
number.transpose(0, 0)
number.unsqueeze(0)
number.sum(-1, keepdim=True)
torch.cat([x, torch.tensor(np.ones(0)), y])
F.linear(x, row)
F.silu(x)
torch.sigmoid(x)
torch.add(1.0, x)
torch.sub(2, x)
torch.mul(2.0, x)
torch.div(1.0, y)
torch.pow(2.0, x)
F.cross_entropy(x, ids[0], weight=(row * row).detach())
F.cross_entropy(x, ids[0], weight=(row * row).detach(), reduction='sum', label_smoothing=0.1)
F.cross_entropy(x, ids[0], weight=(row * row).detach(), reduction='none')
F.cross_entropy(x, ids[0], weight=(row * row).detach(), label_smoothing=0.2)
F.cross_entropy(x, targets, weight=(row * row).detach())
F.cross_entropy(cube, classes, weight=(row * row).detach())
F.cross_entropy(cube, classes, weight=(row * row).detach(), label_smoothing=0.3)
F.cross_entropy(x, y / 4)
F.cross_entropy(x, y / 4, reduction='sum', label_smoothing=0.1)
F.cross_entropy(x, y / 4, weight=(row * row).detach(), label_smoothing=0.1)
F.cross_entropy(cube, cube * cube)
F.cross_entropy(row, row * row)
F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)
F.scaled_dot_product_attention(q, k, v, attn_mask=scores, scale=0.3)
F.scaled_dot_product_attention(q, k, v, attn_mask=number)
F.scaled_dot_product_attention(q[..., :0], k[..., :0], v)
y ** number
x.sum(np.int64(1))
x.softmax(np.int64(1))
q[q[:, :, 0, 0] > 0, :, 1]
cube[[[0, 1], [1, 0]], :, 1]
q[0, ..., [0, 2]]
x[np.zeros(0, int)]
x[np.zeros(0)]
x[:0][np.zeros((0, 3), bool)]
cube[:, [0, 2], ..., [1, 3]]
cube[None, :, [0, 2], ..., [1, 3]]
cube[[0, 1], ..., [0, 2], [1, 3]]
cube[[0, 1], ..., [1, 3]]
cube[mask, ..., [0, 1, 3]]
cube[:, row > 0, ..., [3]]
cube[[0, 1], [0, 2], [1, 3], ...]
cube[1, ..., [0, 2], [1, 3]]
x[:, :2].add(ids, alpha=0.5)
x.var(True)
number.logsumexp(())
number.transpose(0, -1)
number.transpose(-1, -1)
x[:0].split(0)
""".strip().splitlines()

# Without gradients: only the values are compared.
WITHOUT_GRADIENT = """
x > 0
x >= y
x <= x
x >= x
x < x
x > x
x == np.float64(0.5)
x == None
x == 'a'
x != 'a'
x < row
x <= 0.5
x == x
x != y
~mask
mask & (x > 0)
mask | (x > 0)
mask & ~mask
mask | ~mask
~mask | mask
x.argmax()
x.argmax(1)
x.argmax(dim=0, keepdim=True)
x.argmin(-1)
x.argmin(0, keepdim=True)
(x > 5).any()
(x < 5).all()
(x < 0).any(1)
(x < 0).any(1, keepdim=True)
(x < 0).all(1, keepdim=True)
mask.all(dim=0)
True & mask
f'{number:.3f}'
torch.zeros((2, 3))
torch.ones(x.shape)
x.shape
x.size(1)
x.size()
x.dim()
x.ndim
x.numel()
len(x)
number.item()
float(number)
int(ids[0, 0])
x.detach().tolist()
[10, 20, 30][ids[0, 0]]
bool(number > 0)
x.requires_grad
x.detach().requires_grad
(x * 2).requires_grad
(x * 2).requires_grad_().requires_grad
x.long()
x.long().requires_grad
x.float().requires_grad
x.to(x.dtype) is x
torch.cat([ids])
ids.requires_grad
x.is_leaf
(x * 2).is_leaf
x.grad is None
x.grad_fn is None
(x * 2).grad_fn is None
hash(x) == hash(x)
x.detach().numpy()
ids + 1
ids * 2
ids / 2
ids ** 2
ids ** 0.5
ids.sqrt()
ids.relu()
ids.masked_fill(ids > 1, 7)
ids.to(x.dtype)
mask + 1
mask * 2.5
ids + (ids > 0)
x.detach().long()
ids.sum()
ids.float()
torch.zeros(2, 3)
torch.ones(2)
torch.full((2, 2), 1.5)
torch.zeros_like(ids)
torch.ones_like(mask)
torch.arange(4)
torch.arange(1, 7, 2)
torch.tensor([1.5, 2.5])
torch.tensor(3)
torch.tensor([True, False])
torch.arange(0., 1., .25)
torch.arange(3.)
torch.arange(1, 7, 2)
torch.full((2,), 1)
torch.full((2,), True)
torch.full((2,), 0.5)
torch.tensor(np.array([1, 2], np.uint8)).sum()
torch.tensor(np.array([True, False])).sum()
x.argmax(axis=1)
number.argmax(0)
number.argmax(-1)
x.argmax(np.int64(1))
torch.tensor(np.array([200, 1], np.uint8)).add(ids[0], alpha=2)
mask ** 0
ids.add(mask[:, :2], alpha=2)
mask ** 2.5
2 ** mask
2.5 ** mask
True ** ids
mask.clip(0, 1)
mask.clip(0.5, 1)
ids.clip(0, 1)
ids.clip(0.5, 1)
ids.clip(0.5)
ids.masked_fill(ids > 1, torch.tensor(7))
ids.masked_fill(ids > 1, 2**53 + 1)
mask.masked_fill(mask, torch.tensor(False))
mask.masked_fill(~mask, torch.tensor(5))
""".strip().splitlines()

REFUSED = """
x.backward()
x.sum().detach().backward()
x.numpy()
x.item()
bool(x)
x.reshape(4, 2)
x.expand(5, 3)
x.expand(-1, 2, 3)
x.permute(0, 0)
x.squeeze(5)
x.unsqueeze(4)
x.sum(2)
x.transpose(0, 3)
x[5]
x[0, 0, 0]
x[9:, 4]
x @ x
x + torch.ones(5)
torch.cat([x, row])
torch.stack([x, row])
cube.split([1, 1], dim=1)
cube.split(0)
row @ w.T @ w.T
(x * 2).requires_grad_(False)
ids.requires_grad_()
torch.tensor([1, 2], requires_grad=True)
torch.tensor(['a'])
x.__iadd__(1)
ids.__iadd__(0.5)
len(number)
list(number)
x.detach().retain_grad()
int(x)
[1, 2][x[0, 0]]
F.linear(x, b)
F.linear(x, w.T)
F.embedding(ids + 2, w)
F.embedding(ids - 1, w)
F.embedding(x, w)
F.gelu(x, approximate='sometimes')
F.gelu(ids)
F.linear(ids, w)
F.softmax(ids > 0, -1).mean
ids.mean()
ids.var()
x.split([-1, 4], dim=1)
x.chunk(0)
x.squeeze(3)
row.tril()
x.clamp()
x.masked_fill(ids.sum() > 0, 'a')
x.masked_fill(x * 0 + 1, 2.0)
x.sum(dim=0, axis=1)
cube.flatten(2, 1)
cube.flatten(-1, 1)
cube.flatten(3)
row.flatten(1)
cube.flatten(0, -4)
row.sum().flatten(1)
F.scaled_dot_product_attention(q, k, v, attn_mask=seen * 1)
F.scaled_dot_product_attention(q, k, v, attn_mask=w)
F.cross_entropy(x, ids[0], label_smoothing=1.5)
F.layer_norm(x, (2,))
F.layer_norm(x, (3,), weight=b)
F.cross_entropy(x, ids)
F.cross_entropy(x, ids[0] + 2)
F.cross_entropy(x, ids[0] - 1)
F.cross_entropy(x, targets, reduction='median')
F.dropout(x, p=1.5)
F.dropout(x, p=-0.1)
F.mse_loss(x, y, reduction='median')
F.scaled_dot_product_attention(q, v, v)
F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=True)
F.scaled_dot_product_attention(row, row, row)
x + None
x - None
x * None
x.maximum(None)
x.where(mask, None)
x + '3'
torch.tensor(None)
torch.tensor('3')
x < 'a'
x.max(keepdim=True)
x.max(dim=0, axis=1)
torch.cat([])
torch.stack([])
torch.exp(np.ones(2))
x.masked_fill(mask, row)
x.clamp(row, 1.0)
F.linear(x, row, number)
F.cross_entropy(x, ids[0], weight=row * row)
torch.maximum(1.0, x)
torch.matmul(1.0, x)
x.to('nowhere')
F.cross_entropy(x, ids[0], weight=b)
F.cross_entropy(x, y[:, :2])
F.linear(x, b)
F.softmax(x, dim=())
F.scaled_dot_product_attention(q[:, :1], k, v, enable_gqa=True)
torch.tensor([1e30], dtype=torch.int64)
torch.full((2,), float('inf'), dtype=torch.int64)
x.reshape(-2)
x.reshape(2, -3)
x.reshape(True, 6)
F.gelu(np.ones(2))
x.sum(0, 1)
x.amax(1, 'yes')
x.sum((True,))
number.sum((0, -1))
x[torch.zeros(0)]
x.add(y, alpha=True)
x.add(y, alpha='2')
x.add(y, alpha=[2.0])
mask ** mask
True ** mask
mask @ mask.T
mask.clip(True, False)
mask.clip(max=True)
ids.masked_fill(ids > 1, number)
torch.tensor(np.array([1, 2], np.uint8)).masked_fill(torch.tensor([True, False]), 300)
x.var(False, True)
x.var(0, unbiased=1)
x.var(unbiased=True, correction=1)
x.logsumexp(None)
torch.where(ids, 1.0, x[:, :2])
torch.where(ids, x[:, :2], 1.0)
F.layer_norm(x, 3)
number.logsumexp(None)
x.logsumexp(())
ids.softmax(0)
number.transpose(0, 1)
number.transpose(-2, 0)
row.expand(-2, 3)
""".strip().splitlines()

# What torch computes and minitensor refuses; the README's table has a line for each.
REFUSED_HERE = """
x[[1.0, 0.0]]
x ** mask
ids ** mask[:, :2]
mask ** True
mask.clip(False, 1)
x[:0].split([])
x[[[0, 1], [1, 0]]]
x[[slice(0, 1), 0]]
x[[torch.tensor(0), torch.tensor(1)]]
x[torch.tensor(np.array(1, np.uint8))]
x[np.array([0, 1], np.uint8)]
x[torch.tensor(np.array([[1, 0, 1], [0, 1, 0]], np.uint8))]
torch.tensor(np.array([1, 2], np.uint64))
""".strip().splitlines()


def run_line(line: str, library: Any, F: Any, tensor: Any) -> tuple[Any, dict[str, Any]]:
    names = {
        name: tensor(array).requires_grad_() if array.dtype.kind == "f" else tensor(array)
        for name, array in ARRAYS.items()
    }
    return eval(line, {"torch": library, "F": F, "np": np, **names}), names


def with_torch(line: str) -> tuple[Any, dict[str, Any]]:
    return run_line(line, torch, torch.nn.functional, torch.tensor)


def with_minitensor(line: str) -> tuple[Any, dict[str, Any]]:
    return run_line(line, minitensor, functional, minitensor.tensor)


def to_numpy(value: Any) -> Any:
    """A result of either library as NumPy arrays."""
    if isinstance(value, torch.Tensor | minitensor.Tensor):
        return value.detach().numpy()
    if isinstance(value, list | tuple):
        return [to_numpy(part) for part in value]
    return value


@pytest.mark.parametrize("line", SAME)
def test_same_values_and_gradients(line: str) -> None:
    (theirs, their_names), (ours, our_names) = with_torch(line), with_minitensor(line)
    their_parts = theirs if isinstance(theirs, list | tuple) else [theirs]
    our_parts = ours if isinstance(ours, list | tuple) else [ours]
    assert len(their_parts) == len(our_parts)
    their_sum: Any = torch.zeros(())
    our_sum = minitensor.zeros(dtype=np.float64)
    for i, (a, b) in enumerate(zip(their_parts, our_parts, strict=True)):
        assert tuple(a.shape) == b.shape
        if b.dtype != np.float64:
            continue
        np.testing.assert_allclose(to_numpy(b), to_numpy(a), 1e-12, 1e-14)
        dy = upstream(i)[: a.numel()].reshape(b.shape)
        their_sum, our_sum = their_sum + (a * torch.tensor(dy)).sum(), our_sum + (b * dy).sum()
    their_sum.backward()
    our_sum.backward()
    for name in their_names:
        a, b = their_names[name].grad, our_names[name].grad
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_allclose(to_numpy(b), to_numpy(a), 1e-10, 1e-12, err_msg=name)


@pytest.mark.parametrize("line", WITHOUT_GRADIENT)
def test_same_values_without_gradients(line: str) -> None:
    theirs, ours = to_numpy(with_torch(line)[0]), to_numpy(with_minitensor(line)[0])
    np.testing.assert_array_equal(ours, theirs)
    if isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
    else:
        assert isinstance(ours, type(theirs)) or isinstance(theirs, torch.Size)


@pytest.mark.parametrize("line", REFUSED)
def test_both_libraries_raise(line: str) -> None:
    errors = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)
    with pytest.raises(errors):
        to_numpy(with_torch(line)[0])
    with pytest.raises(errors) as caught:
        to_numpy(with_minitensor(line)[0])
    assert len(str(caught.value)) > 15, "the message is too short"


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8", "ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("line", REFUSED_HERE)
def test_only_minitensor_raises(line: str) -> None:
    with_torch(line)
    with pytest.raises((ValueError, TypeError, IndexError)):
        with_minitensor(line)


def test_numpy_operands_take_the_dtype_of_the_tensor() -> None:
    x = minitensor.tensor([1.0, 2.0], requires_grad=True)
    array = np.array([3.0, 4.0])
    for result in (array + x, array * x, x - array, array / x, array**x, np.float64(2) * x, x / np.float64(3), 2 - x):
        assert isinstance(result, minitensor.Tensor)
        assert result.dtype == np.float32
        assert result.requires_grad
    assert isinstance(array < x, minitensor.Tensor)
    assert (np.ones((3, 2)) @ x).shape == (3,)
    assert (x @ np.ones((2, 3))).dtype == (x @ [3.0, 4.0]).dtype == np.float32
    assert minitensor.tensor((1.0, 2.0)).dtype == np.float32
    assert (minitensor.tensor([1, 2]) * 2.5).dtype == np.float32
    assert (minitensor.tensor([1, 2]) + x).dtype == np.float32


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (minitensor.tensor([1.0, 2.5]), "tensor([1. , 2.5])"),
        (minitensor.tensor([1.0], requires_grad=True), "tensor([1.], requires_grad=True)"),
        (minitensor.tensor([1.0], requires_grad=True) * 2.0, "tensor([2.], grad_fn=<mul_number>)"),
        (minitensor.tensor([0.123456]), "tensor([0.1235])"),
        (minitensor.tensor(np.float64(0.5)), "tensor(0.5, dtype=float64)"),
        (minitensor.tensor(np.ones(1), requires_grad=True), "tensor([1.], dtype=float64, requires_grad=True)"),
        (minitensor.tensor(np.ones(1), requires_grad=True) * 2, "tensor([2.], dtype=float64, grad_fn=<mul_number>)"),
        (minitensor.tensor([[1, 2], [3, 4]]), "tensor([[1, 2],\n        [3, 4]])"),
    ],
)
def test_repr(tensor: minitensor.Tensor, text: str) -> None:
    assert repr(tensor) == text


def test_repr_of_large_tensor_is_abbreviated() -> None:
    assert len(repr(minitensor.zeros(1000, 1000))) < 500
    assert "..." in repr(minitensor.zeros(201))
    assert "..." not in repr(minitensor.zeros(200))
    assert f"{minitensor.zeros(2)}" == "tensor([0., 0.])"


# ---- more than one line -----------------------------------------------------------------------------------------


def test_numpy_scalars_do_not_change_the_dtype() -> None:
    x = minitensor.ones(2)
    assert x.clip(np.float64(0), 1).dtype == x.masked_fill(x > 0, np.float64(2)).dtype == np.float32
    assert (minitensor.tensor([1.0, 2.0], dtype=np.float64) + minitensor.tensor([1, 2])).dtype == np.float64
    assert minitensor.tensor(minitensor.tensor([1, 2]), dtype=np.float64).dtype == np.float64


def test_scalar_result_is_an_array() -> None:
    assert type(minitensor.tensor(2.0).exp().array) is np.ndarray  # np.exp of a 0-d array is a scalar


def test_conversions_share_memory() -> None:
    x = minitensor.ones(2)
    assert minitensor.Tensor(x).array is x.array
    assert np.shares_memory(np.asarray(x), x.array)


def test_grad_can_be_assigned() -> None:
    x, given = minitensor.ones(2, requires_grad=True), minitensor.tensor([3.0, 4.0])
    x.grad = given
    assert x.grad is given
    x.requires_grad_()
    assert x.grad is given
    x.grad = np.array([5.0, 6.0], np.float32)  # type: ignore[assignment]
    assert isinstance(x.grad, minitensor.Tensor)
    x.requires_grad = False
    assert not x.requires_grad
    x.grad = None  # allowed, although it has none
    y = minitensor.ones(2, requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="keeps no gradient"):
        y.grad = given


def test_result_that_was_changed_in_place_keeps_no_gradient() -> None:
    y = minitensor.ones(2, requires_grad=True) * 2
    y *= 3
    y.sum().backward()
    assert y.grad is None


def test_gradients_can_be_changed_independently() -> None:
    a, b = minitensor.ones(2, requires_grad=True), minitensor.ones(2, requires_grad=True)
    ((a + b) * 2.0).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    a.grad *= 3.0
    assert a.grad.tolist() == [6.0, 6.0]
    assert b.grad.tolist() == [2.0, 2.0]


def test_grad_frees_the_graph() -> None:
    x = minitensor.ones(2, requires_grad=True)
    y = x.exp().sum()
    minitensor.grad(y, x)
    with pytest.raises(RuntimeError, match="retain_graph"):
        minitensor.grad(y, x)


def test_constant_can_be_changed_in_place() -> None:
    x = minitensor.ones(2)
    x += 1.0
    assert x.tolist() == [2.0, 2.0]


def test_python_numbers_are_not_converted_to_arrays() -> None:
    x = minitensor.ones(2, requires_grad=True)
    made = [str(y.grad_fn) for y in (x * 2, x / 2, x**2, x**0.5)]
    assert made == ["<mul_number>", "<div_number>", "<pow_number>", "<pow_number>"]


def test_cat_and_stack_accept_arrays() -> None:
    assert minitensor.stack([np.ones(1), np.zeros(1)]).tolist() == [[1.0], [0.0]]
    assert minitensor.cat([np.ones(1)]).tolist() == [1.0]


def test_cat_has_the_dtype_of_first_float_or_else_first_tensor() -> None:
    short, long, floats = (minitensor.ones(1, dtype=dtype) for dtype in (np.int32, np.int64, np.float32))
    assert minitensor.cat([long, floats]).dtype == np.float32
    assert minitensor.cat([np.ones(1, int), short]).dtype == np.int32


def test_iteration_over_scalar_raises() -> None:
    with pytest.raises(TypeError, match="iteration over a 0-d tensor"):
        iter(minitensor.tensor(1.0))


@pytest.mark.parametrize(
    "data",
    [
        127, 128, -128, -129, [0, 300], [-300, 0], [[-1.5, 126.9]], -1e30, np.int64(300), [np.int64(-300)],
        np.array([300, -129]), np.array(-1),
    ],
    ids=repr,
)  # fmt: skip
def test_numbers_outside_a_dtype_are_refused_and_arrays_keep_their_low_bits(data: Any) -> None:
    for ours, theirs in ((np.int8, torch.int8), (np.int32, torch.int32)):
        try:
            expected = torch.tensor(data, dtype=theirs)
        except RuntimeError:
            with pytest.raises(ValueError, match="is not within"):
                minitensor.tensor(data, dtype=ours)
        else:
            found = minitensor.tensor(data, dtype=ours)
            assert found.dtype == ours
            assert found.tolist() == expected.tolist()
            assert minitensor.tensor(minitensor.tensor(data), dtype=ours).tolist() == found.tolist()


@pytest.mark.parametrize(
    "line",
    [
        "torch.tensor([torch.tensor(1.0), 2.0])", "torch.tensor([[torch.tensor(1)], [2.5]])",
        "torch.tensor([torch.tensor(True), 2])", "torch.tensor([np.float32(1), 2.0])", "torch.tensor([np.int32(1), 2])",
        "torch.tensor([np.float64(1), 2])", "torch.tensor([torch.tensor(np.float64(1)), 2.0])",
        "torch.tensor((1, np.float64(2)))",
    ],
)  # fmt: skip
def test_dtype_of_a_list_is_float64_only_if_one_of_its_numbers_is(line: str) -> None:
    theirs, ours = with_torch(line)[0], with_minitensor(line)[0]
    assert str(theirs.dtype) == f"torch.{ours.dtype}"
    assert theirs.tolist() == ours.tolist()


@pytest.mark.parametrize("axes", [(), (2,)], ids=["no axes", "axes"])
@pytest.mark.parametrize("other_axes", [(), (2,)], ids=["no axes", "axes"])
@pytest.mark.parametrize(
    "dtypes", [("float32", "float64"), ("int32", "int64"), ("int64", "float32"), ("bool", "int64")]
)
def test_dtype_of_a_result_with_and_without_axes(
    axes: tuple[int, ...], other_axes: tuple[int, ...], dtypes: tuple[str, str]
) -> None:
    if axes == other_axes and dtypes == ("float32", "float64"):
        return  # minitensor refuses to choose between them
    for one, other in (dtypes, dtypes[::-1]):
        theirs = torch.ones(axes, dtype=getattr(torch, one)) + torch.ones(other_axes, dtype=getattr(torch, other))
        ours = minitensor.tensor(np.ones(axes, one)) + minitensor.tensor(np.ones(other_axes, other))
        assert str(theirs.dtype) == f"torch.{ours.dtype}"
