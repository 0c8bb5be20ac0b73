"""Random calls of functions, tensor methods and losses, each argument drawn by its name in the signature."""

import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import minitensor
from minitensor import functional
from tests.minitensor.fuzz import (
    BOOLEANS,
    CONSTANTS,
    DOUBLES,
    DTYPES,
    EMPTY,
    FLAGS,
    FLOATS,
    INTEGERS,
    NUMBERS,
    OPERANDS,
    REFUSALS,
    TENSORS,
    WRONG,
    Given,
    Outcome,
    backward,
    numbers,
    plain,
    several,
    written,
)

# ---- what can be passed -----------------------------------------------------------------------------------------

STEPS = several(0, 1, 3, 0.5, 5.0, -1)
ONE_INDEX: tuple[object, ...] = (0, -1, 5, None, slice(None), slice(0, 1), [0, 1], [])
SEVERAL: tuple[object, ...] = ((0, slice(None)), (0, [0, 1]), (0, slice(None), [0, 0]))
INDICES = several(*ONE_INDEX, *SEVERAL, *SEVERAL)
DIMS = several(0, 0, 1, -1, 2, -3, None, (0, 1), (), (0, 0), [1], True, 0.5)
DATA = several(
    [[1, 2], [3, 4]], [1.0, 2], (2.5,), [], [[]], [[1], [2, 3]], [True, 2], [True], [None], ["1"], 2**40, [0.1, [2]],
    np.float64(0.5), np.array([1.0, 2.0]), np.array([1, 2], np.int32), np.array([True]), [np.float64(0.5)],
    [np.array([1.0])],
)  # fmt: skip

MATRICES = [one for one in [*FLOATS, *DOUBLES, *EMPTY] if one.text.count(",")]

BY_NAME: dict[str, list[Given]] = {
    **dict.fromkeys(("dim", "axis", "start_dim", "end_dim", "dim0", "dim1"), DIMS),
    **dict.fromkeys(("keepdim", "keepdims", "unbiased", "is_causal", "training", "enable_gqa", "requires_grad"), FLAGS),
    **dict.fromkeys(("other", "min", "max", "value"), OPERANDS),
    **dict.fromkeys(("condition", "mask"), BOOLEANS),
    "correction": several(0, 1, 2, 0.5),
    "alpha": NUMBERS,
    "diagonal": several(0, 1, -1, 5),
    "target": [*INTEGERS, *FLOATS],
    "reduction": several("mean", "sum", "none", "median"),
    "approximate": several("none", "tanh"),
    "label_smoothing": several(0.0, 0.1, 1.0, 2.0),
    "ignore_index": several(-100, 0, 1),
    "p": several(0.0, 1.0, 2.0),
    "split_size": several(1, 2, 5, 0, [1, 2], [1, 1], [3]),
    "chunks": several(1, 2, 5, 0),
    "normalized_shape": several((3,), (2, 3), [3], (), (4,)),
    "fill_value": [*NUMBERS, *several(300, 1e10)],
    **dict.fromkeys(("start", "end", "step"), STEPS),
    "scale": several(None, 0.3),
    "attn_mask": [plain(None), *BOOLEANS, *FLOATS],
    "dropout_p": several(0.0),
    "tensors": [],  # a list of some
    "data": [*NUMBERS, *WRONG, *DATA, *DATA],
    "exponent": [*NUMBERS, *TENSORS],
    "where": INDICES,
    "dtype": DTYPES,
    "embedding input": INTEGERS,
    "embedding weight": FLOATS,
    "cross_entropy input": [*FLOATS, *DOUBLES],
    "layer_norm input": [*FLOATS, *DOUBLES],
    "linear input": [*FLOATS, *DOUBLES, *EMPTY],
    **{f"__i{name}__ input": [*CONSTANTS, *FLOATS, *INTEGERS] for name in ("add", "sub", "mul", "truediv")},
    **dict.fromkeys([f"scaled_dot_product_attention {name}" for name in ("query", "key", "value")], MATRICES),
}

# Sizes, by what is done with them, as they are right for some of the tensors; mistakes are put among them.
RESHAPED: list[tuple[int, ...]] = [(3, 2), (6,), (-1,), (2, -1), (-1, 3), (3, 1), (1, 3, 1, -1), (0,), (-1, 0), (4, 3)]
RESHAPED += [(2, 0, 5), (), (1,)]
SIZES: dict[str, list[tuple[int, ...]]] = {
    "reshape": RESHAPED,
    "view": RESHAPED,
    "permute": [(1, 0), (0, 1), (-1, 0), (2, 0, 1), (0, -1, 1), (0,), (), (1, -2), (1, 1)],
    "expand": [(2, 3), (-1, 3), (4, 2, 3), (2, -1), (2, 3, 5), (3, 3), (5,), (), (0, 3), (2, -1, 2), (-1,)],
    **{name: [(2, 3), (3,), (), (0,), (2, 0), (1, 2, 1)] for name in ("zeros", "ones", "randn", "full")},
}
MISTAKES = several(None, 0.5, 2.0, True, -1, -2, -3, "a", (2,), [1], 7, 0, np.int64(2))
MISTAKES += [*INTEGERS[-1:], *FLOATS[3:4]]


def sizes(chance: random.Random, name: str) -> list[Given]:
    """As several numbers, or as a tuple or a list of them."""
    given = several(*chance.choice(SIZES[name]))
    if chance.random() < 0.25:
        mistake = chance.choice(MISTAKES)
        if given and chance.random() < 0.7:
            given[chance.randrange(len(given))] = mistake
        else:
            given.append(mistake)
    kind = chance.choice(["tuple", "list"] if name == "full" else ["several", "tuple", "list"])
    if kind == "several":
        return given
    words = ", ".join(one.text for one in given)
    if kind == "list":
        return [Given(f"[{words}]", lambda library: [one.make(library) for one in given])]
    return [Given(f"({words}{',' * (len(given) == 1)})", lambda library: tuple(one.make(library) for one in given))]


