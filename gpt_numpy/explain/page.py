"""The page: all numbers and formulas in one file that needs no network.

page/ holds it as it is written: page.html, style.css and the scripts, which are put into one another here, and the
data after them, as JSON: for each quantity its formula and its terms, and its numbers in base64.

    numbers       float64, or float32 where that loses nothing
    torch         what torch has beyond the tape's number, in float32
    difference    the same for the difference quotient; NaN where none was taken
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from gpt_numpy.explain.checks import BEND, EXACT, Checked
from gpt_numpy.explain.differences import STEP, resolution
from gpt_numpy.explain.formulas import Entry, Quantity
from gpt_numpy.explain.trace import Trace
from minitensor.op import Array

FOLDER = Path(__file__).with_name("page")
SCRIPTS = ("data.js", "account.js", "attention.js", "matrix.js", "panel.js", "steps.js", "breaks.js", "main.js")
MOST_BYTES = 4_500_000  # of the data; what does not fit is left to the terminal
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


def contents(trace: Trace, checked: list[Checked], about: Record) -> Record:
    """All that the page shows. `about` says which model and which text it is."""
    problem, config = trace.problem, trace.problem.config
    by_name = {one.name: one for one in checked}
    quantities, left = [], MOST_BYTES
    for name in _by_importance(trace):
        record = described(trace.quantities[name], trace.numbers[name])
        numbers = _numbers(trace, name, by_name.get(name))
        size = sum(len(text) for text in numbers.values())
        if size <= left:
            record |= numbers
            left -= size
        quantities.append(record)
    return about | {
        "layer": problem.layer, "head": problem.head, "heads": config.n_head, "layers": config.n_layer,
        "width": config.n_embd, "loss": float(trace.numbers["L"]), "constants": trace.constants,
        "next": problem.targets.tolist(), "step": STEP, "exact": EXACT, "bend": BEND, "blind": resolution(trace),
        "quantities": quantities,
    }  # fmt: skip


def described(quantity: Quantity, numbers: Array) -> Record:
    def factor(entry: Entry) -> list[Any]:
        return [entry.name, *entry.indices]

    return {
        "name": quantity.name, "indices": quantity.indices, "shape": numbers.shape, "kind": quantity.kind,
        "meaning": quantity.meaning, "formula": quantity.formula,
        "terms": [[term.sign, term.over, *map(factor, term.factors)] for term in quantity.terms],
    }  # fmt: skip


def _numbers(trace: Trace, name: str, checked: Checked | None) -> dict[str, str]:
    numbers = trace.numbers[name]
    packed = {"numbers": _packed(numbers)}
    if checked is not None:
        if checked.torch is not None:
            packed["torch"] = _packed((checked.torch - numbers).astype(np.float32))
        if len(checked.slopes):
            beyond = np.full(numbers.shape, np.nan, np.float32)
            at = tuple(checked.places.T)
            beyond[at] = checked.slopes - numbers[at]
            packed["difference"] = _packed(beyond)
    return packed


def _packed(array: Array) -> str:
    """Base64 of little-endian floats, 4 bytes each (marked by a comma in front) or 8."""
    short = array.astype("<f4")
    if np.array_equal(short, array, equal_nan=True):
        return "," + base64.b64encode(short.tobytes()).decode("ascii")
    return base64.b64encode(array.astype("<f8").tobytes()).decode("ascii")


def _by_importance(trace: Trace) -> list[str]:
    """Attention's own first, then what its gradients come from, then the inside of later sublayers."""

    def importance(name: str) -> int:
        if "_mlp" in name or "_attn" in name:
            return 2 if name.startswith(("dR_", "R_", "Y_")) else 3
        return 0 if ATTENTION.fullmatch(name) else 1

    return sorted(trace.quantities, key=importance)


ATTENTION = re.compile(r"d?([XQKVSPOYZ]|[Wb]_[qkvo]|[XY]_others)")


def embedded(value: Any) -> str:
    """JSON in which a browser sees no markup."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
