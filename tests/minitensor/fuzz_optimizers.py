"""Random optimizers that train a few parameters, step by step, and the clipping of their gradients."""

import inspect
import random
from typing import Any

import numpy as np
import torch

from minitensor import optim
from tests.minitensor.fuzz import Script

OURS = [name for name in optim.__all__ if name[0].isupper() and name != "Optimizer"]
KINDS = [name for name in OURS if hasattr(torch.optim, name)]  # older versions have no Muon
CLIPPING = ["clip_grad_norm_", "get_total_norm", "clip_grads_with_norm_"]
SHAPES: list[tuple[int, ...]] = [(2, 3), (3,), (), (0,), (2, 0), (4, 2), (1,)]

SETTINGS: dict[str, list[str]] = {
    "lr": ["0.1", "0.01", "1e-3", "1", "0.0"],
    "momentum": ["0.9", "0.5", "0.0", "1"],
    "dampening": ["0.0", "0.5", "-0.5"],
    "weight_decay": ["0.0", "0.1", "1"],
    "nesterov": ["True", "False"],
    "betas": ["(0.9, 0.99)", "(0.5, 0.0)", "[0.8, 0.9]"],
    "eps": ["1e-8", "1e-3", "0.5"],
    "ns_coefficients": ["(2.0, -1.5, 0.5)"],
    "ns_steps": ["5", "1", "0"],
    "adjust_lr_fn": ["None", "'original'", "'match_rms_adamw'", "'other'"],
}
TOGETHER = {  # which go with each other
    "SGD": [
        "momentum=0.9, nesterov=True",
        "lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.1",
        "momentum=0.9, dampening=0.5",
    ],
    "Muon": ["lr=0.1, momentum=0.5, nesterov=False"],
}
MISTAKES: dict[str, list[str]] = {
    "betas": ["(0.9,)", "(0.9, 1.0)", "(-0.1, 0.9)", "(0.9, 0.99, 0.999)", "(0, 0)", "(None, 0.9)", "('a', 0.9)"],
    "ns_coefficients": ["(2.0, -1.5)", "(1.0, 2.0, 3.0, 4.0)"],
    "ns_steps": ["100", "-1", "2.5"],
    "nesterov": ["1", "0"],
}
USUAL_MISTAKES = ["-0.1", "None", "'a'", "nan", "1j", "[0.1]"]
PARAMS = [
    "p",
    "p[:1]",
    "p[1:]",
    "iter(p)",
    "tuple(p)",
    "[]",
    "p[0]",
    "None",
    "[1.0]",
    "[p[0] * 1.0]",
    "[p[0], p[0]]",
    "3",
]
PARAMS += [
    "[[p[0]]]",
    "{'params': p}",
    "[{'lr': 0.1}]",
    "[{'params': []}]",
    "[{'params': p}, p[0]]",
    "constants",
    "integers",
]
GROUPS = [
    "[{'params': p[:1], 'lr': 0.3}, {'params': p[1:]}]",
    "[{'params': p[:1], 'weight_decay': 0.5}, {'params': iter(p[1:]), 'lr': 0.0}]",
    "[{'params': p[0]}, {'params': p[1:]}]",
    "[{'params': p[:1]}, {'params': p}]",
    "[{'params': p, 'lr': -1.0}]",
    "[{'params': p, 'speed': 3}]",
]
BETWEEN = [  # steps
    "o.zero_grad()",
    "o.zero_grad(set_to_none=False)",
    "o.param_groups[0]['lr'] = 0.05",
    "o.param_groups[-1]['weight_decay'] = 0.2",
    "o.add_param_group({'params': constants})",
    "o.add_param_group({'params': [p[0]]})",
    "o.add_param_group(p)",
    "o.load_state_dict(o.state_dict())",
    "saved = o.state_dict()",
]


def names(library: Any) -> dict[str, Any]:
    """What the lines speak of. `p` is set by the first of them."""
    random = np.random.default_rng(5)

    def make(shape: tuple[int, ...], dtype: str = "float64") -> Any:
        return library.tensor(random.standard_normal(shape).astype(dtype)).requires_grad_()

    def give(params: Any, seed: int, *missing: int) -> None:
        """Gradients, but to those."""
        random = np.random.default_rng(seed)
        for i, p in enumerate(params):
            g = random.standard_normal(tuple(p.shape)) * 10.0 ** random.integers(-2, 2)
            p.grad = None if i in missing else library.tensor(np.asarray(g, str(p.dtype).removeprefix("torch.")))

    def turned(saved: dict[str, Any]) -> dict[str, Any]:
        """A state whose matrices lie column by column."""

        def turn(value: Any) -> Any:
            if getattr(value, "ndim", 0) < 2:
                return value
            return np.asfortranarray(value) if isinstance(value, np.ndarray) else value.T.contiguous().T

        return {**saved, "state": {i: {k: turn(v) for k, v in kept.items()} for i, kept in saved["state"].items()}}

    return {
        "optim": library.optim, "utils": library.nn.utils, "make": make, "give": give, "turned": turned, "p": [],
        "o": None, "nan": float("nan"), "inf": float("inf"), "found": None, "tensor": library.tensor,
        "constants": [library.tensor(np.ones(2))], "integers": [library.tensor(np.ones(2, int))],
    }  # fmt: skip


