"""gpt_torch: the same model as gpt_numpy's, line by line and number by number, and the same commands."""

import difflib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import gpt_torch
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.cli import CLI as BY_HAND
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.params import flops_per_token
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_torch.cli import CLI as IN_TORCH
from gpt_torch.device import find_device
from tests.gpt_numpy.test_gpt import VARIANTS
from tests.support import ROOT
from tests.workshop.test_commands import PLAY, TINY


@pytest.mark.parametrize(("name", "at_most"), [("model.py", 8), ("cache.py", 15)])
def test_sources_of_the_two_models_are_nearly_equal(name: str, at_most: int) -> None:
    ours, theirs = ((ROOT / room / name).read_text(encoding="utf-8") for room in ("gpt_numpy", "gpt_torch"))
    differing = [line for line in difflib.ndiff(ours.splitlines(), theirs.splitlines()) if line[0] in "+-"]
    body = [line[1:].strip() for line in differing if "import" not in line and line[0] == "+"]
    assert len(body) <= at_most, body


def test_equal_seeds_give_equal_weights() -> None:
    ours, theirs = GPT(VARIANTS["plain"], seed=5).state_dict(), gpt_torch.GPT(VARIANTS["plain"], seed=5).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(p.array, theirs[name].numpy()) for name, p in ours.items())


def test_invalid_inputs_are_refused() -> None:
    model = gpt_torch.GPT(VARIANTS["plain"])
    ids = torch.zeros((1, 9), dtype=torch.long)
    with pytest.raises(ValueError, match="9 tokens do not fit the context, block_size 8"):
        model(ids)
    with pytest.raises(ValueError, match=r"ids are \(B, T\), rows of tokens; given \(9,\)"):
        model(ids[0])
    with pytest.raises(ValueError, match=r"targets \(1, 7\) go with ids \(1, 8\)"):
        model(ids[:, :8], ids[:, :7])


def test_unavailable_device_is_refused() -> None:
    assert find_device("cpu") == torch.device("cpu")
    absent = next(kind for kind in ("mps", "cuda") if find_device("auto").type != kind)
    if absent == "mps" and torch.backends.mps.is_available():
        pytest.skip("every kind of device is here")
    with pytest.raises(ValueError, match=f"device {absent} is not available; PyTorch .* finds .*cpu"):
        find_device(absent)


# ---- the commands -----------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "play.txt").write_text(PLAY, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("before", "after"), [(BY_HAND, IN_TORCH), (IN_TORCH, BY_HAND)], ids=["to torch", "to NumPy"])
def test_either_command_resumes_a_run_of_the_other(here: Path, before: EngineCLI, after: EngineCLI) -> None:
    assert run(before, ["train", "--out", "unbroken", *TINY]) == 0
    assert run(before, ["train", "--out", "handed-over", *TINY, "--steps", "3"]) == 0
    assert run(after, ["train", "--out", "handed-over", "--resume", "--steps", "6"]) == 0
    unbroken, handed_over = (losses(here / name) for name in ("unbroken", "handed-over"))
    assert len(unbroken) == 6
    assert handed_over == pytest.approx(unbroken, rel=1e-5)


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in RunDir(folder).records() if record["kind"] == "step"]