# ---- what can be called -----------------------------------------------------------------------------------------

OF_TORCH = {
    "abs", "add", "amax", "amin", "arange", "argmax", "argmin", "cat", "chunk", "clamp", "clip", "div", "erf",
    "exp", "flatten", "full", "log", "log_softmax", "logsumexp", "masked_fill", "matmul", "max", "maximum", "mean",
    "min", "minimum", "mul", "neg", "ones", "ones_like", "permute", "pow", "randn", "relu", "reshape", "sigmoid",
    "softmax", "split", "sqrt", "square", "squeeze", "stack", "std", "sub", "sum", "tanh", "tensor", "transpose",
    "tril", "triu", "unsqueeze", "var", "where", "zeros", "zeros_like",
}  # fmt: skip
METHODS = OF_TORCH - {"arange", "cat", "full", "ones", "ones_like", "randn", "stack", "tensor", "zeros", "zeros_like"}
METHODS |= {
    "all", "any", "float", "double", "long", "clone", "detach", "contiguous", "numel", "dim", "size", "tolist",
    "item", "to", "view", "expand", "requires_grad_", "retain_grad",
}  # fmt: skip
METHODS |= {f"__{name}__" for name in (
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "matmul", "rmatmul", "neg",
    "abs", "pos", "eq", "ne", "lt", "le", "gt", "ge", "invert", "and", "or", "rand", "ror", "getitem", "len",
    "bool", "int", "float", "index", "iadd", "isub", "imul", "itruediv",
)}  # fmt: skip
LAYERS = {
    "linear", "relu", "sigmoid", "tanh", "silu", "gelu", "softmax", "log_softmax", "layer_norm", "cross_entropy",
    "dropout", "scaled_dot_product_attention", "mse_loss", "embedding",
}  # fmt: skip
PLACES: dict[str, tuple[set[str], Callable[[Any], Any]]] = {
    "torch": (OF_TORCH, lambda library: library),
    "Tensor": (METHODS, lambda library: library.Tensor),
    "F": (LAYERS, lambda library: torch.nn.functional if library is torch else functional),
}
OFTEN = ["__getitem__"] * 5 + ["reshape", "view", "expand", "permute"] * 2  # each is many operations


@dataclass(frozen=True)
class Call:
    where: str
    name: str
    inputs: list[Given | list[Given]]
    settings: dict[str, Given | list[Given]]

    def __str__(self) -> str:
        return f"{self.where}.{self.name}({written(self.inputs, self.settings)})"

    def run(self, library: Any) -> Outcome:
        made: list[Any] = []

        def passed(given: Given | list[Given]) -> Any:
            if isinstance(given, list):
                return [passed(one) for one in given]
            made.append(given.make(library))
            return made[-1]

        inputs = [passed(given) for given in self.inputs]
        settings = {name: passed(given) for name, given in self.settings.items()}
        try:
            found = getattr(PLACES[self.where][1](library), self.name)(*inputs, **settings)
            if found is NotImplemented:
                return Outcome("not implemented", [], [])
            if self.name == "randn":  # of which each library draws others
                found = found * 0
            values = list(found) if isinstance(found, tuple | list) else [found]
            backward(library, values)
            flags = [value.requires_grad for value in values if isinstance(value, library.Tensor)]
            return Outcome("", [*map(numbers, values), *flags], [numbers(getattr(x, "grad", None)) for x in made])
        except REFUSALS as error:
            return Outcome(f"{type(error).__name__}: {error}", [], [])


def draw(chance: random.Random) -> Call:
    where = chance.choice(["torch", "Tensor", "Tensor", "F"])
    names, owner = PLACES[where]
    name = chance.choice([*sorted(names), *(OFTEN if where == "Tensor" else [])])
    parameters = list(inspect.signature(getattr(owner(minitensor), name)).parameters.values())
    inputs: list[Given | list[Given]] = []
    settings: dict[str, Given | list[Given]] = {}
    for i, parameter in enumerate(parameters):
        own = "input" if parameter.name == "self" else parameter.name
        left_out = 0.6 if own in ("dtype", "requires_grad") else 0.5
        if parameter.kind == parameter.VAR_POSITIONAL:
            inputs += sizes(chance, name)
            continue
        if parameter.kind == parameter.VAR_KEYWORD:
            continue
        if parameter.default is not parameter.empty and own not in ("p", "dropout_p") and chance.random() < left_out:
            continue
        given: Given | list[Given]
        if own == "tensors":
            given = [chance.choice(TENSORS) for _ in range(chance.choice([0, 1, 2, 2, 3]))]
        elif own == "size" and name in SIZES:
            given = sizes(chance, name)[0]
        elif name.startswith("__r") and i:  # which Python calls where the left is no tensor
            given = chance.choice([*NUMBERS, *WRONG])
        elif chance.random() < 0.04 and own not in ("p", "dropout_p") and not (where == "Tensor" and i == 0):
            given = chance.choice([*WRONG, *DIMS])
        else:
            given = chance.choice(BY_NAME.get(f"{name} {own}", BY_NAME.get(own, TENSORS)))
        by_name = parameter.kind == parameter.KEYWORD_ONLY or len(inputs) < i or (i and chance.random() < 0.4)
        by_name = by_name and not name.startswith("__")  # whose arguments have no names
        if by_name:
            alias = {"dim": "axis", "keepdim": "keepdims"}.get(own)
            settings[alias if alias and chance.random() < 0.3 else own] = given
        else:
            inputs.append(given)
    return Call(where, name, inputs, settings)
