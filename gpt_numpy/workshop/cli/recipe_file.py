"""recipe.toml: the flags of a run, one per line, as --config reads them and each run writes them."""

import json
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpt_numpy.workshop.cli.flags import Flags, Parser
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.io import read_limited
from gpt_numpy.workshop.runs.checkpoint import State

MAX_SIZE = 100_000


def read_recipe(path: Path, parser: Parser) -> Flags:
    """As if they were on the command line."""
    try:
        content = tomllib.loads(read_limited(path, MAX_SIZE).decode("utf-8"))
        if "config" in content:
            raise ValueError("config cannot be in it")
        return parser.flags([word for name, value in content.items() for word in _as_arguments(name, value)])
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, UsageError) as error:  # TOML and UTF-8 raise kinds of ValueError
        raise UsageError(f"{path}: {error}") from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deep") from None


def _as_arguments(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return [flag, *value]
    if isinstance(value, int | float | str):
        return [f"{flag}={value}"]
    raise ValueError(f"{name} is not a number, a string, true or false")


def recipe_toml(command: str, state: State, tokenizer: Tokenizer) -> str:
    """All that decides the numbers of a run."""
    values = {**asdict(state.recipe), **asdict(state.config), **state.engine_options}
    if tokenizer.kind == "char":
        del values["vocab_size"]  # it follows from the text
    data: Any = state.data.split("\n")
    values = {"data": data if len(data) > 1 else data[0], **values}
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    lines = [line.replace("\x7f", "\\u007f") for line in lines]  # TOML wants it escaped, JSON does not
    return "\n".join([f"# {command} train --config recipe.toml", *lines, ""])
