"""The notebook of gpt_torch, every cell of it, with a small model and few steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpt_torch.notebook import sources
from tests.support import ROOT
from tests.support.runs import MODEL, PLAY, records

NOTEBOOK = ROOT / "gpt_torch" / "workshop.ipynb"
FEW = [*MODEL, "--block-size", "16", "--eval-every", "5", "--threads", "1", "--device", "cpu", "--data", "play.txt"]


def executed(folder: Path, notebook: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    (folder / "play.txt").write_text(PLAY + "ROMEO: To be, or not?\n" * 20, encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [sys.executable, "-m", "tests.gpt_torch.notebook", str(notebook), *settings],
        cwd=folder, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")},
        capture_output=True, encoding="utf-8", timeout=300,
    )  # fmt: skip


@pytest.mark.slow("new processes that load PyTorch")
def test_every_cell_runs_and_run_is_resumed(tmp_path: Path) -> None:
    more = " ".join(FEW)
    for settings, evaluations, shown in (
        (["STEPS=5", f'MORE="{more}"'], [0, 5], "step     5   train"),
        ([f'MORE="--resume --steps 10 {more}"'], [0, 5, 10], "resuming after step 5 of 10"),
    ):
        done = executed(tmp_path, NOTEBOOK, *settings)
        assert done.returncode == 0, done.stdout + done.stderr
        assert [one["step"] for one in records(tmp_path / "runs" / "colab", "evaluation")] == evaluations
        for text in (shown, "SVG", "\nROMEO:", "the workshop says", "dS[3,1] = "):
            assert text in done.stdout, text


@pytest.mark.slow("new processes that load PyTorch")
@pytest.mark.parametrize("broken", ["!gpt-torch train --nothing", "1 / 0"], ids=["a command", "Python"])
def test_failing_cell_is_reported(tmp_path: Path, broken: str) -> None:
    cells = [{"cell_type": "code", "source": [line]} for line in ("STEPS = 1", broken, "print('too far')")]
    (tmp_path / "broken.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    done = executed(tmp_path, tmp_path / "broken.ipynb", "STEPS=2")
    assert done.returncode == 1
    assert "too far" not in done.stdout.split("this cell failed")[0]


def test_notebook_has_no_outputs_and_no_urls() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell["outputs"] for cell in content["cells"] if cell["cell_type"] == "code")
    assert not any("://" in source for source in sources(NOTEBOOK))
