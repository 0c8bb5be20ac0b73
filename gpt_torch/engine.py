"""The GPT in PyTorch at work: training steps, losses and reading, on one device or, a part on each, on many.

Weights, gradients and AdamW's memory are float32. In a lower precision only the products of matrices are, as autocast
chooses. With float16, whose range is small, the loss is scaled up before the backward pass, the gradients down after.
"""

import math
import sys
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, cast, get_args, get_type_hints

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.engine import Arrays, Ids, Trained
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.optimizers import MEMORY, REMEMBERED, grouped, optimizer_of, settings_at
from gpt_numpy.workshop.processes import Processes, check_threads
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.streams import DROPOUT
from gpt_torch.device import describe, find_device, find_dtype, is_full, noticing_full_memory, peak_of
from gpt_torch.distributed import divided, is_loss, like, noticing_loss, shares, summed, whole
from gpt_torch.model import GPT, Cache
from gpt_torch.muon import MuonAdamW


@dataclass(frozen=True)
class Options:
    """What the machine is asked for."""

    device: Annotated[Literal["auto", "cuda", "mps", "cpu"], "where the model runs"] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        "numbers that matrices are multiplied in; auto: bfloat16 or float16 on CUDA, else float32",
    ] = "auto"
    attention: Annotated[Literal["fused", "math"], "one kernel, or the formula step by step, to compare"] = "fused"
    compile: Annotated[Literal["auto", "on", "off"], "torch.compile for training; auto: on CUDA"] = "auto"
    recompute: Annotated[bool, "keep only what enters each block, compute the rest again: long contexts fit"] = False
    parallel: Annotated[
        Literal["ddp", "fsdp"],
        "under torchrun: the whole model on each device, or a part, for models too large for one",
    ] = "ddp"
    self_test: Annotated[bool, "before training, hold the device against float64 on the CPU"] = True
    threads: Annotated[int, "threads of the CPU to work with; 0: as many as PyTorch takes"] = 0

    def __post_init__(self) -> None:
        check_threads(self.threads)
        for name in ("device", "dtype", "attention", "compile", "parallel"):
            choices = get_args(get_type_hints(type(self))[name])
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {' or '.join(choices)}, not {getattr(self, name)!r}")
        device = find_device(self.device)
        if self.parallel == "fsdp" and not dist.is_initialized():
            raise ValueError("parallel fsdp is for many processes, and this one is alone: start it by torchrun")
        if self.parallel == "fsdp" and find_dtype(self.dtype, device) == torch.float16:
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
        self.dtype = find_dtype(self.options.dtype, self.device)
        peak = peak_of(self.device, self.dtype)
        self.peak = peak and peak * self.processes.size
        self.model = GPT(config, seed)
        if self.options.recompute:
            for block in self.model.blocks:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        asked = f"{self.device.type} {self.dtype} {self.options.parallel}"
        self.processes.agree("--device, --dtype or --parallel, or in what those are by themselves", asked)
        with noticing_loss(), noticing_full_memory():
            self.together = divided(self.model, self.device, self.dtype, self.options.parallel, self.processes.size)
        self.parameters = dict(self.model.named_parameters())
        self.optimizer: MuonAdamW | None = None  # made with the first step, which says which
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        # Whether a loss or a gradient was not finite, as 1 or 0: such a step, and each one after it, is not made. On
        # CUDA the optimizer sees to that on the device, so that nothing waits for the number.
        self.unsound = torch.zeros((), device=self.device)
        whole_here = self.options.parallel != "fsdp" and not self.scaler.is_enabled()
        self.skips_by_itself = self.device.type == "cuda" and whole_here
        compiled = self.options.compile == "on" or (self.options.compile == "auto" and self.device.type == "cuda")
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
            loss = self.backward(ids, targets, recipe, step)
        except Exception as error:
            if not is_full(error):
                if self.proven or is_loss(error):
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
        gradients = {f"the gradient of {name}": p.grad for name, p in self.parameters.items() if p.grad is not None}
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
        forward = self.forward if self.processes.size == 1 else self.model  # of which other processes do not hear
        self.model.zero_grad()
        while rows > 1:
            rows //= 2
            try:
                torch.autograd.grad(self._part(forward, ids, targets, slice(0, rows)), list(self.parameters.values()))
            except RuntimeError as error:
                if not is_full(error):
                    raise
                continue
            return RunFailed(f"out of memory on {describe(self.device)}; --micro-batch {rows} fits")
        return RunFailed(f"out of memory on {describe(self.device)} with one sequence; a smaller --block-size may fit")

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
            if self.options.attention == "math":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def for_reading(self) -> AbstractContextManager[None]:
        """One token at a time takes longer in a lower precision; but in parts, blocks are in nothing else."""
        return self._as_asked() if self.options.parallel == "fsdp" else nullcontext()

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
        if self.scaler.is_enabled() and kept.shape == (3,) and np.isfinite(kept).all():
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
        precision = str(self.dtype).removeprefix("torch.")
        how = [precision, f"{self.options.attention} attention", *["compiled"] * self.compiled]
        size = self.processes.size
        many = f", in each of {size} processes ({self.options.parallel})" if size > 1 else ""
        return f"PyTorch {torch.__version__}, {', '.join(how)}, {describe(self.device)}{many}"


SCALER = "scaler"  # of float16: the scale, the steps since it changed, the steps that were not skipped


class Reader:
    """Reads a text piece by piece, keeping the keys and values of what it has read."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.cache = cast(Cache, UserDict())  # of a dict, PyTorch's FSDP has handed on copies on CUDA (2.11)

    @noticing_loss()
    @noticing_full_memory()
    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> NDArray[Any]:
        model, device = self.engine.model, self.engine.device
        for_training(model, False)
        with self.engine.for_reading():
            logits, _ = model(torch.tensor([ids], device=device), cache=self.cache)
        return here(logits[0, -1].float())


def for_training(model: GPT, yes: bool) -> None:
    """With dropout or without. Where it is so already, PyTorch would set it again in every layer, at each token."""
    if model.training != yes:
        model.train(yes)


def here(tensor: Tensor) -> NDArray[Any]:
    """A copy of its numbers, for NumPy."""
    return tensor.detach().to("cpu", copy=True).numpy()
