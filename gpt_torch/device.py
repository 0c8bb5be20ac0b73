"""Where the model runs, and in which numbers; and why a GPU that is there is not used."""

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

# tf32 is float32 whose products round their factors to 10 bits, on CUDA cards from 2020 on.
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The largest error that passes, as a part of the size of the tensor it is in: of a loss, or of a gradient. Several
# times what a sound CPU shows (tests/gpt_torch/test_gpt_torch_engine.py measures it), far below what a wrong sign does.
ALLOWED = {"float32": 1e-4, "tf32": 5e-3, "float16": 2e-2, "bfloat16": 1e-1}


def find_device(name: str) -> torch.device:
    """By its name; or the fastest kind that this machine has, by "auto". Under torchrun each process has one."""
    if not re.fullmatch(r"auto|cuda(:\d+)?|mps|cpu", name):
        raise ValueError(f"device is auto, cuda, cuda:1 or any other number, mps or cpu, not {name!r}")
    kind, _, number = name.partition(":")
    here = {
        "cuda": cuda_works() and not lacking_kernels(int(number or 0)),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    processes = on_this_machine = 1
    if dist.is_torchelastic_launched():
        processes, on_this_machine = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if processes > 1:
        if number:
            raise ValueError(f"device {name} is for one process; with --device cuda each of several has its own")
        if kind == "mps":
            raise ValueError("device mps is for one process; --device cpu is for many too")
        here["mps"] = False
    if kind == "auto":
        kind = next(each for each, usable in here.items() if usable)
    if not here[kind]:
        if kind == "cuda" and (reason := unused_gpu(int(number or 0))):
            raise ValueError(f"device {name}: {reason}")
        usable = " and ".join(each for each in here if here[each])
        raise ValueError(f"device {name} is not here; what PyTorch {torch.__version__} finds is {usable}")
    cards = torch.cuda.device_count()
    if kind == "cuda" and on_this_machine > cards:
        needed = f"for {on_this_machine} processes; --nproc-per-node {cards} fits"
        raise ValueError(f"device cuda is here {cards} times, {needed}")
    if number and int(number) >= cards:
        raise ValueError(f"device {name} is not here; the last one is cuda:{cards - 1}")
    return torch.device(kind, int(number)) if number else torch.device(kind)


def find_precision(name: str, device: torch.device) -> str:
    """The numbers that matrices are multiplied in, by name; or those that suit the device, by "auto".

    CUDA cards from 2020 on have bfloat16; older ones only imitate it, slowly, and take float16.
    """
    recent = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "tf32" and not recent:
        raise ValueError("dtype tf32 is for CUDA cards from 2020 on; elsewhere --dtype float32")
    if name != "auto":
        return name
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if recent else "float16"


# ---- a GPU that is there and cannot be used ---------------------------------------------------------------------

# `uv run` puts back what uv.lock says, at each call, unless it is told not to sync.
FITTING = "uv pip install --torch-backend={} --reinstall torch, and from then on UV_NO_SYNC=1, or uv run undoes it"


def unused_gpu(card: int = 0) -> str | None:
    """Why PyTorch cannot use NVIDIA's GPU that is here, and a way out that lasts; None where nothing is amiss."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):  # somebody wants it so
        return None
    if cuda_works():
        if missing := lacking_kernels(card):
            return f"this PyTorch has no kernels for {missing}. Older builds may: {FITTING.format('cu126')}"
        return None
    if torch.version.hip or not has_nvidia():
        return None
    if torch.version.cuda is None:
        return f"this PyTorch, {torch.__version__}, is one for CPUs alone. {FITTING.format('auto')}"
    found = re.search(r"too old \(found version (\d+)(\d\d)\d\)", cuda_warning())
    has = f"has CUDA {found[1]}.{int(found[2])}" if found else "cannot run it"
    return f"this PyTorch was built for CUDA {torch.version.cuda}, and the driver {has}. {FITTING.format('auto')}"


def cuda_works() -> bool:
    # PyTorch warns in several lines, here and whenever it looks by itself; `unused_gpu` has it in one.
    warnings.filterwarnings("ignore", "CUDA initialization")
    return torch.cuda.is_available()


def cuda_warning() -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.is_available()
    return " ".join(str(warning.message) for warning in caught)


def has_nvidia() -> bool:
    """By what its driver brings, since PyTorch cannot be asked."""
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll").exists()
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def lacking_kernels(card: int = 0) -> str | None:
    """The card, if this PyTorch was not built for it. Code for one card (sm_80) runs on later ones of its generation;
    what is compiled when it is loaded (compute_80) on all later ones."""
    if torch.version.hip or card >= torch.cuda.device_count():
        return None
    has, built = torch.cuda.get_device_capability(card), " ".join(torch.cuda.get_arch_list())
    for kind, number in re.findall(r"(sm|compute)_(\d+)", built):
        major, minor = divmod(int(number), 10)
        if (major, minor) <= has and (kind == "compute" or major == has[0]):
            return None
    return f"{torch.cuda.get_device_name(card)} (sm_{has[0]}{has[1]})" if built else None


def remarks(name: str) -> list[str]:
    """What to tell somebody who trains with this --device: a GPU that is not used, GPUs that are idle."""
    found = []
    device = find_device(name)
    if name == "auto" and device.type != "cuda" and (reason := unused_gpu()):
        found.append(f"the GPU that is here is not used: {reason}")
    cards = torch.cuda.device_count() if device.type == "cuda" else 1
    if cards > 1 and not dist.is_torchelastic_launched():
        more = "1 more GPU is" if cards == 2 else f"{cards - 1} more GPUs are"
        found.append(f"{more} idle; with all: uv run torchrun --nproc-per-node {cards} --no-python gpt-torch train")
    return found


# ---- how fast it can be -----------------------------------------------------------------------------------------

# TFLOP/s of matrix products in 16 bits, without sparsity, as NVIDIA states them, by the name that a card gives itself.
# No other card is taken for one of these: not a part of one (MIG), not the one for laptops of the same name.
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
    """FLOP/s, where they are known; in tf32 half as many as in 16 bits."""
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

# As CUDA, the CPU, MPS and cuBLAS say it.
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|Invalid buffer size|_ALLOC_FAILED")


@contextmanager
def out_of_memory_as_memory_error() -> Iterator[None]:
    """Python's MemoryError for all the errors by which PyTorch says it."""
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
