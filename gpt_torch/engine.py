"""The PyTorch engine: training steps, losses and reading, on one device or several.

Weights, gradients and optimizer state are float32; a lower precision applies to the matrix products that autocast
selects. With float16, whose range is small, the loss is scaled before the backward pass and the gradients unscaled
after it. With --weights bfloat16 the model has bfloat16 copies of the weights, and its gradients are bfloat16.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.engine import AnyBatch, Arrays, Batch, Ids, StepResult
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.optim import KEYS_OF_GROUP, STATE_KEYS, group_parameters, settings_at
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.rng import DROPOUT
from gpt_numpy.workshop.train.distributed import Processes
from gpt_torch.attention import attending, attention_of
from gpt_torch.compiled import CompiledWrongly, first_difference, first_line, is_from_compiler, use_cache_folder
from gpt_torch.device import (
    ALLOWED,
    DTYPES,
    describe,
    find_device,
    find_precision,
    is_out_of_memory,
    out_of_memory_as_memory_error,
    peak_of,
)
from gpt_torch.distributed import Loss, all_reduce_sum, full_tensor, parallelize, raising_lost, shard_like, split_rows
from gpt_torch.model import GPT
from gpt_torch.objectives import rows_at_once
from gpt_torch.optim import Masters, Optimizer
from gpt_torch.options import Options, is_compiled, optimizer_skips, set_global_flags
from gpt_torch.reader import Reader, for_training
from gpt_torch.step import CapturedStep, check_capture
from gpt_torch.transfer import Texts, to_device, to_host, to_numpy, wait_for

MAX_PINNED = 1 << 29  # bytes of weights and optimizer state that are copied by way of pinned memory, which stays so
AT_ONCE_ON_CPU = 2048  # tokens that are evaluated together; more take longer there


class Engine:
    """A GPT, its optimizer and its device."""

    def __init__(
        self, config: GPTConfig, recipe: Recipe, options: Options | None = None, processes: Processes | None = None
    ) -> None:
        self.config, self.recipe = config, recipe
        self.options = options or Options()
        self.processes = processes or Processes()
        if self.options.threads:
            torch.set_num_threads(self.options.threads)
        self.threads = torch.get_num_threads()
        self.device = find_device(self.options.device)
        self.precision = find_precision(self.options.dtype, self.device)
        self.dtype = DTYPES[self.precision]
        self.attention = attention_of(self.options.attention, self.device)
        set_global_flags(self.precision, self.options.deterministic)
        peak = peak_of(self.device, self.precision)
        self.peak = peak and peak * self.processes.size
        self.model = GPT(config, recipe.seed)
        if self.options.recompute:
            for block in self.model.blocks:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=self._to_recompute)
        setting = f"{self.device.type} {self.precision} {self.options.parallel}"
        self.processes.check_agreement("--device, --dtype or --parallel, or in their defaults", setting)
        with raising_lost(), out_of_memory_as_memory_error():
            parallel, size = self.options.parallel, self.processes.size
            self.eager_loss = parallelize(self.model, self.device, self.dtype, parallel, size)
        self.local_loss = Loss(self.model)
        self.parameters: dict[str, Tensor] = dict(self.model.named_parameters())  # what the optimizer updates
        self.masters: Masters | None = None
        if self.options.weights == "bfloat16":
            self.masters = Masters(self.model.named_parameters(remove_duplicate=False))
            self.parameters = self.masters.parameters
        self.optimizer = self._new_optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        # 1 once a loss or a gradient was not finite: that step and all later ones are skipped. On CUDA the optimizer
        # checks this on the device, so that the host need not wait.
        self.nonfinite = torch.zeros((), device=self.device)
        self.optimizer_skips = optimizer_skips(self.device, self.options.parallel, self.precision)
        compiled = is_compiled(self.options.compile, self.device)
        if compiled:
            use_cache_folder()
        self.model_loss: Callable[..., Any] = torch.compile(self.eager_loss) if compiled else self.eager_loss
        self.compile_checked = not compiled
        self.is_warm = False  # after the first step
        self.texts = Texts(self.device)
        self.captured: CapturedStep | None = None
        self.captures = self.options.cuda_graph
        if self.captures:
            check_capture(recipe)

    @property
    def compiled(self) -> bool:
        return self.model_loss is not self.eager_loss

    def _new_optimizer(self) -> Optimizer:
        return Optimizer(group_parameters(self.parameters, self.recipe.optimizer), self.dtype)

    # -- training and evaluating --

    @raising_lost()
    @out_of_memory_as_memory_error()
    def train_step(self, batch: AnyBatch, step: int) -> StepResult:
        for_training(self.model, True)
        if self.captures and self.is_warm and (captured := self._captured(batch)):
            return captured(cast(Batch, batch), step)
        loss = None
        try:
            compare = not self.compile_checked and self.options.self_test and self.processes.size == 1
            loss = (self._checked_backward if compare else self.backward)(batch, step)
        except Exception as error:
            if not is_out_of_memory(error):
                if self.compile_checked or not is_from_compiler(error):
                    raise
                if self.processes.first:
                    print(f"torch.compile failed; training continues without it: {first_line(error)}", file=sys.stderr)
                self.model_loss = self.eager_loss
                loss = self.backward(batch, step)
        if loss is None:  # out of memory; the activations were freed with the error
            raise self._too_large(batch)
        self.compile_checked = self.is_warm = True
        settings = settings_at(self.recipe, step)
        for group in self.optimizer.param_groups:
            group.update(settings[group["kind"]])
        return StepResult(loss, self.update(loss))

    def _captured(self, batch: AnyBatch) -> CapturedStep | None:
        """The step as a CUDA graph; None if it cannot be captured, or is one for other batches."""
        try:
            self.captured = self.captured or CapturedStep(self, batch)
        except RuntimeError as error:
            self.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            print(f"no CUDA graph; training continues without it: {first_line(error)}", file=sys.stderr)
            self.captures = False
            return None
        return self.captured if self.captured.is_for(batch) else None

    def update(self, loss: Tensor) -> Tensor:
        """After a backward pass: clip the gradients, and let the optimizer take its step. The norm before clipping."""
        optimizer = cast(Any, self.optimizer)  # GradScaler's types ask for one of torch.optim
        self.scaler.unscale_(optimizer)
        grad_norm = full_tensor(clip_grad_norm_(self.parameters.values(), self.recipe.grad_clip or math.inf))
        if self.scaler.is_enabled() and self.scaler.get_scale() >= 1.0:
            grad_norm = grad_norm.nan_to_num(0.0, 0.0)  # out of float16's range: the step is skipped, the scale reduced
        finite = (loss.isfinite() & grad_norm.isfinite()).float()
        torch.maximum(self.nonfinite, 1.0 - finite, out=self.nonfinite)
        if self.optimizer_skips:
            optimizer.found_inf = self.nonfinite
        if self.optimizer_skips or not self.nonfinite:
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.masters:
            self.masters.give_weights()
        return grad_norm

    @raising_lost()
    @out_of_memory_as_memory_error()
    def first_nonfinite(self, batch: AnyBatch, step: int) -> str | None:
        for_training(self.model, True)
        self.backward(batch, step)
        gradients = {f"the gradient of {name}": gradient for name, gradient in self._gradients().items()}
        tensors: dict[str, Tensor] = {**self.parameters, **gradients}
        return next((name for name, tensor in tensors.items() if not full_tensor(tensor).isfinite().all()), None)

    def backward(self, batch: AnyBatch, step: int) -> Tensor:
        """The loss of the whole batch. Its gradients, times the loss scale, are left in the parameters."""
        self.zero_grad()
        losses = []
        for rows in (micro_batches := self._micro_batches(batch)):
            self.seed_dropout(step, rows.start)
            with self._grad_sync(rows is micro_batches[-1]):
                losses.append(self.accumulate(self._loss_of(self.model_loss, batch, rows)))
        return all_reduce_sum(torch.stack(losses).sum(), self.processes)

    def _micro_batches(self, batch: AnyBatch) -> list[slice]:
        limit = self.recipe.micro_batch or rows_at_once(batch, self.config.vocab_size)
        return split_rows(batch.rows, limit, self.processes)

    def zero_grad(self) -> None:
        for p in (*self.parameters.values(), *self.model.parameters()):  # the same, but for bfloat16 weights
            p.grad = None

    def seed_dropout(self, step: int, row: int) -> None:
        if self.config.dropout:
            seed = np.random.SeedSequence((self.recipe.seed, step, row, DROPOUT))
            torch.manual_seed(int(seed.generate_state(1)[0]))

    def accumulate(self, loss: Tensor) -> Tensor:
        """Adds the gradients of a part of the loss to those of the parameters."""
        torch.autograd.backward(self.scaler.scale(loss * self.processes.size))
        if self.masters:
            self.masters.take_gradients()
        return loss.detach()

    def _loss_of(self, model_loss: Callable[..., Any], batch: AnyBatch, rows: slice) -> Tensor:
        """Of the batch, the part of these rows."""
        share = (rows.stop - rows.start) / batch.rows
        rows = rows if share else slice(0, 1)  # without rows: one of weight 0, since the other processes wait
        if isinstance(batch, Batch):
            windows = self.texts.windows(batch, rows)
            return torch.mul(self.loss_of(model_loss, windows[:, :-1], windows[:, 1:]), share)
        part = batch.part(rows)
        given = {n: to_device(a, self.device) if isinstance(a, np.ndarray) else a for n, a in part.arrays.items()}
        return torch.mul(self.loss_of(model_loss, objective=part.objective, **given), part.share * (share > 0))

    def loss_of(self, model_loss: Callable[..., Any], *given: Tensor, **named: Any) -> Tensor:
        with self._autocast_and_attention():
            return cast(Tensor, model_loss(*given, **named))

    def _checked_backward(self, batch: AnyBatch, step: int) -> Tensor:
        """`backward` of the compiled model, compared with the eager one; CompiledWrongly if they differ."""
        loss = self.backward(batch, step)
        gradients, compiled = self._gradients(), self.model_loss
        self.model_loss = self.eager_loss
        try:
            expected = {"the loss": self.backward(batch, step), **self._gradients()}
            other = expected  # with dropout: the result of another mask, since the compiled model draws its own
            if self.config.dropout:
                other = {"the loss": self.backward(batch, step + 1), **self._gradients()}
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            expected = other = {}  # an eager step needs more memory than a compiled one: no comparison
        finally:
            self.model_loss = compiled
        if wrong := first_difference({"the loss": loss, **gradients}, expected, other, ALLOWED[self.precision]):
            raise CompiledWrongly(wrong)
        for name, gradient in gradients.items():
            self.parameters[name].grad = gradient
        return loss

    def _gradients(self) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.parameters.items() if p.grad is not None}

    @contextmanager
    def _grad_sync(self, enabled: bool) -> Iterator[None]:
        """Whether a backward pass sums gradients over the processes: once, with the last micro-batch, is enough."""
        if isinstance(self.eager_loss, DistributedDataParallel) and not enabled:
            with self.eager_loss.no_sync():
                yield
        else:
            yield

    def _too_large(self, batch: AnyBatch) -> RunFailed:
        """An error with the largest micro-batch that fits: a half, a quarter, ... of the present one is tried."""
        rows = max(part.stop - part.start for part in self._micro_batches(batch))
        if self.options.parallel == "fsdp":  # no process can run the model alone
            return RunFailed(f"out of memory on {describe(self.device)}; try --micro-batch {max(1, rows // 2)}")
        self.zero_grad()
        reserved: list[Tensor] = []
        while rows > 1:
            rows //= 2
            try:
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                reserved = reserved or self._optimizer_memory()
                # local_loss neither synchronizes with other processes nor recompiles for each size.
                loss = self._loss_of(self.local_loss, batch, slice(0, rows))
                torch.autograd.grad(loss, list(self.model.parameters()))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                continue
            return RunFailed(f"out of memory on {describe(self.device)}; --micro-batch {rows} fits")
        return RunFailed(f"out of memory on {describe(self.device)} with one sequence; a smaller --block-size may fit")

    def _optimizer_memory(self) -> list[Tensor]:
        """Tensors as large as the optimizer state that is not allocated yet."""
        if self.optimizer.state():
            return []
        groups = self.optimizer.param_groups
        return [torch.zeros_like(p) for group in groups for p in group["params"] for _ in KEYS_OF_GROUP[group["kind"]]]

    @raising_lost()
    @out_of_memory_as_memory_error()
    @torch.no_grad()
    def loss(self, batch: AnyBatch) -> Tensor:
        for_training(self.model, False)
        at_once = max(1, AT_ONCE_ON_CPU // batch.length) if self.device.type == "cpu" else 0
        parts = split_rows(batch.rows, at_once, self.processes)
        losses = [self._loss_of(self.local_loss, batch, rows) for rows in parts]
        return all_reduce_sum(torch.stack(losses).sum(), self.processes)

    @torch.no_grad()
    def logits(self, ids: Ids) -> NDArray[Any]:
        for_training(self.model, False)
        with self._autocast_and_attention():
            return to_numpy(self.model(to_device(ids, self.device))[0].float())

    @contextmanager
    def profile(self, folder: Path) -> Iterator[list[Any]]:
        from torch.profiler import ProfilerActivity, profile

        result: list[Any] = []
        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (self.device.type == "cuda")]
        with profile(activities=activities) as found:
            yield result
        if self.processes.first:
            found.export_chrome_trace(str(folder / "trace.json"))
            result.append(f"trace: {folder / 'trace.json'}; ui.perfetto.dev shows it")

    @contextmanager
    def _autocast_and_attention(self) -> Iterator[None]:
        """The precision and the attention of the options."""
        with ExitStack() as stack:
            if self.dtype != torch.float32:
                stack.enter_context(torch.autocast(self.device.type, self.dtype))
            stack.enter_context(attending(self.attention, self.device))
            yield

    def _to_recompute(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Contexts for a block's forward and for its recomputation, which happens in the backward."""
        return nullcontext(), attending(self.attention, self.device)

    def for_reading(self) -> AbstractContextManager[None]:
        """Without autocast, which slows down single tokens. But FSDP gathers blocks only in its precision, and with
        bfloat16 weights norms and softmax are float32 only by it."""
        if self.options.parallel == "fsdp" or self.masters:
            return self._autocast_and_attention()
        return attending(self.attention, self.device)

    # -- reading --

    def reader(self, rows: int = 1) -> Reader:
        return Reader(self, rows)

    # -- its state --

    def weights(self) -> Arrays:
        return self._gathered(self.masters.state_dict() if self.masters else self.model.state_dict())

    def optimizer_state(self) -> Arrays:
        tensors = self.optimizer.state()
        names = [f"{key}.{name}" for key in STATE_KEYS for name in self.parameters]
        state = self._gathered({name: tensors[name] for name in names if name in tensors})
        if state and self.scaler.is_enabled():
            scale = self.scaler.state_dict()
            state[SCALER] = np.array([scale["scale"], scale["_growth_tracker"], self.optimizer.steps])
        return state

    @raising_lost()
    @out_of_memory_as_memory_error()
    def load(self, weights: Arrays, optimizer_state: Arrays, step: int) -> None:
        self.nonfinite.zero_()
        current = self.model.state_dict()
        loaded = {name: shard_like(current[name], torch.tensor(weight)) for name, weight in weights.items()}
        self.model.load_state_dict(loaded)
        if self.masters:
            self.masters.load_state_dict(loaded)
        self.captured = None
        self.optimizer = self._new_optimizer()
        if not optimizer_state:
            return
        steps = float(step)
        saved = optimizer_state.get(SCALER, np.empty(0))
        if saved.shape == (3,) and np.isfinite(saved).all():  # float16: steps may have been skipped
            scale, growth, steps = saved.tolist()
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale, "_growth_tracker": int(growth)})
        state = {name: torch.tensor(array) for name, array in optimizer_state.items() if name != SCALER}
        self.optimizer.load(state, steps)

    @raising_lost()
    @out_of_memory_as_memory_error()
    def _gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """Full arrays on the first process, which saves them; none on the others."""
        copies = {}
        pinned = sum(tensor.nbytes for tensor in tensors.values()) <= MAX_PINNED
        for name, tensor in tensors.items():
            gathered = full_tensor(tensor)
            if self.processes.first:
                copies[name] = to_host(gathered, pinned)
        wait_for(self.device)
        return {name: copy.numpy() for name, copy in copies.items()}

    def describe(self) -> str:
        details = [self.precision, f"{self.attention} attention"]
        details += ["bfloat16 weights"] * bool(self.masters) + ["compiled"] * self.compiled
        details += ["one CUDA graph"] * self.captures + ["deterministic"] * self.options.deterministic
        size = self.processes.size
        many = f", in each of {size} processes ({self.options.parallel})" if size > 1 else ""
        return f"PyTorch {torch.__version__}, {', '.join(details)}, {describe(self.device)}{many}"


SCALER = "scaler"  # with float16: the loss scale, the steps since it changed, the steps not skipped
