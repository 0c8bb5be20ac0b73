"""The problem to explain, and the place of each of its quantities in a forward pass of the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from gpt_numpy.config import GPTConfig
from gpt_numpy.explain.formulas import later, sublayers
from gpt_numpy.explain.objective import NEXT_TOKEN, Objective
from minitensor.arrays import Array


class Place(NamedTuple):
    """The place of a quantity in a forward pass: the name of a value or parameter, and the part of it."""

    name: str
    part: tuple[Any, ...] = ()
    is_parameter: bool = False


@dataclass(frozen=True)
class Problem:
    """A text (T tokens, and the T that follow them) in a model, and one head of one layer."""

    config: GPTConfig
    weights: Mapping[str, Array]
    ids: Array  # (T,)
    targets: Array  # (T,)
    layer: int
    head: int
    objective: Objective = NEXT_TOKEN

    @property
    def wanted(self) -> Array:
        """What each position should predict: ids (T,), or a teacher's distributions (T, V)."""
        return self.targets if self.objective.targets is None else self.objective.targets

    @cached_property
    def places(self) -> dict[str, Place]:
        """By the names of quantities; values inside an operation have no place."""
        config, n, h = self.config, self.layer, self.head
        C, D = config.n_embd, config.n_embd // config.n_head
        ours = slice(h * D, (h + 1) * D)  # of the concatenated channels of all heads

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
