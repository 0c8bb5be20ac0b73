"""Shared by the generators of random code for test_api_fuzz.py: arguments, outcomes, and how two outcomes differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

import minitensor

# ---- arguments --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Argument:
    """An argument: its source code, and how to make it for a library."""

    code: str
    make: Callable[[Any], Any]


def literal(value: object) -> Argument:
    return Argument(repr(value), lambda library: value)


def literals(*values: object) -> list[Argument]:
    return [literal(value) for value in values]


def array(kind: str, values: Any, requires_grad: bool = True) -> Argument:
    """Named by its dtype and shape; floats require grad."""
    values = np.asarray(values)

    def make(library: Any) -> Any:
        made = library.tensor(values)
        return made.requires_grad_(requires_grad) if values.dtype.kind == "f" else made

    return Argument(f"{kind}{list(values.shape)}".replace(" ", ""), make)


def dtype(name: str) -> Argument:
    return Argument(f"dtype.{name}", lambda library: getattr(torch if library is torch else np, name))


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
NUMBERS = literals(2, -1, 0, 0.5, -1.5, 3.0, True)
WRONG = literals(None, "a", 1j, {}, [0, 1], [1.0, 2.0], (), float("nan"))
TENSORS = [*FLOATS, *FLOATS, *DOUBLES, *INTEGERS, *BOOLEANS, *BYTES, *EMPTY]
OPERANDS = [*TENSORS, *NUMBERS, *NUMBERS]
FLAGS = literals(True, False)
DTYPES = [*map(dtype, ("float32", "float64", "int64", "int32", "uint8")), *literals(None, float, int, bool)]


def code(argument: Argument | list[Argument]) -> str:
    return f"[{', '.join(map(code, argument))}]" if isinstance(argument, list) else argument.code


def code_of_arguments(inputs: Sequence[Argument | list[Argument]], settings: dict[str, Any]) -> str:
    return ", ".join([*map(code, inputs), *(f"{name}={code(argument)}" for name, argument in settings.items())])


# ---- outcomes ---------------------------------------------------------------------------------------------------

ERRORS = (
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
    """The values, and the gradients of the inputs; or the error."""

    error: str
    values: list[Any]
    gradients: list[Any]
    line: int = 0  # the one that raises, in a script


class Program(Protocol):
    """Code that both libraries can run; str() gives it as a single line."""

    @property
    def name(self) -> str: ...

    def run(self, library: Any) -> Outcome: ...


@dataclass(frozen=True)
class Script:
    """Lines of code. The outcome is what `observe` returns after the last line, or the line that raises."""

    name: str
    lines: list[str]
    namespace: Callable[[Any], dict[str, Any]]
    observe: Callable[[dict[str, Any]], list[Any]]

    def __str__(self) -> str:
        return "; ".join(self.lines)

    def run(self, library: Any) -> Outcome:
        names = self.namespace(library)
        line_number = 0
        try:
            for line in self.lines:
                exec(line, names)
                line_number += 1
            return Outcome("", [to_numpy(value) for value in self.observe(names)], [])
        except ERRORS as error:
            return Outcome(f"{type(error).__name__}: {error}", [], [], line_number)


def backward(library: Any, values: Sequence[Any]) -> None:
    """Backpropagates a random gradient from every value that requires grad."""
    results = [value for value in values if isinstance(value, library.Tensor) and value.requires_grad]
    for i, value in enumerate(results):
        size = int(np.prod(tuple(value.shape)))
        dy = np.random.default_rng(i).standard_normal(size).reshape(tuple(value.shape)).astype(np.float32)
        upstream = library.tensor(dy.astype(str(value.dtype).removeprefix("torch.")))
        value.backward(upstream, retain_graph=True)


def to_numpy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().resolve_conj().numpy()
    return np.array(value.array) if isinstance(value, minitensor.Tensor) else value


def describe_difference(ours: Outcome, theirs: Outcome) -> str:
    """In one line; empty if they agree. minitensor may raise an error at an earlier line than torch."""
    if ours.error and theirs.error:
        return f"line {theirs.line}: torch: {theirs.error}; ours: no error" if ours.line > theirs.line else ""
    if bool(ours.error) != bool(theirs.error):
        return f"torch: {theirs.error or 'no error'}; ours: {ours.error or 'no error'}"
    for kind in ("values", "gradients"):
        a, b = getattr(ours, kind), getattr(theirs, kind)
        if len(a) != len(b):
            return f"{kind}: torch has {len(b)}, we have {len(a)}"
        for x, y in zip(a, b, strict=True):
            if is_different(x, y):
                shown = [
                    f"{z.dtype}{list(z.shape)} {z.tolist()}" if isinstance(z, np.ndarray) else repr(z) for z in (y, x)
                ]
                return f"{kind}: torch: {shown[0]:.90}; ours: {shown[1]:.90}"
    return ""


def is_different(x: Any, y: Any) -> bool:
    if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
        return type(x) is not type(y) or (x != y and x == x)
    if x.dtype != y.dtype or x.shape != y.shape:
        return True
    rtol, atol = (1e-6, 1e-8) if x.dtype == np.float64 else (1e-4, 1e-5)
    return not np.allclose(x, y, rtol, atol, equal_nan=True)
