"""Embeddings: PyTorch's gradient, summed in a fixed order."""

import pytest
import torch
from torch.nn import functional as F

from gpt_torch import embedding
from gpt_torch.embedding import Embedding


@pytest.mark.parametrize("most", [5, 4])  # rows up to which the gradient is a matrix product
@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (0,)])
def test_gradient_matches_pytorch(most: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "MAX_ONE_HOT_ROWS", most)
    random = torch.Generator().manual_seed(0)
    ours = Embedding(5, 6)
    ids, dx = torch.randint(0, 4, shape, generator=random), torch.randn(*shape, 6, generator=random)  # 4: nowhere
    x = ours(ids)
    assert torch.equal(x, F.embedding(ids, ours.weight))
    expected = torch.autograd.grad(F.embedding(ids, ours.weight), ours.weight, dx)
    torch.testing.assert_close(torch.autograd.grad(x, ours.weight, dx), expected)


@pytest.mark.parametrize("most", [5, 4])
def test_gradient_is_float32_under_autocast(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "MAX_ONE_HOT_ROWS", most)
    ours = Embedding(5, 6)
    ids, dx = torch.tensor([1, 1, 2]), torch.full((3, 6), 1.0 + 2.0**-20)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(ours(ids), ours.weight, dx)
    assert found[:, 0].tolist() == [0.0, 2.0 + 2.0**-19, 1.0 + 2.0**-20, 0.0, 0.0]


@pytest.mark.parametrize("most", [5, 4])
def test_long_sum_in_bfloat16(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added one by one in bfloat16, ones never exceed 256."""
    monkeypatch.setattr(embedding, "MAX_ONE_HOT_ROWS", most)
    ours = Embedding(5, 6, dtype=torch.bfloat16)
    ids, dx = torch.full((1000,), 3), torch.ones(1000, 6, dtype=torch.bfloat16)
    (found,) = torch.autograd.grad(ours(ids), ours.weight, dx)
    assert found.dtype == torch.bfloat16
    assert found[3].tolist() == [1000.0] * 6
