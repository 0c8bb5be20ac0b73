"""Random modules, assembled line by line: submodules and parameters under several names, buffers, and states that match
or do not. All lists of names, in order, and the values after load_state_dict are compared."""

import random
from typing import Any

import numpy as np

from tests.minitensor.fuzz import Script

MODULES = [
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
STATES = [  # changes of a state before it is loaded; `names` are its keys
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


def namespace(library: Any) -> dict[str, Any]:
    def ones(*size: int) -> Any:
        return library.tensor(np.ones(size, np.float32))

    def fill(state: Any, seed: int = 0) -> dict[str, Any]:
        """The same names with random values."""
        rng = np.random.default_rng(seed)
        return {name: library.tensor(rng.standard_normal(tuple(value.shape))) for name, value in state.items()}

    class M(library.nn.Module):  # type: ignore[misc]
        pass

    return {"nn": library.nn, "float64": library.float64, "ones": ones, "fill": fill, "m": M(), "loaded": ([], [])}


def observe(names: dict[str, Any]) -> list[Any]:
    m, (missing, unexpected) = names["m"], names["loaded"]
    named = [list(listed) for listed in (m.named_parameters(), m.named_buffers(), m.state_dict().items())]
    lists = [[name for name, _ in listed] for listed in named]
    lists += [[name for name, _ in m.named_modules(remove_duplicate=flag)] for flag in (True, False)]
    lists += [[name for name, _ in m.named_children()], missing, sorted(unexpected)]
    flags = [[module.training for module in m.modules()], [p.requires_grad for p in m.parameters()]]
    counts = [len(list(listed)) for listed in (m.parameters(), m.buffers(), m.modules(), m.children())]
    return [*lists, *flags, *counts, *(value for listed in named for _, value in listed)]


def draw(rng: random.Random) -> Script:
    lines = [f"m.a = {rng.choice(MODULES)}", f"m.b = {rng.choice([*MODULES, *SHARED[:3]])}"]
    for _ in range(rng.randint(0, 5)):
        kind = rng.random()
        name = rng.choice("abcdw")
        if kind < 0.4:
            lines.append(f"m.{name} = {rng.choice([*MODULES, *SHARED])}")
        elif kind < 0.6:
            lines.append(f"m.{name} = {rng.choice(VALUES)}")
        elif kind < 0.8:
            lines.append(f"m.register_buffer({rng.choice(BUFFERS)})")
        else:
            lines.append(rng.choice(CHANGES).format(*rng.sample("ab", 2)))
    lines.append("m.load_state_dict(fill(m.state_dict(), 1))")
    if rng.random() < 0.6:
        lines.append("state = fill(m.state_dict()); names = [*state]")
        lines += [rng.choice(STATES).format() for _ in range(rng.choice([0, 1, 1, 2]))]
        lines.append(f"loaded = m.load_state_dict(state{rng.choice(LOADS)})")
        return Script("load_state_dict", lines, namespace, observe)
    return Script("nn.Module", lines, namespace, observe)