def look(names: dict[str, Any]) -> list[Any]:
    """Muon's numbers are not torch's, which computes them in bfloat16: tests/minitensor/test_optim.py has them."""
    p, o = names["p"], names["o"]
    if type(o).__name__ == "Muon":
        return [(tuple(x.shape), x.grad is None) for x in p]
    groups = o.param_groups if o else []
    settings = [float(group[name]) for group in groups for name in ("lr", "weight_decay", "momentum") if name in group]
    return [*p, *(x.grad for x in p), names["found"], *settings]


def draw(chance: random.Random) -> Script:
    return of_clipping(chance) if chance.random() < 0.25 else of_optimizer(chance)


def parameters(chance: random.Random, shapes: list[tuple[int, ...]]) -> str:
    dtypes = ["", "", ", 'float32'"]
    made = [f"make({chance.choice(shapes)}{chance.choice(dtypes)})" for _ in range(chance.randint(1, 4))]
    return f"p = [{', '.join(made)}]"


def of_optimizer(chance: random.Random) -> Script:
    kind = chance.choice(KINDS)
    signature = [*SETTINGS] if chance.random() < 0.02 else settings_of(kind)
    written = [f"{name}={value(chance, name)}" for name in signature if chance.random() < 0.4]
    if chance.random() < 0.3:
        written = [value(chance, name) for name in signature[: chance.randint(0, 3)]]
    elif kind in TOGETHER and chance.random() < 0.3:
        written = [chance.choice(TOGETHER[kind])]
    elif chance.random() < 0.02:
        written.append("speed=3")
    params = "p" if chance.random() < 0.6 else chance.choice([*PARAMS, *GROUPS, *GROUPS])
    make = f"o = optim.{kind}({', '.join([params, *written])})"
    lines = [parameters(chance, [(2, 3), (4, 2), (3, 3)] if kind == "Muon" else SHAPES), make]
    resumed = chance.randint(1, 4)
    for step in range(chance.randint(1, 5)):
        missing = f", {chance.randint(0, 3)}" if chance.random() < 0.4 else ""
        lines += [f"give(p, {step}{missing})", "o.step()"]
        if chance.random() < 0.2:
            lines.append(chance.choice(BETWEEN))
        if step == resumed:
            lines += ["saved = o.state_dict()", make, f"o.load_state_dict({chance.choice(['saved', 'turned(saved)'])})"]
    return Script(kind, lines, names, look)


def settings_of(kind: str) -> list[str]:
    return [*inspect.signature(getattr(optim, kind)).parameters][1:]


def value(chance: random.Random, name: str) -> str:
    if chance.random() < 0.08:
        return chance.choice([*MISTAKES.get(name, USUAL_MISTAKES) * 3, *USUAL_MISTAKES])
    return chance.choice(SETTINGS[name])


def of_clipping(chance: random.Random) -> Script:
    name = chance.choice(CLIPPING)
    lines = [parameters(chance, SHAPES), f"give(p, {chance.randint(0, 9)}{chance.choice(['', '', ', 0'])})"]
    if chance.random() < 0.2:
        lines.append(f"p[-1].grad = p[-1].grad * {chance.choice(['nan', 'inf', '0.0'])}")
    params = chance.choice(["p", "p", "iter(p)", "p[0]", "[]", "tuple(p)", "None", "[3]", "constants"])
    if name == "get_total_norm":
        params = chance.choice(
            [f"[x.grad for x in {params}]", "[x.grad for x in p if x.grad is not None]", "p[0].grad"]
        )
    bound = chance.choice(["0.5", "1.0", "1", "1e6", "0.0", "inf", "nan", "-1.0", "None", "'a'", "'1'", "True"])
    norm = chance.choice(["2.0", "2.0", "1", "inf", "'inf'", "0", "-1", "0.5", "3", "-inf", "None", "'a'", "True"])
    total = chance.choice(["tensor(2.0)", "tensor(0.1)", "2.0", "None", "tensor(nan)", "tensor(inf)", "tensor(0.0)"])
    written = [params]
    written += [bound] if name != "get_total_norm" else []
    written += [total] if name == "clip_grads_with_norm_" else []
    if name != "clip_grads_with_norm_" and chance.random() < 0.6:
        written.append(chance.choice([norm, f"norm_type={norm}"]))
        if chance.random() < 0.4:
            written.append(f"error_if_nonfinite={chance.choice(['True', 'False'])}")
    lines.append(f"found = utils.{name}({', '.join(written)})")
    return Script(name, lines, names, look)
