"""Attack files: adversarial inputs, in the order of the attacked rows.

A Zarr v3 group that is written chunk by chunk (`row_files`).
"""

from __future__ import annotations

import numpy as np

from boxnn_numba.data.paths import Name
from boxnn_numba.data.row_files import SHARED, Column, RowFile, fits, spread_rows
from boxnn_numba.data.schema import MOST_FEATURES, TEXT, Schema, maybe, one_of, record, whole
from boxnn_numba.errors import AttackFileError

_OPTIONS = record({
    "method": one_of(("greedy", "quick", "random")),
    "max_features": maybe(whole(1, MOST_FEATURES)),
    **dict.fromkeys(("patch?", "features?"), maybe(TEXT)),
})  # fmt: skip


class AttackFile(RowFile):
    """A finished attack file, read and checked; attributes as in `RowFile`.

    Its arrays ``x``, ``changed``, ``prediction``, ``label`` and ``row`` are described with the
    file format.
    """

    schema = Schema(
        "boxnn-attack", 1, AttackFileError, "run `boxnn attack` again",
        {**SHARED, "options": _OPTIONS}, fits, sparse=True,
    )  # fmt: skip
    command = "boxnn attack"

    x = Column(
        "adversarial inputs, the input itself where none was found; of the dataset's type",
        dtypes=("uint8", "float32"), second="n", fill=0,
    )  # fmt: skip
    changed = Column("features or groups that are changed, -1 where no attack was found",
                     low=-1, high="never")  # fmt: skip
    prediction = Column("of `x`, index into `classes`", low=0, high="class")
    label = Column("true class, -1 where the model does not know it", low=-1, high="class")
    row = Column("number in the split", low=0, high="row")

    def unfit(self) -> str | None:
        """Return how the arrays do not fit the attributes, or None."""
        said, count = self.attributes, len(self)
        total = said.get("split_rows") or (None if said.get("limit") else count)
        if total and (self.row != spread_rows(np.arange(count), count, total)).any():
            return "its rows are not those that limit and split_rows say"
        return super().unfit()


def open_attack(path: Name) -> AttackFile:
    """Read an attack file and check all of it.

    Parameters
    ----------
    path
        Folder written by `boxnn attack`, or its URL.

    Returns
    -------
    AttackFile

    Raises
    ------
    AttackFileError
        It is missing, damaged, unfinished, not an attack file, or of a newer version.
    """
    return AttackFile.open(path)
