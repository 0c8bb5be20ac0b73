"""The notebook of gpt_torch, every cell of it, with a small model and few steps."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpt_torch.notebook import sources
from tests.support import ROOT
from tests.support.fork_server import ForkServer
from tests.support.runs import MODEL, PLAY, records

NOTEBOOK = ROOT / "gpt_torch" / "workshop.ipynb"
FEW = [*MODEL, "--block-size", "16", "--eval-every", "5", "--threads", "1", "--device", "cpu", "--data", "play.txt"]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer("import sys, torch._dynamo; from tests.gpt_torch import notebook")
    yield server
    server.end()


def executed(server: ForkServer, folder: Path, notebook: Path, *settings: str) -> tuple[int, str]:
    """The exit status, and all that is printed."""
    (folder / "play.txt").write_text(PLAY + "ROMEO: To be, or not?\n" * 20, encoding="utf-8")
    child = server.start(
        "sys.exit(notebook.main())", str(notebook), *settings,
        output=folder / "output", cwd=folder, env={"IPYTHONDIR": str(folder / "ipython")},
    )  # fmt: skip
    status, output = child.wait(300.0), (folder / "output").read_text(encoding="utf-8")
    (folder / "output").unlink()
    return status, output


@pytest.mark.slow("a new process that loads PyTorch")
def test_every_cell_runs_and_run_is_resumed(server: ForkServer, tmp_path: Path) -> None:
    more = " ".join(FEW)
    for settings, evaluations, shown in (
        (["STEPS=5", f'MORE="{more}"'], [0, 5], "step     5   train"),
        ([f'MORE="--resume --steps 10 {more}"'], [0, 5, 10], "resuming after step 5 of 10"),
    ):
        status, output = executed(server, tmp_path, NOTEBOOK, *settings)
        assert status == 0, output
        assert [one["step"] for one in records(tmp_path / "runs" / "colab", "evaluation")] == evaluations
        for text in (shown, "SVG", "\nROMEO:", "the workshop says", "dS[3,1] = "):
            assert text in output, text


@pytest.mark.slow("a new process that loads PyTorch")
@pytest.mark.parametrize("broken", ["!gpt-torch train --nothing", "1 / 0"], ids=["a command", "Python"])
def test_failing_cell_is_reported(server: ForkServer, tmp_path: Path, broken: str) -> None:
    cells = [{"cell_type": "code", "source": [line]} for line in ("STEPS = 1", broken, "print('too far')")]
    (tmp_path / "broken.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    status, output = executed(server, tmp_path, tmp_path / "broken.ipynb", "STEPS=2")
    assert status == 1
    assert f"this cell failed:\n{broken}" in output
    assert "too far" not in output


def test_notebook_has_no_outputs_and_no_urls() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell["outputs"] for cell in content["cells"] if cell["cell_type"] == "code")
    assert not any("://" in source for source in sources(NOTEBOOK))
