"""Optimizers against torch's, with the same random gradients."""

from typing import Any

import numpy as np
import pytest
import torch

import minitensor as mt
from minitensor.optim import SGD, AdamW, Muon, clip_grad_norm_, clip_grads_with_norm_, get_total_norm
from minitensor.optim.muon import newton_schulz

SHAPES = [(3, 4), (4,), (2, 2, 2), (), (150, 200)]  # the last is updated in pieces, see minitensor/arrays.py

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd, defaults": ("SGD", {}),
    "sgd, momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd, dampening and decay": ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    "sgd, nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adamw, defaults": ("AdamW", {}),
    "adamw, all settings": ("AdamW", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.2}),
    "adam, defaults": ("Adam", {}),
    "adam, all settings": ("Adam", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.2}),
    "adamw, no decay, betas 0": ("AdamW", {"lr": 0.1, "betas": (0.0, 0.0), "weight_decay": 0.0}),
}


def make_parameters(dtype: Any = np.float64) -> tuple[list[torch.Tensor], list[mt.Tensor]]:
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    return [torch.tensor(v).requires_grad_() for v in values], [mt.tensor(v, requires_grad=True) for v in values]


def set_gradients(theirs: list[torch.Tensor], ours: list[mt.Tensor], seed: int, missing: int | None = None) -> None:
    rng = np.random.default_rng(seed)
    for i, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        g = rng.standard_normal(b.shape) * 10.0 ** rng.integers(-3, 2)
        a.grad = None if i == missing else torch.tensor(g).to(a.dtype)
        b.grad = None if i == missing else mt.tensor(g.astype(b.dtype))


def assert_close(theirs: list[torch.Tensor], ours: list[mt.Tensor], rtol: float = 1e-12) -> None:
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(b.detach().numpy(), a.detach().numpy(), rtol, rtol)


PIECES = [1 << 18, 10_000]


def test_some_parameter_is_larger_than_a_piece() -> None:
    sizes = [int(np.prod(shape)) for shape in SHAPES]
    assert max(sizes) > min(PIECES) > min(sizes)


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("name", list(SETTINGS))
def test_thirty_steps_with_missing_grads_match_torch(name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitensor.arrays.PIECE", piece)
    kind, settings = SETTINGS[name]
    theirs, ours = make_parameters()
    a, b = getattr(torch.optim, kind)(theirs, **settings), getattr(mt.optim, kind)(ours, **settings)
    for step in range(30):
        set_gradients(theirs, ours, step, missing=step % 5)
        a.step()
        b.step()
        assert_close(theirs, ours)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_parameter_groups_match_torch(kind: str) -> None:
    theirs, ours = make_parameters()

    def groups(p: list[Any]) -> list[dict[str, Any]]:
        return [{"params": p[:2], "lr": 0.3, "weight_decay": 0.5}, {"params": iter(p[2:])}]

    a, b = getattr(torch.optim, kind)(groups(theirs), lr=0.01), getattr(mt.optim, kind)(groups(ours), lr=0.01)
    for step in range(5):
        for optimizer in (a, b):
            optimizer.param_groups[1]["lr"] = 0.02 * (step + 1)  # as a schedule does
        set_gradients(theirs, ours, step)
        a.step()
        b.step()
    assert_close(theirs, ours)


MUONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no nesterov": {"lr": 0.1, "nesterov": False, "momentum": 0.8},
    "scale of adamw": {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0},
    "other coefficients": {"lr": 0.1, "ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 3, "adjust_lr_fn": "original"},
    "a large eps": {"lr": 0.1, "eps": 30.0},
}


@pytest.mark.parametrize("settings", MUONS.values(), ids=MUONS)
def test_muon_matches_torch_in_float64(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's Muon uses bfloat16, which leaves two correct digits after 5 steps; here it is patched to float64."""
    theirs = [torch.tensor(p).requires_grad_() for p in make_matrices()]
    ours = [mt.tensor(p, requires_grad=True) for p in make_matrices()]
    a: Any = torch.optim.Muon(theirs, **settings)
    b = Muon(ours, **settings)
    monkeypatch.setattr(torch, "bfloat16", torch.float64)
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.double().clone())
    for step in range(8):
        set_gradients(theirs, ours, step, missing=step % 5)
        a.step()
        b.step()
        assert_close(theirs, ours, rtol=1e-11)


def make_matrices() -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in ((3, 4), (8, 5), (6, 6), (1, 7))]


