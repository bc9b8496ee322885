"""Optimisers: the factors of a step, and the numbers kept for each bound."""

from __future__ import annotations

from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.problem import FIXED_POINT

#: The learning rate of SGD is per this many samples, whatever the batch.
REFERENCE_BATCH = 100


def adam_corrections(steps: int) -> tuple[float, float]:
    """Return the bias corrections of the two moments of Adam in a step, numbered from 1."""
    return 1 / (1 - 0.9**steps), 1 / (1 - 0.999**steps)


def step_sizes(
    options: TrainingOptions, n_boxes: int, batch: int, rate: float, steps: int
) -> tuple[float, tuple[float, ...]]:
    """Return the factors of a step: scale and settings.

    The scale is the factor of the integer gradient, summed over `batch` samples; settings are
    (rate, decay, correct1, correct2) as `formulas.adam_update` takes them, or (rate, momentum,
    decay) for SGD. Steps are numbered from 1.
    """
    # With more samples than boxes, many samples pull at each box: divide by more.
    crowd = max(1.0, batch / n_boxes)
    # The last batch of an epoch may be small: by `batch`, Adam does not move as far for it.
    per_batch = options.batch if options.optimizer == "adam" else REFERENCE_BATCH * crowd
    scale = 255.0 * options.unit / (FIXED_POINT * per_batch)
    decay = options.weight_decay / 255.0
    if options.optimizer == "adam":
        return scale, (255.0 * rate, decay, *adam_corrections(steps))
    return scale, (255.0 * rate, options.momentum, decay)


def is_dense(options: TrainingOptions) -> bool:
    """Whether a step moves boxes that no sample of the batch pulls at."""
    return options.optimizer == "adam" or options.momentum > 0 or options.weight_decay > 0


def n_moments(options: TrainingOptions) -> int:
    """Return how many numbers the optimiser keeps for each bound."""
    return 2 if options.optimizer == "adam" else int(options.momentum > 0)
