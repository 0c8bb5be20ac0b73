"""The command tune: one of the methods that train a model further."""

from collections.abc import Sequence

from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.tune.distill import distill
from gpt_numpy.workshop.cli.tune.dpo import dpo
from gpt_numpy.workshop.cli.tune.grpo import grpo
from gpt_numpy.workshop.cli.tune.sft import sft
from gpt_numpy.workshop.errors import WrongUse

METHODS = {
    "sft": (sft, "fine-tuning on answers: the loss is that of the answers alone"),
    "grpo": (grpo, "policy gradient: what the model writes is rewarded, and the better answers become likelier"),
    "dpo": (dpo, "preferences: of two answers to a prompt, one becomes likelier than the other"),
    "distill": (distill, "distillation: a student learns what its teachers expect"),
}


def tune(cli: EngineCLI, arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {cli.name} tune {name:<7} --help   {does}" for name, (_, does) in METHODS.items()]
        print("\n".join([f"usage: {cli.name} tune METHOD [flags]", "", *lines]))
        return 0
    if arguments[0] not in METHODS:
        raise WrongUse(f"{arguments[0]!r} is not one of {', '.join(METHODS)}; see {cli.name} tune --help")
    method, _ = METHODS[arguments[0]]
    return method(cli, arguments[1:])
