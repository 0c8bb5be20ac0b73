"""One text through the model and back, in float64: where each quantity is, and its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gpt_numpy.config import GPTConfig
from gpt_numpy.explain.formulas import MASKED, later, quantities, sublayers
from gpt_numpy.explain.forward import ByHand, run
from minitensor import Tensor, no_grad
from minitensor import functional as F
from minitensor.op import Array
from minitensor.ops.gelu import gelu_backward
from minitensor.ops.linear import linear_backward, linear_forward
from minitensor.ops.softmax import softmax_forward


class Place(NamedTuple):
    """Where a quantity is in a run: the name of a value or of a parameter there, and which part of it."""

    name: str
    part: tuple[Any, ...] = ()
    is_parameter: bool = False


@dataclass(frozen=True)
class Problem:
    """What is explained: a text (T tokens, and the T that follow them) in a model, and one head of one layer."""

    config: GPTConfig
    weights: Mapping[str, Array]
    ids: Array  # (T,)
    targets: Array  # (T,)
    layer: int
    head: int

    @cached_property
    def places(self) -> dict[str, Place]:
        """By the names of quantities; what the operations keep to themselves is in no place."""
        config, n, h = self.config, self.layer, self.head
        C, D = config.n_embd, config.n_embd // config.n_head
        ours = slice(h * D, (h + 1) * D)  # of the channels of all heads side by side

        def parameters(matrix: str, bias: str, layer: str, part: tuple[Any, ...] = ()) -> dict[str, Place]:
            found = {matrix: Place(f"{layer}.weight", part, True)}
            return found | ({bias: Place(f"{layer}.bias", part[:1], True)} if config.bias else {})

        places = {name: Place(f"{name}{n}", (h,)) for name in ("Q", "K", "V", "S", "P", "O")}
        places |= {"R": Place(f"R_attn{n}"), "X": Place(f"N_attn{n}"), "Y": Place(f"Y_attn{n}")}
        places |= {name: Place(name) for name in ("tok", "R_f", "N_f", "Z")}
        places |= {f"Y_{sub}": Place(f"Y_{sub}") for sub in sublayers(config)}
        places |= parameters("w", "b", f"blocks.{n}.ln_1") | parameters("w_f", "b_f", "ln_f")
        for third, name in enumerate("qkv"):
            rows = slice(third * C + ours.start, third * C + ours.stop)
            places |= parameters(f"W_{name}", f"b_{name}", f"blocks.{n}.attn.c_attn", (rows,))
        places |= parameters("W_o", "b_o", f"blocks.{n}.attn.c_proj", (slice(None), ours))
        for sub in later(config, n):
            block = f"blocks.{sub.layer}"
            places |= {f"{letter}_{sub}": Place(f"{letter}_{sub}") for letter in "RN"}
            places |= parameters(f"w_{sub}", f"b_{sub}", f"{block}.ln_{1 if sub.kind == 'attn' else 2}")
            if sub.kind == "mlp":
                places |= {f"{letter}_{sub}": Place(f"{letter}_{sub}") for letter in "UG"}
                places |= parameters(f"W1_{sub}", f"b1_{sub}", f"{block}.mlp.c_fc")
                places |= parameters(f"W2_{sub}", f"b2_{sub}", f"{block}.mlp.c_proj")
        return places | {"W_lm": Place("lm_head.weight", (), True)}

    def losses(self, name: str, changes: Array) -> Array:
        """The loss for each of the changes (B, ...), added to what has this name. No tape: this is for differences."""
        place, (B, T) = self.places[name], (len(changes), len(self.ids))
        weights = self._tensors
        if place.is_parameter:
            many = np.repeat(self.weights[place.name][None], B, 0)
            weights = {**weights, place.name: Tensor(_plus(many, changes, place.part))}

        def note(name: str, value: Tensor) -> Tensor:
            return Tensor(_plus(value.array, changes, place.part)) if name == place.name else value

        ids, targets = (Tensor(np.broadcast_to(tokens, (B, T))) for tokens in (self.ids, self.targets))
        with no_grad():
            losses = run(ManyWeights, ByHand(), weights, ids, targets, self.config, note)
        mean: Array = losses.array.mean(-1)
        return mean

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return {name: Tensor(array) for name, array in self.weights.items()}


class ManyWeights:
    """minitensor.functional where one parameter may come in B versions, one for each text of the batch."""

    embedding, layer_norm, gelu, cross_entropy = F.embedding, F.layer_norm, F.gelu, F.cross_entropy

    @staticmethod
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if weight.ndim == 2 and (bias is None or bias.ndim == 1):
            return F.linear(x, weight, bias)
        y = x @ weight.transpose(-1, -2)
        return y if bias is None else y + (bias.unsqueeze(1) if bias.ndim == 2 else bias)


def _plus(arrays: Array, changes: Array, part: tuple[Any, ...]) -> Array:
    changed = arrays.copy()
    changed[(slice(None), *part)] += changes
    return changed


class Trace:
    """The numbers of every quantity, from minitensor's tape: values, their gradients, and what operations kept."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.quantities = quantities(problem.config, problem.layer)
        self.tensors = {name: Tensor(array, requires_grad=True) for name, array in problem.weights.items()}

        def note(name: str, value: Tensor) -> Tensor:
            value.retain_grad()
            self.tensors[name] = value
            return value

        losses = run(
            F, ByHand(), dict(self.tensors), Tensor(problem.ids[None]), Tensor(problem.targets[None]), problem.config,
            note,
        )  # fmt: skip
        losses.mean().backward(retain_graph=True)
        self.constants = {
            "c": self._kept(f"S{problem.layer}")[2], "1/T": 1 / len(problem.ids), "1/C": 1 / problem.config.n_embd,
        }  # fmt: skip
        self.numbers = {"l": losses.array[0], "L": losses.array.mean()}
        self._add_places()
        self._add_inner()
        self._add_heads()
        self.visible = np.tri(len(problem.ids), dtype=bool)
        for name in MASKED:
            self.numbers[name] = np.where(self.visible, self.numbers[name], -np.inf if name == "S" else 0.0)

    def _kept(self, name: str) -> tuple[Any, ...]:
        """What the operation that made this value kept for its backward."""
        node = self.tensors[name].grad_fn
        assert node is not None
        assert node.saved is not None
        return node.saved

    def _gradient(self, name: str) -> Array:
        gradient = self.tensors[name].grad
        assert gradient is not None
        return gradient.array

    def _add_places(self) -> None:
        for name, (of, part, is_parameter) in self.problem.places.items():
            tensor, first = self.tensors[of], () if is_parameter else (0,)
            self.numbers[name] = tensor.array[(*first, *part)]
            self.numbers[f"d{name}"] = self._gradient(of)[(*first, *part)]
        self.numbers = {name: numbers for name, numbers in self.numbers.items() if name in self.quantities}

    def _add_inner(self) -> None:
        """What is in no place of the tape, because an operation keeps it to itself."""
        problem, numbers = self.problem, self.numbers
        T = len(problem.ids)
        numbers["pos"] = problem.weights["pos_emb.weight"][:T]
        numbers["p"] = softmax_forward(numbers["Z"])[0]
        numbers["next"] = np.eye(problem.config.vocab_size)[problem.targets]
        norms = {"": f"N_attn{problem.layer}", "_f": "N_f"}
        for sub in later(problem.config, problem.layer):
            norms[f"_{sub}"] = f"N_{sub}"
            if sub.kind == "mlp":
                ones = np.ones((1, T, 4 * problem.config.n_embd))
                numbers[f"g_{sub}"] = gelu_backward(ones, *self._kept(f"G_{sub}"))[0][0]
        for mark, name in norms.items():
            n, r = self._kept(name)[:2]
            numbers[f"n{mark}"], numbers[f"r{mark}"] = n[0], r[0, :, 0]

    def _add_heads(self) -> None:
        """The parts that the other heads have in Y and in dX."""
        problem, numbers = self.problem, self.numbers
        n, C, H = problem.layer, problem.config.n_embd, problem.config.n_head
        mix, joined = (problem.weights[f"blocks.{n}.attn.{name}.weight"] for name in ("c_proj", "c_attn"))
        for h in (h for h in range(H) if h != problem.head):
            rows = slice(h * C // H, (h + 1) * C // H)
            y = linear_forward(self.tensors[f"O{n}"].array[0, h], mix[:, rows])[0]
            numbers["Y_others"] = numbers.get("Y_others", 0.0) + y
            for name, weight in zip("QKV", joined.reshape(3, C, C), strict=True):
                dx = linear_backward(self._gradient(f"{name}{n}")[0, h], numbers["X"], weight[rows], False)[0]
                numbers["dX_others"] = numbers.get("dX_others", 0.0) + dx
