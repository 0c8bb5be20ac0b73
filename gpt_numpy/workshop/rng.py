"""Streams of random numbers: what each is for is the last number of its seed, so that no two are the same.

NumPy's seeds are sequences of numbers; (seed, step) and (seed, step, 0) are one stream, (seed, step, 1) is another.
"""

WINDOWS = 1  # (seed, step, WINDOWS): where random windows begin
EPOCHS = 2  # (seed, epoch, EPOCHS): how an epoch is cut and shuffled
SAMPLES = 3  # (seed, step, SAMPLES): the sample at an evaluation
DROPOUT = 4  # (seed, step, row, DROPOUT): what is dropped in a row of a batch
