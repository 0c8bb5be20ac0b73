"""GPTConfig: the one description of the architecture. Both models are built from it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from gpt_numpy.checked import Checked, at_least, below


@dataclass(frozen=True)
class GPTConfig(Checked):
    """What a GPT consists of. The defaults are the full model: 10,795,776 parameters."""

    vocab_size: Annotated[int, "how many different tokens there are", at_least(1)] = 65
    block_size: Annotated[int, "the context: how many tokens the model sees at once", at_least(1)] = 256
    n_layer: Annotated[int, "blocks, one after the other", at_least(1)] = 6
    n_head: Annotated[int, "attention heads in a block; they share n_embd", at_least(1)] = 6
    n_embd: Annotated[int, "width: how many numbers stand for a token inside the model", at_least(1)] = 384
    dropout: Annotated[float, "probability of setting a number to 0 in training", at_least(0), below(1)] = 0.0
    bias: Annotated[bool, "biases in linear layers and layer norms"] = True
    tie_weights: Annotated[bool, "one table for the embedding and for the output layer"] = False
    gelu: Annotated[Literal["exact", "tanh"], "the form of GELU: exact (torch's) or tanh (GPT-2's)"] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} cannot be shared among n_head {self.n_head} heads: not divisible")
