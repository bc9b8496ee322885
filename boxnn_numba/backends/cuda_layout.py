"""Planes: boxes packed for the kernels of a GPU, four codes to a word.

    planes (2 or 4, M, words) uint32                    a word (m, w) of a plane

      plane 0: lower          word 0   1   2 ...        +-----------+-----------+-----------+----
      plane 1: upper   box 0 [    |   |   |   ]         | code 4w   | code 4w+1 | code 4w+2 | ...
      plane 2: lower - W   1 [    |   |   |   ]         +-----------+-----------+-----------+----
      plane 3: upper + W   . [    |   |   |   ]         bit 0       8           16          24  31

A width of 255 caps nothing, and two planes are enough. Of a factored model the columns are sorted
by part, and each part begins with a word; so does a group of several features, which are capped
together. Bytes of a word that hold no feature are 0 in planes and in samples. Parts 0 and 1, a
group (g):

      feature   0   4   7   -   | 2g  3g  5g  -   | 1   6   8   9   | 10  -   -   -
      kind      SINGLES         | LAST_OF_GROUP   | SINGLES         | SINGLES
      starts    0                                   2                                   4

For class distances of plain boxes they stand so that the boxes of a thread are of one class. With
3 columns of threads and 2 boxes a thread:

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

from boxnn_numba.backends.structure import Structure
from boxnn_numba.kernels.cuda_distances import BOXES, COLUMNS, GROUP, LAST_OF_GROUP, SINGLES

#: A width that no penalty reaches needs no cap.
UNCAPPED = 255


@dataclass(frozen=True)
class WordOrder:
    """Which feature each byte of a row of words holds.

    Attributes
    ----------
    columns
        (4 words,) int32 features, -1 for none.
    starts
        (P + 1,) int32: words ``starts[p]:starts[p + 1]`` are of part p.
    kinds
        (words,) int32: `SINGLES`, `GROUP` or `LAST_OF_GROUP`.
    n_features
        Number of features.
    """

    columns: np.ndarray
    starts: np.ndarray
    kinds: np.ndarray
    n_features: int

    @classmethod
    def of(cls, structure: Structure) -> WordOrder:
        """Return that of the features of a structure."""
        part, group = structure.part, structure.group
        alone = np.bincount(group)[group] == 1
        of = np.where(alone, -1, group)
        order = np.lexsort((of, part))
        ends = np.flatnonzero(np.diff(part[order]) | np.diff(of[order])) + 1
        columns, kinds, words = [], [], np.zeros(int(part.max()) + 1, np.int64)
        for block in np.split(order, ends):
            count = -(-len(block) // 4)
            columns.append(np.append(block, np.full(4 * count - len(block), -1)))
            words[part[block[0]]] += count
            if alone[block[0]]:
                kinds += [SINGLES] * count
            else:
                kinds += [GROUP] * (count - 1) + [LAST_OF_GROUP]
        starts = np.append(0, np.cumsum(words))
        at = np.concatenate(columns).astype(np.int32)
        return cls(at, starts.astype(np.int32), np.array(kinds, np.int32), len(part))

    @property
    def is_natural(self) -> bool:
        """Whether features stand in their own order, four to a word."""
        n = self.n_features
        return np.array_equal(self.columns[:n], np.arange(n))

    def words(self, codes: np.ndarray) -> np.ndarray:
        """Return uint8 codes (..., n) as uint32 (..., words)."""
        padded = np.zeros((*codes.shape[:-1], len(self.columns)), np.uint8)
        used = self.columns >= 0
        padded[..., used] = codes[..., self.columns[used]]
        return padded.view(np.uint32)

    def codes(self, words: np.ndarray) -> np.ndarray:
        """Return the uint8 codes (..., n) of words."""
        used = self.columns >= 0
        found = np.empty((*words.shape[:-1], self.n_features), np.uint8)
        found[..., self.columns[used]] = words.view(np.uint8)[..., used]
        return found


def planes_of(lower: np.ndarray, upper: np.ndarray, width: int, penalty: str) -> np.ndarray:
    """Return bounds of boxes as the kernels take them, not yet in words: (2 or 4, M, n) uint8.

    Lower and upper bounds and, where they are capped, both moved outwards by the width.
    """
    sides = [lower, upper]
    if n_planes(penalty) == 4:
        sides += [lower - np.minimum(lower, width), upper + np.minimum(255 - upper, width)]
    return np.stack([side.astype(np.uint8) for side in sides])


def penalty_of(width: int, structure: Structure) -> str:
    """Return the kernels' name of the graded penalty at a width."""
    return "grouped" if structure.is_grouped else "capped" if width < UNCAPPED else "uncapped"


def n_planes(penalty: str) -> int:
    """Return how many planes the boxes of a penalty have."""
    return 4 if penalty in ("capped", "grouped") else 2


@dataclass(frozen=True)
class CudaTable:
    """Boxes on the GPU.

    Attributes
    ----------
    penalty
        As `penalty_of`.
    planes
        (2 or 4, M, words) uint32, as `planes_of`.
    natural
        Whether features stand in their own order, four to a word.
    columns, starts, kinds
        int32, as of `WordOrder`.
    labels
        int32, the class of each thread's boxes of a tile, -1 for none, where the rows are arranged
        for class distances of plain boxes; else None.
    rows, owner
        (T + 1,) int32 first rows of the templates, and (T,) int32 their classes, for class
        distances of factored boxes; else None.
    """

    penalty: str
    planes: Any
    natural: bool
    columns: Any
    starts: Any
    kinds: Any
    labels: Any = None
    rows: Any = None
    owner: Any = None


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
