"""AdamW, with Muon for the matrices inside the blocks; minitensor/optim has the mathematics.

Both skip a step that is not finite on the device, so that the host need not wait for it. torch.optim has each of them,
but its Muon updates one matrix at a time, always in bfloat16, and cannot skip; and any optimizer of torch.optim loads
the compiler, which takes three seconds.

With FSDP each process holds some rows of every parameter and updates only those. Muon's direction needs all rows: they
are gathered once for all matrices of a shape.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from gpt_numpy.workshop.optim import KEYS_OF_GROUP
from gpt_torch.distributed import gather_rows, is_sharded, local_rows, shard_like, shard_rows, sharded_like

Parameters = Mapping[str, Tensor]  # by name

MOMENTS, (MOMENTUM,) = KEYS_OF_GROUP["decay"], KEYS_OF_GROUP["muon"]


class Optimizer:
    """The interface of torch.optim's, as far as torch.amp.GradScaler needs it."""

    _step_supports_amp_scaling = True  # it leaves skipping to us, and sets found_inf
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None  # 1: this step changes nothing

    def __init__(self, groups: Mapping[str, Parameters], dtype: torch.dtype) -> None:
        """`dtype` is the precision of Muon's matrix products."""
        self.param_groups: list[dict[str, Any]] = [
            {"kind": kind, "params": list(parameters.values())} for kind, parameters in groups.items()
        ]
        self.groups: list[tuple[dict[str, Any], AdamW | Muon]] = []
        for settings, (kind, parameters) in zip(self.param_groups, groups.items(), strict=True):
            if kind == "muon":
                by_shape = groupby(sorted(parameters.items(), key=_shape), _shape)
                self.groups += [(settings, Muon(dict(same_shape), dtype)) for _, same_shape in by_shape]
            else:
                self.groups.append((settings, AdamW(parameters)))

    @torch.no_grad()
    def step(self) -> None:
        with torch.profiler.record_function("Optimizer.step"):
            for settings, group in self.groups:
                group.step(settings, self.found_inf)

    # -- state: KEY.NAME for each parameter --

    def state(self) -> dict[str, Tensor]:
        """Nothing before the first step."""
        return {name: tensor for _, group in self.groups for name, tensor in group.state().items()}

    @property
    def steps(self) -> float:
        """Of AdamW, without those skipped."""
        return max((float(group.steps) for _, group in self.groups if isinstance(group, AdamW)), default=0.0)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], steps: float) -> None:
        """`state` has full tensors on any device."""
        for _, group in self.groups:
            group.load(state, steps)


