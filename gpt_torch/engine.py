"""The GPT in PyTorch at work: training steps, losses and reading, on one device or, a part on each, on many.

Weights, gradients and AdamW's memory are float32. In a lower precision only the products of matrices are, as autocast
chooses. With float16, whose range is small, the loss is scaled up before the backward pass, the gradients down after.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, get_args, get_type_hints

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.engine import Arrays, Ids, Trained
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.optim import MEMORY, REMEMBERED, grouped, optimizer_of, settings_at
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.rng import DROPOUT
from gpt_numpy.workshop.train.distributed import Processes, check_threads
from gpt_torch.attention import attending, attention_of
from gpt_torch.cache import Cache
from gpt_torch.device import (
    ALLOWED,
    DTYPES,
    describe,
    find_device,
    find_precision,
    is_full,
    noticing_full_memory,
    peak_of,
)
from gpt_torch.distributed import divided, like, noticing_loss, shares, summed, whole
from gpt_torch.model import GPT
from gpt_torch.muon import MuonAdamW


@dataclass(frozen=True)
class Options:
    """What the machine is asked for."""

    device: Annotated[str, "where the model runs: auto, cuda, cuda:1 or any other number, mps or cpu"] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "tf32", "bfloat16", "float16"],
        "numbers that matrices are multiplied in; auto: bfloat16 or float16 on CUDA, else float32",
    ] = "auto"
    attention: Annotated[
        Literal["auto", "fused", "math"],
        "one kernel, or the formula step by step; auto: fused, but math on MPS, whose kernels have been wrong",
    ] = "auto"
    compile: Annotated[Literal["auto", "on", "off"], "torch.compile for training; auto: on CUDA"] = "auto"
    deterministic: Annotated[bool, "only what PyTorch adds up in the same order each time; slower on a GPU"] = False
    recompute: Annotated[bool, "keep only what enters each block, compute the rest again: long contexts fit"] = False
    parallel: Annotated[
        Literal["ddp", "fsdp"],
        "under torchrun: the whole model on each device, or a part, for models too large for one",
    ] = "ddp"
    self_test: Annotated[bool, "before training, hold the device against float64 on the CPU"] = True
    threads: Annotated[int, "threads of the CPU to work with; 0: as many as PyTorch takes"] = 0

    def __post_init__(self) -> None:
        check_threads(self.threads)
        for name in ("dtype", "attention", "compile", "parallel"):
            choices = get_args(get_type_hints(type(self))[name])
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {' or '.join(choices)}, not {getattr(self, name)!r}")
        precision = find_precision(self.dtype, find_device(self.device))
        if self.parallel == "fsdp" and not dist.is_initialized():
            raise ValueError("parallel fsdp is for many processes, and this one is alone: start it by torchrun")
        if self.parallel == "fsdp" and precision == "float16":
            raise ValueError("parallel fsdp does not go with float16; --dtype float32 does, and bfloat16 if it is here")


class Engine:
    """A GPT, its optimizers, and the device that does the work."""

    def __init__(
        self, config: GPTConfig, seed: int = 0, options: Options | None = None, processes: Processes | None = None
    ) -> None:
        self.options = options or Options()
        self.processes = processes or Processes()
        if self.options.threads:
            torch.set_num_threads(self.options.threads)
        self.threads = torch.get_num_threads()
        self.config = config
        self.device = find_device(self.options.device)
        self.precision = find_precision(self.options.dtype, self.device)
        self.dtype = DTYPES[self.precision]
        self.attention = attention_of(self.options.attention, self.device)
        set_for_all(self.precision, self.options.deterministic)
        peak = peak_of(self.device, self.precision)
        self.peak = peak and peak * self.processes.size
        self.model = GPT(config, seed)
        if self.options.recompute:
            for block in self.model.blocks:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        asked = f"{self.device.type} {self.precision} {self.options.parallel}"
        self.processes.agree("--device, --dtype or --parallel, or in what those are by themselves", asked)
        with noticing_loss(), noticing_full_memory():
            self.together = divided(self.model, self.device, self.dtype, self.options.parallel, self.processes.size)
        self.parameters = dict(self.model.named_parameters())
        self.optimizer: MuonAdamW | None = None  # made with the first step, which says which
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        # Whether a loss or a gradient was not finite, as 1 or 0: such a step, and each one after it, is not made. On
        # CUDA the optimizer sees to that on the device, so that nothing waits for the number.
        self.unsound = torch.zeros((), device=self.device)
        self.skips_by_itself = skips_by_itself(self.device, self.options.parallel, self.precision)
        compiled = is_compiled(self.options.compile, self.device)
        self.forward: Callable[..., Any] = torch.compile(self.together) if compiled else self.together
        self.proven = not compiled  # what is compiled has run once

    @property
    def compiled(self) -> bool:
        return self.forward is not self.together

    def _made(self, optimizer: str) -> MuonAdamW:
        groups = grouped(self.parameters, optimizer).items()
        return MuonAdamW(({"params": list(some.values()), "kind": kind} for kind, some in groups), self.dtype)

    # -- training and judging --

    @noticing_loss()
    @noticing_full_memory()
    def train_step(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> Trained:
        optimizer = self.optimizer = self.optimizer or self._made(recipe.optimizer)
        for_training(self.model, True)
        loss = None
        try:
            to_compare = not self.proven and self.options.self_test and self.processes.size == 1
            loss = (self._first_compiled if to_compare else self.backward)(ids, targets, recipe, step)
        except Exception as error:
            if not is_full(error):
                if self.proven or not is_compilers(error):
                    raise
                reason, *_ = [*str(error).strip().splitlines(), type(error).__name__]
                if self.processes.first:
                    print(f"torch.compile does not work here, so training goes on without: {reason}", file=sys.stderr)
                self.forward = self.together
                loss = self.backward(ids, targets, recipe, step)
        if loss is None:  # memory was full, of activations too, which have gone with the error
            raise self._too_large(ids, targets, recipe)
        self.proven = True
        self.scaler.unscale_(optimizer)
        grad_norm = whole(clip_grad_norm_(self.parameters.values(), recipe.grad_clip or math.inf))
        if self.scaler.is_enabled() and self.scaler.get_scale() >= 1.0:
            grad_norm = grad_norm.nan_to_num(0.0, 0.0)  # out of float16's range: no step, and a smaller scale
        settings = settings_at(recipe, step)
        for group in optimizer.param_groups:
            group.update(settings[group["kind"]])
        self.unsound = torch.maximum(self.unsound, 1.0 - (loss.isfinite() & grad_norm.isfinite()).float())
        if self.skips_by_itself:
            setattr(optimizer, "found_inf", self.unsound)  # noqa: B010
        if self.skips_by_itself or not self.unsound:
            self.scaler.step(optimizer)
        self.scaler.update()
        return Trained(loss, grad_norm)

    @noticing_loss()
    @noticing_full_memory()
    def first_not_finite(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> str | None:
        for_training(self.model, True)
        self.backward(ids, targets, recipe, step)
        gradients = {f"the gradient of {name}": gradient for name, gradient in self._gradients().items()}
        tensors: dict[str, Tensor] = {**self.parameters, **gradients}
        return next((name for name, tensor in tensors.items() if not whole(tensor).isfinite().all()), None)

    def backward(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> Tensor:
        """The loss of the whole batch, and its gradients, times the scaler's scale, in the parameters."""
        self.model.zero_grad()
        losses = []
        pieces = shares(len(ids), recipe.micro_batch, self.processes)
        for piece in pieces:
            if self.config.dropout:
                seed = np.random.SeedSequence((recipe.seed, step, piece.start, DROPOUT))
                torch.manual_seed(int(seed.generate_state(1)[0]))
            with self._exchanging(piece is pieces[-1]):
                losses.append(self._backward(ids, targets, piece))
        return summed(torch.stack(losses).sum(), self.processes)

    def _backward(self, ids: Ids, targets: Ids, piece: slice) -> Tensor:
        """The part that some rows have in the loss of the batch, and in its gradients."""
        loss = self._part(self.forward, ids, targets, piece)
        torch.autograd.backward(self.scaler.scale(loss * self.processes.size))
        return loss.detach()

    def _part(self, forward: Callable[..., Any], ids: Ids, targets: Ids, piece: slice) -> Tensor:
        part = ids[piece].size / ids.size
        piece = piece if part else slice(0, 1)  # others wait for this process even where it has nothing to do
        with self._as_asked():
            loss: Tensor = forward(self._there(ids[piece]), self._there(targets[piece]))[1]
        return loss * part

    def _first_compiled(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> Tensor:
        """As `backward`, with a look at whether the step finds the same eager; CompiledWrongly if not."""
        loss = self.backward(ids, targets, recipe, step)
        gradients, compiled = self._gradients(), self.forward
        self.forward = self.together
        try:
            expected = {"the loss": self.backward(ids, targets, recipe, step), **self._gradients()}
            other = expected  # with dropout: those of another draw, since what is compiled drops other numbers
            if self.config.dropout:
                other = {"the loss": self.backward(ids, targets, recipe, step + 1), **self._gradients()}
        except RuntimeError as error:
            if not is_full(error):
                raise
            expected = other = {}  # eager steps need more memory; this one may have enough all the same
        finally:
            self.forward = compiled
        if wrong := far_off({"the loss": loss, **gradients}, expected, other, ALLOWED[self.precision]):
            raise CompiledWrongly(wrong)
        for name, gradient in gradients.items():
            self.parameters[name].grad = gradient
        return loss

    def _gradients(self) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.parameters.items() if p.grad is not None}

    @contextmanager
    def _exchanging(self, now: bool) -> Iterator[None]:
        """Whether a backward pass adds up the gradients of all processes: after the last piece of a batch is enough."""
        if isinstance(self.together, DistributedDataParallel) and not now:
            with self.together.no_sync():
                yield
        else:
            yield

    def _too_large(self, ids: Ids, targets: Ids, recipe: Recipe) -> RunFailed:
        """What to say when memory was not enough: a half, a quarter, ... of the batch is tried until one fits."""
        rows = max(piece.stop - piece.start for piece in shares(len(ids), recipe.micro_batch, self.processes))
        if self.options.parallel == "fsdp":  # where no process can try anything alone
            return RunFailed(f"out of memory on {describe(self.device)}; try --micro-batch {max(1, rows // 2)}")
        self.model.zero_grad()
        optimizers: list[Tensor] = []
        while rows > 1:
            rows //= 2
            try:
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                optimizers = optimizers or self._to_come()
                # By the model itself: of it other processes do not hear, and nothing is compiled for each size.
                part = self._part(self.model, ids, targets, slice(0, rows))
                torch.autograd.grad(part, list(self.parameters.values()))
            except RuntimeError as error:
                if not is_full(error):
                    raise
                continue
            return RunFailed(f"out of memory on {describe(self.device)}; --micro-batch {rows} fits")
        return RunFailed(f"out of memory on {describe(self.device)} with one sequence; a smaller --block-size may fit")

    def _to_come(self) -> list[Tensor]:
        """As much memory as the optimizer will need, and does not have before its first step."""
        optimizer = self.optimizer
        assert optimizer is not None
        return [
            torch.zeros_like(p)
            for group in optimizer.param_groups
            for p in group["params"]
            if not optimizer.state.get(p)
            for _ in REMEMBERED[group["kind"]]
        ]

    @noticing_loss()
    @noticing_full_memory()
    @torch.no_grad()
    def loss(self, ids: Ids, targets: Ids) -> float:
        for_training(self.model, False)
        (piece,) = shares(len(ids), 0, self.processes)
        return float(summed(self._part(self.model, ids, targets, piece), self.processes))

    @torch.no_grad()
    def logits(self, ids: Ids) -> NDArray[Any]:
        for_training(self.model, False)
        with self._as_asked():
            return here(self.model(self._there(ids))[0].float())

    @contextmanager
    def _as_asked(self) -> Iterator[None]:
        """In the precision and with the attention of the options."""
        with ExitStack() as stack:
            if self.dtype != torch.float32:
                stack.enter_context(torch.autocast(self.device.type, self.dtype))
            stack.enter_context(attending(self.attention, self.device))
            yield

    def for_reading(self) -> AbstractContextManager[None]:
        """One token at a time takes longer in a lower precision; but in parts, blocks are in nothing else."""
        return self._as_asked() if self.options.parallel == "fsdp" else attending(self.attention, self.device)

    def _there(self, ids: Ids) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(ids))
        if self.device.type == "cuda":  # from pinned memory it is copied while the device works on
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    # -- reading --

    def reader(self) -> "Reader":
        return Reader(self)

    # -- its state --

    def weights(self) -> Arrays:
        return self._gathered(self.model.state_dict())

    def optimizer_state(self) -> Arrays:
        kept = {p: state for p, state in self.optimizer.state.items() if state} if self.optimizer else {}
        if not kept:  # no step was made
            return {}
        shown = {f"{kind}.{name}": kept[p].get(kind) for kind in MEMORY for name, p in self.parameters.items()}
        state = self._gathered({name: tensor for name, tensor in shown.items() if tensor is not None})
        if state and self.scaler.is_enabled():
            scale = self.scaler.state_dict()
            steps = [float(state["step"]) for state in kept.values() if "step" in state]  # those that were not skipped
            state[SCALER] = np.array([scale["scale"], scale["_growth_tracker"], max(steps)])
        return state

    @noticing_loss()
    @noticing_full_memory()
    def load(self, weights: Arrays, optimizer_state: Arrays, step: int) -> None:
        self.unsound.zero_()
        now = self.model.state_dict()
        self.model.load_state_dict({name: like(now[name], torch.tensor(weight)) for name, weight in weights.items()})
        self.optimizer = None
        if not optimizer_state:
            return
        kept = optimizer_state.get(SCALER, np.empty(0))
        if kept.shape == (3,) and np.isfinite(kept).all():  # of float16: which has skipped steps, and a scale
            scale, growth, step = kept.tolist()
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale, "_growth_tracker": int(growth)})
        self.optimizer = self._made(optimizer_of(optimizer_state))
        memory = self.optimizer.state_dict()
        names = {p: name for name, p in self.parameters.items()}
        ordered = [(group["kind"], names[p]) for group in self.optimizer.param_groups for p in group["params"]]
        memory["state"] = {
            i: {"step": torch.tensor(float(step))}
            | {m: like(now[name], torch.tensor(optimizer_state[f"{m}.{name}"])) for m in REMEMBERED[kind]}
            for i, (kind, name) in enumerate(ordered)
        }
        self.optimizer.load_state_dict(memory)  # brings them to the device

    @noticing_loss()
    @noticing_full_memory()
    def _gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """For NumPy, on the first process, which saves them; the others hand over their parts."""
        arrays = {}
        for name, tensor in tensors.items():
            everything = whole(tensor)
            if self.processes.first:
                arrays[name] = here(everything)
        return arrays

    def describe(self) -> str:
        how = [self.precision, f"{self.attention} attention"]
        how += ["compiled"] * self.compiled + ["deterministic"] * self.options.deterministic
        size = self.processes.size
        many = f", in each of {size} processes ({self.options.parallel})" if size > 1 else ""
        return f"PyTorch {torch.__version__}, {', '.join(how)}, {describe(self.device)}{many}"


