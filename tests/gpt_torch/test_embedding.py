"""Embeddings: the gradient that PyTorch's have, added up in one order."""

import pytest
import torch
from torch.nn import functional as F

from gpt_numpy import GPTConfig
from gpt_torch import GPT, embedding
from gpt_torch.embedding import Embedding
from tests.support.engines import COMPILER


@pytest.mark.parametrize("most", [5, 4])  # rows for which it is a product
@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (0,)])
def test_the_gradient_is_that_of_pytorchs(most: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "MOST", most)
    random = torch.Generator().manual_seed(0)
    ours = Embedding(5, 6)
    ids, dx = torch.randint(0, 4, shape, generator=random), torch.randn(*shape, 6, generator=random)  # 4: nowhere
    x = ours(ids)
    assert torch.equal(x, F.embedding(ids, ours.weight))
    expected = torch.autograd.grad(F.embedding(ids, ours.weight), ours.weight, dx)
    torch.testing.assert_close(torch.autograd.grad(x, ours.weight, dx), expected)


@pytest.mark.parametrize("most", [5, 4])
def test_nothing_of_it_is_rounded_to_16_bits(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "MOST", most)
    ours = Embedding(5, 6)
    ids, dx = torch.tensor([1, 1, 2]), torch.full((3, 6), 1.0 + 2.0**-20)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(ours(ids), ours.weight, dx)
    assert found[:, 0].tolist() == [0.0, 2.0 + 2.0**-19, 1.0 + 2.0**-20, 0.0, 0.0]


@pytest.mark.slow("a compiler")
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_the_code_of_a_compiled_step_adds_nothing_up_in_any_order() -> None:
    torch.set_num_threads(2)  # for one, no code would have to take care
    few, many, pytorchs = (GPT(config(vocab_size)) for vocab_size in (65, 2000, 65))
    pytorchs.tok_emb = torch.nn.Embedding(65, 16)  # type: ignore[assignment]
    assert "atomic_add" not in code_of(few)
    assert "atomic_add" not in code_of(many)
    assert "atomic_add" in code_of(pytorchs)  # so it would be seen


def config(vocab_size: int) -> GPTConfig:
    return GPTConfig(vocab_size=vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=16)


def code_of(model: GPT) -> str:
    from torch._inductor.utils import run_fw_bw_and_get_code

    torch._dynamo.reset()
    ids, step = torch.zeros(2, 8, dtype=torch.long), torch.compile(model)
    code = "".join(run_fw_bw_and_get_code(lambda: step(ids, ids)[1])[1])
    assert "_forward']" in code
    assert "_backward']" in code
    return code
