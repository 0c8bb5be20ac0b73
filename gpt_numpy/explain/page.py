"""The page: one file that works offline.

page/ contains its sources, page.html, style.css and the scripts, which are combined here and followed by the data in
JSON: for each quantity its formula and its terms; and either the model, as living.py describes, or the numbers of one
head on one text, as fixed.py does.
"""

import base64
from pathlib import Path
from typing import Any

import numpy as np

from gpt_numpy.explain.formulas import Entry, Quantity
from gpt_numpy.workshop.report.report import embedded
from minitensor.arrays import Array

FOLDER = Path(__file__).with_name("page")
ENGINE = ["arrays.js", "attention.js", "model.js", "trace.js", "engine.js"]  # these run in a worker, too
SCRIPTS = [
    "data.js", "formula.js", "account.js", "matrix.js", "compare.js", "picture.js", "panel.js", "broken.js",
    "mistaken.js", "tour.js", "breaks.js", "live.js", "step.js", "main.js",
]  # fmt: skip
Record = dict[str, Any]


def write_page(path: Path, contents: Record) -> None:
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    parts = {
        "style": (FOLDER / "style.css").read_text(encoding="utf-8"),
        **{
            part: "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names)
            for part, names in (("engine", ENGINE), ("script", SCRIPTS))
        },
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


def record(quantity: Quantity) -> Record:
    def factor(entry: Entry) -> list[Any]:
        return [entry.name, *entry.indices]

    return {
        "name": quantity.name, "indices": quantity.indices, "kind": quantity.kind, "meaning": quantity.meaning,
        "formula": quantity.formula,
        "terms": [[term.sign, term.over, *map(factor, term.factors)] for term in quantity.terms],
    }  # fmt: skip


def packed(array: Array) -> str:
    """Base64 of little-endian floats: of 4 bytes (marked by a leading comma) if that is exact, else of 8."""
    with np.errstate(over="ignore"):  # infinity is not exact
        short = array.astype("<f4")
    if np.array_equal(short, array, equal_nan=True):
        return "," + base64.b64encode(short.tobytes()).decode("ascii")
    return base64.b64encode(array.astype("<f8").tobytes()).decode("ascii")
