"""The gradient of each objective's logits, as objectives.py states it, in both libraries; and the classic mistakes."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gpt_numpy.objectives as by_hand
import gpt_torch.objectives as in_torch
import minitensor as mt

V, T = 5, 4
Array = np.ndarray[Any, Any]
seeds = st.integers(0, 10_000)


def gradients(objective: str, logits: Array, **arrays: Any) -> list[tuple[float, Array]]:
    """The loss and its gradient, by hand and in torch, of a model whose logits are given."""
    found = []
    ours: Any = mt.tensor(logits, requires_grad=True)
    given = {name: mt.tensor(a) if isinstance(a, np.ndarray) else a for name, a in arrays.items()}
    loss = by_hand.OBJECTIVES[objective](lambda _: (ours, None), **given)
    (d,) = mt.grad(loss, [ours])
    assert d is not None
    found.append((loss.item(), d.numpy()))
    theirs = torch.tensor(logits, requires_grad=True)
    given = {name: torch.tensor(a) if isinstance(a, np.ndarray) else a for name, a in arrays.items()}
    loss = in_torch.OBJECTIVES[objective](lambda _: (theirs, None), **given)
    found.append((loss.item(), torch.autograd.grad(loss, theirs)[0].numpy()))
    return found


def softmax(z: Array) -> Array:
    p = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(p / p.sum(-1, keepdims=True))


def of_targets(p: Array, targets: Array) -> Array:
    return np.take_along_axis(p, targets[..., None], -1)[..., 0]


@given(seed=seeds, clip=st.sampled_from([0.1, 0.5]), kl=st.booleans())
def test_policy(seed: int, clip: float, kl: bool) -> None:
    random = np.random.default_rng(seed)
    logits, targets = random.standard_normal((3, T, V)), random.integers(0, V, (3, T))
    weights, p = random.standard_normal((3, T)), softmax(logits)
    old = np.log(of_targets(p, targets)) + random.normal(0.0, 0.4, (3, T))
    ratio = of_targets(p, targets) / np.exp(old)
    r, kl_weights = random.dirichlet(np.ones(V), (3, T)), random.uniform(0.0, 1.0, (3, T))
    clipped = ((weights > 0) & (ratio > 1.0 + clip)) | ((weights < 0) & (ratio < 1.0 - clip))
    expected = (np.where(clipped, 0.0, ratio * weights))[..., None] * (p - np.eye(V)[targets])
    loss = -(np.where(clipped, np.clip(ratio, 1.0 - clip, 1.0 + clip), ratio) * weights).sum()
    rest = {}
    if kl:
        distance = (p * np.log(p / r)).sum(-1)
        expected += kl_weights[..., None] * p * (np.log(p / r) - distance[..., None])
        loss += (kl_weights * distance).sum()
        rest = {"log_r": np.log(r), "kl_weights": kl_weights}
    found = gradients("policy", logits, ids=targets, targets=targets, weights=weights, old=old, clip=clip, **rest)
    for value, gradient in found:
        assert value == pytest.approx(loss, rel=1e-9, abs=1e-12)
        np.testing.assert_allclose(gradient, expected, 1e-9, 1e-12)


@given(seed=seeds, beta=st.sampled_from([0.1, 2.0]))
def test_preference(seed: int, beta: float) -> None:
    random, P = np.random.default_rng(seed), 3
    logits, targets = random.standard_normal((2 * P, T, V)), random.integers(0, V, (P, 2, T))
    answer_mask = random.integers(0, 2, (P, 2, T)).astype(np.float64)
    reference = random.normal(-3.0, 1.0, (P, 2))
    p = softmax(logits).reshape(P, 2, T, V)
    margin = beta * (((np.log(of_targets(p, targets)) * answer_mask).sum(-1) - reference) @ [1.0, -1.0])
    sign = np.array([1.0, -1.0])[None, :, None, None]
    against = (1.0 / (1.0 + np.exp(margin)))[:, None, None, None]  # sigma(-m)
    expected = sign * beta * against / P * answer_mask[..., None] * (p - np.eye(V)[targets])
    found = gradients(
        "preference", logits, ids=targets, targets=targets, answer_mask=answer_mask, reference=reference, beta=beta
    )
    for value, gradient in found:
        assert value == pytest.approx(np.log1p(np.exp(-margin)).mean(), rel=1e-6)
        np.testing.assert_allclose(gradient, expected.reshape(logits.shape), 1e-6, 1e-9)


def test_gradient_of_kl_is_not_that_with_p_and_r_swapped() -> None:
    random = np.random.default_rng(0)
    logits, r = random.standard_normal((1, 1, V)), random.dirichlet(np.ones(V), (1, 1))
    p, none = softmax(logits), np.zeros((1, 1))
    arrays = {"ids": np.zeros((1, 1), int), "targets": np.zeros((1, 1), int), "weights": none, "old": none, "clip": 0.2}
    for _, gradient in gradients("policy", logits, log_r=np.log(r), kl_weights=none + 1.0, **arrays):
        distance = (p * np.log(p / r)).sum(-1, keepdims=True)
        np.testing.assert_allclose(gradient, p * (np.log(p / r) - distance), 1e-9)
        assert np.abs(gradient - (p - r)).max() > 0.05


def test_advantage_is_a_number_that_no_gradient_goes_through() -> None:
    """A baseline that depends on the model, such as the expected reward, would else bring a gradient of its own."""
    random = np.random.default_rng(0)
    logits, targets, rewards = random.standard_normal((1, T, V)), random.integers(0, V, (1, T)), random.random(V)
    z = torch.tensor(logits, requires_grad=True)
    p, r = z.softmax(-1), torch.tensor(rewards)
    A = r[targets] - p @ r
    log_p = p.gather(-1, torch.tensor(targets)[..., None])[..., 0].log()
    right, wrong = (torch.autograd.grad(-(each * log_p).sum(), z, retain_graph=True)[0] for each in (A.detach(), A))
    old = log_p.detach().numpy()
    arrays = {"ids": targets, "targets": targets, "weights": A.detach().numpy(), "old": old, "clip": 0.2}
    for _, gradient in gradients("policy", logits, **arrays):
        np.testing.assert_allclose(gradient, right.numpy(), 1e-9, 1e-12)
        assert np.abs(gradient - wrong.numpy()).max() > 0.05
