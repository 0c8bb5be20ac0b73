"""Calls of functions, methods and losses, with arguments as users give them: torch's answer, or both refuse.

A call is drawn by its signature: each argument from what its name suggests, and now and then from all that somebody
might pass by mistake, by position or by keyword. Both libraries run it. The same means value, dtype, shape and the
gradients for a random upstream gradient. Where they are to differ, a line of the table in minitensor/README.md says so:
its first column is a regular expression for the call as it is written here, followed by torch's error, if it gives one.
A difference that no line explains fails.

    uv run pytest tests/minitensor/test_api_fuzz.py --calls 100000    as many calls as there is time for
"""

import inspect
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import minitensor
from minitensor import functional
from tests.support import ROOT

CALLS = 8000

# ---- what can be passed -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """An argument, how it is written, and how each library gets it."""

    text: str
    make: Callable[[Any], Any]


def plain(value: object) -> Given:
    return Given(repr(value), lambda library: value)


def array(text: str, values: Any) -> Given:
    """Named by its dtype and shape; floats require grad."""
    values = np.asarray(values)

    def make(library: Any) -> Any:
        made = library.tensor(values)
        return made.requires_grad_() if values.dtype.kind == "f" else made

    return Given(f"{text}{list(values.shape)}".replace(" ", ""), make)


rng = np.random.default_rng(11)
FLOATS = [array("float32", rng.uniform(0.2, 2.0, shape).astype(np.float32)) for shape in ((2, 3), (3,), (3, 3), ())]
FLOATS += [
    array("float32", rng.uniform(-2.0, -0.2, shape).astype(np.float32)) for shape in ((2, 3), (1, 3, 1), (2, 3, 2))
]
EMPTY = [array("float32", np.zeros(shape, np.float32)) for shape in ((0,), (2, 0))]
DOUBLES = [array("float64", rng.uniform(-2.0, 2.0, (2, 3)))]
INTEGERS = [array("int64", rng.integers(0, 3, shape)) for shape in ((2, 3), (3,), (2,), ())]
BYTES = [array("uint8", rng.integers(0, 3, (2, 3)).astype(np.uint8))]
BOOLEANS = [array("bool", rng.random(shape) < 0.5) for shape in ((2, 3), (3,), (3, 3), ())]
NUMBERS = [plain(number) for number in (2, -1, 0, 0.5, -1.5, 3.0, True)]
MISTAKES: tuple[object, ...] = (None, "a", 1j, {}, [0, 1], [1.0, 2.0], (), float("nan"))
WRONG = [plain(value) for value in MISTAKES]
TENSORS = [*FLOATS, *FLOATS, *DOUBLES, *INTEGERS, *BOOLEANS, *BYTES, *EMPTY]
OPERANDS = [*TENSORS, *NUMBERS, *NUMBERS]
STEPS = [plain(value) for value in (0, 1, 3, 0.5, 5.0, -1)]
ONE_INDEX: tuple[object, ...] = (0, -1, 5, None, slice(None), slice(0, 1), [0, 1], [])
SEVERAL: tuple[object, ...] = ((0, slice(None)), (0, [0, 1]), (0, slice(None), [0, 0]))
INDICES = [plain(index) for index in (*ONE_INDEX, *SEVERAL, *SEVERAL)]
DIMS = [plain(value) for value in (0, 0, 1, -1, 2, -3, None, (0, 1), (), (0, 0), [1], True, 0.5)]
FLAGS = [plain(value) for value in (True, False)]

BY_NAME: dict[str, list[Given]] = {
    **dict.fromkeys(("dim", "axis", "start_dim", "end_dim", "dim0", "dim1"), DIMS),
    **dict.fromkeys(("keepdim", "keepdims", "unbiased", "is_causal", "training", "enable_gqa"), FLAGS),
    **dict.fromkeys(("other", "min", "max", "value"), OPERANDS),
    **dict.fromkeys(("condition", "mask"), BOOLEANS),
    "correction": [plain(value) for value in (0, 1, 2, 0.5)],
    "alpha": NUMBERS,
    "diagonal": [plain(value) for value in (0, 1, -1, 5)],
    "target": [*INTEGERS, *FLOATS],
    "reduction": [plain(value) for value in ("mean", "sum", "none", "median")],
    "approximate": [plain(value) for value in ("none", "tanh")],
    "label_smoothing": [plain(value) for value in (0.0, 0.1, 1.0, 2.0)],
    "ignore_index": [plain(value) for value in (-100, 0, 1)],
    "p": [plain(value) for value in (0.0, 1.0, 2.0)],
    "split_size": [plain(value) for value in (1, 2, 5, 0, [1, 2], [1, 1], [3])],
    "chunks": [plain(value) for value in (1, 2, 5, 0)],
    "normalized_shape": [plain(value) for value in ((3,), (2, 3), [3], (), (4,))],
    "size": [plain(value) for value in ((2, 3), (), [1])],
    "shape": [plain(value) for value in ((3, 2), (6,), (-1,), (2, -1), (4, 4))],
    "fill_value": NUMBERS,
    **dict.fromkeys(("start", "end", "step"), STEPS),
    "scale": [plain(value) for value in (None, 0.3)],
    "attn_mask": [plain(None), *BOOLEANS, *FLOATS],
    "dropout_p": [plain(0.0)],
    "tensors": [],  # a list of some
    "data": [*NUMBERS, *WRONG],
    "exponent": [*NUMBERS, *TENSORS],
    "where": INDICES,
}

