"""The ways in which a command ends early, each in one line."""

LONGEST = 1000  # characters


class OneLine(Exception):
    """With a message of one line, whatever names and texts were put into it."""

    def __init__(self, message: str) -> None:
        line = " ".join(message.splitlines())
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}")


class WrongUse(OneLine):
    """Something asked for cannot be done; the message says what, and the way out. Exit status 2."""


class RunFailed(OneLine):
    """A run cannot go on; the message says what was kept. Exit status 1."""


class Lost(RunFailed):
    """Another process of the run has gone."""
