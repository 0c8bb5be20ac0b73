"""Estimates for a GPU that this machine does not have, compared with counts by hand for a small model."""

from importlib.util import find_spec

import pytest
import torch

from bench import kernels
from bench.kernels import ATTENTION, CARDS, OTHERS, PRODUCTS, Counting, Kernels, Step, compiled, in_code, in_update
from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.recipes import PRESETS
from gpt_torch import GPT

CARD = CARDS["H200"]
B, T, C, V, H = 2, 8, 16, 65, 2


def config(vocab_size: int = V) -> GPTConfig:
    return GPTConfig(vocab_size=vocab_size, block_size=T, n_layer=1, n_head=H, n_embd=C)


@pytest.mark.slow("a compiler")
@pytest.mark.skipif(not find_spec("triton"), reason="no Triton")
def test_compiled_code_has_no_atomic_adds() -> None:
    pytorchs, many = without_blocks(config()), without_blocks(config(2000))
    pytorchs.tok_emb = torch.nn.Embedding(V, C)  # type: ignore[assignment]
    codes = compiled(GPT(config()), B, CARD)
    assert not atomics(codes)
    assert not atomics(compiled(many, B, CARD))  # another gradient of the embedding
    assert atomics(compiled(pytorchs, B, CARD))  # so the search finds them

    step, N = in_code(codes, CARD), B * T
    products = 2 * N * (12 * C * C + C * V)
    assert step["forward", PRODUCTS].launches == 5
    assert step["forward", PRODUCTS].flops == products
    assert step["backward", PRODUCTS].launches == 11
    assert (
        step["backward", PRODUCTS].flops == 2 * products + 2 * V * N * C
    )  # the embedding's gradient is a product, too
    assert step["forward", ATTENTION].flops == 2 * (2 * N * T * C)
    elementwise = step["forward", "elementwise"]
    assert elementwise.launches > 0
    assert elementwise.bytes >= 2 * N * 4 * C * 2  # gelu alone
    assert elementwise.seconds == pytest.approx(elementwise.bytes / CARD.bandwidth)


def without_blocks(config: GPTConfig) -> GPT:
    """What is left differs between these models: the embedding and the head."""
    model = GPT(config)
    model.blocks = torch.nn.ModuleList()
    return model


def atomics(codes: kernels.Codes) -> int:
    assert list(codes) == ["forward", "backward"]
    return sum(code.count("tl.atomic_add(") for code, _ in codes.values())


def test_update_is_counted() -> None:
    parameters = dict(GPT(config()).named_parameters())
    adamw = in_update(parameters, PRESETS["workshop"].recipe, CARD)
    muon = in_update(parameters, PRESETS["sprint"].recipe, CARD)
    assert set(adamw) == {("update", OTHERS)}
    numbers = sum(p.numel() for p in parameters.values())
    assert adamw["update", OTHERS].bytes >= 4 * numbers * (1 + 1 + 4)  # norm, clipping; weight, gradient, two moments
    shapes = 4  # of matrices in a block
    assert muon["update", PRODUCTS].launches == shapes * 5 * 3
    square, narrow, wide, wider = (4 * C * C * n + 2 * C**3 for n in (C, 3 * C, 4 * C, 4 * C))  # y y' and g y; g g
    assert muon["update", PRODUCTS].flops == 5 * (square + narrow + wide + wider)


def test_bytes_of_one_operation() -> None:
    step: Step = {("update", OTHERS): Kernels()}
    x, y = torch.zeros(10, 10), torch.zeros(10)
    with Counting(step, CARD):
        x.add_(y)
        x[0].view(2, 5)
        torch.empty(3)
    assert step["update", OTHERS].launches == 1
    assert step["update", OTHERS].bytes == 4 * (100 + 10)


def test_kernel_time_is_maximum_of_memory_and_compute() -> None:
    found = Kernels()
    found.add(CARD, 1, CARD.bandwidth, CARD.peak / 2)
    found.add(CARD, 1, CARD.bandwidth / 2, 3 * CARD.peak)
    assert found.seconds == 4.0


def test_missing_triton_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    with pytest.raises(RunFailed, match="Triton, which is not installed"):
        compiled(GPT(config()), B, CARD)