def test_both_commands_generate_equal_text_and_equal_loss(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(IN_TORCH, ["train", "--out", "runs/one", *TINY]) == 0
    output = []
    for cli in (BY_HAND, IN_TORCH):
        capsys.readouterr()
        assert run(cli, ["generate", "--length", "100", "--seed", "3", "--prompt", "ROMEO"]) == 0
        assert run(cli, ["eval"]) == 0
        output.append(capsys.readouterr().out)
    assert output[0] == output[1]
    assert output[0].startswith("ROMEO")


def test_self_test_runs_before_training_unless_disabled(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = []
    for flags in ([], ["--resume", "--steps", "8"], ["--resume", "--steps", "9", "--no-self-test"]):
        begin = [] if "--resume" in flags else TINY
        assert run(IN_TORCH, ["train", "--out", "one", *begin, *flags]) == 0
        output.append("self-test: loss, gradients, cache and causality match float64" in capsys.readouterr().out)
    assert output == [True, True, False]


def test_help_lists_common_flags_and_device_flags(capsys: pytest.CaptureFixture[str]) -> None:
    pages = []
    for cli in (BY_HAND, IN_TORCH):
        with pytest.raises(SystemExit):
            run(cli, ["train", "--help"])
        pages.append(set(re.findall(r"^  (--[a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE)))
    assert pages[1] - pages[0] == {
        "--device", "--dtype", "--attention", "--compile", "--deterministic", "--recompute", "--parallel",
        "--self-test", "--weights", "--cuda-graph",
    }  # fmt: skip
    assert pages[0] <= pages[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--device", "toaster"],
            "--device is auto, cuda, cuda:N, mps or cpu, not 'toaster'",
        ),
        (["train", "--dtype", "tf32"], "--dtype tf32 is for CUDA GPUs from 2020 on; use --dtype float32"),
        (["train", "--threads", "-1"], "--threads is a whole number of at least 0 and at most 1024, not -1"),
        (["train", "--device", "mps"], "--device mps is not available; PyTorch"),
    ],
)
def test_usage_error_is_one_line_and_status_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    if torch.backends.mps.is_available() and "mps" in arguments:
        pytest.skip("mps is here")
    assert run(IN_TORCH, arguments) == 2
    output = capsys.readouterr().err
    assert output.startswith(f"gpt-torch: {message}")
    assert output.count("\n") == 1


@pytest.mark.parametrize("tied", [False, True])
def test_flops_match_pytorchs_count(tied: bool) -> None:
    config = GPTConfig(vocab_size=17, block_size=16, n_layer=3, n_head=2, n_embd=32, tie_weights=tied)
    ids = torch.zeros(4, 16, dtype=torch.long)
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        gpt_torch.GPT(config)(ids, ids)[1].backward()
    by_row = 2 * config.vocab_size * config.n_embd  # the gradient of tok_emb, which flops_per_token counts as a sum
    assert counted.get_total_flops() == 4 * 16 * (flops_per_token(config) + by_row)


def test_run_ends_with_speed_and_share_of_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("play.txt").write_text(PLAY, encoding="utf-8")
    monkeypatch.setattr("gpt_torch.engine.peak_of", lambda device, precision: 1e7)
    assert run(IN_TORCH, ["train", *TINY, "--device", "cpu", "--no-self-test", "--out", "a"]) == 0
    line = re.search(
        r"^steps: (\S+) characters per second, (\S+) TFLOP/s, (\S+)% of the",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    assert line
    speed, teraflops, share = (float(number.replace(",", "")) for number in line.groups())
    config = RunDir(Path("a")).checkpoint("latest").state.config
    assert teraflops * 1e12 == pytest.approx(speed * flops_per_token(config), rel=0.01)
    assert share / 100 == pytest.approx(teraflops * 1e12 / 1e7, rel=0.02)
    steps = [json.loads(line) for line in Path("a/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = [record["characters_per_second"] for record in steps if record["kind"] == "step"]
    assert speed == pytest.approx(speeds[-1], rel=1e-3)  # the mean over all but the first step


@pytest.mark.slow("PyTorch's profiler")
def test_profile_writes_a_trace_of_ten_steps(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--out", "a", "--steps", "14", "--profile", "--device", "cpu", "--no-self-test"]
    assert run(IN_TORCH, ["train", *TINY, *flags]) == 0
    assert "profile of 10 steps\ntrace: a/trace.json; " in capsys.readouterr().out
    events = json.loads(Path("a/trace.json").read_text(encoding="utf-8"))["traceEvents"]
    steps = [event for event in events if event.get("name", "").startswith("Optimizer.step")]
    assert len(steps) == 10


def test_missing_pytorch_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("gpt_torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert gpt_torch.main() == 2
    expected = 'gpt-torch: PyTorch is not installed: pip install "gpt-twice[torch]", or uv sync in a checkout\n'
    assert capsys.readouterr().err == expected
    with pytest.raises(ModuleNotFoundError, match="torch"):
        gpt_torch.GPT  # noqa: B018


def test_resume_keeps_the_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("play.txt").write_text(PLAY, encoding="utf-8")
    machine = ["--device", "cpu", "--no-self-test"]
    flags = [*TINY, *machine, "--dtype", "bfloat16", "--attention", "math"]
    assert run(IN_TORCH, ["train", *flags, "--out", "a"]) == 0
    steps = str(2 * RunDir(Path("a")).checkpoint("latest").state.step)
    for expected, more in (("bfloat16, math", []), ("float32, math", ["--dtype", "float32"])):
        shutil.copytree("a", f"b{len(more)}")
        capsys.readouterr()
        assert run(IN_TORCH, ["train", "--resume", "--out", f"b{len(more)}", "--steps", steps, *machine, *more]) == 0
        assert f", {expected} attention, CPU" in capsys.readouterr().out
