"""gpt_numpy's model: parameters, initial weights, gradients, dropout, window, and invalid inputs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import minitensor as mt
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.cache import Cache
from gpt_numpy.model import Block, CausalSelfAttention
from gpt_numpy.workshop.generate import window_start
from gpt_numpy.workshop.params import initial_weights, parameter_count, parameter_shapes

SMALL = GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8)
VARIANTS = {
    "plain": SMALL,
    "without biases": replace(SMALL, bias=False),
    "tied": replace(SMALL, tie_weights=True),
    "tanh": replace(SMALL, gelu="tanh"),
    "one head": replace(SMALL, n_head=1),
    "with dropout": replace(SMALL, dropout=0.2),
}


def ids(rows: int, columns: int, config: GPTConfig = SMALL, seed: int = 0) -> mt.Tensor:
    return mt.tensor(np.random.default_rng(seed).integers(0, config.vocab_size, (rows, columns)))


def model_with_large_weights(config: GPTConfig, dtype: type = np.float64) -> GPT:
    """A model whose weights are large enough for every part to matter, biases and layer norms too."""
    model = GPT(config, dtype=dtype)
    random = np.random.default_rng(5)
    for parameter in model.parameters():
        parameter.data = parameter.array + 0.3 * random.standard_normal(parameter.shape)
    return model


# ---- parameters -------------------------------------------------------------------------------------------------


def test_number_of_parameters_of_the_full_model() -> None:
    assert parameter_count(GPTConfig()) == 10_795_776
    assert parameter_count(GPTConfig(tie_weights=True)) == 10_770_816
    block = [shape for name, shape in parameter_shapes(GPTConfig()).items() if name.startswith("blocks.3.")]
    assert sum(int(np.prod(shape)) for shape in block) == 1_774_464


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_names_and_shapes_match_parameter_shapes(config: GPTConfig) -> None:
    parameters = GPT(config).named_parameters()
    assert {name: p.shape for name, p in parameters} == parameter_shapes(config)


def test_parameter_names() -> None:
    block = [
        "ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias",
        "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
    ]  # fmt: skip
    assert list(GPT(SMALL).state_dict()) == [
        "tok_emb.weight", "pos_emb.weight", *(f"blocks.{i}.{name}" for i in range(2) for name in block),
        "ln_f.weight", "ln_f.bias", "lm_head.weight",
    ]  # fmt: skip


def test_tied_model_shares_one_table_under_two_names() -> None:
    model = GPT(replace(SMALL, tie_weights=True))
    assert model.lm_head.weight is model.tok_emb.weight
    assert "lm_head.weight" in model.state_dict()


# ---- initial weights --------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_weights() -> None:
    first, again, other = (GPT(SMALL, seed).state_dict() for seed in (3, 3, 4))
    for name, value in first.items():
        assert np.array_equal(value.numpy(), initial_weights(SMALL, 3)[name])
        assert np.array_equal(value.numpy(), again[name].numpy())
    assert not np.array_equal(first["tok_emb.weight"].numpy(), other["tok_emb.weight"].numpy())


def test_default_seed_is_0() -> None:
    for name, value in GPT(SMALL).state_dict().items():
        assert np.array_equal(value.numpy(), initial_weights(SMALL, 0)[name])


def test_scale_of_initial_weights() -> None:
    weights = initial_weights(GPTConfig(), 0)
    for name, weight in weights.items():
        if name.endswith("bias"):
            assert not weight.any()
        elif "ln_" in name:
            assert (weight == 1).all()
        else:
            expected = 0.02 / np.sqrt(12) if name.endswith("c_proj.weight") else 0.02
            assert weight.std() == pytest.approx(expected, rel=0.02), name


def test_initial_loss_is_that_of_a_uniform_guess() -> None:
    config = GPTConfig(block_size=32, n_layer=2, n_head=2, n_embd=32)
    _, loss = GPT(config)(ids(8, 32, config), ids(8, 32, config, seed=1))
    assert loss.item() == pytest.approx(np.log(65), abs=0.02)


# ---- gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [VARIANTS[name] for name in ("plain", "without biases", "tied", "tanh", "one head")])
def test_gradients_match_finite_differences(config: GPTConfig) -> None:
    """Along a random direction of each parameter in turn."""
    model = model_with_large_weights(config)
    x, y = ids(2, 7, config), ids(2, 7, config, seed=1)
    parameters = dict(model.named_parameters())
    gradients = mt.grad(model(x, y)[1], list(parameters.values()))
    random = np.random.default_rng(0)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        assert gradient is not None
        start, direction = parameter.array, random.standard_normal(parameter.shape)
        losses = []
        for step in (1e-5, -1e-5):
            parameter.data = start + step * direction
            losses.append(model(x, y)[1].item())
        parameter.data = start
        expected = (losses[0] - losses[1]) / 2e-5
        assert (gradient.numpy() * direction).sum() == pytest.approx(expected, rel=1e-5, abs=1e-9), name


def test_loss_is_mean_cross_entropy() -> None:
    model = model_with_large_weights(SMALL)
    x, y = ids(3, 5), ids(3, 5, seed=1)
    logits, loss = model(x, y)
    p = np.exp(logits.array) / np.exp(logits.array).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, y.numpy()[..., None], -1)).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert model(x)[1] is None


# ---- dropout and gelu -------------------------------------------------------------------------------------------


def test_dropout_is_active_only_in_training() -> None:
    model = model_with_large_weights(VARIANTS["with dropout"])
    x = ids(2, 8)
    assert not np.array_equal(model(x)[0].array, model(x)[0].array)
    model.eval()
    assert np.array_equal(model(x)[0].array, model_with_large_weights(SMALL)(x)[0].array)


@pytest.mark.parametrize("place", ["drop", "blocks.1.attn", "blocks.1.attn.drop", "blocks.1.mlp.drop"])
def test_each_dropout_layer_has_an_effect(place: str) -> None:
    model, x = model_with_large_weights(VARIANTS["with dropout"]), ids(2, 8)
    model.eval()
    plain = model(x)[0].array
    dict(model.named_modules())[place].training = True
    assert not np.array_equal(model(x)[0].array, plain)


@pytest.mark.parametrize(("gelu", "at_1"), [("exact", 0.8413447460685429), ("tanh", 0.8411919906082768)])
def test_gelu_form_follows_the_configuration(gelu: Any, at_1: float) -> None:
    mlp = GPT(replace(SMALL, gelu=gelu), dtype=np.float64).blocks[0].mlp
    assert mlp.gelu(mt.tensor(np.ones(1))).item() == pytest.approx(at_1, rel=1e-9)


# ---- the window -------------------------------------------------------------------------------------------------


def test_window_advances_by_quarters_of_the_context() -> None:
    starts = [window_start(length, 8) for length in range(17)]
    assert starts == [0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert [window_start(length, 1) for length in range(5)] == [0, 0, 1, 2, 3]
    for length in range(200):
        for block_size in (1, 2, 3, 5, 64):
            seen = length - window_start(length, block_size)
            assert min(length, block_size - block_size // 4) <= seen <= block_size


# ---- invalid inputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_embd": 10, "n_head": 3}, "n_embd 10 cannot be shared among n_head 3 heads: not divisible"),
        ({"vocab_size": 0}, "vocab_size is a whole number of at least 1, not 0"),
        ({"block_size": 0}, "block_size is a whole number of at least 1, not 0"),
        ({"n_layer": -1}, "n_layer is a whole number of at least 1, not -1"),
        ({"n_head": 2.0}, "n_head is a whole number of at least 1, not 2.0"),
        ({"n_embd": True}, "n_embd is a whole number of at least 1, not True"),
        ({"dropout": 1.0}, "dropout is a number of at least 0 and below 1, not 1.0"),
        ({"dropout": float("nan")}, "dropout is a number of at least 0 and below 1, not nan"),
        ({"bias": "no"}, "bias is True or False, not 'no'"),
        ({"gelu": "fast"}, "gelu is exact or tanh, not 'fast'"),
    ],
)
def test_invalid_configuration_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(") + "$"):
        GPTConfig(**settings)  # type: ignore[arg-type]


def test_invalid_inputs_are_refused() -> None:
    model = GPT(SMALL)
    with pytest.raises(ValueError, match="9 tokens do not fit the context, block_size 8"):
        model(ids(1, 9))
    with pytest.raises(ValueError, match=r"ids are \(B, T\), rows of tokens; given \(8,\)"):
        model(mt.tensor(np.arange(8)))
    with pytest.raises(ValueError, match=r"targets \(1, 7\) go with ids \(1, 8\)"):
        model(ids(1, 8), ids(1, 7))
    for wrong in (-1, 11):
        with pytest.raises(IndexError, match=f"id {wrong} is outside the table, which has rows 0 to 10"):
            model(mt.tensor(np.array([[wrong]])))
        with pytest.raises(IndexError, match=f"target {wrong} is not one of the 11 classes"):
            model(ids(1, 1), mt.tensor(np.array([[wrong]])))


@pytest.mark.parametrize("kind", [CausalSelfAttention, Block])
def test_layer_made_alone_is_the_first(kind: type[CausalSelfAttention] | type[Block]) -> None:
    config = GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4)
    cache = Cache(config, dtype=np.float64)
    x = mt.tensor(np.random.default_rng(0).standard_normal((1, 3, 4)))
    with mt.no_grad():
        kind(config).double()(x, cache)
    assert np.abs(cache.keys[0][0, 0]).max(-1).astype(bool).tolist() == [True, True, True, False]
