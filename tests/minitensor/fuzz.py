"""What the random code of test_api_fuzz.py shares: what can be passed, what comes of it, and how two results differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

import minitensor

# ---- what can be passed -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """An argument, how it is written, and how each library gets it."""

    text: str
    make: Callable[[Any], Any]


def plain(value: object) -> Given:
    return Given(repr(value), lambda library: value)


def several(*values: object) -> list[Given]:
    return [plain(value) for value in values]


def array(text: str, values: Any, requires_grad: bool = True) -> Given:
    """Named by its dtype and shape; floats require grad."""
    values = np.asarray(values)

    def make(library: Any) -> Any:
        made = library.tensor(values)
        return made.requires_grad_(requires_grad) if values.dtype.kind == "f" else made

    return Given(f"{text}{list(values.shape)}".replace(" ", ""), make)


def dtype(name: str) -> Given:
    return Given(f"dtype.{name}", lambda library: getattr(torch if library is torch else np, name))


rng = np.random.default_rng(11)
FLOATS = [array("float32", rng.uniform(0.2, 2.0, shape).astype(np.float32)) for shape in ((2, 3), (3,), (3, 3), ())]
FLOATS += [
    array("float32", rng.uniform(-2.0, -0.2, shape).astype(np.float32)) for shape in ((2, 3), (1, 3, 1), (2, 3, 2))
]
EMPTY = [array("float32", np.zeros(shape, np.float32)) for shape in ((0,), (2, 0))]
CONSTANTS = [array("constant_float32", rng.uniform(0.2, 2.0, (2, 3)).astype(np.float32), False)]
DOUBLES = [array("float64", rng.uniform(-2.0, 2.0, (2, 3)))]
INTEGERS = [array("int64", rng.integers(0, 3, shape)) for shape in ((2, 3), (3,), (2,), ())]
BYTES = [array("uint8", rng.integers(0, 3, (2, 3)).astype(np.uint8))]
BOOLEANS = [array("bool", rng.random(shape) < 0.5) for shape in ((2, 3), (3,), (3, 3), ())]
NUMBERS = several(2, -1, 0, 0.5, -1.5, 3.0, True)
WRONG = several(None, "a", 1j, {}, [0, 1], [1.0, 2.0], (), float("nan"))
TENSORS = [*FLOATS, *FLOATS, *DOUBLES, *INTEGERS, *BOOLEANS, *BYTES, *EMPTY]
OPERANDS = [*TENSORS, *NUMBERS, *NUMBERS]
FLAGS = several(True, False)
DTYPES = [*map(dtype, ("float32", "float64", "int64", "int32", "uint8")), *several(None, float, int, bool)]


def text(given: Given | list[Given]) -> str:
    return f"[{', '.join(map(text, given))}]" if isinstance(given, list) else given.text


def written(inputs: Sequence[Given | list[Given]], settings: dict[str, Any]) -> str:
    return ", ".join([*map(text, inputs), *(f"{name}={text(given)}" for name, given in settings.items())])


# ---- what comes of it -------------------------------------------------------------------------------------------

REFUSALS = (
    RuntimeError,
    AssertionError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
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
    line: int = 0  # of a script, which is refused


class Drawn(Protocol):
    """Something that both libraries can run; str() writes it as a line of code."""

    @property
    def name(self) -> str: ...

    def run(self, library: Any) -> Outcome: ...


@dataclass(frozen=True)
class Script:
    """Lines of code. What is compared is what `look` finds in the end, or whether a line is refused."""

    name: str
    lines: list[str]
    names: Callable[[Any], dict[str, Any]]
    look: Callable[[dict[str, Any]], list[Any]]

    def __str__(self) -> str:
        return "; ".join(self.lines)

    def run(self, library: Any) -> Outcome:
        names = self.names(library)
        done = 0
        try:
            for line in self.lines:
                exec(line, names)
                done += 1
            return Outcome("", [numbers(value) for value in self.look(names)], [])
        except REFUSALS as error:
            return Outcome(f"{type(error).__name__}: {error}", [], [], done)


def backward(library: Any, values: Sequence[Any]) -> None:
    """From every value that has a gradient, with a random one."""
    results = [value for value in values if isinstance(value, library.Tensor) and value.requires_grad]
    for i, value in enumerate(results):
        size = int(np.prod(tuple(value.shape)))
        dy = np.random.default_rng(i).standard_normal(size).reshape(tuple(value.shape)).astype(np.float32)
        upstream = library.tensor(dy.astype(str(value.dtype).removeprefix("torch.")))
        value.backward(upstream, retain_graph=True)


def numbers(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().resolve_conj().numpy()
    return np.array(value.array) if isinstance(value, minitensor.Tensor) else value


def differ(ours: Outcome, theirs: Outcome) -> str:
    """In one line; nothing if they agree. A mistake may be refused sooner than torch does."""
    if ours.refused and theirs.refused:
        return f"line {theirs.line}: torch {theirs.refused}; here an answer" if ours.line > theirs.line else ""
    if bool(ours.refused) != bool(theirs.refused):
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
    rtol, atol = (1e-6, 1e-8) if x.dtype == np.float64 else (1e-4, 1e-5)
    return not np.allclose(x, y, rtol, atol, equal_nan=True)
