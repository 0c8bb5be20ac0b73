"""Random streams: the last number of each seed says what the stream is for, so that no two are the same.

To NumPy, (seed, step) and (seed, step, 0) are the same seed, and (seed, step, 1) is another.
"""

WINDOWS = 1  # (seed, step, WINDOWS): the starts of random windows
EPOCHS = 2  # (seed, epoch, EPOCHS): the offset and order of an epoch
SAMPLES = 3  # (seed, step, SAMPLES): the sample at an evaluation
DROPOUT = 4  # (seed, step, row, DROPOUT): the dropout mask of a row
ROLLOUTS = 5  # (seed, step, ROLLOUTS): the prompts of a step; (seed, step, 1, ROLLOUTS): the answers to them
EVALUATIONS = 6  # (seed, n, EVALUATIONS): the prompts and answers of every evaluation
