"""Random optimizers over several steps, and gradient clipping."""

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
COMBINATIONS = {  # settings that belong together
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
COMMON_MISTAKES = ["-0.1", "None", "'a'", "nan", "1j", "[0.1]"]
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
BETWEEN_STEPS = [
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


def namespace(library: Any) -> dict[str, Any]:
    """The variables of the lines; the first line sets `p`."""
    rng = np.random.default_rng(5)

    def make(shape: tuple[int, ...], dtype: str = "float64") -> Any:
        return library.tensor(rng.standard_normal(shape).astype(dtype)).requires_grad_()

    def set_grads(params: Any, seed: int, *missing: int) -> None:
        """Random gradients, and None for the `missing` ones."""
        rng = np.random.default_rng(seed)
        for i, p in enumerate(params):
            g = rng.standard_normal(tuple(p.shape)) * 10.0 ** rng.integers(-2, 2)
            p.grad = None if i in missing else library.tensor(np.asarray(g, str(p.dtype).removeprefix("torch.")))

    def fortran(saved: dict[str, Any]) -> dict[str, Any]:
        """The state with its matrices in Fortran order."""

        def convert(value: Any) -> Any:
            if getattr(value, "ndim", 0) < 2:
                return value
            return np.asfortranarray(value) if isinstance(value, np.ndarray) else value.T.contiguous().T

        return {**saved, "state": {i: {k: convert(v) for k, v in kept.items()} for i, kept in saved["state"].items()}}

    return {
        "optim": library.optim, "utils": library.nn.utils, "make": make, "set_grads": set_grads, "fortran": fortran,
        "p": [], "o": None, "nan": float("nan"), "inf": float("inf"), "found": None, "tensor": library.tensor,
        "constants": [library.tensor(np.ones(2))], "integers": [library.tensor(np.ones(2, int))],
    }  # fmt: skip


def observe(names: dict[str, Any]) -> list[Any]:
    """Without the values of Muon, which torch computes in bfloat16; tests/minitensor/test_optim.py compares them."""
    p, o = names["p"], names["o"]
    if type(o).__name__ == "Muon":
        return [(tuple(x.shape), x.grad is None) for x in p]
    groups = o.param_groups if o else []
    settings = [float(group[name]) for group in groups for name in ("lr", "weight_decay", "momentum") if name in group]
    return [*p, *(x.grad for x in p), names["found"], *settings]


def draw(rng: random.Random) -> Script:
    return draw_clipping(rng) if rng.random() < 0.25 else draw_optimizer(rng)


def draw_parameters(rng: random.Random, shapes: list[tuple[int, ...]]) -> str:
    dtypes = ["", "", ", 'float32'"]
    made = [f"make({rng.choice(shapes)}{rng.choice(dtypes)})" for _ in range(rng.randint(1, 4))]
    return f"p = [{', '.join(made)}]"


def draw_optimizer(rng: random.Random) -> Script:
    kind = rng.choice(KINDS)
    signature = [*SETTINGS] if rng.random() < 0.02 else settings_of(kind)
    arguments = [f"{name}={draw_value(rng, name)}" for name in signature if rng.random() < 0.4]
    if rng.random() < 0.3:
        arguments = [draw_value(rng, name) for name in signature[: rng.randint(0, 3)]]
    elif kind in COMBINATIONS and rng.random() < 0.3:
        arguments = [rng.choice(COMBINATIONS[kind])]
    elif rng.random() < 0.02:
        arguments.append("speed=3")
    params = "p" if rng.random() < 0.6 else rng.choice([*PARAMS, *GROUPS, *GROUPS])
    make = f"o = optim.{kind}({', '.join([params, *arguments])})"
    lines = [draw_parameters(rng, [(2, 3), (4, 2), (3, 3)] if kind == "Muon" else SHAPES), make]
    resume_step = rng.randint(1, 4)
    for step in range(rng.randint(1, 5)):
        missing = f", {rng.randint(0, 3)}" if rng.random() < 0.4 else ""
        lines += [f"set_grads(p, {step}{missing})", "o.step()"]
        if rng.random() < 0.2:
            lines.append(rng.choice(BETWEEN_STEPS))
        if step == resume_step:
            lines += ["saved = o.state_dict()", make, f"o.load_state_dict({rng.choice(['saved', 'fortran(saved)'])})"]
    return Script(kind, lines, namespace, observe)


def settings_of(kind: str) -> list[str]:
    return [*inspect.signature(getattr(optim, kind)).parameters][1:]


def draw_value(rng: random.Random, name: str) -> str:
    if rng.random() < 0.08:
        return rng.choice([*MISTAKES.get(name, COMMON_MISTAKES) * 3, *COMMON_MISTAKES])
    return rng.choice(SETTINGS[name])


def draw_clipping(rng: random.Random) -> Script:
    name = rng.choice(CLIPPING)
    lines = [draw_parameters(rng, SHAPES), f"set_grads(p, {rng.randint(0, 9)}{rng.choice(['', '', ', 0'])})"]
    if rng.random() < 0.2:
        lines.append(f"p[-1].grad = p[-1].grad * {rng.choice(['nan', 'inf', '0.0'])}")
    params = rng.choice(["p", "p", "iter(p)", "p[0]", "[]", "tuple(p)", "None", "[3]", "constants"])
    if name == "get_total_norm":
        params = rng.choice([f"[x.grad for x in {params}]", "[x.grad for x in p if x.grad is not None]", "p[0].grad"])
    bound = rng.choice(["0.5", "1.0", "1", "1e6", "0.0", "inf", "nan", "-1.0", "None", "'a'", "'1'", "True"])
    norm = rng.choice(["2.0", "2.0", "1", "inf", "'inf'", "0", "-1", "0.5", "3", "-inf", "None", "'a'", "True"])
    total = rng.choice(["tensor(2.0)", "tensor(0.1)", "2.0", "None", "tensor(nan)", "tensor(inf)", "tensor(0.0)"])
    arguments = [params]
    arguments += [bound] if name != "get_total_norm" else []
    arguments += [total] if name == "clip_grads_with_norm_" else []
    if name != "clip_grads_with_norm_" and rng.random() < 0.6:
        arguments.append(rng.choice([norm, f"norm_type={norm}"]))
        if rng.random() < 0.4:
            arguments.append(f"error_if_nonfinite={rng.choice(['True', 'False'])}")
    lines.append(f"found = utils.{name}({', '.join(arguments)})")
    return Script(name, lines, namespace, observe)
