"""Attack files: the adversarial inputs found, in the order of the rows that were attacked.

A Zarr v3 group that is written chunk by chunk (`row_files`).
"""

from __future__ import annotations

from boxnn_numba.data.paths import Name
from boxnn_numba.data.row_files import Column, RowFile
from boxnn_numba.errors import AttackFileError


class AttackFile(RowFile):
    """A finished attack file, read and checked; attributes as in `RowFile`.

    Its arrays ``x``, ``changed``, ``prediction``, ``label`` and ``row`` are described with the
    file format.
    """

    format = "boxnn-attack"
    command = "boxnn attack"
    error = AttackFileError

    x = Column(
        "adversarial inputs, the input itself where none was found; of the dataset's type",
        dtypes=("uint8", "float32"), second="n", fill=0,
    )  # fmt: skip
    changed = Column("features or groups that are changed, -1 where no attack was found")
    prediction = Column("of `x`, index into `classes`")
    label = Column("true class, -1 where the model does not know it")
    row = Column("number in the split")


def open_attack(path: Name) -> AttackFile:
    """Read an attack file and check all of it.

    Raises
    ------
    AttackFileError
        It is missing, damaged, unfinished, not an attack file, or of a newer version.
    """
    return AttackFile.open(path)
