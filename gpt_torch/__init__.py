"""The same GPT in PyTorch.

>>> from gpt_numpy import GPTConfig
>>> from gpt_torch import GPT
>>> model = GPT(GPTConfig(vocab_size=65), seed=0)
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt_torch.model import GPT

__all__ = ["GPT", "main"]


def __getattr__(name: str) -> Any:
    """GPT, on demand: the command has an answer where PyTorch is missing."""
    if name == "GPT":
        from gpt_torch.model import GPT

        return GPT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> int:
    """The command gpt-torch."""
    try:
        from gpt_torch.cli import main as run
    except KeyboardInterrupt:  # PyTorch takes seconds to load
        return 130
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        print(
            'gpt-torch: PyTorch is not installed: pip install "gpt-twice[torch]", or uv sync in a checkout',
            file=sys.stderr,
        )
        return 2
    return run()
