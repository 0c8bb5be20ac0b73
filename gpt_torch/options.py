"""The flags that only the PyTorch engine has, and what they mean on a device."""

import os
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.distributed as dist

from gpt_numpy.checked import Checked, at_least, at_most
from gpt_numpy.workshop.cores import MAX_THREADS
from gpt_torch.device import find_device, find_precision


@dataclass(frozen=True)
class Options(Checked):
    """Flags that only this engine has."""

    device: Annotated[str, "where the model runs: auto, cuda, cuda:N, mps or cpu"] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "tf32", "bfloat16", "float16"],
        "precision of matrix products; auto: bfloat16 or float16 on CUDA, else float32",
    ] = "auto"
    attention: Annotated[
        Literal["auto", "fused", "cudnn", "math"],
        "fused: one kernel; cudnn: cuDNN's, where it can; math: the formula, step by step; auto: fused, but math on "
        "MPS, where kernels have been wrong",
    ] = "auto"
    weights: Annotated[
        Literal["float32", "bfloat16"],
        "of the model; bfloat16: copies of float32 weights, which are trained, and the residual stream, too",
    ] = "float32"
    compile: Annotated[Literal["auto", "on", "off"], "torch.compile for training; auto: on CUDA only"] = "auto"
    cuda_graph: Annotated[bool, "on CUDA: capture a whole step, and replay it in each later one"] = False
    deterministic: Annotated[bool, "only deterministic operations; slower on a GPU"] = False
    recompute: Annotated[bool, "store only the input of each block, recompute the rest: for long contexts"] = False
    parallel: Annotated[
        Literal["ddp", "fsdp"],
        "under torchrun: the whole model on each device, or a shard of it, for models too large for one device",
    ] = "ddp"
    self_test: Annotated[bool, "before training, compare the device with float64 on the CPU"] = True
    threads: Annotated[int, "CPU threads; 0: PyTorch's default", at_least(0), at_most(MAX_THREADS)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        device = find_device(self.device)
        precision = find_precision(self.dtype, device)
        if self.weights == "bfloat16" and precision != "bfloat16":
            raise ValueError(f"weights bfloat16 goes with --dtype bfloat16, not {precision}")
        if self.cuda_graph and device.type != "cuda":
            raise ValueError(f"cuda_graph is for a CUDA GPU, not {device}")
        if self.cuda_graph and precision == "float16":
            raise ValueError("cuda_graph does not support float16; use --dtype float32 or bfloat16")
        several = dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1
        if several or self.parallel == "fsdp":
            for name, value in (("weights", self.weights == "bfloat16"), ("cuda_graph", self.cuda_graph)):
                if value:
                    raise ValueError(f"{name} is for one process; leave it out under torchrun")
        if self.parallel == "fsdp" and not dist.is_initialized():
            raise ValueError("parallel fsdp needs several processes; start them with torchrun")
        if self.parallel == "fsdp" and precision == "float16":
            raise ValueError("parallel fsdp does not support float16; use --dtype float32 or bfloat16")


def is_compiled(option: str, device: torch.device) -> bool:
    return option == "on" or (option == "auto" and device.type == "cuda")


def optimizer_skips(device: torch.device, parallel: str, precision: str) -> bool:
    """Whether the optimizer itself skips a step that is not finite, on the device. With float16 the scaler does; with
    FSDP the host does, since nobody has tried the other on several GPUs."""
    return device.type == "cuda" and parallel != "fsdp" and precision != "float16"


def set_global_flags(precision: str, deterministic: bool) -> None:
    """PyTorch's flags for the whole process."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS requires it
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)
