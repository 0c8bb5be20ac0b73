"""Modules: functions with parameters, with torch.nn's names and defaults.

A module finds its parameters and its submodules by looking at its own attributes, in the order in which they were set;
the path to a parameter ("blocks.0.ln_1.weight") is its name.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self, cast

import numpy as np
from numpy.typing import DTypeLike

from minitensor import functional as F
from minitensor.convert import as_dtype
from minitensor.functions import zeros_like
from minitensor.optim import clipping
from minitensor.random import generator
from minitensor.tensor import Operand, Tensor


class Parameter(Tensor):
    """A tensor that its module trains."""

    __slots__ = ()

    def __init__(self, data: Operand, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad=requires_grad)


class IncompatibleKeys(NamedTuple):
    """Names that load_state_dict did not find a partner for."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """The base of all layers and models: write __init__ and forward, call the module."""

    training: bool = True
    _kinds: Mapping[str, type] = {}  # of its attributes, Parameter, Module or (a buffer) Tensor, even where one is None
    _buffers: Mapping[str, bool] = {}  # by name, whether state_dict has it

    def forward(self, *inputs: Any, **settings: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        return self.forward(*inputs, **settings)

    # -- its submodules and tensors --

    def __setattr__(self, name: str, value: Any) -> None:
        """A parameter, submodule or buffer can become another one, or None: all else would quietly go untrained, or
        out of the state."""
        kind = self._kinds.get(name)
        if kind and not (value is None or isinstance(value, (kind, Parameter))):
            known = "buffer" if kind is Tensor else kind.__name__
            raise TypeError(f"{name} is a {known}, and can become another or None, not a {type(value).__name__}")
        new = Parameter if isinstance(value, Parameter) else Module if isinstance(value, Module) else kind
        if new and new is not kind:  # it comes last, whatever else had the name before
            if name in vars(self):
                delattr(self, name)
            self._kinds = {**self._kinds, name: new}
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._kinds = {other: kind for other, kind in self._kinds.items() if other != name}
        self._buffers = {other: persistent for other, persistent in self._buffers.items() if other != name}

    def _submodules(self) -> "Iterator[tuple[str, Module]]":
        """Every submodule under every name it has."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def named_children(self) -> "Iterator[tuple[str, Module]]":
        """Every submodule once, under its first name."""
        seen = set()
        for name, child in self._submodules():
            if child not in seen:
                seen.add(child)
                yield name, child

    def named_modules(
        self, memo: "set[Module] | None" = None, prefix: str = "", remove_duplicate: bool = True
    ) -> "Iterator[tuple[str, Module]]":
        """This module, its submodules and theirs; each once, under its first name, or under all."""
        memo = set() if memo is None else memo
        if self not in memo or not remove_duplicate:
            memo.add(self)
            yield prefix, self
            for name, child in self._submodules():
                yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def children(self) -> "Iterator[Module]":
        return (child for _, child in self.named_children())

    def modules(self) -> "Iterator[Module]":
        return (module for _, module in self.named_modules())

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """A tensor that belongs to the module and is not trained; if persistent, state_dict has it too."""
        if not isinstance(name, str) or not name or "." in name:
            raise KeyError(f"register_buffer: a name is text without a dot, not {name!r}")
        if hasattr(self, name) and name not in self._buffers:
            raise KeyError(f"register_buffer: there is a {name!r} already")
        if not isinstance(tensor, Tensor | None):
            raise TypeError(f"register_buffer: {name} is a tensor or None, not {type(tensor).__name__}")
        setattr(self, name, tensor)
        self._kinds = {**self._kinds, name: Tensor}
        self._buffers = {**self._buffers, name: persistent}

    def _own_tensors(self, buffers: bool) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, or every buffer, under every name it has."""
        for path, module in self.named_modules(remove_duplicate=False):
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and (name in module._buffers if buffers else isinstance(value, Parameter)):
                    yield f"{path}.{name}" if path else name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once; one that is shared goes by its first name."""
        return cast("Iterator[tuple[str, Parameter]]", _unique(self._own_tensors(buffers=False)))

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        return _unique(self._own_tensors(buffers=True))

    def buffers(self) -> Iterator[Tensor]:
        return (buffer for _, buffer in self.named_buffers())

    # -- its state --

    def _state(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers, module by module."""
        state: dict[str, Tensor] = {}
        for path, module in self.named_modules(remove_duplicate=False):
            values = vars(module)
            names = [name for name, value in values.items() if isinstance(value, Parameter)]
            names += [name for name, persistent in module._buffers.items() if persistent and values[name] is not None]
            state |= {f"{path}.{name}" if path else name: values[name] for name in names}
        return state

    def state_dict(self) -> dict[str, Tensor]:
        """The values of all parameters and buffers by name. A snapshot: training on does not change it."""
        return {name: tensor.detach() for name, tensor in self._state().items()}

    def load_state_dict(self, state_dict: Mapping[str, Operand], strict: bool = True) -> "IncompatibleKeys":
        """Take over values by name. Either all fit, or nothing is changed and the error names what does not.

        With strict=False names on one side alone are skipped, and returned.
        """
        own = self._state()
        given = {name: Tensor(value) for name, value in state_dict.items()}
        skipped = IncompatibleKeys(
            [name for name in own if name not in given], [name for name in given if name not in own]
        )
        wrong = []
        if strict:
            wrong += [f"missing: {name}" for name in skipped.missing_keys]
            wrong += [f"unexpected: {name}" for name in skipped.unexpected_keys]
        wrong += [
            f"misshapen: {name} is {own[name].shape}, given {value.shape}"
            for name, value in given.items()
            if name in own and own[name].shape != value.shape
        ]
        if wrong:
            raise RuntimeError(f"load_state_dict: {type(self).__name__} cannot take this:\n  " + "\n  ".join(wrong))
        for name, tensor in own.items():  # what is shared ends with the value of its last name in the module
            if name in given:
                tensor.data = given[name].to(tensor.dtype)
        return skipped

    def apply(self, fn: "Callable[[Module], object]") -> Self:
        """Call fn on every submodule, the innermost first, and then on this module."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.parameters():
            parameter.grad = None if set_to_none or parameter.grad is None else zeros_like(parameter)

    def to(self, dtype: DTypeLike) -> Self:
        """The same module with its floats, and their gradients, in another dtype. What was computed before with a
        parameter that changes no longer leads to it."""
        dtype = as_dtype(dtype)
        if dtype.kind != "f":
            raise TypeError(f"{type(self).__name__}: a module computes in float32 or float64, not in {dtype}")
        for parameter in self.parameters():
            if parameter.dtype.kind == "f" and parameter.dtype != dtype:
                wanted, gradient = parameter.requires_grad, parameter.grad
                Tensor.__init__(parameter, parameter.detach().to(dtype), requires_grad=wanted)
                parameter.grad = None if gradient is None else gradient.to(dtype)
        for module in self.modules():
            for name in module._buffers:
                buffer = vars(module)[name]
                if buffer is not None and buffer.dtype.kind == "f":
                    setattr(module, name, buffer.to(dtype))
        return self

    def float(self) -> Self:
        return self.to(np.float32)

    def double(self) -> Self:
        return self.to(np.float64)

    # -- how it looks --

    def extra_repr(self) -> str:
        return ""

    def __repr__(self) -> str:
        parts = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self._submodules()]
        inside = "\n  " + "\n  ".join(parts) + "\n" if parts else self.extra_repr()
        return f"{type(self).__name__}({inside})"