class AdamW:
    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.steps = torch.zeros((), device=next(iter(parameters.values())).device)
        self.moments: dict[str, list[Tensor]] = {}  # made by the first step

    def step(self, settings: Mapping[str, Any], found_inf: Tensor | None) -> None:
        parameters = list(self.parameters.values())
        if not self.moments:
            self.moments = {key: [torch.zeros_like(p) for p in parameters] for key in MOMENTS}
        self.steps += 1.0 if found_inf is None else 1.0 - found_inf
        means, squares = (list(map(local_rows, moments)) for moments in self.moments.values())
        gradients = [local_rows(p.grad) for p in parameters if p.grad is not None]  # all have one
        beta1, beta2 = settings["betas"]
        torch._fused_adamw_(
            [local_rows(p) for p in parameters], gradients, means, squares, [],
            [self.steps] * len(parameters), lr=settings["lr"], beta1=beta1, beta2=beta2, eps=1e-8,
            weight_decay=settings["weight_decay"], amsgrad=False, maximize=False, found_inf=found_inf,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        return {
            f"{key}.{name}": moment
            for key, moments in self.moments.items()
            for name, moment in zip(self.parameters, moments, strict=True)
        }

    def load(self, state: Mapping[str, Tensor], steps: float) -> None:
        self.steps.fill_(steps)
        self.moments = {
            key: [shard_like(p, state[f"{key}.{name}"].to(p.device)) for name, p in self.parameters.items()]
            for key in MOMENTS
        }


class Masters:
    """Float32 weights whose bfloat16 copies are in the model. The optimizer updates these: most of its steps are too
    small to change a number with 8 bits of mantissa."""

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """The model's parameters, which become bfloat16; a tied one has two names."""
        self.by_name: dict[str, Tensor] = {}
        self.parameters: dict[str, Tensor] = {}  # by the first name
        masters: dict[Tensor, Tensor] = {}
        for name, p in named:
            if p not in masters:
                self.parameters[name] = masters[p] = p.detach().clone()
            self.by_name[name] = masters[p]
        self.of_model, self.masters = list(masters), list(masters.values())
        for p in self.of_model:
            p.data = p.data.bfloat16()

    def take_gradients(self) -> None:
        """Move the model's gradients to the masters, in addition to those that are there."""
        new = [p.grad for p in self.of_model if p.grad is not None]  # all have one
        added = [master.grad for master in self.masters if master.grad is not None]  # all or none
        if added:
            torch._foreach_add_(added, new)
        else:
            for master in self.masters:
                master.grad = torch.empty_like(master)
            torch._foreach_copy_([master.grad for master in self.masters if master.grad is not None], new)
        for p in self.of_model:
            p.grad = None

    @torch.no_grad()
    def give_weights(self) -> None:
        torch._foreach_copy_(self.of_model, self.masters)

    def state_dict(self) -> dict[str, Tensor]:
        return self.by_name

    def load_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        for name, master in self.by_name.items():
            master.copy_(weights[name])


class Muon:
    """For matrices of one shape. They become views of one tensor (K, m, n), so that an operation updates all of them;
    with FSDP, whose matrices are where it needs them, copies."""

    def __init__(self, parameters: Parameters, dtype: torch.dtype) -> None:
        self.parameters, self.dtype = parameters, dtype
        self.first = next(iter(parameters.values()))
        self.buffers: Tensor | None = None  # made by the first step
        self.weights = stacked(parameters.values()).detach()  # (K, m, n), or this process's rows
        if not is_sharded(self.first):
            for p, weight in zip(parameters.values(), self.weights, strict=True):
                p.data = weight

    def step(self, settings: Mapping[str, Any], found_inf: Tensor | None) -> None:
        """With Nesterov momentum."""
        lr, momentum, decay = settings["lr"], settings["momentum"], settings["weight_decay"]
        m, n = self.first.shape
        if is_sharded(self.first):
            self.weights = stacked(self.parameters.values())
        if self.buffers is None:
            self.buffers = torch.zeros_like(self.weights)
        gradients = stacked(p.grad for p in self.parameters.values())
        buffers = self.buffers.lerp(gradients, 1.0 - momentum)
        nesterov = gather_rows(gradients.lerp(buffers, momentum), self.first)
        direction = shard_rows(newton_schulz(nesterov, self.dtype), self.first)
        weights = add_scaled(self.weights * (1.0 - lr * decay), direction, -lr * math.sqrt(max(1.0, m / n)))
        for old, new in ((self.weights, weights), (self.buffers, buffers)):
            if found_inf is None:
                old.copy_(new)
            else:
                torch.where(found_inf > 0, old, new, out=old)
        if is_sharded(self.first):
            for p, weight in zip(self.parameters.values(), self.weights, strict=True):
                local_rows(p).copy_(weight)

    def state(self) -> dict[str, Tensor]:
        if self.buffers is None:
            return {}
        named = zip(self.parameters, self.buffers, strict=True)
        return {f"{MOMENTUM}.{name}": sharded_like(self.first, buffer) for name, buffer in named}

    def load(self, state: Mapping[str, Tensor], steps: float) -> None:
        self.buffers = stacked(
            shard_like(p, state[f"{MOMENTUM}.{name}"].to(p.device)) for name, p in self.parameters.items()
        )


def newton_schulz(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Approximately U V' of each matrix U S V' in x (K, m, n): see minitensor/optim/muon.py."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = x if x.shape[1] <= x.shape[2] else x.mT
    y = (wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(dtype)
    for _ in range(5):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    y = y.to(x.dtype)
    result: Tensor = y if wide is x else y.mT
    return result


def add_scaled(x: Tensor, y: Tensor, factor: float | Tensor) -> Tensor:
    """x + factor y; the factor is a number, or on the device."""
    return torch.addcmul(x, y, factor) if isinstance(factor, Tensor) else torch.add(x, y, alpha=factor)


def stacked(tensors: Iterable[Any]) -> Tensor:
    return torch.stack([local_rows(tensor) for tensor in tensors])


def _shape(named: tuple[str, Tensor]) -> tuple[int, ...]:
    return tuple(named[1].shape)
