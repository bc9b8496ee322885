"""Structure: how rows of bounds and columns of features make up the distance to a class.

    features      part 0        part 1            D_t(x) = sum over parts of
               +------------+------------+                 min over the template's rows of
    row 0      |  a few     |  the same  |  template 0       sum over the part's groups of
    row 1      |  features  |  for all   |                     min(sum of the group's excess, W)
               +------------+------------+
    row 2      |            |            |  template 1   D_c(x) = min over the class's templates
    row 3      |            |            |
    row 4      |            |            |
               +------------+------------+

One row a template, or one part, is a plain set of boxes: the distance to the nearest row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Structure(NamedTuple):
    """What the rows and columns of bounds (M, n) belong to.

    Attributes
    ----------
    rows
        (T + 1,) int64: rows ``rows[t]:rows[t + 1]`` are of template t.
    templates
        (K + 1,) int64: templates ``templates[c]:templates[c + 1]`` are of class c.
    part
        (n,) int32, the part of each feature, 0..P-1, each of which has features.
    group
        (n,) int32, the group of each feature, 0..G-1; a group lies within one part, and its penalty
        is capped as a whole.
    """

    rows: np.ndarray
    templates: np.ndarray
    part: np.ndarray
    group: np.ndarray

    @classmethod
    def plain(cls, offsets: np.ndarray, n_features: int) -> Structure:
        """Return the structure of single boxes, ``offsets[c]:offsets[c + 1]`` of class c."""
        every = np.arange(n_features, dtype=np.int32)
        rows = np.arange(int(offsets[-1]) + 1)
        return cls(rows, np.asarray(offsets, np.int64), np.zeros(n_features, np.int32), every)

    @classmethod
    def of(
        cls,
        labels: np.ndarray,
        template: np.ndarray,
        part: np.ndarray,
        group: np.ndarray,
        n_classes: int,
    ) -> Structure:
        """Return the structure of boxes with ascending labels and templates (M,) 0..T-1."""
        rows = np.searchsorted(template, np.arange(int(template[-1]) + 2))
        templates = np.searchsorted(labels[rows[:-1]], np.arange(n_classes + 1))
        return cls(rows, templates, part.astype(np.int32), group.astype(np.int32))

    def cut(self, first: int, last: int) -> Structure:
        """Return the structure of templates first..last alone."""
        rows = self.rows[first : last + 1] - self.rows[first]
        templates = np.clip(self.templates - first, 0, last - first)
        return self._replace(rows=rows, templates=templates)

    @property
    def n_parts(self) -> int:
        """Number P of parts."""
        return int(self.part.max()) + 1

    @property
    def n_groups(self) -> int:
        """Number G of groups."""
        return int(self.group.max()) + 1

    @property
    def offsets(self) -> np.ndarray:
        """(K + 1,) int64: rows ``offsets[c]:offsets[c + 1]`` are of class c."""
        return np.asarray(self.rows[self.templates])

    @property
    def whole(self) -> Structure:
        """The same structure with all features in one part."""
        return self._replace(part=np.zeros_like(self.part))

    @property
    def simplest(self) -> Structure:
        """A structure with the same distances: of a plain set one part, and each row a template."""
        if not self.is_plain:
            return self
        alone = np.arange(int(self.rows[-1]) + 1)
        return self.whole._replace(rows=alone, templates=self.offsets)

    @property
    def is_plain(self) -> bool:
        """Whether the nearest row alone decides: one part, or one row in every template."""
        return self.n_parts == 1 or len(self.rows) - 1 == int(self.rows[-1])

    @property
    def is_grouped(self) -> bool:
        """Whether some group has several features."""
        return self.n_groups < len(self.group)