class _Indexed(Module):
    """Modules in order, as attributes that are called "0", "1" and so on."""

    def __init__(self, modules: Iterable[Module]) -> None:
        self.extend(modules)

    def append(self, module: Module) -> Self:
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__} holds modules, not {type(module).__name__}")
        setattr(self, str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        for module in modules:
            self.append(module)
        return self

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self._submodules())


class ModuleList(_Indexed):
    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__(modules)

    def __getitem__(self, index: int | slice) -> Any:
        return ModuleList(list(self)[index]) if isinstance(index, slice) else list(self)[index]


class Sequential(_Indexed):
    """One after the other."""

    def __init__(self, *modules: Module) -> None:
        super().__init__(modules)

    def __getitem__(self, index: int | slice) -> Any:
        return Sequential(*list(self)[index]) if isinstance(index, slice) else list(self)[index]

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input


def _unique(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    seen = set()
    for name, tensor in named:
        if tensor not in seen:
            seen.add(tensor)
            yield name, tensor


# ---- layers -----------------------------------------------------------------------------------------------------


def _uniform(bound: float, shape: tuple[int, ...], dtype: DTypeLike | None) -> Parameter:
    return Parameter(generator().uniform(-bound, bound, shape).astype(as_dtype(dtype, np.float32)))


class Linear(Module):
    """x W^T + b, W of shape (out, in); both start uniform within 1 / sqrt(in)."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: DTypeLike | None = None
    ) -> None:
        self.in_features, self.out_features = in_features, out_features
        bound = 1.0 / math.sqrt(in_features) if in_features else 0.0
        self.weight = _uniform(bound, (out_features, in_features), dtype)
        self.bias = _uniform(bound, (out_features,), dtype) if bias else None

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """A table of one row for each id; it starts normal, with row padding_idx at 0 and never trained."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx
        table = generator().standard_normal((num_embeddings, embedding_dim)).astype(as_dtype(dtype, np.float32))
        if padding_idx is not None:
            table[padding_idx] = 0.0
        self.weight = Parameter(table)

    def forward(self, input: Operand) -> Tensor:
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class LayerNorm(Module):
    """Rows of mean 0 and variance 1, times a weight (from 1), plus a bias (from 0)."""

    def __init__(
        self,
        normalized_shape: int | Iterable[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike | None = None,
    ) -> None:
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(sizes)
        self.eps = eps
        dtype = as_dtype(dtype, np.float32)
        self.weight = Parameter(np.ones(self.normalized_shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(self.normalized_shape, dtype)) if elementwise_affine and bias else None

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class Dropout(Module):
    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p is a probability between 0 and 1, not {p}")
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class ReLU(Module):
    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input)


class Tanh(Module):
    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class Sigmoid(Module):
    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class SiLU(Module):
    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input)


class GELU(Module):
    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


# ---- losses -----------------------------------------------------------------------------------------------------


class MSELoss(Module):
    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Tensor, target: Operand) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class CrossEntropyLoss(Module):
    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing

    def forward(self, input: Tensor, target: Operand) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class utils:
    """torch.nn.utils"""

    clip_grad_norm_ = staticmethod(clipping.clip_grad_norm_)
    clip_grads_with_norm_ = staticmethod(clipping.clip_grads_with_norm_)
    get_total_norm = staticmethod(clipping.get_total_norm)
