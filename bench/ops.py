"""Each operation forward and backward against torch's, at the sizes of the workshop model.

Both record: a forward includes adding a node to the tape, a backward is the traversal of that one node. Both use one
thread, like each thread of the engine, on the four sequences that such a thread processes at a time. Before timing,
each operation must match torch, on the tests' example in float64 and at this size in float32.

overhead.py measures the cost of the tape itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bench.result import BLUE, ORANGE, Result, Row, bars, milliseconds, times
from bench.settings import Settings
from bench.timing import turns
from bench.verify import same_arrays
from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.errors import RunFailed
from minitensor import Tensor, grad
from minitensor.arrays import Array
from minitensor.core import OPS, apply

CONFIG = GPTConfig()
B, T, C, H, V = 4, CONFIG.block_size, CONFIG.n_embd, CONFIG.n_head, CONFIG.vocab_size
random = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return random.standard_normal(shape, np.float32)


@dataclass(frozen=True)
class Subject:
    op: str
    inputs: Callable[[], list[Array | None]]
    settings: dict[str, Any] = field(default_factory=dict)
    what: str = ""  # the shape or the variant

    @property
    def name(self) -> str:
        return f"{self.op} {self.what}".strip()


def of_linear(inputs: int, outputs: int) -> Subject:
    return Subject(
        "linear",
        lambda: [normal(B, T, inputs), normal(outputs, inputs), normal(outputs)],
        what=f"{inputs} to {outputs}",
    )


def of_numbers(op: str, count: int = 1, **settings: Any) -> Subject:
    return Subject(op, lambda: [np.abs(normal(B, T, C)) + 0.5 for _ in range(count)], settings)


CROSS = {"ignore_index": -100, "label_smoothing": 0.0, "reduction": "mean"}
ROW = {"axis": -1, "keepdims": True}
SUBJECTS = [
    of_linear(C, 3 * C), of_linear(C, C), of_linear(C, 4 * C), of_linear(4 * C, C), of_linear(C, V),
    Subject("attention_blocked", lambda: [normal(B, H, T, C // H) for _ in range(3)] + [None, None],
            {"is_causal": True, "scale": None, "p": 0.0}),
    Subject("gelu", lambda: [normal(B, T, 4 * C)], {"approximate": "none"}, "exact"),
    Subject("gelu", lambda: [normal(B, T, 4 * C)], {"approximate": "tanh"}, "tanh"),
    Subject("layer_norm", lambda: [normal(B, T, C), normal(C), normal(C)], {"eps": 1e-5, "axes": 1}),
    Subject("embedding", lambda: [random.integers(0, V, (B, T)), normal(V, C)], {"padding_idx": None}),
    Subject("cross_entropy", lambda: [normal(B * T, V), random.integers(0, V, B * T)], CROSS),
    Subject("dropout", lambda: [normal(B, T, C), random.random((B, T, C)) < 0.8], {"p": 0.2}),
    Subject("softmax", lambda: [normal(B, H, T, T)], {"axis": -1}),
    Subject("log_softmax", lambda: [normal(B, H, T, T)], {"axis": -1}),
    Subject("matmul", lambda: [normal(B, H, T, C // H), normal(B, H, C // H, T)]),
    *[of_numbers(op, 2) for op in ("add", "mul", "div", "maximum")],
    *[of_numbers(op) for op in ("exp", "log", "tanh", "sigmoid", "relu", "sqrt", "erf")],
    *[of_numbers(op, **ROW) for op in ("sum", "mean", "max", "logsumexp")],
    of_numbers("var", axis=-1, correction=1, keepdims=True),
    of_numbers("cat", 2, axis=-1), of_numbers("split", sizes=(C // 2, C // 2), axis=-1),
]  # fmt: skip


def measure(settings: Settings) -> Iterator[Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings.numpy_engine(GPTConfig(n_layer=1))  # limits BLAS to one thread
    rows: list[Row] = []
    try:
        for subject in SUBJECTS:
            rows.append({"operation": subject.name, **compared(subject, settings)})
            yield result(rows)
    finally:
        torch.set_num_threads(threads)


def compared(subject: Subject, settings: Settings) -> Row:
    """Seconds forward and backward in both libraries, after a check that their numbers agree."""
    from tests.minitensor.cases import CASES  # needs the packages of the tests
    from tests.minitensor.judge import compare, operation, through_engine, upstream
    from tests.minitensor.strategies import Typical

    op, case = OPS[subject.op], CASES[subject.op]
    try:
        compare(case, through_engine(operation(op)), case.make(Typical(0)), upstream(0))
    except AssertionError as error:
        raise RunFailed(f"{subject.op} differs from torch's: {str(error).splitlines()[0]}") from None
    arrays = subject.inputs()
    ours = [None if a is None else Tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    theirs = [None if a is None else torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]

    def forward() -> Any:
        return apply(op, *ours, **subject.settings)

    def torchs_forward() -> Any:
        return case.torch(*theirs, **subject.settings)

    y, z = forward(), torchs_forward()
    y, z = (y[0], z[0]) if isinstance(z, tuple | list) else (y, z)
    dy = normal(*z.shape) if z.ndim else np.float32(1.0)
    wanted = [x for x in ours if x is not None and x.requires_grad]
    torchs_wanted = [x for x in theirs if x is not None and x.requires_grad]
    up, torchs_up = Tensor(dy), torch.tensor(dy)

    def backward() -> Any:
        return grad(y, wanted, up, retain_graph=True)

    def torchs_backward() -> Any:
        return torch.autograd.grad(z, torchs_wanted, torchs_up, retain_graph=True)

    same_arrays(subject.name, y.array, z.detach())
    for a, b in zip(backward(), torchs_backward(), strict=True):
        same_arrays(f"the gradient of {subject.name}", a.array, b)
    ways = {"f": forward, "torch f": torchs_forward, "b": backward, "torch b": torchs_backward}
    *_, timings = turns(ways, settings.repeat, settings.turn / 10)
    return {
        "forward": timings["f"].median, "torch forward": timings["torch f"].median,
        "forward / torch's": timings["f"].over(timings["torch f"]),
        "backward": timings["b"].median, "torch backward": timings["torch b"].median,
        "backward / torch's": timings["b"].over(timings["torch b"]),
    }  # fmt: skip


draw = bars("operation", {"forward / torch's": BLUE, "backward / torch's": ORANGE}, "time over torch's", mark=1.0)


def result(rows: list[Row]) -> Result:
    shown: dict[str, Callable[[Any], str]] = {
        "operation": str, "forward": milliseconds, "torch forward": milliseconds, "forward / torch's": times,
        "backward": milliseconds, "torch backward": milliseconds, "backward / torch's": times,
    }  # fmt: skip
    title = f"each operation on one thread: {B} sequences of {T}, {C} channels, {H} heads"
    return Result("ops", title, list(rows), shown, (), draw, done=len(rows) / len(SUBJECTS))
