"""The command line of both engines: which command runs, and how it ends."""

import os
import sys
from collections.abc import Mapping, Sequence

from gpt_numpy.workshop.cli.engine_cli import Command, EngineCLI
from gpt_numpy.workshop.cli.evaluate import check_claims, evaluate_run
from gpt_numpy.workshop.cli.generate import generate_text
from gpt_numpy.workshop.cli.train import train
from gpt_numpy.workshop.cli.tune import tune
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.errors import RunFailed, UsageError

COMMANDS = {
    "train": Command(train, {
        "train": "learn to write plays; takes minutes, saves as it goes",
        "train --data my.txt": "learn from a text of your own",
        "train --resume": "resume the newest run",
    }, distributed=True),
    "tune": Command(tune, {
        "tune sft --data pairs.jsonl": "fine-tune the newest run on answers",
        "tune grpo --reward line-length": "reward what it writes; tune --help has all methods",
    }, distributed=True),
    "generate": Command(generate_text, {'generate --prompt "ROMEO:"': "continue a text with the newest run"}),
    "eval": Command(evaluate_run, {"eval": "evaluate the newest run"}, distributed=True),
    "claims": Command(check_claims, {"claims": "what the workshop says, compared with the newest run"}),
}  # fmt: skip


def run(cli: EngineCLI, arguments: Sequence[str]) -> int:
    """The exit status: 0; 2 or 1 after one line of error; 128 + its number after a signal."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before Python started
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # on Windows a pipe would have another encoding
            stream.reconfigure(encoding="utf-8", errors="replace")
    commands = {**COMMANDS, **cli.commands}
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_help(cli, commands))
            return 0
        if arguments[0] not in commands:
            raise UsageError(f"{arguments[0]!r} is not one of {', '.join(commands)}; see {cli.name} --help")
        command = commands[arguments[0]]
        if cli.processes.size > 1 and not command.distributed:
            raise UsageError(f"{arguments[0]} is for one process; start it without torchrun")
        return command.run(cli, arguments[1:])
    except UsageError as error:
        return _fail(cli, str(error), 2)
    except RunFailed as error:
        return _fail(cli, str(error), 1)
    except MemoryError:
        return _fail(cli, "out of memory; a smaller --micro-batch, --block-size or --n-embd may fit", 1)
    except BrokenPipeError:  # stdout was closed, as by `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that was removed
        where = f"{error.filename}: " if error.filename else ""
        return _fail(cli, f"{where}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        return 130


def _fail(cli: EngineCLI, reason: str, status: int) -> int:
    if cli.processes.say_once(reason):
        Console(sys.stderr).say(f"{cli.name}: {reason}", "red")
    return status


def end_process(status: int, at_once: bool = False) -> int:
    """After a signal without cleaning up, since threads may be in a step that nobody waits for; `at_once` after any
    failure."""
    if status > 128 or (status and at_once):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _help(cli: EngineCLI, commands: Mapping[str, Command]) -> str:
    lines = {f"{cli.name} {line}": does for command in commands.values() for line, does in command.examples.items()}
    width = max(map(len, lines))
    return "\n".join([
        f"usage: {cli.name} {' | '.join(commands)}  [flags]", "", cli.about, "",
        *(f"  {line:<{width}}   {does}" for line, does in lines.items()), "",
        f"Each explains its flags: {cli.name} train --help",
    ])  # fmt: skip
