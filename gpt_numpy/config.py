"""GPTConfig: the one description of the architecture. Both models are built from it."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal, get_type_hints


@dataclass(frozen=True)
class GPTConfig:
    """What a GPT consists of. The defaults are the full model: 10,795,776 parameters."""

    vocab_size: Annotated[int, "how many different tokens there are"] = 65
    block_size: Annotated[int, "the context: how many tokens the model sees at once"] = 256
    n_layer: Annotated[int, "blocks, one after the other"] = 6
    n_head: Annotated[int, "attention heads in a block; they share n_embd"] = 6
    n_embd: Annotated[int, "numbers that stand for a token inside the model"] = 384
    dropout: Annotated[float, "chance of setting a number to 0 in training"] = 0.0
    bias: Annotated[bool, "biases in linear layers and layer norms"] = True
    tie_weights: Annotated[bool, "one table for the embedding and for the output layer"] = False
    gelu: Annotated[Literal["exact", "tanh"], "the form of GELU: exact (torch's) or tanh (GPT-2's)"] = "exact"

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for field in fields(self):
            value, kind = getattr(self, field.name), kinds[field.name]
            if kind is int and (type(value) is not int or value < 1):
                raise ValueError(f"{field.name} is a whole number of at least 1, not {value!r}")
            if kind is bool and type(value) is not bool:
                raise ValueError(f"{field.name} is True or False, not {value!r}")
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a chance of at least 0 and below 1, not {self.dropout!r}")
        if self.gelu not in ("exact", "tanh"):
            raise ValueError(f'gelu is "exact" or "tanh", not {self.gelu!r}')
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} cannot be shared among n_head {self.n_head} heads: not divisible")
