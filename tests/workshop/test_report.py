"""The report page of a run: its data, escaping, and runs with little or no data."""

import json
import math
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from gpt_numpy.workshop.report import report
from gpt_numpy.workshop.report.report import POINTS, TEMPLATE, buckets, downsampled
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_numpy.workshop.train.phases import PHASES
from tests.support.browser import BROWSER

Record = dict[str, Any]
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)><!-- &lt; \u2028\u2029 {{data}}"


def step(number: int, loss: float = 2.0) -> Record:
    return {
        "kind": "step",
        "step": number,
        "loss": loss,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "characters_per_second": 24680.0,
    }


def evaluation(number: int, loss: float, sample: str = "ROMEO:", diagnoses: Iterable[str] = ()) -> Record:
    return {
        "kind": "evaluation", "step": number, "train_loss": loss, "val_loss": loss, "best": True, "sample": sample,
        "diagnoses": list(diagnoses),
    }  # fmt: skip


def begin(folder: Path, records: Iterable[Record], **changed: Any) -> Path:
    """A run's folder."""
    config = {
        "command": "gpt-numpy", "name": "a run", "started": "2026-11-21T04:10:00",
        "corpus": {"name": "input.txt", "characters": 1115394, "digest": "86c4", "floor": None},
        "tokenizer": {"kind": "char", "vocab_size": 65}, "characters_per_token": 1.0, "parameters": 10795776,
        "model": {"block_size": 64}, "recipe": {"steps": 500, "batch_size": 12}, "versions": {"python": "3.13"},
    } | changed  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return folder


def write_report(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    report.write_report(folder, config, list(RunDir(folder).records()))
    return folder / "report.html"


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def data_of(page: Path) -> Any:
    """The JSON that the script of the page reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found
    return json.loads(found[1], parse_constant=refuse)


def test_all_evaluations_and_the_final_numbers(tmp_path: Path) -> None:
    records = [evaluation(0, 4.2, "xq"), step(1), evaluation(250, 1.5, "To be"), evaluation(500, 1.75, "or not")]
    corpus = {"name": "input.txt", "floor": 1.25}
    data = data_of(write_report(begin(tmp_path, records, corpus=corpus)))
    assert [(one["step"], one["validation"], one["sample"]) for one in data["evaluations"]] == [
        (0, 4.2, "xq"), (250, 1.5, "To be"), (500, 1.75, "or not"),
    ]  # fmt: skip
    assert [data["evaluations"][i]["meaning"] for i in (0, 1)] == ["knows nothing", "real words"]
    assert data["best"] == pytest.approx(
        {"step": 250, "loss": 1.5, "perplexity": math.exp(1.5), "bits": 1.5 / math.log(2), "above_floor": 0.25},
        rel=1e-5,
    )
    assert data["curves"]["characters_per_second"]["mean"] == [24680.0]
    assert [phase["above"] for phase in data["phases"]] == [phase.above for phase in PHASES]


def test_losses_are_per_character_and_perplexity_per_token(tmp_path: Path) -> None:
    data = data_of(write_report(begin(tmp_path, [step(1, 5.0), evaluation(1, 4.0)], characters_per_token=2.0)))
    assert data["curves"]["loss"]["mean"] == [2.5]
    assert data["evaluations"][0]["validation"] == data["best"]["loss"] == 2.0
    assert data["best"]["perplexity"] == pytest.approx(math.exp(4.0), rel=1e-5)
    assert data["best"]["bits"] == pytest.approx(2.0 / math.log(2), rel=1e-5)
    assert data["curves"]["lr"]["mean"] == [step(1)["lr"]]


def test_overflowing_perplexity_is_null(tmp_path: Path) -> None:
    assert data_of(write_report(begin(tmp_path, [evaluation(1, 1000.0)])))["best"]["perplexity"] is None


def test_each_diagnosis_has_its_first_and_last_step(tmp_path: Path) -> None:
    records = [evaluation(i, 2.0, diagnoses=texts) for i, texts in enumerate([["a"], ["b", "a"], ["a"]])]
    diagnoses = data_of(write_report(begin(tmp_path, records)))["diagnoses"]
    assert diagnoses == [{"text": "a", "first": 0, "last": 2}, {"text": "b", "first": 1, "last": 1}]


def test_run_content_is_escaped(tmp_path: Path) -> None:
    records = [evaluation(1, 2.0, HOSTILE, [HOSTILE])]
    page = write_report(begin(tmp_path, records, name=HOSTILE, recipe={HOSTILE: HOSTILE}))
    text, own = page.read_text(encoding="utf-8"), TEMPLATE.read_text(encoding="utf-8")
    for mark in ("<", ">", "&", "\u2028", "\u2029"):
        assert text.count(mark) == own.count(mark)
    data = data_of(page)
    assert data["config"]["name"] == data["evaluations"][0]["sample"] == data["diagnoses"][0]["text"] == HOSTILE


def test_page_loads_nothing_external(tmp_path: Path) -> None:
    text = write_report(begin(tmp_path, [evaluation(1, 2.0)])).read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"://|\b(src|href|srcset)\s*=|@import|url\((?!#)|\bimport\b|fetch\(|XMLHttpRequest", text)


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 1999, 12345])
def test_downsampling_keeps_ends_extremes_and_sum(count: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    starts = buckets(count)
    thin = downsampled(values, starts)
    assert len(starts) == min(count, POINTS)
    assert (np.diff(starts) > 0).all()
    assert thin["mean"][0] == values[0]
    assert thin["mean"][-1] == values[-1]
    assert thin["low"].min() == values.min()
    assert thin["high"].max() == values.max()
    sizes = np.diff([*starts, count])
    assert (thin["mean"] * sizes).sum() == pytest.approx(values.sum())


def test_smoothing_keeps_lines_and_reduces_noise() -> None:
    line = np.linspace(4.0, 2.0, 500)
    noise = np.random.default_rng(0).normal(size=500)
    np.testing.assert_allclose(downsampled(line, buckets(500))["smooth"][:-5], line[:-5])
    assert downsampled(noise, buckets(500))["smooth"].std() < 0.5 * noise.std()


def test_nonfinite_values_are_gaps(tmp_path: Path) -> None:
    records = [step(1, 3.0), step(2, math.nan), step(3, math.inf), step(4, 1.0), evaluation(4, math.nan)]
    data = data_of(write_report(begin(tmp_path, records)))
    for name in ("mean", "low", "high"):
        assert data["curves"]["loss"][name] == [3.0, None, None, 1.0]
    assert [value is None for value in data["curves"]["loss"]["smooth"]] == [False, True, True, False]
    assert data["evaluations"][0]["validation"] is data["evaluations"][0]["meaning"] is data["best"] is None


def test_buckets_ignore_nan() -> None:
    thin = downsampled(np.array([1.0, math.nan, 3.0, math.nan, math.nan]), np.array([0, 3]))
    assert [thin[name][0] for name in ("mean", "low", "high")] == [2.0, 1.0, 3.0]
    assert all(np.isnan(values[1]) for values in thin.values())


def test_run_without_metrics(tmp_path: Path) -> None:
    (begin(tmp_path, []) / "metrics.jsonl").unlink()
    data = data_of(write_report(tmp_path))
    assert (data["curves"], data["evaluations"], data["best"]) == ({}, [], None)


def test_truncated_last_line_is_ignored(tmp_path: Path) -> None:
    metrics = begin(tmp_path, [step(1), step(2), evaluation(2, 2.0)]) / "metrics.jsonl"
    metrics.write_text(metrics.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    data = data_of(write_report(tmp_path))
    assert (data["curves"]["last"], data["evaluations"]) == ([1, 2], [])


def test_page_is_replaced_atomically(tmp_path: Path) -> None:
    old = write_report(begin(tmp_path, [])).stat().st_ino
    assert write_report(tmp_path).stat().st_ino != old
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "loss.svg", "metrics.jsonl", "report.html"}


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_script_fills_in_the_page_and_runs_nothing_else(tmp_path: Path) -> None:
    records = [evaluation(0, 4.2), *map(step, range(1, 50)), evaluation(49, 1.5, HOSTILE, [HOSTILE])]
    shown = shown_by(write_report(begin(tmp_path, records, name=HOSTILE)))
    assert '<dd>1.5000</dd><dd class="quiet">at step 49, the latest</dd>' in shown
    assert "<dd>24,680</dd>" in shown
    assert shown.count('<circle class="point') == 1 + 2  # the legend's, and one per evaluation
    assert "Written" in shown  # the last thing that the script does
    assert "<img" not in shown
    assert shown.count("<script") == 2
    assert "trained on input.txt (1,115,394 characters, 65 different characters) in 500 steps of 12 × 64" in shown
    assert '<span id="about-bands">' in shown


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_page_of_a_tuned_run_says_so_and_has_no_phases(tmp_path: Path) -> None:
    page = write_report(begin(tmp_path, [evaluation(0, 2.0), step(1), evaluation(1, 1.5)], method="sft"))
    data = data_of(page)
    assert data["phases"] == []
    assert [one["meaning"] for one in data["evaluations"]] == [None, None]
    shown = shown_by(page)
    assert "fine-tuned on input.txt in 500 steps of 12 pairs." in shown
    assert '<span id="about-bands" hidden="">' in shown
    assert "Written" in shown


def shown_by(page: Path) -> str:
    """The page's elements after its script has run."""
    profile = page.parent / "profile"
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True).stdout


