"""The page: all numbers and formulas in one file that works offline.

page/ contains its sources, page.html, style.css and the scripts, which are combined here and followed by the data in
JSON: for each quantity its formula and its terms, and its numbers in base64.

    numbers       float64, or float32 where that is exact
    torch         torch's number minus the tape's, in float32
    difference    the same for the difference quotient, of all entries or of those that `measured` lists
"""

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np

from gpt_numpy.explain.account import sums
from gpt_numpy.explain.checks import BEND, EXACT, Checked
from gpt_numpy.explain.differences import STEP, resolution
from gpt_numpy.explain.formulas import MASKED, Entry, Quantity, of_loss
from gpt_numpy.explain.trace import Trace
from gpt_numpy.workshop.report.report import embedded
from minitensor.arrays import Array

FOLDER = Path(__file__).with_name("page")
SCRIPTS = [
    "data.js", "formula.js", "account.js", "attention.js", "matrix.js", "compare.js", "picture.js", "panel.js",
    "mistaken.js", "steps.js", "breaks.js", "main.js",
]  # fmt: skip
MOST_BYTES = 4_700_000  # of the data; numbers beyond that are only shown in the terminal
Record = dict[str, Any]


def write_page(path: Path, contents: Record) -> None:
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    parts = {
        "style": (FOLDER / "style.css").read_text(encoding="utf-8"),
        "script": "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS),
        "data": embedded(contents),
    }
    before, *rest = page.split("{{")
    for part in rest:
        name, after = part.split("}}", 1)
        before += parts[name] + after
    path.write_text(before, encoding="utf-8")


def may_replace(path: Path) -> bool:
    """Whether there is no such file, or a page that was written here."""
    if not path.exists():
        return True
    try:
        with path.open("rb") as file:
            return b"<title>Attention gradients" in file.read(1000)
    except OSError:
        return False


def contents(trace: Trace, torch: dict[str, Array], checked: list[Checked], about: Record) -> Record:
    """The data of the page. `about` describes the model and the text."""
    problem, config = trace.problem, trace.problem.config
    by_name = {one.name: one for one in checked}
    quantities, left = [], MOST_BYTES
    for name in _by_importance(trace):
        quantity, one = trace.quantities[name], by_name.get(name)
        record = described(trace, quantity, sums(trace, quantity)[1] if one is None else one.size)
        numbers = _numbers(trace, name, torch.get(name), one)
        size = sum(len(text) for text in numbers.values())
        if size <= left:
            record |= numbers
            left -= size
        quantities.append(record)
    return about | {
        "layer": problem.layer, "head": problem.head, "heads": config.n_head, "layers": config.n_layer,
        "width": config.n_embd, "loss": _finite(trace.numbers["L"]), "constants": trace.constants,
        "ofLoss": [quantity.name for quantity in of_loss(problem.objective)], "aboutLoss": problem.objective.about,
        "next": problem.targets.tolist(), "step": STEP, "exact": EXACT, "bend": BEND,
        "blind": _finite(resolution(trace)), "masked": MASKED, "quantities": quantities,
    }  # fmt: skip


def described(trace: Trace, quantity: Quantity, size: Array) -> Record:
    """Its `size` is the largest sum of |terms|, the scale for recognising numbers that are only rounding errors."""

    def factor(entry: Entry) -> list[Any]:
        return [entry.name, *entry.indices]

    return {
        "name": quantity.name, "indices": quantity.indices, "shape": trace.numbers[quantity.name].shape,
        "kind": quantity.kind, "size": _finite(size.max()), "meaning": quantity.meaning,
        "formula": quantity.formula,
        "terms": [[term.sign, term.over, *map(factor, term.factors)] for term in quantity.terms],
    }  # fmt: skip


def _finite(number: Any) -> float | None:
    return float(number) if np.isfinite(number) else None


def _numbers(trace: Trace, name: str, torch: Array | None, checked: Checked | None) -> dict[str, str]:
    numbers = trace.numbers[name]
    packed = {"numbers": _packed(numbers)}
    if torch is not None and trace.quantities[name].kind != "given":
        with np.errstate(invalid="ignore"):  # masked scores are -inf in both
            packed["torch"] = _packed(_rough(np.where(torch == numbers, 0.0, torch - numbers)))
    if checked is not None and len(checked.slopes):
        packed["difference"] = _packed(_rough(checked.slopes - numbers[tuple(checked.places.T)]))
        if len(checked.slopes) < numbers.size:
            packed["measured"] = _packed(np.ravel_multi_index(tuple(checked.places.T), numbers.shape))
    return packed


def _rough(beyond: Array) -> Array:
    """In float32, which is precise enough for a deviation from the number."""
    with np.errstate(over="ignore"):  # infinity is wrong as well
        return beyond.astype(np.float32)


def _packed(array: Array) -> str:
    """Base64 of little-endian floats: of 4 bytes (marked by a leading comma) if that is exact, else of 8."""
    short = _rough(array).astype("<f4")
    if np.array_equal(short, array, equal_nan=True):
        return "," + base64.b64encode(short.tobytes()).decode("ascii")
    return base64.b64encode(array.astype("<f8").tobytes()).decode("ascii")


def _by_importance(trace: Trace) -> list[str]:
    """The first quantities certainly fit on the page."""
    return sorted(trace.quantities, key=lambda name: next(i for i, kind in enumerate(KINDS) if kind.fullmatch(name)))


KINDS = [
    re.compile(pattern)
    for pattern in (
        r"d?([XQKVSPOYZ]|[Wb]_[qkvo]|[XY]_others)",  # attention, and where the gradient begins
        r"d?N_f|W_lm|p|next|q|l|L|A|own|mean_reward|reward|mask|weight|log_[pr]|rejected|margin|pull",  # its end
        r"[a-zA-Z]+(_f)?",  # the stream and its layer norms
        r"(dR|R|Y)_\w+",  # outputs and gradients of later sublayers
        r"\w+",  # and their inner quantities
    )
]