def test_newton_schulz_keeps_singular_vectors_and_evens_out_singular_values() -> None:
    u, _, v = np.linalg.svd(np.random.default_rng(0).standard_normal((20, 12)), full_matrices=False)
    sizes = np.geomspace(0.005, 1.0, 12)
    for matrix, left, right in (((u * sizes) @ v, u, v), (((u * sizes) @ v).T, v.T, u.T)):
        product = left.T @ newton_schulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7) @ right.T
        np.testing.assert_allclose(product, np.diag(np.diag(product)), atol=1e-12)
        assert np.all((np.diag(product) > 0.68) & (np.diag(product) < 1.21))


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "Muon"])
def test_defaults_match_torch(kind: str) -> None:
    theirs, ours = make_parameters()
    if kind == "Muon":
        theirs, ours = theirs[:1], ours[:1]
    a, b = getattr(torch.optim, kind)(theirs).defaults, getattr(mt.optim, kind)(ours).defaults
    assert {name: a[name] for name in b} == b


def test_float32_stays_float32() -> None:
    theirs, ours = make_parameters(np.float32)
    a, b = torch.optim.AdamW(theirs, lr=0.05), AdamW(ours, lr=0.05)
    for step in range(30):
        set_gradients(theirs, ours, step)
        a.step()
        b.step()
    assert all(p.dtype == np.float32 for p in ours)
    assert_close(theirs, ours, rtol=2e-5)


def test_resumed_optimizer_takes_the_same_steps() -> None:
    for make in (
        lambda p: AdamW(p, lr=0.1),
        lambda p: SGD(p, lr=0.1, momentum=0.9),
        lambda p: Muon([p[0], p[4]], lr=0.1),
    ):
        _, uninterrupted = make_parameters()
        one = make(uninterrupted)
        for step in range(4):
            set_gradients(make_parameters()[0], uninterrupted, step)
            one.step()
        state = one.state_dict()
        resumed = [mt.tensor(p.detach(), requires_grad=True) for p in uninterrupted]
        two = make(resumed)
        two.load_state_dict(state)
        for step in range(4, 8):
            for params, optimizer in ((uninterrupted, one), (resumed, two)):
                set_gradients(make_parameters()[0], params, step)
                optimizer.step()
        assert all(np.array_equal(p.array, q.array) for p, q in zip(uninterrupted, resumed, strict=True))


