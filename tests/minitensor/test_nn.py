"""Modules against torch's: the same code builds both, and all names are the same."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import minitensor as mt
from minitensor import nn
from minitensor.optim import AdamW
from tests.minitensor.judge import upstream

rng = np.random.default_rng(3)


def build(nn: Any) -> Any:
    """A model with every layer and container."""

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(6)
            self.layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 6, bias=False)])
            self.act = nn.GELU(approximate="tanh")
            self.drop = nn.Dropout(0.0)

        def forward(self, x: Any) -> Any:
            return x + self.drop(self.layers[1](self.act(self.layers[0](self.norm(x)))))

    class Model(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.emb = nn.Embedding(5, 6)
            self.body = nn.Sequential(Block(), nn.GELU(), nn.LayerNorm((6,), eps=1e-3, bias=False))
            self.head = nn.Linear(6, 5, bias=False)
            self.head.weight = self.emb.weight  # tied

        def forward(self, ids: Any) -> Any:
            return self.head(self.body(self.emb(ids)))

    return Model()


def build_both() -> tuple[Any, Any]:
    """The same model in both libraries, in float64, with the same weights."""
    theirs, ours = build(torch.nn).double(), build(nn).double()
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    return theirs, ours


def test_same_names_shapes_and_order() -> None:
    theirs, ours = build_both()
    for listing in ("named_parameters", "state_dict"):
        a, b = (getattr(model, listing)() for model in (theirs, ours))
        a, b = (x.items() if isinstance(x, dict) else x for x in (a, b))
        assert [(name, tuple(p.shape)) for name, p in b] == [(name, tuple(p.shape)) for name, p in a]
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_same_outputs_and_gradients() -> None:
    theirs, ours = build_both()
    ids = rng.integers(0, 5, (2, 7))
    a, b = theirs(torch.tensor(ids)), ours(ids)
    np.testing.assert_allclose(b.detach().numpy(), a.detach().numpy(), 1e-12, 1e-12)
    dy = upstream(0)[: b.numel()].reshape(b.shape)
    a.backward(torch.tensor(dy))
    b.backward(dy)
    for (name, p), (_, q) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        np.testing.assert_allclose(q.grad.numpy(), p.grad.numpy(), 1e-10, 1e-12, err_msg=name)


def test_initial_weights_match_torch() -> None:
    """Equal standard deviations and mean absolute values."""
    mt.manual_seed(0)
    torch.manual_seed(0)
    makes: list[Callable[[Any], Any]] = [
        lambda nn: nn.Linear(300, 200).weight,
        lambda nn: nn.Linear(300, 20000).bias,
        lambda nn: nn.Embedding(300, 200).weight,
    ]
    for make in makes:
        ours, theirs = make(nn).detach().numpy(), make(torch.nn).detach().numpy()
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours.std(), theirs.std(), rtol=0.02)
        np.testing.assert_allclose(np.abs(ours).mean(), np.abs(theirs).mean(), rtol=0.02)
    assert nn.LayerNorm(4).weight.tolist() == [1.0] * 4  # type: ignore[union-attr]
    assert nn.LayerNorm(4).bias.tolist() == [0.0] * 4  # type: ignore[union-attr]
    assert nn.Embedding(3, 2, padding_idx=1).weight[1].tolist() == [0.0, 0.0]


def test_manual_seed_makes_weights_and_masks_reproducible() -> None:
    def draw() -> list[Any]:
        mt.manual_seed(5)
        return [nn.Linear(3, 3).weight.tolist(), mt.functional.dropout(mt.ones(50)).tolist(), mt.randn(2).tolist()]

    assert draw() == draw()


def test_dropout_is_active_only_in_training() -> None:
    mt.manual_seed(0)
    model, x = nn.Sequential(nn.Dropout(0.25)), mt.ones(4000)
    kept = model(x).numpy()
    assert set(np.unique(kept)) == {np.float32(0.0), np.float32(1 / 0.75)}
    assert abs(kept.mean() - 1.0) < 0.05
    assert not model.eval().training
    assert model(x) is x
    state = mt.random.generator().bit_generator.state
    model(x)
    assert mt.random.generator().bit_generator.state == state  # nothing was drawn
    assert model.train().training
    assert not np.array_equal(model(x).numpy(), model(x).numpy())


def test_dropout_draws_each_entry_independently() -> None:
    kept = mt.functional.dropout(mt.ones(50, 40)).numpy() > 0
    assert len({tuple(row) for row in kept.tolist()}) == 50
    q = mt.ones(2, 3, 40, 8)
    mt.manual_seed(0)
    once = mt.functional.scaled_dot_product_attention(q, q, mt.randn(2, 3, 40, 8), dropout_p=0.5).numpy()
    assert np.unique(once).size > 0.9 * once.size  # each query drops different keys, so hardly any results are equal


def test_threads_have_separate_generators() -> None:
    mt.manual_seed(1)
    expected = mt.randn(3).tolist()
    mt.manual_seed(1)
    thread = threading.Thread(target=lambda: (mt.manual_seed(2), mt.randn(100)))
    thread.start()
    thread.join()
    assert mt.randn(3).tolist() == expected


def test_sequential_and_module_list() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    model.append(nn.Tanh())
    assert [type(part).__name__ for part in model] == ["Linear", "ReLU", "Linear", "Tanh"]
    first = model[:2]
    x = mt.tensor([[1.0, -2.0]])
    np.testing.assert_array_equal(first(x).detach().numpy(), np.maximum(model[0](x).detach().numpy(), 0.0))
    assert isinstance(nn.ModuleList(model)[1:], nn.ModuleList)
    model.extra = nn.Linear(1, 1)
    assert "extra.weight" in dict(model.named_parameters())
    visited: list[str] = []
    model.apply(lambda part: visited.append(type(part).__name__))
    assert visited == ["Linear", "ReLU", "Linear", "Tanh", "Linear", "Sequential"]
    with pytest.raises(TypeError, match="holds modules, not int"):
        nn.ModuleList([3])  # type: ignore[list-item]


def test_layer_settings() -> None:
    assert nn.LayerNorm(3, elementwise_affine=False).weight is None
    assert nn.LayerNorm(3, elementwise_affine=False).bias is None
    assert not nn.Parameter(np.ones(2), requires_grad=False).requires_grad
    weight = nn.Linear(2, 2, dtype=np.float64).weight.array
    assert not np.array_equal(weight, weight.astype(np.float32))
    weight = nn.Embedding(2, 2, dtype=np.float64).weight.array
    assert not np.array_equal(weight, weight.astype(np.float32))
    embedding = nn.Embedding(3, 2, padding_idx=1)
    embedding(np.array([0, 1])).sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    frozen = nn.Linear(2, 2).requires_grad_(False).double()
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in frozen.requires_grad_(True).parameters())
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.Dropout(1.5)


def test_state_dict_is_a_snapshot() -> None:
    model = nn.Linear(3, 2)
    before = model.state_dict()
    values = before["weight"].tolist()
    optimizer = AdamW(model.parameters(), lr=0.1)
    model(mt.ones(1, 3)).sum().backward()
    optimizer.step()
    assert model.weight.tolist() != values
    assert before["weight"].tolist() == values
    model.load_state_dict(before)
    assert model.weight.tolist() == values


def test_load_state_dict_reports_all_mismatches_and_changes_nothing() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    before = {name: value.tolist() for name, value in model.state_dict().items()}
    wrong = {"0.weight": np.ones((3, 2)), "0.bias": np.ones(2), "1.scale": np.ones(2), "1.bias": np.ones(2)}
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(wrong)
    message = str(caught.value)
    assert "missing: 1.weight" in message
    assert "unexpected: 1.scale" in message
    assert "misshapen: 0.weight is (2, 3), given (3, 2)" in message
    with pytest.raises(RuntimeError, match="misshapen"):
        model.load_state_dict(wrong, strict=False)
    assert {name: value.tolist() for name, value in model.state_dict().items()} == before
    skipped = model.load_state_dict({"0.bias": np.ones(2), "other": np.ones(1)}, strict=False)
    assert skipped == (["0.weight", "1.weight", "1.bias"], ["other"])
    assert model[0].bias.tolist() == [1.0, 1.0]


def test_shared_parameter_is_listed_once() -> None:
    _, model = build_both()
    assert model.head.weight is model.emb.weight
    names = [name for name, _ in model.named_parameters()]
    assert "emb.weight" in names
    assert "head.weight" not in names
    model.load_state_dict({**model.state_dict(), "emb.weight": np.zeros((5, 6)), "head.weight": np.ones((5, 6))})
    assert model.emb.weight.tolist() == np.ones((5, 6)).tolist()


def test_double_and_float_convert_every_parameter() -> None:
    model = build(nn)
    assert {p.dtype for p in model.double().parameters()} == {np.dtype(np.float64)}
    assert {p.dtype for p in model.float().parameters()} == {np.dtype(np.float32)}
    assert model.head.weight is model.emb.weight
    ids = np.array([[1, 2]])
    assert model.double()(ids).dtype == np.float64
    model(ids).sum().backward()
    assert model.emb.weight.grad.dtype == np.float64


def test_zero_grad_and_requires_grad() -> None:
    model = nn.Linear(2, 2)
    model(mt.ones(1, 2)).sum().backward()
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    model.requires_grad_(False)
    assert not model(mt.ones(1, 2)).requires_grad


def test_module_without_forward_raises() -> None:
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty has no forward"):
        Empty()(1)


def test_repr_shows_the_tree() -> None:
    assert repr(build(nn)) == (
        "Model(\n"
        "  (emb): Embedding(5, 6)\n"
        "  (body): Sequential(\n"
        "    (0): Block(\n"
        "      (norm): LayerNorm((6,), eps=1e-05, elementwise_affine=True)\n"
        "      (layers): ModuleList(\n"
        "        (0): Linear(in_features=6, out_features=8, bias=True)\n"
        "        (1): Linear(in_features=8, out_features=6, bias=False)\n"
        "      )\n"
        "      (act): GELU(approximate='tanh')\n"
        "      (drop): Dropout(p=0.0)\n"
        "    )\n"
        "    (1): GELU(approximate='none')\n"
        "    (2): LayerNorm((6,), eps=0.001, elementwise_affine=True)\n"
        "  )\n"
        "  (head): Linear(in_features=6, out_features=5, bias=False)\n"
        ")"
    )


# ---- names, buffers, and replaced parameters --------------------------------------------------------------------


def build_shared(library: Any) -> Any:
    """One layer under two names."""

    class Tied(library.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.a = library.nn.Linear(2, 2)
            self.b = self.a
            self.blocks = library.nn.ModuleList([self.a, library.nn.Linear(2, 2)])

    return Tied()


def test_names_of_shared_module_match_torch() -> None:
    ours, theirs = build_shared(mt), build_shared(torch)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for listed in ("named_parameters", "named_modules", "named_children"):
        assert [n for n, _ in getattr(ours, listed)()] == [n for n, _ in getattr(theirs, listed)()], listed
    duplicates = [[n for n, _ in model.named_modules(remove_duplicate=False)] for model in (ours, theirs)]
    assert duplicates[0] == duplicates[1]
    visited: list[list[str]] = [[], []]
    for model, names in zip((ours, theirs), visited, strict=True):
        model.apply(lambda part, names=names: names.append(type(part).__name__))
    assert visited[0] == visited[1]
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    np.testing.assert_array_equal(ours.b.weight.array, theirs.a.weight.detach().numpy())


@pytest.mark.parametrize("library", [mt, torch])
def test_parameter_can_only_be_replaced_by_parameter_or_none(library: Any) -> None:
    layer = library.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="weight"):
        layer.weight = layer.weight * 0.5
    assert len(list(layer.parameters())) == 2
    layer.weight = library.nn.Parameter(layer.weight.detach() * 0.5)
    layer.bias = None
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    model = library.nn.Sequential(layer)
    model.part = layer
    with pytest.raises(TypeError, match="part"):
        model.part = 3


def build_buffered(library: Any, array: Any) -> Any:
    class Buffered(library.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", array)
            self.register_buffer("scratch", array, persistent=False)
            self.register_buffer("nothing", None)
            self.weight = library.nn.Parameter(array)

    return Buffered()


def test_buffers_are_saved_but_not_trained() -> None:
    ours, theirs = build_buffered(mt, mt.ones(2)), build_buffered(torch, torch.ones(2))
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight", "mask"]
    for listed in ("named_parameters", "named_buffers"):
        assert [n for n, _ in getattr(ours, listed)()] == [n for n, _ in getattr(theirs, listed)()]
    assert len(list(ours.buffers())) == len(list(theirs.buffers()))
    ours.load_state_dict({"weight": np.ones(2), "mask": np.array([0.0, 3.0])})
    assert ours.mask.tolist() == [0.0, 3.0]
    with pytest.raises(RuntimeError, match="missing: mask"):
        ours.load_state_dict({"weight": np.ones(2)})


def test_loss_and_activation_layers_match_torch() -> None:
    rng = np.random.default_rng(0)
    x, y, ids = rng.standard_normal((4, 3)), rng.standard_normal((4, 3)), np.array([0, 2, 1, -100])
    for name, target, settings in (
        ("MSELoss", y, {"reduction": "sum"}), ("CrossEntropyLoss", ids, {"label_smoothing": 0.1}),
        ("CrossEntropyLoss", ids, {"weight": np.array([1.0, 2.0, 0.5])}),
    ):  # fmt: skip
        losses = []
        for library in (mt, torch):
            given = {k: library.tensor(v) if isinstance(v, np.ndarray) else v for k, v in settings.items()}
            losses.append(getattr(library.nn, name)(**given)(library.tensor(x), library.tensor(target)).item())
        assert losses[0] == pytest.approx(losses[1], 1e-12), name
    for name in ("Sigmoid", "SiLU"):
        expected = getattr(torch.nn, name)()(torch.tensor(x)).numpy()
        np.testing.assert_allclose(getattr(nn, name)()(mt.tensor(x)).numpy(), expected, 1e-12)
    assert nn.utils.clip_grad_norm_ is mt.optim.clip_grad_norm_


# ---- layers that are replaced or converted ----------------------------------------------------------------------


@pytest.mark.parametrize("library", [torch, mt], ids=["torch", "minitensor"])
def test_layer_of_a_sequential_is_replaced_by_its_name(library: Any) -> None:
    layers = library.nn
    model = layers.Sequential(layers.Linear(2, 2), layers.ReLU(), layers.Linear(2, 2))
    for name, child in list(model.named_children()):
        if isinstance(child, layers.Linear):
            setattr(model, name, layers.Linear(2, 2, bias=False))
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()] == ["0.weight", "2.weight"]
    assert getattr(model, "0") is model[0] is next(iter(model))
    model.extra = layers.Linear(2, 7)
    assert len(model) == 4
    assert tuple(model(library.ones(1, 2)).shape) == (1, 7)


def test_converting_a_module_keeps_gradients_and_graphs() -> None:
    model = nn.Linear(2, 1)
    loss = model(mt.ones(1, 2)).sum()
    model.float()  # as it is
    loss.backward()
    assert model.weight.grad is not None
    model.double()
    assert model.weight.grad.dtype == model.weight.dtype == np.float64
    assert model.weight.grad.tolist() == [[1.0, 1.0]]
    for dtype in (np.int64, np.bool_):
        with pytest.raises(TypeError, match="computes in float32 or float64"):
            model.to(dtype)
    assert model.weight.dtype == np.float64


def test_repr_shows_a_shared_layer_each_time() -> None:
    layer = nn.ReLU()
    assert repr(nn.Sequential(layer, nn.Tanh(), layer)).count("ReLU") == 2
