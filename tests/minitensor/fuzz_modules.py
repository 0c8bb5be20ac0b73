"""Random modules put together line by line: parts and parameters under several names, buffers, and states that fit or
do not. What is compared is every list of names, in its order, and the values after load_state_dict."""

import random
from typing import Any

import numpy as np

from tests.minitensor.fuzz import Script

PARTS = [
    "nn.Linear(2, 2)",
    "nn.Linear(2, 3, bias=False)",
    "nn.LayerNorm(2)",
    "nn.Embedding(3, 2, padding_idx=0)",
    "nn.ReLU()",
    "nn.Sequential(nn.Linear(2, 2), nn.ReLU())",
    "nn.ModuleList([nn.Linear(2, 2)])",
    "nn.ModuleList()",
    "nn.CrossEntropyLoss(weight=ones(2))",
    "nn.Module()",
]
SHARED = [
    "m.a",
    "nn.Sequential(m.a, nn.Linear(2, 2))",
    "nn.ModuleList([m.a])",
    "nn.ModuleList([m.a, m.b])",
    "m.b",
    "m.a[0]",
    "m.b[-1:]",
]
VALUES = [
    "nn.Parameter(ones(2))",
    "nn.Parameter(ones(2), requires_grad=False)",
    "m.a.weight",
    "m.w",
    "None",
    "ones(2)",
    "3",
]
BUFFERS = [
    "'t', ones(2)",
    "'t', ones(2)",
    "'u', ones(2)",
    "'t', ones(2), persistent=False",
    "'u', None",
    "'t', None",
    "'a', ones(2)",
    "'t', 3",
]
BUFFERS += ["'x.y', ones(2)", "'', ones(2)", "name='u', tensor=ones(2)", "1, ones(2)"]
CHANGES = [
    "m.{0}.weight = m.{1}.weight",
    "m.{0}.weight = nn.Parameter(ones(2))",
    "m.{0}.bias = None",
    "m.{0}.weight = ones(2)",
    "m.{0}.append(nn.Linear(2, 2))",
    "m.{0}.extend([nn.Linear(2, 2), nn.ReLU()])",
    "m.{0}.requires_grad_(False)",
    "m.{0}.eval()",
    "m.eval().train(False)",
    "m.double()",
    "m.to(float64)",
    "del m.{0}",
    "m.{0} = m.{1}",
    "m.t = ones(2)",
    "m.t = None",
    "m.t = nn.Parameter(ones(2))",
    "del m.t",
]
STATES = [  # what is done to a state before it is loaded; `names` are those of the module
    "state.pop(names[0])",
    "state.pop(names[-1])",
    "state['other'] = ones(2)",
    "state['a.other'] = ones(2)",
    "state[names[0]] = ones(7)",
    "state[names[-1]] = state[names[-1]][:1]",
    "state = {{}}",
    "state = dict(reversed(state.items()))",
]
LOADS = ["", ", strict=False", ", False", ", strict=True", ", strict=False"]


def names(library: Any) -> dict[str, Any]:
    def ones(*size: int) -> Any:
        return library.tensor(np.ones(size, np.float32))

    def filled(state: Any, seed: int = 0) -> dict[str, Any]:
        """The same names with other values."""
        random = np.random.default_rng(seed)
        return {name: library.tensor(random.standard_normal(tuple(value.shape))) for name, value in state.items()}

    class M(library.nn.Module):  # type: ignore[misc]
        pass

    return {"nn": library.nn, "float64": library.float64, "ones": ones, "filled": filled, "m": M(), "loaded": ([], [])}


def look(names: dict[str, Any]) -> list[Any]:
    m, (missing, unexpected) = names["m"], names["loaded"]
    named = [list(found) for found in (m.named_parameters(), m.named_buffers(), m.state_dict().items())]
    lists = [[name for name, _ in found] for found in named]
    lists += [[name for name, _ in m.named_modules(remove_duplicate=kept)] for kept in (True, False)]
    lists += [[name for name, _ in m.named_children()], missing, sorted(unexpected)]
    flags = [[module.training for module in m.modules()], [p.requires_grad for p in m.parameters()]]
    counts = [len(list(found)) for found in (m.parameters(), m.buffers(), m.modules(), m.children())]
    return [*lists, *flags, *counts, *(value for found in named for _, value in found)]


def draw(chance: random.Random) -> Script:
    lines = [f"m.a = {chance.choice(PARTS)}", f"m.b = {chance.choice([*PARTS, *SHARED[:3]])}"]
    for _ in range(chance.randint(0, 5)):
        kind = chance.random()
        name = chance.choice("abcdw")
        if kind < 0.4:
            lines.append(f"m.{name} = {chance.choice([*PARTS, *SHARED])}")
        elif kind < 0.6:
            lines.append(f"m.{name} = {chance.choice(VALUES)}")
        elif kind < 0.8:
            lines.append(f"m.register_buffer({chance.choice(BUFFERS)})")
        else:
            lines.append(chance.choice(CHANGES).format(*chance.sample("ab", 2)))
    lines.append("m.load_state_dict(filled(m.state_dict(), 1))")
    if chance.random() < 0.6:
        lines.append("state = filled(m.state_dict()); names = [*state]")
        lines += [chance.choice(STATES).format() for _ in range(chance.choice([0, 1, 1, 2]))]
        lines.append(f"loaded = m.load_state_dict(state{chance.choice(LOADS)})")
        return Script("load_state_dict", lines, names, look)
    return Script("nn.Module", lines, names, look)
