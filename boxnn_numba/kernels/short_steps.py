"""Short steps of training: many in one call, since a call takes longer than such a step.

A step is the two kernels of `boxnn_numba.kernels.softmin` and `boxnn_numba.kernels.training`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from boxnn_numba.kernels import softmin, training
from boxnn_numba.kernels.block_distances import BLOCK
from boxnn_numba.kernels.compile import kernel, register_jitable


@register_jitable
def _three(row):
    return row[1], row[2], row[3]


@register_jitable
def _four(row):
    return row[1], row[2], row[3], row[4]


@functools.cache
def short_steps(penalty: str, factored: bool, grouped: bool, optimizer: str) -> Callable[..., Any]:
    """Return the kernel of steps in one thread; the arguments say of what kind these two are."""
    look = softmin.looks(penalty, factored)
    move = training.moves(penalty, grouped, optimizer)
    settings_of = {"sgd": _three, "adam": _four}[optimizer]
    kind = f"{penalty}_{'templates' if factored else 'boxes'}_{'groups' if grouped else 'columns'}"

    @kernel(name=f"steps_{kind}_{optimizer}", allocates=True)
    def steps(
        x, labels, ends, first, sizes, table, shape, spans, width, leak, structure, softs, settings,
        pulls, value, margin, masters, moments1, moments2, codes, limit, dense, moving,
    ):  # fmt: skip
        """Step on the batches from number `first` on; they end at the samples `ends` (S,).

        If not `moving`, the boxes stay where they are, and the samples are judged.

        sizes (S, 4 or 5) float64 has the scale of each step, and the optimiser's settings; table is
        (lower, upper), pulls (starts, samples, coefficients), with blocks for one step. All else is
        as for the two kernels. Returns the number of the step whose entries do not fit, or S, and
        the room that it needs.
        """
        starts, samples, coefficients = pulls
        for step in range(first, len(sizes)):
            a, b = ends[step - 1] if step > 0 else 0, ends[step]
            blocks = (b - a + BLOCK - 1) // BLOCK
            bounds = np.empty(blocks + 1, np.int64)
            for block in range(blocks + 1):
                bounds[block] = min(block * BLOCK, b - a)
            most = look(
                x[a:b], bounds, 0, blocks, labels[a:b], table[0], table[1], spans, shape[0], width,
                structure, softs, settings, starts[:blocks], samples[:blocks],
                coefficients[:blocks], value[a:b], margin[a:b],
            )  # fmt: skip
            if most > samples.shape[1]:
                return step, most
            if moving:
                move(
                    x[a:b], 0, starts.shape[1] - 1, spans, shape, starts[:blocks], samples[:blocks],
                    coefficients[:blocks], width, leak, masters, moments1, moments2, codes,
                    sizes[step, 0], settings_of(sizes[step]), limit, dense,
                )  # fmt: skip
        return len(sizes), 0

    return steps