# ---- what can be called -----------------------------------------------------------------------------------------

OF_TORCH = {"add", "sub", "mul", "div", "neg", "pow", "matmul", "abs", "exp", "log", "sqrt", "square", "tanh", "erf"}
OF_TORCH |= {
    "sigmoid",
    "relu",
    "maximum",
    "minimum",
    "clip",
    "clamp",
    "sum",
    "mean",
    "var",
    "std",
    "max",
    "min",
    "amax",
}
OF_TORCH |= {"amin", "logsumexp", "argmax", "argmin", "softmax", "log_softmax", "flatten", "transpose", "squeeze"}
OF_TORCH |= {"unsqueeze", "split", "chunk", "tril", "triu", "masked_fill", "cat", "stack", "where", "full", "arange"}
OF_TORCH |= {"zeros_like", "ones_like", "tensor"}
METHODS = OF_TORCH - {"cat", "stack", "full", "arange", "zeros_like", "ones_like", "tensor"}
METHODS |= {"all", "any", "float", "double", "long", "clone", "detach", "contiguous", "numel", "dim", "tolist", "item"}
METHODS |= {f"__{name}__" for name in (
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "matmul", "neg", "abs", "pos",
    "eq", "ne", "lt", "le", "gt", "ge", "invert", "and", "or", "getitem", "len", "bool", "int", "float",
)}  # fmt: skip
LAYERS = {"linear", "relu", "sigmoid", "tanh", "silu", "gelu", "softmax", "log_softmax", "layer_norm", "cross_entropy"}
LAYERS |= {"dropout", "scaled_dot_product_attention", "mse_loss", "embedding"}
PLACES: dict[str, tuple[set[str], Callable[[Any], Any]]] = {
    "torch": (OF_TORCH, lambda library: library),
    "Tensor": (METHODS, lambda library: library.Tensor),
    "F": (LAYERS, lambda library: torch.nn.functional if library is torch else functional),
}


@dataclass(frozen=True)
class Call:
    where: str
    name: str
    inputs: list[Given | list[Given]]
    settings: dict[str, Given | list[Given]]

    def __str__(self) -> str:
        written = [text(given) for given in self.inputs]
        written += [f"{name}={text(given)}" for name, given in self.settings.items()]
        return f"{self.where}.{self.name}({', '.join(written)})"


def text(given: Given | list[Given]) -> str:
    return f"[{', '.join(map(text, given))}]" if isinstance(given, list) else given.text


def draw(chance: random.Random) -> Call:
    where = chance.choice(["torch", "Tensor", "Tensor", "F"])
    names, owner = PLACES[where]
    name = chance.choice([*sorted(names), *["__getitem__"] * 5 * (where == "Tensor")])  # which is many operations
    function = getattr(owner(minitensor), name)
    parameters = list(inspect.signature(function).parameters.values())
    inputs: list[Given | list[Given]] = []
    settings: dict[str, Given | list[Given]] = {}
    for i, parameter in enumerate(parameters):
        own = "input" if parameter.name == "self" else parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or own in ("dtype", "requires_grad"):
            continue
        if parameter.default is not parameter.empty and own not in ("p", "dropout_p") and chance.random() < 0.5:
            continue
        given: Given | list[Given]
        if own == "tensors":
            given = [chance.choice(TENSORS) for _ in range(chance.choice([0, 1, 2, 2, 3]))]
        elif name.startswith("__r") and i:  # which Python calls where the left is no tensor
            given = chance.choice([*NUMBERS, *WRONG])
        elif chance.random() < 0.04 and own not in ("p", "dropout_p") and not (where == "Tensor" and i == 0):
            given = chance.choice([*WRONG, *DIMS])
        else:
            given = chance.choice(BY_NAME.get(own, TENSORS))
        by_name = parameter.kind == parameter.KEYWORD_ONLY or len(inputs) < i or (i and chance.random() < 0.4)
        by_name = by_name and not name.startswith("__")  # whose arguments have no names
        if by_name:
            alias = {"dim": "axis", "keepdim": "keepdims"}.get(own)
            settings[alias if alias and chance.random() < 0.3 else own] = given
        else:
            inputs.append(given)
    return Call(where, name, inputs, settings)


