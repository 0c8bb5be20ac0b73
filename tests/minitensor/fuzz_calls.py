"""Random calls of functions, tensor methods and losses. Arguments are drawn by parameter name."""

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
    ERRORS,
    FLAGS,
    FLOATS,
    INTEGERS,
    NUMBERS,
    OPERANDS,
    TENSORS,
    WRONG,
    Argument,
    Outcome,
    backward,
    code_of_arguments,
    literal,
    literals,
    to_numpy,
)

# ---- arguments --------------------------------------------------------------------------------------------------

STEPS = literals(0, 1, 3, 0.5, 5.0, -1)
SIMPLE_INDICES: tuple[object, ...] = (0, -1, 5, None, slice(None), slice(0, 1), [0, 1], [])
TUPLE_INDICES: tuple[object, ...] = ((0, slice(None)), (0, [0, 1]), (0, slice(None), [0, 0]))
INDICES = literals(*SIMPLE_INDICES, *TUPLE_INDICES, *TUPLE_INDICES)
DIMS = literals(0, 0, 1, -1, 2, -3, None, (0, 1), (), (0, 0), [1], True, 0.5)
DATA = literals(
    [[1, 2], [3, 4]], [1.0, 2], (2.5,), [], [[]], [[1], [2, 3]], [True, 2], [True], [None], ["1"], 2**40, [0.1, [2]],
    np.float64(0.5), np.array([1.0, 2.0]), np.array([1, 2], np.int32), np.array([True]), [np.float64(0.5)],
    [np.array([1.0])],
)  # fmt: skip

MATRICES = [array for array in [*FLOATS, *DOUBLES, *EMPTY] if array.code.count(",")]

BY_NAME: dict[str, list[Argument]] = {
    **dict.fromkeys(("dim", "axis", "start_dim", "end_dim", "dim0", "dim1"), DIMS),
    **dict.fromkeys(("keepdim", "keepdims", "unbiased", "is_causal", "training", "enable_gqa", "requires_grad"), FLAGS),
    **dict.fromkeys(("other", "min", "max", "value"), OPERANDS),
    **dict.fromkeys(("condition", "mask"), BOOLEANS),
    "correction": literals(0, 1, 2, 0.5),
    "alpha": NUMBERS,
    "diagonal": literals(0, 1, -1, 5),
    "target": [*INTEGERS, *FLOATS],
    "reduction": literals("mean", "sum", "none", "median"),
    "approximate": literals("none", "tanh"),
    "label_smoothing": literals(0.0, 0.1, 1.0, 2.0),
    "ignore_index": literals(-100, 0, 1),
    "p": literals(0.0, 1.0, 2.0),
    "split_size": literals(1, 2, 5, 0, [1, 2], [1, 1], [3]),
    "chunks": literals(1, 2, 5, 0),
    "normalized_shape": literals((3,), (2, 3), [3], (), (4,)),
    "fill_value": [*NUMBERS, *literals(300, 1e10)],
    **dict.fromkeys(("start", "end", "step"), STEPS),
    "scale": literals(None, 0.3),
    "attn_mask": [literal(None), *BOOLEANS, *FLOATS],
    "dropout_p": literals(0.0),
    "tensors": [],  # drawn as a list of TENSORS
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

# Sizes by function, valid for some of the tensors; `sizes` inserts mistakes.
RESHAPED: list[tuple[int, ...]] = [(3, 2), (6,), (-1,), (2, -1), (-1, 3), (3, 1), (1, 3, 1, -1), (0,), (-1, 0), (4, 3)]
RESHAPED += [(2, 0, 5), (), (1,)]
SIZES: dict[str, list[tuple[int, ...]]] = {
    "reshape": RESHAPED,
    "view": RESHAPED,
    "permute": [(1, 0), (0, 1), (-1, 0), (2, 0, 1), (0, -1, 1), (0,), (), (1, -2), (1, 1)],
    "expand": [(2, 3), (-1, 3), (4, 2, 3), (2, -1), (2, 3, 5), (3, 3), (5,), (), (0, 3), (2, -1, 2), (-1,)],
    **{name: [(2, 3), (3,), (), (0,), (2, 0), (1, 2, 1)] for name in ("zeros", "ones", "randn", "full")},
}
MISTAKES = literals(None, 0.5, 2.0, True, -1, -2, -3, "a", (2,), [1], 7, 0, np.int64(2))
MISTAKES += [*INTEGERS[-1:], *FLOATS[3:4]]


def sizes(rng: random.Random, name: str) -> list[Argument]:
    """As separate arguments, or as one tuple or list."""
    drawn = literals(*rng.choice(SIZES[name]))
    if rng.random() < 0.25:
        mistake = rng.choice(MISTAKES)
        if drawn and rng.random() < 0.7:
            drawn[rng.randrange(len(drawn))] = mistake
        else:
            drawn.append(mistake)
    kind = rng.choice(["tuple", "list"] if name == "full" else ["separate", "tuple", "list"])
    if kind == "separate":
        return drawn
    codes = ", ".join(size.code for size in drawn)
    if kind == "list":
        return [Argument(f"[{codes}]", lambda library: [x.make(library) for x in drawn])]
    return [Argument(f"({codes}{',' * (len(drawn) == 1)})", lambda library: tuple(x.make(library) for x in drawn))]


# ---- functions --------------------------------------------------------------------------------------------------

TORCH = {
    "abs", "add", "amax", "amin", "arange", "argmax", "argmin", "cat", "chunk", "clamp", "clip", "div", "erf",
    "exp", "flatten", "full", "log", "log_softmax", "logsumexp", "masked_fill", "matmul", "max", "maximum", "mean",
    "min", "minimum", "mul", "neg", "ones", "ones_like", "permute", "pow", "randn", "relu", "reshape", "sigmoid",
    "softmax", "split", "sqrt", "square", "squeeze", "stack", "std", "sub", "sum", "tanh", "tensor", "transpose",
    "tril", "triu", "unsqueeze", "var", "where", "zeros", "zeros_like",
}  # fmt: skip
METHODS = TORCH - {"arange", "cat", "full", "ones", "ones_like", "randn", "stack", "tensor", "zeros", "zeros_like"}
METHODS |= {
    "all", "any", "float", "double", "long", "clone", "detach", "contiguous", "numel", "dim", "size", "tolist",
    "item", "to", "view", "expand", "requires_grad_", "retain_grad",
}  # fmt: skip
METHODS |= {f"__{name}__" for name in (
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "matmul", "rmatmul", "neg",
    "abs", "pos", "eq", "ne", "lt", "le", "gt", "ge", "invert", "and", "or", "rand", "ror", "getitem", "len",
    "bool", "int", "float", "index", "iadd", "isub", "imul", "itruediv",
)}  # fmt: skip
FUNCTIONAL = {
    "linear", "relu", "sigmoid", "tanh", "silu", "gelu", "softmax", "log_softmax", "layer_norm", "cross_entropy",
    "dropout", "scaled_dot_product_attention", "mse_loss", "embedding",
}  # fmt: skip
NAMESPACES: dict[str, tuple[set[str], Callable[[Any], Any]]] = {
    "torch": (TORCH, lambda library: library),
    "Tensor": (METHODS, lambda library: library.Tensor),
    "F": (FUNCTIONAL, lambda library: torch.nn.functional if library is torch else functional),
}
FREQUENT = ["__getitem__"] * 5 + ["reshape", "view", "expand", "permute"] * 2  # each covers many cases


@dataclass(frozen=True)
class Call:
    namespace: str
    name: str
    inputs: list[Argument | list[Argument]]
    settings: dict[str, Argument | list[Argument]]

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}({code_of_arguments(self.inputs, self.settings)})"

    def run(self, library: Any) -> Outcome:
        made: list[Any] = []

        def make(argument: Argument | list[Argument]) -> Any:
            if isinstance(argument, list):
                return [make(part) for part in argument]
            made.append(argument.make(library))
            return made[-1]

        inputs = [make(argument) for argument in self.inputs]
        settings = {name: make(argument) for name, argument in self.settings.items()}
        try:
            result = getattr(NAMESPACES[self.namespace][1](library), self.name)(*inputs, **settings)
            if result is NotImplemented:
                return Outcome("not implemented", [], [])
            if self.name == "randn":  # each library draws different numbers
                result = result * 0
            values = list(result) if isinstance(result, tuple | list) else [result]
            backward(library, values)
            flags = [value.requires_grad for value in values if isinstance(value, library.Tensor)]
            return Outcome("", [*map(to_numpy, values), *flags], [to_numpy(getattr(x, "grad", None)) for x in made])
        except ERRORS as error:
            return Outcome(f"{type(error).__name__}: {error}", [], [])


