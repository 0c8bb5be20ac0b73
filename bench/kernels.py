"""The cost of a training step on a GPU that need not be present: its kernels, their memory traffic, their least time.

The model's parameters are fake tensors, which have a shape but no data. torch.compile traces a step with them on the
CPU, the two graphs are moved to the GPU, and Inductor generates its code for it; nothing runs. Clipping and the
optimizer are not compiled: their operations are counted as they are dispatched, on fake tensors of the GPU.

A kernel takes at least its bytes over the GPU's bandwidth, and at least its FLOP over the GPU's peak. The sum is a
lower bound if no read hits the cache and the GPU never waits for the host. The host's time is measured on this machine,
with tensors so small that computing takes almost none of it.
"""

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.utils._triton
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.node import map_aggregate, map_arg
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from bench.result import Result, Row, milliseconds, whole
from bench.settings import COMPILED, EAGER, Settings, Stepping
from bench.timing import turns
from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.optim import group_parameters, settings_at
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_torch.device import DTYPES, PEAKS
from gpt_torch.engine import Engine
from gpt_torch.model import GPT
from gpt_torch.optim import Masters, Optimizer
from gpt_torch.options import Options

CUDA = torch.device("cuda", 0)


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet, and as PyTorch would see it."""

    name: str
    capability: tuple[int, int]
    processors: int
    threads: int  # per multiprocessor
    shared_memory: int  # bytes per thread block, at most
    cache: int  # bytes
    bandwidth: float  # bytes per second

    @property
    def peak(self) -> float:
        """FLOP per second, in 16 bits."""
        return PEAKS[self.name] * 1e12

    @property
    def properties(self) -> SimpleNamespace:
        major, minor = self.capability
        return SimpleNamespace(
            name=self.name, major=major, minor=minor, multi_processor_count=self.processors, warp_size=32,
            max_threads_per_multi_processor=self.threads, max_threads_per_block=1024, regs_per_multiprocessor=65536,
            shared_memory_per_block=49152, shared_memory_per_block_optin=self.shared_memory, L2_cache_size=self.cache,
            total_memory=1 << 34, gcnArchName="", is_integrated=0,
        )  # fmt: skip


CARDS = {
    "H200": Card("NVIDIA H200", (9, 0), 132, 2048, 232448, 50 << 20, 4.8e12),
    "H100": Card("NVIDIA H100 80GB HBM3", (9, 0), 132, 2048, 232448, 50 << 20, 3.35e12),
    "A100": Card("NVIDIA A100-SXM4-80GB", (8, 0), 108, 2048, 166912, 40 << 20, 2.039e12),
    "RTX4090": Card("NVIDIA GeForce RTX 4090", (8, 9), 128, 1536, 101376, 72 << 20, 1.008e12),
}


@dataclass
class Kernels:
    """All kernels of one kind in one part of a step."""

    launches: int = 0
    bytes: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0  # lower bound

    def add(self, card: Card, launches: int, moved: float, flops: float = 0.0) -> None:
        self.launches += launches
        self.bytes += moved
        self.flops += flops
        self.seconds += max(moved / card.bandwidth, flops / card.peak)


Step = dict[tuple[str, str], Kernels]  # by part of the step and kind of kernel


def measure(settings: Settings) -> Iterator[Result]:
    card, preset = CARDS[settings.card], PRESETS[settings.training]
    model = GPT(preset.model)
    dtype = DTYPES[settings.weights]
    step = in_update(dict(model.named_parameters()), preset.recipe, card, dtype)
    codes = compiled(model, settings.batch_size or preset.recipe.batch_size, card, dtype)
    step = {**in_code(codes, card), **step}
    yield result(settings, step, codes, [], done=0.5)
    yield result(settings, step, codes, [host(settings, preset.model, preset.recipe)])


def result(settings: Settings, step: Step, codes: "Codes", remarks: Sequence[str], done: float = 1.0) -> Result:
    card = CARDS[settings.card]
    rows: list[Row] = [
        {"part": part, "kernels": kind, "launches": k.launches, "GB": k.bytes / 1e9, "GFLOP": k.flops / 1e9,
         "at least": k.seconds}
        for (part, kind), k in step.items()
    ]  # fmt: skip
    launches, gigabytes, flops, seconds = (sum(row[name] for row in rows) for name in list(rows[0])[2:])
    atomics = sum(code.count("tl.atomic_add(") for code, _ in codes.values())
    lines = [
        f"A step: {launches} launches, {gigabytes:.2f} GB and {flops:.0f} GFLOP; at least {milliseconds(seconds)}, "
        f"{flops * 1e9 / card.peak / seconds:.0%} of the peak. Atomic additions: {atomics}.",
        *remarks,
    ]
    decimals = "{:.3f}".format
    return Result(
        "kernels",
        f"a step of {settings.training} in bfloat16, weights in {settings.weights}, on {card.name}",
        rows,
        {"part": str, "kernels": str, "launches": str, "GB": decimals, "GFLOP": whole, "at least": milliseconds},
        lines,
        done=done,
    )


# ---- forward and backward, compiled -----------------------------------------------------------------------------

Graph = torch.fx.GraphModule
Codes = dict[str, tuple[str, Graph]]  # for "forward" and "backward": Inductor's code and its graph


def compiled(model: GPT, rows: int, card: Card, dtype: torch.dtype = torch.float32) -> Codes:
    """The code that torch.compile would run on the GPU. Replaces the model's parameters by fake ones."""
    if not find_spec("triton"):
        raise RunFailed("kernels needs Triton, which is not installed; it comes with PyTorch on Linux")
    from torch._functorch import config as functorch  # slow to import
    from torch._inductor import config as inductor
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch._inductor.graph import GraphLowering

    codes: Codes = {}
    graphs: list[Graph] = []

    def for_card(graph: Graph, inputs: Sequence[Any], **kwargs: Any) -> Any:
        graphs.append(move(graph))
        return compile_fx_inner(graph, [moved(x) for x in inputs], **kwargs)

    def written(lowering: GraphLowering) -> Any:
        """Replaces loading the code, which needs the GPU."""
        code = lowering.codegen()[0]
        codes["backward" if lowering.is_backward else "forward"] = str(getattr(code, "value", code)), graphs[-1]
        if lowering.is_backward:
            raise Written
        return SimpleNamespace(call=lambda _: None, __file__="")

    torch._dynamo.reset()
    fakes: dict[Tensor, nn.Parameter] = {}  # by the real parameter: a tied one has two names
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Triton's, about future settings
        stack.enter_context(inductor.patch(compile_threads=1, fx_graph_cache=False, profile_bandwidth=True))
        stack.enter_context(functorch.patch(force_non_lazy_backward_lowering=True, enable_autograd_cache=False))
        stack.enter_context(mock.patch.object(GraphLowering, "compile_to_module", written))
        stack.enter_context(present(card))
        stack.enter_context(FakeTensorMode())
        for module in model.modules():
            for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
                setattr(module, name, fakes.setdefault(p, nn.Parameter(torch.empty(p.shape, dtype=dtype))))
        ids = torch.zeros(rows, model.config.block_size, dtype=torch.long)
        step = torch.compile(model, backend=lambda graph, inputs: compile_fx(graph, inputs, for_card))
        try:
            with AsOnCUDA(), torch.autocast("cpu", torch.bfloat16):
                step(ids, ids)
        except Exception as error:
            if len(codes) < 2:  # otherwise the error is Written
                reason, *_ = [*str(error).strip().splitlines(), type(error).__name__]
                how = f"PyTorch {torch.__version__} cannot compile for a GPU that is not present"
                raise RunFailed(f"{how}: {reason}") from error
    return codes


