"""The parameters of a model in parts, one for each thread, and the optimizer of each part.

A model has dozens of parameters, most of them small, and NumPy's calls on small arrays take longer to begin than to
end. So the parameters of a part stand side by side in long arrays, and AdamW passes over those; what the model holds
are views of them.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from gpt_numpy.workshop.engine import MOMENTS, Arrays
from gpt_numpy.workshop.recipes import Recipe
from minitensor import Tensor
from minitensor.arrays import read_only
from minitensor.nn import Parameter
from minitensor.op import Array
from minitensor.optim import AdamW, clip_grads_with_norm_, get_total_norm
from minitensor.tensor import wrap

Parameters = Mapping[str, Parameter]  # by name


class Row:
    """Parameters side by side in one long parameter, `whole`."""

    def __init__(self, parameters: Parameters, decays: bool) -> None:
        self.parameters, self.decays = parameters, decays
        self.whole = Parameter(side_by_side(p.array for p in parameters.values()))
        self.handed_out: dict[str, Array] = {}

    def gather(self) -> None:
        """Take over what the parameters hold, if somebody has given them other arrays than `hand_out` did."""
        if any(p.array is not self.handed_out.get(name) for name, p in self.parameters.items()):
            self.whole.array = read_only(side_by_side(p.array for p in self.parameters.values()))

    def hand_out(self) -> None:
        self.handed_out = dict(self.taken_apart(self.whole.array))
        for name, array in self.handed_out.items():
            self.parameters[name].array = array

    def taken_apart(self, whole: Array) -> Iterator[tuple[str, Array]]:
        """What a long array holds for each parameter."""
        ends = itertools.accumulate((p.array.size for p in self.parameters.values()), initial=0)
        for (name, p), (start, end) in zip(self.parameters.items(), itertools.pairwise(ends), strict=True):
            yield name, whole[start:end].reshape(p.shape)


class Part:
    """Some parameters, and AdamW for them."""

    def __init__(self, parameters: Parameters) -> None:
        # Decay pulls matrices towards 0. Biases, and the scales of layer norms, which start at 1, are left alone.
        matrices = {name: p for name, p in parameters.items() if p.ndim >= 2}
        others = {name: p for name, p in parameters.items() if p.ndim < 2}
        self.rows = [Row(kind, decays) for kind, decays in ((matrices, True), (others, False)) if kind]
        self.optimizer = AdamW([{"params": [row.whole]} for row in self.rows])

    def add_up(self, found: Sequence[Mapping[str, Array]]) -> Tensor:
        """The norm of this part's gradients, which are the sums of what each thread has found."""
        gradients = []
        for row in self.rows:
            by_thread = (side_by_side(by_name[name] for name in row.parameters) for by_name in found)
            total = next(by_thread)
            for gradient in by_thread:
                total += gradient
            row.gather()
            row.whole.grad = wrap(total)
            gradients.append(row.whole.grad)
        return get_total_norm(gradients)

    def update(self, grad_norm: float, recipe: Recipe, step: int) -> None:
        """A step of AdamW, after scaling by the norm that the gradients of all parts have together."""
        for row, group in zip(self.rows, self.optimizer.param_groups, strict=True):
            clip_grads_with_norm_(row.whole, recipe.grad_clip or math.inf, grad_norm)
            group.update(lr=recipe.lr_at(step), betas=(recipe.beta1, recipe.beta2))
            group.update(weight_decay=recipe.weight_decay if row.decays else 0.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for row in self.rows:
            row.hand_out()

    def state(self) -> Arrays:
        """What AdamW remembers: MOMENT.NAME for each parameter, nothing before the first step."""
        return {
            f"{moment}.{name}": array.copy()
            for row in self.rows
            for moment in MOMENTS
            if (kept := self.optimizer.state.get(row.whole))
            for name, array in row.taken_apart(kept[moment])
        }

    def load(self, state: Arrays, step: int) -> None:
        self.optimizer.state = {
            row.whole: {"step": step}
            | {moment: side_by_side(state[f"{moment}.{name}"] for name in row.parameters) for moment in MOMENTS}
            for row in self.rows
            if state
        }


def shared_out(parameters: Parameters, parts: int) -> list[Parameters]:
    """The parameters in so many parts, or fewer: from the largest on, each goes where there is least so far."""
    shares: list[dict[str, Parameter]] = [{} for _ in range(parts)]
    for name, p in sorted(parameters.items(), key=lambda item: -item[1].array.size):
        min(shares, key=lambda share: sum(p.array.size for p in share.values()))[name] = p
    return [share for share in shares if share]


def side_by_side(arrays: Iterable[Array]) -> Array:
    """A new array with the numbers of all."""
    return np.concatenate([array.reshape(-1) for array in arrays])
