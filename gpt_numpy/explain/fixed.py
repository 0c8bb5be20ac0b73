"""The data of a page without the model, where it is too large or the loss needs more than a text: one head, one text.

numbers       float64, or float32 where that is exact
torch         torch's number minus the tape's, in float32
difference    the same for the difference quotient, of all entries or of those that `measured` lists
"""

import re
from typing import Any

import numpy as np

from gpt_numpy.explain.checks import BEND, EXACT, Checked
from gpt_numpy.explain.differences import STEP, resolution
from gpt_numpy.explain.formulas import MASKED
from gpt_numpy.explain.page import Record, packed, record
from gpt_numpy.explain.traced import Traced
from minitensor.arrays import Array

MOST_BYTES = 4_700_000  # of the data; numbers beyond that are only shown in the terminal


def fixed_contents(trace: Traced, torch: dict[str, Array], checked: list[Checked], about: Record) -> Record:
    """The data of a page without the model: the numbers of one head on one text. `about` describes both."""
    by_name = {one.name: one for one in checked}
    quantities, left = [], MOST_BYTES
    for name in _by_importance(trace):
        quantity, one = trace.quantities[name], by_name.get(name)
        entry = record(quantity) | {"shape": trace.numbers[name].shape}
        numbers = _numbers(trace, name, torch.get(name), one)
        size = sum(len(text) for text in numbers.values())
        if size <= left:
            entry |= numbers
            left -= size
        quantities.append(entry)
    return about | trace.scene | {
        "constants": trace.constants, "step": STEP, "exact": EXACT, "bend": BEND, "masked": MASKED,
        "blind": _finite(resolution(trace)), "tables": {trace.scene["layer"]: quantities},
    }  # fmt: skip


def _finite(number: Any) -> float | None:
    return float(number) if np.isfinite(number) else None


def _numbers(trace: Traced, name: str, torch: Array | None, checked: Checked | None) -> dict[str, str]:
    numbers = trace.numbers[name]
    found = {"numbers": packed(numbers)}
    if torch is not None and trace.quantities[name].kind != "given":
        with np.errstate(invalid="ignore"):  # masked scores are -inf in both
            found["torch"] = packed(_rough(np.where(torch == numbers, 0.0, torch - numbers)))
    if checked is not None and len(checked.slopes):
        found["difference"] = packed(_rough(checked.slopes - numbers[tuple(checked.places.T)]))
        if len(checked.slopes) < numbers.size:
            found["measured"] = packed(np.ravel_multi_index(tuple(checked.places.T), numbers.shape))
    return found


def _rough(beyond: Array) -> Array:
    """In float32, which is precise enough for a deviation from the number."""
    with np.errstate(over="ignore"):  # infinity is wrong as well
        return beyond.astype(np.float32)


def _by_importance(trace: Traced) -> list[str]:
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
