"""Fills the tables of speeds in README.md and bench/README.md from the records in results/.

    python -m bench.speed_tables

A record is what a benchmark wrote with --json, and has the card of its machine. A table stands between the lines
<!-- speeds of steps --> (or of texts) and <!-- end -->, so that no figure in it is written by hand.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.card import FREE_THREADED
from bench.result import Row, percent, whole
from bench.roofline import NUMPYS, TORCHS
from bench.settings import EAGER, NUMPY

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "bench/README.md")
RECORDS = {
    "step": [
        "step-laptop-avx2", "step-laptop-avx2-free-threaded", "step-workshop-16-avx2", "step-workshop-64-avx2",
        "cpu-2-cores", "workshop-64-cpu-2-cores",
    ],
    "generate": ["generate-laptop-avx2", "generate-workshop-avx2"],
}  # fmt: skip
KERNELS = {"Haswell": "AVX2", "SkylakeX": "AVX-512"}  # OpenBLAS's names
TABLE = re.compile(r"(<!-- speeds of (\w+) -->\n).*?(<!-- end -->)", re.S)


def main() -> int:
    for name in PAGES:
        page = ROOT / name
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def filled(page: str) -> str:
    """The page with its tables as the records have them."""
    tables = {"steps": of_steps, "texts": of_texts}
    return TABLE.sub(lambda found: f"{found[1]}{tables[found[2]]()}{found[3]}", page)


def of_steps() -> str:
    """A row for each step: the speed of both BLAS, each engine's share of its own, the ratio of the times."""
    table = [
        "| step, OpenBLAS's kernels | NumPy's and PyTorch's BLAS | gpt_numpy | gpt_torch | time / gpt_torch's |",
        "|---|---:|---:|---:|---:|",
    ]
    for title, made_by, rows in results("step"):
        by_name = {row["subject"]: row for row in rows}
        speeds = " and ".join(f"{by_name[name]['speed'] / 1e9:.0f}" for name in (NUMPYS, TORCHS))
        shares = " | ".join(percent(by_name[name]["of the roofline"]) for name in (NUMPY, EAGER))
        model, batch = "small" if "4 layers" in title else "full", re.findall(r"batch (\d+)", title)[0]
        ratio = by_name[NUMPY]["of torch's time"]
        table.append(f"| {model} model, batch {batch}, {made_by} | {speeds} GFLOP/s | {shares} | {ratio:.2f} |")
    return "".join(f"{line}\n" for line in table)


def of_texts() -> str:
    """A row for each model and way of generating: the speed of both BLAS, characters per second, and their ratio."""
    table = [
        "| characters per second | NumPy's and PyTorch's BLAS | gpt_numpy | gpt_torch | speed / gpt_torch's |",
        "|---|---:|---:|---:|---:|",
    ]
    for title, _, rows in results("generate"):
        model = "small" if "laptop" in title else "full"
        for ours, torchs in zip(rows[::2], rows[1::2], strict=True):
            speeds = " and ".join(f"{row['its BLAS'] / 1e9:.0f}" for row in (ours, torchs))
            both = " | ".join(whole(row["characters/s"]) for row in (ours, torchs))
            ratio = ours["of torch's speed"]
            table.append(f"| {model} model, {ours['way']} | {speeds} GFLOP/s | {both} | {ratio:.2f} |")
    return "".join(f"{line}\n" for line in table)


def results(what: str) -> Iterator[tuple[str, str, list[Row]]]:
    """The title, NumPy's kernels (and the versions, where they are others), and the rows of each result."""
    for name in RECORDS[what]:
        record = json.loads((ROOT / f"bench/results/{name}.json").read_text(encoding="utf-8"))
        kernels = KERNELS[re.findall(r"\((\w+)\)", record["card"]["numpy_blas"])[0]]
        card = record["card"]
        others = [f"Python {card['python']}", f"PyTorch {card['torch'].partition('+')[0]}"]
        made_by = ", ".join([kernels, *(others if FREE_THREADED in card["python"] else [])])
        for result in record["results"]:
            if result["what"] == what:
                yield result["title"], made_by, result["rows"]


if __name__ == "__main__":
    sys.exit(main())
