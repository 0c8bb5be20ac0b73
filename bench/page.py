"""The page of explain in a browser: its size, and how long it takes to open, to read another text, and to measure.

The model is the laptop preset's, untrained: its size matters, not its numbers. The page itself notes when its first
numbers were on the screen, and how long its worker took for the last text.
"""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.browser import launched
from bench.result import Result, Row
from bench.settings import Settings
from gpt_numpy.explain.living import living_contents
from gpt_numpy.explain.page import write_page
from gpt_numpy.explain.problem import Problem
from gpt_numpy.explain.trace import Trace
from gpt_numpy.workshop.params import initial_weights
from gpt_numpy.workshop.recipes import PRESETS

POSITIONS = 32
CHARACTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # those of tiny Shakespeare


def measure(settings: Settings) -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        path = Path(folder) / "page.html"
        _write(path)
        opened: list[float] = []
        recomputed: list[float] = []
        for turn in range(settings.repeat):
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(path.as_uri())
            page.wait_for_selector("#own[data-largest]", state="attached")
            opened.append(_noted(page, "ready") / 1000)
            for letter in "ab":
                before = page.title()
                page.fill("#text", letter * (POSITIONS + 1))
                page.wait_for_function("before => document.title !== before", arg=before)
                recomputed.append(_noted(page, "recomputed"))
            page.close()
            rows: list[Row] = [
                {"what": "size, MB", "median": path.stat().st_size / 1e6},
                {"what": "until the first numbers are there, s", **_spread(opened)},
                {"what": f"another text of {POSITIONS} positions, in the worker, ms", **_spread(recomputed)},
            ]
            yield Result(
                "page",
                "the page of explain with the laptop model (4 layers, 4 heads, 128 wide)",
                rows,
                {"what": str, "median": _digits, "lowest": _digits, "highest": _digits},
                [f"Medians of {turn + 1} openings, at 1440 x 900; each reads two other texts."],
                done=(turn + 1) / settings.repeat,
            )


def _write(path: Path) -> None:
    config = PRESETS["laptop"].model
    weights: dict[str, Any] = {name: array.astype(np.float64) for name, array in initial_weights(config, 0).items()}
    ids = np.random.default_rng(0).integers(0, config.vocab_size, POSITIONS + 1)
    trace = Trace(Problem(config, weights, ids[:-1], ids[1:], 0, 0))
    about = {"text": "", "vocabulary": list(CHARACTERS), "characters": list(CHARACTERS), "described": "untrained",
             "command": ["", ""], "program": "gpt-numpy", "flags": "", "torch": True, "learns": ""}  # fmt: skip
    write_page(path, living_contents(trace, about))


def _noted(page: Any, name: str) -> float:
    return float(page.get_attribute("body", f"data-{name}"))


def _spread(times: list[float]) -> Row:
    return {"median": statistics.median(times), "lowest": min(times), "highest": max(times)}


def _digits(value: float) -> str:
    return f"{value:.3g}"
