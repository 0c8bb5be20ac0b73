"""The ways in which a command ends early, each in one line."""


class WrongUse(Exception):
    """Something asked for cannot be done; the message says what, and the way out. Exit status 2."""


class RunFailed(Exception):
    """A run cannot go on; the message says what was kept. Exit status 1."""


class Lost(RunFailed):
    """Another process of the run has gone."""
