"""The head and its loss together, in pieces: equal to the plain forms, in both libraries, and with less memory."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as TF

import gpt_numpy
import gpt_torch
import minitensor as mt
from gpt_numpy import head as numpy_head
from gpt_torch import head as torch_head
from minitensor.ops import linear_cross_entropy as op_file
from tests.support.engines import CONFIG

Arrays = dict[str, Any]


def by_numpy(x: Any, weight: Any, targets: Any, weights: Any) -> Arrays:
    a, b = leaves = [mt.tensor(array, requires_grad=True) for array in (x, weight)]
    w = None if weights is None else mt.tensor(weights)
    loss = numpy_head.linear_cross_entropy(a, b, mt.tensor(targets), w)
    gradients: Any = mt.grad(loss * 2.0, leaves)
    return {"loss": loss.item(), "d x": gradients[0].numpy(), "d weight": gradients[1].numpy()}


def by_torch(
    x: Any, weight: Any, targets: Any, weights: Any, function: Callable[..., Any] = torch_head.linear_cross_entropy
) -> Arrays:
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight)]
    w = None if weights is None else torch.tensor(weights)
    loss = function(*leaves, torch.tensor(targets), w)
    gradients = torch.autograd.grad(loss * 2.0, leaves)
    return {"loss": loss.item(), "d x": gradients[0].numpy(), "d weight": gradients[1].numpy()}


def plainly(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    losses = TF.cross_entropy(x @ weight.T, targets, reduction="none")
    return losses.mean() if weights is None else (losses * weights).sum()


@given(
    rows=st.integers(1, 9), classes=st.integers(1, 6), piece=st.integers(1, 20), seed=st.integers(0, 1000),
    size=st.sampled_from([1.0, 30.0, 300.0]), kind=st.sampled_from(["ids", "distributions"]), weighted=st.booleans(),
)  # fmt: skip
def test_pieces_add_up_to_the_plain_loss(
    rows: int, classes: int, piece: int, seed: int, size: float, kind: str, weighted: bool
) -> None:
    random = np.random.default_rng(seed)
    x, weight = size * random.standard_normal((rows, 3)), random.standard_normal((classes, 3))
    targets: Any = random.integers(0, classes, rows)
    if kind == "distributions":
        targets = random.dirichlet(np.ones(classes), rows)
    weights = random.standard_normal(rows) if weighted else None
    given = x, weight, targets, weights
    expected = by_torch(*given, plainly)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op_file, "PIECE", piece)
        patch.setattr(torch_head, "PIECE", piece)
        for found in (by_numpy(*given), by_torch(*given)):
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value, 1e-10, 1e-10 * size, err_msg=name)


def test_rows_of_weight_0_are_left_out() -> None:
    """Whatever their targets are; with the others at 1/N the loss is the mean of these."""
    random = np.random.default_rng(0)
    x, weight, targets = random.standard_normal((6, 3)), random.standard_normal((4, 3)), random.integers(0, 4, 6)
    mask = np.array([True, False, True, True, False, False])
    for way in (by_numpy, by_torch):
        found, expected = way(x, weight, targets, mask / 3.0), way(x[mask], weight, targets[mask], None)
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-12)
        np.testing.assert_allclose(found["d x"][mask], expected["d x"], 1e-12, 1e-15)
        assert not found["d x"][~mask].any()
        np.testing.assert_allclose(found["d weight"], expected["d weight"], 1e-12, 1e-15)


def test_a_target_outside_the_classes_is_refused() -> None:
    for wrong in (-1, 4):
        with pytest.raises(IndexError, match="one of the 4 classes, 0 to 3"):
            by_numpy(np.ones((2, 3)), np.ones((4, 3)), np.array([0, wrong]), None)


@pytest.mark.parametrize("tie_weights", [False, True])
def test_loss_of_the_model_is_that_of_its_logits(tie_weights: bool) -> None:
    config = replace(CONFIG, tie_weights=tie_weights)
    ids, targets = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 3, 8))
    weights = np.random.default_rng(1).standard_normal((3, 8))
    ours, theirs = gpt_numpy.GPT(config, dtype=np.float64), gpt_torch.GPT(config, dtype=torch.float64)
    for model, tensor in ((ours, mt.tensor), (theirs, torch.tensor)):
        made: Any = tensor
        name_of: Any = model
        _, plain = name_of(made(ids), made(targets))
        plain.backward()
        expected = {name: np.array(p.grad.numpy()) for name, p in name_of.named_parameters()}
        name_of.zero_grad()
        loss = name_of.loss(made(ids), made(targets))
        loss.backward()
        assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
        for name, p in name_of.named_parameters():
            np.testing.assert_allclose(p.grad.numpy(), expected[name], 1e-9, 1e-12, err_msg=name)
    distributions = np.eye(CONFIG.vocab_size)[targets]
    losses = [
        ours.loss(mt.tensor(ids), mt.tensor(targets), mt.tensor(weights)).item(),
        ours.loss(mt.tensor(ids), mt.tensor(distributions), mt.tensor(weights)).item(),
        theirs.loss(torch.tensor(ids), torch.tensor(targets), torch.tensor(weights)).item(),
        theirs.loss(torch.tensor(ids), torch.tensor(distributions), torch.tensor(weights)).item(),
    ]
    np.testing.assert_allclose(losses, losses[0], 1e-12)


def test_logits_of_a_large_vocabulary_do_not_exist_at_once() -> None:
    """4,096 rows and 30,000 classes: 492 MB of logits."""
    N, V, C = 4096, 30_000, 8
    random = np.random.default_rng(0)
    x, weight = (random.standard_normal(shape, np.float32) for shape in ((N, C), (V, C)))
    tracemalloc.start()
    forward, backward = op_file.linear_cross_entropy_forward, op_file.linear_cross_entropy_backward
    y, saved = forward(x, weight, targets=random.integers(0, V, N))
    backward(np.ones_like(y), *saved)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6


def test_gradient_of_many_pieces_is_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, as autocast adds up the gradients of a parameter, a sum of 128 has an error of 1.4 %."""
    random = np.random.default_rng(0)
    arrays = random.standard_normal((512, 32)), 0.1 * random.standard_normal((64, 32))
    targets = random.integers(0, 64, 512)
    expected = by_torch(*arrays, targets, None, plainly)["d weight"]
    monkeypatch.setattr(torch_head, "PIECE", 4 * 64)
    x, weight = (torch.tensor(array, dtype=torch.float32, requires_grad=True) for array in arrays)
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch_head.linear_cross_entropy(x, weight, torch.tensor(targets))
    (found,) = torch.autograd.grad(loss * 2.0, weight)
    assert found.dtype == torch.float32
    assert np.linalg.norm(found.numpy() - expected) < 0.005 * np.linalg.norm(expected)


def test_no_rows_have_no_loss() -> None:
    x, weight, none = np.ones((0, 3)), np.ones((4, 3)), np.zeros(0, int)
    y, (dx, dweight) = op_file.linear_cross_entropy_forward(x, weight, targets=none)
    assert y == 0.0
    assert dx.shape == (0, 3)
    assert not dweight.any()


def test_loss_without_gradients_makes_none() -> None:
    x, weight = mt.ones(4, 3, requires_grad=True), mt.ones(5, 3, requires_grad=True)
    with mt.no_grad():
        loss = numpy_head.linear_cross_entropy(x, weight, mt.tensor([0, 1, 2, 3]))
    assert loss.item() == pytest.approx(np.log(5))
    assert not loss.requires_grad
    _, saved = op_file.linear_cross_entropy_forward(
        x.array, weight.array, targets=np.array([0, 1, 2, 3]), with_gradients=False
    )
    assert saved == (None, None)