def test_state_dict_is_a_snapshot_and_invalid_one_is_refused() -> None:
    _, ours = make_parameters()
    optimizer = AdamW(ours)
    set_gradients(make_parameters()[0], ours, 0)
    optimizer.step()
    state = optimizer.state_dict()
    before = state["state"][0]["exp_avg"].copy()
    optimizer.step()
    assert np.array_equal(state["state"][0]["exp_avg"], before)
    with pytest.raises(ValueError, match=r"its groups have \[1\] parameters, the state's have \[5\]"):
        AdamW(ours[:1]).load_state_dict(state)
    with pytest.raises(ValueError, match=r"exp_avg of parameter 0 is \(3, 4\), not \(4,\)"):
        AdamW([ours[1], ours[0], *ours[2:]]).load_state_dict(state)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clip_grad_norm_matches_torch(norm_type: float, max_norm: float) -> None:
    theirs, ours = make_parameters()
    set_gradients(theirs, ours, 0, missing=1)
    a = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    b = clip_grad_norm_(iter(ours), max_norm, norm_type)
    np.testing.assert_allclose(b.item(), a.item(), 1e-12)
    for p, q in zip(theirs, ours, strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None and q.grad is not None:
            np.testing.assert_allclose(q.grad.numpy(), p.grad.numpy(), 1e-12)


def test_get_total_norm_and_clip_grads_with_norm_match_torch() -> None:
    """The total norm also includes gradients of other parameters."""
    theirs, ours = make_parameters()
    set_gradients(theirs, ours, 0, missing=1)
    a = torch.nn.utils.get_total_norm([p.grad for p in theirs if p.grad is not None])
    b = get_total_norm(p.grad for p in ours if p.grad is not None)
    np.testing.assert_allclose(b.item(), a.item(), 1e-12)
    torch.nn.utils.clip_grads_with_norm_(theirs[:2], 0.5, a)
    clip_grads_with_norm_(ours[:2], 0.5, b)
    clip_grads_with_norm_(ours[2], 1e9, b.item())
    for p, q in zip(theirs, ours, strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None and q.grad is not None:
            np.testing.assert_allclose(q.grad.numpy(), p.grad.numpy(), 1e-12)
    assert get_total_norm([]).item() == 0.0


def test_clip_grad_norm_of_nonfinite_gradients() -> None:
    _, ours = make_parameters()
    set_gradients(make_parameters()[0], ours, 0)
    ours[1].grad = mt.tensor(np.full(4, np.nan))
    with pytest.raises(RuntimeError, match="norm of the gradients is nan"):
        clip_grad_norm_(ours, 1.0, error_if_nonfinite=True)
    assert np.isnan(clip_grad_norm_(ours, 1.0).item())
    assert np.isnan(ours[0].grad.numpy()).all()  # type: ignore[union-attr]
    assert clip_grad_norm_([mt.ones(2)], 1.0).item() == 0.0


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_numpy_scalars_as_settings_and_scalar_parameters(kind: str) -> None:
    p = mt.tensor(2.0, requires_grad=True)
    optimizer = getattr(mt.optim, kind)([p], weight_decay=np.float64(0.1))
    optimizer.param_groups[0]["lr"] = np.float64(0.5) * np.cos(0.0)
    p.grad = mt.tensor(1.0)
    optimizer.step()
    assert isinstance(p.array, np.ndarray)
    assert p.dtype == np.float32
    assert not p.array.flags.writeable
    clip_grad_norm_([p], np.float64(0.1))
    assert p.grad.dtype == np.float32


def test_settings_are_restored_with_the_state() -> None:
    _, ours = make_parameters()
    optimizer = AdamW(ours, lr=0.5)
    optimizer.param_groups[0]["lr"] = 0.25
    state = optimizer.state_dict()
    fresh = AdamW(ours, lr=0.1)
    fresh.load_state_dict(state)
    assert fresh.param_groups[0]["lr"] == 0.25
    set_gradients(make_parameters()[0], ours, 0)
    fresh.step()
    fresh.load_state_dict(state)
    assert not fresh.state  # the state is replaced, not merged


def test_zero_grad() -> None:
    _, ours = make_parameters()
    optimizer = SGD(ours)
    set_gradients(make_parameters()[0], ours, 0, missing=0)
    optimizer.zero_grad(set_to_none=False)
    assert ours[0].grad is None
    assert ours[1].grad is not None
    assert ours[1].grad.tolist() == [0.0] * 4
    optimizer.zero_grad()
    assert all(p.grad is None for p in ours)


def test_invalid_parameters_and_settings_are_refused() -> None:
    x = mt.ones(2, requires_grad=True)
    for make, message in (
        (lambda: SGD([]), "list of parameters is empty"),
        (lambda: SGD([x, x]), r"shape \(2,\) is given twice"),
        (lambda: SGD([x * 2.0]), "only leaf tensors"),
        (lambda: SGD([x], lr=-1.0), "lr cannot be negative"),
        (lambda: SGD([x], nesterov=True), "nesterov needs a momentum"),
        (lambda: SGD([x], momentum=0.9, dampening=0.1, nesterov=True), "nesterov needs a momentum and no dampening"),
        (lambda: SGD([x], weight_decay=-1.0), "weight_decay cannot be negative"),
        (lambda: AdamW([x], eps=-1.0), "eps cannot be negative"),
        (lambda: AdamW([x], betas=(-0.1, 0.9)), "betas are two numbers at least 0"),
        (lambda: SGD([{"params": x}, {"params": x}]), "is given twice"),
        (lambda: SGD([{"lr": 1.0}]), 'a group is a dict with "params"'),
        (lambda: AdamW([x], betas=(0.9, 1.0)), "betas are two numbers at least 0 and below 1"),
        (lambda: AdamW([{"params": [x], "speed": 3}]), "no setting is called 'speed'"),
        (lambda: Muon([x]), r"only matrices can be made orthogonal, not a parameter of shape \(2,\)"),
        (lambda: Muon([mt.ones(2, 2)], adjust_lr_fn="none"), "adjust_lr_fn is None, "),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_state_in_any_memory_layout_is_updated() -> None:
    p = mt.Tensor(np.ones((2, 3)), requires_grad=True)
    optimizer = mt.optim.AdamW([p])
    state = {"step": 1, **{name: np.ones((3, 2)).T for name in ("exp_avg", "exp_avg_sq")}}  # in Fortran order
    optimizer.load_state_dict({"state": {0: state}, "param_groups": [{**optimizer.defaults, "params": [0]}]})
    p.grad = mt.Tensor(np.full((2, 3), 2.0))
    optimizer.step()
    np.testing.assert_allclose(optimizer.state[p]["exp_avg"], 0.9 + 0.2)
    optimizer.state[p]["exp_avg"] = np.ones((3, 2)).T
    with pytest.raises(ValueError, match="contiguous"):
        optimizer.step()


# ---- settings that a schedule assigns ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "Muon"])
@pytest.mark.parametrize("of", [mt.tensor, np.array, np.float64], ids=["tensor", "array", "NumPy's"])
def test_settings_may_be_tensors_and_arrays_of_one_number(kind: str, of: Any) -> None:
    def train(made: Any) -> Any:
        p = mt.tensor([[1.0, 2.0]], requires_grad=True)
        optimizer = getattr(mt.optim, kind)([p], lr=made(0.5))
        for lr in (0.1, 0.2, 0.3):
            optimizer.param_groups[0]["lr"] = made(lr)
            optimizer.param_groups[0]["weight_decay"] = made(0.1)
            if "betas" in optimizer.param_groups[0]:
                optimizer.param_groups[0]["betas"] = (made(0.5), made(0.75))
            p.grad = p.detach() * 3.0
            optimizer.step()
        assert p.dtype == np.float32
        return p.tolist()

    np.testing.assert_allclose(train(of), train(float), 1e-6)


def test_settings_are_checked_before_a_step() -> None:
    p = mt.ones(2, requires_grad=True)
    optimizer = mt.optim.AdamW([p])
    p.grad = mt.ones(2)
    for lr, message in (("0.1", "lr is a number"), (None, "lr is a number"), (-1.0, "lr cannot be negative")):
        optimizer.param_groups[0]["lr"] = lr
        with pytest.raises((TypeError, ValueError), match=message):
            optimizer.step()
    assert p.tolist() == [1.0, 1.0]


def test_state_of_another_model_is_refused() -> None:
    p = mt.ones(2, requires_grad=True)
    optimizer = mt.optim.Adam([p])
    p.grad = mt.ones(2)
    optimizer.step()
    saved = optimizer.state_dict()
    for number in (-1, 1):
        with pytest.raises(ValueError, match=f"no parameter {number}, only 0 to 0"):
            optimizer.load_state_dict({**saved, "state": {number: saved["state"][0]}})
    model = mt.nn.Linear(1, 1)
    optimizer = mt.optim.Adam(model.parameters())
    for _ in range(2):
        model(mt.ones(1, 1)).sum().backward()
        optimizer.step()
    model.double()
    with pytest.raises(RuntimeError, match="make a new optimizer"):
        optimizer.step()
