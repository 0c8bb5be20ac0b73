"""Settings of hypothesis and torch, and the tables at the end of a run."""

import os
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, settings

from tests.report import REPORT

# The default repeats the same examples in every run, so that a failure is never a surprise on somebody else's
# machine; `HYPOTHESIS_PROFILE=thorough uv run pytest` looks at 20 times as many, new ones each time.
settings.register_profile(
    "default",
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(
    "thorough", settings.get_profile("default"), max_examples=1000, derandomize=False, print_blob=True
)
settings.register_profile(
    "mutation",  # one failing example is enough, and need not be small
    settings.get_profile("default"),
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

torch.set_num_threads(1)  # the arrays are tiny: threads would only wait for each other


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for title, lines in REPORT.tables().items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
