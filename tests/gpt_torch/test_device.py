"""Simulated devices: selection, remarks on unusable GPUs, and attention."""

import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from gpt_numpy.cli import CLI as BY_HAND
from gpt_numpy.workshop.cli.main import run
from gpt_torch import device
from gpt_torch.attention import CUDNN_FIRST, FUSED, OnMPS, attending, attention_of, formula
from gpt_torch.cli import CLI
from gpt_torch.device import find_device, find_precision, is_out_of_memory, peak_of, remarks, unused_gpu
from gpt_torch.engine import Engine
from gpt_torch.options import Options
from tests.gpt_torch.cards import USUAL_BUILD, cards
from tests.support.engines import CONFIG, RECIPE
from tests.support.runs import PLAY, TINY

H200 = "NVIDIA H200"


@pytest.fixture
def no_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.backends.mps, "is_available", cache(lambda: False)
    )  # cached, since torch.compile calls cache_clear on it


def with_nvidias_driver(patch: pytest.MonkeyPatch, cuda: str | None, warning: str = "") -> None:
    """A machine with a GPU that PyTorch, built for this CUDA version, does not find."""

    def unavailable() -> bool:
        if warning:
            warnings.warn(f"CUDA initialization: {warning} (Triggered internally at somewhere.cpp:109.)", stacklevel=1)
        return False

    patch.setattr(torch.cuda, "is_available", unavailable)
    patch.setattr(torch.version, "cuda", cuda)
    patch.setattr(device, "has_nvidia", lambda: True)


# ---- selection --------------------------------------------------------------------------------------------------


def test_auto_precision_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_precision("auto", torch.device("cpu")) == find_precision("auto", torch.device("mps")) == "float32"
    for capability, expected in (((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")):
        cards(monkeypatch, H200, capability=capability)
        assert find_precision("auto", torch.device("cuda")) == expected
    assert find_precision("float32", torch.device("cuda")) == "float32"
    assert find_precision("tf32", torch.device("cuda")) == "tf32"
    cards(monkeypatch, "Tesla T4", capability=(7, 5))
    for other in ("cuda", "cpu"):
        with pytest.raises(ValueError, match="dtype tf32 is for CUDA GPUs from 2020 on"):
            find_precision("tf32", torch.device(other))


def test_gpu_is_selected_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, H200, H200)
    assert find_device("auto") == find_device("cuda") == torch.device("cuda")
    assert find_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="device cuda:2 is not available; the last one is cuda:1"):
        find_device("cuda:2")
    for wrong in ("cuda:", "cuda:x", "cpu:0", "gpu", ""):
        with pytest.raises(ValueError, match="device is auto, cuda, cuda:N, mps or cpu, not "):
            find_device(wrong)


def test_idle_gpus_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, *[H200] * 8)
    (remark,) = remarks("auto")
    assert remark == "7 more GPUs are idle; to use all: uv run torchrun --nproc-per-node 8 --no-python gpt-torch train"
    cards(monkeypatch, H200, H200)
    assert remarks("auto")[0].startswith("1 more GPU is idle")
    cards(monkeypatch, H200)
    assert remarks("auto") == remarks("cuda") == remarks("cpu") == []


# ---- unusable GPUs ----------------------------------------------------------------------------------------------

OLD = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver"


