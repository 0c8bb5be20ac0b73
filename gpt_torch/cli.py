"""The command gpt-torch."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.flags import Parser
from gpt_numpy.workshop.cli.main import add_which, leave, run
from gpt_numpy.workshop.cli.program import Command, Program
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.params import parameter_count
from gpt_numpy.workshop.runs.run_dir import find_run, new_run
from gpt_torch.device import find_device, remarks
from gpt_torch.distributed import joined
from gpt_torch.engine import Engine, Options
from gpt_torch.huggingface import export, import_folder
from gpt_torch.selftest import self_test


def export_run(program: Program, arguments: Sequence[str]) -> int:
    parser = Parser(f"{program.name} export", "Write a trained model as a folder that transformers loads as GPT-2.")
    add_which(parser)
    parser.add_argument("folder", metavar="FOLDER", help="the folder to write; new or empty")
    given = parser.given(arguments)
    checkpoint = find_run(given["run"]).checkpoint(given["checkpoint"])
    export(checkpoint, Path(given["folder"]))
    console = Console()
    console.say(f"{checkpoint.folder}, step {checkpoint.state.step}, is in {given['folder']}; with transformers:")
    console.say(f"GPT2LMHeadModel.from_pretrained({given['folder']!r})")
    return 0


def import_run(program: Program, arguments: Sequence[str]) -> int:
    parser = Parser(f"{program.name} import", "Make a run of a GPT-2 in Hugging Face's format, for both engines.")
    parser.add_argument("folder", metavar="FOLDER", help="with config.json, model.safetensors and a tokenizer")
    parser.add_argument("--out", metavar="FOLDER", help="the run's folder (default a new one in runs)")
    given = parser.given(arguments)
    folder = Path(given["folder"])
    imported = new_run(given.get("out"), folder.resolve().name)
    try:
        state = import_folder(folder, imported)
    except BaseException:
        imported.give_up()
        raise
    console = Console()
    console.say(f"run: {imported.folder}, {parameter_count(state.config):,} parameters")
    name = shlex.quote(str(imported.folder))
    console.say(f"next: {program.name} generate --run {name}")
    console.say(f"or:   {program.name} train --resume --out {name} --data my.txt")
    return 0


def check(config: GPTConfig, options: Options, console: Console) -> None:
    for remark in remarks(options.device):
        console.say(remark, "yellow")
    if options.self_test:
        console.say(self_test(config, options))


PROGRAM = Program(
    "gpt-torch",
    "The GPT in PyTorch, on a GPU or a CPU: train it, let it write, judge it.",
    Options,
    Engine,
    preset=lambda options: "laptop" if find_device(options.device).type == "cpu" else "workshop",
    check=check,
    may_change=frozenset({"threads", "device", "parallel", "self_test"}),
    commands={
        "export": Command(export_run, {"export FOLDER": "the newest run as a GPT-2 for transformers"}),
        "import": Command(import_run, {"import FOLDER": "a GPT-2 of transformers as a run"}),
    },
)


def main() -> int:
    with joined() as processes:
        if not processes.first:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        status = run(replace(PROGRAM, processes=processes), sys.argv[1:])
        return leave(status, at_once=processes.size > 1)  # taking leave of those that may be gone may have no end
