"""Device and precision of a run, and why a GPU of this machine is unused."""

import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

# tf32 is float32 with the factors of matrix products rounded to 10 bits of mantissa, on CUDA GPUs from 2020 on.
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The largest accepted relative error of a loss or a gradient: several times that of a correct CPU (measured in
# tests/gpt_torch/test_gpt_torch_engine.py), far below that of a wrong sign.
ALLOWED = {"float32": 1e-4, "tf32": 5e-3, "float16": 2e-2, "bfloat16": 1e-1}


def find_device(name: str) -> torch.device:
    """The device of this name; "auto": the fastest available. Under torchrun each process gets its own."""
    if not re.fullmatch(r"auto|cuda(:\d+)?|mps|cpu", name):
        raise ValueError(f"device is auto, cuda, cuda:N, mps or cpu, not {name!r}")
    kind, _, number = name.partition(":")
    available = {
        "cuda": cuda_works() and not gpu_without_kernels(int(number or 0)),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    processes = local_processes = 1
    if dist.is_torchelastic_launched():
        processes, local_processes = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if processes > 1:
        if number:
            raise ValueError(f"device {name} is for one process; --device cuda gives each of several its own")
        if kind == "mps":
            raise ValueError("device mps is for one process; --device cpu works for several")
        available["mps"] = False
    if kind == "auto":
        kind = next(each for each, usable in available.items() if usable)
    if not available[kind]:
        if kind == "cuda" and (reason := unused_gpu(int(number or 0))):
            raise ValueError(f"device {name}: {reason}")
        usable = " and ".join(each for each in available if available[each])
        raise ValueError(f"device {name} is not available; PyTorch {torch.__version__} finds {usable}")
    gpus = torch.cuda.device_count()
    if kind == "cuda" and local_processes > gpus:
        found = f"and this machine has {gpus}; use --nproc-per-node {gpus}"
        raise ValueError(f"device cuda needs a GPU for each of {local_processes} processes {found}")
    if number and int(number) >= gpus:
        raise ValueError(f"device {name} is not available; the last one is cuda:{gpus - 1}")
    return torch.device(kind, int(number)) if number else torch.device(kind)


def find_precision(name: str, device: torch.device) -> str:
    """The precision of matrix products; "auto": the one that suits the device.

    CUDA GPUs from 2020 on have bfloat16; older ones emulate it slowly, and get float16.
    """
    recent = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "tf32" and not recent:
        raise ValueError("dtype tf32 is for CUDA GPUs from 2020 on; use --dtype float32")
    if name != "auto":
        return name
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if recent else "float16"


# ---- unused GPUs ------------------------------------------------------------------------------------------------

# Each `uv run` restores the versions of uv.lock, unless UV_NO_SYNC is set.
REINSTALL = "uv pip install --torch-backend={} --reinstall torch, then set UV_NO_SYNC=1, or uv run undoes it"


def unused_gpu(index: int = 0) -> str | None:
    """Why PyTorch cannot use the NVIDIA GPU of this machine, and how to fix that; None if it can, or there is none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):  # hidden on purpose
        return None
    if cuda_works():
        if missing := gpu_without_kernels(index):
            return (
                f"this PyTorch has no kernels for {missing}. An older build may have them: {REINSTALL.format('cu126')}"
            )
        return None
    if torch.version.hip or not has_nvidia():
        return None
    if torch.version.cuda is None:
        return f"this PyTorch, {torch.__version__}, is a build for CPUs only. {REINSTALL.format('auto')}"
    found = re.search(r"too old \(found version (\d+)(\d\d)\d\)", cuda_warning())
    driver = f"supports CUDA {found[1]}.{int(found[2])}" if found else "cannot run it"
    return f"this PyTorch was built for CUDA {torch.version.cuda}, and the driver {driver}. {REINSTALL.format('auto')}"


def cuda_works() -> bool:
    # PyTorch warns in several lines, here and at each later check; `unused_gpu` says it in one.
    warnings.filterwarnings("ignore", "CUDA initialization")
    return torch.cuda.is_available()


def cuda_warning() -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.is_available()
    return " ".join(str(warning.message) for warning in caught)


def has_nvidia() -> bool:
    """Looks for files of its driver, since this PyTorch cannot tell."""
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll").exists()
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def gpu_without_kernels(index: int = 0) -> str | None:
    """The GPU's name, if this PyTorch has no kernels for it. Binaries (sm_80) run on later GPUs of the same major
    version, PTX (compute_80), which is compiled when it is loaded, on all later ones."""
    if torch.version.hip or index >= torch.cuda.device_count():
        return None
    capability, built = torch.cuda.get_device_capability(index), " ".join(torch.cuda.get_arch_list())
    for kind, number in re.findall(r"(sm|compute)_(\d+)", built):
        major, minor = divmod(int(number), 10)
        if (major, minor) <= capability and (kind == "compute" or major == capability[0]):
            return None
    return f"{torch.cuda.get_device_name(index)} (sm_{capability[0]}{capability[1]})" if built else None


def remarks(name: str) -> list[str]:
    """Remarks on training with this --device: an unused GPU, idle GPUs."""
    found = []
    device = find_device(name)
    if name == "auto" and device.type != "cuda" and (reason := unused_gpu()):
        found.append(f"the GPU of this machine is not used: {reason}")
    gpus = torch.cuda.device_count() if device.type == "cuda" else 1
    if gpus > 1 and not dist.is_torchelastic_launched():
        more = "1 more GPU is" if gpus == 2 else f"{gpus - 1} more GPUs are"
        found.append(f"{more} idle; to use all: uv run torchrun --nproc-per-node {gpus} --no-python gpt-torch train")
    return found


# ---- peak speed -------------------------------------------------------------------------------------------------

# Dense TFLOP/s in 16 bits, as NVIDIA states them, by exact device name: MIG slices and laptop versions of a GPU have
# other peaks.
PEAKS = {
    **dict.fromkeys(("NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA GH200 480GB", "NVIDIA GH200 144G HBM3e"), 989),
    **dict.fromkeys(("NVIDIA H100 NVL", "NVIDIA H200 NVL"), 835),
    "NVIDIA H100 PCIe": 756, "NVIDIA B200": 2250,
    **dict.fromkeys(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"), 312),
    **dict.fromkeys(("NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe"), 312),
    "NVIDIA L40S": 362, "NVIDIA L40": 181, "NVIDIA L4": 121, "NVIDIA A10": 125, "NVIDIA A30": 165, "NVIDIA A40": 150,
    "NVIDIA RTX A6000": 155, "NVIDIA GeForce RTX 5090": 210, "NVIDIA GeForce RTX 4090": 165,
    "NVIDIA GeForce RTX 3090": 71, "Tesla T4": 65, "Tesla V100-PCIE-16GB": 112,
    **dict.fromkeys(("Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB"), 125),
}  # fmt: skip


def peak_of(device: torch.device, precision: str) -> float | None:
    """FLOP/s, if known; tf32 has half the peak of 16 bits."""
    if device.type != "cuda" or precision == "float32":
        return None
    peak = PEAKS.get(torch.cuda.get_device_name(device))
    return peak and peak * 1e12 / (2 if precision == "tf32" else 1)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU (mps)"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


# ---- out of memory ----------------------------------------------------------------------------------------------

# In the messages of CUDA, the CPU, MPS and cuBLAS.
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|Invalid buffer size|_ALLOC_FAILED")


@contextmanager
def out_of_memory_as_memory_error() -> Iterator[None]:
    """Raises MemoryError in place of each of PyTorch's out-of-memory errors."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError from None
        raise


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None
    )
