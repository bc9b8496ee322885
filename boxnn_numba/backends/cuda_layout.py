"""Planes: boxes packed for the kernels of a GPU, four codes to a word.

    planes (2 or 4, M, words) uint32                    a word (m, w) of a plane

      plane 0: lower          word 0   1   2 ...        +-----------+-----------+-----------+----
      plane 1: upper   box 0 [    |   |   |   ]         | code 4w   | code 4w+1 | code 4w+2 | ...
      plane 2: lower - W   1 [    |   |   |   ]         +-----------+-----------+-----------+----
      plane 3: upper + W   . [    |   |   |   ]         bit 0       8           16          24  31

A width of 255 caps nothing, and two planes are enough. For class distances the boxes stand so that
the boxes of a thread are of one class. With 3 columns of threads and 2 boxes a thread:

      row of the tile     0   1   2   3   4   5
      thread (column)     0   1   2   0   1   2         labels: the class of each thread's boxes,
      box                 0   2   4   1   3   4         -1 for a thread that has none
                          class 0  : 1    0  : 1        (box 4, the last of its class, is repeated)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba.kernels.cuda_distances import BOXES, COLUMNS

#: A width that no penalty reaches needs no cap.
UNCAPPED = 255


def words_of(codes: np.ndarray) -> np.ndarray:
    """Return uint8 codes (..., n) as uint32 words, padded with zeros."""
    n = codes.shape[-1]
    padded = np.zeros((*codes.shape[:-1], -(-n // 4) * 4), np.uint8)
    padded[..., :n] = codes
    return padded.view(np.uint32)


def planes_of(lower: np.ndarray, upper: np.ndarray, width: int) -> np.ndarray:
    """Return boxes as the kernels take them: (2 or 4, M, words) uint32.

    Lower and upper bounds and, below `UNCAPPED`, both moved outwards by the width.
    """
    sides = [lower, upper]
    if width < UNCAPPED:
        sides += [lower - np.minimum(lower, width), upper + np.minimum(255 - upper, width)]
    return words_of(np.stack([side.astype(np.uint8) for side in sides]))


def penalty_of(width: int) -> str:
    """Return the kernels' name of the graded penalty at a width."""
    return "capped" if width < UNCAPPED else "uncapped"


@dataclass(frozen=True)
class CudaTable:
    """Boxes on the GPU.

    Attributes
    ----------
    planes
        (2 or 4, M, words) uint32, as `planes_of`.
    labels
        int32, the class of each thread's boxes of a tile, -1 for none, where the rows are arranged
        for class distances; else None.
    """

    planes: Any
    labels: Any


def arranged(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the box in each row of a class table, and the class of each thread of a tile.

    A thread's boxes are rows `COLUMNS` apart, all of one class (its last box is repeated).
    """
    groups, labels = [], []
    for c, (first, last) in enumerate(itertools.pairwise(offsets)):
        for start in range(int(first), int(last), BOXES):
            groups.append(np.minimum(np.arange(start, start + BOXES), last - 1))
            labels.append(c)
    while len(groups) % COLUMNS:
        groups.append(np.zeros(BOXES, np.int64))
        labels.append(-1)
    rows = np.array(groups).reshape(-1, COLUMNS, BOXES).transpose(0, 2, 1).reshape(-1)
    return rows, np.array(labels, np.int32)
