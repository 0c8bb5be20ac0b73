"""The same GPT in PyTorch.

>>> from gpt_numpy import GPTConfig
>>> from gpt_torch import GPT
>>> model = GPT(GPTConfig(vocab_size=65), seed=0)
"""

from gpt_torch.model import GPT

__all__ = ["GPT"]
