"""Random code, valid and invalid, run with minitensor and with torch: the same results, or an error from both.

The code is drawn by

    fuzz_calls.py        calls of functions, tensor methods and losses
    fuzz_layers.py       layers, constructed and called
    fuzz_modules.py      modules, assembled from parts: names, parameters, states
    fuzz_optimizers.py   optimizers over several steps, and gradient clipping

Values, dtypes, shapes and gradients must be the same. The intended differences are listed in the table of
minitensor/README.md: its first column is a regular expression that is searched in the code followed by torch's error,
if there is one. Any other difference fails.

    uv run pytest tests/minitensor/test_api_fuzz.py --calls 100000    as many calls of each kind as there is time for
"""

import inspect
import random
import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

import minitensor
from minitensor import functional, functions, optim
from tests.minitensor import fuzz_calls, fuzz_layers, fuzz_modules, fuzz_optimizers
from tests.minitensor.fuzz import Program, describe_difference
from tests.support import ROOT

KINDS: dict[str, tuple[Callable[[random.Random], Program], int]] = {  # the defaults of --calls
    "calls": (fuzz_calls.draw, 7000),
    "layers": (fuzz_layers.draw, 1200),
    "modules": (fuzz_modules.draw, 800),
    "optimizers": (fuzz_optimizers.draw, 700),
}
NOT_CALLED = {  # public names that are not called, except those of the engine
    "functions": {"from_numpy"},  # works only under no_grad
    "functional": {"dropout_mask"},  # not in torch
    "Tensor": {"backward", "numpy"},  # every call ends with backward; numpy() is read-only
    "optim": {"Optimizer"},  # the base class
}


def intended_differences() -> list[re.Pattern[str]]:
    """The first column of the table in minitensor/README.md."""
    lines = (ROOT / "minitensor" / "README.md").read_text(encoding="utf-8").splitlines()
    return [re.compile(found[1].replace("\\|", "|")) for line in lines if (found := re.match(r"\| `(.*?)` \|", line))]


@pytest.mark.parametrize("kind", KINDS)
def test_random_code_matches_torch(kind: str, request: pytest.FixtureRequest) -> None:
    draw, default = KINDS[kind]
    intended, rng = intended_differences(), random.Random(0)
    wrong: dict[str, str] = {}
    succeeded = 0
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for _ in range(count := request.config.getoption("--calls") or default):
            program = draw(rng)
            theirs, ours = program.run(torch), program.run(minitensor)
            succeeded += not (theirs.error or ours.error)
            if (difference := describe_difference(ours, theirs)) and not any(
                line.search(f"{program} {theirs.error}") for line in intended
            ):
                wrong.setdefault(program.name, f"{program}\n    {difference}")
    assert not wrong, "\n".join(["", *wrong.values()])
    assert succeeded > 0.3 * count, "most of the code raises: too little is compared"


def test_all_other_public_names_are_called() -> None:
    modules = {"minitensor.functional", "minitensor.tensor"}
    in_F = {name for name, made in vars(functional).items() if inspect.isfunction(made) and made.__module__ in modules}
    methods = {name for name, made in inspect.getmembers(minitensor.Tensor, inspect.isfunction)}
    called = {where: names for where, (names, _) in fuzz_calls.NAMESPACES.items()}
    assert {
        "functions": set(functions.__all__) - called["torch"],
        "functional": {name for name in in_F - called["F"] if name[0] != "_"},
        "Tensor": {name for name in methods - called["Tensor"] if name[0] != "_"},
        "optim": set(optim.__all__) - {*fuzz_optimizers.OURS, *fuzz_optimizers.CLIPPING},
    } == NOT_CALLED
