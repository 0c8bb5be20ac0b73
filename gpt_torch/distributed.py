"""Training one model in several processes, on one machine or more: each computes some rows of every batch.

    loss of the batch = sum over processes of (rows of the process / rows of the batch) * mean loss of its rows

and likewise for the gradients. DistributedDataParallel and FSDP average the gradients over the processes, so each
process first multiplies its loss by their number.

torchrun starts the processes and sets the rank of each in its environment.
"""

import itertools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from gpt_numpy.workshop.cores import available_cores
from gpt_numpy.workshop.errors import PeerLost
from gpt_numpy.workshop.train.distributed import Processes
from gpt_torch.model import GPT, MLP, CausalSelfAttention
from gpt_torch.objectives import OBJECTIVES

TIMEOUT = timedelta(minutes=10)  # to wait for another process, which may be saving a large model
LONG_TIMEOUT = timedelta(days=1)  # to wait for local_first, which may download and encode a large text


class Group(Processes):
    """The processes that torchrun started."""

    def __init__(self, store: Store) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.is_local_first = os.environ["LOCAL_RANK"] == "0"
        self.machine, self.machines = int(os.environ["GROUP_RANK"]), int(os.environ["GROUP_WORLD_SIZE"])
        self.said, self.done = PrefixStore("said", store), PrefixStore("done", store)
        self.blocks = 0  # of local_first so far

    def all_reduce_max(self, *numbers: int) -> tuple[int, ...]:
        tensor = torch.tensor(numbers)
        with raising_lost():
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tuple(tensor.tolist())

    @contextmanager
    def local_first(self) -> Iterator[None]:
        self.blocks += 1
        done = [f"{self.blocks} {machine}" for machine in range(self.machines)]
        with raising_lost():
            if self.is_local_first:
                try:
                    yield
                finally:
                    self.done.set(done[self.machine], "")
                self.done.wait(done, LONG_TIMEOUT)
            else:
                self.done.wait(done, LONG_TIMEOUT)
                yield

    def say_once(self, message: str) -> bool:
        try:
            return self.said.add(message, 1) == 1
        except RuntimeError:  # the process that serves the store is gone
            return True


@contextmanager
def init_processes() -> Iterator[Processes]:
    """The processes that torchrun started; without it, this one alone."""
    if not dist.is_torchelastic_launched():
        yield Processes()
        return
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    threads = available_cores() // int(os.environ["LOCAL_WORLD_SIZE"])
    torch.set_num_threads(max(1, threads))  # torchrun sets one thread per process
    try:
        store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    except RuntimeError as error:
        sys.exit(f"gpt-torch: the processes cannot connect to each other: {str(error).strip().splitlines()[0]}")
    try:
        yield Group(store)
    finally:
        dist.destroy_process_group()
        # A gloo thread releases its last tensors after this call, for which it needs the interpreter. If that has
        # exited by then, the process aborts; and the thread cannot be joined.
        time.sleep(0.2)


@contextmanager
def raising_lost() -> Iterator[None]:
    """Raises PeerLost in place of the errors of gloo and NCCL when another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if is_lost(error):
            raise PeerLost("another process of this run was lost") from error
        raise


def is_lost(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


class Loss(nn.Module):
    """An objective of a model as a module's forward, where DistributedDataParallel sums the gradients."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor, objective: str = "cross_entropy", **rest: Any) -> Tensor:
        loss: Tensor = OBJECTIVES[objective](self.model, ids, targets, **rest)
        return loss


def parallelize(model: GPT, device: torch.device, dtype: torch.dtype, parallel: str, size: int) -> nn.Module:
    """The loss of the model on its device, replicated ("ddp") or sharded ("fsdp") over `size` processes."""
    if parallel == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh  # this import takes seconds
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(device.type, (size,))
        # The matrices of a block are gathered only while they are needed, and in autocast's precision; cast by autocast
        # itself, they would be kept until the backward pass.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for module in list(model.modules()):
            if isinstance(module, CausalSelfAttention | MLP):
                fully_shard(module, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "loss")
        return Loss(model)
    model.to(device)
    return DistributedDataParallel(Loss(model), gradient_as_bucket_view=True) if size > 1 else Loss(model)


def split_rows(rows: int, micro_batch: int, processes: Processes) -> list[slice]:
    """This process's rows of a batch, in micro-batches of at most `micro_batch` rows; 0: in one.

    All processes get the same number of micro-batches, so that they synchronize equally often; some may be empty.
    """
    ends = [rows * rank // processes.size for rank in range(processes.size + 1)]
    most = -(-rows // processes.size)
    count = -(-most // (micro_batch or most))
    begin, own = ends[processes.rank], ends[processes.rank + 1] - ends[processes.rank]
    cuts = [begin + own * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def all_reduce_sum(tensor: Tensor, processes: Processes) -> Tensor:
    if processes.size > 1:
        dist.all_reduce(tensor)
    return tensor


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """Gathered from all processes, if it is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A full tensor, sharded like the parameter."""
    if not is_sharded(parameter):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)


def local_rows(tensor: Tensor) -> Tensor:
    """This process's shard, if the tensor is sharded."""
    rows: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return rows


def sharded_like(parameter: Tensor, rows: Tensor) -> Tensor:
    """A tensor sharded like the parameter, from this process's rows of it."""
    if not is_sharded(parameter):
        return rows
    from torch.distributed.tensor import DTensor

    assert isinstance(parameter, DTensor)
    mesh, placements, shape, stride = parameter.device_mesh, parameter.placements, parameter.shape, parameter.stride()
    return DTensor.from_local(rows, mesh, placements, run_check=False, shape=shape, stride=stride)


def gather_rows(shards: Tensor, parameter: Tensor) -> Tensor:
    """All rows (K, m, n) of K matrices sharded like the parameter, from each process's (K, rows, n)."""
    if not is_sharded(parameter):
        return shards
    from torch.distributed.tensor import DTensor, Shard

    assert isinstance(parameter, DTensor)
    shape = torch.Size((len(shards), *parameter.shape))
    stride = (parameter.numel(), *parameter.stride())
    return DTensor.from_local(
        shards, parameter.device_mesh, [Shard(1)], run_check=False, shape=shape, stride=stride
    ).full_tensor()


def shard_rows(matrices: Tensor, parameter: Tensor) -> Tensor:
    """The inverse of gather_rows."""
    if not is_sharded(parameter):
        return matrices
    from torch.distributed.tensor import DTensor

    assert isinstance(parameter, DTensor)
    mesh, rows = parameter.device_mesh, matrices.shape[1]
    begin = mesh.get_local_rank() * -(-rows // mesh.size())  # the last shards may be smaller
    return matrices[:, begin : begin + len(local_rows(parameter))]
