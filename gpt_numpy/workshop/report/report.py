"""The page of a run, report.html: losses, samples and settings in one file that needs no network; and loss.svg."""

import json
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.workshop.io import write_atomic
from gpt_numpy.workshop.report.plot import loss_svg
from gpt_numpy.workshop.runs.run_dir import Record
from gpt_numpy.workshop.train.evaluate import bits, perplexity
from gpt_numpy.workshop.train.phases import PHASES, Phase, phase_of

TEMPLATE = Path(__file__).with_name("report.html")
POINTS = 1000  # of a curve: as many as a screen can show
Values = NDArray[np.float64]


def write_report(folder: Path, config: Record, records: list[Record]) -> None:
    """From config.json and the records so far, however few."""
    shown = contents(config, records)
    data = embedded(plain(shown))
    write_atomic(folder / "loss.svg", loss_svg(shown).encode("utf-8"))
    page = TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", data)
    write_atomic(folder / "report.html", page.encode("utf-8"))


def contents(config: Record, records: list[Record]) -> Record:
    """The data of the page. Losses are in nats per character, whatever the tokens are."""
    characters, measure = config.get("characters_per_token") or 1.0, config.get("measure", "loss")
    phases = PHASES if config.get("method") in (None, "", "distill") else ()  # those of learning a text
    evaluations = [
        evaluation(record, characters, phases, measure) for record in records if record["kind"] == "evaluation"
    ]
    steps = [record for record in records if record["kind"] == "step"]
    return {
        "config": config,
        "measure": measure,
        "written": f"{datetime.now():%Y-%m-%d %H:%M}",
        "phases": [phase._asdict() for phase in phases],
        "curves": curves(steps, characters, measure),
        "figures": figures(steps, evaluations, measure),
        "evaluations": evaluations,
        "best": best(evaluations, characters, config.get("corpus", {}).get("floor"), measure),
        "diagnoses": diagnoses(evaluations),
        "ended": next((record["reason"] for record in records if record["kind"] == "end"), None),
    }


def evaluation(record: Record, characters: float, phases: Sequence[Phase], measure: str) -> Record:
    training, validation = (number(record, name) / characters for name in ("train_loss", "val_loss"))
    if measure == "reward":  # of which the loss is the negative
        training, validation = math.nan, -validation
    return {
        "step": record["step"], "training": training, "validation": validation,
        "meaning": phase_of(validation, at_start=record["step"] == 0) if phases and math.isfinite(validation) else None,
        "sample": record.get("sample", ""), "diagnoses": record.get("diagnoses", []),
        "figures": record.get("figures", {}),
    }  # fmt: skip


def best(evaluations: list[Record], characters: float, floor: float | None, measure: str) -> Record | None:
    """The lowest validation loss, in several units; or the highest reward."""
    finite = [one for one in evaluations if math.isfinite(one["validation"])]
    if not finite:
        return None
    lowest = min(finite, key=lambda one: float(one["validation"]))
    if measure == "reward":
        highest = max(finite, key=lambda one: float(one["validation"]))
        return {"step": highest["step"], "loss": highest["validation"]}
    loss = lowest["validation"]
    return {
        "step": lowest["step"], "loss": loss, "perplexity": perplexity(loss * characters), "bits": bits(loss),
        "above_floor": None if floor is None else loss - floor,
    }  # fmt: skip


def diagnoses(evaluations: list[Record]) -> list[Record]:
    """Each warning once, with the first and the last evaluation that gave it."""
    steps: dict[str, list[int]] = {}
    for one in evaluations:
        for text in one["diagnoses"]:
            steps.setdefault(text, []).append(one["step"])
    return [{"text": text, "first": given[0], "last": given[-1]} for text, given in steps.items()]


def figures(steps: list[Record], evaluations: list[Record], measure: str) -> Record:
    """What tuning records beside the measure that decides: curves over the steps, or points at evaluations."""
    if not evaluations or not evaluations[0]["figures"]:
        return {}
    found: Record = {}
    starts = buckets(len(steps))
    for name in steps[0].get("figures", {}) if steps else ():
        if name != measure:
            values = np.array([number(record.get("figures", {}), name) for record in steps])
            found[name] = {"curve": downsampled(values, starts)}
    for name in evaluations[0]["figures"]:
        if name != measure:
            points = [one["figures"].get(name) for one in evaluations]
            found.setdefault(name, {})["points"] = points
    return found


def curves(steps: list[Record], characters: float, measure: str) -> Record:
    """The measurements of all steps, in buckets of steps."""
    if not steps:
        return {}
    starts = buckets(len(steps))
    numbers = [record["step"] for record in steps]
    found: Record = {
        "first": [numbers[start] for start in starts],
        "last": [numbers[end - 1] for end in (*starts[1:], len(steps))],
    }
    for name in ("loss", "lr", "grad_norm", "characters_per_second"):
        values = np.array([number(record, name) for record in steps])
        if name == "loss" and measure == "reward":
            values = np.array([number(record.get("figures", {}), measure) for record in steps])
        found[name] = downsampled(values / characters if name == "loss" else values, starts)
    return found


def buckets(count: int) -> NDArray[np.int64]:
    """Where each bucket starts. The first and the last value have one of their own: a curve ends where it ends."""
    if count <= POINTS:
        return np.arange(count)
    inner = POINTS - 2
    return np.concatenate([[0], 1 + np.arange(inner) * (count - 2) // inner, [count - 1]])


def downsampled(values: Values, starts: NDArray[np.int64]) -> dict[str, Values]:
    """Of each bucket the mean, the extremes, and the mean over its neighbours too; without NaN."""
    known = np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts)
    counts = np.add.reduceat(known.astype(np.float64), starts)
    gaps = np.where(known, values, np.nan)
    return {
        "mean": ratio(sums, counts),
        "low": np.fmin.reduceat(gaps, starts),
        "high": np.fmax.reduceat(gaps, starts),
        "smooth": np.where(counts > 0, ratio(moving_sum(sums), moving_sum(counts)), np.nan),
    }


def moving_sum(values: Values) -> Values:
    """Sums over a hundredth of the curve to each side; near the left end, over as many to the right as to the left."""
    positions = np.arange(len(values))
    reach = np.minimum(positions, -(-len(values) // 100))
    sums = np.concatenate([[0.0], values.cumsum()])
    return np.asarray(sums[np.minimum(positions + reach + 1, len(values))] - sums[positions - reach])


def ratio(sums: Values, counts: Values) -> Values:
    return np.where(counts > 0, sums, np.nan) / np.maximum(counts, 1.0)


def number(record: Record, name: str) -> float:
    value = record.get(name)
    return math.nan if value is None else float(value)


def plain(value: Any) -> Any:
    """As JSON: lists for arrays, six digits, null for NaN and infinity."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def embedded(value: Any) -> str:
    """JSON in which a browser sees no markup; json.dumps escapes all but ASCII, U+2028 included."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
