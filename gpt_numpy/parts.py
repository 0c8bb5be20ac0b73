"""The parameters of a model divided into parts, one for each thread, and the optimizers of each part.

A model has dozens of parameters, most of them small, and a call of NumPy on a small array takes longer to begin than
to end. So AdamW sees the parameters of a group as one long vector: they are flattened before its step, and what they
hold after it are views of the vector. Muon takes each matrix as it is.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gpt_numpy.workshop.engine import Arrays
from gpt_numpy.workshop.optim import KEYS_OF_GROUP, group_parameters, settings_at
from gpt_numpy.workshop.recipes import Recipe
from minitensor import Tensor
from minitensor.arrays import Array, read_only
from minitensor.core import wrap
from minitensor.nn import Parameter
from minitensor.optim import AdamW, Muon, Optimizer, clip_grads_with_norm_, get_total_norm

Parameters = Mapping[str, Parameter]  # by name


class Group:
    """Parameters that one optimizer updates as one: many as a vector, or a single matrix."""

    def __init__(self, kind: str, parameters: Parameters) -> None:
        self.kind, self.parameters = kind, parameters
        self.shape = next(iter(parameters.values())).shape if kind == "muon" else (-1,)
        self.flat = Parameter(self.flatten(self.arrays()))
        self.optimizer: Optimizer = Muon([self.flat]) if kind == "muon" else AdamW([self.flat])

    def arrays(self) -> dict[str, Array]:
        return {name: p.array for name, p in self.parameters.items()}

    def flatten(self, arrays: Mapping[str, Array]) -> Array:
        """A new array with those of all parameters, one after the other."""
        return np.concatenate([arrays[name].reshape(-1) for name in self.parameters]).reshape(self.shape)

    def unflatten(self, flat: Array) -> Iterator[tuple[str, Array]]:
        """The name and the array of each parameter, a view of the flat one."""
        ends = itertools.accumulate((p.array.size for p in self.parameters.values()), initial=0)
        for (name, p), (start, end) in zip(self.parameters.items(), itertools.pairwise(ends), strict=True):
            yield name, flat.reshape(-1)[start:end].reshape(p.shape)


class Part:
    """Some of the parameters, in groups with an optimizer each."""

    def __init__(self, parameters: Parameters, optimizer: str) -> None:
        self.groups: list[Group] = []
        for kind, some in group_parameters(parameters, optimizer).items():
            if kind == "muon":
                self.groups += [Group(kind, {name: p}) for name, p in some.items()]
            else:
                self.groups.append(Group(kind, some))

    def accumulate(self, gradients: Sequence[Mapping[str, Array]]) -> Tensor:
        """Add up the gradients that the threads have computed; the norm of this part's sums."""
        sums = []
        for group in self.groups:
            total = group.flatten(gradients[0])
            for others in gradients[1:]:
                total += group.flatten(others)
            group.flat.grad = wrap(total)
            sums.append(group.flat.grad)
        return get_total_norm(sums)

    def update(self, grad_norm: float, recipe: Recipe, step: int) -> None:
        """Clip the gradients, by the norm that those of all parts have together, and take an optimizer's step."""
        settings = settings_at(recipe, step)
        for group in self.groups:
            clip_grads_with_norm_(group.flat, recipe.grad_clip or math.inf, grad_norm)
            group.flat.array = read_only(group.flatten(group.arrays()))
            group.optimizer.param_groups[0].update(settings[group.kind])
            group.optimizer.step()
            group.optimizer.zero_grad()
            for name, array in group.unflatten(group.flat.array):
                group.parameters[name].array = array

    def state(self) -> Arrays:
        """KEY.NAME for each parameter; nothing before the first step."""
        return {
            f"{key}.{name}": array.copy()
            for group in self.groups
            for key in KEYS_OF_GROUP[group.kind]
            if (state := group.optimizer.state.get(group.flat))
            for name, array in group.unflatten(state[key])
        }

    def load(self, state: Arrays, step: int) -> None:
        for group in self.groups:
            keys = KEYS_OF_GROUP[group.kind]
            flat = {key: group.flatten({name: state[f"{key}.{name}"] for name in group.parameters}) for key in keys}
            group.optimizer.state = {group.flat: {"step": step, **flat}}


def partition(parameters: Parameters, parts: int) -> list[Parameters]:
    """The parameters in `parts` parts, or fewer: the largest first, each goes to the part that is smallest so far."""
    found: list[dict[str, Parameter]] = [{} for _ in range(parts)]
    for name, p in sorted(parameters.items(), key=lambda item: -item[1].array.size):
        min(found, key=lambda part: sum(p.array.size for p in part.values()))[name] = p
    return [part for part in found if part]
