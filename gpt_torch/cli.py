"""The command gpt-torch."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.engine_cli import Command, EngineCLI
from gpt_numpy.workshop.cli.flags import Parser
from gpt_numpy.workshop.cli.generate import add_checkpoint_flags, chosen_checkpoint
from gpt_numpy.workshop.cli.main import end_process, run
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.params import parameter_count
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.run_dir import new_run_dir
from gpt_torch.device import find_device, remarks
from gpt_torch.distributed import init_processes
from gpt_torch.engine import Engine
from gpt_torch.huggingface import export, import_folder
from gpt_torch.options import Options
from gpt_torch.selftest import self_test


def export_run(cli: EngineCLI, arguments: Sequence[str]) -> int:
    parser = Parser(f"{cli.name} export", "Export a trained model to a folder that transformers loads as GPT-2.")
    add_checkpoint_flags(parser)
    parser.add_argument("folder", metavar="FOLDER", help="the folder to write; new or empty")
    flags = parser.flags(arguments)
    checkpoint = chosen_checkpoint(flags)
    export(checkpoint, Path(flags["folder"]))
    console = Console()
    console.say(f"exported {checkpoint.folder}, step {checkpoint.state.step}, to {flags['folder']}; load it with")
    console.say(f"GPT2LMHeadModel.from_pretrained({flags['folder']!r})")
    return 0


def import_run(cli: EngineCLI, arguments: Sequence[str]) -> int:
    parser = Parser(f"{cli.name} import", "Import a GPT-2 in Hugging Face's format as a run, for both engines.")
    parser.add_argument("folder", metavar="FOLDER", help="a folder with config.json, model.safetensors and a tokenizer")
    parser.add_argument("--out", metavar="FOLDER", help="the run's folder (default a new one in runs)")
    flags = parser.flags(arguments)
    folder = Path(flags["folder"])
    imported = new_run_dir(flags.get("out"), folder.resolve().name)
    try:
        state = import_folder(folder, imported)
    finally:
        imported.close()
    console = Console()
    console.say(f"run: {imported.folder}, {parameter_count(state.config):,} parameters")
    name = shlex.quote(str(imported.folder))
    console.say(f"next: {cli.name} generate --run {name}")
    console.say(f"or:   {cli.name} train --resume --out {name} --data my.txt")
    return 0


class TorchCLI(EngineCLI):
    name = "gpt-torch"
    about = "The GPT in PyTorch, on a GPU or a CPU: train it, generate text, evaluate it."
    options = Options
    not_saved = frozenset({"threads", "device", "parallel", "self_test", "cuda_graph"})
    commands = MappingProxyType(
        {
            "export": Command(export_run, {"export FOLDER": "export the newest run as a GPT-2 for transformers"}),
            "import": Command(import_run, {"import FOLDER": "import a GPT-2 of transformers as a run"}),
        }
    )

    def default_preset(self, options: Options) -> str:
        return "laptop" if find_device(options.device).type == "cpu" else "workshop"

    def check(self, config: GPTConfig, options: Options, console: Console) -> None:
        for remark in remarks(options.device):
            console.say(remark, "yellow")
        if options.self_test:
            console.say(self_test(config, options))

    def engine(self, config: GPTConfig, recipe: Recipe, options: Options) -> Engine:
        return Engine(config, recipe, options, self.processes)


CLI = TorchCLI()


def main() -> int:
    with init_processes() as processes:
        if not processes.first:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        status = run(TorchCLI(processes), sys.argv[1:])
        return end_process(status, at_once=processes.size > 1)  # destroy_process_group() can hang when a peer has died