# ---- what comes of it -------------------------------------------------------------------------------------------

REFUSALS = (
    RuntimeError,
    AssertionError,
    ValueError,
    TypeError,
    IndexError,
    NotImplementedError,
    OverflowError,
    AttributeError,
)


@dataclass
class Outcome:
    """Values, and the gradients of the inputs; or why there are none."""

    refused: str
    values: list[Any]
    gradients: list[Any]


def run(call: Call, library: Any) -> Outcome:
    made: list[Any] = []

    def passed(given: Given | list[Given]) -> Any:
        if isinstance(given, list):
            return [passed(one) for one in given]
        made.append(given.make(library))
        return made[-1]

    inputs = [passed(given) for given in call.inputs]
    settings = {name: passed(given) for name, given in call.settings.items()}
    try:
        found = getattr(PLACES[call.where][1](library), call.name)(*inputs, **settings)
        if found is NotImplemented:
            return Outcome("not implemented", [], [])
        values = list(found) if isinstance(found, tuple | list) else [found]
        results = [value for value in values if isinstance(value, library.Tensor) and value.requires_grad]
        for i, value in enumerate(results):
            size = int(np.prod(tuple(value.shape)))
            dy = np.random.default_rng(i).standard_normal(size).reshape(tuple(value.shape)).astype(np.float32)
            upstream = library.tensor(dy.astype(str(value.dtype).removeprefix("torch.")))
            value.backward(upstream, retain_graph=True)
        return Outcome("", [numbers(value) for value in values], [numbers(getattr(x, "grad", None)) for x in made])
    except REFUSALS as error:
        return Outcome(f"{type(error).__name__}: {error}", [], [])


def numbers(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().resolve_conj().numpy()
    return np.array(value.array) if isinstance(value, minitensor.Tensor) else value


def differ(ours: Outcome, theirs: Outcome) -> str:
    """In one line; nothing if they agree."""
    if ours.refused and theirs.refused:
        return ""
    if ours.refused or theirs.refused:
        return f"torch {theirs.refused or 'answers'}; here {ours.refused or 'an answer'}"
    for kind in ("values", "gradients"):
        a, b = getattr(ours, kind), getattr(theirs, kind)
        if len(a) != len(b):
            return f"{len(b)} {kind}; here {len(a)}"
        for x, y in zip(a, b, strict=True):
            if unlike(x, y):
                shown = [
                    f"{z.dtype}{list(z.shape)} {z.tolist()}" if isinstance(z, np.ndarray) else repr(z) for z in (y, x)
                ]
                return f"{kind}: torch {shown[0]:.90}; here {shown[1]:.90}"
    return ""


def unlike(x: Any, y: Any) -> bool:
    if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
        return type(x) is not type(y) or (x != y and x == x)
    if x.dtype != y.dtype or x.shape != y.shape:
        return True
    return not np.allclose(x, y, 1e-4, 1e-5, equal_nan=True)


def differences() -> list[re.Pattern[str]]:
    """Those that are intended: the first column of the table in minitensor/README.md."""
    lines = (ROOT / "minitensor" / "README.md").read_text(encoding="utf-8").splitlines()
    return [re.compile(found[1].replace("\\|", "|")) for line in lines if (found := re.match(r"\| `(.*?)` \|", line))]


def test_a_call_gives_what_torch_gives(request: pytest.FixtureRequest) -> None:
    intended, chance = differences(), random.Random(0)
    wrong: dict[str, str] = {}
    answered = 0
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for _ in range(count := request.config.getoption("--calls") or CALLS):
            call = draw(chance)
            theirs, ours = run(call, torch), run(call, minitensor)
            answered += not (theirs.refused or ours.refused)
            if (difference := differ(ours, theirs)) and not any(
                line.search(f"{call} {theirs.refused}") for line in intended
            ):
                wrong.setdefault(call.name, f"{call}\n    {difference}")
    assert not wrong, "\n".join(["", *wrong.values()])
    assert answered > 0.3 * count, "most calls are refused: too little is compared"