# ---- the plot ---------------------------------------------------------------------------------------------------


def drawn(folder: Path) -> Any:
    write_report(folder)
    return ElementTree.parse(folder / "loss.svg").getroot()


def test_plot_positions_of_evaluations(tmp_path: Path) -> None:
    losses = {0: 4.2, 10: 3.2, 100: 2.2}
    root = drawn(begin(tmp_path, [evaluation(number, loss) for number, loss in losses.items()]))
    places = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle")]
    (left, top), (middle, half), (right, bottom) = places
    assert middle - left == pytest.approx(right - middle, abs=0.2)  # 1, 10, 100, by their logarithm
    assert half - top == pytest.approx(bottom - half, abs=0.2)  # 4.2, 3.2, 2.2
    marks = {text.text: float(text.get("y")) - 4 for text in root.iter(f"{SVG}text")}
    assert marks["2.8"] == pytest.approx(half + 0.4 * (bottom - half), abs=0.2)
    assert {"1", "2", "5", "10", "20", "50", "100", "knows nothing"} <= marks.keys()
    assert "validation, 2.200 after step 100" in marks


@pytest.mark.parametrize(
    "recorded",
    [
        [],
        [step(1)],
        [evaluation(0, 4.2)],
        [evaluation(0, math.nan)],
        [step(1, math.inf)],
        [step(i, 1e9) for i in (1, 2)],
    ],
    ids=["nothing", "a step", "an evaluation", "NaN", "infinite", "huge"],
)
def test_plot_of_little_or_invalid_data(tmp_path: Path, recorded: list[Record]) -> None:
    root = drawn(begin(tmp_path, recorded, name=HOSTILE))
    assert root.find(f"{SVG}title").text.startswith(HOSTILE[:20])
    assert not list(root.iter(f"{SVG}script"))
    for element in root.iter():
        assert not any(value in ("nan", "inf") for value in element.attrib.values())
