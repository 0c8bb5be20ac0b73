"""The parameters of a model in parts, one for each thread, and their optimizers.

A model has dozens of parameters, most of them small, and NumPy's calls on small arrays take longer to begin than to
end. So what AdamW trains stands side by side in long arrays, over which it passes; what the model holds are views of
them. Muon needs each matrix as it is, alone.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gpt_numpy.workshop.engine import Arrays
from gpt_numpy.workshop.optimizers import REMEMBERED, grouped, settings_at
from gpt_numpy.workshop.recipes import Recipe
from minitensor import Tensor
from minitensor.core import Array, read_only, wrap
from minitensor.nn import Parameter
from minitensor.optim import AdamW, Muon, Optimizer, clip_grads_with_norm_, get_total_norm

Parameters = Mapping[str, Parameter]  # by name


class Row:
    """Parameters of one group side by side in one long parameter, `whole`, and its optimizer; or a matrix alone."""

    def __init__(self, kind: str, parameters: Parameters) -> None:
        self.kind, self.parameters = kind, parameters
        alone = next(iter(parameters.values())) if kind == "hidden" else None
        self.shape = alone.shape if alone is not None else (-1,)
        self.whole = Parameter(self.joined({name: p.array for name, p in parameters.items()}))
        self.optimizer: Optimizer = Muon([self.whole]) if kind == "hidden" else AdamW([self.whole])
        self.handed_out: dict[str, Array] = {}

    def joined(self, arrays: Mapping[str, Array]) -> Array:
        """A new array with what is given for each parameter."""
        return np.concatenate([arrays[name].reshape(-1) for name in self.parameters]).reshape(self.shape)

    def gather(self) -> None:
        """Take over what the parameters hold, if somebody has given them other arrays than `hand_out` did."""
        if any(p.array is not self.handed_out.get(name) for name, p in self.parameters.items()):
            self.whole.array = read_only(self.joined({name: p.array for name, p in self.parameters.items()}))

    def hand_out(self) -> None:
        self.handed_out = dict(self.taken_apart(self.whole.array))
        for name, array in self.handed_out.items():
            self.parameters[name].array = array

    def taken_apart(self, whole: Array) -> Iterator[tuple[str, Array]]:
        """What an array like `whole` holds for each parameter."""
        ends = itertools.accumulate((p.array.size for p in self.parameters.values()), initial=0)
        for (name, p), (start, end) in zip(self.parameters.items(), itertools.pairwise(ends), strict=True):
            yield name, whole.reshape(-1)[start:end].reshape(p.shape)


class Part:
    """Some parameters, and the optimizers for them."""

    def __init__(self, parameters: Parameters, optimizer: str) -> None:
        self.rows = []
        for kind, some in grouped(parameters, optimizer).items():
            together = [{name: p} for name, p in some.items()] if kind == "hidden" else [some]
            self.rows += [Row(kind, them) for them in together]

    def add_up(self, found: Sequence[Mapping[str, Array]]) -> Tensor:
        """The norm of this part's gradients, which are the sums of what each thread has found."""
        gradients = []
        for row in self.rows:
            by_thread = map(row.joined, found)
            total = next(by_thread)
            for gradient in by_thread:
                total += gradient
            row.gather()
            row.whole.grad = wrap(total)
            gradients.append(row.whole.grad)
        return get_total_norm(gradients)

    def update(self, grad_norm: float, recipe: Recipe, step: int) -> None:
        """A step, after scaling by the norm that the gradients of all parts have together."""
        settings = settings_at(recipe, step)
        for row in self.rows:
            clip_grads_with_norm_(row.whole, recipe.grad_clip or math.inf, grad_norm)
            row.optimizer.param_groups[0].update(settings[row.kind])
            row.optimizer.step()
            row.optimizer.zero_grad()
            row.hand_out()

    def state(self) -> Arrays:
        """What the optimizers remember: KIND.NAME for each parameter, nothing before the first step."""
        return {
            f"{kind}.{name}": array.copy()
            for row in self.rows
            for kind in REMEMBERED[row.kind]
            if (kept := row.optimizer.state.get(row.whole))
            for name, array in row.taken_apart(kept[kind])
        }

    def load(self, state: Arrays, step: int) -> None:
        for row in self.rows:
            kinds = REMEMBERED[row.kind]
            kept = {kind: row.joined({name: state[f"{kind}.{name}"] for name in row.parameters}) for kind in kinds}
            row.optimizer.state = {row.whole: {"step": step, **kept}}


def shared_out(parameters: Parameters, parts: int) -> list[Parameters]:
    """The parameters in so many parts, or fewer: from the largest on, each goes where there is least so far."""
    shares: list[dict[str, Parameter]] = [{} for _ in range(parts)]
    for name, p in sorted(parameters.items(), key=lambda item: -item[1].array.size):
        min(shares, key=lambda share: sum(p.array.size for p in share.values()))[name] = p
    return [share for share in shares if share]