@pytest.mark.usefixtures("no_mps")
@pytest.mark.parametrize(
    ("cuda", "warning", "reason"),
    [
        (None, "", r"is a build for CPUs only\. uv pip install --torch-backend=auto "),
        ("13.2", OLD, r"built for CUDA 13\.2, and the driver supports CUDA 12\.4\. uv pip install .*=auto "),
        ("13.2", "CUDA unknown error", r"built for CUDA 13\.2, and the driver cannot run it\. uv pip install"),
    ],
)
def test_unusable_gpu_is_reported_in_one_line(
    cuda: str | None, warning: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Training then uses the CPU, unless the GPU was requested."""
    with_nvidias_driver(monkeypatch, cuda, warning)
    monkeypatch.chdir(tmp_path)
    Path("play.txt").write_text(PLAY, encoding="utf-8")
    with warnings.catch_warnings(record=True) as caught:
        assert run(CLI, ["train", *TINY, "--data", "play.txt", "--out", "a", "--steps", "1"]) == 0
    assert [
        warning for warning in caught if "CUDA" in str(warning.message)
    ] == []  # PyTorch's own warning of several lines
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("the GPU of this machine is not")]
    assert len(lines) == 1
    assert re.search(f"{reason}.*, then set UV_NO_SYNC=1, or uv run undoes it$", lines[0])
    assert run(CLI, ["train", *TINY, "--data", "play.txt", "--out", "b", "--device", "cuda"]) == 2
    assert re.match(f"gpt-torch: --device cuda: this PyTorch.*{reason}", capsys.readouterr().err)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert unused_gpu() is None
    assert run(BY_HAND, ["train", *TINY, "--data", "play.txt", "--out", "c", "--steps", "1"]) == 0
    assert "GPU" not in capsys.readouterr().out


@pytest.mark.usefixtures("no_mps")
def test_no_remark_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nvidias_driver(monkeypatch, "13.2")
    monkeypatch.setattr(device, "has_nvidia", lambda: False)
    assert remarks("auto") == []


@pytest.mark.usefixtures("no_mps")
@pytest.mark.parametrize(
    ("capability", "build", "works"),
    [
        ((7, 0), USUAL_BUILD, False),  # a V100
        ((8, 9), USUAL_BUILD, True),  # code for 8.6 runs on it
        ((8, 0), ["sm_86"], False),
        ((10, 3), ["sm_90", "compute_90"], True),  # compiled when it is loaded
        ((10, 3), ["sm_90"], False),
        ((9, 0), [], True),  # a build without a list of architectures
    ],
)
def test_gpu_without_kernels_is_not_used(
    capability: tuple[int, int], build: list[str], works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, "Tesla V100-SXM2-16GB", capability=capability, build=build)
    assert find_device("auto").type == ("cuda" if works else "cpu")
    if works:
        assert remarks("auto") == []
    else:
        (remark,) = remarks("auto")
        name = f"Tesla V100-SXM2-16GB (sm_{capability[0]}{capability[1]})"
        assert remark.startswith(
            f"the GPU of this machine is not used: this PyTorch has no kernels for {name}. An older build"
        )
        with pytest.raises(ValueError, match="device cuda: this PyTorch has no kernels"):
            find_device("cuda")


# ---- properties of a GPU ----------------------------------------------------------------------------------------


def test_peak_by_exact_name_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, expected in (
        ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H200", 989e12), ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12), ("NVIDIA GeForce RTX 4090", 165e12), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None), ("NVIDIA H1000", None),
    ):  # fmt: skip
        cards(monkeypatch, name)
        assert peak_of(torch.device("cuda"), "bfloat16") == expected
        assert peak_of(torch.device("cuda"), "tf32") == (expected and expected / 2)
    assert peak_of(torch.device("cuda"), "float32") is None
    assert peak_of(torch.device("cpu"), "bfloat16") is None


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"), True),
        (RuntimeError("Invalid buffer size: 24.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_errors_are_recognized(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) is full


# ---- attention --------------------------------------------------------------------------------------------------


def test_default_attention_of_each_device() -> None:
    devices = [torch.device(name) for name in ("cuda", "mps", "cpu")]
    assert [attention_of("auto", device) for device in devices] == ["fused", "math", "fused"]
    assert [attention_of("fused", device) for device in devices] == ["fused"] * 3
    assert Engine(CONFIG, RECIPE, Options(device="cpu")).attention == "fused"
    assert Engine(CONFIG, RECIPE, Options(device="cpu", attention="math")).attention == "math"


@pytest.mark.parametrize("method", ["fused", "cudnn", "math"])
def test_kernels_that_may_compute_attention(method: str) -> None:
    def allowed() -> list[SDPBackend]:
        names = {
            SDPBackend.CUDNN_ATTENTION: "cudnn", SDPBackend.FLASH_ATTENTION: "flash",
            SDPBackend.EFFICIENT_ATTENTION: "mem_efficient", SDPBackend.MATH: "math",
        }  # fmt: skip
        in_order = [kind for kind in map(SDPBackend, torch._C._get_sdp_priority_order()) if kind in names]
        return [kind for kind in in_order if getattr(torch.backends.cuda, f"{names[kind]}_sdp_enabled")()]

    usual = allowed()
    expected = {"fused": usual, "cudnn": CUDNN_FIRST, "math": [SDPBackend.MATH]}
    for name in ("cuda", "cpu"):
        with attending(method, torch.device(name)):
            assert allowed() == expected[method]
    assert allowed() == usual
    assert CUDNN_FIRST[0] == SDPBackend.CUDNN_ATTENTION


def heads(T: int, U: int) -> list[torch.Tensor]:
    """q, k and v as in the model: views that are not contiguous."""
    random = torch.Generator().manual_seed(0)
    return [torch.randn(2, length, 3, 4, generator=random).transpose(1, 2) for length in (T, U, U)]


@pytest.mark.parametrize("how", ["fused", "math"])
def test_mps_attention_gets_contiguous_inputs_and_own_math(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def kernel(*given: Any, **named: Any) -> torch.Tensor:
        seen.extend(x.is_contiguous() for x in given[:3])
        return FUSED(*given, **named)

    mode = attending(how, torch.device("mps"))
    assert isinstance(mode, OnMPS)
    if how == "fused":
        monkeypatch.setattr(mode, "attention", kernel)
    for T, U, mask in (5, 5, None), (1, 5, None), (3, 5, torch.ones(3, 5, dtype=torch.bool).tril(2)):
        q, k, v = heads(T, U)
        with mode:
            found = F.scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal=T == U)
        torch.testing.assert_close(found, FUSED(q, k, v, mask, 0.0, is_causal=T == U))
    assert seen == [True] * 9 if how == "fused" else mode.attention is formula
