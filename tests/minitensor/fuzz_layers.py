"""Random layers with random arguments: constructed, given the same weights in both libraries, and called."""

import inspect
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from minitensor import nn
from tests.minitensor.fuzz import (
    DOUBLES,
    EMPTY,
    ERRORS,
    FLAGS,
    FLOATS,
    INTEGERS,
    TENSORS,
    WRONG,
    Argument,
    Outcome,
    array,
    backward,
    code_of_arguments,
    dtype,
    literal,
    literals,
    to_numpy,
)

LAYERS = sorted(
    name
    for name, kind in vars(nn).items()
    if inspect.isclass(kind) and issubclass(kind, nn.Module) and kind is not nn.Module and not name.startswith("_")
)
FREQUENT = [
    "CrossEntropyLoss",
    "Embedding",
    "LayerNorm",
    "Linear",
    "MSELoss",
    "Sequential",
] * 3  # the others have few arguments
CONTAINERS = {"Sequential", "ModuleList"}
LOSSES = {"MSELoss", "CrossEntropyLoss"}
weights_rng = np.random.default_rng(12)

BY_NAME: dict[str, list[Argument]] = {
    "in_features": literals(3, 3, 3, 2, 1, 0, -1, 3.0),
    "out_features": literals(2, 3, 4, 0, -1),
    "bias": FLAGS,
    "num_embeddings": literals(3, 5, 2, 0, -1),
    "embedding_dim": literals(3, 2, 0, -1),
    "padding_idx": literals(None, 0, 2, -1, -3, 7, -9),
    "normalized_shape": literals(3, (3,), [2, 3], (2, 3), 0, (), 2, -1),
    "eps": literals(1e-5, 0.1, 0.0, 1),
    "elementwise_affine": FLAGS,
    "p": literals(0.0, 1.0, 0, 1, 2.0, -0.1, "a", None),
    "approximate": literals("none", "tanh", "median"),
    "weight": [array("float32", weights_rng.uniform(0.1, 2.0, size).astype(np.float32)) for size in (3, 3, 2)]
    + literals(None),
    "ignore_index": literals(-100, 0, 1),
    "reduction": literals("mean", "sum", "none", "median"),
    "label_smoothing": literals(0.0, 0.1, 1.0, 2.0),
    "dtype": [*map(dtype, ("float32", "float64", "float64", "int64")), *literals(None, float)],
}


@dataclass(frozen=True)
class Layer:
    name: str
    inputs: list[Argument | list[Argument]]
    settings: dict[str, Argument | list[Argument]]
    training: bool
    call_inputs: list[Argument]

    def __str__(self) -> str:
        return f"{self.construction()}{'' if self.training else '.eval()'}({code_of_arguments(self.call_inputs, {})})"

    def construction(self) -> str:
        return f"nn.{self.name}({code_of_arguments(self.inputs, self.settings)})"

    def run(self, library: Any) -> Outcome:
        called = [argument.make(library) for argument in self.call_inputs]
        try:
            layer = self.make(library)
            assert layer.train(self.training) is layer
            named = list(layer.named_parameters())
            for i, (_, parameter) in enumerate(named):
                values = np.random.default_rng(i).uniform(-1.5, 1.5, tuple(parameter.shape))
                parameter.data = library.tensor(values.astype(str(parameter.dtype).removeprefix("torch.")))
            y = layer(*called)
            backward(library, [y])
            gradients = [x.grad for x in (*called, *(parameter for _, parameter in named))]
            state = layer.state_dict()
            observed = [y, [name for name, _ in named], list(state), *state.values()]
            return Outcome("", [*map(to_numpy, observed)], [*map(to_numpy, gradients)])
        except ERRORS as error:
            return Outcome(f"{type(error).__name__}: {error}", [], [])

    def make(self, library: Any) -> Any:
        def make(argument: Argument | list[Argument]) -> Any:
            return [make(part) for part in argument] if isinstance(argument, list) else argument.make(library)

        settings = {name: make(argument) for name, argument in self.settings.items()}
        return getattr(library.nn, self.name)(*map(make, self.inputs), **settings)


def draw(rng: random.Random) -> Layer:
    training = rng.random() < 0.5
    name = rng.choice([*LAYERS, *FREQUENT])
    inputs, settings = draw_arguments(rng, name, training)
    called = [rng.choice([*FLOATS, *FLOATS, *DOUBLES, *EMPTY])]
    if rng.random() < 0.05:
        called = [rng.choice([*TENSORS, *WRONG])]
    elif name in LOSSES:
        called.append(rng.choice([*INTEGERS, *FLOATS]))
        if rng.random() < 0.5:
            called = rng.choice([[FLOATS[0], INTEGERS[2]], [FLOATS[4], FLOATS[0]], [FLOATS[1], INTEGERS[3]]])
    elif name == "Embedding":
        called = [rng.choice(INTEGERS)]
    return Layer(name, inputs, settings, training, called)


def draw_arguments(rng: random.Random, name: str, training: bool) -> tuple[list[Any], dict[str, Any]]:
    inputs: list[Argument | list[Argument]] = []
    settings: dict[str, Argument | list[Argument]] = {}
    if name in CONTAINERS:
        kinds = [kind for kind in LAYERS if kind not in LOSSES | {"Embedding"}]
        children: list[Argument | list[Argument]] = [
            draw_child(rng, rng.choice(kinds), training) for _ in range(rng.choice([0, 1, 2, 3]))
        ]
        return (children if name == "Sequential" else [children]), {}
    for i, parameter in enumerate([*inspect.signature(getattr(nn, name)).parameters.values()]):
        key = parameter.name
        if parameter.default is not parameter.empty and key != "p" and rng.random() < 0.5:
            continue
        argument = rng.choice(BY_NAME[key])
        if key == "p" and not training and rng.random() < 0.3:
            argument = literal(0.5)
        elif key != "p" and rng.random() < 0.03:
            argument = rng.choice(WRONG)
        if parameter.kind == parameter.KEYWORD_ONLY or len(inputs) < i or rng.random() < 0.4:
            settings[key] = argument
        else:
            inputs.append(argument)
    return inputs, settings


def draw_child(rng: random.Random, name: str, training: bool) -> Argument:
    """A layer in a container."""
    if rng.random() < 0.03:
        return rng.choice(WRONG)
    layer = Layer(name, *draw_arguments(rng, name, training), training, [])
    return Argument(layer.construction(), layer.make)
