"""Many processes, on one machine or several, that train one model: each computes a part of every batch.

    loss of the batch = sum over processes of (rows of the process / rows of the batch) * mean loss of its rows

and so for the gradients. DistributedDataParallel and FSDP leave each process with the mean of all gradients, a sum
divided by the number of processes; so each first multiplies its loss by that number.

torchrun starts the processes, and tells each by its environment which one it is.
"""

import itertools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from gpt_numpy.workshop.errors import Lost
from gpt_numpy.workshop.train.distributed import Processes, available_cores
from gpt_torch.model import GPT, MLP, CausalSelfAttention

PATIENCE = timedelta(minutes=10)  # with a process that does not answer: it may be saving a large model
LONG = timedelta(days=1)  # for one that goes ahead: it may be fetching and tokenizing a large text


class Group(Processes):
    """This process and those that torchrun started with it."""

    def __init__(self, store: Store) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.ahead = os.environ["LOCAL_RANK"] == "0"  # of those on this machine
        self.machine, self.machines = int(os.environ["GROUP_RANK"]), int(os.environ["GROUP_WORLD_SIZE"])
        self.said, self.done = PrefixStore("said", store), PrefixStore("done", store)
        self.times = 0  # that one went ahead

    def largest(self, *numbers: int) -> tuple[int, ...]:
        tensor = torch.tensor(numbers)
        with noticing_loss():
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tuple(tensor.tolist())

    @contextmanager
    def one_ahead(self) -> Iterator[None]:
        self.times += 1
        done = [f"{self.times} {machine}" for machine in range(self.machines)]
        with noticing_loss():
            if self.ahead:
                try:
                    yield
                finally:
                    self.done.set(done[self.machine], "")
                self.done.wait(done, LONG)
            else:
                self.done.wait(done, LONG)
                yield

    def to_say(self, reason: str, is_known: bool) -> bool:
        try:
            first, first_of_all = (self.said.add(key, 1) == 1 for key in (reason, "anything"))
        except RuntimeError:  # nobody is left to ask
            return True
        return first_of_all if is_known else first


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes of torchrun; without it, this one alone."""
    if not dist.is_torchelastic_launched():
        yield Processes()
        return
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    share = available_cores() // int(os.environ["LOCAL_WORLD_SIZE"])
    torch.set_num_threads(max(1, share))  # torchrun would leave each process with one
    try:
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except RuntimeError as error:
        sys.exit(f"gpt-torch: the processes do not find each other: {str(error).strip().splitlines()[0]}")
    try:
        yield Group(store)
    finally:
        dist.destroy_process_group()
        # A thread of gloo that has just done its last work lets go of the tensors, for which it needs Python. Where
        # that has ended meanwhile, the whole process aborts; and nothing tells when the thread is done.
        time.sleep(0.2)


@contextmanager
def noticing_loss() -> Iterator[None]:
    """Lost instead of what gloo and NCCL say when another process has gone."""
    try:
        yield
    except RuntimeError as error:
        if is_loss(error):
            raise Lost("another process of this run was lost") from error
        raise


def is_loss(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def divided(model: GPT, device: torch.device, dtype: torch.dtype, how: str, size: int) -> nn.Module:
    """The model on its device, as so many processes train it together: each has all of it, or ("fsdp") a part."""
    if how == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh  # seconds, which other runs need not wait
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(device.type, (size,))
        # The large matrices of a block are whole on each device only while they are needed, and then already in the
        # numbers that autocast would copy them to, which would keep the copies until the backward pass.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for part in list(model.modules()):
            if isinstance(part, CausalSelfAttention | MLP):
                fully_shard(part, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh)
        return model
    model.to(device)
    return DistributedDataParallel(model, gradient_as_bucket_view=True) if size > 1 else model


def shares(rows: int, at_once: int, processes: Processes) -> list[slice]:
    """This process's part of a batch in pieces of at most so many rows; 0: in one.

    All processes get equally many pieces, so that they exchange gradients equally often; some pieces may be empty.
    """
    ends = [rows * rank // processes.size for rank in range(processes.size + 1)]
    most = -(-rows // processes.size)
    count = -(-most // (at_once or most))
    begin, mine = ends[processes.rank], ends[processes.rank + 1] - ends[processes.rank]
    cuts = [begin + mine * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def summed(tensor: Tensor, processes: Processes) -> Tensor:
    """Over all processes."""
    if processes.size > 1:
        dist.all_reduce(tensor)
    return tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process may have a part."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor divided among the processes as the parameter is."""
    if not hasattr(parameter, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)


def mine(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: some of its rows, where the processes share it."""
    rows: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return rows


def all_rows(parts: Tensor, parameter: Tensor) -> Tensor:
    """All rows (K, m, n) of K matrices shared as the parameter is, from each process's (K, its part of m, n)."""
    if not hasattr(parameter, "full_tensor"):
        return parts
    from torch.distributed.tensor import DTensor, Shard

    assert isinstance(parameter, DTensor)
    shape = torch.Size((len(parts), *parameter.shape))
    stride = (parameter.numel(), *parameter.stride())
    return DTensor.from_local(
        parts, parameter.device_mesh, [Shard(1)], run_check=False, shape=shape, stride=stride
    ).full_tensor()


def own_rows(everything: Tensor, parameter: Tensor) -> Tensor:
    """The reverse of `all_rows`."""
    if not hasattr(parameter, "full_tensor"):
        return everything
    from torch.distributed.tensor import DTensor

    assert isinstance(parameter, DTensor)
    mesh, rows = parameter.device_mesh, everything.shape[1]
    begin = mesh.get_local_rank() * -(-rows // mesh.size())  # what rows cannot be shared evenly, the last ones lack
    return everything[:, begin : begin + len(mine(parameter))]
