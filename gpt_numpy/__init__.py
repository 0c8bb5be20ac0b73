"""The GPT written by hand, on minitensor.

>>> from gpt_numpy import GPT, GPTConfig
>>> model = GPT(GPTConfig(vocab_size=65), seed=0)
"""

from gpt_numpy.config import GPTConfig
from gpt_numpy.model import GPT

__all__ = ["GPT", "GPTConfig"]
