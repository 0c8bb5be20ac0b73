"""Code as users write it, right and wrong: torch's answer, or both refuse.

What is drawn, and by whom:

    fuzz_calls.py        calls of functions, tensor methods and losses
    fuzz_layers.py       layers, made and called
    fuzz_modules.py      modules put together: names, parameters, states
    fuzz_optimizers.py   optimizers and the clipping of gradients, over several steps

Both libraries run it. The same means value, dtype, shape and gradients. Where they are to differ, a line of the table
in minitensor/README.md says so: its first column is a regular expression for the code as it is written here, followed
by torch's error, if it gives one. A difference that no line explains fails.

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
from tests.minitensor.fuzz import Drawn, differ
from tests.support import ROOT

KINDS: dict[str, tuple[Callable[[random.Random], Drawn], int]] = {  # how many there are without --calls
    "calls": (fuzz_calls.draw, 7000),
    "layers": (fuzz_layers.draw, 1200),
    "modules": (fuzz_modules.draw, 800),
    "optimizers": (fuzz_optimizers.draw, 700),
}
NOT_CALLED = {  # public names, beside those of the engine, that nothing here calls
    "functions": {"from_numpy"},  # which works under no_grad alone
    "functional": {"dropout_mask"},  # which torch has not
    "Tensor": {"backward", "numpy"},  # every call ends with the one; the other is read-only here
    "optim": {"Optimizer"},  # which others are made of
}


def differences() -> list[re.Pattern[str]]:
    """Those that are intended: the first column of the table in minitensor/README.md."""
    lines = (ROOT / "minitensor" / "README.md").read_text(encoding="utf-8").splitlines()
    return [re.compile(found[1].replace("\\|", "|")) for line in lines if (found := re.match(r"\| `(.*?)` \|", line))]


@pytest.mark.parametrize("kind", KINDS)
def test_code_does_what_it_does_with_torch(kind: str, request: pytest.FixtureRequest) -> None:
    draw, usual = KINDS[kind]
    intended, chance = differences(), random.Random(0)
    wrong: dict[str, str] = {}
    answered = 0
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for _ in range(count := request.config.getoption("--calls") or usual):
            drawn = draw(chance)
            theirs, ours = drawn.run(torch), drawn.run(minitensor)
            answered += not (theirs.refused or ours.refused)
            if (difference := differ(ours, theirs)) and not any(
                line.search(f"{drawn} {theirs.refused}") for line in intended
            ):
                wrong.setdefault(drawn.name, f"{drawn}\n    {difference}")
    assert not wrong, "\n".join(["", *wrong.values()])
    assert answered > 0.3 * count, "most is refused: too little is compared"


def test_all_public_names_are_called_but_these() -> None:
    homes = {"minitensor.functional", "minitensor.tensor"}
    makers = {name for name, made in vars(functional).items() if inspect.isfunction(made) and made.__module__ in homes}
    methods = {name for name, made in inspect.getmembers(minitensor.Tensor, inspect.isfunction)}
    called = {where: names for where, (names, _) in fuzz_calls.PLACES.items()}
    assert {
        "functions": set(functions.__all__) - called["torch"],
        "functional": {name for name in makers - called["F"] if name[0] != "_"},
        "Tensor": {name for name in methods - called["Tensor"] if name[0] != "_"},
        "optim": set(optim.__all__) - {*fuzz_optimizers.OURS, *fuzz_optimizers.CLIPPING},
    } == NOT_CALLED