class Written(Exception):
    """Ends the trace once all code is generated, as it cannot run."""


class AsOnCUDA(TorchFunctionMode):
    """Traces on the CPU as CUDA would run: one kernel for attention, the loss in float32."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.scaled_dot_product_attention:
            q, k, v, _, dropout = args
            return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout, True)[0]
        if function is F.cross_entropy:
            args = args[0].float(), *args[1:]
        return function(*args, **(kwargs or {}))


def move(graph: Graph) -> Graph:
    """Move all operations of the graph to the GPU."""
    for node in graph.graph.nodes:
        node.args, node.kwargs = map_aggregate((node.args, node.kwargs), moved)
        node.meta["val"] = tree_map(moved, node.meta.get("val"))
    graph.recompile()
    return graph


def moved(x: Any) -> Any:
    if isinstance(x, FakeTensor):
        with x.fake_mode:
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=CUDA)
    return CUDA if isinstance(x, torch.device) else x


@contextmanager
def present(card: Card) -> Iterator[None]:
    """Make the compiler see this GPU."""
    from torch._dynamo.device_interface import CudaInterface
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    capability = 10 * card.capability[0] + card.capability[1]
    answers = {
        "is_available": True, "is_bf16_supported": True, "current_device": 0, "get_compute_capability": capability,
        "get_device_properties": card.properties,
    }  # fmt: skip
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(CudaInterface, name, lambda *_, answer=answer, **__: answer))
        for module in (CudaInterface.Worker, torch.cuda):
            stack.enter_context(mock.patch.object(module, "get_device_properties", return_value=card.properties))
        driver.set_active(SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", capability, 32)))
        if torch.cuda.is_available():  # then the real GPU is restored
            stack.callback(driver.reset_active)
        forget_triton()  # an earlier compilation may have found no GPU for it
        stack.callback(forget_triton)
        yield


def forget_triton() -> None:
    """PyTorch remembers whether Triton works here."""
    for function in vars(torch.utils._triton).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


ELEMENTWISE, REDUCTIONS, PRODUCTS, ATTENTION, OTHERS = (
    "elementwise", "reductions", "matrix products", "attention", "others",
)  # fmt: skip


def in_code(codes: Codes, card: Card) -> Step:
    step: Step = defaultdict(Kernels)
    for part, (code, graph) in codes.items():
        gigabytes = dict(re.findall(r"'kernel_name': '(\w+)'.*'kernel_num_gb': ([\d.e-]+)", code))
        for name in re.findall(r"(triton_\w+)\.run\(", code):
            kind = ELEMENTWISE if name.startswith("triton_poi") else REDUCTIONS
            step[part, kind].add(card, 1, 1e9 * float(gigabytes[name]))
        for node in graph.graph.nodes:
            if node.op == "call_function" and (flops := flops_of(node.target)):
                kind = ATTENTION if "attention" in str(node.target) else PRODUCTS
                out = node.meta["val"]
                args, kwargs = map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
                step[part, kind].add(card, 1, size((args, out)), flops(*args, **kwargs, out_val=out))
        calls = len(re.findall(r"(?:extern_kernels|aten)\.[\w.]+\(", code))
        if others := calls - step[part, PRODUCTS].launches - step[part, ATTENTION].launches:
            step[part, OTHERS].add(card, others, 0.0)
    return step


def flops_of(operation: Any) -> Any:
    from torch.utils.flop_counter import flop_registry  # loads Triton

    return flop_registry.get(getattr(operation, "overloadpacket", None))


def size(tensors: Any) -> float:
    """Bytes of all distinct tensors."""
    return float(sum({id(x): x.nbytes for x in tree_leaves(tensors) if isinstance(x, Tensor)}.values()))


# ---- the update, operation by operation -------------------------------------------------------------------------


def in_update(parameters: Mapping[str, Tensor], recipe: Recipe, card: Card, dtype: torch.dtype = torch.float32) -> Step:
    step: Step = defaultdict(Kernels)
    with FakeTensorMode():
        own = {name: nn.Parameter(torch.empty(p.shape, device=CUDA)) for name, p in parameters.items()}
        masters = Masters(own.items()) if dtype == torch.bfloat16 else None
        updated: Mapping[str, Tensor] = masters.parameters if masters else own
        optimizer = Optimizer(group_parameters(updated, recipe.optimizer), torch.bfloat16)
        for group in optimizer.param_groups:
            group.update(settings_at(recipe, 0)[group["kind"]])
        optimizer.found_inf = torch.zeros((), device=CUDA)
        for counting in (nullcontext(), Counting(step, card)):  # the first step also creates the state
            for p in own.values():
                p.grad = torch.empty_like(p)
            for master in updated.values():
                master.grad = None if masters else master.grad
            with counting:
                if masters:
                    masters.take_gradients()
                # foreach as for real CUDA tensors
                clip_grad_norm_(updated.values(), recipe.grad_clip or math.inf, foreach=True)
                optimizer.step()
                if masters:
                    masters.give_weights()
    return step


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, step: Step, card: Card) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels, self.card = step, card

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function.namespace == "aten" and not function.is_view and not re.search("empty|view", function.name()):
            flops = flops_of(function)
            self.kernels["update", PRODUCTS if flops else OTHERS].add(
                self.card, 1, size((args, kwargs, out)), flops(*args, **(kwargs or {}), out_val=out) if flops else 0.0
            )
        return out


# ---- the host ---------------------------------------------------------------------------------------------------


def host(settings: Settings, config: GPTConfig, recipe: Recipe) -> str:
    """The time of a step in Python and PyTorch alone, as a line."""
    tiny = replace(config, n_head=1, n_embd=8, block_size=8)
    steps = {}
    for name in (EAGER, COMPILED)[: 1 + settings.compile]:
        options = Options("cpu", "bfloat16", compile="on" if name == COMPILED else "off", self_test=False, threads=1)
        steps[name] = Stepping(Engine(tiny, replace(recipe, batch_size=1), options))
    *_, found = turns(steps, settings.repeat, settings.turn)
    times = " and ".join(
        f"{milliseconds(taken.median)} {name.removeprefix('gpt_torch').strip() or 'eager'}"
        for name, taken in found.items()
    )
    return f"The host takes {times} for a step of {config.n_layer} layers with tiny tensors, on this CPU."
