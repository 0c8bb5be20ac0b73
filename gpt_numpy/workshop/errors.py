"""Errors that end a command with one line."""

MAX_LENGTH = 1000  # characters


class OneLine(Exception):
    """The message is one line, whatever names and texts are in it."""

    def __init__(self, message: str) -> None:
        line = " ".join(message.splitlines())
        super().__init__(
            line if len(line) <= MAX_LENGTH else f"{line[: MAX_LENGTH // 2]} ... {line[-MAX_LENGTH // 2 :]}"
        )


class UsageError(OneLine):
    """A request that cannot be met; the message says why, and the way out. Exit status 2."""


class RunFailed(OneLine):
    """A run cannot go on; the message says what was saved. Exit status 1."""


class PeerLost(RunFailed):
    """Another process of the run is gone."""