SCALER = "scaler"  # of float16: the scale, the steps since it changed, the steps that were not skipped


class Reader:
    """Reads a text piece by piece, keeping the keys and values of what it has read."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        dtype = engine.dtype if engine.options.parallel == "fsdp" else engine.model.pos_emb.weight.dtype
        self.cache = Cache(engine.config, 1, dtype, engine.device)

    @noticing_loss()
    @noticing_full_memory()
    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> NDArray[Any]:
        model, device = self.engine.model, self.engine.device
        for_training(model, False)
        with self.engine.for_reading():
            logits, _ = model(torch.tensor([ids], device=device), cache=self.cache)
        return here(logits[0, -1].float())


# ---- what is compiled -------------------------------------------------------------------------------------------


def is_compiled(asked: str, device: torch.device) -> bool:
    return asked == "on" or (asked == "auto" and device.type == "cuda")


class CompiledWrongly(Exception):
    pass


def is_compilers(error: Exception) -> bool:
    """Whether torch.compile is at fault, and not what it was to compile."""
    at_fault = CompiledWrongly.__module__, "torch._dynamo", "torch._inductor", "triton"
    return any(kind.__module__.startswith(at_fault) for kind in type(error).__mro__)


def far_off(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], other: Mapping[str, Tensor], allowed: float
) -> str | None:
    """The first that is further from what is expected than `allowed`, as a part of its size, or than three times the
    other; nothing finite is expected of a float16 whose scale is still too large."""
    every = math.hypot(*(float(x.norm()) for name, x in expected.items() if x.ndim))
    for name, x in expected.items():
        size, off = float(x.norm()), float((found[name] - x).norm())
        limit = allowed * size + 3.0 * float((other[name] - x).norm()) + 1e-6 * every
        if math.isfinite(limit) and not off <= limit:
            return f"{f'the gradient of {name}' if x.ndim else name} is off by {off / size:.1e} of its size"
    return None


def skips_by_itself(device: torch.device, parallel: str, precision: str) -> bool:
    """Whether the optimizer itself skips a step that is not finite, on the device. With float16 the scaler decides; and
    the flag is one tensor, which does not go with the sharded ones of FSDP."""
    return device.type == "cuda" and parallel != "fsdp" and precision != "float16"


def set_for_all(precision: str, deterministic: bool) -> None:
    """What holds for all that PyTorch computes in this process."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS asks for
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)


# ---- small things -----------------------------------------------------------------------------------------------


def for_training(model: GPT, yes: bool) -> None:
    """With dropout or without. Where it is so already, PyTorch would set it again in every layer, at each token."""
    if model.training != yes:
        model.train(yes)


def here(tensor: Tensor) -> NDArray[Any]:
    """A copy of its numbers, for NumPy."""
    return tensor.detach().to("cpu", copy=True).numpy()
