"""Random layers, made with drawn arguments, given the same weights in both libraries, and called."""

import inspect
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from minitensor import nn
from tests.minitensor.fuzz import (
    DOUBLES,
    EMPTY,
    FLAGS,
    FLOATS,
    INTEGERS,
    REFUSALS,
    TENSORS,
    WRONG,
    Given,
    Outcome,
    array,
    backward,
    dtype,
    numbers,
    plain,
    several,
    written,
)

LAYERS = sorted(
    name
    for name, kind in vars(nn).items()
    if inspect.isclass(kind) and issubclass(kind, nn.Module) and kind is not nn.Module and not name.startswith("_")
)
OFTEN = [
    "CrossEntropyLoss",
    "Embedding",
    "LayerNorm",
    "Linear",
    "MSELoss",
    "Sequential",
] * 3  # the rest has few arguments
CONTAINERS = {"Sequential", "ModuleList"}
LOSSES = {"MSELoss", "CrossEntropyLoss"}
weights = np.random.default_rng(12)

BY_NAME: dict[str, list[Given]] = {
    "in_features": several(3, 3, 3, 2, 1, 0, -1, 3.0),
    "out_features": several(2, 3, 4, 0, -1),
    "bias": FLAGS,
    "num_embeddings": several(3, 5, 2, 0, -1),
    "embedding_dim": several(3, 2, 0, -1),
    "padding_idx": several(None, 0, 2, -1, -3, 7, -9),
    "normalized_shape": several(3, (3,), [2, 3], (2, 3), 0, (), 2, -1),
    "eps": several(1e-5, 0.1, 0.0, 1),
    "elementwise_affine": FLAGS,
    "p": several(0.0, 1.0, 0, 1, 2.0, -0.1, "a", None),
    "approximate": several("none", "tanh", "median"),
    "weight": [array("float32", weights.uniform(0.1, 2.0, size).astype(np.float32)) for size in (3, 3, 2)]
    + several(None),
    "ignore_index": several(-100, 0, 1),
    "reduction": several("mean", "sum", "none", "median"),
    "label_smoothing": several(0.0, 0.1, 1.0, 2.0),
    "dtype": [*map(dtype, ("float32", "float64", "float64", "int64")), *several(None, float)],
}


@dataclass(frozen=True)
class Layer:
    name: str
    inputs: list[Given | list[Given]]
    settings: dict[str, Given | list[Given]]
    training: bool
    called: list[Given]

    def __str__(self) -> str:
        return f"{self.construction()}{'' if self.training else '.eval()'}({written(self.called, {})})"

    def construction(self) -> str:
        return f"nn.{self.name}({written(self.inputs, self.settings)})"

    def run(self, library: Any) -> Outcome:
        called = [given.make(library) for given in self.called]
        try:
            layer = self.make(library)
            assert layer.train(self.training) is layer
            named = list(layer.named_parameters())
            for i, (_, parameter) in enumerate(named):
                values = np.random.default_rng(i).uniform(-1.5, 1.5, tuple(parameter.shape))
                parameter.data = library.tensor(values.astype(str(parameter.dtype).removeprefix("torch.")))
            found = layer(*called)
            backward(library, [found])
            gradients = [x.grad for x in (*called, *(parameter for _, parameter in named))]
            state = layer.state_dict()
            seen = [found, [name for name, _ in named], list(state), *state.values()]
            return Outcome("", [*map(numbers, seen)], [*map(numbers, gradients)])
        except REFUSALS as error:
            return Outcome(f"{type(error).__name__}: {error}", [], [])

    def make(self, library: Any) -> Any:
        def passed(given: Given | list[Given]) -> Any:
            return [passed(one) for one in given] if isinstance(given, list) else given.make(library)

        settings = {name: passed(given) for name, given in self.settings.items()}
        return getattr(library.nn, self.name)(*map(passed, self.inputs), **settings)


def draw(chance: random.Random) -> Layer:
    training = chance.random() < 0.5
    name = chance.choice([*LAYERS, *OFTEN])
    inputs, settings = arguments(chance, name, training)
    called = [chance.choice([*FLOATS, *FLOATS, *DOUBLES, *EMPTY])]
    if chance.random() < 0.05:
        called = [chance.choice([*TENSORS, *WRONG])]
    elif name in LOSSES:
        called.append(chance.choice([*INTEGERS, *FLOATS]))
        if chance.random() < 0.5:
            called = chance.choice([[FLOATS[0], INTEGERS[2]], [FLOATS[4], FLOATS[0]], [FLOATS[1], INTEGERS[3]]])
    elif name == "Embedding":
        called = [chance.choice(INTEGERS)]
    return Layer(name, inputs, settings, training, called)


def arguments(chance: random.Random, name: str, training: bool) -> tuple[list[Any], dict[str, Any]]:
    inputs: list[Given | list[Given]] = []
    settings: dict[str, Given | list[Given]] = {}
    if name in CONTAINERS:
        kinds = [kind for kind in LAYERS if kind not in LOSSES | {"Embedding"}]
        inside: list[Given | list[Given]] = [
            part(chance, chance.choice(kinds), training) for _ in range(chance.choice([0, 1, 2, 3]))
        ]
        return (inside if name == "Sequential" else [inside]), {}
    for i, parameter in enumerate([*inspect.signature(getattr(nn, name)).parameters.values()]):
        own = parameter.name
        if parameter.default is not parameter.empty and own != "p" and chance.random() < 0.5:
            continue
        given = chance.choice(BY_NAME[own])
        if own == "p" and not training and chance.random() < 0.3:
            given = plain(0.5)
        elif own != "p" and chance.random() < 0.03:
            given = chance.choice(WRONG)
        if parameter.kind == parameter.KEYWORD_ONLY or len(inputs) < i or chance.random() < 0.4:
            settings[own] = given
        else:
            inputs.append(given)
    return inputs, settings


def part(chance: random.Random, name: str, training: bool) -> Given:
    """Of a container."""
    if chance.random() < 0.03:
        return chance.choice(WRONG)
    layer = Layer(name, *arguments(chance, name, training), training, [])
    return Given(layer.construction(), layer.make)
