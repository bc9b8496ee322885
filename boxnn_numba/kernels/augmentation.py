"""Warped copies of images: an affine map and a smooth displacement, in integers.

Positions are fixed-point, so an image is the same to the last bit on every machine.
"""

from __future__ import annotations

from boxnn_numba.kernels.compile import kernel

#: Positions are multiples of 2 ** -POSITION_BITS pixels; grey values are weighed by the first
#: WEIGHT_BITS of a position's fraction.
POSITION_BITS, WEIGHT_BITS = 16, 8
#: Displacements are given at every CELL-th pixel (2 ** CELL_BITS) and linear in between.
CELL_BITS = 3
CELL = 1 << CELL_BITS


@kernel
def warp(x, affine, displacement, bent, out):  # type: ignore[no-untyped-def]
    """Write to ``out[i]`` what image i shows where the map of each pixel leads.

    Parameters
    ----------
    x, out
        (N, height, width, channels) uint8.
    affine
        (N, 2, 3) int64: rows y and x of a matrix that takes (row, column, 1) to a position in the
        image. Positions beyond the edge show the edge.
    displacement
        (N, 2, cells down + 1, cells across + 1) int64, added to the positions.
    bent
        (2, cells across + 1) int64, room for the displacements along a row.
    """
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    bottom, right = (height - 1) << POSITION_BITS, (width - 1) << POSITION_BITS
    one, shift = 1 << WEIGHT_BITS, POSITION_BITS - WEIGHT_BITS
    for i in range(len(x)):
        a, bend, image = affine[i], displacement[i], x[i]
        for row in range(height):
            cell, part = row >> CELL_BITS, row & (CELL - 1)
            for side in range(2):
                above, below = bend[side, cell], bend[side, cell + 1]
                for k in range(len(above)):
                    bent[side, k] = above[k] * (CELL - part) + below[k] * part
            for column in range(width):
                cell, part = column >> CELL_BITS, column & (CELL - 1)
                down = bent[0, cell] * (CELL - part) + bent[0, cell + 1] * part
                across = bent[1, cell] * (CELL - part) + bent[1, cell + 1] * part
                y = a[0, 0] * row + a[0, 1] * column + a[0, 2] + (down >> 2 * CELL_BITS)
                z = a[1, 0] * row + a[1, 1] * column + a[1, 2] + (across >> 2 * CELL_BITS)
                y, z = min(max(y, 0), bottom) >> shift, min(max(z, 0), right) >> shift
                top, left = y >> WEIGHT_BITS, z >> WEIGHT_BITS
                v, u = y & (one - 1), z & (one - 1)
                # The last row and column have no neighbour, but then its weight is 0.
                under, beside = min(top + 1, height - 1), min(left + 1, width - 1)
                for c in range(channels):
                    upper = image[top, left, c] * (one - u) + image[top, beside, c] * u
                    lower = image[under, left, c] * (one - u) + image[under, beside, c] * u
                    value = upper * (one - v) + lower * v
                    out[i, row, column, c] = (value + (one * one >> 1)) >> 2 * WEIGHT_BITS
