"""One forward and backward pass on minitensor's tape: the numbers of every quantity."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt_numpy.explain.checks import by_torch
from gpt_numpy.explain.differences import losses
from gpt_numpy.explain.formulas import MASKED, later, of_loss, quantities
from gpt_numpy.explain.forward import ByHand, run
from gpt_numpy.explain.problem import Place, Problem
from minitensor import Tensor, functions
from minitensor import functional as F
from minitensor.arrays import Array
from minitensor.ops.gelu import gelu_backward
from minitensor.ops.linear import linear_backward, linear_forward
from minitensor.ops.softmax import softmax_forward


class Trace:
    """The numbers of every quantity, from minitensor's tape: values, gradients, and what operations saved."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.quantities = quantities(problem.config, problem.layer, problem.objective)
        self.tensors = {name: Tensor(array, requires_grad=True) for name, array in problem.weights.items()}

        def note(name: str, value: Tensor) -> Tensor:
            value.retain_grad()
            self.tensors[name] = value
            return value

        found = run(
            F, ByHand(), dict(self.tensors), Tensor(problem.ids[None]), Tensor(problem.wanted[None]), problem.config,
            note,
        )  # fmt: skip
        total = problem.objective.total(found, functions, Tensor)
        total.sum().backward(retain_graph=True)
        self.constants: Mapping[str, float] = {
            "c": self._saved(f"S{problem.layer}")[2], "1/T": 1 / len(problem.ids), "1/C": 1 / problem.config.n_embd,
            **problem.objective.constants,
        }  # fmt: skip
        self.numbers = {"l": found.array[0], "L": total.array[0], **problem.objective.numbers}
        self.numbers |= problem.objective.inner(found.array[0])
        self._add_places()
        self._add_inner()
        self._add_heads()
        self.visible = np.tri(len(problem.ids), dtype=bool)
        for name in MASKED:
            self.numbers[name] = np.where(self.visible, self.numbers[name], -np.inf if name == "S" else 0.0)

    @property
    def places(self) -> dict[str, Place]:
        return self.problem.places

    @property
    def scene(self) -> dict[str, Any]:
        """What a page has to know about it."""
        problem, config = self.problem, self.problem.config
        return {
            "layer": problem.layer, "head": problem.head, "heads": config.n_head, "layers": config.n_layer,
            "width": config.n_embd, "ofLoss": [quantity.name for quantity in of_loss(problem.objective)],
            "aboutLoss": problem.objective.about.format(surprise=problem.objective.surprise),
            "ids": [*problem.ids.tolist(), int(problem.targets[-1])],
        }  # fmt: skip

    def losses(self, name: str, changes: Array) -> Array:
        return losses(self.problem, name, changes)

    def by_torch(self) -> dict[str, Array]:
        return by_torch(self.problem)

    def _saved(self, name: str) -> tuple[Any, ...]:
        """What the operation that computed this value saved for its backward."""
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
        """Values inside operations, which are not on the tape."""
        problem, numbers = self.problem, self.numbers
        T = len(problem.ids)
        numbers["pos"] = problem.weights["pos_emb.weight"][:T]
        numbers["p"] = softmax_forward(numbers["Z"])[0]
        onehot = np.eye(problem.config.vocab_size)[problem.targets]
        numbers["next" if problem.objective.targets is None else "q"] = (
            onehot if problem.objective.targets is None else problem.objective.targets
        )
        norms = {"": ("R", f"N_attn{problem.layer}"), "_f": ("R_f", "N_f")}
        for sub in later(problem.config, problem.layer):
            norms[f"_{sub}"] = f"R_{sub}", f"N_{sub}"
            if sub.kind == "mlp":
                ones = np.ones((1, T, 4 * problem.config.n_embd))
                numbers[f"g_{sub}"] = gelu_backward(ones, *self._saved(f"G_{sub}"))[0][0]
        for mark, (stream, out) in norms.items():
            n, r = self._saved(out)[:2]
            numbers[f"n{mark}"], numbers[f"r{mark}"] = n, r[:, 0]
            numbers[f"mean{mark}"], numbers[f"var{mark}"] = numbers[stream].mean(-1), numbers[stream].var(-1)

    def _add_heads(self) -> None:
        """The contributions of the other heads to Y and dX."""
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