def draw(rng: random.Random) -> Call:
    namespace = rng.choice(["torch", "Tensor", "Tensor", "F"])
    names, owner = NAMESPACES[namespace]
    name = rng.choice([*sorted(names), *(FREQUENT if namespace == "Tensor" else [])])
    parameters = list(inspect.signature(getattr(owner(minitensor), name)).parameters.values())
    inputs: list[Argument | list[Argument]] = []
    settings: dict[str, Argument | list[Argument]] = {}
    for i, parameter in enumerate(parameters):
        key = "input" if parameter.name == "self" else parameter.name
        omission = 0.6 if key in ("dtype", "requires_grad") else 0.5
        if parameter.kind == parameter.VAR_POSITIONAL:
            inputs += sizes(rng, name)
            continue
        if parameter.kind == parameter.VAR_KEYWORD:
            continue
        if parameter.default is not parameter.empty and key not in ("p", "dropout_p") and rng.random() < omission:
            continue
        argument: Argument | list[Argument]
        if key == "tensors":
            argument = [rng.choice(TENSORS) for _ in range(rng.choice([0, 1, 2, 2, 3]))]
        elif key == "size" and name in SIZES:
            argument = sizes(rng, name)[0]
        elif name.startswith("__r") and i:  # Python calls it if the left operand is not a tensor
            argument = rng.choice([*NUMBERS, *WRONG])
        elif rng.random() < 0.04 and key not in ("p", "dropout_p") and not (namespace == "Tensor" and i == 0):
            argument = rng.choice([*WRONG, *DIMS])
        else:
            argument = rng.choice(BY_NAME.get(f"{name} {key}", BY_NAME.get(key, TENSORS)))
        by_name = parameter.kind == parameter.KEYWORD_ONLY or len(inputs) < i or (i and rng.random() < 0.4)
        by_name = by_name and not name.startswith("__")  # their arguments are positional
        if by_name:
            alias = {"dim": "axis", "keepdim": "keepdims"}.get(key)
            settings[alias if alias and rng.random() < 0.3 else key] = argument
        else:
            inputs.append(argument)
    return Call(namespace, name, inputs, settings)
